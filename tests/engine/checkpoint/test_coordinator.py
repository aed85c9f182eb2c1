from __future__ import annotations

import random

import pytest

from lakeward.engine.checkpoint.coordinator import CheckpointCoordinator, CoordinatorConfig, Phase
from lakeward.engine.checkpoint.events import (
    Acked,
    AckResult,
    AllTasksEnded,
    CheckpointFailure,
    CheckpointRequested,
    Commit,
    CommitFailed,
    Committed,
    Declined,
    Event,
    FailJob,
    FinishJob,
    InjectBarriers,
    Instruction,
    NotifyAborted,
    NotifyComplete,
    Publish,
    Published,
    PublishFailed,
    StopRequested,
    Tick,
    from_json,
    to_json,
)
from lakeward.engine.core.errors import CheckpointError, ConfigError, InternalError
from lakeward.engine.core.ids import CheckpointId, Generation, OperatorId, SubtaskIndex
from lakeward.engine.core.snapshots import OperatorSnapshot, StoredFile, TableSnapshot

ONE, TWO, THREE = CheckpointId(1), CheckpointId(2), CheckpointId(3)
SOURCE = OperatorSnapshot(OperatorId("source"), SubtaskIndex(0), {"offset": 7})
SINK = OperatorSnapshot(OperatorId("sink"), SubtaskIndex(0), committables=({"v": 1, "file": "a.parquet"},))


class Driven:
    """A coordinator, its clock, and a check of its state after every event."""

    def __init__(self, tolerated: int = 0, tasks: tuple[str, ...] = ("source", "sink")) -> None:
        config = CoordinatorConfig(1000, timeout_ms=5000, failures_tolerated=tolerated, first_checkpoint=ONE)
        self.coordinator = CheckpointCoordinator(config, frozenset(tasks))
        self.now_ms = 0
        assert self.say(Tick()) == []

    def say(self, event: Event, after_ms: int = 0) -> list[Instruction]:
        self.now_ms += after_ms
        instructions = self.coordinator.handle(event, self.now_ms)
        self.coordinator.validate()
        return instructions

    def start(self, checkpoint: CheckpointId) -> None:
        assert self.say(Tick(), 1000) == [InjectBarriers(checkpoint)]

    def ack_all(self, checkpoint: CheckpointId) -> list[Instruction]:
        self.say(Acked(checkpoint, "source", (SOURCE,)))
        return self.say(Acked(checkpoint, "sink", (SINK,)))

    def complete(self, checkpoint: CheckpointId) -> list[Instruction]:
        self.ack_all(checkpoint)
        self.say(Published(checkpoint))
        return self.say(Committed(checkpoint))


def test_a_checkpoint_goes_from_barrier_to_commit() -> None:
    job = Driven()
    assert job.say(Tick(), 999) == []
    assert job.say(Tick(), 1) == [InjectBarriers(ONE)]
    assert job.say(Acked(ONE, "source", (SOURCE,))) == []
    assert job.coordinator.waiting_for() == {"sink"}
    assert job.say(Acked(ONE, "sink", (SINK,))) == [Publish(ONE, (SINK, SOURCE), final=False)]
    assert job.say(Published(ONE)) == [Commit(ONE)]
    assert job.say(Committed(ONE)) == [NotifyComplete(ONE)]
    assert job.say(Tick(), 1000) == [InjectBarriers(TWO)]


def test_the_interval_counts_from_start_to_start() -> None:
    job = Driven()
    job.start(ONE)
    job.say(Tick(), 600)
    job.complete(ONE)
    assert job.say(Tick(), 399) == []
    assert job.say(Tick(), 1) == [InjectBarriers(TWO)]


def test_a_checkpoint_that_is_overdue_starts_as_soon_as_the_one_in_flight_is_done() -> None:
    job = Driven()
    job.start(ONE)
    assert job.say(Tick(), 3000) == []
    assert job.complete(ONE) == [NotifyComplete(ONE), InjectBarriers(TWO)]


