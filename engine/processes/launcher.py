"""How worker processes are started and ended: a small interface, and processes forked on this host."""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol

from lakeward.engine.checkpoint import store_object
from lakeward.engine.core.errors import JobFailedError
from lakeward.engine.state import rocksdb

log = logging.getLogger("lakeward")

_PR_SET_PDEATHSIG = 1
_FAILED = 1


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker process is started with.

    Args:
        number: Which worker, from 0.
        workers: How many there are.
        attempt: The generation of the job that it belongs to.
        coordinator: The address to call.
        secret: The job's secret, in hexadecimal digits; for one attempt only.
        listen: Where it may listen for the other workers.
        advertise: The address at which those can call it there.
    """

    number: int
    workers: int
    attempt: int
    coordinator: str
    secret: str
    listen: str
    advertise: str

    def __repr__(self) -> str:  # without the secret
        return f"WorkerSpec(number={self.number}, workers={self.workers}, attempt={self.attempt})"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process of a job can be called.

    Args:
        listen: The address at which it listens.
        advertise: The address that the others call.
    """

    listen: str
    advertise: str


class Launcher(Protocol):
    """Starts and ends worker processes, wherever they are."""

    def place(self, directory: Path, worker: int | None) -> Place:
        """Where a worker, or the coordinator (None), listens.

        Args:
            directory: Of this host; nobody else can enter it.
            worker: Its number.
        """
        ...

    def fileno(self) -> int:
        """Readable when `exits` has news; -1: ask now and then."""
        ...

    def start(self, spec: WorkerSpec) -> None:
        """Start a worker, which calls the coordinator by itself."""
        ...

    def exits(self) -> list[tuple[int, int, str]]:
        """Workers that have ended since the last call: attempt, number, and how ("killed by signal 9")."""
        ...

    def kill(self, attempt: int, number: int) -> None:
        """End a worker at once, also one that hangs; nothing if it has ended."""
        ...

    def close(self) -> None:
        """End all workers and everything that starts them."""
        ...


def make_launcher(main: Callable[[WorkerSpec], None]) -> Launcher | None:
    """What starts workers on this host; None, with a warning, where they cannot be forked.

    Args:
        main: What a worker does.
    """
    if sys.platform == "win32":
        why = "processes cannot be forked on Windows"
    elif rocksdb.is_used():
        why = "this process has run a job in itself before, and cannot be forked any more"
    elif store_object.is_used():
        why = "this process has called an object store before, and cannot be forked any more"
    else:
        return ForkLauncher(main)
    log.warning("all subtasks of the job run in one process: %s", why)
    return None


class ForkLauncher:
    """Workers are forked from a process that is forked before the job has threads, files or connections.

    So they have the job as its script made it, without pickling it and without running the script again, and they start
    in milliseconds. The one in between forks and waits, and does nothing else; when the coordinator dies, it and its
    workers are killed by the kernel (Linux), or end when they notice it.

    Args:
        main: What a worker does; it does not return before the worker's end.

    Raises:
        OSError: The system does not let us fork.
    """

    def __init__(self, main: Callable[[WorkerSpec], None]) -> None:
        _flush_streams()
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            _run_and_exit(lambda: _Nursery(theirs, main).run(), parent)
        theirs.close()
        ours.setblocking(False)
        self._socket = ours
        self._rest = b""

    def place(self, directory: Path, worker: int | None) -> Place:
        """Sockets in a directory: no network."""
        address = f"unix:{directory}/coordinator" if worker is None else f"unix:{directory}/worker-{worker}"
        return Place(address, address)

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def start(self, spec: WorkerSpec) -> None:
        """Fork a worker."""
        self._order({"do": "start", "spec": asdict(spec)})

    def exits(self) -> list[tuple[int, int, str]]:
        """Workers that have ended since the last call."""
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return []
        except ConnectionError as error:
            raise _starter_lost() from error
        if not data:
            raise _starter_lost()
        *lines, self._rest = (self._rest + data).split(b"\n")
        said = [json.loads(line) for line in lines]
        return [(one["attempt"], one["number"], one["how"]) for one in said]

    def kill(self, attempt: int, number: int) -> None:
        """Kill a worker; nothing if it has ended."""
        self._order({"do": "kill", "attempt": attempt, "number": number})

    def close(self) -> None:
        """End the process in between, which kills the workers that are left."""
        with suppress(OSError):  # it may be gone
            self._socket.shutdown(socket.SHUT_RDWR)  # processes that were forked since hold copies of the descriptor
        self._socket.close()
        if self._pid:
            os.waitpid(self._pid, 0)
            self._pid = 0

    def _order(self, order: dict[str, object]) -> None:
        try:
            self._socket.sendall(json.dumps(order).encode() + b"\n")
        except OSError as error:
            raise _starter_lost() from error


