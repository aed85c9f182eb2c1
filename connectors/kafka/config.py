"""The options of the Kafka source, checked, and the client settings that they come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import NoneType
from typing import Literal, get_args

from lakeward.connectors.kafka.bad_records import BadRecordHandler
from lakeward.engine.api.secrets import Secret, redact
from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.expect import expect, expect_choice

StartName = Literal["earliest", "latest", "committed", "committed_or_earliest", "committed_or_latest"]
OffsetSpecifier = str | int | datetime | Mapping[int, int] | Mapping[str, int]
"""A name ("earliest", ...), a moment (datetime, or milliseconds since 1970 UTC), or offsets by partition."""

MetadataName = Literal["key", "headers", "partition", "offset", "timestamp", "topic"]
Properties = Mapping[str, str | Secret]

_POSITIONS = (str, int, datetime, Mapping)
_POSITION_HINT = "give a datetime, milliseconds since 1970 UTC, offsets by partition"
_OURS = {
    "bootstrap.servers": "give it as the first argument",
    "group.id": "give group_id=...",
    "auto.offset.reset": "give start=... and on_missing_offsets=...",
    "enable.auto.commit": "offsets are committed with checkpoints when group_id is set",
    "enable.auto.offset.store": "offsets are kept in checkpoints",
    "enable.partition.eof": "it is always on; give stop=... to end the source",
    "group.protocol": "partitions are assigned by the job, not by the broker",
}
_JAVA_ONLY = {
    "sasl.jaas.config": 'set "sasl.username" and "sasl.password"',
    "key.deserializer": "give format=...",
    "value.deserializer": "give format=...",
    "ssl.truststore.location": 'set "ssl.ca.location" to a PEM file',
    "ssl.truststore.password": 'set "ssl.ca.location" to a PEM file',
}
FETCH_SETTINGS: Mapping[str, str | int | float | bool] = {
    "isolation.level": "read_committed",
    # The default of a second leaves the client waiting while the queue refills.
    "fetch.queue.backoff.ms": 10,
    "queued.min.messages": 100_000,
    # The bound on prefetched memory, of all partitions of one reader together.
    "queued.max.messages.kbytes": 65_536,
    # Some brokers answer a fetch with everything they have; a lower limit would make such a topic unreadable.
    "receive.message.max.bytes": 1_000_000_000,
    # How long a topic may be unknown before that is an error; it was there when the splits were listed.
    "topic.metadata.propagation.max.ms": 5000,
    "socket.keepalive.enable": True,
    "allow.auto.create.topics": False,
}


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """How a Kafka source reads.

    Args:
        bootstrap: "host:port", several with commas.
        topics: What to read.
        start: Where to begin on a first run.
        stop: Where to end; None: never.
        metadata: Metadata columns: what they hold and what they are called.
        on_error: What to do with a record that can't be decoded: "fail", "skip", or hand it to a handler.
        on_missing_offsets: What to do when the broker no longer has the next record: "fail" or "skip".
        tombstones: What becomes of records without a value: "skip" or a row of nulls, "null".
        group_id: The consumer group whose offsets show the progress; None: none.
        discovery_interval_ms: How often new partitions are looked for; None: never.
        properties: Settings for librdkafka; secrets by reference.
    """

    bootstrap: str
    topics: tuple[str, ...]
    start: OffsetSpecifier = "earliest"
    stop: OffsetSpecifier | None = None
    metadata: Mapping[MetadataName, str] = field(default_factory=dict)
    on_error: Literal["fail", "skip"] | BadRecordHandler = "fail"
    on_missing_offsets: Literal["fail", "skip"] = "fail"
    tombstones: Literal["skip", "null"] = "skip"
    group_id: str | None = None
    discovery_interval_ms: int | None = 30_000
    properties: Properties = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Checks the options against each other.

        Raises:
            ConfigError: One has a value that cannot work.
        """
        for topic in self.topics:
            expect(topic, str, "KafkaSource: a topic", 'give names of topics: ["orders", "returns"]')
        expect(self.group_id, (str, NoneType), "KafkaSource: group_id", 'give a name: group_id="orders-job"')
        if not self.bootstrap or not self.topics or not all(self.topics):
            raise ConfigError(
                f"a Kafka source needs a bootstrap address and a topic, got {self.bootstrap!r}, {self.topics}"
            )
        if len(set(self.topics)) != len(self.topics):
            raise ConfigError(f"a topic is named twice: {', '.join(self.topics)}")
        self._check_positions()
        if isinstance(self.on_error, str):
            check_choice("on_error", self.on_error, ("fail", "skip"))
        else:
            hint = 'choose "fail" or "skip", or give an object with a method handle(records)'
            expect(self.on_error, BadRecordHandler, "KafkaSource: on_error", hint)
        check_choice("on_missing_offsets", self.on_missing_offsets, ("fail", "skip"))
        check_choice("tombstones", self.tombstones, ("skip", "null"))
        check_properties(self.properties)

    def _check_positions(self) -> None:
        expect(self.start, _POSITIONS, "KafkaSource: start", f"{_POSITION_HINT}, or a name: 'earliest', 'latest', ...")
        expect(self.stop, (*_POSITIONS, NoneType), "KafkaSource: stop", f"{_POSITION_HINT}, 'latest', or None")
        if isinstance(self.start, str):
            check_choice("start", self.start, get_args(StartName))
            if self.start.startswith("committed") and not self.group_id:
                raise ConfigError(f'start="{self.start}" needs a consumer group', hint='give group_id="..."')
        if isinstance(self.stop, str):
            check_choice("stop", self.stop, ("latest",))
        for name, value in (("start", self.start), ("stop", self.stop)):
            if isinstance(value, datetime) and value.tzinfo is None:
                raise ConfigError(f"{name}={value} has no time zone", hint="use datetime(..., tzinfo=UTC)")
            if isinstance(value, Mapping):
                _check_offsets(name, value, self.topics)

    def printable(self) -> dict[str, object]:
        """The options that differ from the defaults, without secrets."""
        options: dict[str, object] = {"start": self.start}
        options |= {"stop": self.stop} if self.stop is not None else {}
        options |= {"group_id": self.group_id} if self.group_id else {}
        return options | ({"properties": redact(self.properties)} if self.properties else {})


def check_properties(properties: Properties) -> None:
    """Refuse settings that would break what the source promises, and say where Java's names have another one here.

    Raises:
        ConfigError: Such a setting, or one that is no text.
    """
    for key, value in properties.items():
        hint = _OURS.get(key) or _JAVA_ONLY.get(key)
        if hint:
            why = "is set by Lakeward" if key in _OURS else "is a setting of the Java client; Lakeward uses librdkafka"
            raise ConfigError(f"the Kafka property '{key}' {why}", hint=hint)
        if not isinstance(value, str | Secret):
            raise ConfigError(f"the Kafka property '{key}' must be text, not {type(value).__name__}: {value!r}")


def check_choice(option: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value that is none of the choices."""
    expect_choice(value, choices, f"KafkaSource: {option}")


def _check_offsets(option: str, offsets: Mapping[int, int] | Mapping[str, int], topics: Sequence[str]) -> None:
    for partition, offset in offsets.items():
        if isinstance(partition, int) and len(topics) > 1:
            raise ConfigError(
                f"{option} names partition {partition}, but there are several topics",
                hint=f'write "{topics[0]}-{partition}" instead of {partition}',
            )
        if not isinstance(offset, int) or offset < 0:
            raise ConfigError(f"{option}: the offset of partition {partition} is {offset!r}, not a number from 0")
