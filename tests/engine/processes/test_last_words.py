"""What ends an attempt is the first cause: what a worker said last, not what became of its connection afterwards."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import orjson
import pytest

import lakeward as lw
from lakeward.engine.core.clock import SystemClock
from lakeward.engine.core.error_json import error_from_json, error_to_json
from lakeward.engine.core.errors import InternalError, SinkError, UserCodeError, WorkerLostError
from lakeward.engine.core.ids import CheckpointId, Generation
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.graph.prepare import prepare
from lakeward.engine.processes.connection import Caller, Connection, Role, call
from lakeward.engine.processes.frames import Kind
from lakeward.engine.processes.launcher import Place, WorkerSpec
from lakeward.engine.processes.remote import WorkerProcesses
from lakeward.engine.runtime.metrics import Metrics


class Callers:
    """A launcher whose workers call, say where they are, and leave the rest to the test."""

    def __init__(self) -> None:
        self.control: dict[int, Connection] = {}
        self._beats: list[socket.socket] = []
        self._news, self._told = socket.socketpair()
        self._exits: list[tuple[int, int, str]] = []
        self._threads: list[Thread] = []

    def place(self, directory: Path, worker: int | None) -> Place:
        here = f"unix:{directory}/{'coordinator' if worker is None else worker}"
        return Place(here, here)

    def fileno(self) -> int:
        return self._news.fileno()

    def start(self, spec: WorkerSpec) -> None:
        self._threads.append(Thread(target=self._call, args=(spec,)))
        self._threads[-1].start()

    def wait(self) -> None:
        """Until all have called: from then on the test alone speaks for them."""
        for thread in self._threads:
            thread.join()

    def exits(self) -> list[tuple[int, int, str]]:
        exits, self._exits = self._exits, []
        return exits

    def kill(self, attempt: int, number: int) -> None:
        pass

    def close(self) -> None:
        for one in (*self.control.values(), *self._beats, self._news, self._told):
            one.close()

    def say(self, number: int, message: JsonObject) -> None:
        self.control[number].send(Kind.CONTROL, 0, orjson.dumps(message))
        self.control[number].flush()

    def end(self, number: int, how: str) -> None:
        self._exits.append((1, number, how))
        self._told.send(b"x")

    def _call(self, spec: WorkerSpec) -> None:
        secret = bytes.fromhex(spec.secret)
        self._beats.append(call(spec.coordinator, secret, 1, Caller(Role.HEARTBEAT, spec.number)))
        connected = call(spec.coordinator, secret, 1, Caller(Role.CONTROL, spec.number))
        self.control[spec.number] = Connection(connected, 1, "the coordinator")
        self.say(spec.number, {"type": "hello", "pid": 1, "address": "unix:/nowhere"})


@pytest.fixture
def callers() -> Iterator[Callers]:
    one = Callers()
    yield one
    one.close()


@pytest.fixture
def processes(callers: Callers, tmp_path: Path) -> Iterator[WorkerProcesses]:
    config = lw.EngineConfig(parallelism=2, processes=2)
    env = lw.StreamExecutionEnvironment(config=config)
    env.from_source(lw.NexmarkSource(1), uid="bids").sink_to(lw.BlackholeSink(), uid="nowhere")
    _, plan = prepare(env.definition().graph, config)
    started = WorkerProcesses(callers, plan, Generation(1), config, SystemClock(), Metrics())
    started.start(tmp_path)
    callers.wait()
    yield started
    started.close(failed=True)


def poll_until_it_fails(processes: WorkerProcesses) -> None:
    for _ in range(100):
        processes.poll(20)


def test_a_worker_that_has_hung_up_before_it_was_told_something_is_heard_out(
    processes: WorkerProcesses, callers: Callers
) -> None:
    callers.say(1, {"type": "failed", "error": error_to_json(SinkError("the disk is full"))})
    callers.control[1].close()
    processes.workers[1].inject(CheckpointId(1))
    with pytest.raises(SinkError, match="the disk is full"):
        processes.poll(0)


def test_a_worker_whose_end_is_known_before_its_words_are_read_is_heard_out(
    processes: WorkerProcesses, callers: Callers
) -> None:
    callers.end(1, "ended with status 0")
    callers.say(1, {"type": "failed", "error": error_to_json(SinkError("the disk is full"))})
    callers.control[1].close()
    with pytest.raises(SinkError, match="the disk is full"):
        poll_until_it_fails(processes)


def test_a_worker_that_was_killed_is_named_and_not_the_one_that_lost_it(
    processes: WorkerProcesses, callers: Callers
) -> None:
    callers.say(1, {"type": "peer_lost", "peer": 0, "error": "it has closed the connection"})
    callers.control[1].close()
    callers.end(1, "ended with status 0")
    processes.poll(20)
    processes.poll(20)
    callers.end(0, "was killed by signal 9")
    with pytest.raises(WorkerLostError, match=r"worker 0 .* was killed by signal 9"):
        poll_until_it_fails(processes)


def test_a_lost_connection_between_two_workers_that_live_ends_the_attempt_by_itself(
    processes: WorkerProcesses, callers: Callers
) -> None:
    callers.say(1, {"type": "peer_lost", "peer": 0, "error": "it has closed the connection"})
    with pytest.raises(WorkerLostError, match="worker 1 has lost the connection to worker 0"):
        poll_until_it_fails(processes)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_ends_python_arrives_as_an_error_of_the_users_that_is_not_tried_again(error: BaseException) -> None:
    arrived = error_from_json(error_to_json(error))
    assert isinstance(arrived, UserCodeError)
    assert arrived.retry.value == "no"
    assert f"a function raised {type(error).__name__}" in arrived.message


def test_an_error_that_names_a_file_which_is_no_text_arrives() -> None:
    data = orjson.loads(orjson.dumps(error_to_json(SinkError("no room for a\udcff.parquet"))))
    assert error_from_json(data).message == "no room for a\\udcff.parquet"
    assert isinstance(error_from_json(orjson.loads(orjson.dumps(error_to_json(OSError("a\udcff"))))), InternalError)