def test_there_is_never_more_than_one_checkpoint_in_flight() -> None:
    job = Driven()
    job.start(ONE)
    assert job.say(Tick(), 2000) == []
    job.ack_all(ONE)
    assert job.say(Tick(), 9000) == []
    job.say(Published(ONE))
    assert job.say(Tick(), 9000) == []


def test_a_decline_gives_up_only_the_checkpoint_it_names() -> None:  # B09
    job = Driven(tolerated=1)
    job.start(ONE)
    aborted = NotifyAborted(ONE, CheckpointFailure.DECLINED)
    assert job.say(Declined(ONE, "sink", "disk full")) == [aborted]
    job.start(TWO)
    assert job.say(Declined(ONE, "source", "disk full")) == []
    assert job.coordinator.in_flight == TWO


def test_a_late_ack_of_a_finished_checkpoint_is_ignored() -> None:  # B10
    job = Driven(tolerated=1)
    job.start(ONE)
    job.say(Declined(ONE, "sink", "disk full"))
    job.start(TWO)
    assert job.say(Acked(ONE, "source", (SOURCE,))) == []
    assert job.coordinator.last_ack is AckResult.LATE
    assert job.coordinator.waiting_for() == {"source", "sink"}


@pytest.mark.parametrize(
    ("checkpoint", "task"), [(CheckpointId(99), "source"), (ONE, "stranger"), (CheckpointId(0), "sink")]
)
def test_acks_of_unknown_checkpoints_and_tasks_are_ignored(checkpoint: CheckpointId, task: str) -> None:  # B11
    job = Driven()
    job.start(ONE)
    assert job.say(Acked(checkpoint, task, ())) == []
    assert job.coordinator.acks[AckResult.UNKNOWN] == 1


def test_an_ack_after_the_decline_is_late_and_changes_nothing() -> None:  # B12
    job = Driven(tolerated=1)
    job.start(ONE)
    job.say(Declined(ONE, "sink", "disk full"))
    assert job.say(Acked(ONE, "source", (SOURCE,))) == []
    assert job.coordinator.acks[AckResult.LATE] == 1
    assert job.coordinator.phase is Phase.IDLE


def test_a_task_that_acks_twice_counts_once() -> None:  # B13
    job = Driven()
    job.start(ONE)
    job.say(Acked(ONE, "source", (SOURCE,)))
    assert job.say(Acked(ONE, "source", (SOURCE,))) == []
    assert job.coordinator.last_ack is AckResult.DUPLICATE
    assert job.say(Acked(ONE, "sink", (SINK,))) == [Publish(ONE, (SINK, SOURCE), final=False)]
    assert job.say(Acked(ONE, "sink", (SINK,))) == []
    assert job.coordinator.acks == {
        AckResult.ACCEPTED: 2,
        AckResult.DUPLICATE: 2,
        AckResult.LATE: 0,
        AckResult.UNKNOWN: 0,
    }


def test_a_checkpoint_with_one_ack_missing_times_out_without_a_completion_notice() -> None:  # B14
    job = Driven(tolerated=1)
    job.start(ONE)
    job.say(Acked(ONE, "source", (SOURCE,)))
    assert job.say(Tick(), 4999) == []
    instructions = job.say(Tick(), 1)
    assert instructions == [NotifyAborted(ONE, CheckpointFailure.TIMED_OUT), InjectBarriers(TWO)]
    assert isinstance(instructions[0], NotifyAborted)
    assert instructions[0].detail == "after 5000 ms without sink"


def test_a_manifest_that_cannot_be_stored_leads_to_no_commit_and_no_notice() -> None:  # B15
    job = Driven(tolerated=1)
    job.start(ONE)
    job.ack_all(ONE)
    assert job.say(PublishFailed(ONE, "no space")) == [NotifyAborted(ONE, CheckpointFailure.PUBLISH_FAILED)]
    job.start(TWO)
    assert job.complete(TWO) == [NotifyComplete(TWO)]


def test_a_manifest_that_cannot_be_stored_counts_as_a_failure() -> None:  # B18
    job = Driven(tolerated=0)
    job.start(ONE)
    job.ack_all(ONE)
    aborted, failed = job.say(PublishFailed(ONE, "no space"))
    assert aborted == NotifyAborted(ONE, CheckpointFailure.PUBLISH_FAILED)
    assert isinstance(failed, FailJob)
    assert "1 in a row, and 0 are tolerated" in failed.reason


