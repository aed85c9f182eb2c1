"""The files sink is exactly once on a local disk and on any other file system, whatever fails in between."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

import lakeward as lw
from lakeward.cli.errors import render_error
from lakeward.connectors.files import FilesSink, FilesSource
from lakeward.connectors.files.log import LOG_ENTRIES_KEPT, FilesLog
from lakeward.connectors.files.paths import resolve
from lakeward.connectors.files.storage import Storage
from lakeward.engine.api.sink import WriterContext
from lakeward.engine.core.clock import ManualClock
from lakeward.engine.core.errors import ConfigError, CorruptionError, SchemaError, SinkError, SinkStateError
from lakeward.engine.core.ids import JobId, OperatorId, SubtaskIndex
from lakeward.testing.sink_suite import (
    SINK_CHECKS,
    FaultPoint,
    RunSpec,
    SinkCheck,
    SinkFeature,
    SinkHarness,
    SinkPolicy,
    SinkRun,
    a_closed_run_shows_nothing_more,
    a_rewind_can_roll_back,
    check_rows,
    each_checkpoint_shows_its_own_rows_only,
    run_check,
)
from lakeward.testing.source_suite import TestCounters

ALL_FEATURES = {
    SinkFeature.ROLLBACK,
    SinkFeature.REWIND_APPEND,
    SinkFeature.EXISTING_APPEND,
    SinkFeature.SHARED,
}


class LocalHarness(SinkHarness):
    """A directory on this machine's disk."""

    features = frozenset(ALL_FEATURES)

    def __init__(self, directory: Path, format: str = "parquet") -> None:
        self.directory = directory
        self.format = format

    def sink(self, policy: SinkPolicy) -> FilesSink:
        return FilesSink(
            self.directory,
            format=self.format,  # type: ignore[arg-type]
            sink_id=policy.sink_id,
            on_rewind=policy.on_rewind,  # type: ignore[arg-type]
            on_existing=policy.on_existing,  # type: ignore[arg-type]
            filesystem=self.filesystem(),
        )

    def filesystem(self) -> fs.FileSystem | None:
        return None

    def visible_rows(self) -> Sequence[tuple[int, str]]:
        files = sorted(f for f in self.directory.glob("*") if not f.name.startswith("_"))
        return [(row["id"], row["name"]) for file in files for row in read_file(file)]


def read_file(file: Path) -> list[dict[str, object]]:
    if file.suffix == ".parquet":
        return list(pq.read_table(file).to_pylist())
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    rows = duckdb.sql(f"select * from read_csv('{file}')").fetchall()
    return [{"id": row[0], "name": row[1]} for row in rows]


class BrokenOnce:
    """Fails one call of a file system: the n-th of a method, before it happens or after."""

    def __init__(self) -> None:
        self.method = ""
        self.calls_left = 0
        self.applied = False

    def arm(self, method: str, call: int, *, applied: bool) -> None:
        self.method, self.calls_left, self.applied = method, call, applied

    def due(self, method: str) -> bool:
        if method != self.method:
            return False
        self.calls_left -= 1
        return self.calls_left == 0


