"""Many JSON texts in one buffer, a line each, looked at by numpy in words of eight bytes.

Where quotes are is kept as a bitmap, one bit a byte, so that "the next quote behind this place" is a word of the bitmap
and a few operations on it, for thousands of lines at once. This way of reading JSON is simdjson's (Langdale and Lemire,
VLDB Journal 2019), with numpy's vectors in place of the processor's.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

PAD = 512
"""Bytes before the first line and behind the last one that may be read, whatever is in them: no place needs a check."""

_FEED, _RETURN, _QUOTE, _BACKSLASH, _BLANK = (ord(one) for one in '\n\r"\\ ')
_PADDING = bytes(PAD)
_ONE = np.uint64(1)
_SURE_BITS = 57  # a word of the bitmap that begins in the middle of a byte has at least so many bits
_BYTES_MAX = 2**31 - 2**20  # so that places fit Arrow's offsets


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of text in one buffer.

    Args:
        data: The buffer, with `PAD` bytes that count for nothing at both ends.
        starts: Where each line begins.
        ends: Where each line ends: before its line feed, and before a carriage return in front of that.
        odd: The lines that hold a backslash, a control character, or bytes that are no UTF-8; None: no line does.
    """

    data: Bytes
    starts: Places
    ends: Places
    odd: Mask | None

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def of(cls, messages: Sequence[bytes | None]) -> Lines | None:
        """A copy of some messages; None when one has a line feed in it, or all are too long for one buffer."""
        count = len(messages)
        try:
            text = b"\n".join((_PADDING, *messages, _PADDING))  # type: ignore[arg-type]
        except TypeError:
            text = b"\n".join((_PADDING, *(one or b"" for one in messages), _PADDING))
        if len(text) > _BYTES_MAX or not count:
            return None
        lines = cls.within(text, PAD + 1, len(text) - PAD)
        return lines if len(lines) == count else None

    @classmethod
    def within(cls, buffer: bytes | bytearray, start: int, end: int) -> Lines:
        """The lines in a part of a buffer that has `PAD` bytes before and behind it.

        Args:
            buffer: Not copied: it must not change while the lines are used.
            start: Where the first line begins.
            end: Behind the last line's line feed.
        """
        data = np.frombuffer(buffer, np.uint8)[start - PAD : end + PAD]
        part = data[PAD : PAD + end - start]
        special = part.view(np.int8) < _BLANK  # control characters and, negative, all beyond ASCII
        feeds = _few_bits(special)
        plain = feeds is not None and bool((part[feeds] == _FEED).all())
        if feeds is None or not plain:
            feeds = np.flatnonzero(part == _FEED)
        ends = feeds + PAD
        starts = np.empty_like(ends)
        starts[:1] = PAD
        np.add(ends[:-1], 1, out=starts[1:])
        odd = None
        if not plain:
            odd = _odd_bytes(part, special, feeds)
            ends -= (data[ends - 1] == _RETURN) & (ends > starts)
        if buffer.find(b"\\", start, end) >= 0:
            slashes = np.flatnonzero(part == _BACKSLASH)
            odd = slashes if odd is None else np.concatenate([odd, slashes])
        return cls(data, starts, ends, None if odd is None or not len(odd) else _lines_with(odd + PAD, ends))

    def part(self, first: int, last: int) -> Lines:
        """Some of the lines, with a buffer of their own bounds."""
        base = int(self.starts[first]) - PAD
        odd = None if self.odd is None else self.odd[first:last]
        return Lines(
            self.data[base : int(self.ends[last - 1]) + 1 + PAD],
            self.starts[first:last] - base,
            self.ends[first:last] - base,
            odd if odd is not None and odd.any() else None,
        )

    def texts(self, rows: Places) -> list[bytes]:
        """Copies of some lines, without their line feeds."""
        view = memoryview(self.data)  # type: ignore[arg-type]
        spans = zip(self.starts[rows].tolist(), self.ends[rows].tolist(), strict=True)
        return [bytes(view[start:end]) for start, end in spans]

    def records(self, count: int) -> list[bytes]:
        """Copies of the first lines, with what ends them."""
        bounds = [*self.starts[: count + 1].tolist(), len(self.data) - PAD][: count + 1]
        view = memoryview(self.data)  # type: ignore[arg-type]
        return [bytes(view[start:end]) for start, end in pairwise(bounds)]

    def words(self, places: Places, count: int) -> Words:
        """As many words as asked for from each place on; a row each.

        One item of the view is as long as all of them, and begins at every byte: so numpy fetches each by one copy.
        """
        return fetch(self.data, places, 8 * count).view(np.uint64).reshape(-1, count)

    def strings(self, starts: Places, ends: Places) -> pa.Array:
        """The text between these places, in rising order, as a column of its own."""
        offsets = np.empty(2 * len(starts), np.int32)
        offsets[::2], offsets[1::2] = starts, ends
        return pick_strings(self.data, offsets)


