"""The hash behind key groups and slot tables: ours, the same on every platform and version.

Integers, booleans, dates and timestamps go through splitmix64 (Steele, Lea and Flood, 2014); strings and bytes are
folded eight bytes at a time straight from the Arrow buffers. `tests/engine/core/test_hashing.py` pins golden vectors:
state on disk depends on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

UInt64Array = npt.NDArray[np.uint64]
Int64Array = npt.NDArray[np.int64]

NULL_HASH = np.uint64(0x9AE16A3B2F90404F)
_COMBINE = np.uint64(0x9E3779B97F4A7C15)
_C1 = np.uint64(0xBF58476D1CE4E5B9)
_C2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_UNDO_C1, _UNDO_C2 = (np.uint64(pow(int(factor), -1, 1 << 64)) for factor in (_C1, _C2))
_TAIL_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(9)], dtype=np.uint64)
"""Mask that keeps the first n bytes of a little-endian word, n = 0 .. 8."""


def splitmix64(values: UInt64Array) -> UInt64Array:
    """Mix each 64-bit value; a bijection, so different integers never collide.

    >>> [hex(h) for h in splitmix64(np.array([0, 1], dtype=np.uint64)).tolist()]
    ['0xe220a8397b1dcdaf', '0x910a2dec89025cc1']
    """
    mixed = values.copy()
    _mix(mixed, np.empty_like(mixed))
    return mixed


def _mix(x: UInt64Array, scratch: UInt64Array) -> None:
    """`splitmix64` in place; no memory is asked for, which would cost as much as the arithmetic."""
    x += _COMBINE
    np.right_shift(x, _S30, out=scratch)
    x ^= scratch
    x *= _C1
    np.right_shift(x, _S27, out=scratch)
    x ^= scratch
    x *= _C2
    np.right_shift(x, _S31, out=scratch)
    x ^= scratch


def unmix64(mixed: UInt64Array) -> UInt64Array:
    """The inverse of `splitmix64`: integers that have these hashes.

    >>> unmix64(splitmix64(np.array([7, 2**64 - 1], dtype=np.uint64))).tolist() == [7, 2**64 - 1]
    True
    """
    values: UInt64Array = mixed ^ mixed >> _S31 ^ mixed >> np.uint64(62)
    values *= _UNDO_C2
    values ^= values >> _S27 ^ values >> np.uint64(54)
    values *= _UNDO_C1
    values ^= values >> _S30 ^ values >> np.uint64(60)
    values -= _COMBINE
    return values


def hash_array(array: pa.Array) -> UInt64Array:
    """Hash each value of one Arrow array; nulls have a hash of their own.

    Args:
        array: Integers, booleans, dates, timestamps, floats, strings or bytes, also dictionary-encoded.

    Returns:
        One 64-bit hash a row. Integer width does not matter: int32 7 and int64 7 hash alike.

    Raises:
        TypeError: The type has no hash (nested types).
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        hashes = hash_array(array.dictionary).take(as_int64(array.indices)) if len(array.dictionary) else _zeros(array)
    elif is_binary_like(kind):
        hashes = hash_bytes(*binary_buffers(array))
    else:
        hashes = splitmix64(as_int64(array).view(np.uint64))
    if array.null_count:
        hashes[null_mask(array)] = NULL_HASH
    return hashes


def _zeros(array: pa.Array) -> UInt64Array:
    return np.zeros(len(array), dtype=np.uint64)


def hash_columns(arrays: Sequence[pa.Array]) -> UInt64Array:
    """Hash rows of one or more key columns; one column hashes as by `hash_array`."""
    return combine_hashes([hash_array(array) for array in arrays])


def combine_hashes(hashes: Sequence[UInt64Array]) -> UInt64Array:
    """Hashes of rows out of those of their columns, in order."""
    combined = hashes[0]
    for column in hashes[1:]:
        combined = splitmix64(combined * _COMBINE ^ column)
    return combined


def is_binary_like(kind: pa.DataType) -> bool:
    """Whether values of the type are strings or bytes of any length."""
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def as_int64(array: pa.Array) -> Int64Array:
    """The values of a fixed-width array as int64 bits, nulls as 0; floats by their canonical bit pattern.

    >>> as_int64(pa.array([7, None, -1], pa.int16())).tolist()
    [7, 0, -1]

    Raises:
        TypeError: The type is neither an integer, boolean, date, time, timestamp, duration nor float.
    """
    values = _fixed_width_values(array)
    if values.dtype.kind == "f":
        floats = values.astype(np.float64) + 0.0  # -0.0 becomes 0.0
        floats[np.isnan(floats)] = np.nan
        bits = floats.view(np.int64)
    else:
        bits = values.astype(np.int64, copy=False)
    if array.null_count:  # what lies under a null is undefined
        bits = np.where(null_mask(array), 0, bits)
    return bits