class _Nursery:
    """The process in between. It has one thread, and nothing but a socket and its children."""

    def __init__(self, orders: socket.socket, main: Callable[[WorkerSpec], None]) -> None:
        self._orders = orders
        self._main = main
        self._children: dict[int, tuple[int, int]] = {}
        self._wake, self._woken = socket.socketpair()

    def run(self) -> None:
        """Carry out orders until the coordinator is gone."""
        for number in (signal.SIGINT, signal.SIGTERM):
            # The coordinator hears them, and says what to do. Not SIG_IGN: what functions start would inherit that.
            signal.signal(number, _leave_to_coordinator)
        self._woken.setblocking(False)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        gc.freeze()  # nothing of the parent's is collected in a child
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._orders, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._wake:
                        self._wake.recv(4096)
                        self._bury()
                        continue
                    data = self._receive()
                    if not data:
                        self._kill_all()
                        return
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        self._carry_out(json.loads(line))

    def _receive(self) -> bytes:
        try:
            return self._orders.recv(1 << 16)
        except ConnectionError:  # it has gone without reading what was told last
            return b""

    def _carry_out(self, order: dict[str, object]) -> None:
        if order["do"] == "start":
            self._start(WorkerSpec(**order["spec"]))  # type: ignore[arg-type]
            return
        wanted = (order["attempt"], order["number"])
        for pid in [pid for pid, name in self._children.items() if name == wanted]:
            os.kill(pid, signal.SIGKILL)

    def _start(self, spec: WorkerSpec) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._tell({"attempt": spec.attempt, "number": spec.number, "how": f"could not be forked: {error}"})
            return
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for one in (self._orders, self._wake, self._woken):
                one.close()
            _run_and_exit(lambda: self._main(spec), parent)
        self._children[pid] = (spec.attempt, spec.number)

    def _bury(self) -> None:
        for pid in list(self._children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                attempt, number = self._children.pop(pid)
                how = how_it_ended(os.waitstatus_to_exitcode(status))
                self._tell({"attempt": attempt, "number": number, "how": how})

    def _tell(self, news: dict[str, object]) -> None:
        with suppress(OSError):  # the coordinator is gone, which the next read says
            self._orders.sendall(json.dumps(news).encode() + b"\n")

    def _kill_all(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)


def _run_and_exit(work: Callable[[], None], parent: int) -> NoReturn:
    """A forked process's life: it must never return into its parent's code."""
    status = _FAILED
    try:
        _die_with(parent)
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            _flush_streams()
        finally:
            os._exit(status)


def _flush_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # nobody reads it any more; it is None without a terminal
            stream.flush()


def _leave_to_coordinator(number: int, frame: FrameType | None) -> None:
    """Nothing: a handler, unlike `SIG_IGN`, is not inherited by programs that are started."""


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies; where it can't, the connections' end is noticed."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(_FAILED)


def _starter_lost() -> JobFailedError:
    """It cannot be forked again: this process has threads by now."""
    return JobFailedError(
        "the process that starts the workers has died", hint="run the job again: it goes on from its last checkpoint"
    )


def how_it_ended(status: int) -> str:
    """A process's exit status in words.

    >>> how_it_ended(-9), how_it_ended(1)
    ('was killed by signal 9', 'ended with status 1')
    """
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
