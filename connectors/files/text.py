"""Text files in pieces of whole records: plain or compressed, from any record on."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import fs

from lakeward.connectors.files.paths import compression_of
from lakeward.engine.core.errors import RecordError

BLOCK_BYTES = 1 << 20
"""How much is read at a time."""

RECORD_BYTES_MAX = 64 << 20
"""No record is longer: a file without line ends, or with an unbalanced quote, must not fill the memory."""

_BOM = b"\xef\xbb\xbf"


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
    def last_end(self, data: bytes) -> int:
        """Bytes up to the end of the last complete record in `data`, which begins with one; 0 when there is none."""

    @abstractmethod
    def split(self, data: bytes) -> list[bytes]:
        """The records of `data`, which holds complete ones, each with its line end."""


class LineEnds(RecordEnds):
    """Every line is a record."""

    def last_end(self, data: bytes) -> int:
        """After the last line feed."""
        return data.rfind(b"\n") + 1

    def split(self, data: bytes) -> list[bytes]:
        r"""Cut after each line feed.

        >>> LineEnds().split(b"a\nbc")
        [b'a\n', b'bc']
        """
        return io.BytesIO(data).readlines()


class QuotedLineEnds(RecordEnds):
    """A line feed between quotes belongs to the record: only those after an even number of quotes end one."""

    def last_end(self, data: bytes) -> int:
        """After the last line feed outside quotes."""
        ends = self._ends(data)
        return int(ends[-1]) if len(ends) else 0

    def split(self, data: bytes) -> list[bytes]:
        r"""Cut after each line feed outside quotes.

        >>> QuotedLineEnds().split(b'1,"a\nb"\n2,c')
        [b'1,"a\nb"\n', b'2,c']
        """
        cuts = [0, *self._ends(data).tolist()]
        if cuts[-1] != len(data):
            cuts.append(len(data))
        return [data[begin:end] for begin, end in pairwise(cuts)]

    def _ends(self, data: bytes) -> npt.NDArray[np.int64]:
        codes = np.frombuffer(data, dtype=np.uint8)
        ends = np.flatnonzero(codes == 10)
        quotes = np.flatnonzero(codes == 34)
        return ends[np.searchsorted(quotes, ends) % 2 == 0] + 1


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
        self._stream = _open_at(filesystem, path, start.offset)
        self._offset = start.offset
        self._rest = b""
        self._ended = False

    def next_block(self) -> tuple[int, bytes] | None:
        """The next complete records and the offset they begin at; None at the end of the file.

        The last record need not end with a line feed. A byte order mark is left out; the offset counts it.

        Raises:
            RecordError: A record is longer than `RECORD_BYTES_MAX`.
        """
        while not self._ended:
            fresh = self._stream.read(self._block_bytes)
            self._ended = not fresh
            data = self._rest + fresh
            cut = len(data) if self._ended else self._ends.last_end(data)
            self._rest = data[cut:]
            if cut:
                begin, self._offset = self._offset, self._offset + cut
                return self._without_bom(begin, data[:cut])
            if len(self._rest) > RECORD_BYTES_MAX:
                raise RecordError(
                    f"{self._path}, byte {self._offset}: the record is longer than {RECORD_BYTES_MAX} bytes",
                    hint="is a quote unbalanced, or the file not made of lines?",
                )
        return None

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _without_bom(self, begin: int, data: bytes) -> tuple[int, bytes]:
        if begin == 0 and data.startswith(_BOM):
            return len(_BOM), data[len(_BOM) :]
        return begin, data


def _open_at(filesystem: fs.FileSystem, path: str, offset: int) -> pa.NativeFile:
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
