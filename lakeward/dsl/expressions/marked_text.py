"""Regular expressions of the commonest shape, a mark and what follows it, without a regular expression engine.

`(&|^)channel_id=([^&]*)`, `[?&]id=([^&#]+)`, `user:([^ ]*)`: something that may stand before, fixed text, and then all
up to a character. Finding such by numpy is two to five times as fast as RE2, most where groups are wanted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakeward.dsl.expressions.compiled import Kernel
from lakeward.dsl.expressions.text_kernels import Bytes, Mask, Places, bytes_of, cut, positions, valid_bits

_PLAIN = r"[^.^$*+?{}\[\]\\|()]|\\[^\w]"
_SHAPE = re.compile(
    rf"(?:(?P<open>\((?:\?:)?)(?:(?P<first>{_PLAIN})\|\^|\^\|(?P<second>{_PLAIN}))\)|\[(?P<any>[^\]\\^-]+)\])?"
    rf"(?P<mark>(?:{_PLAIN})+)"
    r"(?:\(\[\^(?P<stops>[^\]\\^-]+)\](?P<least>[*+])\))?",
    re.DOTALL,
)
_CANDIDATES_MAX = 1 / 12
"""Above this share of all bytes the first look finds too many places, and RE2 is faster."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found, in the first place of each row that has one.

    Args:
        rows: The rows.
        starts: Where the text after the mark begins, in the bytes of all rows.
        ends: Where it ends.
    """

    rows: Places
    starts: Places
    ends: Places


class Marked:
    """A pattern of this shape.

    Args:
        mark: The fixed text.
        before: What one of may stand before it; None: anything.
        at_start: Whether it may also stand at the beginning.
        stops: The characters that end what follows; None: nothing is wanted of it.
        least: How long that must be.
    """

    def __init__(self, mark: bytes, before: bytes | None, at_start: bool, stops: bytes | None, least: int) -> None:
        self._mark = mark
        self._before = None if before is None else _table(before)
        self._at_start = at_start
        self._stops = stops
        self._least = least
        self._anchor = max(range(len(mark)), key=lambda place: (not chr(mark[place]).isalnum(), place))

    @classmethod
    def of(cls, pattern: str, group: int | None = None) -> Marked | None:
        """The pattern, if it is one of these and the group is what follows the mark; None: whether it matches."""
        match = _SHAPE.fullmatch(pattern)
        if match is None:
            return None
        grouped = match["open"] == "("
        if group is not None and (match["stops"] is None or group != 1 + grouped):
            return None
        mark = _unescaped(match["mark"])
        before = match["any"] or _unescaped(match["first"] or match["second"] or "") or None
        stops = match["stops"]
        if not all(text is None or text.isascii() for text in (before, stops)) or (before and mark[0] in before):
            return None
        return cls(
            mark.encode(),
            before.encode() if before else None,
            match["open"] is not None,
            stops.encode() if stops else None,
            1 if match["least"] == "+" else 0,
        )

    def find(self, array: pa.Array) -> Found | None:
        """Where it is found; None where RE2 would be faster."""
        offsets, data = bytes_of(array)
        places = self._places(data)
        if places is None:
            return None
        rows = np.searchsorted(offsets, places, side="right") - 1
        ends = offsets[1:][rows]
        good = self._fits_before(data, places, offsets[rows]) & (places + len(self._mark) <= ends)
        places, rows, ends = places[good] + len(self._mark), rows[good], ends[good]
        if self._stops is not None:
            ends = self._ends(data, places, ends)
            long = ends - places >= self._least
            places, rows, ends = places[long], rows[long], ends[long]
        first = np.ones(len(rows), dtype=np.bool_)
        np.not_equal(rows[1:], rows[:-1], out=first[1:])
        return Found(rows[first], places[first], ends[first])

    def _places(self, data: Bytes) -> Places | None:
        """Where the mark is, whatever row it lies in: by its rarest character, then eight bytes at a time."""
        mark, size = self._mark, len(self._mark)
        places = positions(data, mark[self._anchor : self._anchor + 1]) - self._anchor
        if len(places) > len(data) * _CANDIDATES_MAX + 64:
            return None
        places = places[(places >= 0) & (places + size <= len(data))]
        if size < 8:
            data = np.append(data, np.zeros(8, np.uint8))
        words = np.ndarray(max(len(data) - 7, 0), "<u8", data.data, strides=(1,))
        for start in [*range(0, size - 8, 8), max(size - 8, 0)]:  # the last word overlaps the one before
            part = mark[start : start + 8]
            same = words[places + start] & np.uint64((1 << (8 * len(part))) - 1)
            places = places[same == np.uint64(int.from_bytes(part, "little"))]
        return places

    def _fits_before(self, data: Bytes, places: Places, begins: Places) -> Mask:
        if self._before is None:
            return places == begins if self._at_start else np.ones(len(places), dtype=np.bool_)
        first = places == begins
        allowed = self._before[data[np.maximum(places - 1, 0)]]
        return np.where(first, self._at_start, allowed)

    def _ends(self, data: Bytes, places: Places, ends: Places) -> Places:
        stops = np.append(positions(data, self._stops or b""), len(data))
        found: Places = np.minimum(stops[np.searchsorted(stops, places)], ends)
        return found


def matching(marked: Marked, otherwise: Kernel) -> Kernel:
    """Whether the pattern is found."""

    def function(array: pa.Array) -> pa.Array:
        found = marked.find(array)
        if found is None:
            return otherwise(array)
        mask = np.zeros(len(array), dtype=np.bool_)
        mask[found.rows] = True
        bits = pa.py_buffer(np.packbits(mask, bitorder="little").tobytes())
        return pa.Array.from_buffers(pa.bool_(), len(array), [valid_bits(array), bits])

    return function


def following(marked: Marked, otherwise: Kernel) -> Kernel:
    """The text that follows the mark; null where the pattern is not found."""

    def function(array: pa.Array) -> pa.Array:
        found = marked.find(array)
        if found is None:
            return otherwise(array)
        starts, lengths = np.zeros(len(array), found.ends.dtype), np.zeros(len(array), found.ends.dtype)
        starts[found.rows], lengths[found.rows] = found.starts, found.ends - found.starts
        matched = np.zeros(len(array), dtype=np.bool_)
        matched[found.rows] = True
        return cut(array, bytes_of(array)[1], starts, lengths, matched)

    return function


def _table(characters: bytes) -> npt.NDArray[np.bool_]:
    """For each byte whether it is one of these."""
    table = np.zeros(256, dtype=np.bool_)
    table[list(characters)] = True
    return table


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
