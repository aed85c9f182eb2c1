"""Whatever is handed to a connector by mistake is refused at once: with what, where, and how to write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.cli.errors import render_error
from lakeward.connectors.files import Csv
from lakeward.engine.core.errors import ConfigError

JSON = lw.Json({"a": int})


def kafka(*given: Any, **options: Any) -> lw.KafkaSource:
    return lw.KafkaSource(*(given or ("127.0.0.1:9", "orders")), **{"format": JSON, **options})


def files(place: Any = "/data", **options: Any) -> lw.FilesSource:
    return lw.FilesSource(place, **options)


def out(directory: Any = "/data", **options: Any) -> lw.FilesSink:
    return lw.FilesSink(directory, **options)


def table(name: Any = "shop.orders", **options: Any) -> lw.IcebergSink:
    return lw.IcebergSink(name, **options)


def collection(rows: Any, schema: Any = None) -> object:
    return lw.StreamExecutionEnvironment().from_collection(rows, schema=schema)


def nexmark(events: Any = 10, **options: Any) -> lw.NexmarkSource:
    return lw.NexmarkSource(events, **options)


@pytest.mark.parametrize(
    ("mistake", "what"),
    [
        (lambda: table(None), "IcebergSink: table"),
        (lambda: table(5), "IcebergSink: table"),
        (lambda: table(catalog=5), "catalog"),
        (lambda: table(catalog=["token=secret"]), "catalog"),
        (lambda: table(partition_by=5), "partition_by"),
        (lambda: table(sink_id=5), "sink_id"),
        (lambda: table(on_rewind=None), "on_rewind"),
        (lambda: table(create=True), "create"),
        (lambda: table(compression=["zstd"]), "compression"),
        (lambda: table(compression_level="9"), "compression_level"),
        (lambda: table(table_properties="a=b"), "table_properties"),
        (lambda: table(nulls_for_missing="yes"), "nulls_for_missing"),
        (lambda: table(target_file_size_bytes="128 megs"), "target_file_size_bytes"),
        (lambda: table(target_file_size_bytes=None), "target_file_size_bytes"),
        (lambda: table(buffer_bytes_max=-1), "buffer_bytes_max"),
        (lambda: table(open_files_max="8"), "open_files_max"),
        (lambda: table(snapshots_retained="8"), "snapshots_retained"),
        (lambda: files(None), "FilesSource: place"),
        (lambda: files(5), "FilesSource: place"),
        (lambda: files(""), "FilesSource: place"),
        (lambda: files(b"/data"), "FilesSource: place"),
        (lambda: files(format=5), "FilesSource: format"),
        (lambda: files(format="orc"), "FilesSource: format"),
        (lambda: files(schema=["a"]), "FilesSource: schema"),
        (lambda: files(columns="shop"), "FilesSource: columns"),
        (lambda: files(columns=[1]), "FilesSource: a column"),
        (lambda: files(on_error=None), "FilesSource: on_error"),
        (lambda: Csv(delimiter=";;"), "Csv: delimiter"),
        (lambda: Csv(header="yes"), "Csv: header"),  # type: ignore[arg-type]
        (lambda: Csv(null_values="NA"), "Csv: null_values"),  # type: ignore[arg-type]
        (lambda: out(None), "FilesSink: directory"),
        (lambda: out(""), "FilesSink: directory"),
        (lambda: out(format=Csv()), "FilesSink: format"),
        (lambda: out(target_file_size_bytes="128 megs"), "FilesSink: target_file_size_bytes"),
        (lambda: out(target_file_size_bytes=None), "FilesSink: target_file_size_bytes"),
        (lambda: out(compression=5), "FilesSink: compression"),
        (lambda: out(sink_id=5), "FilesSink: sink_id"),
        (lambda: out(on_rewind="ignore"), "FilesSink: on_rewind"),
        (lambda: out(on_existing="rollback"), "FilesSink: on_existing"),
        (lambda: out(filesystem="s3"), "FilesSink: filesystem"),
        (lambda: nexmark("10"), "NexmarkSource: events"),
        (lambda: nexmark(-1), "NexmarkSource: events"),
        (lambda: nexmark(1.5), "NexmarkSource: events"),
        (lambda: nexmark(rate="fast"), "NexmarkSource: rate"),
        (lambda: nexmark(splits=None), "NexmarkSource: splits"),
        (lambda: nexmark(seed="7"), "NexmarkSource: seed"),
        (lambda: nexmark(kinds=["bid"]), "NexmarkSource: kinds"),
        (lambda: nexmark(base_time="2026-01-01"), "NexmarkSource: base_time"),
        (lambda: kafka(None, "orders"), "KafkaSource: bootstrap"),
        (lambda: kafka("127.0.0.1:9", None), "KafkaSource: topic"),
        (lambda: kafka("127.0.0.1:9", 5), "KafkaSource: topic"),
        (lambda: kafka("127.0.0.1:9", ["orders", None]), "KafkaSource: a topic"),
        (lambda: kafka(format={"a": int}), "KafkaSource: format"),
        (lambda: kafka(start=1.5), "KafkaSource: start"),
        (lambda: kafka(start=None), "KafkaSource: start"),
        (lambda: kafka(stop=["latest"]), "KafkaSource: stop"),
        (lambda: kafka(metadata=5), "KafkaSource: metadata"),
        (lambda: kafka(on_error=5), "KafkaSource: on_error"),
        (lambda: kafka(tombstones=None), "KafkaSource: tombstones"),
        (lambda: kafka(group_id=5), "KafkaSource: group_id"),
        (lambda: kafka(properties="sasl.password=secret"), "KafkaSource: properties"),
        (lambda: collection(None), "the rows of a collection"),
        (lambda: collection(5), "the rows of a collection"),
        (lambda: collection("rows"), "the rows of a collection"),
        (lambda: collection({"a": [1, 2]}), "the rows of a collection"),
        (lambda: collection([{"a": 1}], schema=["a"]), "the schema of a collection"),
        (lambda: collection([{"a": 1}], schema="a"), "the schema of a collection"),
        (lambda: lw.MemorySink(on_rewind="ignore"), "MemorySink: on_rewind"),  # type: ignore[arg-type]
        (lambda: lw.MemorySink(on_existing=None), "MemorySink: on_existing"),  # type: ignore[arg-type]
        (lambda: lw.PrintSink("10"), "PrintSink: limit"),  # type: ignore[arg-type]
        (lambda: lw.PrintSink(prefix=5), "PrintSink: prefix"),  # type: ignore[arg-type]
    ],
)
def test_an_argument_that_cannot_work_is_refused_with_what_where_and_a_hint(
    mistake: Callable[[], object], what: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        mistake()
    error = caught.value
    assert what in error.message
    assert error.location.startswith(f"{__file__}:")
    assert error.hint
    assert "secret" not in str(error)
    assert len(list(render_error(error))) <= 8


def test_sizes_may_be_written_with_their_unit() -> None:
    assert out(target_file_size_bytes="128MB").description == "parquet files /data"
    assert table(target_file_size_bytes="128MB", buffer_bytes_max="1GiB").table == "shop.orders"


def test_rows_may_be_anything_that_can_be_gone_through() -> None:
    assert lw.CollectionSource(iter([{"a": 1}])).schema == pa.schema({"a": pa.int64()})
