"""The Kafka source against a real broker."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Producer

import lakeward as lw
from lakeward.connectors.formats.json import Json
from lakeward.connectors.kafka import BadKafkaRecord, KafkaSource
from lakeward.engine.api.source import SourceReader, Split, SplitBatch, SplitFinished
from lakeward.engine.core.clock import ManualClock, SystemClock
from lakeward.engine.core.errors import ConfigError, RecordError, SourceError, UserCodeError
from lakeward.engine.core.ids import CheckpointId, SplitId
from lakeward.testing.brokers import Broker, start_broker
from lakeward.testing.source_suite import (
    SOURCE_CHECKS,
    ReadLog,
    SourceCase,
    TestCounters,
    read_splits,
    reader_context,
)

pytestmark = pytest.mark.kafka

CLOCK = SystemClock()
FORMAT = Json({"id": pa.int64(), "name": pa.string()})


def record(number: int) -> bytes:
    return json.dumps({"id": number, "name": f"n{number % 3}"}).encode()


def row(number: int) -> dict[str, Any]:
    return {"id": number, "name": f"n{number % 3}"}


def source(broker: Broker, topic: str | Sequence[str], **options: Any) -> KafkaSource:
    return KafkaSource(broker.bootstrap, topic, format=options.pop("format", FORMAT), **options)


def read_all(made: KafkaSource, *, rows: int | None = None, known: Mapping[SplitId, Any] | None = None) -> ReadLog:
    return read_splits(made, [(split, None) for split in made.list_splits(known)], rows=rows)


def ids(log: ReadLog) -> list[int]:
    return sorted(one["id"] for one in log.rows())


@pytest.fixture(scope="module")
def filled(broker: Broker) -> str:
    """A topic of three partitions: 60 records, 45 records, none."""
    topic = broker.create_topic(partitions=3)
    broker.produce(topic, [record(i) for i in range(60)], partition=0)
    broker.produce(topic, [record(i) for i in range(100, 145)], partition=1)
    return topic


@pytest.mark.parametrize("stop", ["latest", None])
@pytest.mark.parametrize("check", SOURCE_CHECKS)
def test_the_source_keeps_the_contract(
    broker: Broker, filled: str, check: Callable[[SourceCase], None], stop: str | None
) -> None:
    rows = [row(i) | {"partition": 0} for i in range(60)] + [row(i) | {"partition": 1} for i in range(100, 145)]
    check(SourceCase(lambda: source(broker, filled, stop=stop, metadata=("partition",)), rows))


def test_a_topic_without_records_ends_at_once_when_the_source_is_bounded(broker: Broker) -> None:
    log = read_all(source(broker, broker.create_topic(partitions=2), stop="latest"))
    assert (log.finished, log.row_count) == (True, 0)


def test_several_topics_are_read_as_one(broker: Broker, filled: str) -> None:
    other = broker.create_topic(partitions=1)
    broker.produce(other, [record(7)])
    log = read_all(source(broker, [filled, other], stop="latest", metadata=("topic",)))
    assert log.row_count == 106
    assert {(one["topic"], one["id"]) for one in log.rows() if one["topic"] == other} == {(other, 7)}


def test_metadata_columns_hold_what_the_record_has(broker: Broker) -> None:
    topic = broker.create_topic()
    broker.produce(
        topic,
        [record(1), record(2)],
        keys=[b"k", None],
        timestamps_ms=[1_000, 2_500],
        headers=[("a", b"1"), ("a", None)],
    )
    columns = ("key", "headers", "partition", "offset", "timestamp", "topic")
    first, second = read_all(source(broker, topic, stop="latest", metadata=columns)).rows()
    assert first == row(1) | {
        "key": b"k",
        "headers": [{"name": "a", "value": b"1"}, {"name": "a", "value": None}],
        "partition": 0,
        "offset": 0,
        "timestamp": datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
        "topic": topic,
    }
    assert (second["key"], second["offset"]) == (None, 1)


def test_selected_columns_only_are_decoded(broker: Broker, filled: str) -> None:
    made = source(broker, filled, stop="latest", metadata=("offset", "key")).select(["name", "offset"])
    assert read_all(made).rows()[0] == {"name": "n0", "offset": 0}
    assert read_all(made.select([])).row_count == 105


@pytest.mark.parametrize(
    ("start", "first"),
    [
        ("earliest", [0, 0]),
        ("latest", [10, 5]),
        ({0: 4}, [4, 0]),
        (5_000, [4, 4]),
        (datetime(1970, 1, 1, 0, 0, 7, 1, tzinfo=UTC), [7, 5]),
        (10**12, [10, 5]),
    ],
)
def test_the_start_becomes_an_offset_before_the_first_record(broker: Broker, start: Any, first: list[int]) -> None:
    topic = broker.create_topic(partitions=2)
    for partition, count in ((0, 10), (1, 5)):
        times = [1000 * (i + 1) for i in range(count)]
        broker.produce(topic, [record(i) for i in range(count)], partition=partition, timestamps_ms=times)
    splits = source(broker, topic, start=start).list_splits(None)
    assert [split.start["offset"] for split in splits] == first


def test_a_start_by_offset_outside_of_the_partition_is_an_error(broker: Broker, filled: str) -> None:
    with pytest.raises(SourceError, match=r"offset 61 of topic .* partition 0 is not there; it has 0 to 60"):
        source(broker, filled, start={0: 61}).list_splits(None)
    with pytest.raises(ConfigError, match="which does not exist"):
        source(broker, filled, start={9: 0}).list_splits(None)


def test_offsets_are_committed_with_checkpoints_and_a_new_job_may_start_there(broker: Broker, filled: str) -> None:
    group = f"group-of-{filled}"
    with pytest.raises(SourceError, match=f"group '{group}' has no committed offset for {filled}-0"):
        source(broker, filled, start="committed", group_id=group).list_splits(None)
    made = source(broker, filled, group_id=group)
    reader = made.open_reader(reader_context())
    reader.on_checkpoint_complete(CheckpointId(1), {SplitId(f"{filled}-0"): {"v": 1, "offset": 20}})
    reader.close()
    splits = source(broker, filled, start="committed_or_latest", group_id=group).list_splits(None)
    assert [split.start["offset"] for split in splits] == [20, 45, 0]
    restored = source(broker, filled, start="committed_or_latest", group_id=group)
    again = restored.list_splits({split.id: {"v": 1, "offset": 3} for split in splits})
    assert [split.start["offset"] for split in again] == [3, 3, 3]  # the checkpoint counts, not the group


def test_the_end_is_fixed_at_the_start_and_kept_over_restarts(broker: Broker) -> None:
    topic = broker.create_topic()
    broker.produce(topic, [record(i) for i in range(5)])
    made = source(broker, topic, stop="latest")
    splits = made.list_splits(None)
    broker.produce(topic, [record(i) for i in range(5, 9)])
    assert ids(read_splits(made, [(split, None) for split in splits])) == [0, 1, 2, 3, 4]
    restored = {split.id: {"v": 1, "offset": 2, "stop": 5} for split in splits}
    later = source(broker, topic, stop="latest").list_splits(restored)
    assert ids(read_splits(made, [(split, restored[split.id]) for split in later])) == [2, 3, 4]


def test_a_stop_may_be_an_offset_or_a_moment(broker: Broker) -> None:
    topic = broker.create_topic()
    broker.produce(topic, [record(i) for i in range(9)], timestamps_ms=[1000 * i for i in range(1, 10)])
    assert ids(read_all(source(broker, topic, start={0: 2}, stop={0: 6}))) == [2, 3, 4, 5]
    assert ids(read_all(source(broker, topic, stop=4_500))) == [0, 1, 2, 3]


def test_a_partition_that_appears_later_is_read_from_its_beginning(broker: Broker) -> None:
    topic = broker.create_topic()
    broker.produce(topic, [record(0)])
    made = source(broker, topic, start="latest")
    first = made.list_splits(None)
    broker.add_partitions(topic, 2)
    broker.produce(topic, [record(1), record(2)], partition=1)
    splits = made.list_splits({split.id: split.start for split in first})
    assert [(split.id, split.start["offset"]) for split in splits] == [(f"{topic}-0", 1), (f"{topic}-1", 0)]
    reader = made.open_reader(reader_context())
    reader.close()
    assert ids(read_splits(made, [(split, None) for split in splits], rows=2)) == [1, 2]


def test_a_wrong_topic_is_an_error_that_names_the_nearest(broker: Broker) -> None:
    name = broker.create_topic("shop-orders-eu")
    with pytest.raises(SourceError, match="no topic 'shop-order-eu'") as caught:
        source(broker, "shop-order-eu").list_splits(None)
    assert caught.value.hint == f"did you mean '{name}'?"


def test_a_vanished_partition_is_an_error(broker: Broker, filled: str) -> None:
    with pytest.raises(SourceError, match=f"partition 7 of topic '{filled}' is gone"):
        source(broker, filled).list_splits({SplitId(f"{filled}-7"): {"v": 1, "offset": 0}})


def test_a_topic_that_was_created_again_is_not_mistaken_for_the_old_one(broker: Broker) -> None:
    topic = broker.create_topic()
    made = source(broker, topic)
    known = {split.id: split.start for split in made.list_splits(None)}
    if "topic_id" not in next(iter(known.values())):
        pytest.skip("this broker has no topic ids")
    broker.delete_topic(topic)
    broker.create_topic(topic)
    with pytest.raises(SourceError, match="was deleted and created again"):
        made.list_splits(known)


def test_a_topic_deleted_under_a_reader_is_an_error(broker: Broker) -> None:
    if broker.kind == "noida":
        pytest.skip("this broker goes on answering for a deleted topic")
    topic = broker.create_topic()
    broker.produce(topic, [record(0)])
    made = source(broker, topic, properties={"topic.metadata.propagation.max.ms": "200"})
    reader = made.open_reader(reader_context())
    reader.add_split(made.list_splits(None)[0], None)
    assert poll_until_event(reader) is not None
    broker.delete_topic(topic)
    with pytest.raises(SourceError, match=f"gone from Kafka at .*{topic}"):
        poll_until_event(reader)
    reader.close()


def test_deleted_records_fail_the_job_with_what_is_left(broker: Broker) -> None:
    topic = broker.create_topic()
    broker.produce(topic, [record(i) for i in range(10)])
    made = source(broker, topic)
    splits = made.list_splits(None)
    broker.delete_records(topic, 0, 6)
    with pytest.raises(
        SourceError, match=r"offset 0 is not there \(retention has deleted it\); the broker has 6 to 10"
    ):
        read_splits(made, [(split, None) for split in splits], rows=1)


def test_deleted_records_may_be_passed_over_and_are_counted(broker: Broker) -> None:
    topic = broker.create_topic()
    broker.produce(topic, [record(i) for i in range(10)])
    made = source(broker, topic, on_missing_offsets="skip", stop="latest")
    split = made.list_splits(None)[0]
    broker.delete_records(topic, 0, 6)
    rows, counters = drain(made, split, {"v": 1, "offset": 2, "stop": 10})
    assert [one["id"] for one in rows] == [6, 7, 8, 9]
    assert counters["skipped_offsets"] == 4


def test_a_position_behind_the_end_is_never_skipped(broker: Broker, filled: str) -> None:
    made = source(broker, filled, on_missing_offsets="skip")
    split = made.list_splits(None)[0]
    with pytest.raises(SourceError, match=r"offset 1000 is not there \(the topic was cut short"):
        read_splits(made, [(split, {"v": 1, "offset": 1000})], rows=1)


def poll_until_event(reader: SourceReader, tick: Callable[[], None] = lambda: None) -> SplitBatch | SplitFinished:
    deadline_ms = CLOCK.monotonic_ms() + 20_000
    while (event := reader.poll()) is None:
        assert CLOCK.monotonic_ms() < deadline_ms
        CLOCK.sleep_ms(1)
        tick()
    return event


def drain(made: KafkaSource, split: Split, position: Any = None) -> tuple[list[Any], dict[str, int]]:
    """Read one split of a bounded source to its end: its rows and the reader's counters."""
    counters = TestCounters()
    reader = made.open_reader(reader_context(counters=counters))
    reader.add_split(split, position)
    rows: list[Any] = []
    while isinstance(event := poll_until_event(reader), SplitBatch):
        rows += event.batch.to_pylist()
    reader.close()
    return rows, counters.values


