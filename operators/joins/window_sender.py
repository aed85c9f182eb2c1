"""What window joins send of complete windows: pairs and rows without a partner, with the bounds of their window."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import INSERT
from lakeward.engine.api.context import Output
from lakeward.operators.joins.layout import LEFT, RIGHT
from lakeward.operators.joins.rows import Condition, Pairs, Rows, RowSource, Sender
from lakeward.operators.joins.times import from_us
from lakeward.operators.windows.timed import WINDOW_END, WINDOW_START

if TYPE_CHECKING:
    from lakeward.operators.joins.window import WindowJoin

BoundsOf = Callable[[Rows], tuple[Rows, Rows]]
"""Start and end of the windows of rows of one side, by the rows' numbers."""


class WindowSender:
    """Sends what a window join makes of complete windows.

    Args:
        config: The join.
    """

    def __init__(self, config: WindowJoin) -> None:
        how = config.how
        self.sends_alone = (how in ("left", "full", "anti"), how in ("right", "full"))
        self._sends_pairs = how not in ("semi", "anti")
        self._sends_met = how == "semi"
        self._condition = Condition(config.layout, config.where)
        self._sender = Sender(config.sent)
        self._bounded = _WithBounds(config.schema)

    def left(self, rows: RowSource, numbers: Rows, pairs: Pairs, bounds: BoundsOf, out: Output) -> Rows:
        """Send what left rows make.

        Args:
            rows: The left rows.
            numbers: Which of them.
            pairs: All their pairs with right rows of their window and key.
            bounds: Of left rows.
            out: Where to.

        Returns:
            The right rows that had a partner, as often as they had one.
        """
        pairs = self._sender.ordered(self._condition.keep(pairs))  # as they are sent: each with its own bounds
        if self._sends_pairs:
            self._sender.pairs(pairs, INSERT, self._bounded.of(bounds(pairs.numbers[LEFT]), out))
        if self.sends_alone[LEFT] or self._sends_met:
            met = np.isin(numbers, pairs.numbers[LEFT])
            self.alone(LEFT, rows, numbers[met == self._sends_met], bounds, out)
        return pairs.numbers[RIGHT]

    def alone(self, side: int, rows: RowSource, numbers: Rows, bounds: BoundsOf, out: Output) -> None:
        """Send rows of one side alone."""
        self._sender.alone(side, rows, numbers, INSERT, self._bounded.of(bounds(numbers), out))


class _WithBounds:
    """Adds bounds to every row that is sent."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._names = [name for name in (WINDOW_START, WINDOW_END) if name in schema.names]

    def of(self, bounds_us: tuple[Rows, Rows], out: Output) -> Output:
        """Where to send rows that have these bounds, in their order."""
        self._out, self._bounds_us, self._sent = out, dict(zip((WINDOW_START, WINDOW_END), bounds_us, strict=True)), 0
        return self

    def emit(self, batch: pa.RecordBatch) -> None:
        """Send the next rows."""
        part = slice(self._sent, self._sent + batch.num_rows)
        self._sent = part.stop
        bounds = [from_us(self._bounds_us[name][part], self._schema.field(name).type) for name in self._names]
        self._out.emit(pa.RecordBatch.from_arrays([*batch.columns, *bounds], schema=self._schema))

    def emit_side(self, tag: str, batch: pa.RecordBatch) -> None:
        """Side streams have no windows."""
        self._out.emit_side(tag, batch)
