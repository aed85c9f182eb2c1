"""Text of times in a format, without formatting each row: Arrow's strftime does a million rows a second.

A format shows a time only to some step: a day, an hour, a minute. Where a batch spans few of them, which streams do,
each is written once, and the rows take their text. Where it spans many, the digits are computed for all rows at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.dsl.expressions.casts import TICKS_A_SECOND, cast_kernel
from lakeward.dsl.expressions.civil import civil_from_days
from lakeward.dsl.expressions.compiled import Kernel, kernel
from lakeward.dsl.expressions.numpy_kernels import floor_to, values_of
from lakeward.engine.core.errors import GraphError

Ticks = npt.NDArray[np.int64]
Field = Callable[[Ticks, "Date"], npt.NDArray[Any]]

_DIRECTIVE = re.compile(r"%[EO]?(.)", re.DOTALL)
_DAY_S = 86_400
_OF_A_DAY = frozenset("YmdjybBaAuwUWVGgCDFhexZz%nt")
_OF_AN_HOUR = _OF_A_DAY | frozenset("HIp")
_OF_A_MINUTE = _OF_AN_HOUR | frozenset("MR")
_KNOWN = frozenset("aAbBcCdDeFfgGhHIjmMnprRStTuUVwWxXyYzZ%")
_FEW_STEPS = 64
_ROWS_A_STEP = 16
"""Rows for which writing one more text by Arrow costs as much as computing the digits of all of them."""

_SHORT_FOR = {"%F": "%Y-%m-%d", "%T": "%H:%M:%S", "%R": "%H:%M", "%D": "%m/%d/%y"}
_DAYS = (-354_285, 2_932_896)
"""The days since 1970 whose years have four digits: 1000-01-01 to 9999-12-31."""
_PAIRS = np.frombuffer("".join(f"{number:02d}" for number in range(100)).encode(), dtype="<u2")
"""Two digits of each number below 100, as they lie in memory."""


def strftime_kernel(format: str, kind: pa.DataType) -> Kernel:
    """Text of times of a type, in a format of C's strftime.

    Raises:
        GraphError: The format has a directive that there is not, %f elsewhere than in %S.%f, or a zone that the type
            does not have.
    """
    _check(format, kind)
    if "%f" in format:
        return _with_fractions(format, kind)
    if kind.tz is not None and not in_utc(kind):
        return _local(format, kind)
    step = max(_step_s(format) * TICKS_A_SECOND[kind.unit], 1)
    digits = Digits.of(format, TICKS_A_SECOND[kind.unit])
    write = _writer(format, kind)

    def function(array: pa.Array) -> pa.Array:
        if array.null_count == len(array):
            return pa.nulls(len(array), pa.string())
        ticks = _ticks_of(array)
        low, high = int(ticks.min()) // step, int(ticks.max()) // step
        if high - low < max(_FEW_STEPS, len(ticks) // _ROWS_A_STEP):
            texts = write(pa.array(np.arange(low, high + 1) * step).view(kind))
            if low == high:
                return _repeated(texts[0].as_buffer().to_pybytes(), array)
            return texts.take(_with_validity((ticks // step - low).astype(np.int32), pa.int32(), array))
        return digits(ticks, array) if digits is not None and digits.shows(ticks) else _distinct(write, array, step)

    return function


def _check(format: str, kind: pa.DataType) -> None:
    """Arrow writes directives that it does not know as they are, and misses a zone only when there are rows."""
    unknown = sorted({*_DIRECTIVE.findall(format)} - _KNOWN)
    if unknown or "%" in _DIRECTIVE.sub("", format):
        what = f"has an unknown directive, %{unknown[0]}" if unknown else "ends in half a directive"
        hint = "formats are those of C's strftime, %Y-%m-%d %H:%M:%S and so on; a percent sign is %%"
        raise GraphError(f"dt.strftime: the format {format!r} {what}", hint=hint)
    if kind.tz is None and set(_DIRECTIVE.findall(format)) & set("zZ"):
        hint = 'say that it is in UTC: .cast("timestamp")'
        raise GraphError(f"dt.strftime: the format {format!r} shows the time zone, but the column has none", hint=hint)


def in_utc(kind: pa.DataType) -> bool:
    """Whether local days, hours and minutes are those of UTC, so that integers do."""
    return kind.tz is None or kind.tz in ("UTC", "+00:00", "Z", "Etc/UTC")


def _ticks_of(array: pa.Array) -> Ticks:
    """The values; at nulls that of another row, since what lies there may be anything."""
    ticks = values_of(array)
    if not array.null_count:
        return ticks
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    return np.where(valid, ticks, ticks[int(np.argmax(valid))])


def _repeated(text: bytes, source: pa.Array) -> pa.Array:
    """The same text for every row that has a time."""
    offsets = np.arange(len(source) + 1, dtype=np.int32) * np.int32(len(text))
    buffers = [_validity(source), pa.py_buffer(offsets), pa.py_buffer(text * len(source))]
    return pa.Array.from_buffers(pa.string(), len(source), buffers)


def _with_validity(values: npt.NDArray[Any], kind: pa.DataType, source: pa.Array) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [_validity(source), pa.py_buffer(values)])


def _validity(source: pa.Array) -> pa.Buffer | None:
    if not source.null_count:
        return None
    valid = source.is_valid().to_numpy(zero_copy_only=False)
    return pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())


def _writer(format: str, kind: pa.DataType) -> Kernel:
    """Arrow's strftime; seconds whole."""
    write = kernel("strftime", pc.StrftimeOptions(format))
    whole = cast_kernel(kind, pa.timestamp("s", tz=kind.tz))
    return lambda array: write(whole(array))


