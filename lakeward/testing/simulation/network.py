"""A network in virtual time: connections that are slow, break, lose what was sent or give it twice, and are cut off.

A connection is a stream of bytes, as TCP's is: what arrives is what was sent, in its order, or the connection breaks.
Only what stands between two hosts can give a frame twice; the numbers of frames are there for that.
"""

from __future__ import annotations

import random
import selectors
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from lakeward.engine.core.clock import ManualClock
from lakeward.engine.processes.connection import DEAD_LINE_MS
from lakeward.engine.processes.frames import HEADER
from lakeward.testing.simulation.faults import Faults
from lakeward.testing.simulation.knobs import Fault

LATENCIES_MS = (0, 0, 0, 1, 5)
DELAY_MS_MAX = 2000
CUT_OFF_MS_MAX = 12_000
WINDOWS = (300, 5_000, 1_000_000)
"""Bytes that a connection takes before its other side has read some."""

_FIRST_DESCRIPTOR = 1 << 20


class Network:
    """All connections of a simulated world.

    Args:
        clock: Virtual time.
        faults: What goes wrong.
        rng: Latencies, and how streams are cut into pieces.
    """

    def __init__(self, clock: ManualClock, faults: Faults, rng: random.Random) -> None:
        self.clock = clock
        self.faults = faults
        self.rng = rng
        self.descriptors = count(_FIRST_DESCRIPTOR)
        self._cut_off_until_ms: dict[str, int] = {}

    def connect(self, here: str, there: str, framed: bool = True) -> tuple[SimSocket, SimSocket]:
        """A connection between two hosts; framed: what goes over it are frames."""
        forth, back = _Line(self, (here, there), framed), _Line(self, (here, there), framed)
        forth.other, back.other = back, forth
        return SimSocket(self, forth, back), SimSocket(self, back, forth)

    def cut_off(self, host: str) -> None:
        """Nobody reaches a host for a while, and it reaches nobody."""
        duration_ms = self.rng.choice((200, 2_000, CUT_OFF_MS_MAX))
        self._cut_off_until_ms[host] = self.clock.monotonic_ms() + self.rng.randint(1, duration_ms)

    def reaches(self, hosts: tuple[str, str]) -> bool:
        """Whether two hosts reach each other."""
        now_ms = self.clock.monotonic_ms()
        return all(self._cut_off_until_ms.get(host, 0) <= now_ms for host in hosts)

    def heal(self) -> None:
        """All hosts reach each other."""
        self._cut_off_until_ms.clear()


