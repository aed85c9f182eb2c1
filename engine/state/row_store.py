"""One table's rows in a key-value store, in batches.

A key is: table id (u16), namespace (i64), key group (u16); then for keys of one integer a null tag (u8) and the key,
for others the key's hash (u64), a null tag and the key's bytes. Numbers are big-endian, the sign bit flipped, so that
panes, and key groups within a pane, are contiguous ranges. Within a group byte strings lie by their hashes: sorting
numbers takes a tenth of the time that sorting strings does, and the hash need not be computed again. Table id 0 holds
the number of keys of each pane, under table id and namespace.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakeward.engine.core.errors import CorruptionError
from lakeward.engine.core.hashing import Int64Array, binary_buffers
from lakeward.engine.core.keygroups import key_groups
from lakeward.engine.state.deferred import Piece
from lakeward.engine.state.keys import ByteKeys, IntKeys, KeyBatch, KeyCodec, spread
from lakeward.engine.state.kv import KeyValueStore

_COUNTS_TABLE = 0
_BIAS = 1 << 63
_PANE = struct.Struct(">HQ")
_PREFIX = struct.Struct(">HQH")
_COUNT_KEY = struct.Struct(">HHQ")
_COUNT = struct.Struct("<Q")
_GROUP = [("table", ">u2"), ("namespace", ">u8"), ("group", ">u2")]
_HEAD = np.dtype([*_GROUP, ("hash", ">u8"), ("tag", "u1")])
_INT_KEY = np.dtype([*_GROUP, ("tag", "u1"), ("key", ">u8")])
_SCAN_ROWS = 32_768


def pane_range(table_id: int, namespace: int, groups: range | None = None) -> tuple[bytes, bytes]:
    """The key range of a pane, or of some key groups of it."""
    biased = namespace + _BIAS
    if groups is not None:
        return _PREFIX.pack(table_id, biased, groups.start), _PREFIX.pack(table_id, biased, groups.stop)
    start = _PANE.pack(table_id, biased)
    return start, (int.from_bytes(start, "big") + 1).to_bytes(len(start), "big")


def read_counts(store: KeyValueStore, table_id: int) -> dict[int, int]:
    """Number of keys of each stored pane of a table."""
    start = struct.pack(">HH", _COUNTS_TABLE, table_id)
    end = struct.pack(">HH", _COUNTS_TABLE, table_id + 1)
    return {_COUNT_KEY.unpack(key)[2] - _BIAS: _COUNT.unpack(value)[0] for key, value in store.scan(start, end)}


def write_counts(store: KeyValueStore, table_id: int, counts: dict[int, int]) -> None:
    """Store the number of keys of panes; zero forgets a pane."""
    store.write(*counts_piece(table_id, counts))


def counts_piece(table_id: int, counts: dict[int, int]) -> Piece:
    """The rows that say how many keys panes have, and the keys of those that have none any more."""
    rows = sorted((_COUNT_KEY.pack(_COUNTS_TABLE, table_id, ns + _BIAS), _COUNT.pack(n)) for ns, n in counts.items())
    zero = _COUNT.pack(0)
    return [row for row in rows if row[1] != zero], [key for key, value in rows if value == zero]


class RowStore:
    """Reads and writes rows by `KeyBatch`.

    Args:
        store: Where they lie.
        table_id: The table's number in the store.
        codec: The table's key.
        max_parallelism: Number of key groups.
    """

    def __init__(self, store: KeyValueStore, table_id: int, codec: KeyCodec, max_parallelism: int) -> None:
        self._store = store
        self._table_id = table_id
        self._codec = codec
        self._max_parallelism = max_parallelism

    def sorted_keys(self, namespace: int, keys: KeyBatch) -> tuple[list[bytes], Int64Array]:
        """Store keys in their order, and which row of `keys` each is."""
        if isinstance(keys, IntKeys):
            return self._sorted_int_keys(namespace, keys)
        assert isinstance(keys, ByteKeys)
        order = np.argsort(keys.hashes)
        keys = keys.take(order)
        heads = self._heads(namespace, keys, _HEAD)
        heads["hash"] = keys.hashes
        names = _joined(heads, keys)
        alike = np.flatnonzero(keys.hashes[1:] == keys.hashes[:-1])
        if len(alike):
            _sort_alike(names, order, np.union1d(alike, alike + 1))
        return names, order

    def _sorted_int_keys(self, namespace: int, keys: IntKeys) -> tuple[list[bytes], Int64Array]:
        order = self._int_order(keys)
        records = self._heads(namespace, keys, _INT_KEY)
        records["key"] = keys.values.view(np.uint64) ^ np.uint64(_BIAS)
        return _pieces(records[order]), order

    def _int_order(self, keys: IntKeys) -> Int64Array:
        order = np.argsort(keys.values)
        major = key_groups(keys.hashes, self._max_parallelism).astype(np.uint16) * np.uint16(2)
        major += 1 if keys.nulls is None else ~keys.nulls
        return order[np.argsort(major[order], kind="stable")]  # sixteen bits: a radix sort

    def order(self, keys: KeyBatch) -> Int64Array:
        """The rows of `keys` in the order of their store keys, but for keys of one hash."""
        return self._int_order(keys) if isinstance(keys, IntKeys) else np.argsort(keys.hashes)

    def _heads(self, namespace: int, keys: KeyBatch, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
        records = np.empty(len(keys), dtype=dtype)
        records["table"] = self._table_id
        records["namespace"] = namespace + _BIAS
        records["group"] = key_groups(keys.hashes, self._max_parallelism)
        records["tag"] = 1 if keys.nulls is None else ~keys.nulls
        return records

    def write(self, keys: Sequence[bytes], values: Sequence[bytes], deletes: Sequence[bytes] = ()) -> None:
        """Store rows under `sorted_keys`, after forgetting `deletes`."""
        self._store.write(zip(keys, values, strict=True), sorted(deletes))

    def get(self, namespace: int, keys: KeyBatch) -> tuple[Int64Array, list[bytes]]:
        """Which rows of `keys` are stored, and their values."""
        names, order = self.sorted_keys(namespace, keys)
        values = self._store.get_many(names)
        present = [number for number, value in enumerate(values) if value is not None]
        return order[present], [value for value in values if value is not None]

    def scan(self, namespace: int) -> Iterator[tuple[KeyBatch, list[bytes]]]:
        """All stored rows of a pane, in batches."""
        rows = self._store.scan(*pane_range(self._table_id, namespace))
        while part := list(islice(rows, _SCAN_ROWS)):
            yield self.decode_keys([key for key, _ in part]), [value for _, value in part]

    def drop(self, namespace: int) -> None:
        """Forget a pane."""
        self._store.delete_range(*pane_range(self._table_id, namespace))

    def counts(self) -> dict[int, int]:
        """Number of keys of each stored pane."""
        return read_counts(self._store, self._table_id)

    def counts_piece(self, counts: dict[int, int]) -> Piece:
        """What `write_counts` would write."""
        return counts_piece(self._table_id, counts)

    def decode_keys(self, names: Sequence[bytes]) -> KeyBatch:
        """The keys of store keys.

        Raises:
            CorruptionError: They are not this table's.
        """
        if self._codec.integral:
            return _decode_int_keys(names)
        offsets, data = binary_buffers(pa.array(names, pa.large_binary()))
        lengths = offsets[1:] - offsets[:-1] - _HEAD.itemsize
        if len(lengths) and int(lengths.min()) < 0:
            raise CorruptionError("a stored key is shorter than its header")
        heads = data[spread(offsets[:-1], np.full(len(names), _HEAD.itemsize))].view(_HEAD)
        bodies = np.zeros(len(names) + 1, dtype=np.int64)
        np.cumsum(lengths, out=bodies[1:])
        body = data[spread(offsets[:-1] + _HEAD.itemsize, lengths)]
        keys = self._codec.from_bytes(bodies, body, heads["hash"].astype(np.uint64))
        nulls = heads["tag"] == 0
        if nulls.any():
            keys.nulls = nulls
        return keys


def _pieces(records: npt.NDArray[np.void]) -> list[bytes]:
    """Each record as bytes."""
    pieces: list[bytes] = records.view(f"V{records.itemsize}").tolist()
    return pieces


def _joined(heads: npt.NDArray[np.void], keys: ByteKeys) -> list[bytes]:
    """Each head with its key behind it."""
    offsets, data = binary_buffers(keys.to_arrow())
    length = int(offsets[-1]) // max(len(keys), 1)
    if length and (keys.lengths == length).all():
        records = np.empty(len(keys), dtype=[("head", heads.dtype), ("key", f"V{length}")])
        records["head"] = heads
        records["key"] = data.view(f"V{length}")
        return _pieces(records)
    whole, ends = data.tobytes(), offsets.tolist()
    bodies = [whole[start:end] for start, end in pairwise(ends)]
    return [head + body for head, body in zip(_pieces(heads), bodies, strict=True)]


def _sort_alike(names: list[bytes], order: Int64Array, places: Int64Array) -> None:
    """Put store keys of equal hashes in order; they lie beside each other, at these places."""
    chosen = sorted(places.tolist(), key=names.__getitem__)
    order[places] = order[chosen]
    for place, name in zip(places.tolist(), [names[number] for number in chosen], strict=True):
        names[place] = name


def _decode_int_keys(names: Sequence[bytes]) -> IntKeys:
    joined = b"".join(names)
    if len(joined) != len(names) * _INT_KEY.itemsize:
        raise CorruptionError(f"a stored key is not {_INT_KEY.itemsize} bytes long")
    records = np.frombuffer(joined, dtype=_INT_KEY)
    values = (records["key"].astype(np.uint64) ^ np.uint64(_BIAS)).view(np.int64)
    nulls = records["tag"] == 0
    return IntKeys(values, nulls if nulls.any() else None)
