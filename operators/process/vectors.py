"""Values of all keys of a batch at once: what a `ValueState` is in a vectorised function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakeward.engine.core.errors import UserCodeError
from lakeward.operators.process.key_batch import KeyBatch
from lakeward.operators.process.states import ValueState, unbound
from lakeward.operators.process.values import ValueCells

T = TypeVar("T")
Mask = npt.NDArray[np.bool_]


class BatchValue(ValueState[T], Generic[T]):
    """A `ValueState` in a running vectorised function."""

    def __init__(self, declared: ValueState[T], cells: ValueCells, batch: KeyBatch) -> None:
        super().__init__(declared.type, default=declared.default, ttl=declared.ttl)
        self._cells = cells
        self._batch = batch

    @property
    def column(self) -> pa.Array:
        """The values of the batch's keys, in the order of `ctx.keys`; the default, else null, where there is none."""
        if not len(self._batch):
            unbound(self)
        return self._cells.column(self.default)

    @column.setter
    def column(self, values: pa.Array | npt.NDArray[Any] | Sequence[Any]) -> None:
        self.update(values)

    def update(self, values: pa.Array | npt.NDArray[Any] | Sequence[Any], where: Mask | None = None) -> None:
        """Hold these values; null clears.

        Args:
            values: One a key, in the order of `ctx.keys`.
            where: Which keys to change; None: all.

        Raises:
            UserCodeError: There is another number of values, or they are of another type.
        """
        count = len(self._batch)
        if not count:
            unbound(self)
        if len(values) != count:
            raise UserCodeError(
                f"a state of {count} keys is given {len(values)} values",
                hint="give one a key, in the order of ctx.keys",
            )
        self._cells.set_column(values, np.ones(count, np.bool_) if where is None else np.asarray(where, np.bool_))

    def clear(self, where: Mask | None = None) -> None:
        """Forget the values of the batch's keys, or of some."""
        self.update(pa.nulls(len(self._batch), self._cells.kind), where)
