"""How a program that has started `lakeward run` hears how the job is getting on, and tells it what to do.

Both sides send JSON objects, a line each, over a Unix socket whose descriptor the job is given (`--control-fd`):

    to the job      {"do": "savepoint", "id": "s1", "target": "/backups/monday"}
                    {"do": "stop", "id": "s2", "savepoint": null}
                    {"do": "cancel", "id": "s3"}
    from the job    {"type": "status", "state": "RUNNING", "attempt": 3, "restarts": 2, "checkpoint": 17,
                     "checkpoint_age_ms": 420, "rows": 81000, "rows_per_s": 120000, "watermark_us": null, "error": null}
                    {"type": "answer", "id": "s1", "ok": true, "checkpoint": 17, "path": "/backups/monday"}
                    {"type": "answer", "id": "s2", "ok": false, "error": "there is a savepoint ..."}
                    {"type": "finished"}, {"type": "canceled"} or {"type": "failed", "error": "..."}

When the other side is gone, the job dies at once, as if it was killed: whoever takes it up again must not find it
alive.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress

from lakeward.cli.errors import render_error
from lakeward.engine.core.clock import Clock
from lakeward.engine.core.errors import ConfigError, JobCanceledError, LakewardError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.runtime.control import JobControl
from lakeward.engine.runtime.status import JobState, JobStatus

log = logging.getLogger("lakeward")

STATUS_INTERVAL_MS = 1000
MESSAGE_BYTES_MAX = 64 * 1024
_ERROR_CHARS_MAX = 8_000
_FLUSH_TIMEOUT_S = 5.0
DIED = 137
"""The exit status of a job whose other side is gone, which is that of kill -9."""

Message = dict[str, object]


class ControlChannel:
    """The job's end of the socket.

    Its threads start with the job's first status, after worker processes have been forked; those do not keep the
    socket.

    Args:
        descriptor: Of a connected stream socket; it belongs to the channel from now on.
        clock: Time.

    Raises:
        ConfigError: The descriptor is none of a socket.
    """

    def __init__(self, descriptor: int, clock: Clock) -> None:
        if not _is_socket(descriptor):
            raise ConfigError(
                f"descriptor {descriptor} is no socket", hint="--control-fd is for programs that start jobs"
            )
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        os.register_at_fork(after_in_child=self._socket.close)
        self._clock = clock
        self._control = JobControl()
        self._stopping = self._canceled = False
        self._changed = threading.Condition()
        self._status: Message | None = None
        self._messages: deque[Message] = deque()
        self._closing = False
        self._threads: list[threading.Thread] = []
        self._last = (clock.monotonic_ms() - STATUS_INTERVAL_MS, 0, JobState.STARTING)

    def make_control(self) -> JobControl:
        """What takes the requests for the next job of this process."""
        control = JobControl()
        with self._changed:
            self._control = control
            if self._stopping:
                control.stop()
            if self._canceled:
                control.cancel()
        return control

    def observe(self, status: JobStatus) -> None:
        """Pass a job's status on, if it is time or the state is another one."""
        if not self._threads:
            self._start()
        now_ms = self._clock.monotonic_ms()
        sent_ms, rows, state = self._last
        passed_ms = now_ms - sent_ms
        if passed_ms < STATUS_INTERVAL_MS and state is status.state:
            return
        age_ms = None if status.checkpoint_us is None else (self._clock.wall_us() - status.checkpoint_us) // 1000
        message: Message = {
            "type": "status",
            "state": status.state.name,
            "attempt": status.attempt,
            "restarts": status.restarts,
            "checkpoint": status.checkpoint,
            "checkpoint_age_ms": age_ms,
            "rows": status.rows,
            "rows_per_s": max(0, round((status.rows - rows) / max(1, passed_ms) * 1000)),
            "watermark_us": status.watermark_us,
            "error": None if status.error is None else _text_of(status.error),
        }
        self._last = (now_ms, status.rows, status.state)
        with self._changed:
            self._status = message
            self._changed.notify()

    @contextmanager
    def ends_told(self) -> Iterator[None]:
        """While inside, jobs run; how that ends is the last that is said."""
        try:
            yield
        except JobCanceledError:
            self._say({"type": "canceled"})
            raise
        except LakewardError as error:
            self._say({"type": "failed", "error": _text_of(error)})
            raise
        except SystemExit as error:
            if error.code in (None, 0):
                self._say({"type": "finished"})
            else:
                self._say({"type": "failed", "error": f"the job's script ended with status {error.code}"})
            raise
        except BaseException as error:
            self._say({"type": "failed", "error": f"{type(error).__name__}: {error}"[:_ERROR_CHARS_MAX]})
            raise
        else:
            self._say({"type": "finished"})
        finally:
            self._close()

    # -- sending

    def _start(self) -> None:
        try:
            if not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                self._die()  # before the job has touched anything
        except BlockingIOError:
            pass
        except OSError:
            self._die()
        for work in (self._read, self._write):
            thread = threading.Thread(target=work, name="lakeward-control", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _say(self, message: Message) -> None:
        with self._changed:
            self._messages.append(message)
            self._changed.notify()

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._messages or self._status or self._closing)
                messages = [self._status] if self._status else []
                messages += self._messages
                self._status = None
                self._messages.clear()
                if not messages:
                    return
            try:
                self._socket.sendall(b"".join(json.dumps(one).encode() + b"\n" for one in messages))
            except OSError:
                self._die()

    def _close(self) -> None:
        if not self._threads:  # no job came to run
            self._start()
        reader, writer = self._threads
        with self._changed:
            self._closing = True
            self._changed.notify()
        writer.join(_FLUSH_TIMEOUT_S)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        reader.join(_FLUSH_TIMEOUT_S)
        self._socket.close()

    # -- receiving

    def _read(self) -> None:
        left = b""
        while True:
            try:
                data = self._socket.recv(MESSAGE_BYTES_MAX)
            except OSError:
                data = b""
            *lines, left = (left + data).split(b"\n")
            for line in lines:
                self._take(line)
            if not data or len(left) > MESSAGE_BYTES_MAX:
                self._die()
                return

    def _die(self) -> None:
        """Unless the job has ended and the socket is being closed."""
        if not self._closing:
            os._exit(DIED)

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            asked, request = str(message["id"]), _REQUESTS[message["do"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            log.warning("a request that cannot be understood came from whoever started this job")
            return
        try:
            request(self, asked, message)
        except (KeyError, TypeError, ValueError) as error:
            self._say({"type": "answer", "id": asked, "ok": False, "error": f"{message['do']}: {error!r}"})

    def _take_savepoint(self, asked: str, message: Message) -> None:
        target = _path(message["target"])
        self._answer(asked, target, self._control.savepoint(target))

    def _stop(self, asked: str, message: Message) -> None:
        if message["savepoint"] is not None:
            target = _path(message["savepoint"])
            self._answer(asked, target, self._control.stop_with_savepoint(target))
            return
        with self._changed:
            self._stopping = True
            self._control.stop()
        self._say({"type": "answer", "id": asked, "ok": True})

    def _cancel(self, asked: str, message: Message) -> None:
        with self._changed:
            self._canceled = True
            self._control.cancel()
        self._say({"type": "answer", "id": asked, "ok": True})

    def _answer(self, asked: str, target: str, done: Future[CheckpointId]) -> None:
        def answer(done: Future[CheckpointId]) -> None:
            error = done.exception()
            said: Message = {"type": "answer", "id": asked, "ok": error is None}
            if error is None:
                said |= {"checkpoint": done.result(), "path": target}
            else:
                said["error"] = _text_of(error)
            self._say(said)

        done.add_done_callback(answer)


_REQUESTS: dict[str, Callable[[ControlChannel, str, Message], None]] = {
    "savepoint": ControlChannel._take_savepoint,
    "stop": ControlChannel._stop,
    "cancel": ControlChannel._cancel,
}


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def _path(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{value!r} is no path or URI")
    return value


def _text_of(error: BaseException) -> str:
    text = "\n".join(render_error(error)) if isinstance(error, LakewardError) else f"{type(error).__name__}: {error}"
    return text.removeprefix("error: ")[:_ERROR_CHARS_MAX]
