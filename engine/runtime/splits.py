"""Which reader reads which split. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lakeward.engine.api.source import Split
from lakeward.engine.core.ids import SplitId
from lakeward.engine.runtime.source_task import SplitState


def merge_splits(listed: Sequence[Split], restored: Sequence[SplitState]) -> list[SplitState]:
    """The splits to read: restored ones as they were (also those that are not listed now), then new ones.

    A restored split that the source no longer lists is kept: an incomplete listing (a broker down) must not lose it.
    """
    known = {state.split.id for state in restored}
    return [*restored, *(SplitState(split) for split in listed if split.id not in known)]


def assign_splits(splits: Sequence[SplitState], parallelism: int) -> list[list[SplitState]]:
    """Deal splits to readers in turn; unfinished ones first, so that they spread evenly."""
    dealt: list[list[SplitState]] = [[] for _ in range(parallelism)]
    for number, state in enumerate(sorted(splits, key=lambda one: one.finished)):
        dealt[number % parallelism].append(state)
    return dealt


def new_splits(listed: Sequence[Split], known: Mapping[SplitId, SplitState]) -> list[Split]:
    """Listed splits that nobody reads yet."""
    return [split for split in listed if split.id not in known]