def test_each_abort_is_told_once() -> None:  # B16
    job = Driven(tolerated=5)
    job.start(ONE)
    told = job.say(Declined(ONE, "sink", "a")) + job.say(Declined(ONE, "source", "b")) + job.say(Tick(), 10)
    assert told == [NotifyAborted(ONE, CheckpointFailure.DECLINED)]


def test_a_timeout_counts_toward_the_tolerated_failures() -> None:  # B20
    job = Driven(tolerated=1)
    job.start(ONE)
    job.say(Tick(), 5000)
    assert job.coordinator.in_flight == TWO
    aborted, failed = job.say(Tick(), 5000)
    assert aborted == NotifyAborted(TWO, CheckpointFailure.TIMED_OUT)
    assert isinstance(failed, FailJob)


def test_a_completed_checkpoint_forgives_the_failures_before_it() -> None:
    job = Driven(tolerated=1)
    for n in range(0, 10, 2):
        job.start(CheckpointId(n + 1))
        job.say(Declined(CheckpointId(n + 1), "sink", "disk full"))
        assert job.coordinator.failures_in_a_row == 1
        job.start(CheckpointId(n + 2))
        job.complete(CheckpointId(n + 2))
        assert job.coordinator.failures_in_a_row == 0


def test_a_slow_commit_does_not_time_out() -> None:
    job = Driven()
    job.start(ONE)
    job.ack_all(ONE)
    job.say(Published(ONE))
    assert job.say(Tick(), 60_000) == []
    assert job.say(Committed(ONE)) == [NotifyComplete(ONE), InjectBarriers(TWO)]


def test_a_commit_that_fails_after_publishing_fails_the_job_however_much_is_tolerated() -> None:
    job = Driven(tolerated=100)
    job.start(ONE)
    job.ack_all(ONE)
    job.say(Published(ONE))
    (failed,) = job.say(CommitFailed(ONE, "catalog is down"))
    assert isinstance(failed, FailJob)
    assert "catalog is down" in failed.reason


def test_the_end_of_all_input_takes_one_last_checkpoint_at_once_and_finishes() -> None:
    job = Driven()
    assert job.say(AllTasksEnded(), 10) == [InjectBarriers(ONE, aligned=True)]
    assert job.ack_all(ONE) == [Publish(ONE, (SINK, SOURCE), final=True)]
    job.say(Published(ONE))
    assert job.say(Committed(ONE)) == [NotifyComplete(ONE), FinishJob(final=True)]


def test_a_stop_takes_one_last_checkpoint_that_can_be_gone_on_from() -> None:
    job = Driven()
    assert job.say(StopRequested(), 10) == [InjectBarriers(ONE, aligned=True)]
    assert job.ack_all(ONE) == [Publish(ONE, (SINK, SOURCE), final=False)]
    job.say(Published(ONE))
    assert job.say(Committed(ONE)) == [NotifyComplete(ONE), FinishJob(final=False)]


def test_a_requested_checkpoint_does_not_wait_for_its_time() -> None:
    job = Driven()
    assert job.coordinator.next_checkpoint == ONE
    assert job.say(CheckpointRequested(), 10) == [InjectBarriers(ONE, aligned=True)]
    assert job.complete(ONE) == [NotifyComplete(ONE)]
    assert job.say(Tick()) == []


def test_a_checkpoint_that_is_requested_while_another_is_in_flight_follows_it() -> None:
    job = Driven()
    job.start(ONE)
    assert job.say(CheckpointRequested()) == []
    assert job.coordinator.next_checkpoint == TWO
    assert job.complete(ONE) == [NotifyComplete(ONE), InjectBarriers(TWO, aligned=True)]
    assert job.complete(TWO) == [NotifyComplete(TWO)]


