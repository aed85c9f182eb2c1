"""Text files in pieces of whole records: plain or compressed, from any record on."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from pyarrow import fs

from lakeward.connectors.files.paths import compression_of
from lakeward.engine.core.errors import RecordError

BLOCK_BYTES = 1 << 20
"""How much is read at a time."""

RECORD_BYTES_MAX = 64 << 20
"""No record is longer: a file without line ends, or with an unbalanced quote, must not fill the memory."""

BOM = b"\xef\xbb\xbf"
"""The byte order mark that some programs put before UTF-8."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record begins.

    Args:
        offset: Bytes before it, after decompression.
        record: Records before it, blank ones and a header included.
    """

    offset: int = 0
    record: int = 0


class RecordEnds(ABC):
    """Finds where records end."""

    @abstractmethod
    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        """The complete records of `data`, which begins with one, each with its line end; and what is left."""


class LineEnds(RecordEnds):
    """Every line is a record."""

    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        r"""Cut after each line feed.

        >>> LineEnds().split(b"a\nbc\nd")
        ([b'a\n', b'bc\n'], b'd')
        """
        lines = io.BytesIO(data).readlines()
        if not lines or lines[-1].endswith(b"\n"):
            return lines, b""
        return lines[:-1], lines[-1]


class QuotedLineEnds(RecordEnds):
    """A line feed between quotes belongs to the record: only those after an even number of quotes end one."""

    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        r"""Cut after each line feed outside quotes.

        >>> QuotedLineEnds().split(b'1,"a\nb"\n2,c')
        ([b'1,"a\nb"\n'], b'2,c')
        """
        codes = np.frombuffer(data, dtype=np.uint8)
        ends = np.flatnonzero(codes == 10)
        quotes = np.flatnonzero(codes == 34)
        cuts = [0, *(ends[np.searchsorted(quotes, ends) % 2 == 0] + 1).tolist()]
        return [data[begin:end] for begin, end in pairwise(cuts)], data[cuts[-1] :]


class TextFile:
    """A text file read in blocks of whole records, from a record's beginning on.

    A compressed file has no places to jump to: to resume in it, it is read again from the start and thrown away up to
    the offset.

    Args:
        filesystem: Where it is.
        path: Its path; the ending says how it is compressed.
        start: Where to begin.
        ends: What ends a record.
        block_bytes: How much is read at a time.
    """

    def __init__(
        self,
        filesystem: fs.FileSystem,
        path: str,
        start: Place,
        ends: RecordEnds,
        *,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self._path = path
        self._ends = ends
        self._block_bytes = block_bytes
        self._stream = open_at(filesystem, path, start.offset)
        self._offset = start.offset
        self._rest = b""
        self._ended = False

    def next_records(self) -> tuple[int, list[bytes]] | None:
        """The next complete records and the offset they begin at; None at the end of the file.

        The last record need not end with a line feed. A byte order mark is left out; the offset counts it.

        Raises:
            RecordError: A record is longer than `RECORD_BYTES_MAX`.
        """
        while not self._ended:
            fresh = self._stream.read(self._block_bytes)
            self._ended = not fresh
            records, rest = self._ends.split(self._rest + fresh)
            if self._ended and rest:
                records, rest = [*records, rest], b""
            self._rest = rest
            if records:
                begin, self._offset = self._offset, self._offset + sum(map(len, records))
                return _without_bom(begin, records)
            if len(rest) > RECORD_BYTES_MAX:
                raise RecordError(
                    f"{self._path}, byte {self._offset}: the record is longer than {RECORD_BYTES_MAX} bytes",
                    hint="is a quote unbalanced, or the file not made of lines?",
                )
        return None

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _without_bom(begin: int, records: list[bytes]) -> tuple[int, list[bytes]]:
    if begin or not records[0].startswith(BOM):
        return begin, records
    return len(BOM), [records[0][len(BOM) :], *records[1:]]


def open_at(filesystem: fs.FileSystem, path: str, offset: int) -> pa.NativeFile:
    """A text file from a byte on, decompressed if its name says so."""
    compression = compression_of(path)
    if compression is None:
        stream = filesystem.open_input_file(path)
        stream.seek(offset)
        return stream
    stream = filesystem.open_input_stream(path, compression=compression)
    while offset:
        skipped = len(stream.read(min(offset, BLOCK_BYTES)))
        if not skipped:
            raise EOFError(f"the decompressed file ends {offset} bytes before the place to resume at")
        offset -= skipped
    return stream
