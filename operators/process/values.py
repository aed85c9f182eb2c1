"""Values by key: how `ValueState`, `ReducingState` and `AggregatingState` are kept."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import ColumnSpec, Keys, SlotArray, TableSpec
from lakeward.engine.core.errors import UserCodeError
from lakeward.operators.process.declared import Declared
from lakeward.operators.process.expiry import Expiry
from lakeward.operators.process.forms import GIVEN
from lakeward.operators.process.key_batch import KeyBatch, prefixed
from lakeward.operators.process.states import AggregatingState, ReducingState, ValueState, unbound
from lakeward.operators.process.stored_values import settled
from lakeward.operators.rows import list_to_column
from lakeward.operators.windows.columns import Mask, Rows, group_rows, is_fixed, storage_type, to_arrow, to_numpy
from lakeward.operators.windows.timed import KeyTypes

T = TypeVar("T")

_TOUCHED = "##touched_us"  # no key column begins so, and no field: see `prefixed` and `ValueForm`


class _Nothing:
    """What is held where nothing is held."""

    def __repr__(self) -> str:
        return "nothing"


NOTHING = _Nothing()


class ValueCells:
    """One value a key, in columns: a field of a row is a column of its own.

    Values of the keys of a batch become Python objects when the first of them is read, and those that were changed go
    back when the batch is done.

    Args:
        context: The operator's.
        declared: The state.
        keys: Name and type of the key columns.
        batch: The keys that are being handled.
    """

    def __init__(self, context: OperatorContext, declared: Declared, keys: KeyTypes, batch: KeyBatch) -> None:
        self._form = declared.form
        self.mutable = declared.form.mutable
        self.settle = settled(declared.form)
        self._state = declared.state
        self._batch = batch
        columns = tuple(_columns(declared))
        self._table = context.table(
            TableSpec(declared.table, prefixed(keys), columns, renamed_from=declared.old_tables)
        )
        self._expiry = None if declared.ttl is None else Expiry(declared.ttl, self._remove_expired)
        self.changed: set[int] = set()
        self._lent: dict[int, Any] = {}
        self._lent_us: dict[int, int] = {}
        self._touched: dict[int, int] = {}
        self._due_us: list[int] = []
        self.held: list[Any] | None = None
        self._columns_now: pa.Array | None = None
        self._columns_set: Mask | None = None
        self._columns_read: Mask | None = None
        self._slots: SlotArray | None = None
        if self._expiry is not None:
            self._note_all()

    @property
    def expiry(self) -> Expiry | None:
        """When its values expire."""
        return self._expiry

    @property
    def entries(self) -> int:
        """Number of keys that have a value."""
        return len(self._table.pane())

    def current(self) -> Any:
        """The current key's value; `NOTHING` if there is none, or none any more."""
        held = self.held or self.load()
        index = self._batch.index
        if self._expiry is not None and held[index] is not NOTHING:
            self._settle(index)
            touched_us = self._touched.get(index)
            due_us = self._due_us[index] if touched_us is None else self._expiry.due_at(touched_us)
            if due_us <= self._expiry.now_us(self._batch):
                held[index] = NOTHING
                self.changed.add(index)
        return held[index]

    def put(self, value: Any) -> None:
        """Hold another value for the current key, or `NOTHING`."""
        if self.settle is not None and value is not NOTHING:
            value = self.settle(value)
        (self.held or self.load())[self._batch.index] = value
        self.touch()

    def load(self) -> list[Any]:
        """The values of the keys of this batch; `NOTHING` where there is none."""
        if self._batch.index < 0:
            unbound(self._state)
        count = len(self._batch)
        self.held = held = [NOTHING] * count
        slots = self._table.pane().find(self._batch.encoded(self._table))
        rows = np.flatnonzero(slots >= 0)
        if self._expiry is not None:
            due_us = np.zeros(count, np.int64)
            due_us[rows] = self._expiry.due_us(self._table.pane().column(_TOUCHED)[slots[rows]])
            self._due_us = due_us.tolist()
        if len(rows):
            values = self._form.values(self._arrays(slots[rows]))
            if len(rows) == count:
                held[:] = values
            else:
                for row, value in zip(rows.tolist(), values, strict=True):
                    held[row] = value
        return held

    def touch(self) -> None:
        """The current key's value is changed, or read where that counts."""
        index = self._batch.index
        self.changed.add(index)
        if self._expiry is not None:
            self._lent.pop(index, None)
            self._lent_us.pop(index, None)
            self._touched[index] = self._expiry.touched_us(self._batch)

    def lend(self, pristine: Any = NOTHING) -> None:
        """The current key's value is given to the user, who may change it in place.

        Args:
            pristine: What it equals if it was not changed; left out: it is written back in any case.
        """
        index = self._batch.index
        if index not in self._lent:
            self._lent[index] = pristine
            if self._expiry is not None:
                self._lent_us[index] = self._expiry.touched_us(self._batch)

    def _settle(self, index: int) -> None:
        """A value that was given to the user lives longer if it was changed since."""
        if index in self._lent_us and self.held is not None:
            lent_us, pristine = self._lent_us.pop(index), self._lent.pop(index)
            if self.held[index] != pristine:
                self.changed.add(index)
                self._touched[index] = lent_us

    def discard(self) -> None:
        """Forget what has changed."""
        self.changed = set()
        self._lent, self._lent_us, self._touched = {}, {}, {}
        self.held = self._columns_now = self._columns_set = self._columns_read = self._slots = None

    def finish(self) -> None:
        """Write what has changed."""
        self._write_columns()
        held, changed = self.held, self.changed
        if held is not None and (changed or self._lent):
            for index in list(self._lent_us):
                self._settle(index)
            changed.update(index for index, pristine in self._lent.items() if held[index] != pristine)
            rows = np.fromiter(changed, np.int64, len(changed))
            rows.sort()
            values = [held[row] for row in rows.tolist()]
            gone = np.fromiter((value is NOTHING for value in values), np.bool_, len(values))
            keys = self._batch.encoded(self._table)
            if gone.any():
                self._table.pane().remove(keys.take(rows[gone]))
                values = [value for value in values if value is not NOTHING]
                rows = rows[~gone]
            if len(rows):
                self._write(keys.take(rows), rows, values)
        self.discard()

    def _write(self, keys: Keys, rows: Rows, values: list[Any]) -> None:
        arrays = self._form.arrays(values)  # refuses what does not fit, before anything has changed
        slots, new = self._table.pane().insert(keys)
        self._store(slots, arrays)
        if self._expiry is not None:
            touched = self._touched
            times = np.array([touched.get(row, -1) for row in rows.tolist()], np.int64)
            column = self._table.pane().column(_TOUCHED)
            column[slots] = np.where(times == -1, column[slots], times)
            if new.any():
                chosen = pa.array(rows[new])
                self._expiry.note([array.take(chosen) for array in self._batch.arrays], times[new])

    def _store(self, slots: SlotArray, arrays: Sequence[pa.Array]) -> None:
        pane = self._table.pane()
        for field, array in zip(self._form.schema, arrays, strict=True):
            pane.column(field.name)[slots] = to_numpy(array)
            if self._form.rows and is_fixed(field.type):
                pane.column(_given(field.name))[slots] = array.is_valid().to_numpy(zero_copy_only=False)

    def _arrays(self, slots: SlotArray) -> list[pa.Array]:
        pane, arrays = self._table.pane(), []
        for field in self._form.schema:
            given = pane.column(_given(field.name))[slots] if self._form.rows and is_fixed(field.type) else None
            arrays.append(to_arrow(pane.column(field.name)[slots], field.type, given))
        return arrays

    # -- all keys at once

    @property
    def kind(self) -> pa.DataType:
        """The values' type; rows are structs."""
        schema = self._form.schema
        return pa.struct(list(schema)) if self._form.rows else schema.types[0]

    def column(self, default: Any) -> pa.Array:
        """The values of the batch's keys; the default where there is none."""
        column = self._column_now()
        if self._expiry is not None and self._expiry.ttl.refresh == "read":
            there = column.is_valid().to_numpy(zero_copy_only=False)
            self._columns_read = there if self._columns_read is None else self._columns_read | there
        if default is None or not column.null_count:
            return column
        return column.fill_null(self._whole(self._form.arrays([default]))[0])

    def _touch_all(self, read: Mask, slots: SlotArray, expiry: Expiry) -> None:
        """What is there has been read, and lives longer."""
        rows = np.flatnonzero(read & (slots >= 0))
        if len(rows):
            self._table.pane().mark_changed(slots[rows])
            self._table.pane().column(_TOUCHED)[slots[rows]] = expiry.touched_of_all(self._batch)[rows]

    def _column_now(self) -> pa.Array:
        if self._columns_now is None:
            self._columns_now = self._load_column()
        return self._columns_now

    def _load_column(self) -> pa.Array:
        self._slots = slots = self._table.pane().find(self._batch.encoded(self._table))
        there = slots >= 0
        if self._expiry is not None:
            due_us = self._expiry.due_us(self._table.pane().column(_TOUCHED)[slots[there]])
            there[there] = due_us > self._expiry.now_of_all(self._batch)[there]
        if there.all():
            return self._whole(self._arrays(slots))
        rows = np.flatnonzero(there)
        places = np.zeros(len(slots), np.int64)
        places[rows] = np.arange(len(rows))
        return self._whole(self._arrays(slots[rows])).take(pa.array(places, mask=~there))

    def _whole(self, arrays: Sequence[pa.Array]) -> pa.Array:
        return pa.StructArray.from_arrays(arrays, fields=list(self._form.schema)) if self._form.rows else arrays[0]

    def set_column(self, values: Any, where: npt.NDArray[np.bool_]) -> None:
        """Hold other values for some of the batch's keys, from the end of the batch on; null clears.

        Raises:
            UserCodeError: They are of another type; names the state.
        """
        column, before = self._cast(values), self._column_now()
        # Arrow's arrays may lie in memory of numpy's, and the function may go on to change that.
        column = pa.concat_arrays([column, column.slice(0, 0)])
        self._columns_now = column if where.all() else pc.if_else(pa.array(where), column, before)
        self._columns_set = where.copy() if self._columns_set is None else self._columns_set | where

    def _write_columns(self) -> None:
        """Write what was read and set of all keys at once."""
        slots, read, where = self._slots, self._columns_read, self._columns_set
        if slots is None:
            return
        if self._expiry is not None and read is not None:
            self._touch_all(read, slots, self._expiry)
        if where is not None:
            self._write_set(self._column_now(), where, slots)

    def _write_set(self, column: pa.Array, where: Mask, slots: SlotArray) -> None:
        keys = self._batch.encoded(self._table)
        there = column.is_valid().to_numpy(zero_copy_only=False) if column.null_count else np.ones_like(where)
        old = np.flatnonzero(where & there & (slots >= 0))
        if len(old):
            self._table.pane().mark_changed(slots[old])
            self._put(slots[old], _some(column, old), old)
        new = np.flatnonzero(where & there & (slots < 0))
        gone = np.flatnonzero(where & ~there)
        if len(gone):
            self._table.pane().remove(keys.take(gone))
        if len(new):
            made, _ = self._table.pane().insert(keys.take(new))
            self._put(made, _some(column, new), new)
            if self._expiry is not None:
                chosen = pa.array(new)
                touched_us = self._expiry.touched_of_all(self._batch)[new]
                self._expiry.note([array.take(chosen) for array in self._batch.arrays], touched_us)

    def _put(self, slots: SlotArray, column: pa.Array, rows: Rows) -> None:
        self._store(slots, column.flatten() if self._form.rows else [column])
        if self._expiry is not None:
            self._table.pane().column(_TOUCHED)[slots] = self._expiry.touched_of_all(self._batch)[rows]

    def _cast(self, values: Any) -> pa.Array:
        try:
            if isinstance(values, pa.ChunkedArray):
                values = values.combine_chunks()
            array = values if isinstance(values, pa.Array) else pa.array(values)
            return array if array.type == self.kind else array.cast(self.kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise UserCodeError(f"{self._form.what} holds {self.kind}: {error}") from error

    # -- expiry

    def _note_all(self) -> None:
        """After a restore: every key will have to be looked at."""
        assert self._expiry is not None, "only then anything expires"
        keys = len(self._table.spec.key)
        for batch in self._table.pane().scan():
            self._expiry.note(batch.columns[:keys], to_numpy(batch.column(_TOUCHED)))

    def _remove_expired(self, arrays: Sequence[pa.Array], now_us: int) -> Rows:
        assert self._expiry is not None, "only then anything expires"
        _, firsts = group_rows(arrays)  # a key that was cleared and set again was noted several times
        chosen = pa.array(firsts)
        pane, keys = self._table.pane(), self._table.keys([array.take(chosen) for array in arrays], distinct=True)
        slots = pane.find(keys)
        due_us = np.full(len(slots), -1, np.int64)
        known = np.flatnonzero(slots >= 0)
        due_us[known] = self._expiry.due_us(pane.column(_TOUCHED)[slots[known]])
        expired = known[due_us[known] <= now_us]
        if len(expired):
            due_us[expired] = -1
            pane.remove(keys.take(expired))
        result = np.full(len(arrays[0]), -1, np.int64)
        result[firsts] = due_us
        return result


def _some(column: pa.Array, rows: Rows) -> pa.Array:
    return column if len(rows) == len(column) else column.take(pa.array(rows))


def _columns(declared: Declared) -> list[ColumnSpec]:
    form, columns = declared.form, []
    for one in form.columns:
        default = None
        if one.default is not None:
            default = to_numpy(list_to_column([one.default], one.type))[0]
        columns.append(ColumnSpec(one.name, storage_type(one.type), default, one.renamed_from))
        if form.rows and is_fixed(one.type):
            old = tuple(map(_given, one.renamed_from))
            columns.append(ColumnSpec(_given(one.name), pa.bool_(), one.default is not None, old))
    if declared.ttl is not None:
        columns.append(ColumnSpec(_TOUCHED, pa.int64(), 0, addable=False))
    return columns


def _given(field: str) -> str:
    """The column that says whether a field of a row is there."""
    return f"{field}{GIVEN}"


class BoundValue(ValueState[T], Generic[T]):
    """A `ValueState` in a running job.

    Args:
        declared: What the user declared.
        cells: Where its values lie.
        batch: The keys that are being handled.
    """

    def __init__(self, declared: ValueState[T], cells: ValueCells, batch: KeyBatch) -> None:
        settle, default = cells.settle, declared.default
        default = default if default is None or settle is None else settle(default)
        super().__init__(declared.type, default=default, ttl=declared.ttl)
        self._cells = cells
        self._batch = batch

    @property
    def value(self) -> T:
        """The current key's value."""
        cells = self._cells
        value = (cells.held or cells.load())[self._batch.index]
        return self.default if value is NOTHING else value  # type: ignore[return-value]

    @value.setter
    def value(self, value: T) -> None:
        cells, index = self._cells, self._batch.index
        settle = cells.settle
        held = NOTHING if value is None else value if settle is None else settle(value)
        (cells.held or cells.load())[index] = held
        cells.changed.add(index)

    @property
    def exists(self) -> bool:
        """Whether the current key has a value."""
        return self._cells.current() is not NOTHING

    def clear(self) -> None:
        """Forget the current key's value."""
        self.value = None  # type: ignore[assignment]


class WatchedValue(BoundValue[T], Generic[T]):
    """A `ValueState` whose values expire, or can be changed in place."""

    def __init__(self, declared: ValueState[T], cells: ValueCells, batch: KeyBatch) -> None:
        super().__init__(declared, cells, batch)
        self._read_touches = self.ttl is not None and self.ttl.refresh == "read"

    @property
    def value(self) -> T:
        """The current key's value."""
        cells = self._cells
        value = cells.current()
        if value is NOTHING:
            return self._default()
        if self._read_touches:
            cells.touch()
        elif cells.mutable:
            cells.lend(NOTHING if self.ttl is None else copy.deepcopy(value))
        return value  # type: ignore[no-any-return]

    @value.setter
    def value(self, value: T) -> None:
        self._cells.put(NOTHING if value is None else value)

    @property
    def exists(self) -> bool:
        """Whether the current key has a value; a default that can be changed in place is none until it is."""
        value = self._cells.current()
        return value is not NOTHING and not (self._cells.mutable and value == self.default)

    def _default(self) -> T:
        if self.default is None or not self._cells.mutable:
            return self.default  # type: ignore[return-value]
        assert self._cells.held is not None, "the value was looked for"
        self._cells.held[self._batch.index] = value = copy.deepcopy(self.default)
        self._cells.lend(self.default)
        return value


def bound_value(declared: ValueState[T], cells: ValueCells, batch: KeyBatch) -> BoundValue[T]:
    """The state in a running job."""
    plain = declared.ttl is None and not cells.mutable
    return BoundValue(declared, cells, batch) if plain else WatchedValue(declared, cells, batch)


class BoundReducing(ReducingState[T], Generic[T]):
    """A `ReducingState` in a running job: a value, and a function."""

    def __init__(self, declared: ReducingState[T], held: BoundValue[Any]) -> None:
        super().__init__(declared.type, declared.function, ttl=declared.ttl)
        self._held = held

    def add(self, value: T) -> None:
        """Fold a value in."""
        if value is None:
            raise UserCodeError("a ReducingState is given None", hint="add values only")
        after = self.function(self._held.value, value) if self._held.exists else value
        if after is None:
            raise UserCodeError("the function of a ReducingState returned None", hint="return what is to be held")
        self._held.value = after

    @property
    def value(self) -> T | None:
        """What is held."""
        return self._held.value  # type: ignore[no-any-return]

    def clear(self) -> None:
        """Forget what is held."""
        self._held.clear()


class BoundAggregating(AggregatingState[Any, Any]):
    """An `AggregatingState` in a running job: an accumulator, and functions."""

    def __init__(self, declared: AggregatingState[Any, Any], held: BoundValue[Any]) -> None:
        super().__init__(
            declared.accumulator,
            create=declared.create,
            add=declared.fold,
            result=declared.result,
            ttl=declared.ttl,
        )
        self._held = held

    def add(self, value: Any) -> None:
        """Add a value to the accumulator."""
        before = self._held.value if self._held.exists else self.create()
        after = self.fold(before, value)
        if after is None:
            raise UserCodeError("the add function of an AggregatingState returned None", hint="return the accumulator")
        self._held.value = after

    @property
    def value(self) -> Any:
        """The accumulator's result."""
        return self.result(self._held.value) if self._held.exists else None

    def clear(self) -> None:
        """Forget the accumulator."""
        self._held.clear()
