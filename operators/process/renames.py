"""The order in which states are opened when some have had other names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lakeward.engine.core.errors import GraphError
from lakeward.operators.process.declared import Declared


def in_opening_order(states: Mapping[str, Declared]) -> list[Declared]:
    """The states, each before the one that bears its old name now: that one would take its stored values.

    Args:
        states: What a function declares, by name.

    Raises:
        GraphError: Two states had one name, or each has the name that the other had.
    """
    heirs: dict[str, Declared] = {}
    for one in states.values():
        other = heirs.setdefault(one.state.renamed_from, one) if one.state.renamed_from is not None else one
        if other is not one:
            problem = (
                f"the states '{other.name}' and '{one.name}' are both said to have been '{other.state.renamed_from}'"
            )
            raise GraphError(problem, hint="stored values go to one of them: leave renamed_from out of the other")
    ordered: dict[str, Declared] = {}
    for one in states.values():
        chain = list(_heirs(one, heirs))
        ordered |= {heir.name: heir for heir in reversed(chain) if heir.name not in ordered}
    return list(ordered.values())


def _heirs(one: Declared, heirs: Mapping[str, Declared]) -> Iterator[Declared]:
    """A state, the one that had its name before, the one that had that one's, and so on."""
    names = [one.name]
    while True:
        yield one
        if one.name not in heirs:
            return
        one = heirs[one.name]
        if one.name in names:
            hint = "take a new name for one of them: names that are exchanged say nothing in the next checkpoint"
            raise GraphError(f"the states {', '.join(map(repr, names))} have exchanged their names", hint=hint)
        names.append(one.name)
