"""The keys of a table's slots, kept so that a batch of keys can be compared with a batch of slots at once."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from lakeward.engine.core.hashing import NULL_HASH, Int64Array, UInt64Array, splitmix64
from lakeward.engine.state.keys import BoolArray, ByteKeys, IntKeys, KeyBatch, KeyCodec, WideKeys, spread

_LENGTH_BITS = 24
_LENGTH_MASK = (1 << _LENGTH_BITS) - 1
_GARBAGE_WORDS_MIN = 1 << 10
_ROOM = 4


class KeyColumn(Protocol):
    """Key of each slot. Slot 0 belongs to the null key and is never compared."""

    def ensure(self, capacity: int) -> None:
        """Make room for slots below `capacity`."""
        ...

    def put(self, slots: Int64Array, keys: KeyBatch) -> None:
        """Set the keys of slots; `keys` is as long as `slots`."""
        ...

    def free(self, slots: Int64Array) -> None:
        """These slots' keys are no longer needed."""
        ...

    def matches(self, slots: Int64Array, keys: KeyBatch, rows: Int64Array | None) -> BoolArray:
        """For each row (None: all) whether the slot's key is the row's; the answer for slot 0 means nothing."""
        ...

    def hashes(self, slots: Int64Array) -> UInt64Array:
        """Hashes of the keys of slots."""
        ...

    def gather(self, slots: Int64Array) -> KeyBatch:
        """Keys of slots; slot 0 yields the null key."""
        ...

    @property
    def size_bytes(self) -> int:
        """Memory in use."""
        ...

    def bytes_per_slot(self) -> float:
        """Memory that one more slot needs, on average."""
        ...


def grown(array: npt.NDArray[np.generic], capacity: int) -> npt.NDArray[np.generic]:
    """The array with `capacity` elements, of which the new ones are undefined; the old array is not used any more.

    It is copied to a place with room to grow on, so that it is seldom copied again: fresh memory costs more than the
    copying. Room that was never used is address space and nothing else.

    Args:
        array: One that owns its memory, or was returned by this function.
        capacity: At least its length.
    """
    if array.base is not None and len(array.base) >= capacity:
        return array.base[:capacity]
    larger = _roomy(capacity if array.dtype == object else _ROOM * capacity, capacity, array.dtype)
    larger[: len(array)] = array
    return larger[:capacity]


def _roomy(wanted: int, needed: int, dtype: np.dtype[np.generic]) -> npt.NDArray[np.generic]:
    try:
        return np.empty(wanted, dtype=dtype)
    except MemoryError:  # where address space is limited, as by `ulimit -v`
        return np.empty(needed, dtype=dtype)


class IntKeyColumn:
    """Keys of one int64 each."""

    def __init__(self) -> None:
        self._values = np.zeros(1, dtype=np.int64)

    def ensure(self, capacity: int) -> None:
        """Make room."""
        if capacity > len(self._values):
            self._values = grown(self._values, capacity)  # type: ignore[assignment]

    def put(self, slots: Int64Array, keys: KeyBatch) -> None:
        """Set the keys of slots."""
        assert isinstance(keys, IntKeys)
        self._values[slots] = keys.values

    def free(self, slots: Int64Array) -> None:
        """Nothing to do: the slot's eight bytes are used again."""

    def matches(self, slots: Int64Array, keys: KeyBatch, rows: Int64Array | None) -> BoolArray:
        """Compare."""
        assert isinstance(keys, IntKeys)
        wanted = keys.values if rows is None else keys.values.take(rows)
        equal: BoolArray = self._values.take(slots, mode="clip") == wanted
        return equal

    def hashes(self, slots: Int64Array) -> UInt64Array:
        """Computed from the values: cheaper than storing them."""
        return splitmix64(self._values.take(slots).view(np.uint64))

    def gather(self, slots: Int64Array) -> IntKeys:
        """Keys of slots."""
        nulls = slots == 0
        values = self._values.take(slots)
        if not nulls.any():
            return IntKeys(values)
        values[nulls] = 0
        return IntKeys(values, nulls)

    @property
    def size_bytes(self) -> int:
        """Memory in use."""
        return self._values.nbytes

    def bytes_per_slot(self) -> float:
        """Eight."""
        return 8.0


