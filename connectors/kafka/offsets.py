"""Which partitions there are and where reading them begins and ends: names and times become offsets, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from math import ceil
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ClusterMetadata, OffsetSpec  # type: ignore[attr-defined]

from lakeward.connectors.kafka.client import REQUEST_TIMEOUT_S, Connection, ErrorLog
from lakeward.connectors.kafka.config import KafkaOptions, OffsetSpecifier
from lakeward.engine.api.source import Split
from lakeward.engine.core.errors import ConfigError, InternalError, SourceError
from lakeward.engine.core.ids import SplitId
from lakeward.engine.core.json_types import JsonObject

POSITION_VERSION = 1

_TURNS = 4

_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]

Partition = tuple[str, int]
Offsets = dict[Partition, int]


@dataclass(frozen=True, slots=True)
class Position:
    """Where a reader stands in a partition, and where it will stop: part of checkpoints.

    Args:
        offset: Of the next record.
        stop: The offset it ends before; None: never. Kept here so that a restart has the same end.
        topic_id: Identity of the topic, which a topic of the same name created later does not have; "" if unknown.
    """

    offset: int
    stop: int | None = None
    topic_id: str = ""

    def to_json(self) -> JsonObject:
        """As stored."""
        stored: dict[str, Any] = {"v": POSITION_VERSION, "offset": self.offset}
        if self.stop is not None:
            stored["stop"] = self.stop
        if self.topic_id:
            stored["topic_id"] = self.topic_id
        return stored

    @classmethod
    def from_json(cls, stored: JsonObject, split: str) -> Position:
        """From what `to_json` gave.

        Raises:
            SourceError: It is of a newer version, or no position.
        """
        match stored:
            case {"v": 1, "offset": int(offset)}:
                stop, topic_id = stored.get("stop"), stored.get("topic_id", "")
                return cls(offset, stop if isinstance(stop, int) else None, str(topic_id))
        raise SourceError(
            f"the position of Kafka partition {split} can't be read: {stored}",
            hint="was the checkpoint written by a newer version of Lakeward?",
        )


def split_id(topic: str, partition: int) -> SplitId:
    """The split of a partition: "orders-3"."""
    return SplitId(f"{topic}-{partition}")


def partition_of(split: SplitId) -> Partition:
    """Topic and number of a split."""
    topic, _, number = split.rpartition("-")
    return topic, int(number)


@dataclass
class PartitionLister:
    """Lists partitions and resolves offsets for one source; lives for one call of `list_splits`.

    Args:
        options: Of the source.
        connection: Makes the clients.
    """

    options: KafkaOptions
    connection: Connection
    _errors: ErrorLog = field(default_factory=ErrorLog)

    def __post_init__(self) -> None:
        self._admin: AdminClient = self.connection.admin(self._errors)

    def splits(self, known: Mapping[SplitId, JsonObject] | None) -> list[Split]:
        """All partitions: the known with their stored ends, the others with where they begin; see `list_splits`."""
        partitions = self._partitions()
        self._check_none_vanished(partitions, known or {})
        ids = self._topic_ids()
        fresh = [one for one in partitions if known is None or split_id(*one) not in known]
        # A partition that appeared later holds nothing but rows that nobody has read: from its beginning.
        starts = self._resolve(fresh, self.options.start if known is None else "earliest", "start")
        stops = self._resolve(fresh, self.options.stop, "stop") if self.options.stop is not None else {}
        positions = {one: Position(starts[one], stops.get(one), ids.get(one[0], "")) for one in fresh}
        for split, stored in (known or {}).items():
            position = Position.from_json(stored, split)
            topic, number = partition_of(split)
            _check_same_topic(topic, position.topic_id, ids.get(topic, ""))
            positions[topic, number] = position
        return [Split(split_id(*one), positions[one].to_json()) for one in partitions]

    def _partitions(self) -> list[Partition]:
        doing = f"looking for topic {', '.join(self.options.topics)}"
        topics = self._ask_topics(doing).topics
        found: list[Partition] = []
        for name in self.options.topics:
            if name not in topics:
                raise _no_topic(name, self.options.bootstrap, list(topics))
            failed = topics[name].error
            if failed is not None:
                raise self.connection.explain(failed, doing, self._errors)
            found += [(name, number) for number in sorted(topics[name].partitions)]
        return found

    def _ask_topics(self, doing: str) -> ClusterMetadata:
        """The cluster's topics, asked in short turns: that no broker is up shows long before the last timeout."""
        for turn in range(1, _TURNS + 1):
            try:
                return self._admin.list_topics(timeout=REQUEST_TIMEOUT_S / _TURNS)
            except KafkaException as error:
                self._admin.poll(0)  # serves what the client has to say about it
                hopeless = self._errors.refused is not None or (self._errors.all_down and turn >= 2)
                if hopeless or turn == _TURNS:
                    raise self.connection.explain(error.args[0], doing, self._errors) from None
        raise InternalError("unreachable: the last turn returns or raises")

    def _check_none_vanished(self, partitions: Sequence[Partition], known: Mapping[SplitId, JsonObject]) -> None:
        for split in known:
            topic, number = partition_of(split)
            if topic in self.options.topics and (topic, number) not in partitions:
                raise SourceError(
                    f"partition {number} of topic '{topic}' is gone; the broker at {self.options.bootstrap} has "
                    f"{sum(1 for one in partitions if one[0] == topic)} partitions of it",
                    hint="was the topic deleted and created again? Start the job without its checkpoint, or restore it",
                )

    def _topic_ids(self) -> dict[str, str]:
        """The topics' ids; empty where the broker knows none (Kafka before 2.8)."""
        from confluent_kafka import TopicCollection

        futures = self._admin.describe_topics(
            TopicCollection(list(self.options.topics)), request_timeout=REQUEST_TIMEOUT_S
        )
        ids = {}
        for name, future in futures.items():
            try:
                ids[name] = str(future.result(timeout=REQUEST_TIMEOUT_S).topic_id)
            except KafkaException as error:
                if error.args[0].code() not in _UNSUPPORTED:
                    raise self.connection.explain(error.args[0], f"describing '{name}'", self._errors) from None
        return {name: one for name, one in ids.items() if one.strip("A=")}  # an id of zeros stands for none

    def _resolve(self, partitions: Sequence[Partition], where: OffsetSpecifier, option: str) -> Offsets:
        if not partitions:
            return {}
        if isinstance(where, Mapping):
            return self._given(partitions, where, option)
        if isinstance(where, datetime):
            return self._at_time(partitions, ceil(where.timestamp() * 1000))
        if isinstance(where, int):
            return self._at_time(partitions, where)
        if where.startswith("committed"):
            return self._committed(partitions, where)
        return self._list(partitions, _EARLIEST if where == "earliest" else _LATEST)

    def _list(self, partitions: Sequence[Partition], spec: OffsetSpec) -> Offsets:
        """Ask for the first, last or a moment's offset; -1 where no record is as late as the moment.

        The end is the end of what is committed: what an open transaction holds is left to a later run.
        """
        futures = self._admin.list_offsets(
            {TopicPartition(topic, number): spec for topic, number in partitions},
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=REQUEST_TIMEOUT_S,
        )
        offsets: Offsets = {}
        for where, future in futures.items():
            try:
                offsets[where.topic, where.partition] = future.result(timeout=REQUEST_TIMEOUT_S * 2).offset
            except KafkaException as error:
                doing = f"asking for the offsets of '{where.topic}' partition {where.partition}"
                raise self.connection.explain(error.args[0], doing, self._errors) from None
        return offsets

    def _at_time(self, partitions: Sequence[Partition], timestamp_ms: int) -> Offsets:
        found = self._list(partitions, OffsetSpec.for_timestamp(timestamp_ms))
        ends = self._list(partitions, _LATEST)
        return {one: offset if offset >= 0 else ends[one] for one, offset in found.items()}

    def _given(self, partitions: Sequence[Partition], where: Mapping[Any, int], option: str) -> Offsets:
        wanted = {
            (self.options.topics[0], key) if isinstance(key, int) else partition_of(SplitId(key)): offset
            for key, offset in where.items()
        }
        unknown = [split_id(*one) for one in wanted if one not in partitions]
        if unknown:
            raise ConfigError(f"{option} names {', '.join(unknown)}, which does not exist; there are {len(partitions)}")
        first = self._list(partitions, _EARLIEST)
        end = self._list(partitions, _LATEST)
        if option == "stop":
            return end | wanted
        for one, offset in wanted.items():
            too_early = offset < first[one] and self.options.on_missing_offsets == "fail"
            if too_early or offset > end[one]:
                raise SourceError(
                    f"start: offset {offset} of topic '{one[0]}' partition {one[1]} is not there; "
                    f"it has {first[one]} to {end[one]}"
                )
        return first | wanted

    def _committed(self, partitions: Sequence[Partition], where: str) -> Offsets:
        consumer = self.connection.consumer(self._errors, "lakeward-offsets")
        try:
            offsets = self._ask_committed(consumer, partitions)
        finally:
            consumer.close()
        missing = [one for one in partitions if one not in offsets]
        if missing and where == "committed":
            names = ", ".join(split_id(*one) for one in missing)
            raise SourceError(
                f"group '{self.options.group_id}' has no committed offset for {names}",
                hint='start="committed_or_earliest" or "committed_or_latest" says where to begin then',
            )
        return offsets | self._resolve(missing, where.removeprefix("committed_or_"), "start")

    def _ask_committed(self, consumer: Consumer, partitions: Sequence[Partition]) -> Offsets:
        try:
            answers = consumer.committed([TopicPartition(*one) for one in partitions], timeout=REQUEST_TIMEOUT_S)
        except KafkaException as error:
            doing = f"asking for the offsets of group '{self.options.group_id}'"
            raise self.connection.explain(error.args[0], doing, self._errors) from None
        return {(one.topic, one.partition): one.offset for one in answers if one.offset >= 0}


_UNSUPPORTED = {KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION, KafkaError._NOT_IMPLEMENTED}


def _no_topic(name: str, bootstrap: str, topics: Sequence[str]) -> SourceError:
    near = get_close_matches(name, topics, n=1, cutoff=0.5)
    return SourceError(
        f"there is no topic '{name}' on {bootstrap}",
        hint=f"did you mean '{near[0]}'?" if near else f"it has {len(topics)} topics; check the name and the ACLs",
    )


def _check_same_topic(topic: str, stored: str, present: str) -> None:
    if stored and present and stored != present:
        raise SourceError(
            f"topic '{topic}' was deleted and created again since the checkpoint: its offsets mean other records now",
            hint="start the job without its checkpoint to read the new topic from its beginning",
        )