def _distinct(write: Kernel, array: pa.Array, step: int) -> pa.Array:
    """Each distinct time once."""
    coded = floor_to(array, step).dictionary_encode()
    return write(coded.dictionary).take(coded.indices)


def _local(format: str, kind: pa.DataType) -> Kernel:
    """In another zone: the same over the time that its clocks show, unless the format shows the zone."""
    if _DIRECTIVE.findall(format) and set(_DIRECTIVE.findall(format)) & set("Zzcs+"):
        write = _writer(format, kind)
        return lambda array: _distinct(write, array, TICKS_A_SECOND[kind.unit])
    naive, clock = strftime_kernel(format, pa.timestamp(kind.unit)), kernel("local_timestamp")
    return lambda array: naive(clock(array))


def _step_s(format: str) -> int:
    shown = set(_DIRECTIVE.findall(format))
    if shown <= _OF_A_DAY:
        return _DAY_S
    if shown <= _OF_AN_HOUR:
        return 3_600
    return 60 if shown <= _OF_A_MINUTE else 1


def _with_fractions(format: str, kind: pa.DataType) -> Kernel:
    """Arrow writes seconds with as many digits as the unit has, so "%S.%f" of microseconds is its "%S"."""
    if "%f" in format.replace("%S.%f", "") or "%S" in format.replace("%S.%f", ""):
        raise GraphError(f"dt.strftime: %f is known only as %S.%f, and only once: {format!r}")
    micros = pa.timestamp("us", tz=kind.tz)
    to_us = cast_kernel(kind, micros)
    write = kernel("strftime", pc.StrftimeOptions(format.replace("%S.%f", "%S")))
    digits = Digits.of(format, 1_000_000) if in_utc(kind) else None

    def function(array: pa.Array) -> pa.Array:
        times = to_us(array)
        if digits is None or times.null_count == len(times):
            return write(times)
        ticks = _ticks_of(times)
        return digits(ticks, times) if digits.shows(ticks) else write(times)

    return function


class Date:
    """Years, months and days of rows, computed when a format asks for the first of them."""

    def __init__(self, days: Ticks) -> None:
        self._days = days
        self._parts: tuple[npt.NDArray[Any], ...] | None = None

    def part(self, index: int) -> npt.NDArray[Any]:
        """Year, month or day."""
        if self._parts is None:
            self._parts = civil_from_days(self._days.astype(np.int32))
        return self._parts[index]


class Digits:
    """A format in which every row has the same length: digits and fixed text.

    Args:
        template: The text with zeros for digits.
        fields: What to write where: two digits each.
        ticks_a_second: Of the column.
    """

    def __init__(self, template: bytes, fields: Sequence[tuple[int, Field]], ticks_a_second: int) -> None:
        self._template = np.frombuffer(template, dtype=np.uint8)
        self._fields = fields
        self._second = ticks_a_second

    @classmethod
    def of(cls, format: str, ticks_a_second: int) -> Digits | None:
        """The format, if it is one of these."""
        full = re.sub("%[FTRD]", lambda match: _SHORT_FOR[match[0]], format)
        template, fields, end = b"", list[tuple[int, Field]](), 0
        for match in re.finditer(r"%(.?)", full, re.DOTALL):
            template += full[end : match.start()].encode()
            end = match.end()
            if match[1] == "%":
                template += b"%"
                continue
            parts = _fields(match[1], ticks_a_second)
            if not parts:
                return None
            fields += [(len(template) + 2 * number, part) for number, part in enumerate(parts)]
            template += b"00" * len(parts)
        return cls(template + full[end:].encode(), fields, ticks_a_second) if fields else None

    def shows(self, ticks: Ticks) -> bool:
        """Whether all times have years of four digits."""
        low, high = (int(tick) // (self._second * _DAY_S) for tick in (ticks.min(), ticks.max()))
        return low >= _DAYS[0] and high <= _DAYS[1]

    def __call__(self, ticks: Ticks, array: pa.Array) -> pa.Array:
        """The texts of times; null where the array is."""
        rows, width = len(ticks), len(self._template)
        out = np.empty((rows, width), dtype=np.uint8)
        out[:] = self._template
        date = Date(ticks // (self._second * _DAY_S))
        for place, field in self._fields:
            pair = np.ndarray(rows, dtype="<u2", buffer=out.data, offset=place, strides=(width,))
            pair[:] = _PAIRS.take(field(ticks, date))
        offsets = np.arange(rows + 1, dtype=np.int32) * width
        return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(out), _validity(array))


def _fields(letter: str, second: int) -> list[Field]:
    """The pairs of digits of a directive; none if it has no fixed length."""
    clock = {"H": (3_600 * second, 24), "M": (60 * second, 60), "S": (second, 60)}
    if letter in clock:
        step, cycle = clock[letter]
        return [lambda ticks, date: ticks // step % cycle]
    if letter == "f":
        return [lambda ticks, date, cut=cut: ticks // cut % 100 for cut in (10_000, 100, 1)]  # type: ignore[misc]
    century: list[Field] = [lambda ticks, date: date.part(0) // 100]
    of_date: dict[str, Field] = {
        "y": lambda ticks, date: date.part(0) % 100,
        "m": lambda ticks, date: date.part(1),
        "d": lambda ticks, date: date.part(2),
    }
    if letter == "Y":
        return [*century, of_date["y"]]
    return [of_date[letter]] if letter in of_date else []
