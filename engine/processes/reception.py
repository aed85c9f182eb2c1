"""Who calls at an address: handshakes side by side, so that a stranger who says nothing keeps nobody waiting."""

from __future__ import annotations

import hmac
import logging
import secrets
import selectors
import socket
from dataclasses import dataclass

from lakeward.engine.core.clock import Clock
from lakeward.engine.core.errors import WorkerLostError
from lakeward.engine.processes.connection import (
    HANDSHAKE_TIMEOUT_S,
    HELLO,
    MAGIC,
    NONCE_BYTES,
    Caller,
    Role,
    proof,
    tuned,
)

log = logging.getLogger("lakeward")

UNPROVED_MAX = 64
"""Callers that have not proved themselves; one more, and the one that has called first is dropped."""


@dataclass(slots=True)
class _Call:
    """A call whose handshake is not over."""

    connection: socket.socket
    since_ms: float
    heard: bytes = b""
    said: bytes = b""


class Reception:
    """Answers calls at a listener. What a caller sends is not looked at before it has shown that it knows the secret.

    Args:
        selector: Wakes whoever waits there; what it wakes for has this object as its data.
        listener: Where others call; it is closed with this object.
        secret: The job's.
        attempt: The attempt that callers must belong to.
        callee: The worker that is called; 0 for the coordinator.
        clock: Time.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        listener: socket.socket,
        secret: bytes,
        attempt: int,
        callee: int,
        clock: Clock,
    ) -> None:
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, self)
        self._selector = selector
        self._listener = listener
        self._secret = secret
        self._attempt = attempt
        self._callee = callee
        self._clock = clock
        self._calls: list[_Call] = []

    def take(self) -> list[tuple[socket.socket, Caller]]:
        """Go on with all handshakes, without waiting.

        Returns:
            Who has proved itself since the last call, and the connection.
        """
        self._accept()
        taken = []
        for call in list(self._calls):
            try:
                caller = self._go_on(call)
            except (OSError, WorkerLostError) as error:
                self._drop(call, str(error))
                continue
            if caller is not None:
                self._forget(call)
                taken.append((tuned(call.connection), caller))
        return taken

    def close(self) -> None:
        """Take no more calls."""
        for call in list(self._calls):
            self._forget(call)
            call.connection.close()
        self._selector.unregister(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # it has hung up already, or this process has too many files open
                log.warning("a call was not taken: %s", error)
                return
            connection.setblocking(False)
            if len(self._calls) == UNPROVED_MAX:
                self._drop(self._calls[0], "too many others call")
            self._selector.register(connection, selectors.EVENT_READ, self)
            self._calls.append(_Call(connection, self._clock.monotonic_ms()))

    def _go_on(self, call: _Call) -> Caller | None:
        """Read what there is of the caller's hello and proof; who it is, when both are right."""
        if self._clock.monotonic_ms() - call.since_ms > HANDSHAKE_TIMEOUT_S * 1000:
            raise WorkerLostError("it timed out")
        if not call.said and self._has_heard(call, HELLO.size):
            self._caller_of(call)
            call.said = secrets.token_bytes(NONCE_BYTES)
            call.connection.send(call.said + proof(self._secret, b"called", call.heard + call.said))
        if not call.said or not self._has_heard(call, HELLO.size + NONCE_BYTES):
            return None
        hello, proved = call.heard[: HELLO.size], call.heard[HELLO.size :]
        if not hmac.compare_digest(proved, proof(self._secret, b"caller", hello + call.said)):
            raise WorkerLostError("it does not know the job's secret")
        return self._caller_of(call)

    def _caller_of(self, call: _Call) -> Caller:
        magic, attempt, role, number, callee, _ = HELLO.unpack(call.heard[: HELLO.size])
        if magic != MAGIC or attempt != self._attempt or callee != self._callee or role not in tuple(Role):
            raise WorkerLostError(f"it is not a worker of attempt {self._attempt}")
        return Caller(Role(role), number, callee)

    def _has_heard(self, call: _Call, count: int) -> bool:
        """Whether so many bytes have come; no more are read: what follows belongs to whoever takes the connection."""
        while len(call.heard) < count:
            try:
                part = call.connection.recv(count - len(call.heard))
            except BlockingIOError:
                return False
            if not part:
                raise WorkerLostError("it has hung up")
            call.heard += part
        return True

    def _drop(self, call: _Call, why: str) -> None:
        log.warning("a call was refused: %s", why)
        self._forget(call)
        call.connection.close()

    def _forget(self, call: _Call) -> None:
        self._calls.remove(call)
        self._selector.unregister(call.connection)
