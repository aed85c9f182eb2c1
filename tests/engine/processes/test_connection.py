"""Connections: the handshake lets in who knows the secret and belongs to the attempt, and nobody else."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lakeward.engine.core.clock import SystemClock
from lakeward.engine.core.errors import ConfigError, WorkerLostError
from lakeward.engine.processes import connection as connections
from lakeward.engine.processes import reception
from lakeward.engine.processes.connection import Caller, Connection, Role, address_of, call, listen
from lakeward.engine.processes.frames import Kind
from lakeward.engine.processes.reception import Reception

SECRET = b"s" * 32


class Callee:
    """Answers calls until one has been let in or refused, on a thread."""

    def __init__(self, address: str, attempt: int = 3, callee: int = 0) -> None:
        self.selector = selectors.DefaultSelector()
        listener = listen(address)
        self.address = address_of(listener, address)
        self.reception = Reception(self.selector, listener, SECRET, attempt, callee, SystemClock())
        self.caller: Caller | None = None
        self.connection: socket.socket | None = None
        self.refused: list[str] = []
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def _answer(self) -> None:
        logger, handler = logging.getLogger("lakeward"), logging.Handler()
        handler.emit = lambda record: self.refused.append(record.getMessage())  # type: ignore[method-assign]
        logger.addHandler(handler)
        try:
            while self.connection is None and not self.refused:
                self.selector.select(0.05)
                for connection, caller in self.reception.take():
                    self.connection, self.caller = connection, caller
        finally:
            logger.removeHandler(handler)

    def wait(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


@contextmanager
def callee(address: str, attempt: int = 3, number: int = 0) -> Iterator[Callee]:
    one = Callee(address, attempt, number)
    try:
        yield one
    finally:
        one.wait()
        one.reception.close()
        one.selector.close()
        if one.connection is not None:
            one.connection.close()


@pytest.mark.parametrize(
    "address", ["unix:{}/here", "unix:{}/" + "long" * 30 + "/here", "tcp:127.0.0.1:0", "tcp:[::1]:0"]
)
def test_two_that_know_the_secret_are_connected(address: str, tmp_path: Path) -> None:
    (tmp_path / ("long" * 30)).mkdir()
    with callee(address.format(tmp_path)) as other, call(other.address, SECRET, 3, Caller(Role.CONTROL, 5)) as mine:
        other.wait()
        assert other.caller == Caller(Role.CONTROL, 5)
        assert other.connection is not None
        left, right = Connection(mine, 3, "right"), Connection(other.connection, 3, "left")
        payload = b"x" * 3_000_000
        left.send(Kind.CONTROL, 0, payload)
        left.send(Kind.END, 9)
        frames = []
        while len(frames) < 2:
            left.flush()
            frames += right.receive()
        assert [frame.kind for frame in frames] == [Kind.CONTROL, Kind.END]
        assert frames[0].payload.to_pybytes() == payload
        assert not left.has_unsent


def test_a_caller_with_another_secret_is_dropped_and_learns_nothing(tmp_path: Path) -> None:
    with callee(f"unix:{tmp_path}/a") as other:
        with pytest.raises(WorkerLostError, match="does not know the job's secret"):
            call(other.address, b"another", 3, Caller(Role.CONTROL, 0))
        other.wait()
        assert other.connection is None
        assert other.refused


@pytest.mark.parametrize(("attempt", "number"), [(2, 0), (4, 0), (3, 1)])
def test_a_caller_of_another_attempt_or_for_another_worker_is_dropped(
    attempt: int, number: int, tmp_path: Path
) -> None:
    with callee(f"unix:{tmp_path}/a") as other:
        with pytest.raises(WorkerLostError, match="handshake"):
            call(other.address, SECRET, attempt, Caller(Role.DATA, 0, number))
        other.wait()
        assert other.connection is None


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n" * 10, b"\0" * 56, connections.MAGIC + b"\xff" * 48])
def test_a_caller_that_talks_nonsense_is_dropped(said: bytes, tmp_path: Path) -> None:
    with callee(f"unix:{tmp_path}/a") as other, socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(f"{tmp_path}/a")
        stranger.sendall(said)
        stranger.shutdown(socket.SHUT_WR)
        other.wait()
        assert other.connection is None


def test_a_recorded_handshake_is_of_no_use(tmp_path: Path) -> None:
    recorded: list[bytes] = []

    class Recording(socket.socket):
        def sendall(self, data: bytes, *flags: int) -> None:  # type: ignore[override]
            recorded.append(bytes(data))
            super().sendall(data, *flags)

    with callee(f"unix:{tmp_path}/a") as other, Recording(socket.AF_UNIX) as mine:
        mine.connect(f"{tmp_path}/a")
        connections._ask(mine, SECRET, 3, Caller(Role.CONTROL, 0))
        other.wait()
        assert other.caller is not None
    with callee(f"unix:{tmp_path}/b") as other, socket.socket(socket.AF_UNIX) as thief:
        thief.connect(f"{tmp_path}/b")
        for data in recorded:
            thief.sendall(data)
        other.wait()
        assert other.connection is None
        assert "does not know the job's secret" in other.refused[0]


def test_a_slow_caller_is_dropped_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "HANDSHAKE_TIMEOUT_S", 0.05)
    with callee(f"unix:{tmp_path}/a") as other, socket.socket(socket.AF_UNIX) as slow:
        slow.connect(f"{tmp_path}/a")
        other.wait()
        assert other.connection is None
        assert "timed out" in other.refused[0]


def test_strangers_who_say_nothing_keep_nobody_waiting() -> None:
    strangers: list[socket.socket] = []
    with callee("tcp:127.0.0.1:0") as other:
        host, _, port = other.address.removeprefix("tcp:").partition(":")
        for _ in range(reception.UNPROVED_MAX - 1):
            strangers.append(socket.create_connection((host, int(port))))
        with call(other.address, SECRET, 3, Caller(Role.DATA, 1)):
            other.wait()
        assert (other.caller, other.refused) == (Caller(Role.DATA, 1), [])
    for stranger in strangers:
        stranger.close()


def test_of_too_many_who_say_nothing_the_first_are_dropped_for_one_who_knows_the_secret() -> None:
    with callee("tcp:127.0.0.1:0") as other:
        host, _, port = other.address.removeprefix("tcp:").partition(":")
        strangers = [socket.create_connection((host, int(port))) for _ in range(reception.UNPROVED_MAX + 1)]
        other.wait()
        assert "too many others call" in other.refused[0]
        strangers[0].settimeout(5)
        assert strangers[0].recv(1) == b""
    for stranger in strangers:
        stranger.close()


def test_a_port_can_be_listened_at_again_while_its_old_connections_end() -> None:
    with callee("tcp:127.0.0.1:0") as other, call(other.address, SECRET, 3, Caller(Role.CONTROL, 0)):
        other.wait()
    listen(other.address).close()


def test_listening_where_another_process_does_may_succeed_later() -> None:
    with listen("tcp:127.0.0.1:0") as taken:
        address = address_of(taken, "tcp:127.0.0.1:0")
        with pytest.raises(WorkerLostError, match=f"cannot listen at {address}: another process does"):
            listen(address)
    with pytest.raises(ConfigError, match=r"cannot listen at tcp:192\.0\.2\.1:0"):
        listen("tcp:192.0.2.1:0")


@pytest.mark.parametrize(
    ("listening", "asked", "called"),
    [
        ("tcp:0.0.0.0:0", "tcp:node1:0", "tcp:node1:{}"),
        ("tcp:127.0.0.1:0", "tcp:127.0.0.1:0", "tcp:127.0.0.1:{}"),
        ("tcp:127.0.0.1:0", "tcp:10.0.0.1:7000", "tcp:10.0.0.1:7000"),
        ("tcp:[::1]:0", "tcp:[::1]:0", "tcp:[::1]:{}"),
    ],
)
def test_others_call_the_address_that_was_asked_for(listening: str, asked: str, called: str) -> None:
    with listen(listening) as listener:
        assert address_of(listener, asked) == called.format(listener.getsockname()[1])


@pytest.mark.parametrize("address", ["tcp:0.0.0.0:0", "tcp:[::]:0"])
def test_all_addresses_of_a_host_are_none_to_call(address: str) -> None:
    with listen(address) as listener, pytest.raises(ConfigError, match="cannot be called"):
        address_of(listener, address)


@pytest.mark.parametrize("address", ["", "unix:", "http://localhost", "tcp:localhost", "tcp:localhost:x"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        listen(address)


def test_nobody_at_an_address_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(WorkerLostError, match=f"unix:{tmp_path}/nobody cannot be reached"):
        call(f"unix:{tmp_path}/nobody", SECRET, 1, Caller(Role.CONTROL, 0))
