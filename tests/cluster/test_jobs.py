"""The jobs' state machine: slots, order, and that what is stored is always enough to go on."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lakeward.cluster.jobs import (
    RESTARTS_MAX,
    Action,
    JobRecord,
    Jobs,
    JobState,
    Kill,
    Save,
    Savepoint,
    SavepointState,
    Send,
    Start,
)
from lakeward.engine.core.errors import ConfigError

RUNNING = {"type": "status", "state": "RUNNING", "checkpoint": None}


def record(number: int = 1, parallelism: int = 1) -> JobRecord:
    return JobRecord(f"j-{number}", f"job {number}", "shop:main", "/srv", parallelism, created_us=number)


def kinds(actions: list[Action]) -> list[str]:
    return [type(action).__name__ for action in actions]


def started(slots: int = 2, parallelism: int = 1) -> Jobs:
    jobs = Jobs(slots)
    jobs.submit(record(parallelism=parallelism), 0)
    jobs.said("j-1", RUNNING, 1)
    return jobs


def test_a_job_that_is_larger_than_the_cluster_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 does not fit into 2 slots"):
        Jobs(2).submit(record(parallelism=3), 0)


def test_the_first_job_that_does_not_fit_holds_up_those_after_it() -> None:
    jobs = Jobs(3)
    jobs.submit(record(1, 2), 0)
    jobs.submit(record(2, 2), 0)
    jobs.submit(record(3, 1), 0)
    assert [one.state.value for one in jobs] == ["RUNNING", "WAITING", "WAITING"]
    jobs.said("j-1", {"type": "finished"}, 5)
    jobs.exited("j-1", "ended", "", 5)
    assert [one.state.value for one in jobs] == ["FINISHED", "RUNNING", "RUNNING"]


def test_a_process_that_dies_is_started_again_later_and_later_and_given_up_at_last() -> None:
    jobs = started()
    waits = []
    for _ in range(RESTARTS_MAX):
        jobs.exited("j-1", "was killed by signal 9", "", 0)
        waits.append(next(ms for ms in range(0, 40_000, 100) if kinds(jobs.tick(ms)) == ["Start"]))
    assert waits[:4] == [500, 1000, 2000, 4000]
    assert waits[-1] == 30_000
    jobs.exited("j-1", "was killed by signal 9", "last words", 0)
    assert jobs.record("j-1").state is JobState.FAILED
    assert "last words" in (jobs.record("j-1").error or "")


def test_a_new_checkpoint_between_two_deaths_starts_the_count_anew() -> None:
    jobs = started()
    for number in range(3 * RESTARTS_MAX):
        jobs.said("j-1", RUNNING | {"checkpoint": number}, 0)
        jobs.exited("j-1", "was killed by signal 9", "", 0)
        assert kinds(jobs.tick(500)) == ["Start"]
    assert jobs.record("j-1").restarts == 3 * RESTARTS_MAX


def test_a_savepoint_that_a_dead_process_did_not_answer_is_asked_of_the_next_when_it_runs() -> None:
    jobs = started()
    saved, sent = jobs.ask_savepoint("j-1", Savepoint("s", "/out"))
    assert isinstance(saved, Save)
    assert saved.record.pending
    assert isinstance(sent, Send)
    jobs.exited("j-1", "was killed by signal 9", "", 0)
    jobs.tick(500)
    assert jobs.said("j-1", {"type": "status", "state": "STARTING"}, 600) == []
    assert jobs.said("j-1", RUNNING, 700) == [sent]
    jobs.said("j-1", {"type": "answer", "id": "s", "ok": True, "checkpoint": 7}, 800)
    (done,) = jobs.record("j-1").savepoints
    assert (done.state, done.checkpoint) == (SavepointState.DONE, 7)


def test_a_job_goes_on_when_it_cannot_write_the_savepoint_it_was_to_stop_with() -> None:
    jobs = started()
    jobs.ask_savepoint("j-1", Savepoint("s", "/out", stops=True))
    assert jobs.record("j-1").state is JobState.STOPPING
    jobs.said("j-1", {"type": "answer", "id": "s", "ok": False, "error": "no room"}, 1)
    found = jobs.record("j-1")
    assert (found.state, found.savepoints[0].error) == (JobState.RUNNING, "no room")


def test_a_job_is_rescaled_when_it_has_stopped_and_waits_for_its_slots() -> None:
    jobs = started(slots=3)
    jobs.submit(record(2, 2), 0)
    assert kinds(jobs.ask_stop("j-1", rescale_to=2)) == ["Save", "Send"]
    jobs.said("j-1", {"type": "finished"}, 5)
    jobs.exited("j-1", "ended with status 0", "", 5)
    assert (jobs.record("j-1").state, jobs.record("j-1").parallelism) == (JobState.WAITING, 2)
    jobs.ask_cancel("j-2", 6)
    jobs.exited("j-2", "was killed by signal 9", "", 7)
    assert (jobs.record("j-2").state, jobs.record("j-1").state) == (JobState.CANCELED, JobState.RUNNING)


def test_a_stop_that_was_asked_for_survives_the_process_and_the_coordinator() -> None:
    jobs = started()
    jobs.ask_stop("j-1")
    again = Jobs(2)
    assert kinds(again.resume(list(jobs), 0)) == ["Start"]
    assert again.said("j-1", RUNNING, 1) == [Send("j-1", {"do": "stop", "id": "stop", "savepoint": None})]


def test_slots_are_free_only_when_the_process_has_gone() -> None:
    jobs = started(slots=1)
    jobs.submit(record(2), 0)
    assert kinds(jobs.ask_cancel("j-1", 1)) == ["Save", "Kill"]
    assert jobs.record("j-2").state is JobState.WAITING
    jobs.exited("j-1", "was killed by signal 9", "", 2)
    assert jobs.record("j-2").state is JobState.RUNNING


@pytest.mark.parametrize("ask", ["stop", "savepoint", "rescale"])
def test_what_only_running_jobs_can_do_is_refused_for_others(ask: str) -> None:
    jobs = started()
    jobs.ask_cancel("j-1", 0)
    with pytest.raises(ConfigError, match="CANCELED"):
        _ask(jobs, ask)
    with pytest.raises(ConfigError, match="CANCELED"):
        jobs.ask_cancel("j-1", 0)


def _ask(jobs: Jobs, ask: str) -> None:
    if ask == "savepoint":
        jobs.ask_savepoint("j-1", Savepoint("s", "/out"))
    else:
        jobs.ask_stop("j-1", 2 if ask == "rescale" else None)


def test_a_name_that_several_jobs_have_is_refused_and_an_unknown_one_is_corrected() -> None:
    jobs = Jobs(3)
    for number in (1, 2):
        jobs.submit(replace(record(number), name="revenue"), 0)
    with pytest.raises(ConfigError, match="several jobs") as several:
        jobs.record("revenue")
    assert "j-1, j-2" in several.value.hint
    with pytest.raises(ConfigError, match="no job 'revenu'") as unknown:
        jobs.record("revenu")
    assert "revenue" in unknown.value.hint


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order, and with a new coordinator at any moment."""

    @initialize(slots=st.integers(1, 4))
    def begin(self, slots: int) -> None:
        self.slots = slots
        self.jobs = Jobs(slots)
        self.stored: dict[str, JobRecord] = {}
        self.alive: set[str] = set()
        self.ready: set[str] = set()
        self.now_ms = 0

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Save(saved):
                    self.stored[saved.id] = saved
                case Start(begun):
                    assert begun.id not in self.alive, "two processes of one job"
                    assert self.stored[begun.id] == begun, "not stored before it is started"
                    self.alive.add(begun.id)
                case Send(job, _):
                    assert job in self.ready, "asked before it takes requests"
                case Kill(job):
                    assert job in self.alive

    def attempt(self, actions: object) -> None:
        with suppress(ConfigError):
            self.carry_out(actions())  # type: ignore[operator]

    @rule(parallelism=st.integers(1, 5))
    def submit(self, parallelism: int) -> None:
        if len(self.stored) < 6:
            made = record(len(self.stored) + 1, parallelism)
            self.attempt(lambda: self.jobs.submit(made, self.now_ms))

    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        if not self.stored:
            return
        job = data.draw(st.sampled_from(sorted(self.stored)))
        match data.draw(st.sampled_from(["savepoint", "stop", "stop with", "rescale", "cancel"])):
            case "savepoint":
                self.attempt(lambda: self.jobs.ask_savepoint(job, Savepoint(f"s{self.now_ms}", "/out")))
            case "stop with":
                self.attempt(lambda: self.jobs.ask_savepoint(job, Savepoint(f"s{self.now_ms}", "/out", stops=True)))
            case "stop":
                self.attempt(lambda: self.jobs.ask_stop(job))
            case "rescale":
                count = data.draw(st.integers(1, 5))
                self.attempt(lambda: self.jobs.ask_stop(job, rescale_to=count))
            case "cancel":
                self.attempt(lambda: self.jobs.ask_cancel(job, self.now_ms))

    @rule(data=st.data())
    def say(self, data: st.DataObject) -> None:
        if not self.alive:
            return
        job = data.draw(st.sampled_from(sorted(self.alive)))
        pending = [one.id for one in self.stored[job].pending]
        message = data.draw(
            st.sampled_from(
                [
                    {"type": "status", "state": "STARTING", "checkpoint": None},
                    {"type": "status", "state": "RUNNING", "checkpoint": self.now_ms % 7},
                    {"type": "answer", "id": (pending or ["?"])[0], "ok": True, "checkpoint": 3},
                    {"type": "answer", "id": (pending or ["?"])[-1], "ok": False, "error": "no"},
                    {"type": "finished"},
                    {"type": "failed", "error": "bad row"},
                    {"type": "nonsense"},
                ]
            )
        )
        if message.get("state") == "RUNNING":
            self.ready.add(job)
        self.carry_out(self.jobs.said(job, message, self.now_ms))

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        if self.alive:
            job = data.draw(st.sampled_from(sorted(self.alive)))
            self.alive.discard(job)
            self.ready.discard(job)
            self.carry_out(self.jobs.exited(job, "was killed by signal 9", "", self.now_ms))

    @rule(passed_ms=st.integers(1, 40_000))
    def wait(self, passed_ms: int) -> None:
        self.now_ms += passed_ms
        self.carry_out(self.jobs.tick(self.now_ms))

    @rule()
    def another_coordinator(self) -> None:
        self.alive.clear()
        self.ready.clear()
        self.jobs = Jobs(self.slots)
        self.carry_out(self.jobs.resume(self.stored.values(), self.now_ms))

    @invariant()
    def slots_are_enough(self) -> None:
        if hasattr(self, "jobs"):
            assert self.jobs.slots_free >= 0
            assert sum(self.stored[job].parallelism for job in self.alive) <= self.slots

    @invariant()
    def what_is_stored_is_what_is_known(self) -> None:
        if hasattr(self, "jobs"):
            assert {one.id: one for one in self.jobs} == self.stored

    @invariant()
    def nothing_is_open_at_the_end(self) -> None:
        for one in getattr(self, "stored", {}).values():
            assert not (one.state.is_over and one.pending)


AnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