def null_mask(array: pa.Array) -> npt.NDArray[np.bool_]:
    """True where the array is null."""
    mask: npt.NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def _fixed_width_values(array: pa.Array) -> npt.NDArray[np.generic]:
    """The values as they lie in the Arrow buffer, whatever they are under a null."""
    kind = array.type
    if pa.types.is_boolean(kind):
        values: npt.NDArray[np.generic] = array.fill_null(False).to_numpy(zero_copy_only=False)
        return values
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        dtype = np.dtype(kind.to_pandas_dtype())
    elif pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        dtype = np.dtype(np.int32 if kind.bit_width == 32 else np.int64)
    else:
        raise TypeError(f"a key cannot have type {kind}")
    data = array.buffers()[1]
    if data is None:
        return np.zeros(len(array), dtype=dtype)
    return np.frombuffer(data, dtype=dtype)[array.offset : array.offset + len(array)]


def binary_buffers(array: pa.Array) -> tuple[Int64Array, npt.NDArray[np.uint8]]:
    """Offsets (length + 1, int64) and bytes of a string or bytes array; right for slices too."""
    large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    buffers = array.buffers()
    if buffers[1] is None or len(array) == 0:
        return np.zeros(len(array) + 1, dtype=np.int64), np.zeros(0, dtype=np.uint8)
    whole = np.frombuffer(buffers[1], dtype=np.int64 if large else np.int32)
    offsets: Int64Array = whole[array.offset : array.offset + len(array) + 1].astype(np.int64)
    data = np.frombuffer(buffers[2], dtype=np.uint8) if buffers[2] is not None else np.zeros(0, np.uint8)
    return offsets, data


@dataclass(frozen=True, slots=True)
class PackedBytes:
    """Byte strings as zero-padded little-endian words, one string after the other, with their hashes.

    Args:
        lengths: Bytes of each string.
        starts: Where each string's first word lies in `words`.
        words: The words; a string has `(length + 7) // 8` of them.
        hashes: As by `hash_bytes`.
    """

    lengths: Int64Array
    starts: Int64Array
    words: UInt64Array
    hashes: UInt64Array


def hash_bytes(offsets: Int64Array, data: npt.NDArray[np.uint8]) -> UInt64Array:
    """Hash each byte string `data[offsets[i]:offsets[i + 1]]`, eight bytes at a time."""
    hashes = splitmix64((offsets[1:] - offsets[:-1]).astype(np.uint64))
    scratch = np.empty_like(hashes)
    for rows, values in _words(offsets, data):
        _fold(hashes, rows, values, scratch)
    return hashes


def pack_bytes(offsets: Int64Array, data: npt.NDArray[np.uint8]) -> PackedBytes:
    """Hash byte strings as `hash_bytes` does, and keep their words: what a hash table needs to compare them."""
    lengths = offsets[1:] - offsets[:-1]
    counts = (lengths + 7) >> 3
    ends = np.cumsum(counts)
    starts = ends - counts
    words = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.uint64)
    width = int(counts[0]) if len(counts) else 0
    dense = words.reshape(-1, width) if width and (counts == width).all() else None
    hashes = splitmix64(lengths.astype(np.uint64))
    scratch = np.empty_like(hashes)
    for number, (rows, values) in enumerate(_words(offsets, data)):
        if dense is not None:
            dense[:, number] = values
        else:
            words[(starts if rows is None else starts[rows]) + number] = values
        _fold(hashes, rows, values, scratch)
    return PackedBytes(lengths, starts, words, hashes)


def _fold(hashes: UInt64Array, rows: Int64Array | None, values: UInt64Array, scratch: UInt64Array) -> None:
    if rows is None:
        hashes ^= values
        _mix(hashes, scratch)
    else:
        part = hashes[rows] ^ values
        _mix(part, scratch[: len(part)])
        hashes[rows] = part


def _words(offsets: Int64Array, data: npt.NDArray[np.uint8]) -> Iterator[tuple[Int64Array | None, UInt64Array]]:
    """For each word number: the rows that are long enough to have it (None: all), and their zero-padded words."""
    lengths = offsets[1:] - offsets[:-1]
    if len(lengths) == 0:
        return
    base, end = int(offsets[0]), int(offsets[-1])
    padded = np.empty(end - base + 8, dtype=np.uint8)  # a load of the last word must not leave the buffer
    padded[:-8] = data[base:end]
    padded[-8:] = 0
    loads = np.ndarray(end - base + 1, dtype="<u8", buffer=padded, strides=(1,))
    starts = offsets[:-1] - base
    shortest, longest = int(lengths.min()), int(lengths.max())
    for position in range(0, longest, 8):
        rows = None if position < shortest else np.flatnonzero(lengths > position)
        values = loads[starts + position] if rows is None else loads[starts[rows] + position]
        if position + 8 > shortest:
            left = lengths - position if rows is None else lengths[rows] - position
            values &= _TAIL_MASKS.take(left, mode="clip")
        yield rows, values
