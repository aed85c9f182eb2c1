"""Golden vectors of the hash: state on disk and the routing of rows depend on every bit."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.core.hashing import (
    NULL_HASH,
    as_int64,
    binary_buffers,
    hash_array,
    hash_bytes,
    hash_columns,
    pack_bytes,
    splitmix64,
)

MASK = 2**64 - 1


def mix(value: int) -> int:
    """splitmix64 in plain Python integers."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def hash_one(value: bytes) -> int:
    """The hash of a byte string in plain Python."""
    result = mix(len(value))
    for position in range(0, len(value), 8):
        result = mix(result ^ int.from_bytes(value[position : position + 8], "little"))
    return result


def hexed(array: pa.Array) -> list[str]:
    return [hex(value) for value in hash_array(array).tolist()]


def test_integers_hash_to_their_golden_vectors() -> None:
    assert hexed(pa.array([0, 1, -1, 7, 2**63 - 1, None], pa.int64())) == [
        "0xe220a8397b1dcdaf",
        "0x910a2dec89025cc1",
        "0xe4d971771b652c20",
        "0x63cbe1e459320dd7",
        "0x2a67d7552e039ea7",
        "0x9ae16a3b2f90404f",
    ]


def test_strings_hash_to_their_golden_vectors() -> None:
    assert hexed(pa.array(["", "a", "lakeward", "lakeward!", "exactly-once delivery", None])) == [
        "0xe220a8397b1dcdaf",
        "0x5e025f9ade9eaf3e",
        "0x9426ad3d2859dbaf",
        "0x3cce3afd466e39f8",
        "0x424d9ff73eb8709f",
        "0x9ae16a3b2f90404f",
    ]


def test_bytes_booleans_and_floats_hash_to_their_golden_vectors() -> None:
    assert hexed(pa.array([b"\0", b"\0\0", b"\xff" * 17])) == [
        "0x5e41ab087439611e",
        "0x64684c4f0fd784b4",
        "0xc8a7a35832e4c6cd",
    ]
    assert hexed(pa.array([True, False])) == ["0x910a2dec89025cc1", "0xe220a8397b1dcdaf"]
    assert hexed(pa.array([0.0, -0.0, 1.5, float("nan")])) == [
        "0xe220a8397b1dcdaf",
        "0xe220a8397b1dcdaf",
        "0xd6dab18e1392608a",
        "0xc72971d82e15bb46",
    ]


def test_composite_keys_hash_to_their_golden_vectors() -> None:
    columns = [pa.array(["a", None, ""]), pa.array([1, 2, None], pa.int32())]
    assert [hex(value) for value in hash_columns(columns).tolist()] == [
        "0x32fafd5b27dd755d",
        "0xb24b7dbe0c375a",
        "0xf7fe19c52f3afc0e",
    ]


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(0, 5))
def test_byte_strings_hash_as_the_plain_definition_says(values: list[bytes], skip: int) -> None:
    for kind in (pa.binary(), pa.large_binary()):
        array = pa.array(values, kind).slice(skip)
        expected = [hash_one(value) for value in values[skip:]]
        assert hash_array(array).tolist() == expected
        assert hash_bytes(*binary_buffers(array)).tolist() == expected
        packed = pack_bytes(*binary_buffers(array))
        assert packed.hashes.tolist() == expected
        for value, start, length in zip(values[skip:], packed.starts, packed.lengths, strict=True):
            words = packed.words[start : start + (length + 7) // 8]
            assert words.tobytes()[:length] == value
            assert not any(words.tobytes()[length:])


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=30))
def test_integers_hash_as_the_plain_definition_says(values: list[int | None]) -> None:
    expected = [int(NULL_HASH) if value is None else mix(value & MASK) for value in values]
    assert hash_array(pa.array(values, pa.int64())).tolist() == expected


def test_splitmix_leaves_its_argument_alone() -> None:
    values = np.array([1, 2, 3], dtype=np.uint64)
    splitmix64(values)
    assert values.tolist() == [1, 2, 3]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()])
def test_the_width_of_an_integer_does_not_matter(kind: pa.DataType) -> None:
    values = [0, 7, None, 100]
    assert hexed(pa.array(values, kind)) == hexed(pa.array(values, pa.int64()))


def test_moments_hash_as_their_integers() -> None:
    noon = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
    stamps = pa.array([noon, None], pa.timestamp("us", "UTC"))
    assert hexed(stamps) == hexed(pa.array([int(noon.timestamp() * 1_000_000), None], pa.int64()))
    assert hexed(pa.array([datetime.date(1970, 1, 8)])) == hexed(pa.array([7]))


def test_dictionary_encoding_does_not_matter() -> None:
    plain = pa.array(["a", None, "b", "a", ""])
    assert hexed(plain.dictionary_encode()) == hexed(plain)
    assert hexed(plain.dictionary_encode().slice(1, 3)) == hexed(plain.slice(1, 3))
    nothing = pa.array([None, None], pa.string())
    assert hexed(nothing.dictionary_encode()) == hexed(nothing)


def test_what_lies_under_a_null_does_not_matter() -> None:
    first = pa.array(np.array([1, 99], dtype=np.int32), mask=np.array([False, True]))
    second = pa.array(np.array([1, 42], dtype=np.int32), mask=np.array([False, True]))
    assert as_int64(first).tolist() == as_int64(second).tolist() == [1, 0]


def test_nested_types_have_no_hash() -> None:
    with pytest.raises(TypeError, match="cannot have type list"):
        hash_array(pa.array([[1]]))
