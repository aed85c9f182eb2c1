"""Barriers that overtake rows: the rows are in the checkpoint, and come first after a restore, at any parallelism."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from click.testing import CliRunner

import lakeward as lw
from lakeward.cli.main import main
from lakeward.engine.checkpoint.manifest import IN_FLIGHT_VERSION, CheckpointManifest
from lakeward.engine.checkpoint.store_fs import open_store
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow
from lakeward.engine.core.errors import ConfigError, GraphError, JobCanceledError
from lakeward.engine.core.ids import OperatorId
from lakeward.engine.execute import JobResult, Ports, execute
from lakeward.engine.runtime.control import JobControl
from lakeward.engine.runtime.status import JobStatus
from lakeward.testing import BARRIER, CollectSink, ScriptedSource, assert_survives_crashes

EVENTS = 1_500_000
CONFIG = lw.EngineConfig(checkpoint_interval_ms=5, alignment_timeout_ms=0, channel_batches_max=16)
COLUMNS = ("auction", "price", "dateTime")


class Job:
    """Bids by auction into windows and files, by two steps that are tasks of their own."""

    def __init__(self, folder: Path, columns: tuple[str, ...] = COLUMNS) -> None:
        self.folder = folder
        self.columns = columns
        self.events: int | None = EVENTS
        self.control = JobControl()
        self.done: Callable[[JobStatus], bool] = lambda status: False

    def look(self, status: JobStatus) -> None:
        if self.done(status):
            self.control.cancel()

    def run(self, parallelism: int, config: lw.EngineConfig = CONFIG, savepoint: str | None = None) -> JobResult:
        config = replace(config, parallelism=parallelism)
        env = lw.StreamExecutionEnvironment(config=config, checkpoint_dir=self.folder / "checkpoints")
        time = lw.WatermarkStrategy.bounded_out_of_orderness("dateTime", "1s")
        bids = env.from_source(lw.NexmarkSource(self.events, rate=20_000, splits=4), watermark=time, uid="bids")
        bids = bids.select(*self.columns) if self.columns else bids
        counts = bids.key_by("auction").window(lw.Tumbling("10s"))
        counts.aggregate(n=lw.count(), total=lw.sum("price"), uid="windows").sink_to(
            lw.FilesSink(self.folder / "windows"), uid="windows-out"
        )
        bids.sink_to(lw.FilesSink(self.folder / "out"), uid="out")
        definition = env._begun(env.definition("job"), savepoint, ())
        return execute(definition, Ports(control=self.control, observe=self.look))

    def rows(self, name: str) -> pa.Table:
        table = ds.dataset(str(self.folder / name), format="parquet").to_table()
        return table.sort_by([(column, "ascending") for column in table.column_names])


def newest(folder: Path) -> CheckpointManifest:
    found = CheckpointWorkflow(open_store(str(folder / "checkpoints"))).newest_whole()
    assert found is not None
    return found.manifest


def run_until_rows_are_in_flight(
    folder: Path, config: lw.EngineConfig = CONFIG, columns: tuple[str, ...] = COLUMNS
) -> CheckpointManifest:
    """Cancel the job when its newest checkpoint holds some; begin again if it ends before."""
    for _ in range(5):
        if not ends_without_rows_in_flight(folder, config, columns):
            return newest(folder)
        shutil.rmtree(folder)
    raise AssertionError("five jobs have ended before a checkpoint of theirs held rows in flight")


def ends_without_rows_in_flight(folder: Path, config: lw.EngineConfig, columns: tuple[str, ...]) -> bool:
    job = Job(folder, columns)
    seen: set[int | None] = set()

    def holds_rows(status: JobStatus) -> bool:
        if status.checkpoint in seen or status.checkpoint is None:
            return False
        seen.add(status.checkpoint)
        return any(one.in_flight for one in newest(folder).operators)

    job.done = holds_rows
    try:
        return job.run(2, config).ended
    except JobCanceledError:
        return False


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = Job(tmp_path_factory.mktemp("straight"))
    job.run(1, lw.EngineConfig())
    return job


@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_rows_in_flight_come_back_at_any_parallelism(tmp_path: Path, answer: Job, parallelism: int) -> None:
    manifest = run_until_rows_are_in_flight(tmp_path)
    assert manifest.version == IN_FLIGHT_VERSION
    job = Job(tmp_path)
    job.run(parallelism)
    for name in ("windows", "out"):
        assert job.rows(name) == answer.rows(name)


def test_a_savepoint_of_a_checkpoint_with_rows_in_flight_holds_them(tmp_path: Path, answer: Job) -> None:
    manifest = run_until_rows_are_in_flight(tmp_path)
    saved = str(tmp_path / "savepoint")
    assert lw.savepoint(tmp_path / "checkpoints", saved) == manifest.checkpoint
    (tmp_path / "checkpoints").rename(tmp_path / "gone")
    job = Job(tmp_path)
    job.run(3, savepoint=saved)
    assert job.rows("windows") == answer.rows("windows")
    shown = CliRunner().invoke(main, ["checkpoints", "show", saved]).output
    assert "rows on their way to it" in shown
    assert CliRunner().invoke(main, ["checkpoints", "verify", saved]).exit_code == 0


def test_a_job_that_is_asked_to_stop_leaves_no_rows_in_flight(tmp_path: Path) -> None:
    job = Job(tmp_path)
    stop = job.control.stop

    def stop_after_the_first_checkpoint(status: JobStatus) -> bool:
        if status.checkpoint is not None:
            stop()
        return False

    job.events = None
    job.done = stop_after_the_first_checkpoint
    assert not job.run(2).ended
    assert not any(one.in_flight for one in newest(tmp_path).operators)


def test_a_job_that_takes_fewer_columns_goes_on_with_rows_in_flight(tmp_path: Path, answer: Job) -> None:
    manifest = run_until_rows_are_in_flight(tmp_path, replace(CONFIG, optimise=False), columns=())
    assert manifest.version == IN_FLIGHT_VERSION
    job = Job(tmp_path, columns=())
    job.run(2)
    assert job.rows("windows") == answer.rows("windows")


def test_a_job_that_wants_other_columns_of_rows_in_flight_is_told_what_to_do(tmp_path: Path) -> None:
    manifest = run_until_rows_are_in_flight(tmp_path)
    (uid,) = {one.uid for one in manifest.operators if one.in_flight}
    assert uid == OperatorId("windows")
    env = lw.StreamExecutionEnvironment(config=CONFIG, checkpoint_dir=tmp_path / "checkpoints")
    time = lw.WatermarkStrategy.bounded_out_of_orderness("dateTime", "1s")
    bids = env.from_source(lw.NexmarkSource(EVENTS, rate=20_000, splits=4), watermark=time, uid="bids")
    counts = bids.key_by("auction").window(lw.Tumbling("10s"))
    windows = counts.aggregate(n=lw.count(), total=lw.sum("bidder"), uid="windows")
    windows.sink_to(lw.FilesSink(tmp_path / "windows"), uid="windows-out")
    bids.sink_to(lw.FilesSink(tmp_path / "out"), uid="out")
    with pytest.raises(GraphError, match=r"on their way to operator 'windows'.*bidder") as caught:
        env.execute("job")
    assert "stop it" in caught.value.hint


def test_a_job_survives_crashes_at_every_step_of_unaligned_checkpoints() -> None:
    rows = [[{"k": number % 5, "v": number} for number in range(start, start + 8)] for start in range(0, 40, 8)]
    script = [item for batch in rows for item in (batch, BARRIER)]

    def job(env: lw.StreamExecutionEnvironment) -> None:
        env.config = replace(env.config, parallelism=2, alignment_timeout_ms=0, checkpoint_interval_ms=1)
        numbers = env.from_source(ScriptedSource({"k": int, "v": int}, script), uid="numbers")
        rolled = numbers.key_by("k").reduce(lambda a, b: {"k": b["k"], "v": a["v"] + b["v"]}, uid="sums")
        rolled.map(lambda row: row, returns=rolled.schema, uid="again").sink_to(CollectSink(), uid="out")

    assert_survives_crashes(job)


def test_a_timeout_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="alignment_timeout_ms is -1"):
        lw.EngineConfig(alignment_timeout_ms=-1)


def test_an_aligned_checkpoint_is_as_older_lakewards_know_it(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.run(2, replace(CONFIG, alignment_timeout_ms=None))
    manifest = newest(tmp_path)
    assert manifest.version == 1
    assert b"in_flight" not in manifest.to_bytes()
