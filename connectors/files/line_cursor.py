"""Reading a file of JSON lines: block by block into one buffer, decoded where it lies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import fs

from lakeward.connectors.cursors import Step
from lakeward.connectors.files.cursors import BadRecords, FileCursor, OpenFile, fit, reading
from lakeward.connectors.files.text import BOM, RECORD_BYTES_MAX, Place, open_at
from lakeward.connectors.formats.json import JsonDecoder
from lakeward.connectors.formats.json_lines import PAD, Lines
from lakeward.engine.api.codec import Decoded
from lakeward.engine.core.errors import RecordError

LINE_BLOCK_BYTES = 4 << 20
"""How much is read at a time: so many lines that the fixed cost of decoding them, half a millisecond, is little."""


class LineBlocks:
    """A text file as blocks of whole lines, from a line's beginning on.

    All blocks lie in one buffer, one after another: each is to be done with before the next is asked for.

    Args:
        filesystem: Where it is.
        path: Its path; the ending says how it is compressed.
        offset: The byte to begin at, after decompression.
        block_bytes: How much is read at a time.
    """

    def __init__(
        self, filesystem: fs.FileSystem, path: str, offset: int, *, block_bytes: int = LINE_BLOCK_BYTES
    ) -> None:
        self._path = path
        self._stream = open_at(filesystem, path, offset)
        self.begin = self.end = offset
        """Bytes of the file where the lines that were handed out last begin, and behind them."""
        self._buffer = bytearray(2 * PAD + block_bytes)
        self._filled = PAD  # up to where there are bytes
        self._taken = PAD  # up to where they were handed out
        self._ended = False

    def next(self) -> Lines | None:
        """The next lines; None at the end of the file. The last one need not end with a line feed.

        Raises:
            RecordError: A line is longer than `RECORD_BYTES_MAX`.
        """
        while not self._ended:
            self._make_room()
            end = self._read()
            if end > PAD:
                start = PAD + self._bom_bytes()
                self.begin = self.end + start - PAD
                self._taken = min(end, self._filled)
                self.end += self._taken - PAD
                return Lines.within(self._buffer, start, end)
            if self._filled - PAD > RECORD_BYTES_MAX:
                raise RecordError(
                    f"{self._path}, byte {self.end}: the record is longer than {RECORD_BYTES_MAX} bytes",
                    hint="is the file made of lines?",
                )
        return None

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _read(self) -> int:
        """Read on; behind the last whole line."""
        with memoryview(self._buffer) as view:
            count = self._stream.readinto(view[self._filled : len(view) - PAD])
        read_from, self._filled = self._filled, self._filled + count
        if not count:
            self._ended = True
            if self._filled > PAD:
                self._buffer[self._filled : self._filled + 1] = b"\n"  # there is room: the padding's
                return self._filled + 1
        return max(self._buffer.rfind(b"\n", read_from, self._filled) + 1, PAD)

    def _make_room(self) -> None:
        """Move what was not handed out to the front; to a larger buffer if a line fills more than half of this one."""
        rest = self._buffer[self._taken : self._filled]
        if 2 * len(rest) > len(self._buffer) - 2 * PAD:
            self._buffer = bytearray(2 * PAD + 4 * len(rest))
        self._buffer[PAD : PAD + len(rest)] = rest
        self._filled, self._taken = PAD + len(rest), PAD

    def _bom_bytes(self) -> int:
        """The length of a byte order mark at the file's beginning."""
        return len(BOM) if not self.end and self._buffer[PAD : PAD + len(BOM)] == BOM else 0


_Places = tuple[int, npt.NDArray[np.int64] | None]
"""The lines before a piece of a batch, and the place among its own of every row; None: all are rows."""


def _number(row: int, pieces: list[pa.RecordBatch], places: list[_Places]) -> int:
    """The line, counted from 1, of a row of a batch that is made of pieces."""
    for piece, (before, rows) in zip(pieces, places, strict=True):
        if row < piece.num_rows:
            return before + 1 + (row if rows is None else int(rows[row]))
        row -= piece.num_rows
    raise IndexError(row)


class LineCursor(FileCursor):
    """Reads a file of JSON lines from a line on.

    Args:
        file: The file.
        place: The first line to read.
        decoder: Makes rows of lines.
        bad: What to do with those that it cannot decode.
    """

    def __init__(self, file: OpenFile, place: Place, decoder: JsonDecoder, bad: BadRecords) -> None:
        super().__init__(file)
        with reading(file.name):
            self._blocks = LineBlocks(file.filesystem, file.facts.path, place.offset)
        self._decoder = decoder
        self._bad = bad
        self._place = place
        self._lines: Lines | None = None

    def close(self) -> None:
        """Close the file."""
        self._blocks.close()

    def _next(self) -> Step | None:
        """As many lines as a batch should have rows, or the last half of them where a block ends."""
        pieces: list[pa.RecordBatch] = []
        places: list[_Places] = []
        room = wanted = self._file.batch_rows
        while room:
            lines = self._lines or self._next_lines()
            if lines is None or (len(lines) > room and 2 * room <= wanted):
                break
            taken = min(len(lines), room)
            decoded = self._decode(lines if taken == len(lines) else lines.part(0, taken))
            pieces.append(decoded.batch)
            places.append((self._place.record, decoded.rows))
            self._advance(lines, taken)
            room -= taken
        if not pieces:
            return None
        batch = pieces[0] if len(pieces) == 1 else pa.concat_batches(pieces)
        origin = self._origin("record", lambda row: _number(row, pieces, places))
        return self._step(fit(self._file, batch), origin, offset=self._place.offset, record=self._place.record)

    def _decode(self, lines: Lines) -> Decoded:
        decoded = self._decoder.decode_lines(lines)
        if decoded.bad:
            self._bad.handle(self._file.name, self._place, lines.records(decoded.bad[0].index + 1), decoded.bad)
        return decoded

    def _next_lines(self) -> Lines | None:
        self._lines = self._blocks.next()
        if self._lines is not None:
            self._place = Place(self._blocks.begin, self._place.record)
        return self._lines

    def _advance(self, lines: Lines, count: int) -> None:
        record = self._place.record + count
        if count == len(lines):
            self._lines, self._place = None, Place(self._blocks.end, record)
        else:
            self._lines = lines.part(count, len(lines))
            self._place = Place(self._place.offset + int(lines.starts[count] - lines.starts[0]), record)
