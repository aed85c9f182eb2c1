"""The Kafka source."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import NoneType
from typing import Any, Literal

import pyarrow as pa

from lakeward.connectors.kafka.bad_records import BadRecordHandler
from lakeward.connectors.kafka.config import KafkaOptions, OffsetSpecifier, Properties
from lakeward.connectors.kafka.metadata import metadata_columns, source_schema
from lakeward.engine.api.codec import Format
from lakeward.engine.api.expression import Comparison
from lakeward.engine.api.source import ReaderContext, Source, SourceReader, Split
from lakeward.engine.core.durations import Duration, parse_duration_us
from lakeward.engine.core.errors import SchemaError
from lakeward.engine.core.expect import expect
from lakeward.engine.core.ids import SplitId
from lakeward.engine.core.json_types import JsonObject


class KafkaSource(Source):
    """Reads topics of Apache Kafka, each record once.

    A partition is a split: read in order, by one reader. Offsets are kept in checkpoints, and where reading begins is
    made into offsets before the first record: a job that fails before its first checkpoint reads the same again. Only
    committed records of transactions are seen. No consumer group is joined; with `group_id` the offsets are committed
    to that group after each checkpoint, for tools that show lag, and never read back on a restart. Fields that the job
    does not read are not decoded: a value that does not fit such a field makes no record bad.

    >>> import pyarrow as pa
    >>> from lakeward.connectors.formats.json import Json
    >>> orders = KafkaSource(
    ...     "localhost:9092", "orders", format=Json({"id": pa.int64(), "amount": pa.float64()}),
    ...     metadata={"offset": "kafka_offset"}, properties={"sasl.password": "${env:KAFKA_PASSWORD}"})
    >>> orders.schema.names
    ['id', 'amount', 'kafka_offset']

    Args:
        bootstrap: Broker address "host:port", several with commas.
        topic: A topic, or several whose records have one format.
        format: How a record's value is written: `Json(...)`.
        start: Where a first run begins: "earliest", "latest", "committed" (of the group; an error where it has none,
            unless "committed_or_earliest" or "committed_or_latest"), a datetime or milliseconds since 1970 UTC (the
            first record as late as that), or offsets by partition (the other partitions from their beginning).
        stop: Where the source ends: None (never), "latest" (what is committed when the job starts), or a moment or
            offsets as for `start` (before that record).
        metadata: Further columns, by name or with names of their own: key, headers, partition, offset, timestamp,
            topic.
        on_error: A record that can't be decoded: "fail" (the job, saying which), "skip" (counted in `bad_records` and
            logged), or a `BadRecordHandler` that takes it.
        on_missing_offsets: When the broker has deleted records that were not read yet: "fail", or "skip" (counted in
            `skipped_offsets`).
        tombstones: Records without a value: "skip" (counted in `tombstones`) or "null", a row of nulls.
        group_id: Consumer group to commit offsets to; None: none.
        discovery_interval: How often new partitions are looked for; they are read from their beginning. None: never.
        properties: Settings of librdkafka ("security.protocol", "sasl.username", ...); secrets as `${env:NAME}` or
            `${file:/path}`.

    Raises:
        ConfigError: An option has a value that can't work.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str | Sequence[str],
        *,
        format: Format,
        start: OffsetSpecifier = "earliest",
        stop: OffsetSpecifier | None = None,
        metadata: Sequence[str] | Mapping[str, str] = (),
        on_error: Literal["fail", "skip"] | BadRecordHandler = "fail",
        on_missing_offsets: Literal["fail", "skip"] = "fail",
        tombstones: Literal["skip", "null"] = "skip",
        group_id: str | None = None,
        discovery_interval: Duration | None = "30s",
        properties: Properties | None = None,
    ) -> None:
        expect(bootstrap, str, "KafkaSource: bootstrap", 'give the address of a broker: "localhost:9092"')
        expect(topic, (str, list, tuple), "KafkaSource: topic", 'give a name, or a list of names: "orders"')
        expect(format, Format, "KafkaSource: format", "give for example format=Json(schema)")
        expect(metadata, (Mapping, list, tuple, str), "KafkaSource: metadata", 'give names: metadata=("offset", "key")')
        expect(properties, (Mapping, NoneType), "KafkaSource: properties", "give a dict of settings", secret=True)
        self._options = KafkaOptions(
            bootstrap=bootstrap,
            topics=(topic,) if isinstance(topic, str) else tuple(topic),
            start=start,
            stop=stop,
            metadata=metadata_columns(metadata),
            on_error=on_error,
            on_missing_offsets=on_missing_offsets,
            tombstones=tombstones,
            group_id=group_id,
            discovery_interval_ms=None
            if discovery_interval is None
            else parse_duration_us(discovery_interval, "discovery_interval") // 1000,
            properties=dict(properties or {}),
        )
        self._format = format
        self._columns: tuple[str, ...] | None = None
        self._schema = source_schema(format.schema, self._options.metadata)

    @property
    def schema(self) -> pa.Schema:
        """The value's fields, then the metadata columns."""
        return self._schema

    @property
    def bounded(self) -> bool:
        """Whether it ends: `stop` is given."""
        return self._options.stop is not None

    @property
    def description(self) -> str:
        """What it reads: "kafka orders (json)"."""
        return f"kafka {', '.join(self._options.topics)} ({self._format.description})"

    @property
    def discovery_interval_ms(self) -> int | None:
        """How often new partitions are looked for; a source that ends looks once."""
        return None if self.bounded else self._options.discovery_interval_ms

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self._options.printable().items())
        return f"KafkaSource({self._options.bootstrap!r}, {', '.join(self._options.topics)!r}{options})"

    def select(self, columns: Sequence[str]) -> KafkaSource:
        """The same source with only some columns, in the order of its schema: the others are not even decoded.

        A record is then bad only if one of these columns is.

        Raises:
            SchemaError: There is no such column.
        """
        unknown = [name for name in columns if name not in self._schema.names]
        if unknown:
            raise SchemaError(f"{self.description} has no column {', '.join(unknown)}; it has {self._schema.names}")
        narrow = copy.copy(self)
        narrow._columns = tuple(name for name in self._format.schema.names if name in columns)
        kept = {what: name for what, name in self._options.metadata.items() if name in columns}
        narrow._options = replace(self._options, metadata=kept)
        fields = [self._format.schema.field(name) for name in narrow._columns]
        narrow._schema = source_schema(pa.schema(fields), kept)
        return narrow

    def pushed(self, columns: tuple[str, ...], predicate: tuple[Comparison, ...]) -> Source | None:
        """Only these columns, as `select`; records can't be told apart without decoding them."""
        return self.select(columns) if len(columns) < len(self._schema) else None

    def list_splits(self, known: Mapping[SplitId, JsonObject] | None) -> Sequence[Split]:
        """All partitions, by topic and number; see `Source.list_splits`.

        Raises:
            SourceError: The broker does not answer or refuses access, a topic does not exist, a partition that was
                there is gone, or an offset that was asked for is not there.
        """
        from lakeward.connectors.kafka.offsets import PartitionLister

        return PartitionLister(self._options, self._connection()).splits(known)

    def open_reader(self, context: ReaderContext) -> SourceReader:
        """Make the reader of one subtask; it connects when it has a partition."""
        from lakeward.connectors.kafka.reader import KafkaReader

        return KafkaReader(self._connection(), self._format.decoder(self._columns), self._schema, context)

    def _connection(self) -> Any:
        from lakeward.connectors.kafka.client import Connection

        return Connection(self._options)