class WideKeyColumn:
    """Keys of several int64 each.

    Args:
        codec: The key.
    """

    def __init__(self, codec: KeyCodec) -> None:
        self._hash = codec.hash_wide
        self._columns = [np.zeros(1, dtype=np.int64) for _ in codec.types]

    def ensure(self, capacity: int) -> None:
        """Make room."""
        if capacity > len(self._columns[0]):
            self._columns = [grown(column, capacity) for column in self._columns]  # type: ignore[misc]

    def put(self, slots: Int64Array, keys: KeyBatch) -> None:
        """Set the keys of slots."""
        assert isinstance(keys, WideKeys)
        for column, values in zip(self._columns, keys.columns, strict=True):
            column[slots] = values

    def free(self, slots: Int64Array) -> None:
        """Nothing to do: the slot's bytes are used again."""

    def matches(self, slots: Int64Array, keys: KeyBatch, rows: Int64Array | None) -> BoolArray:
        """Compare, the last column first: it tells most keys apart."""
        assert isinstance(keys, WideKeys)
        equal: BoolArray | None = None
        for column, values in zip(self._columns[::-1], keys.columns[::-1], strict=True):
            alike: BoolArray = column.take(slots, mode="clip") == (values if rows is None else values.take(rows))
            equal = alike if equal is None else equal & alike
        assert equal is not None, "there is at least one column"
        return equal

    def hashes(self, slots: Int64Array) -> UInt64Array:
        """Computed from the values: cheaper than storing them."""
        return self._hash([column.take(slots) for column in self._columns])

    def gather(self, slots: Int64Array) -> WideKeys:
        """Keys of slots."""
        columns = [column.take(slots) for column in self._columns]
        return WideKeys(columns, self._hash(columns))

    @property
    def size_bytes(self) -> int:
        """Memory in use."""
        return sum(column.nbytes for column in self._columns)

    def bytes_per_slot(self) -> float:
        """Eight a column."""
        return 8.0 * len(self._columns)