def test_a_bad_record_fails_the_job_and_says_which(broker: Broker) -> None:
    topic = broker.create_topic()
    broker.produce(topic, [record(0), b'{"id": "x"}'])
    with pytest.raises(RecordError, match=f"topic '{topic}' partition 0 offset 1: Expected `int | null`, got `str`"):
        read_all(source(broker, topic), rows=2)


def test_bad_records_may_be_passed_over_and_are_counted_and_logged(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    topic = broker.create_topic()
    broker.produce(topic, [record(i) if i % 10 else b"{" for i in range(100)])
    made = source(broker, topic, on_error="skip", stop="latest", metadata=("offset",))
    with caplog.at_level(logging.WARNING, "lakeward.kafka"):
        rows, counters = drain(made, made.list_splits(None)[0])
    assert [one["id"] for one in rows] == [i for i in range(100) if i % 10]
    assert all(one["offset"] == one["id"] for one in rows)
    assert (counters["bad_records"], counters["read_records"]) == (10, 100)
    assert len([one for one in caplog.records if "bad records" in one.message]) <= 2


def test_an_error_in_a_function_names_topic_partition_and_offset(broker: Broker) -> None:
    topic = broker.create_topic(partitions=2)
    records: list[bytes | None] = [record(i) for i in range(20_000)]
    records[7], records[9] = b"broken", None
    broker.produce(topic, records, partition=1)
    for batch_rows in (32_768, 1_000):
        env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=batch_rows))
        stream = env.from_source(source(broker, topic, stop="latest", on_error="skip"), uid="orders")
        failing = stream.filter(lw.col("id") != 3).map(
            lambda row: {"n": 1 // (row["id"] - 12_345)}, returns={"n": int}, uid="share"
        )
        with pytest.raises(UserCodeError) as caught:
            failing.execute_and_collect()
        assert caught.value.origin == f"topic '{topic}', partition 1, offset 12345"


def test_a_bad_record_shows_no_hidden_field(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    topic = broker.create_topic()
    broker.produce(topic, [b'{"id": "x", "name": "Ada Lovelace", "token": [1, 2]}'])
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(redact_columns=("na*",)))
    with pytest.raises(RecordError, match=r"""record is b'{"id": "x", "name": \*\*\*, "token": \*\*\*}'"""):
        env.from_source(source(broker, topic, stop="latest")).execute_and_collect()
    with caplog.at_level(logging.WARNING, logger="lakeward.kafka"):
        env.from_source(source(broker, topic, stop="latest", on_error="skip")).execute_and_collect()
    assert "passed over 1 bad records" in caplog.text
    assert "Ada" not in caplog.text


def test_a_handler_gets_each_bad_record_with_its_place(broker: Broker) -> None:
    taken: list[BadKafkaRecord] = []

    class Keep:
        def handle(self, records: Sequence[BadKafkaRecord]) -> None:
            taken.extend(records)

    topic = broker.create_topic()
    broker.produce(topic, [b"?", None, record(1), b"[]"], keys=[b"a", b"b", b"c", b"d"])
    made = source(broker, topic, on_error=Keep(), stop="latest", metadata=("key",))
    assert [one["id"] for one in read_all(made).rows()] == [1]
    assert [(one.offset, one.key, one.value) for one in taken] == [(0, b"a", b"?"), (3, b"d", b"[]")]


def test_a_partition_of_bad_records_alone_still_moves_its_position(broker: Broker) -> None:
    topic = broker.create_topic()
    broker.produce(topic, [b"?"] * 5)
    log = read_all(source(broker, topic, on_error="skip", stop="latest"))
    assert [one.positions[-1]["offset"] for one in log.splits.values()] == [5]


def test_tombstones_are_skipped_or_become_rows_of_nulls(broker: Broker) -> None:
    topic = broker.create_topic()
    broker.produce(topic, [record(1), None, record(2)], keys=[b"a", b"a", b"b"])
    skipping = source(broker, topic, stop="latest", metadata=("offset",))
    assert [one["offset"] for one in read_all(skipping).rows()] == [0, 2]
    keeping = source(broker, topic, stop="latest", metadata=("key",), tombstones="null")
    assert read_all(keeping).rows()[1] == {"id": None, "name": None, "key": b"a"}


def transact(broker: Broker, topic: str, numbers: Sequence[int], *, commit: bool) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": f"tx-{topic}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for number in numbers:
        producer.produce(topic, record(number), partition=0)
    producer.flush(30)
    (producer.commit_transaction if commit else producer.abort_transaction)(30)


def test_aborted_records_are_not_seen_and_a_bounded_read_ends_behind_control_records(broker: Broker) -> None:
    topic = broker.create_topic()
    transact(broker, topic, [1, 2], commit=True)
    transact(broker, topic, [3, 4], commit=False)
    transact(broker, topic, [5], commit=True)
    transact(broker, topic, [6], commit=False)
    log = read_all(source(broker, topic, stop="latest", metadata=("offset",)))
    assert ids(log) == [1, 2, 5]
    offsets = [one["offset"] for one in log.rows()]
    assert offsets == sorted(set(offsets))


def test_records_of_an_open_transaction_are_left_to_a_later_run(broker: Broker) -> None:
    topic = broker.create_topic()
    broker.produce(topic, [record(1)])
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": f"open-{topic}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, record(2), partition=0)
    producer.flush(30)
    if broker.kind != "noida":  # it does not tell the end of what is committed
        assert ids(read_all(source(broker, topic, stop="latest"))) == [1]
    log = read_splits(
        made := source(broker, topic), [(split, None) for split in made.list_splits(None)], rows=1, quiet_ms=200
    )
    assert ids(log) == [1]
    producer.abort_transaction(30)


