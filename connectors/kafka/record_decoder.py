"""From gathered records to rows: decoding, metadata columns, and what happens to bad records and tombstones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakeward.connectors.kafka.bad_records import BadKafkaRecord
from lakeward.connectors.kafka.buffers import PartitionBuffer
from lakeward.connectors.kafka.client import LOG
from lakeward.connectors.kafka.config import KafkaOptions
from lakeward.engine.api.codec import Decoded, Decoder
from lakeward.engine.api.source import Origin, ReaderContext
from lakeward.engine.core.errors import RecordError

Int64Array = npt.NDArray[np.int64]

_LOG_INTERVAL_MS = 10_000


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one partition, and where they were read.

    Args:
        batch: The rows.
        offset_runs: The offsets of all records, also of bad ones, in runs.
        rows: The place of each row among the records; None: each record is a row.
    """

    batch: pa.RecordBatch
    offset_runs: Sequence[Int64Array]
    rows: Int64Array | None

    def offset(self, row: int) -> int:
        """The offset of a row."""
        offsets = np.concatenate(self.offset_runs)
        return int(offsets[row if self.rows is None else self.rows[row]])


def origin_of(topic: str, partition: int, pieces: Sequence[Piece]) -> Origin:
    """Where the rows of a batch that is made of pieces were read."""

    def offset(row: int) -> int:
        for piece in pieces:
            if row < piece.batch.num_rows:
                return piece.offset(row)
            row -= piece.batch.num_rows
        raise IndexError(row)

    return Origin(f"topic '{topic}', partition {partition}", "offset", offset)


@dataclass
class RecordDecoder:
    """Makes batches of the source's schema from buffers, for one reader.

    Args:
        decoder: Decodes the values.
        schema: The source's: the values' fields, then metadata.
        options: Of the source.
        context: Of the reader: its counters, clock and name.
    """

    decoder: Decoder
    schema: pa.Schema
    options: KafkaOptions
    context: ReaderContext
    _unlogged: int = 0
    _logged_ms: int | None = None

    def decode(self, buffer: PartitionBuffer) -> Piece:
        """The good records of a buffer.

        Raises:
            RecordError: One is bad and the job is to fail then.
        """
        decoded = self._decode_values(buffer)
        if decoded.bad:
            self._on_bad(buffer, decoded)
        self._count("read_records", len(buffer))
        self._count("read_bytes", buffer.size_bytes)
        if not self.options.metadata:
            return Piece(decoded.batch, buffer.offset_runs, decoded.rows)
        arrays = [*decoded.batch.columns, *buffer.metadata_columns(decoded.rows)]
        return Piece(pa.RecordBatch.from_arrays(arrays, schema=self.schema), buffer.offset_runs, decoded.rows)

    def close(self) -> None:
        """Log what was not logged yet."""
        if self._unlogged:
            self._log_bad(None)

    def _decode_values(self, buffer: PartitionBuffer) -> Decoded:
        """Decode without tombstones, unless they are wanted as rows of nulls."""
        values = buffer.values
        if self.options.tombstones == "null" or not buffer.has_tombstone:
            return self.decoder.decode(values)
        kept = np.flatnonzero([value is not None for value in values])
        self._count("tombstones", len(values) - len(kept))
        decoded = self.decoder.decode([values[i] for i in kept])
        rows = kept if decoded.rows is None else kept[decoded.rows]
        return Decoded(decoded.batch, rows, [replace(bad, index=int(kept[bad.index])) for bad in decoded.bad])

    def _on_bad(self, buffer: PartitionBuffer, decoded: Decoded) -> None:
        offsets = buffer.offsets()
        records = [
            BadKafkaRecord(buffer.topic, buffer.partition, int(offsets[i]), buffer.key(i), buffer.values[i], reason)
            for i, reason in ((bad.index, bad.reason) for bad in decoded.bad)
        ]
        if self.options.on_error == "fail":
            raise records[0].error(self.context.redaction)
        self._count("bad_records", len(records))
        if not isinstance(self.options.on_error, str):
            self.options.on_error.handle(records)
        self._unlogged += len(records)
        now_ms = self.context.clock.monotonic_ms()
        if self._logged_ms is None or now_ms - self._logged_ms >= _LOG_INTERVAL_MS:
            self._logged_ms = now_ms
            self._log_bad(records[-1].error(self.context.redaction))

    def _log_bad(self, error: RecordError | None) -> None:
        """Log how many bad records there were since the last time, rather than each."""
        last = f"; the last: {error.message}" if error else ""
        uid = self.context.uid
        LOG.warning("%s passed over %d bad records%s", uid, self._unlogged, last, extra={"operator": uid})
        self._unlogged = 0

    def _count(self, name: str, amount: int) -> None:
        self.context.counters.counter(name).inc(amount)