@pytest.mark.parametrize(("event", "final"), [(AllTasksEnded(), True), (StopRequested(), False)])
def test_a_checkpoint_in_flight_is_not_the_last_one(event: Event, final: bool) -> None:
    job = Driven()
    job.start(ONE)
    assert job.say(event) == []
    assert job.ack_all(ONE) == [Publish(ONE, (SINK, SOURCE), final=False)]
    job.say(Published(ONE))
    assert job.say(Committed(ONE)) == [NotifyComplete(ONE), InjectBarriers(TWO, aligned=True)]
    assert job.complete(TWO) == [NotifyComplete(TWO), FinishJob(final)]


def test_when_the_checkpoint_in_flight_fails_the_last_one_is_taken_all_the_same() -> None:
    job = Driven(tolerated=1)
    job.start(ONE)
    job.say(AllTasksEnded())
    told = job.say(Declined(ONE, "sink", "disk full"))
    assert told == [NotifyAborted(ONE, CheckpointFailure.DECLINED), InjectBarriers(TWO, aligned=True)]
    assert job.complete(TWO) == [NotifyComplete(TWO), FinishJob(final=True)]


def test_input_that_ends_before_a_requested_stop_begins_makes_the_last_checkpoint_final() -> None:
    job = Driven()
    job.start(ONE)
    job.say(StopRequested())
    job.say(AllTasksEnded())
    job.complete(ONE)
    assert job.complete(TWO) == [NotifyComplete(TWO), FinishJob(final=True)]


@pytest.mark.parametrize("event", [Declined(ONE, "sink", "disk full"), PublishFailed(ONE, "no space")])
def test_a_last_checkpoint_that_fails_fails_the_job(event: Event) -> None:
    job = Driven(tolerated=100)
    job.say(AllTasksEnded())
    if isinstance(event, PublishFailed):
        job.ack_all(ONE)
    aborted, failed = job.say(event)
    assert isinstance(aborted, NotifyAborted)
    assert isinstance(failed, FailJob)
    assert "last one" in failed.reason


def test_after_the_end_nothing_happens_any_more() -> None:
    job = Driven()
    job.say(AllTasksEnded())
    job.complete(ONE)
    for event in (Tick(), StopRequested(), AllTasksEnded(), Declined(ONE, "sink", "x"), Acked(ONE, "sink", ())):
        assert job.say(event, 10_000) == []
    assert job.coordinator.acks[AckResult.LATE] == 1


@pytest.mark.parametrize("event", [Published(ONE), PublishFailed(ONE, "x"), Committed(ONE), CommitFailed(ONE, "x")])
def test_an_answer_to_a_question_that_was_not_asked_is_a_bug(event: Event) -> None:
    job = Driven()
    with pytest.raises(InternalError, match="came while waiting for the next checkpoint's time"):
        job.say(event)
    job.start(ONE)
    with pytest.raises(InternalError, match="came while waiting for acknowledgements"):
        job.say(event)


def test_an_answer_about_another_checkpoint_is_a_bug() -> None:
    job = Driven()
    job.start(ONE)
    job.ack_all(ONE)
    with pytest.raises(InternalError, match="1 is in flight"):
        job.say(Published(TWO))


def test_a_job_without_tasks_or_with_impossible_intervals_is_refused() -> None:
    config = CoordinatorConfig(1, timeout_ms=1, failures_tolerated=0, first_checkpoint=ONE)
    with pytest.raises(InternalError):
        CheckpointCoordinator(config, frozenset())
    with pytest.raises(ConfigError, match="interval_ms is 0"):
        CoordinatorConfig(0, timeout_ms=1, failures_tolerated=0, first_checkpoint=ONE)


