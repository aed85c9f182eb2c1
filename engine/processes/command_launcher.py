"""Workers that commands of the user's start, on this host or on others."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from lakeward.engine.core.errors import ConfigError
from lakeward.engine.processes.hosts import Hosts
from lakeward.engine.processes.launcher import Place, WorkerSpec, how_it_ended
from lakeward.engine.processes.orders import JobReference, WorkerOrder

log = logging.getLogger("lakeward")

KILL_TIMEOUT_S = 5.0
"""After which a process that was killed is left to itself: it is another user's, or waits for a disk."""

_PLACEHOLDER = re.compile(r"\{(job|worker)\}")


class CommandLauncher:
    """Each worker is started by a command of its own, for example `ssh node2 lakeward worker --job revenue.py`.

    The command gets the worker's order, with the secret of the attempt, on its standard input; what it writes goes
    where the coordinator's output goes. It has a session of its own, and is killed with all that it started in it. What
    a command like ssh has started elsewhere ends when the coordinator hangs up, or is silent for too long.

    Args:
        hosts: The commands and addresses.
        job: The job that the workers make.

    Raises:
        ConfigError: This is Windows, which has no sessions of processes.
    """

    def __init__(self, hosts: Hosts, job: JobReference) -> None:
        if sys.platform == "win32":
            raise ConfigError("a job cannot be run on several hosts from Windows", hint="start it on Linux or macOS")
        self._hosts = hosts
        self._job = job
        self._running: dict[tuple[int, int], subprocess.Popen[bytes]] = {}

    def place(self, directory: Path, worker: int | None) -> Place:
        """Where the hosts file says."""
        return self._hosts.coordinator if worker is None else self._hosts.workers[worker].place

    def fileno(self) -> int:
        """Exits have to be asked for."""
        return -1

    def start(self, spec: WorkerSpec) -> None:
        """Run a worker's command.

        Raises:
            ConfigError: There is no such program.
        """
        said = {"job": self._job.job, "worker": str(spec.number)}
        template = self._hosts.workers[spec.number].command
        command = [_PLACEHOLDER.sub(lambda found: said[found[1]], part) for part in template]
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        except OSError as error:
            raise ConfigError(
                f"worker {spec.number} cannot be started: {error}", hint=f"its command is {' '.join(command)}"
            ) from error
        self._running[spec.attempt, spec.number] = process
        assert process.stdin is not None, "it was asked for"
        with suppress(BrokenPipeError), process.stdin as told:  # it has ended already, as `exits` will say
            told.write(WorkerOrder(spec, self._job).to_line())

    def exits(self) -> list[tuple[int, int, str]]:
        """Commands that have ended since the last call."""
        ended = []
        for name, process in list(self._running.items()):
            status = process.poll()
            if status is not None:
                del self._running[name]
                _kill_group(process)
                ended.append((*name, how_it_ended(status)))
        return ended

    def kill(self, attempt: int, number: int) -> None:
        """Kill a worker's command and what it started; nothing if it has ended."""
        process = self._running.get((attempt, number))
        if process is not None:
            _kill_group(process)

    def close(self) -> None:
        """Kill all that are left."""
        for process in self._running.values():
            _kill_group(process)
        for (_, number), process in self._running.items():
            try:
                process.wait(KILL_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                log.warning("worker %d (process %d) could not be killed", number, process.pid)
        self._running.clear()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    except PermissionError as error:
        log.warning("process %d cannot be killed: %s; a worker ends by itself", process.pid, error)
