"""Reads partitions: drains the client's queue, gathers records per partition, decodes them batch by batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from lakeward.connectors.kafka.buffers import PartitionBuffer
from lakeward.connectors.kafka.client import LOG, REQUEST_TIMEOUT_S, Connection, ErrorLog
from lakeward.connectors.kafka.offsets import Partition, Position, partition_of
from lakeward.connectors.kafka.record_decoder import Piece, RecordDecoder, origin_of
from lakeward.engine.api.codec import Decoder
from lakeward.engine.api.source import ReaderContext, SourceReader, Split, SplitBatch, SplitFinished
from lakeward.engine.core.errors import LakewardError, SourceError
from lakeward.engine.core.ids import CheckpointId, SplitId
from lakeward.engine.core.json_types import JsonObject

_CONSUME = 500  # messages a call: small enough to stay in the processor's cache
_CALLS_PER_POLL = 16
_PIECE = 8192  # records that are decoded at a time: enough for the vectorised decoder, few enough for the cache
_BATCH_BYTES = 16 << 20  # a batch is cut here even if it has few rows
_BUFFERED_BATCHES = 4  # full batches' worth of records that all partitions together may hold back
_DOWN_LIMIT_MS = 30_000
_PROBE_TIMEOUT_S = 2.0


@dataclass(slots=True)
class _Assigned:
    """A partition this reader has, with what waits in it: decoded pieces, then records not yet decoded."""

    split: SplitId
    position: Position  # behind the last batch that was handed out
    buffer: PartitionBuffer
    pieces: list[Piece] = field(default_factory=list)
    records: int = 0  # waiting, decoded or not
    size_bytes: int = 0
    since_ms: int = 0
    next_offset: int = 0
    ended: bool = False  # everything before the stop offset has been consumed

    @property
    def where(self) -> Partition:
        return self.buffer.topic, self.buffer.partition

    def add(self, messages: Sequence[Message], now_ms: int) -> None:
        """Take records, in the order of their offsets."""
        if not self.records:
            self.since_ms = now_ms
        before = self.buffer.size_bytes
        self.buffer.add(messages)
        self.records += len(messages)
        self.size_bytes += self.buffer.size_bytes - before
        self.next_offset = (messages[-1].offset() or 0) + 1

    def decode(self, decoder: RecordDecoder) -> None:
        """Decode what is not decoded yet, as one more piece."""
        if len(self.buffer):
            self.pieces.append(decoder.decode(self.buffer))
            self.buffer = PartitionBuffer(*self.where, self.buffer.metadata)

    def take(self, decoder: RecordDecoder) -> SplitBatch:
        """All that waits, as one batch."""
        self.decode(decoder)
        pieces, self.pieces = self.pieces, []
        self.records = self.size_bytes = 0
        self.position = replace(self.position, offset=self.next_offset)
        batch = pieces[0].batch if len(pieces) == 1 else pa.concat_batches([piece.batch for piece in pieces])
        return SplitBatch(self.split, batch, self.position.to_json(), origin=origin_of(*self.where, pieces))


class KafkaReader(SourceReader):
    """One subtask's reader. The client's own threads fetch ahead; here nothing waits."""

    def __init__(self, connection: Connection, decoder: Decoder, schema: pa.Schema, context: ReaderContext) -> None:
        self._connection = connection
        self._options = connection.options
        self._decoder = RecordDecoder(decoder, schema, connection.options, context)
        self._context = context
        self._errors = ErrorLog()
        self._consumer: Consumer | None = None
        self._assigned: dict[Partition, _Assigned] = {}
        self._unassigned: list[_Assigned] = []
        self._finished: deque[SplitId] = deque()
        self._down_since_ms: int | None = None

    def add_split(self, split: Split, position: JsonObject | None) -> None:
        """Read this partition too; see `SourceReader.add_split`."""
        stored = Position.from_json(split.start if position is None else position, split.id)
        if self._options.stop is None:
            stored = replace(stored, stop=None)
        elif stored.stop is None:
            stored = replace(stored, stop=Position.from_json(split.start, split.id).stop)
        if stored.stop is not None and stored.offset >= stored.stop:
            self._finished.append(split.id)
            return
        topic, number = partition_of(split.id)
        one = _Assigned(split.id, stored, PartitionBuffer(topic, number, self._options.metadata))
        self._assigned[one.where] = one
        self._unassigned.append(one)

    def poll(self) -> SplitBatch | SplitFinished | None:
        """The next batch of some partition; see `SourceReader.poll`."""
        if self._finished:
            return SplitFinished(self._finished.popleft())
        if not self._assigned:
            return None
        consumer = self._ready_consumer()
        self._consume(consumer)
        return self._next_event(consumer)

    def on_checkpoint_complete(self, checkpoint: CheckpointId, positions: Mapping[SplitId, JsonObject]) -> None:
        """Commit the offsets to the group, if one is named, without waiting; see `SourceReader`."""
        if self._options.group_id is None or not positions:
            return
        offsets = [
            TopicPartition(*partition_of(split), Position.from_json(stored, split).offset)
            for split, stored in positions.items()
        ]
        consumer = self._open_consumer()
        try:
            consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._note_commit(error.args[0], offsets)

    def close(self) -> None:
        """Leave the broker; commits under way are still sent."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()
        self._decoder.close()

    def _open_consumer(self) -> Consumer:
        if self._consumer is None:
            client_id = f"lakeward-{self._context.uid}-{self._context.subtask}"
            self._consumer = self._connection.consumer(self._errors, client_id, self._note_commit)
        return self._consumer

    def _ready_consumer(self) -> Consumer:
        consumer = self._open_consumer()
        if self._unassigned:
            places = [TopicPartition(*one.where, one.position.offset) for one in self._unassigned]
            consumer.incremental_assign(places)
            self._unassigned = []
        return consumer

    def _consume(self, consumer: Consumer) -> None:
        """Move what the client has fetched into the buffers, up to their limit."""
        for _ in range(_CALLS_PER_POLL):
            if self._buffers_full():
                break
            messages = consumer.consume(_CONSUME, timeout=0)
            if not messages:
                self._check_connection(consumer)
                break
            self._down_since_ms = None
            self._sort_in(consumer, messages)
            if len(messages) < _CONSUME:
                break

    def _buffers_full(self) -> bool:
        limit = self._context.batch_rows
        rows = size = 0
        for one in self._assigned.values():
            if self._is_full(one):
                return True
            rows, size = rows + one.records, size + one.size_bytes
        return rows >= limit * _BUFFERED_BATCHES or size >= _BATCH_BYTES * _BUFFERED_BATCHES

    def _is_full(self, one: _Assigned) -> bool:
        return one.records >= self._context.batch_rows or one.size_bytes >= _BATCH_BYTES

    def _sort_in(self, consumer: Consumer, messages: list[Message]) -> None:
        """Hand each run of one partition's records to its buffer; events of the client stand between them."""
        if any(map(Message.error, messages)):
            for failed, run in groupby(messages, lambda message: message.error() is not None):
                if failed:
                    for message in run:
                        self._on_error(consumer, message)
                else:
                    self._sort_in(consumer, list(run))
            return
        if len(self._options.topics) > 1:
            for _, topic in groupby(messages, Message.topic):
                self._sort_topic(list(topic))
        else:
            self._sort_topic(messages)

    def _sort_topic(self, messages: list[Message]) -> None:
        numbers = list(map(Message.partition, messages))
        if numbers.count(numbers[0]) == len(numbers):
            self._take(messages)
            return
        first = 0
        for _, run in groupby(numbers):
            last = first + sum(1 for _ in run)
            self._take(messages[first:last])
            first = last

    def _take(self, messages: list[Message]) -> None:
        one = self._assigned.get((str(messages[0].topic()), messages[0].partition() or 0))
        if one is None or one.ended:
            return  # fetched before the partition was given up
        stop = one.position.stop
        if stop is not None and int(messages[-1].offset() or 0) >= stop - 1:
            messages = [message for message in messages if int(message.offset() or 0) < stop]
            one.ended = True
        if messages:
            one.add(messages, self._context.clock.monotonic_ms())
            if len(one.buffer) >= _PIECE:
                one.decode(self._decoder)

    def _next_event(self, consumer: Consumer) -> SplitBatch | SplitFinished | None:
        """The batch of the partition that has waited longest among those that are due; the end of one that is empty."""
        now_ms = self._context.clock.monotonic_ms()
        crowded = self._buffers_full()
        due = [
            one
            for one in self._assigned.values()
            if one.records
            and (crowded or one.ended or self._is_full(one) or now_ms - one.since_ms >= self._context.linger_ms)
        ]
        if due:
            return min(due, key=lambda one: (not self._is_full(one), one.since_ms)).take(self._decoder)
        for one in self._assigned.values():
            if one.ended:
                del self._assigned[one.where]
                consumer.incremental_unassign([TopicPartition(*one.where)])
                return SplitFinished(one.split)
        return None

    def _on_error(self, consumer: Consumer, message: Message) -> None:
        error = message.error()
        where = str(message.topic()), message.partition() or 0
        one = self._assigned.get(where)
        if error is None or (one is None and message.topic()):
            return  # of a partition that was given up
        if error.code() == KafkaError._PARTITION_EOF:
            stop = one.position.stop if one else None
            if one and stop is not None and int(message.offset() or 0) >= stop:
                one.ended = True  # what lies before the stop offset may be transaction markers, which are not shown
        elif error.code() == KafkaError._AUTO_OFFSET_RESET and one:
            self._on_missing_offset(consumer, one)
        elif error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED and self._options.group_id is None:
            return  # no group is used: the client only looked for one
        else:
            raise self._explain(error, f"reading {where[0]}" if message.topic() else "reading")

    def _on_missing_offset(self, consumer: Consumer, one: _Assigned) -> None:
        """The broker does not have the next record: deleted by retention, or never there."""
        topic, number = one.where
        wanted = one.next_offset if one.records else one.position.offset
        try:
            first, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=REQUEST_TIMEOUT_S)
        except KafkaException as error:
            raise self._explain(error.args[0], f"looking for the offsets of {one.split}") from None
        if wanted > end or self._options.on_missing_offsets == "fail":
            raise _missing(topic, number, wanted, first, end)
        self._context.counters.counter("skipped_offsets").inc(max(0, first - wanted))
        uid, text = self._context.uid, "%s: offsets %d to %d of %s are gone; passed over"
        LOG.warning(text, uid, wanted, first, one.split, extra={"operator": uid})
        if not one.records:
            one.position = replace(one.position, offset=first)
        # Assigned anew: after such an error the client fetches no more, and does not let itself be sought.
        consumer.incremental_unassign([TopicPartition(topic, number)])
        consumer.incremental_assign([TopicPartition(topic, number, first)])

    def _check_connection(self, consumer: Consumer) -> None:
        """Raise when access was refused, a partition is gone, or no broker has been reachable for long."""
        final = self._errors.refused or self._errors.gone
        if final is not None:
            raise self._explain(final, "reading")
        if not self._errors.all_down:
            return
        now_ms = self._context.clock.monotonic_ms()
        if self._down_since_ms is None:
            self._down_since_ms = now_ms
        if now_ms - self._down_since_ms >= _DOWN_LIMIT_MS:
            try:
                consumer.list_topics(self._options.topics[0], timeout=_PROBE_TIMEOUT_S)
            except KafkaException as error:
                raise self._explain(error.args[0], "reading") from None
            self._down_since_ms, self._errors.all_down = None, False

    def _explain(self, error: KafkaError, doing: str) -> LakewardError:
        return self._connection.explain(error, doing, self._errors)

    def _note_commit(self, error: KafkaError | None, offsets: Sequence[Any]) -> None:
        if error is not None:
            self._context.counters.counter("commit_failures").inc()
            LOG.warning("offsets of group %s not committed: %s", self._options.group_id, error.str())


def _missing(topic: str, partition: int, wanted: int, first: int, end: int) -> SourceError:
    why = "retention has deleted it" if wanted < first else "the topic was cut short or created again"
    return SourceError(
        f"topic '{topic}' partition {partition}: offset {wanted} is not there ({why}); the broker has {first} to {end}",
        hint='on_missing_offsets="skip" goes on at the earliest record and counts what is lost'
        if wanted < first
        else "start the job without its checkpoint, or restore the topic",
    )
