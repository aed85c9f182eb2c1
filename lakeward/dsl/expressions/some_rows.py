"""Computing a part for some of the rows only: what when(), coalesce() and conditions do with parts that are costly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakeward.dsl.expressions.compiled import FAILURES, Compiled, Run
from lakeward.dsl.expressions.nodes import columns_of
from lakeward.engine.api.expression import Frame

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


def broadcast(value: Any, rows: int) -> pa.Array:
    """A result as an array, also when it is a constant."""
    if isinstance(value, pa.Scalar):
        return pa.repeat(value, rows) if value.is_valid and rows else pa.nulls(rows, value.type)
    return value


def on_rows(part: Compiled) -> Callable[[Frame, Rows], pa.Array]:
    """How to compute a part for some rows only; no other columns than it reads are copied."""
    names, compute = sorted(columns_of(part.node)), part.run

    def run(frame: Frame, rows: Rows) -> pa.Array:
        batch = frame.batch
        if part.constant is not None:
            return broadcast(part.constant, len(rows))
        if len(rows) == batch.num_rows:
            return broadcast(compute(frame), len(rows))
        if len(rows) == 0:
            return pa.nulls(0, part.type)
        some = batch.select(names or batch.schema.names[:1]).take(pa.array(rows))
        try:
            return broadcast(compute(Frame(some)), len(rows))
        except FAILURES as error:
            error.place_rows(lambda row: int(rows[row]))
            raise

    return run


def merged(parts: Sequence[pa.Array], places: Sequence[Rows]) -> pa.Array:
    """One array of parts and of the rows that each belongs to."""
    used = [part for part in parts if len(part)]
    if len(used) == 1:
        return used[0]
    source = np.empty(sum(map(len, places)), dtype=np.int64)
    source[np.concatenate(places)] = np.arange(len(source))
    return pa.concat_arrays(used or parts[:1]).take(pa.array(source))


def true_rows(condition: Any, rows: int) -> Mask:
    """Where a condition holds; null does not."""
    return np.asarray(broadcast(condition, rows).fill_null(False).to_numpy(zero_copy_only=False), dtype=np.bool_)


def fallback(fast: Run, careful: Run) -> Run:
    """The fast way, or another one when it fails in a row that does not need the value."""

    def run(frame: Frame) -> Any:
        try:
            return fast(frame)
        except FAILURES:
            return careful(frame)

    return run
