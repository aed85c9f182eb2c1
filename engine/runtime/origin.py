"""Which row of a source an error is about; looked for only when there is an error.

Operators of a chain handle a source's batch by plain calls, so an error comes back to the source's task while the batch
is at hand. The error knows the row's place in the batch that the failing operator got. Steps in between are either one
to one, or they are run once more, on beginnings of the batch: how many rows come out grows with the beginning, so
halving finds the first one that is long enough for the row, and the row is its last. Functions of the user's are never
called for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.api.source import SplitBatch
from lakeward.engine.core.errors import LakewardError, RecordError, UserCodeError
from lakeward.engine.core.ids import OperatorId
from lakeward.engine.graph.logical import Node


def add_origin(error: LakewardError, polled: SplitBatch, nodes: Sequence[Node]) -> None:
    """Say in an error where its row was read, as far as that is known.

    Args:
        error: What an operator chained to the source raised when it got the batch.
        polled: What the source had sent.
        nodes: The operators chained to the source.
    """
    if polled.origin is None or not polled.batch.num_rows or not isinstance(error, UserCodeError | RecordError):
        return
    by_uid = {node.uid: node for node in nodes}
    failing = by_uid.get(OperatorId(error.operator))
    steps = _steps_before(failing, by_uid) if failing is not None else None
    if failing is None or steps is None:
        return
    index = error.rows[0].index if error.rows else None
    row = None if index is None else _row_of(index, steps, polled.batch)
    if row is not None:
        error.origin = polled.origin.of_row(row)
    elif not any(step.stateful for step in [*steps, _factory(failing)] if step is not None):
        error.origin = polled.origin.of_rows(0, polled.batch.num_rows - 1)


def _steps_before(node: Node, by_uid: dict[OperatorId, Node]) -> list[OperatorFactory] | None:
    """The operators between the source and a node; None where its rows do not all come through them."""
    steps: list[OperatorFactory] = []
    while len(node.inputs) == 1 and node.inputs[0].tag is None:
        before = by_uid.get(node.inputs[0].upstream)
        if before is None:
            return steps[::-1]  # what is not in the chain is its source
        factory = _factory(before)
        if factory is None:
            return None
        steps.append(factory)
        node = before
    return None


def _factory(node: Node) -> OperatorFactory | None:
    return node.work if isinstance(node.work, OperatorFactory) else None


def _row_of(index: int, steps: Sequence[OperatorFactory], batch: pa.RecordBatch) -> int | None:
    """The row of a batch of which the row at `index` behind all steps was made; None if that cannot be told."""
    while steps and steps[-1].row_flow.one_to_one:
        steps = steps[:-1]
    if not all(step.row_flow.repeatable for step in steps):
        return None
    low, high = 0, batch.num_rows  # so many rows make too few rows, and enough
    if not steps:
        return index if index < high else None
    if _count(steps, batch) <= index:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _count(steps, batch.slice(0, middle)) <= index else (low, middle)
    return low


def _count(steps: Sequence[OperatorFactory], batch: pa.RecordBatch) -> int:
    """How many rows come out."""
    batches = [batch]
    for step in steps:
        out = _Collected()
        operator = step.create()
        for one in batches:
            operator.on_batch(one, out)
        batches = out.batches
    return sum(one.num_rows for one in batches)


class _Collected:
    """Keeps what an operator sends."""

    def __init__(self) -> None:
        self.batches: list[pa.RecordBatch] = []

    def emit(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self.batches.append(batch)

    def emit_side(self, tag: str, batch: pa.RecordBatch) -> None:
        """Side streams do not lead to the row."""