FILE = StoredFile("000017.sst", 3, "ab" * 32, Generation(3))
MESSAGES: list[Event | Instruction] = [
    Tick(),
    Acked(
        ONE,
        "window-0",
        (SOURCE, OperatorSnapshot(OperatorId("w"), SubtaskIndex(1), keyed=TableSnapshot({}, 0, 64, (FILE,)))),
    ),
    Declined(ONE, "window-0", "disk full"),
    Published(ONE),
    PublishFailed(ONE, "no space"),
    Committed(ONE),
    CommitFailed(ONE, "catalog is down"),
    AllTasksEnded(),
    StopRequested(),
    CheckpointRequested(),
    InjectBarriers(ONE),
    Publish(ONE, (SOURCE, SINK), final=True),
    Commit(ONE),
    NotifyComplete(ONE),
    NotifyAborted(ONE, CheckpointFailure.TIMED_OUT, "after 5 ms"),
    FailJob("no"),
    FinishJob(final=False),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_event_and_instruction_comes_back_from_the_log(message: Event | Instruction) -> None:
    again = from_json(to_json(message))
    assert again == message
    if isinstance(again, NotifyAborted) and isinstance(message, NotifyAborted):
        assert again.detail == message.detail


@pytest.mark.parametrize(
    "line",
    [
        {"type": "Nonsense"},
        {"type": "Tick", "extra": 1},
        {"type": "Declined", "checkpoint": 1},
        {"type": "NotifyAborted", "checkpoint": 1, "reason": "NO", "detail": ""},
        {"type": "Acked", "checkpoint": 1, "task": "a", "snapshots": 3},
        {},
    ],
)
def test_a_damaged_log_line_is_refused(line: dict[str, object]) -> None:
    with pytest.raises(CheckpointError):
        from_json(line)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(30))
def test_a_random_run_keeps_every_promise_and_replays_from_its_log(seed: int) -> None:
    rng = random.Random(seed)
    config = CoordinatorConfig(100, timeout_ms=400, failures_tolerated=3, first_checkpoint=CheckpointId(10))
    coordinator = CheckpointCoordinator(config, frozenset({"a", "b", "c"}))
    log: list[tuple[Event, int, list[Instruction]]] = []
    now_ms = 0
    for _ in range(400):
        now_ms += rng.randint(0, 60)
        event = _random_event(rng, coordinator)
        instructions = coordinator.handle(event, now_ms)
        coordinator.validate()
        log.append((event, now_ms, instructions))
    _check_promises([one for _, _, said in log for one in said])
    again = CheckpointCoordinator(config, frozenset({"a", "b", "c"}))
    for event, at_ms, instructions in log:
        logged = from_json(to_json(event))
        assert again.handle(logged, at_ms) == instructions, f"seed {seed}"  # type: ignore[arg-type]


def _random_event(rng: random.Random, coordinator: CheckpointCoordinator) -> Event:
    current = coordinator.in_flight or CheckpointId(10)
    some = CheckpointId(max(0, current + rng.choice([0, 0, 0, 0, 0, -1, 1])))
    if coordinator.phase is Phase.PUBLISHING and rng.random() < 0.5:
        return Published(current) if rng.random() < 0.8 else PublishFailed(current, "x")
    if coordinator.phase is Phase.COMMITTING and rng.random() < 0.5:
        return Committed(current) if rng.random() < 0.95 else CommitFailed(current, "x")
    roll = rng.random()
    if roll < 0.01:
        return AllTasksEnded() if rng.random() < 0.5 else StopRequested()
    if roll < 0.03:
        return CheckpointRequested()
    if roll < 0.05:
        return Declined(some, rng.choice("abcd"), "x")
    return Acked(some, rng.choice("abcd"), ()) if roll < 0.6 else Tick()


def _check_promises(said: list[Instruction]) -> None:
    injected = [one.checkpoint for one in said if isinstance(one, InjectBarriers)]
    assert injected == list(range(10, 10 + len(injected)))
    complete = [one.checkpoint for one in said if isinstance(one, NotifyComplete)]
    aborted = [one.checkpoint for one in said if isinstance(one, NotifyAborted)]
    committing = [one.checkpoint for one in said if isinstance(one, Commit)]
    published = [one.checkpoint for one in said if isinstance(one, Publish)]
    assert len(set(complete + aborted)) == len(complete + aborted)
    assert set(complete) <= set(committing) <= set(published) <= set(injected)
    assert not set(committing) & set(aborted)
    ends = [one for one in said if isinstance(one, FailJob | FinishJob)]
    assert len(ends) <= 1
    assert not ends or said[-1] is ends[0]
