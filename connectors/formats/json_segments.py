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
        starts: For each message that fits the place of its first value.
        rows: For each message that fits its place among all messages.
    """

    segments: pa.Array
    starts: Places
    rows: Places

    def values(self, field: int) -> pa.Array:
        """The text of a field's value in every message that fits."""
        return self.segments.take(pa.array(self.starts + 2 * field))


class Cutter:
    """Cuts the messages that fit a template.

    Args:
        template: What they should look like.
    """

    def __init__(self, template: Template) -> None:
        self._template = template
        self._inner = self._whole = pa.array([], pa.string())
        self._steps = np.empty(0, np.int32)

    def cut(self, buffer: Buffer, enough: int) -> Cut | None:
        """Cut the messages that fit.

        Their values may still be any text without quotes, backslashes and control characters.

        Args:
            buffer: The messages.
            enough: How many have to fit at least.

        Returns:
            The messages that fit; None if they are not enough.
        """
        odd = buffer.odd_rows()
        quotes = buffer.data == _QUOTE
        anchors = np.flatnonzero(quotes[:-1] & (buffer.data[1:] == _COLON))
        count = len(buffer.messages)
        regular = not len(odd) and len(anchors) == count * len(self._template.keys)
        if regular and np.count_nonzero(quotes) == count * self._template.quotes:
            found = self._cut_all(buffer, anchors)
            if found is not None:
                return found
        return self._cut_some(buffer, _Marks(quotes, anchors, odd, enough))

    def _cut_all(self, buffer: Buffer, anchors: Places) -> Cut | None:
        """The quick way, from the first value to the last one; what is before and behind these is compared singly."""
        template, count = self._template, len(buffer.messages)
        width, head, tail = 2 * len(template.keys), template.literals[0], len(template.tail)
        ends = self._inner_ends(anchors, count)
        last = len(buffer.data) - tail
        if last < ends[-1] or ends[1] != len(head) or not (ends[1:] >= ends[:-1]).all():
            return None
        if buffer.data[: len(head)].tobytes() != head or buffer.data[last:].tobytes() != template.tail:
            return None
        if not (ends[::width] + tail == buffer.offsets[:-1]).all():
            return None  # what looks like a message's end and beginning are not those of messages
        if len(self._inner) < count * width:
            self._inner = template.inner(count)
        segments = _segments(buffer, np.append(ends[1:], np.int32(last)))
        if not pc.all(pc.equal(segments, self._inner[: len(segments)])).as_py():
            return None
        rows = np.arange(count)
        return Cut(segments, rows * width, rows)

    def _inner_ends(self, anchors: Places, count: int) -> Offsets:
        """For each anchor where its literal and where its value begins; before the first literal is the last tail."""
        template = self._template
        if len(self._steps) < 2 * len(anchors):
            before = [-one for one in template.anchors]
            before[0] -= len(template.tail)
            behind = [len(one) - place for one, place in zip(template.literals, template.anchors, strict=True)]
            self._steps = np.tile(np.stack([before, behind], axis=1, dtype=np.int32).ravel(), count)
        twice = anchors.astype(np.uint64) * np.uint64(2**32 + 1)  # each as both halves of a word
        ends = twice.view(np.int32)
        ends += self._steps[: len(ends)]
        return ends

    def _cut_some(self, buffer: Buffer, marks: _Marks) -> Cut | None:
        """The slower way round messages that don't fit: leave them out step by step."""
        template = self._template
        per_row = np.diff(np.searchsorted(marks.anchors, buffer.offsets))
        good = per_row == len(template.keys)
        good[marks.odd] = False
        rows = np.flatnonzero(good)
        if len(rows) < marks.enough:
            return None
        anchors = marks.anchors[np.repeat(good, per_row)].reshape(len(rows), -1)
        ends = _whole_ends(template, anchors, buffer, rows)
        ordered = (ends[:, 1:] >= ends[:, :-1]).all(axis=1)
        rows, ends = rows[ordered], ends[ordered]
        if len(rows) < marks.enough:
            return None
        if len(self._whole) < ends.size:
            self._whole = template.whole(len(buffer.messages))
        segments = _segments(buffer, ends.ravel())
        same = np.frombuffer(pc.equal(segments, self._whole[: len(segments)]).buffers()[1], np.uint8)
        bits = np.unpackbits(same, count=ends.size, bitorder="little").reshape(ends.shape)
        matches = bits[:, :-1:2].all(axis=1)  # literals and the tail; the others are null, whatever their bits
        good = _without_more_quotes(buffer, marks.quotes, rows[matches], template.quotes)
        kept = np.flatnonzero(matches & good[rows])
        return Cut(segments, kept * ends.shape[1] + 1, rows[kept]) if len(kept) >= marks.enough else None


@dataclass(frozen=True, slots=True)
class _Marks:
    quotes: Mask
    anchors: Places
    odd: Places
    enough: int


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


def _whole_ends(template: Template, anchors: Places, buffer: Buffer, rows: Places) -> Offsets:
    """Where the segments begin, and where the tail ends; not in order for messages of another shape."""
    ends = np.empty((len(rows), 2 * len(template.keys) + 2), np.int32)
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
