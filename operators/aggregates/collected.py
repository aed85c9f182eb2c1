"""The values themselves, as a list a key: SQL's ARRAY_AGG, Spark's collect_list.

A key's values lie in one buffer, each with its time, as msgpack: to add a value, or to merge two parts, is to append;
the memory that they take is known; and a checkpoint writes them as they are. Structs have the names of their fields
with them, so that a restored job may know more or fewer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from lakeward.engine.api.state import ColumnSpec
from lakeward.engine.core.errors import SchemaError
from lakeward.operators.aggregates.bound import BoundAggregate
from lakeward.operators.aggregates.function import AggregateFunction
from lakeward.operators.aggregates.lanes import Fetch, Given
from lakeward.operators.aggregates.stored_types import has_maps, shape_of, stored_type
from lakeward.operators.rows import RowReader
from lakeward.operators.windows.columns import Mask, Rows, Values

_ARRAY_OF = b"\xdd"  # msgpack: an array, whose length follows as four bytes
_time_of = itemgetter(0)


class Collect(AggregateFunction):
    """All values in the order of event time; among equal times, and where there is none, in the order of arrival."""

    def __init__(self, bound: BoundAggregate) -> None:
        super().__init__(bound)
        self._items, self._count, self._owed = (f"{bound.name}#{part}" for part in ("items", "count", "owed"))
        self._kind = bound.output_type.value_type
        self._stored = stored_type(self._kind) or self._kind  # what cannot be stored was refused
        by_column = pt.is_struct(self._stored) and not has_maps(self._stored)  # of maps rows would have dicts
        self._rows = RowReader(pa.schema(list(self._stored))) if by_column else None
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(list[tuple[int, shape_of(self._stored)]]).decode  # type: ignore[misc]
        self._apart = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The values with their times, and how many; and values that were taken back before they came."""
        buffers = (ColumnSpec(name, pa.binary(), None) for name in (self._items, self._owed))
        return (*buffers, ColumnSpec(self._count, pa.int64(), 0))

    def add(self, fetch: Fetch, given: Given) -> None:
        """Append the values of each key to its buffer."""
        if not len(given.slots):
            return
        order = np.argsort(given.slots, kind="stable")
        slots = given.slots[order]
        begins = np.flatnonzero(np.concatenate([[True], slots[1:] != slots[:-1]]))
        bounds = zip(slots[begins].tolist(), begins.tolist(), [*begins[1:].tolist(), len(slots)], strict=True)
        items = self._encoded(given.column.plain().take(pa.array(order)), given.times_us[order])
        if given.signs is not None:
            signs = given.signs[order].tolist()
            for slot, begin, end in bounds:
                self._change(fetch, slot, items[begin:end], signs[begin:end])
            return
        state = fetch(self._items)
        for slot, begin, end in bounds:
            _append(state, slot, b"".join(items[begin:end]))
        np.add.at(fetch(self._count), slots, 1)

    def _encoded(self, values: pa.Array, times_us: Rows) -> list[bytes]:
        stored = values.cast(self._stored)
        plain = stored.to_pylist() if self._rows is None else self._rows.rows(pa.RecordBatch.from_struct_array(stored))
        return list(map(self._encode, zip(times_us.tolist(), plain, strict=True)))

    def _change(self, fetch: Fetch, slot: int, items: Sequence[bytes], signs: Sequence[int]) -> None:
        """Add and take back values of one key of an updating stream."""
        held = self._parts(fetch(self._items)[slot], fetch(self._count)[slot])
        owed = [bytes(raw) for raw in self._apart(fetch(self._owed)[slot] or b"\x90")]
        for item, sign in zip(items, signs, strict=True):
            there, missing = (held, owed) if sign > 0 else (owed, held)
            if item in missing:
                missing.remove(item)
            else:
                there.append(item)
        fetch(self._items)[slot] = b"".join(held) or None
        fetch(self._count)[slot] = len(held)
        fetch(self._owed)[slot] = self._encode([msgspec.Raw(item) for item in owed]) if owed else None

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Append; parts come in the order of arrival, as far as it is known."""
        state = into(self._items)
        for row, items in zip(ids.tolist(), part(self._items).tolist(), strict=True):
            if items is not None:
                _append(state, row, items)
        np.add.at(into(self._count), ids, part(self._count))

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """The lists, sorted by time.

        Raises:
            SchemaError: Values in the state are of another type than now.
        """
        lengths = fetch(self._count)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        try:
            flat = pa.array(list(self._read(fetch(self._items), lengths)), self._stored).cast(self._kind)
        except (msgspec.DecodeError, pa.ArrowException) as error:
            problem = f"'{self.bound.name}' has collected values that are no {self._kind}: {error}"
            raise SchemaError(problem, hint="the state is of a job in which they had another type") from error
        mask = None if valid is None else pa.array(~valid)
        return pa.ListArray.from_arrays(pa.array(offsets), flat, type=self.bound.output_type, mask=mask)

    def _read(self, buffers: Values, lengths: Rows) -> Iterator[Any]:
        for buffer, length in zip(buffers.tolist(), lengths.tolist(), strict=True):
            items = self._decode(_framed(buffer, length))
            items.sort(key=_time_of)
            for _, value in items:
                yield value

    def _parts(self, buffer: bytes | None, length: int) -> list[bytes]:
        return [bytes(raw) for raw in self._apart(_framed(buffer, int(length)))]


def _framed(buffer: bytes | None, length: int) -> bytes:
    return b"".join((_ARRAY_OF, length.to_bytes(4, "big"), buffer or b""))


def _append(state: Values, slot: int, items: bytes) -> None:
    """Append to a buffer, which is never shared: other parts are copied into it."""
    held = state[slot]
    if isinstance(held, bytearray):
        held += items
    else:
        state[slot] = bytearray(items) if held is None else bytearray(held) + items
