"""Connections: the handshake lets in who knows the secret and belongs to the attempt, and nobody else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lakeward.engine.core.errors import ConfigError, WorkerLostError
from lakeward.engine.processes import connection as connections
from lakeward.engine.processes.connection import Caller, Connection, Role, address_of, answer, call, listen
from lakeward.engine.processes.frames import Kind

SECRET = b"s" * 32


class Callee:
    """Answers one call, on a thread."""

    def __init__(self, address: str, attempt: int = 3, callee: int = 0) -> None:
        self.listener = listen(address)
        self.address = address_of(self.listener, address)
        self.caller: Caller | None = None
        self.connection: socket.socket | None = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._answer, args=(attempt, callee))
        self._thread.start()

    def _answer(self, attempt: int, callee: int) -> None:
        accepted, _ = self.listener.accept()
        try:
            self.connection, self.caller = answer(accepted, SECRET, attempt, callee)
        except WorkerLostError as error:
            self.error = error

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
        one.listener.close()
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
        assert other.error is not None


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
        assert "does not know the job's secret" in str(other.error)


def test_a_slow_caller_is_dropped_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_TIMEOUT_S", 0.05)
    with callee(f"unix:{tmp_path}/a") as other, socket.socket(socket.AF_UNIX) as slow:
        slow.connect(f"{tmp_path}/a")
        other.wait()
        assert other.connection is None
        assert "timed out" in str(other.error)


@pytest.mark.parametrize("address", ["", "unix:", "http://localhost", "tcp:localhost", "tcp:localhost:x"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        listen(address)


def test_nobody_at_an_address_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(WorkerLostError, match=f"unix:{tmp_path}/nobody cannot be reached"):
        call(f"unix:{tmp_path}/nobody", SECRET, 1, Caller(Role.CONTROL, 0))
