"""Connections between the processes of a job: addresses, the handshake with the job's secret, sending and receiving.

Addresses are texts: "unix:/path" on one host, "tcp:127.0.0.1:4711" between hosts.

**Handshake.** Both sides show that they know the secret, by HMAC-SHA256 over both sides' random numbers and all that
was said, and neither shows the secret itself; a recorded handshake is of no use. The one who is called
proves itself first. Whoever fails is dropped, before a byte of what it sent is looked at. The one who is called is
in `reception.py`.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import secrets
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

import pyarrow as pa

from lakeward.engine.core.errors import ConfigError, WorkerLostError
from lakeward.engine.processes.frames import FRAME_BYTES_MAX, Frame, FrameReader, Kind, header

MAGIC = b"LAKEWRD1"
HANDSHAKE_TIMEOUT_S = 5.0
DEAD_LINE_MS = 4000
"""After which a connection whose other host does not answer is given up."""

HELLO = struct.Struct("<8sIIII32s")
"""How a caller begins: magic, attempt, role, its number, the callee's, and a random number."""
NONCE_BYTES = 32
_PARTS_AT_ONCE = 64
_UNIX_PATH_BYTES_MAX = 100


class Role(IntEnum):
    """What a connection is for."""

    CONTROL = 1
    HEARTBEAT = 2
    DATA = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Args:
        role: What for.
        number: The calling worker.
        callee: The worker that is called; 0 for the coordinator.
    """

    role: Role
    number: int
    callee: int = 0


def listen(address: str) -> socket.socket:
    """Wait for calls at an address; port 0 is any free one.

    Raises:
        ConfigError: It is no address, or not one of this host.
        WorkerLostError: Another process listens there, perhaps a worker of the attempt before that is about to end.
    """
    kind, place = _parse(address)
    family = _family(kind, place)
    listener = socket.socket(family, socket.SOCK_STREAM)
    if kind == "tcp":  # connections of the attempt before may be on their way out
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        with _place(family, place) as where:
            listener.bind(where)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise WorkerLostError(f"cannot listen at {address}: another process does") from error
        raise ConfigError(f"cannot listen at {address}: {error}", hint="is it an address of this host?") from error
    return listener


def address_of(listener: socket.socket, asked: str) -> str:
    """Where a listener can be called: at the address that was asked for, and where that leaves it open, its port.

    Raises:
        ConfigError: Every address of a host was asked for ("tcp:0.0.0.0:4711"), which is none that others can call.
    """
    if listener.family == socket.AF_UNIX:
        return asked
    host, port = _host_and_port(_parse(asked)[1])
    if is_wildcard(host):
        raise ConfigError(f"'{asked}' cannot be called", hint="say at which of the host's addresses others can call it")
    return f"tcp:{f'[{host}]' if ':' in host else host}:{port or listener.getsockname()[1]}"


def is_wildcard(host: str) -> bool:
    """Whether it stands for all addresses of a host.

    >>> [is_wildcard(host) for host in ("0.0.0.0", "::", "0", "10.0.0.1", "node1")]
    [True, True, True, False, False]
    """
    return not host.strip("0.:")


def call(address: str, secret: bytes, attempt: int, caller: Caller) -> socket.socket:
    """Connect to an address and shake hands.

    Raises:
        WorkerLostError: Nobody is there, or somebody who does not know the secret.
    """
    kind, place = _parse(address)
    family = _family(kind, place)
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.settimeout(HANDSHAKE_TIMEOUT_S)
    try:
        with _place(family, place) as where:
            connection.connect(where)
    except OSError as error:
        connection.close()
        raise WorkerLostError(f"{address} cannot be reached: {error}") from error
    try:
        _ask(connection, secret, attempt, caller)
    except (OSError, WorkerLostError) as error:
        connection.close()
        raise WorkerLostError(f"the handshake with {address} failed: {error}") from error
    return tuned(connection)


def _ask(connection: socket.socket, secret: bytes, attempt: int, caller: Caller) -> None:
    nonce = secrets.token_bytes(NONCE_BYTES)
    hello = HELLO.pack(MAGIC, attempt, caller.role, caller.number, caller.callee, nonce)
    connection.sendall(hello)
    theirs = _receive(connection, 2 * NONCE_BYTES)
    said = hello + theirs[:NONCE_BYTES]
    if not hmac.compare_digest(theirs[NONCE_BYTES:], proof(secret, b"called", said)):
        raise WorkerLostError("it does not know the job's secret")
    connection.sendall(proof(secret, b"caller", said))


def proof(secret: bytes, side: bytes, said: bytes) -> bytes:
    """What shows that a side knows the secret, after all that was said."""
    return hmac.new(secret, side + said, hashlib.sha256).digest()


def _receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise WorkerLostError("it has hung up")
        data += part
    return data


def tuned(connection: socket.socket) -> socket.socket:
    """A connection after its handshake, which sends at once and notices when the other host does not answer."""
    connection.settimeout(None)
    if connection.family == socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        return connection
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_LINE_MS)
    return connection


def _family(kind: str, place: str) -> socket.AddressFamily:
    if kind == "unix":
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in _host_and_port(place)[0] else socket.AF_INET


@contextmanager
def _place(family: socket.AddressFamily, place: str) -> Iterator[str | tuple[str, int]]:
    """What the system calls an address; a longer path than it takes, by way of its open folder (Linux)."""
    if family != socket.AF_UNIX:
        yield _host_and_port(place)
    elif len(place.encode()) <= _UNIX_PATH_BYTES_MAX:
        yield place
    else:
        folder = os.open(os.path.dirname(place), os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{folder}/{os.path.basename(place)}"
        finally:
            os.close(folder)


def _parse(address: str) -> tuple[str, str]:
    kind, _, place = address.partition(":")
    if kind not in ("unix", "tcp") or not place:
        raise ConfigError(f"'{address}' is no address", hint="give unix:/path or tcp:host:port")
    return kind, place


def _host_and_port(place: str) -> tuple[str, int]:
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"'tcp:{place}' is no address", hint="give tcp:host:port")
    return host.strip("[]"), int(port)


class Connection:
    """Frames to and from one process. Neither sending nor receiving waits.

    Args:
        connected: After its handshake.
        attempt: The attempt that both sides belong to.
        peer: Who is at the other end, for errors.
        bytes_max: Longest frame that is taken.
    """

    def __init__(self, connected: socket.socket, attempt: int, peer: str, bytes_max: int = FRAME_BYTES_MAX) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._attempt = attempt
        self._reader = FrameReader(attempt, peer, bytes_max)
        self._outbox: deque[memoryview] = deque()
        self._numbered = 0
        self.peer = peer

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._outbox)

    def send(self, kind: Kind, channel: int, payload: bytes | pa.Buffer = b"") -> None:
        """Queue a frame; `flush` sends it."""
        view = memoryview(payload).cast("B")
        self._outbox.append(memoryview(header(self._attempt, kind, channel, len(view), self._numbered)))
        self._numbered += 1
        if len(view):
            self._outbox.append(view)

    def flush(self) -> None:
        """Send what the other side has room for.

        Raises:
            WorkerLostError: The connection is broken.
        """
        try:
            while self._outbox:
                parts = [self._outbox[at] for at in range(min(len(self._outbox), _PARTS_AT_ONCE))]
                self._sent(self._socket.sendmsg(parts))
        except BlockingIOError:
            return
        except OSError as error:
            raise WorkerLostError(f"the connection to {self.peer} is broken: {error}") from error

    def receive(self) -> list[Frame]:
        """The frames that have come.

        Raises:
            WorkerLostError: The connection is broken or was closed, or what came is not ours.
        """
        try:
            return self._reader.read(self._receive_into)
        except OSError as error:
            raise WorkerLostError(f"the connection to {self.peer} is broken: {error}") from error

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    @property
    def _receive_into(self) -> Callable[[memoryview], int]:
        return self._socket.recv_into

    def _sent(self, count: int) -> None:
        while count:
            first = self._outbox[0]
            if count < len(first):
                self._outbox[0] = first[count:]
                return
            count -= len(first)
            self._outbox.popleft()