class ByteKeyColumn:
    """Keys of any length: eight-byte words in one arena, and per slot its place, length and hash."""

    def __init__(self) -> None:
        self._places = np.zeros(1, dtype=np.int64)  # first word << 24 | length in bytes
        self._hashes = np.full(1, NULL_HASH, dtype=np.uint64)
        self._arena = np.zeros(64, dtype=np.uint64)
        self._used_words = 0
        self._garbage_words = 0
        self._live = 0

    def ensure(self, capacity: int) -> None:
        """Make room for places; the arena grows by itself."""
        if capacity > len(self._places):
            old = len(self._places)
            self._places = grown(self._places, capacity)  # type: ignore[assignment]
            self._places[old:] = 0
            self._hashes = grown(self._hashes, capacity)  # type: ignore[assignment]

    def put(self, slots: Int64Array, keys: KeyBatch) -> None:
        """Append the keys' words to the arena."""
        assert isinstance(keys, ByteKeys)
        counts = (keys.lengths + 7) >> 3
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        self._reserve_words(total)
        self._arena[self._used_words : self._used_words + total] = keys.words[spread(keys.starts, counts)]
        self._places[slots] = ((ends - counts + self._used_words) << _LENGTH_BITS) | keys.lengths
        self._hashes[slots] = keys.hashes
        self._used_words += total
        self._live += len(slots)

    def free(self, slots: Int64Array) -> None:
        """The words become garbage; the arena is compacted when half of it is."""
        lengths = self._places[slots] & _LENGTH_MASK
        self._garbage_words += int(((lengths + 7) >> 3).sum())
        self._places[slots] = 0
        self._live -= len(slots)
        if self._garbage_words > max(_GARBAGE_WORDS_MIN, self._used_words // 2):
            self._compact()

    def matches(self, slots: Int64Array, keys: KeyBatch, rows: Int64Array | None) -> BoolArray:
        """Compare lengths, then word after word; of some rows, which follow a chain of other keys, the hashes first."""
        assert isinstance(keys, ByteKeys)
        if rows is None:
            return self._equal(slots, keys, keys.lengths, keys.starts)
        equal: BoolArray = self._hashes.take(slots, mode="clip") == keys.hashes.take(rows)
        alike = np.flatnonzero(equal)
        rows = rows.take(alike)
        equal[alike] = self._equal(slots.take(alike), keys, keys.lengths.take(rows), keys.starts.take(rows))
        return equal

    def _equal(self, slots: Int64Array, keys: ByteKeys, lengths: Int64Array, starts: Int64Array) -> BoolArray:
        places = self._places.take(slots, mode="clip")
        equal: BoolArray = (places & _LENGTH_MASK) == lengths
        if len(slots):
            self._compare_words(equal, places >> _LENGTH_BITS, keys, lengths, starts)
        return equal

    def _compare_words(
        self, equal: BoolArray, firsts: Int64Array, keys: ByteKeys, lengths: Int64Array, starts: Int64Array
    ) -> None:
        shortest, longest = int(lengths.min()), int(lengths.max())
        dense = keys.dense_words() if len(starts) == len(keys) else None
        for number in range((longest + 7) >> 3):
            if number * 8 < shortest:  # every row has this word; where lengths differ any word may be compared
                wanted = keys.words.take(starts + number) if dense is None else dense[:, number]
                equal &= self._arena.take(firsts + number, mode="clip") == wanted
            else:
                rows = np.flatnonzero(equal & (lengths > number * 8))
                equal[rows] &= self._arena[firsts[rows] + number] == keys.words[starts[rows] + number]

    def hashes(self, slots: Int64Array) -> UInt64Array:
        """Stored hashes."""
        return self._hashes.take(slots)

    def gather(self, slots: Int64Array) -> ByteKeys:
        """Keys of slots, sharing the arena."""
        places = self._places.take(slots)
        nulls = slots == 0
        hashes = self._hashes.take(slots)
        lengths = places & _LENGTH_MASK
        if not nulls.any():
            return ByteKeys(lengths, places >> _LENGTH_BITS, self._arena, hashes, None)
        lengths[nulls] = 0
        return ByteKeys(lengths, places >> _LENGTH_BITS, self._arena, hashes, nulls)

    @property
    def size_bytes(self) -> int:
        """Memory in use."""
        return self._places.nbytes + self._hashes.nbytes + self._arena.nbytes

    def bytes_per_slot(self) -> float:
        """Sixteen, and the average of the words."""
        live_words = self._used_words - self._garbage_words
        return 16.0 + 8.0 * (live_words / self._live if self._live else 2.0)

    def _reserve_words(self, more: int) -> None:
        if self._used_words + more > len(self._arena) and self._garbage_words > self._used_words // 8:
            self._compact()
        need = self._used_words + more
        if need > len(self._arena):
            self._arena = grown(self._arena, max(need, len(self._arena) * 3 // 2))  # type: ignore[assignment]

    def _compact(self) -> None:
        slots = np.flatnonzero(self._places)
        places = self._places[slots]
        lengths = places & _LENGTH_MASK
        counts = (lengths + 7) >> 3
        kept = self._arena[spread(places >> _LENGTH_BITS, counts)]
        self._arena = kept if len(kept) else np.zeros_like(self._arena[:64])  # comparisons read it, even of no keys
        ends = np.cumsum(counts)
        self._places[slots] = ((ends - counts) << _LENGTH_BITS) | lengths
        self._used_words = len(kept)
        self._garbage_words = 0


def key_column(codec: KeyCodec) -> KeyColumn:
    """The column for the keys that a codec makes."""
    if codec.integral:
        return IntKeyColumn()
    return WideKeyColumn(codec) if codec.wide else ByteKeyColumn()