class ObjectStore(fs.FileSystemHandler):
    """A file system that is none of Arrow's own, on which chosen calls fail."""

    def __init__(self, fault: BrokenOnce) -> None:
        self.inner = fs.LocalFileSystem()
        self.fault = fault

    def _call(self, method: str, *args: object, **options: object) -> object:
        broken = self.fault.due(method)
        if broken and not self.fault.applied:
            raise OSError(f"{method}: connection reset")
        result = getattr(self.inner, method)(*args, **options)
        if broken:
            raise OSError(f"{method}: no answer")
        return result

    def get_type_name(self) -> str:
        return "store"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return self.inner.get_file_info(paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        return self.inner.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        self._call("create_dir", path, recursive=recursive)

    def delete_file(self, path: str) -> None:
        self._call("delete_file", path)

    def move(self, source: str, target: str) -> None:
        self._call("move", source, target)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.inner.open_input_stream(path)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return self.inner.open_input_file(path)

    def open_output_stream(self, path: str, metadata: object) -> pa.NativeFile:
        return self._call("open_output_stream", path)

    def delete_dir(self, path: str) -> None: ...
    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None: ...
    def delete_root_dir_contents(self) -> None: ...
    def copy_file(self, source: str, target: str) -> None: ...
    def open_append_stream(self, path: str, metadata: object) -> None: ...


class StoreHarness(LocalHarness):
    """A directory behind a file system that may fail."""

    features = frozenset(ALL_FEATURES | {SinkFeature.FAULTS})

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.broken = BrokenOnce()

    def filesystem(self) -> fs.FileSystem:
        return fs.PyFileSystem(ObjectStore(self.broken))

    @contextmanager
    def fault(self, point: FaultPoint) -> Iterator[None]:
        if point is FaultPoint.NOT_APPLIED:
            self.broken.arm("open_output_stream", 1, applied=False)  # the log entry
        else:
            self.broken.arm("open_output_stream", 2, applied=True)  # the note that it was carried out
        yield
        self.broken.arm("", 0, applied=False)


@pytest.mark.parametrize("check", SINK_CHECKS)
def test_the_sink_keeps_the_contract_on_a_local_disk(check: SinkCheck, tmp_path: Path) -> None:
    run_check(check, LocalHarness(tmp_path / "out"))


@pytest.mark.parametrize("format", ["jsonl", "csv"])
@pytest.mark.parametrize(
    "check", [each_checkpoint_shows_its_own_rows_only, a_closed_run_shows_nothing_more, a_rewind_can_roll_back]
)
def test_text_formats_keep_the_contract_too(check: SinkCheck, format: str, tmp_path: Path) -> None:
    run_check(check, LocalHarness(tmp_path / "out", format))  # all else has nothing to do with the format


@pytest.mark.parametrize("check", SINK_CHECKS)
def test_the_sink_keeps_the_contract_on_another_file_system(check: SinkCheck, tmp_path: Path) -> None:
    run_check(check, StoreHarness(tmp_path / "out"))


@pytest.mark.parametrize("applied", [False, True], ids=["not-applied", "answer-lost"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_commit_interrupted_between_renames_is_finished(call: int, applied: bool, tmp_path: Path) -> None:
    harness = StoreHarness(tmp_path)
    run = SinkRun(harness, RunSpec(writers=3))
    first = run.take(1, range(9))
    harness.broken.arm("move", call, applied=applied)
    with pytest.raises(SinkError, match="move"):
        run.commit(first)
    assert len(harness.visible_rows()) == 3 * (call - 1 + applied)
    SinkRun(harness, RunSpec(restored=first)).advance(2, range(9, 12))
    check_rows(harness, range(12))


@pytest.mark.parametrize("call", [1, 2])
def test_a_rollback_interrupted_between_deletions_is_finished(call: int, tmp_path: Path) -> None:
    harness = StoreHarness(tmp_path)
    run = SinkRun(harness)
    first = run.advance(1, range(3))
    run.advance(2, range(3, 9))
    spec = RunSpec(restored=first, policy=SinkPolicy(on_rewind="rollback"))
    harness.broken.arm("delete_file", call, applied=False)
    with pytest.raises(SinkError, match="delete_file"):
        SinkRun(harness, spec)
    SinkRun(harness, RunSpec(restored=first))  # the rollback is decided: it is only finished
    check_rows(harness, range(3))


def test_a_lost_staged_file_is_noticed(tmp_path: Path) -> None:
    harness = LocalHarness(tmp_path)
    taken = SinkRun(harness, RunSpec(writers=1)).take(1, range(3))
    (tmp_path / str(taken.committables[0]["staged"])).unlink()
    with pytest.raises(SinkStateError, match="neither staged"):
        SinkRun(harness, RunSpec(restored=taken))


def test_files_that_were_moved_away_after_the_commit_are_not_missed(tmp_path: Path) -> None:
    harness = LocalHarness(tmp_path)
    first = SinkRun(harness).advance(1, range(3))
    for file in tmp_path.glob("*.parquet"):
        file.unlink()
    SinkRun(harness, RunSpec(restored=first)).advance(2, range(3, 6))
    check_rows(harness, range(3, 6))


def test_an_emptied_directory_is_noticed(tmp_path: Path) -> None:
    first = SinkRun(LocalHarness(tmp_path / "a")).advance(1, range(3))
    with pytest.raises(SinkStateError, match="emptied"):
        SinkRun(LocalHarness(tmp_path / "b"), RunSpec(restored=first, commit_done=True))
    second = SinkRun(LocalHarness(tmp_path / "a"), RunSpec(restored=first)).take(2, range(3, 6))
    with pytest.raises(SinkStateError, match="emptied"):
        SinkRun(LocalHarness(tmp_path / "b"), RunSpec(restored=second))


def test_another_sink_id_than_the_checkpoints_is_refused(tmp_path: Path) -> None:
    harness = LocalHarness(tmp_path)
    first = SinkRun(harness, RunSpec(policy=SinkPolicy(sink_id="a"))).advance(1, range(3))
    with pytest.raises(SinkStateError, match="sink_id='b'"):
        SinkRun(harness, RunSpec(restored=first, policy=SinkPolicy(sink_id="b")))


def test_what_a_crash_left_staged_is_cleared(tmp_path: Path) -> None:
    harness = LocalHarness(tmp_path)
    old = SinkRun(harness)
    first = old.advance(1, range(3))
    old.take(2, range(3, 6))
    old.write(range(6, 9))
    assert [f for f in tmp_path.rglob("_staging/*/*") if f.is_file()]
    SinkRun(harness, RunSpec(restored=first))
    assert not [f for f in tmp_path.rglob("_staging/*/*") if f.is_file()]


def test_a_damaged_log_is_noticed(tmp_path: Path) -> None:
    harness = LocalHarness(tmp_path)
    first = SinkRun(harness).advance(1, range(3))
    (entry,) = (tmp_path / "_lakeward").rglob("*.json")
    entry.write_bytes(entry.read_bytes()[:20])
    with pytest.raises(CorruptionError, match=r"0001\.json cannot be read"):
        SinkRun(harness, RunSpec(restored=first))


def test_old_log_entries_are_forgotten(tmp_path: Path) -> None:
    log = FilesLog(Storage(resolve(tmp_path)), "orders")
    run = SinkRun(LocalHarness(tmp_path), RunSpec(policy=SinkPolicy(sink_id="orders")))
    directory = tmp_path / "_lakeward" / "orders"
    run.advance(1, [1])
    for version in range(2, LOG_ENTRIES_KEPT + 1):
        (directory / f"{version:020d}.json").write_bytes((directory / f"{1:020d}.json").read_bytes())
    entry = log.entries()[0]
    assert log.append(type(entry)(LOG_ENTRIES_KEPT + 1, entry.kind, 7)) is None
    assert len(log.entries()) == LOG_ENTRIES_KEPT


def writer_context(schema: pa.Schema) -> WriterContext:
    return WriterContext(OperatorId("out"), JobId("job"), SubtaskIndex(0), "1", schema, ManualClock(), TestCounters())


@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv"])
def test_files_roll_at_their_size(format: str, tmp_path: Path) -> None:
    sink = FilesSink(tmp_path, format=format, target_file_size_bytes="100KB", compression="none")  # type: ignore[arg-type]
    batch = pa.record_batch({"n": range(10_000)})
    writer = sink.open_writer(writer_context(batch.schema))
    for _ in range(20):
        writer.write(batch)
    committables = writer.prepare_commit(1)  # type: ignore[arg-type]
    assert len(committables) > 3
    assert sum(int(str(c["rows"])) for c in committables) == 200_000
    assert all(int(str(c["size_bytes"])) < 400_000 for c in committables)


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_compressed_text_is_read_back(format: str, compression: str, tmp_path: Path) -> None:
    class Harness(LocalHarness):
        def sink(self, policy: SinkPolicy) -> FilesSink:
            return FilesSink(tmp_path, format=format, compression=compression)  # type: ignore[arg-type]

    SinkRun(Harness(tmp_path)).advance(1, range(10))
    source = FilesSource(tmp_path, format=format)  # type: ignore[arg-type]
    assert len(source.list_splits(None)) == 2
    assert source.schema.names == ["id", "name"]


@pytest.mark.parametrize(
    ("format", "kind", "fits"),
    [
        ("csv", pa.list_(pa.int64()), False),
        ("csv", pa.timestamp("us", "UTC"), True),
        ("jsonl", pa.list_(pa.int64()), True),
        ("parquet", pa.list_(pa.int64()), True),
        ("parquet", pa.month_day_nano_interval(), False),
    ],
)
def test_a_type_that_the_format_cannot_hold_is_refused(
    tmp_path: Path, format: str, kind: pa.DataType, fits: bool
) -> None:
    schema = pa.schema({"ok": pa.int64(), "odd": kind})
    sink = FilesSink(tmp_path, format=format)  # type: ignore[arg-type]
    if fits:
        sink.check_schema(schema)
    else:
        with pytest.raises(SchemaError, match="column 'odd' of type"):
            sink.check_schema(schema)


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="snappy"):
        FilesSink("/nowhere", format="csv", compression="snappy")
    with pytest.raises(ConfigError, match="format cannot be 'orc'"):
        FilesSink("/nowhere", format="orc")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [pa.binary(), pa.list_(pa.int64())])
def test_what_csv_cannot_hold_is_refused_before_the_job_runs(tmp_path: Path, kind: pa.DataType) -> None:
    with pytest.raises(SchemaError, match=r"column 'b' of type .* cannot be written"):
        FilesSink(tmp_path, format="csv").check_schema(pa.schema({"b": kind}))


@pytest.mark.parametrize("place", ["file", "file/below", "file/far/below", "ok", "/proc/out", "/proc/a/b"])
def test_a_job_to_an_impossible_place_fails_at_once_and_names_it(tmp_path: Path, place: str) -> None:
    # /proc refuses new directories to everybody, root too.
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "ok").mkdir()
    (tmp_path / "ok" / "_staging").write_text("in the way")
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(restart=lw.RestartConfig(delay_min_ms=3_600_000)))
    env.from_collection([{"a": 1}]).sink_to(FilesSink(tmp_path / place), uid="out")
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        env.execute("job")
    assert str(resolve(tmp_path / place).path) in caught.value.message
    assert caught.value.operator == "out"
    assert 3 <= len(render_error(caught.value)) <= 8


