"""From the text of JSON numbers to Arrow columns, many at once, and which texts are none.

Arrow reads more than JSON allows (007, 0x1F) and stops at the first text that it can't read.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]

_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_SHORT_INTEGER = r"^-?(0|[1-9][0-9]{0,17})$"


def integers(text: pa.Array, type: pa.DataType) -> tuple[pa.Array, Mask | None]:
    """Integers of a type.

    >>> integers(pa.array(["7", "-1", "300", "07"]), pa.int8())[1].tolist()
    [True, True, False, False]

    Args:
        text: Strings without nulls, not a slice.
        type: Integers of any width.

    Returns:
        The column, and which rows of it count: None for all. One that is told not to count may still be a good number.
    """
    try:
        values = text.cast(type)
        if _starts_well(text):
            return values, None
    except pa.ArrowInvalid:
        pass  # now find out which
    info = np.iinfo(type.to_pandas_dtype())
    good = pc.match_substring_regex(text, _SHORT_INTEGER)
    values = pc.if_else(good, text, "0").cast(pa.int64())
    low, high = max(int(info.min), -(2**63)), min(int(info.max), 2**63 - 1)
    good = pc.and_(good, pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high)))
    return pc.if_else(good, values, 0).cast(type), np.asarray(good)


def floats(text: pa.Array, type: pa.DataType) -> tuple[pa.Array, Mask]:
    """Numbers of 32 or 64 bits; see `integers`. The negative zero and what is out of range don't count."""
    good = pc.match_substring_regex(text, _NUMBER)
    wide = pc.if_else(good, text, "0").cast(pa.float64())
    numbers = np.asarray(wide)
    most = float(np.finfo(type.to_pandas_dtype()).max)
    return wide.cast(type), np.asarray(good) & (abs(numbers) <= most) & ~(np.signbit(numbers) & (numbers == 0))


def are_numbers(text: pa.Array) -> Mask | None:
    """Which texts are numbers, None if all are; integers are told most quickly."""
    try:
        text.cast(pa.int64())
        if _starts_well(text):
            return None
    except pa.ArrowInvalid:
        pass
    return np.asarray(pc.match_substring_regex(text, _NUMBER))


def _starts_well(text: pa.Array) -> bool:
    """Whether integers that Arrow could read all begin as JSON wants it: no leading zero, no hexadecimals."""
    offsets = np.frombuffer(text.buffers()[1], np.int32)[: len(text) + 1]
    data = np.frombuffer(text.buffers()[2] or b"", np.uint8)
    starts = offsets[:-1]
    first = data[starts]
    odd = np.flatnonzero(_is_no_digit_from_1(first))
    if not len(odd):
        return True
    minus = first[odd] == ord("-")
    zero = (first[odd] == ord("0")) & (offsets[odd + 1] - starts[odd] == 1)
    return bool((minus | zero).all()) and not _is_no_digit_from_1(data[starts[odd[minus]] + 1]).any()


def _is_no_digit_from_1(letters: npt.NDArray[np.uint8]) -> Mask:
    no_digit: Mask = letters - np.uint8(ord("1")) > 8  # unsigned: what is less than 1 becomes large
    return no_digit