class _Line:
    """One direction of a connection."""

    other: _Line

    def __init__(self, network: Network, hosts: tuple[str, str], framed: bool) -> None:
        self.hosts = hosts
        self._network = network
        self._window = network.rng.choice(WINDOWS)
        self._framed = framed
        self._frame = bytearray()  # of which not all has been sent
        self._chunks: deque[tuple[int, bytes]] = deque()
        self._in_flight = 0
        self._last_ms = 0
        self._breaks_ms: int | None = None
        self.is_closed = False
        self.is_broken = False

    def send(self, parts: Sequence[memoryview]) -> int:
        """Take what there is room for."""
        self._look()
        if self.is_broken or self.other.is_closed:
            raise ConnectionResetError("the simulated connection is broken")
        room = self._window - self._in_flight
        if room <= 0:
            raise BlockingIOError
        data = b"".join(parts)[:room]
        self._suffer()
        if self.is_broken:
            raise ConnectionResetError("the simulated connection breaks")
        if self._breaks_ms is None:
            for piece in self._pieces(data):
                self._enqueue(piece)
        return len(data)

    def receive(self, most: int) -> bytes | None:
        """What has come, b"" after the end; None: nothing yet."""
        self._look()
        if self.is_broken:
            raise ConnectionResetError("the simulated connection is broken")
        if not self.is_readable:
            return None
        if not self._chunks:
            return b""
        at_ms, data = self._chunks.popleft()
        taken = data[: self._network.rng.randint(1, most)] if self._network.rng.random() < 0.2 else data[:most]
        if len(taken) < len(data):
            self._chunks.appendleft((at_ms, data[len(taken) :]))
        self._in_flight -= len(taken)
        return taken

    @property
    def is_readable(self) -> bool:
        """Whether the receiver learns something new."""
        self._look()
        if self.is_broken:
            return True
        if not self._network.reaches(self.hosts):
            return False
        if self._chunks:
            return self._chunks[0][0] <= self._network.clock.monotonic_ms()
        return self.is_closed

    def break_off(self) -> None:
        """Both directions end, and what is on its way is lost."""
        for line in (self, self.other):
            line.is_broken = True
            line._chunks.clear()
            line._in_flight = 0

    def _look(self) -> None:
        """Whether it has come out that nothing gets through."""
        now_ms = self._network.clock.monotonic_ms()
        lost = self._breaks_ms is not None and now_ms >= self._breaks_ms
        stuck = bool(self._chunks) and now_ms - self._chunks[0][0] > DEAD_LINE_MS
        if not self.is_broken and (lost or (stuck and not self._network.reaches(self.hosts))):
            self.break_off()

    def _suffer(self) -> None:
        faults, now_ms = self._network.faults, self._network.clock.monotonic_ms()
        if faults.happens(Fault.NETWORK_BREAK):
            faults.note(f"NETWORK_BREAK between {' and '.join(self.hosts)}")
            self.break_off()
        elif self._breaks_ms is None and faults.happens(Fault.NETWORK_LOSS):
            faults.note(f"NETWORK_LOSS between {' and '.join(self.hosts)}")
            self._breaks_ms = now_ms + DEAD_LINE_MS
        elif faults.happens(Fault.NETWORK_DELAY):
            self._last_ms = max(self._last_ms, now_ms + self._network.rng.randrange(DELAY_MS_MAX))

    def _pieces(self, data: bytes) -> list[bytes]:
        """Whole frames, some of them twice; what is not framed as it is."""
        if not self._framed:
            return [data]
        self._frame += data
        pieces = []
        while len(self._frame) >= HEADER.size:
            end = HEADER.size + HEADER.unpack_from(self._frame)[0]
            if len(self._frame) < end:
                break
            frame, self._frame = bytes(self._frame[:end]), self._frame[end:]
            pieces.append(frame)
            if self._network.faults.happens(Fault.NETWORK_DOUBLE):
                self._network.faults.note(f"NETWORK_DOUBLE between {' and '.join(self.hosts)}")
                pieces.append(frame)
        return pieces

    def _enqueue(self, data: bytes) -> None:
        now_ms = self._network.clock.monotonic_ms()
        self._last_ms = max(self._last_ms, now_ms + self._network.rng.choice(LATENCIES_MS))
        self._chunks.append((self._last_ms, data))
        self._in_flight += len(data)


class SimSocket:
    """One end of a connection, as far as `Connection` and `BeatListener` use a socket.

    Args:
        network: The network.
        sends: The direction it sends in.
        receives: The other one.
    """

    def __init__(self, network: Network, sends: _Line, receives: _Line) -> None:
        self._descriptor = next(network.descriptors)
        self._sends = sends
        self._receives = receives

    def fileno(self) -> int:
        """A number that no other has."""
        return self._descriptor

    def setblocking(self, flag: bool) -> None:
        """It never blocks."""

    def sendmsg(self, parts: Sequence[memoryview]) -> int:
        """Send what there is room for."""
        return self._sends.send(parts)

    def send(self, data: bytes) -> int:
        """Send what there is room for."""
        return self._sends.send([memoryview(data)])

    def recv(self, most: int) -> bytes:
        """What has come; nothing at the end."""
        data = self._receives.receive(most)
        if data is None:
            raise BlockingIOError
        return data

    def recv_into(self, view: memoryview) -> int:
        """What has come; 0 at the end."""
        data = self.recv(len(view))
        view[: len(data)] = data
        return len(data)

    @property
    def is_readable(self) -> bool:
        """Whether there is something to be received."""
        return self._receives.is_readable

    def close(self) -> None:
        """Hang up; what was sent before still arrives."""
        self._sends.is_closed = True


class NetworkSelector:
    """Says which connections have something, as far as `WorkerProcesses` uses a selector.

    Args:
        wait: Lets the world go on for a moment.
    """

    def __init__(self, wait: Callable[[], None]) -> None:
        self._wait = wait
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, file: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Look at a connection from now on."""
        self._keys[file] = selectors.SelectorKey(file, file.fileno(), events, data)
        return self._keys[file]

    def unregister(self, file: Any) -> selectors.SelectorKey:
        """Look at it no more."""
        return self._keys.pop(file)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Those that have something."""
        if timeout:
            self._wait()
        return [(key, selectors.EVENT_READ) for key in self._keys.values() if _socket_of(key.fileobj).is_readable]

    def close(self) -> None:
        """Look at none any more."""
        self._keys.clear()


def _socket_of(file: Any) -> SimSocket:
    """What a `Connection` or a `BeatListener` is on."""
    found = getattr(file, "_socket", None) or file._connection
    assert isinstance(found, SimSocket), "only simulated connections are looked at"
    return found