class Quotes:
    """Where the quotes of some lines are.

    Args:
        data: The buffer of `Lines`.
    """

    def __init__(self, data: Bytes) -> None:
        is_quote = data == _QUOTE
        self._end = len(data) - PAD
        self._bits = np.packbits(is_quote, bitorder="little")
        whole = self._end // 64 * 64
        words = self._bits[PAD // 8 : whole // 8].view(np.uint64)
        self.total = int(np.bitwise_count(words).sum()) + int(np.count_nonzero(is_quote[whole : self._end]))
        """How many quotes there are in the lines."""

    def next(self, places: Places, wide: bool = False) -> tuple[Places, bool]:
        """The first quote at or behind each place, and whether many are so far that `wide` finds them sooner.

        Args:
            places: Before the padding at the end.
            wide: Whether to look at two words of the bitmap at once.

        Returns:
            The places of the quotes; the beginning of the padding where there is none.
        """
        shifts = (places & 7).view(np.uint64)
        if wide:
            bits = fetch(self._bits, places >> 3, 16).view(np.uint64).reshape(-1, 2)
            word = (bits[:, 0] >> shifts) | ((bits[:, 1] << _ONE) << (shifts ^ np.uint64(63)))
        else:
            word = fetch(self._bits, places >> 3, 8).view(np.uint64) >> shifts
        found = places + np.bitwise_count(word ^ (word - _ONE))
        found -= 1
        far = np.flatnonzero(word == 0)
        if len(far):
            step = 64 if wide else _SURE_BITS
            found[far] = self._next_far(places[far] + step)
        return found, len(far) * 8 > len(places)

    def _next_far(self, places: Places) -> Places:
        found = np.full(len(places), self._end)
        left = np.flatnonzero(places < self._end)
        while len(left):
            some = places[left]
            word = fetch(self._bits, some >> 3, 8).view(np.uint64) >> (some & 7).view(np.uint64)
            here = word != 0
            found[left[here]] = (some + np.bitwise_count(word ^ (word - _ONE)) - 1)[here]
            places[left] += _SURE_BITS
            left = left[~here]
            left = left[places[left] < self._end]
        return found


def fetch(data: Bytes, places: Places, size_bytes: int) -> npt.NDArray[np.void]:
    """So many bytes from each place on."""
    items: npt.NDArray[np.void] = np.ndarray((len(data) - size_bytes + 1,), f"V{size_bytes}", data, strides=(1,))
    return items[places]


def pick_strings(data: Bytes, offsets: npt.NDArray[np.int32]) -> pa.Array:
    """Every other one of the strings between offsets, copied: nothing of the buffer is kept."""
    if not len(offsets):
        return pa.array([], pa.string())
    both = pa.Array.from_buffers(
        pa.string(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)], null_count=0
    )
    return both.take(pa.array(np.arange(0, len(offsets), 2, dtype=np.int32)))


def _few_bits(mask: Mask) -> Places | None:
    """The places where a mask is true, quickly if they are few; None if they are many."""
    words = _as_words(np.packbits(mask, bitorder="little"))
    filled = np.flatnonzero(words != 0)
    word = words[filled]
    counts = np.bitwise_count(word)
    most = int(counts.max(initial=0))
    if most > 8:
        return None
    first = filled * 64
    places: Places = np.empty(int(counts.sum()), np.int64)
    targets: Places = np.cumsum(counts, dtype=np.int64) - counts
    while len(word):
        places[targets] = first + (np.bitwise_count(word ^ (word - _ONE)) - np.uint8(1))
        if most <= 1:
            break
        word = word & (word - _ONE)
        more = np.flatnonzero(word)
        word, first, targets = word[more], first[more], targets[more] + 1
    return places


def _as_words(packed: Bytes) -> Words:
    whole = len(packed) // 8 * 8
    if whole == len(packed):
        return packed.view(np.uint64)
    padded = np.zeros(whole + 8, np.uint8)
    padded[: len(packed)] = packed
    return padded.view(np.uint64)


def _odd_bytes(part: Bytes, special: Mask, feeds: Places) -> Places:
    """Control characters that don't end lines, and bytes that are no UTF-8, one a line at least."""
    places = np.flatnonzero(special)
    found = part[places]
    odd = places[(found < _BLANK) & (found != _FEED)]
    odd = odd[(part[odd] != _RETURN) | (part[odd + 1] != _FEED)]  # a line feed is last, and is not among these
    return np.concatenate([odd, _no_utf8(part, feeds)]) if (found >= 0x80).any() else odd


def _no_utf8(part: Bytes, feeds: Places) -> Places:
    """The first such place in each line that has one."""
    odd: list[int] = []
    view = memoryview(part)  # type: ignore[arg-type]
    start = 0
    while start < len(part):
        try:
            codecs.utf_8_decode(view[start:], "strict", True)
            break
        except UnicodeDecodeError as error:
            odd.append(start + error.start)
            start = int(feeds[np.searchsorted(feeds, odd[-1])]) + 1
    return np.array(odd, np.int64)


def _lines_with(places: Places, ends: Places) -> Mask:
    odd = np.zeros(len(ends), np.bool_)
    odd[np.searchsorted(ends, places)] = True
    return odd
