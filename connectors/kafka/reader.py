"""Reads partitions: drains the client's queue, gathers records per partition, decodes them batch by batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from lakeward.connectors.kafka.bad_records import BadKafkaRecord
from lakeward.connectors.kafka.buffers import PartitionBuffer
from lakeward.connectors.kafka.client import LOG, REQUEST_TIMEOUT_S, Connection, ErrorLog
from lakeward.connectors.kafka.offsets import Partition, Position, partition_of
from lakeward.engine.api.codec import Decoded, Decoder
from lakeward.engine.api.source import ReaderContext, SourceReader, Split, SplitBatch, SplitFinished
from lakeward.engine.core.errors import LakewardError, RecordError, SourceError
from lakeward.engine.core.ids import CheckpointId, SplitId
from lakeward.engine.core.json_types import JsonObject

_CONSUME = 500  # messages a call: small enough to stay in the processor's cache
_CALLS_PER_POLL = 16
_BATCH_BYTES = 16 << 20  # a batch is cut here even if it has few rows
_BUFFERED_BATCHES = 4  # full batches' worth of records that all partitions together may hold back
_DOWN_LIMIT_MS = 30_000
_PROBE_TIMEOUT_S = 2.0
_LOG_INTERVAL_MS = 10_000


@dataclass(slots=True)
class _Assigned:
    """A partition this reader has, with what waits in it."""

    split: SplitId
    position: Position
    buffer: PartitionBuffer
    ended: bool = False  # everything before the stop offset has been consumed

    @property
    def where(self) -> Partition:
        return self.buffer.topic, self.buffer.partition


class KafkaReader(SourceReader):
    """One subtask's reader. The client's own threads fetch ahead; here nothing waits."""

    def __init__(self, connection: Connection, decoder: Decoder, schema: pa.Schema, context: ReaderContext) -> None:
        self._connection = connection
        self._options = connection.options
        self._decoder = decoder
        self._schema = schema
        self._context = context
        self._errors = ErrorLog()
        self._consumer: Consumer | None = None
        self._assigned: dict[Partition, _Assigned] = {}
        self._unassigned: list[_Assigned] = []
        self._finished: deque[SplitId] = deque()
        self._down_since_ms: int | None = None
        self._logged_ms = -_LOG_INTERVAL_MS
        self._bad_unlogged = 0

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
        self._log_bad(final=True)

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
            rows, size = rows + len(one.buffer), size + one.buffer.size_bytes
        return rows >= limit * _BUFFERED_BATCHES or size >= _BATCH_BYTES * _BUFFERED_BATCHES

    def _is_full(self, one: _Assigned) -> bool:
        return len(one.buffer) >= self._context.batch_rows or one.buffer.size_bytes >= _BATCH_BYTES

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
        numbers = list(map(Message.partition, messages))
        if len(self._options.topics) == 1 and numbers.count(numbers[0]) == len(numbers):
            self._take(messages)
            return
        for _, run in groupby(messages, lambda message: (message.topic(), message.partition())):
            self._take(list(run))

    def _take(self, messages: list[Message]) -> None:
        one = self._assigned.get((str(messages[0].topic()), messages[0].partition() or 0))
        if one is None or one.ended:
            return  # fetched before the partition was given up
        stop = one.position.stop
        if stop is not None and int(messages[-1].offset() or 0) >= stop - 1:
            messages = [message for message in messages if int(message.offset() or 0) < stop]
            one.ended = True
        if messages:
            one.buffer.add(messages, self._context.clock.monotonic_ms())

    def _next_event(self, consumer: Consumer) -> SplitBatch | SplitFinished | None:
        """The batch of the partition that has waited longest among those that are due; the end of one that is empty."""
        now_ms = self._context.clock.monotonic_ms()
        crowded = self._buffers_full()
        due = [
            one
            for one in self._assigned.values()
            if len(one.buffer)
            and (crowded or one.ended or self._is_full(one) or now_ms - one.buffer.since_ms >= self._context.linger_ms)
        ]
        if due:
            return self._batch_of(min(due, key=lambda one: (not self._is_full(one), one.buffer.since_ms)))
        for one in self._assigned.values():
            if one.ended:
                del self._assigned[one.where]
                consumer.incremental_unassign([TopicPartition(*one.where)])
                return SplitFinished(one.split)
        return None

    def _batch_of(self, one: _Assigned) -> SplitBatch:
        buffer, one.buffer = one.buffer, PartitionBuffer(*one.where, self._options.metadata)
        offsets = buffer.offsets()
        decoded = self._decode(buffer)
        if decoded.bad:
            self._on_bad(buffer, decoded)
        arrays = [*decoded.batch.columns, *buffer.metadata_columns(decoded.rows)]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema) if arrays else decoded.batch
        counters = self._context.counters
        counters.counter("read_records").inc(len(buffer))
        counters.counter("read_bytes").inc(buffer.size_bytes)
        one.position = replace(one.position, offset=int(offsets[-1]) + 1)
        return SplitBatch(one.split, batch, one.position.to_json())

    def _decode(self, buffer: PartitionBuffer) -> Decoded:
        """Decode a buffer; without its tombstones, unless they are wanted as rows of nulls."""
        values = buffer.values
        if self._options.tombstones == "null" or None not in values:
            return self._decoder.decode(values)
        kept = np.flatnonzero([value is not None for value in values])
        self._context.counters.counter("tombstones").inc(len(values) - len(kept))
        decoded = self._decoder.decode([values[i] for i in kept])
        rows = kept if decoded.rows is None else kept[decoded.rows]
        return Decoded(decoded.batch, rows, [replace(bad, index=int(kept[bad.index])) for bad in decoded.bad])

    def _on_bad(self, buffer: PartitionBuffer, decoded: Decoded) -> None:
        offsets = buffer.offsets()
        records = [
            BadKafkaRecord(buffer.topic, buffer.partition, int(offsets[i]), buffer.key(i), buffer.values[i], bad.reason)
            for bad in decoded.bad
            for i in (bad.index,)
        ]
        if self._options.on_error == "fail":
            raise records[0].error()
        self._context.counters.counter("bad_records").inc(len(records))
        if not isinstance(self._options.on_error, str):
            self._options.on_error.handle(records)
        self._bad_unlogged += len(records)
        self._log_bad(records[-1].error())

    def _log_bad(self, error: RecordError | None = None, *, final: bool = False) -> None:
        """Log bad records now and then, with how many there were, rather than each."""
        now_ms = self._context.clock.monotonic_ms()
        if self._bad_unlogged and (final or now_ms - self._logged_ms >= _LOG_INTERVAL_MS):
            last = f"; the last: {error.message}" if error else ""
            LOG.warning("%s passed over %d bad records%s", self._context.uid, self._bad_unlogged, last)
            self._bad_unlogged, self._logged_ms = 0, now_ms

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
        wanted = int(one.buffer.offsets()[-1]) + 1 if len(one.buffer) else one.position.offset
        try:
            first, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=REQUEST_TIMEOUT_S)
        except KafkaException as error:
            raise self._explain(error.args[0], f"looking for the offsets of {one.split}") from None
        if wanted > end or self._options.on_missing_offsets == "fail":
            raise _missing(topic, number, wanted, first, end)
        self._context.counters.counter("skipped_offsets").inc(max(0, first - wanted))
        LOG.warning("%s: offsets %d to %d of %s are gone; passed over", self._context.uid, wanted, first, one.split)
        if not len(one.buffer):
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
