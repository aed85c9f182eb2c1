"""Savepoints, stops and cancellation that are asked of a running job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

import lakeward as lw
from lakeward.engine.core.errors import (
    CheckpointError,
    ConfigError,
    JobCanceledError,
    JobFailedError,
    UserCodeError,
    WorkerLostError,
)
from lakeward.engine.execute import JobResult, Ports, execute
from lakeward.engine.runtime.control import JobControl
from lakeward.engine.runtime.status import JobState, JobStatus

EVENTS = 60_000
ASKED = "savepoint"


def no_error(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch


class Job:
    """Counts of bids per auction and 10 s; what is asked of it is asked when it shows its status for the n-th time."""

    def __init__(self, folder: Path, events: int | None = EVENTS) -> None:
        self.folder = folder
        self.events = events
        self.paced = False
        self.control = JobControl()
        self.seen: list[JobStatus] = []
        self.asked: list[Future[int]] = []
        self.then: Iterator[Callable[[], object]] = iter(())
        self.step: Callable[[pa.RecordBatch], pa.RecordBatch] = no_error
        self.config = lw.EngineConfig(
            batch_rows=100, checkpoint_interval_ms=3_600_000, restart=lw.RestartConfig(delay_min_ms=1)
        )

    @property
    def target(self) -> str:
        return str(self.folder / ASKED)

    def savepoint(self, target: str | None = None) -> None:
        self.asked.append(self.control.savepoint(target or self.target))

    def stop_with_savepoint(self, target: str | None = None) -> None:
        self.asked.append(self.control.stop_with_savepoint(target or self.target))

    def look(self, status: JobStatus) -> None:
        self.seen.append(status)
        if status.state is JobState.RUNNING and all(one.done() for one in self.asked):
            next(self.then, lambda: None)()

    def run(self, name: str = "job", savepoint: str | None = None) -> JobResult:
        env = lw.StreamExecutionEnvironment(config=self.config, checkpoint_dir=self.folder / name)
        time = lw.WatermarkStrategy.bounded_out_of_orderness("dateTime", "1s")
        source = lw.NexmarkSource(self.events, paced=self.paced, rate=20_000)
        bids = env.from_source(source, watermark=time, uid="bids")
        bids = bids.map_batches(self.step, uid="step")
        counts = bids.key_by("auction").window(lw.Tumbling("10s")).aggregate(n=lw.count(), uid="counts")
        counts.sink_to(lw.FilesSink(self.folder / "windows"), uid="windows")
        bids.select("auction", "price").sink_to(lw.FilesSink(self.folder / "out"), uid="out")
        definition = env._begun(env.definition(name), savepoint, ())
        return execute(definition, Ports(control=self.control, observe=self.look))

    def rows(self, name: str = "out") -> int:
        return int(ds.dataset(str(self.folder / name), format="parquet").count_rows())


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def all_rows(tmp_path: Path) -> tuple[int, int]:
    whole = Job(tmp_path / "whole")
    assert whole.run().ended
    return whole.rows(), whole.rows("windows")


def test_a_savepoint_of_a_running_job_is_taken_at_once_and_a_job_begun_from_it_finds_the_rest(
    job: Job, tmp_path: Path
) -> None:
    job.paced = True  # for some seconds: it must not end first
    job.then = iter([job.savepoint, job.control.cancel])
    with pytest.raises(JobCanceledError):
        job.run()
    assert [one.result() for one in job.asked] == [1]
    again = Job(tmp_path)
    assert again.run("again", savepoint=job.target).ended
    assert (again.rows(), again.rows("windows")) == all_rows(tmp_path)


def test_a_job_that_stops_with_a_savepoint_has_saved_all_it_did(job: Job, tmp_path: Path) -> None:
    job.paced = True  # it must not end first
    job.then = iter([job.stop_with_savepoint])
    result = job.run()
    assert not result.ended
    assert [one.result() for one in job.asked] == [result.checkpoint]
    assert job.rows() < EVENTS
    again = Job(tmp_path)
    assert again.run("again", savepoint=job.target).ended
    assert (again.rows(), again.rows("windows")) == all_rows(tmp_path)


def test_each_of_many_savepoints_is_a_checkpoint_of_its_own(job: Job, tmp_path: Path) -> None:
    job.events = None
    targets = [str(tmp_path / f"savepoint-{number}") for number in range(4)]
    steps = [lambda target=target: job.savepoint(target) for target in targets]
    job.then = iter([*steps, job.control.stop])
    job.run()
    assert [one.result() for one in job.asked] == [1, 2, 3, 4]
    assert all(lw.read_state(target, "counts").num_rows > 0 for target in targets)


def test_a_job_goes_on_when_the_savepoint_it_was_to_stop_with_has_no_place(job: Job) -> None:
    job.events = None
    elsewhere = f"{job.target}-2"
    job.then = iter([job.savepoint, job.stop_with_savepoint, lambda: job.savepoint(elsewhere), job.control.stop])
    assert not job.run().ended
    first, second, third = job.asked
    assert (first.result(), third.result()) == (1, 2)
    assert isinstance(second.exception(), ConfigError)
    assert "already" in str(second.exception())


def test_a_savepoint_that_nobody_could_write_ends_in_an_error_and_not_the_job(job: Job, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    job.events = None
    job.then = iter([lambda: job.savepoint(str(tmp_path / "file" / "below")), job.savepoint, job.control.stop])
    assert not job.run().ended
    assert job.asked[1].result() >= 1
    assert isinstance(job.asked[0].exception(), CheckpointError | ConfigError)


def test_a_savepoint_survives_a_failure_of_the_job_and_is_taken_by_the_next_attempt(job: Job) -> None:
    failures = iter([True])

    def fail_once_asked(batch: pa.RecordBatch) -> pa.RecordBatch:
        if job.asked and next(failures, False):
            raise WorkerLostError("the network is away")
        return batch

    job.step = fail_once_asked
    job.events = None
    job.then = iter([job.savepoint, job.control.stop])
    result = job.run()
    assert result.restarts == 1
    assert isinstance(job.asked[0].result(), int)
    states = list(dict.fromkeys(one.state for one in job.seen))
    assert states == [JobState.STARTING, JobState.RUNNING, JobState.RESTARTING]
    (failed,) = [one for one in job.seen if one.state is JobState.RESTARTING]
    assert "the network is away" in str(failed.error)


def test_a_savepoint_of_a_job_that_fails_for_good_says_why(job: Job) -> None:
    def fail_once_asked(batch: pa.RecordBatch) -> pa.RecordBatch:
        if job.asked:
            raise ValueError("no such shop")
        return batch

    job.step = fail_once_asked
    job.then = iter([job.savepoint])
    with pytest.raises(UserCodeError):
        job.run()
    error = job.asked[0].exception()
    assert isinstance(error, JobFailedError)
    assert "no such shop" in error.message


def test_what_is_asked_of_a_job_that_has_ended_is_refused(job: Job) -> None:
    job.run()
    assert isinstance(job.control.savepoint(job.target).exception(), JobFailedError)


def test_a_savepoint_that_is_asked_for_at_the_very_end_holds_the_last_checkpoint(job: Job, tmp_path: Path) -> None:
    def ask(batch: pa.RecordBatch) -> pa.RecordBatch:
        if not job.asked:
            job.savepoint()
        return batch

    job.step = ask
    job.events = 100
    result = job.run()
    assert result.ended
    assert job.asked[0].result() == result.checkpoint


def test_a_canceled_job_takes_no_other_checkpoint(job: Job, tmp_path: Path) -> None:
    job.then = iter([job.control.cancel])
    with pytest.raises(JobCanceledError, match="canceled"):
        job.run()
    assert job.seen[-1].checkpoint is None
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_a_job_that_waits_to_be_restarted_can_be_canceled(job: Job) -> None:
    def fail(batch: pa.RecordBatch) -> pa.RecordBatch:
        raise WorkerLostError("the network is away")

    def cancel(status: JobStatus) -> None:
        if status.state is JobState.RESTARTING:
            job.control.cancel()

    job.step = fail
    job.look = cancel  # type: ignore[method-assign]
    job.config = lw.EngineConfig(restart=lw.RestartConfig(delay_min_ms=3_600_000, delay_max_ms=3_600_000))
    with pytest.raises(JobCanceledError):
        job.run()


def test_the_status_says_the_attempt_and_when_the_last_checkpoint_was(job: Job) -> None:
    job.events = None
    job.then = iter([job.savepoint, job.control.stop])
    job.run()
    before, after = job.seen[0], job.seen[-1]
    assert (before.state, before.attempt, before.checkpoint, before.checkpoint_us) == (
        JobState.STARTING,
        None,
        None,
        None,
    )
    assert (after.attempt, after.checkpoint) == (1, 1)
    assert after.checkpoint_us is not None
