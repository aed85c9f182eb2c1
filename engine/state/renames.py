"""Which stored name is that of a table or column that has another one now."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from lakeward.engine.core.errors import StateMigrationError


def stored_name(what: str, name: str, old: Sequence[str], stored: Collection[str]) -> str | None:
    """The name under which something is stored.

    >>> stored_name("column", "whole", ["gross", "total"], ["total", "items"])
    'total'

    Args:
        what: What it is, for the error.
        name: Its name now; where there is something of this name, old ones are not looked for.
        old: Its names in older checkpoints.
        stored: The names that there are.

    Returns:
        The name; None if nothing is stored of it.

    Raises:
        StateMigrationError: Several of the old names are there.
    """
    if name in stored:
        return name
    found = [one for one in old if one in stored]
    if len(found) > 1:
        shown = " and ".join(map(repr, found))
        raise StateMigrationError(
            f"{what} '{name}' is said to have been {shown}, and the checkpoint has each of them",
            hint="it takes over one alone: leave the others out of its old names",
        )
    return found[0] if found else None


def stored_names(what: str, wanted: Mapping[str, Sequence[str]], stored: Collection[str]) -> dict[str, str]:
    """The stored name of each that has one; what another one was called may be a new name by now.

    >>> stored_names("column", {"total": [], "gross": ["total"]}, ["total"])
    {'gross': 'total'}

    Args:
        what: What they are, for the error.
        wanted: The names now, each with its old ones.
        stored: The names that there are.

    Raises:
        StateMigrationError: Several old names of one are there.
    """
    found: dict[str, str] = {}
    left, waiting = set(stored), True
    while waiting:  # a name gets free when its bearer's old one is found
        waiting = False
        for name, old in wanted.items():
            origin = None if name in found else stored_name(what, name, old, left)
            if origin not in (None, name):
                found[name], waiting = str(origin), True
                left.discard(str(origin))
    return {name: found.get(name, name) for name in wanted if name in found or name in left}
