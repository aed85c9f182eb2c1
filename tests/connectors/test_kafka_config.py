"""Options of the Kafka source, without a broker."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest

from lakeward.connectors.formats.json import Json
from lakeward.connectors.kafka import BadKafkaRecord, KafkaSource
from lakeward.connectors.kafka.offsets import Position, partition_of, split_id
from lakeward.engine.api.secrets import Secret
from lakeward.engine.core.errors import ConfigError, SchemaError, SourceError
from lakeward.testing.brokers import free_port

FORMAT = Json({"id": pa.int64(), "name": pa.string(), "offset": pa.int32()})


def source(topic: Any = "orders", **options: Any) -> KafkaSource:
    return KafkaSource("127.0.0.1:9", topic, format=FORMAT, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topic": []}, "needs a bootstrap address and a topic"),
        ({"topic": ["a", "a"]}, "named twice"),
        ({"start": "newest"}, r"start cannot be 'newest'\n.*'earliest', 'latest', 'committed'"),
        ({"start": "committed"}, "needs a consumer group"),
        ({"start": datetime(2026, 1, 1)}, "no time zone"),  # noqa: DTZ001
        ({"start": {0: -1}}, "offset of partition 0 is -1"),
        ({"topic": ["a", "b"], "start": {0: 1}}, "several topics"),
        ({"stop": "earliest"}, "stop cannot be 'earliest'"),
        ({"metadata": ("ofset",)}, r"metadata cannot be 'ofset'\n.*'key'"),
        ({"metadata": "key"}, "is a text"),
        ({"metadata": ("offset",)}, "has the name of a field"),
        ({"metadata": {"key": "k", "topic": "k"}}, "have one name"),
        ({"on_error": "ignore"}, "on_error cannot be 'ignore'"),
        ({"on_missing_offsets": "ignore"}, "on_missing_offsets"),
        ({"tombstones": "keep"}, "tombstones"),
        ({"discovery_interval": "soon"}, "discovery_interval"),
        ({"properties": {"group.id": "x"}}, "is set by Lakeward"),
        ({"properties": {"sasl.jaas.config": "x"}}, "Java client"),
        ({"properties": {"session.timeout.ms": 5}}, "must be text"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        source(**options)


def test_a_format_is_required() -> None:
    with pytest.raises(ConfigError, match="format cannot be 'json'"):
        KafkaSource("127.0.0.1:9", "orders", format="json")  # type: ignore[arg-type]


def test_metadata_columns_follow_the_fields_under_names_of_their_own() -> None:
    made = source(metadata={"offset": "kafka_offset", "headers": "headers"})
    assert made.schema.names == ["id", "name", "offset", "headers", "kafka_offset"]
    assert made.schema.field("kafka_offset").type == pa.int64()


def test_selecting_columns_narrows_the_schema_and_leaves_the_source_as_it_was() -> None:
    made = source(metadata={"offset": "kafka_offset", "key": "key"})
    assert made.select(["kafka_offset", "name"]).schema.names == ["name", "kafka_offset"]
    assert made.select([]).schema.names == []
    assert made.schema.names == ["id", "name", "offset", "key", "kafka_offset"]
    with pytest.raises(SchemaError, match="no column nam"):
        made.select(["nam"])


def test_a_source_that_ends_is_bounded_and_looks_for_partitions_once() -> None:
    assert source().bounded is False
    assert source().discovery_interval_ms == 30_000
    assert source(discovery_interval=None).discovery_interval_ms is None
    ending = source(stop="latest")
    assert (ending.bounded, ending.discovery_interval_ms) == (True, None)


def test_secrets_show_in_no_text_of_the_source() -> None:
    made = source(
        properties={"sasl.password": "hunter2", "ssl.key.password": Secret("hunter3"), "sasl.username": "${env:WHO}"}
    )
    assert "hunter" not in repr(made) + repr(made._options)
    assert "${env:WHO}" in repr(made)


def test_a_secret_is_looked_up_when_the_client_is_made_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAKEWARD_NO_SUCH", raising=False)
    made = source(properties={"sasl.password": "${env:LAKEWARD_NO_SUCH}"})
    with pytest.raises(ConfigError, match=r"property 'sasl.password': the environment variable LAKEWARD_NO_SUCH"):
        made.list_splits(None)


def test_unknown_client_settings_are_reported_without_secrets() -> None:
    made = source(properties={"sasl.pasword": "hunter2"})
    with pytest.raises(
        ConfigError, match=r'does not take its settings: No such configuration property: "sasl.pasword"'
    ):
        made.list_splits(None)


def test_a_broker_that_does_not_answer_is_an_error_that_names_its_address() -> None:
    address = f"127.0.0.1:{free_port()}"
    made = KafkaSource(address, "orders", format=FORMAT)
    with pytest.raises(SourceError, match=f"Kafka at {address} did not answer while looking for topic orders"):
        made.list_splits(None)


def test_positions_survive_storage_and_unknown_versions_are_refused() -> None:
    position = Position(12, 34, "abc")
    assert Position.from_json(position.to_json(), "t-0") == position
    with pytest.raises(SourceError, match="t-0 can't be read"):
        Position.from_json({"v": 2, "offset": 12}, "t-0")


def test_a_split_is_named_after_a_topic_that_may_have_dashes() -> None:
    assert partition_of(split_id("shop-orders-v2", 11)) == ("shop-orders-v2", 11)


def test_the_error_of_a_bad_record_says_where_it_is_and_shows_its_beginning() -> None:
    error = BadKafkaRecord("orders", 3, 77, None, b"x" * 200, "truncated").error()
    assert "topic 'orders' partition 3 offset 77: truncated" in error.message
    assert "first 100 of 200 bytes" in error.message
    assert "x" * 101 not in error.message
