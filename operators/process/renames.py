"""Which of a function's states, or fields, takes over what is stored under an old name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lakeward.engine.core.errors import GraphError

if TYPE_CHECKING:
    from lakeward.operators.process.declared import Declared


def in_opening_order(states: Mapping[str, Declared]) -> list[Declared]:
    """The states that a function declares, each before the one that bears its old name now.

    Raises:
        GraphError: As from `heirs_first`.
    """
    names = heirs_first({name: one.old_tables for name, one in states.items()}, "states")
    return [states[name] for name in names]


def heirs_first(renamed: Mapping[str, Sequence[str]], what: str) -> list[str]:
    """Names, each before the one that bears its old name now: that one would take its stored values.

    >>> heirs_first({"total": [], "gross": ["total"]}, "states")
    ['gross', 'total']

    Args:
        renamed: The names, each with its old ones.
        what: What they are, for errors.

    Raises:
        GraphError: Two had one name, or each has the name that the other had.
    """
    heirs: dict[str, str] = {}
    for name, old in renamed.items():
        for before in old:
            other = heirs.setdefault(before, name)
            if other != name:
                problem = f"the {what} '{other}' and '{name}' are both said to have been '{before}'"
                raise GraphError(problem, hint="stored values go to one of them: leave the old name out of the other")
    ordered: list[str] = []
    for name in renamed:
        ordered += [heir for heir in reversed(list(_heirs(name, heirs, what))) if heir not in ordered]
    return ordered


def _heirs(name: str, heirs: Mapping[str, str], what: str) -> Iterator[str]:
    """A name, the one that had it before, the one that had that one's, and so on."""
    names = [name]
    while True:
        yield name
        if name not in heirs:
            return
        name = heirs[name]
        if name in names:
            shown = ", ".join(map(repr, names))
            if len(names) == 1:
                raise GraphError(f"of the {what} {shown} is said to have been {shown}", hint="leave the old name out")
            hint = "take a new name for one of them: names that are exchanged say nothing in the next checkpoint"
            raise GraphError(f"the {what} {shown} have exchanged their names", hint=hint)
        names.append(name)