def test_gaps_that_compaction_leaves_are_no_gaps_in_the_rows(broker: Broker) -> None:
    topic = broker.create_topic()
    for number in range(4):  # a transaction leaves a control record behind: a gap in the offsets
        transact(broker, topic, [number], commit=True)
    made = source(broker, topic, stop="latest", metadata=("offset",))
    log = read_splits(made, [(split, None) for split in made.list_splits(None)], batch_rows=2)
    assert ids(log) == [0, 1, 2, 3]
    only = next(iter(log.splits.values()))
    for done, position in enumerate(only.positions, start=1):
        split = made.list_splits(None)[0]
        assert read_splits(made, [(split, position)]).rows() == only.rows(from_batch=done)


def test_batches_are_cut_by_rows_when_fast_and_by_time_when_slow(broker: Broker, filled: str) -> None:
    log = read_splits(
        made := source(broker, filled, stop="latest"), [(s, None) for s in made.list_splits(None)], batch_rows=20
    )
    sizes = [len(batch) for one in log.splits.values() for batch in one.batches]
    assert sum(sizes) == 105
    assert max(sizes) <= 20 + 1000  # what one call of the client brings is not cut again


def test_a_broker_that_goes_away_is_an_error_after_a_while(tmp_path: Path) -> None:
    clock = ManualClock()
    with start_broker(tmp_path, "noida") as doomed:
        topic = doomed.create_topic()
        made = source(doomed, topic)
        reader = made.open_reader(reader_context(clock=clock))
        reader.add_split(made.list_splits(None)[0], None)
        assert reader.poll() is None
        doomed.kill()
        with pytest.raises(SourceError, match=f"Kafka at {doomed.bootstrap} did not answer while reading"):
            poll_until_event(reader, tick=lambda: clock.advance_ms(50))
    reader.close()
