"""The process of one job, as the coordinator has it: started without a shell, heard and told over a socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lakeward.cluster.jobs import JobRecord
from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.json_types import JsonObject

LOG_BYTES_MAX = 10 << 20
"""Of a job's log; as much again is kept of what was before."""
LAST_LINES = 20
_MESSAGE_BYTES_MAX = 64 << 10
_READ_BYTES = 1 << 16


class Scrubber:
    """Hides secrets in what jobs print, as far as their values are known.

    >>> Scrubber(["hunter2-hunter2"])(b"password is hunter2-hunter2")
    b'password is ***'

    Args:
        secrets: The values; short ones, which are too common, are left alone.
    """

    def __init__(self, secrets: list[str]) -> None:
        self._secrets = sorted({one.encode() for one in secrets if len(one) >= 8}, key=len, reverse=True)

    def __call__(self, text: bytes) -> bytes:
        """The text without them."""
        for secret in self._secrets:
            text = text.replace(secret, b"***")
        return text


class JobLog:
    """What a job prints, in a file that does not grow for ever.

    Args:
        path: The file; ".1" is added for the one before.
        scrub: Hides secrets.
    """

    def __init__(self, path: Path, scrub: Scrubber) -> None:
        self._path = path
        self._scrub = scrub
        self._rest = b""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Append; a line is written when it is whole, for secrets may be cut."""
        lines = (self._rest + data).splitlines(keepends=True)
        self._rest = lines.pop() if lines and not lines[-1].endswith(b"\n") and len(lines[-1]) < _READ_BYTES else b""
        self._append(b"".join(lines))

    def close(self) -> None:
        """Write what is left."""
        self._append(self._rest)
        self._file.close()

    def _append(self, data: bytes) -> None:
        if not data:
            return
        if self._file.tell() + len(data) > LOG_BYTES_MAX:
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._path.open("ab", buffering=0)
        self._file.write(self._scrub(data))


def read_log(path: Path, offset: int, size_max: int) -> tuple[bytes, int]:
    """A part of a log.

    Args:
        path: Of the log.
        offset: Where to begin; negative: so many bytes before its end.
        size_max: How much to read.

    Returns:
        The bytes, and the offset to go on from.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            start = max(0, end + offset) if offset < 0 else min(offset, end) if offset <= end else 0
            file.seek(start)
            data = file.read(size_max)
            return data, start + len(data)
    except FileNotFoundError:
        return b"", 0


class JobProcess:
    """A job that runs.

    Args:
        record: The job.
        folder: Of its files.
        environment: All that its process sees.
        scrub: Hides secrets in what it prints.

    Raises:
        ConfigError: It cannot be started.
    """

    def __init__(self, record: JobRecord, folder: Path, environment: Mapping[str, str], scrub: Scrubber) -> None:
        self.id = record.id
        self._scrub = scrub
        self._said = b""
        self._unsent = b""
        self.log = JobLog(folder / "log", scrub)
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        self.socket = mine
        try:
            self.process = subprocess.Popen(
                _command(record, folder, theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=record.folder,
                env=dict(environment),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError as error:
            mine.close()
            self.log.close()
            raise ConfigError(f"job {record.id} cannot be started: {error}", hint="is its venv still there?") from error
        finally:
            theirs.close()
        assert self.process.stdout is not None, "it was asked for"
        self.output = self.process.stdout
        os.set_blocking(self.output.fileno(), False)

    def say(self, message: JsonObject) -> None:
        """Tell it something; what it has no room for waits."""
        self._unsent += json.dumps(message).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Send what waits."""
        with suppress(BlockingIOError):
            try:
                while self._unsent:
                    self._unsent = self._unsent[self.socket.send(self._unsent) :]
            except (BrokenPipeError, ConnectionResetError):
                self._unsent = b""  # it has ended, which is noticed elsewhere

    def hear(self) -> list[dict[str, object]] | None:
        """What it has said; None when it says no more.

        Raises:
            ConfigError: What it says is none of ours.
        """
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            return None
        *lines, self._said = (self._said + data).split(b"\n")
        if len(self._said) > _MESSAGE_BYTES_MAX:
            raise ConfigError(f"job {self.id} says something without an end")
        try:
            messages = [json.loads(self._scrub(line)) for line in lines]
        except ValueError as error:
            raise ConfigError(f"job {self.id} says what cannot be understood") from error
        return [message for message in messages if isinstance(message, dict)]

    def take_output(self) -> bool:
        """Put what it has printed into its log; False when it prints no more."""
        try:
            data = os.read(self.output.fileno(), _READ_BYTES)
        except BlockingIOError:
            return True
        self.log.write(data)
        return bool(data)

    def kill(self) -> None:
        """End it at once, and all that it has started in its session."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Release what belongs to it; it has ended."""
        self.socket.close()
        self.output.close()
        self.log.close()


def _command(record: JobRecord, folder: Path, descriptor: int) -> list[str]:
    python = sys.executable if record.venv is None else str(Path(record.venv) / "bin" / "python")
    command = [python, "-m", "lakeward", "--log-format", "json", "run", record.job]
    command += ["--parallelism", str(record.parallelism), "--checkpoint-dir", str(folder / "checkpoints")]
    if record.savepoint is not None:
        command += ["--from", record.savepoint]
    return [*command, "--control-fd", str(descriptor)]
