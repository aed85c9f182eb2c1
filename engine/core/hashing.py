"""The hash behind key groups and slot tables: ours, the same on every platform and version.

Integers, booleans, dates and timestamps go through splitmix64 (Steele, Lea and Flood, 2014); strings and bytes are
folded eight bytes at a time straight from the Arrow buffers. `tests/engine/core/test_hashing.py` pins golden vectors:
state on disk depends on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

UInt64Array = npt.NDArray[np.uint64]

_NULL_HASH = np.uint64(0x9AE16A3B2F90404F)
_COMBINE = np.uint64(0x9E3779B97F4A7C15)
_C1 = np.uint64(0xBF58476D1CE4E5B9)
_C2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


def splitmix64(values: UInt64Array) -> UInt64Array:
    """Mix each 64-bit value; a bijection, so different integers never collide.

    >>> [hex(h) for h in splitmix64(np.array([0, 1], dtype=np.uint64)).tolist()]
    ['0xe220a8397b1dcdaf', '0x910a2dec89025cc1']
    """
    x = values + _COMBINE
    x ^= x >> _S30
    x *= _C1
    x ^= x >> _S27
    x *= _C2
    x ^= x >> _S31
    return x


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
        return hash_array(array.dictionary)[array.indices.to_numpy(zero_copy_only=False)]
    if is_binary_like(kind):
        hashes = _hash_binary(array)
    else:
        hashes = splitmix64(as_int64(array).view(np.uint64))
    if array.null_count:
        hashes[array.is_null().to_numpy(zero_copy_only=False)] = _NULL_HASH
    return hashes


def hash_columns(arrays: Sequence[pa.Array]) -> UInt64Array:
    """Hash rows of one or more key columns; one column hashes as by `hash_array`."""
    hashes = hash_array(arrays[0])
    for array in arrays[1:]:
        hashes = splitmix64(hashes * _COMBINE ^ hash_array(array))
    return hashes


def is_binary_like(kind: pa.DataType) -> bool:
    """Whether values of the type are strings or bytes of any length."""
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def as_int64(array: pa.Array) -> npt.NDArray[np.int64]:
    """The values of a fixed-width array as int64 bits, nulls as 0; floats by their canonical bit pattern.

    Raises:
        TypeError: The type is neither an integer, boolean, date, time, timestamp, duration nor float.
    """
    kind = array.type
    if array.null_count:
        array = array.fill_null(pa.scalar(0, pa.int64()).cast(_zero_type(kind)).cast(kind))
    if pa.types.is_floating(kind):
        floats = array.to_numpy(zero_copy_only=False).astype(np.float64) + 0.0  # -0.0 becomes 0.0
        floats[np.isnan(floats)] = np.nan
        return floats.view(np.int64)
    if pa.types.is_boolean(kind):
        return array.to_numpy(zero_copy_only=False).astype(np.int64)
    if pa.types.is_temporal(kind):
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        array = array.view(width)
    elif not pa.types.is_integer(kind):
        raise TypeError(f"a key cannot have type {kind}")
    return array.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)


def _zero_type(kind: pa.DataType) -> pa.DataType:
    """The integer type a zero of `kind` is cast through."""
    if pa.types.is_temporal(kind) and kind.bit_width == 32:
        return pa.int32()
    return pa.int64()


def binary_buffers(array: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Offsets (length + 1, int64) and bytes of a string or bytes array; right for slices too."""
    large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    buffers = array.buffers()
    if buffers[1] is None:
        return np.zeros(len(array) + 1, dtype=np.int64), np.zeros(0, dtype=np.uint8)
    whole = np.frombuffer(buffers[1], dtype=np.int64 if large else np.int32)
    offsets: npt.NDArray[np.int64] = whole[array.offset : array.offset + len(array) + 1].astype(np.int64)
    data = np.frombuffer(buffers[2], dtype=np.uint8) if buffers[2] is not None else np.zeros(0, np.uint8)
    return offsets, data


def hash_bytes(offsets: npt.NDArray[np.int64], data: npt.NDArray[np.uint8]) -> UInt64Array:
    """Hash each byte string `data[offsets[i]:offsets[i + 1]]`, eight bytes at a time."""
    lengths = offsets[1:] - offsets[:-1]
    hashes = splitmix64(lengths.astype(np.uint64))
    if len(lengths) == 0 or int(lengths.max()) == 0:
        return hashes
    base = int(offsets[0])
    padded = np.zeros(int(offsets[-1]) - base + 8, dtype=np.uint8)
    padded[:-8] = data[base : int(offsets[-1])]
    words = np.ndarray(len(padded) - 7, dtype="<u8", buffer=padded, strides=(1,))
    starts = offsets[:-1] - base
    rows: npt.NDArray[np.int64] | None = None  # None: every row has this word
    for word in range((int(lengths.max()) + 7) // 8):
        left = lengths - word * 8
        if rows is not None or int(left.min()) <= 0:
            rows = np.flatnonzero(left > 0)
        chunk, rest = (starts, left) if rows is None else (starts[rows], left[rows])
        value = words[chunk + word * 8]
        cut = rest < 8
        if cut.any():
            shift = (8 * np.where(cut, rest, 0)).astype(np.uint64)
            mask = (np.uint64(1) << shift) - np.uint64(1)
            value = np.where(cut, value & mask, value)
        if rows is None:
            hashes = splitmix64(hashes ^ value)
        else:
            hashes[rows] = splitmix64(hashes[rows] ^ value)
    return hashes


def _hash_binary(array: pa.Array) -> UInt64Array:
    offsets, data = binary_buffers(array)
    return hash_bytes(offsets, data)