def test_a_place_on_a_read_only_file_system_or_without_rights_is_refused_before_the_job_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (errno.EROFS, errno.EACCES):

        def refuse(path: str, mode: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number), path)

        monkeypatch.setattr(os, "mkdir", refuse)
        with pytest.raises(ConfigError, match=os.strerror(number)):
            FilesSink(tmp_path).check_schema(pa.schema({"a": pa.int64()}))


def test_a_full_disk_is_no_mistake_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, mode: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(SinkError, match="No space left"):
        FilesSink(tmp_path).check_schema(pa.schema({"a": pa.int64()}))


def test_looking_whether_a_place_can_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "new" / "far"):
        FilesSink(place).check_schema(pa.schema({"a": pa.int64()}))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_goes_away_while_the_job_runs_is_an_error_that_names_it(tmp_path: Path) -> None:
    run = SinkRun(LocalHarness(tmp_path / "out"))
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(SinkError, match="failed"):
        run.advance(1, range(3))


def test_a_sinks_identity_is_its_directory_and_its_sink_id(tmp_path: Path) -> None:
    assert FilesSink(tmp_path).identity is None
    named = [FilesSink(tmp_path, sink_id="mine"), FilesSink(tmp_path, sink_id="yours"), FilesSink("/b", sink_id="mine")]
    assert len({sink.identity for sink in named}) == 3
    assert FilesSink(f"{tmp_path}/", format="csv", sink_id="mine").identity == named[0].identity
