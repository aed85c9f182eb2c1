"""Cutting many messages at once where a template says, and finding those that it does not fit.

All messages lie in one buffer. The quotes that a colon follows are where keys end; from each of them the template knows
where a literal begins and where the next value does. Arrow then compares all literals with the expected ones, without
copying them. No byte is left unchecked: what is no literal is a value, and values are checked by whoever reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.connectors.formats.json_template import Template

Places = npt.NDArray[np.int64]
Offsets = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

_QUOTE, _COLON, _BACKSLASH, _BLANK = (ord(one) for one in '":\\ ')


@dataclass(frozen=True, slots=True)
class Buffer:
    """Messages one after the other.

    Args:
        messages: As strings of Arrow; not validated.
        data: Their bytes.
        offsets: Where each begins, and where the last one ends.
    """

    messages: pa.Array
    data: npt.NDArray[np.uint8]
    offsets: Offsets

    @classmethod
    def of(cls, messages: Sequence[bytes | None]) -> Buffer | None:
        """A copy of the messages; None when Arrow can't hold them in one piece."""
        binary = pa.array(messages, pa.binary())
        if not isinstance(binary, pa.Array) or binary.buffers()[2] is None:
            return None  # over 2 GB, or no byte at all
        offsets = np.frombuffer(binary.buffers()[1], np.int32)[: len(binary) + 1]
        data = np.frombuffer(binary.buffers()[2], np.uint8)[: offsets[-1]]
        return cls(binary.view(pa.string()), data, offsets)

    def rows_of(self, places: Places) -> Places:
        """The messages that hold these bytes; each may occur more than once."""
        rows: Places = np.searchsorted(self.offsets, places, side="right") - 1
        return rows

    def odd_rows(self) -> Places:
        """Messages with backslashes, control characters, or bytes that are not ASCII when those aren't all UTF-8."""
        odd = []
        if (self.data == _BACKSLASH).any():
            odd.append(np.flatnonzero(self.data == _BACKSLASH))
        if self.data.view(np.int8).min() < _BLANK:  # one look for control characters and, negative, all beyond ASCII
            odd.append(np.flatnonzero(self.data < _BLANK))
            if not self._is_utf8():
                odd.append(np.flatnonzero(self.data >= 0x80))
        return self.rows_of(np.concatenate(odd)) if odd else np.empty(0, np.int64)

    def _is_utf8(self) -> bool:
        try:
            self.messages.validate(full=True)
        except pa.ArrowInvalid:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Cut:
    """Messages cut into segments.

    Args:
        segments: All segments of all messages that were cut.
        starts: For each message that fits the place of its first segment.
        rows: For each message that fits its place among all messages.
    """

    segments: pa.Array
    starts: Places
    rows: Places

    def values(self, field: int) -> pa.Array:
        """The text of a field's value in every message that fits."""
        return self.segments.take(pa.array(self.starts + (2 * field + 1)))


def cut(buffer: Buffer, template: Template, expected: pa.Array, enough: int) -> Cut | None:
    """Cut the messages that fit the template.

    Values still may be anything without quotes, backslashes and control characters (numbers) or valid text.

    Args:
        buffer: The messages.
        template: What they should look like.
        expected: The template's segments, of as many messages or more.
        enough: How many have to fit at least.

    Returns:
        The messages that fit; None if they are not enough.
    """
    odd = buffer.odd_rows()
    quotes = buffer.data == _QUOTE
    anchors = np.flatnonzero(quotes[:-1] & (buffer.data[1:] == _COLON))
    count = len(buffer.messages)
    regular = not len(odd) and len(anchors) == count * len(template.keys)
    if regular and np.count_nonzero(quotes) == count * template.quotes:
        found = _cut_all(buffer, template, expected, anchors)
        if found is not None:
            return found
    return _cut_some(buffer, template, expected, _Marks(quotes, anchors, odd, enough))


@dataclass(frozen=True, slots=True)
class _Marks:
    quotes: Mask
    anchors: Places
    odd: Places
    enough: int


def _cut_all(buffer: Buffer, template: Template, expected: pa.Array, anchors: Places) -> Cut | None:
    rows = np.arange(len(buffer.messages))
    ends = _boundaries(template, anchors.reshape(len(rows), -1), buffer, rows).ravel()
    if ends[-1] > buffer.offsets[-1] or not (ends[1:] >= ends[:-1]).all():
        return None
    segments = _segments(buffer, ends)
    if not pc.all(pc.equal(segments, expected[: len(segments)])).as_py():
        return None
    return Cut(segments, rows * template.width, rows)


def _cut_some(buffer: Buffer, template: Template, expected: pa.Array, marks: _Marks) -> Cut | None:
    """The slower way round messages that don't fit: leave them out step by step."""
    per_row = np.diff(np.searchsorted(marks.anchors, buffer.offsets))
    good = per_row == len(template.keys)
    good[marks.odd] = False
    if np.count_nonzero(good) < marks.enough:
        return None
    anchors = marks.anchors[np.repeat(good, per_row)].reshape(-1, len(template.keys))
    rows = np.flatnonzero(good)
    ends = _boundaries(template, anchors, buffer, rows)
    ordered = (ends[:, 1:] >= ends[:, :-1]).all(axis=1)
    rows, ends = rows[ordered], ends[ordered].ravel()
    if len(rows) < marks.enough:
        return None
    segments = _segments(buffer, ends)
    same = pc.equal(segments, expected[: len(segments)]).fill_null(True)
    matches = np.append(same.to_numpy(zero_copy_only=False), True).reshape(len(rows), -1).all(axis=1)
    good = _without_more_quotes(buffer, marks.quotes, rows[matches], template.quotes)
    kept = np.flatnonzero(matches & good[rows])
    return Cut(segments, kept * template.width, rows[kept]) if len(kept) >= marks.enough else None


def _without_more_quotes(buffer: Buffer, quotes: Mask, rows: Places, per_row: int) -> Mask:
    """For all messages whether they have no quotes but those in literals, which these rows are known to have.

    If the quotes add up without the few other messages, none of these rows has more; if not, each one's are counted.
    """
    good = np.zeros(len(buffer.messages), np.bool_)
    good[rows] = True
    bad = np.flatnonzero(~good)
    spans = zip(buffer.offsets[bad].tolist(), buffer.offsets[bad + 1].tolist(), strict=True)
    rest = np.count_nonzero(quotes) - sum(int(np.count_nonzero(quotes[start:end])) for start, end in spans)
    if rest != len(rows) * per_row:
        good &= np.diff(np.searchsorted(np.flatnonzero(quotes), buffer.offsets)) == per_row
    return good


def _boundaries(template: Template, anchors: Places, buffer: Buffer, rows: Places) -> Offsets:
    """Where the segments begin, and where the tail ends; not in order for messages of another shape."""
    ends = np.empty((len(rows), template.width), np.int32)
    ends[:, 0] = buffer.offsets[rows]
    ends[:, -1] = buffer.offsets[rows + 1]
    ends[:, -2] = ends[:, -1] - len(template.tail)
    for i, (literal, anchor) in enumerate(zip(template.literals, template.anchors, strict=True)):
        np.add(anchors[:, i], len(literal) - anchor, out=ends[:, 2 * i + 1], casting="unsafe")
        if i:
            np.subtract(anchors[:, i], anchor, out=ends[:, 2 * i], casting="unsafe")
    return ends


def _segments(buffer: Buffer, ends: Offsets) -> pa.Array:
    return pa.Array.from_buffers(pa.string(), len(ends) - 1, [None, pa.py_buffer(ends), pa.py_buffer(buffer.data)])
