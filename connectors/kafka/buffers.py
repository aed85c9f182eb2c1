"""Records of one partition, gathered column by column until they are a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from lakeward.connectors.kafka.config import MetadataName
from lakeward.connectors.kafka.metadata import METADATA_TYPES


@dataclass(slots=True)
class PartitionBuffer:
    """Records of one partition that wait to be decoded, column by column.

    Args:
        topic: The topic.
        partition: The partition.
        metadata: Which metadata to keep beside offsets.
        values: The values; None is a tombstone.
        size_bytes: Length of all values.
        has_tombstone: Whether a value is None.
    """

    topic: str
    partition: int
    metadata: Mapping[MetadataName, str]
    values: list[bytes | None] = field(default_factory=list)
    size_bytes: int = 0
    has_tombstone: bool = False
    _offsets: list[npt.NDArray[np.int64]] = field(default_factory=list)
    _kept: dict[MetadataName, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def add(self, messages: Sequence[Message]) -> None:
        """Take records, in the order of their offsets."""
        values = list(map(Message.value, messages))
        self.values += values
        try:
            self.size_bytes += sum(map(len, values))  # type: ignore[arg-type]
        except TypeError:  # a tombstone has no length
            self.has_tombstone = True
            self.size_bytes += sum(map(len, filter(None, values)))
        self._offsets.append(_offsets(messages))
        for what in ("key", "headers", "timestamp"):
            if what in self.metadata:
                self._kept.setdefault(what, []).extend(map(_ACCESSORS[what], messages))

    @property
    def offset_runs(self) -> Sequence[npt.NDArray[np.int64]]:
        """The offsets of all records, in runs."""
        return self._offsets

    def offsets(self) -> npt.NDArray[np.int64]:
        """The offset of every record."""
        return np.concatenate(self._offsets) if self._offsets else np.zeros(0, np.int64)

    def key(self, row: int) -> bytes | None:
        """The key of a record, if keys are kept."""
        return self._kept["key"][row] if "key" in self._kept else None

    def metadata_columns(self, rows: npt.NDArray[np.int64] | None) -> list[pa.Array]:
        """The metadata columns of all records or of some."""
        count = len(self.values) if rows is None else len(rows)
        columns = []
        for what in self.metadata:
            if what == "topic":
                column = pa.repeat(pa.scalar(self.topic, pa.string()), count)
            elif what == "partition":
                column = pa.repeat(pa.scalar(self.partition, pa.int32()), count)
            else:
                column = self._column(what)
                column = column if rows is None else column.take(pa.array(rows))
            columns.append(column)
        return columns

    def _column(self, what: MetadataName) -> pa.Array:
        if what == "offset":
            return pa.array(self.offsets())
        if what == "timestamp":
            moments = [None if kind == TIMESTAMP_NOT_AVAILABLE else at for kind, at in self._kept[what]]
            return pa.array(moments, pa.timestamp("ms", "UTC")).cast(METADATA_TYPES[what])
        if what == "headers":
            return pa.array([_header_rows(headers) for headers in self._kept[what]], METADATA_TYPES[what])
        return pa.array(self._kept[what], METADATA_TYPES[what])


_ACCESSORS = {"key": Message.key, "headers": Message.headers, "timestamp": Message.timestamp}


def _offsets(messages: Sequence[Message]) -> npt.NDArray[np.int64]:
    """The offsets of records in order; without asking each when the first and the last show that there is no gap."""
    first, last = messages[0].offset() or 0, messages[-1].offset() or 0
    if last - first + 1 == len(messages):
        return np.arange(first, last + 1, dtype=np.int64)
    return np.fromiter(map(Message.offset, messages), np.int64, len(messages))


def _header_rows(headers: Any) -> list[dict[str, Any]] | None:
    return None if headers is None else [{"name": name, "value": value} for name, value in headers]
