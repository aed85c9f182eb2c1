"""The coordinator of a session cluster: carries out what the jobs' state machine says.

One thread looks after the processes of the jobs; requests come from the threads of the server. All go through one lock,
and through `_carry_out`, which stores a record before it does anything about it.
"""

from __future__ import annotations

import logging
import os
import secrets
import selectors
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lakeward.cluster.files import ClusterFiles, confined, find_module
from lakeward.cluster.jobs import Action, JobRecord, Jobs, JobState, Kill, Save, Savepoint, Send, Start
from lakeward.cluster.process import LAST_LINES, JobProcess, Scrubber, read_log
from lakeward.engine.checkpoint.savepoint import check_is_free
from lakeward.engine.checkpoint.store_fs import open_store
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow
from lakeward.engine.core.clock import Clock
from lakeward.engine.core.errors import ConfigError, LakewardError
from lakeward.engine.core.json_types import JsonObject

log = logging.getLogger("lakeward")

TICK_S = 0.25
GONE_TIMEOUT_MS = 10_000
"""How long a job that has hung up may take to end before it is killed."""
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "USER", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "LAKEWARD_PROCESSES")


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What a cluster is started with.

    Args:
        slots: Subtasks of each operator that may run at a time.
        allowed: Folders whose modules may be run.
        savepoints: Folders that savepoints may be written to and begun from, besides the cluster's own.
        variables: Names of variables that jobs see, besides a few that every program needs.
    """

    slots: int
    allowed: tuple[Path, ...] = ()
    savepoints: tuple[Path, ...] = ()
    variables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Submission:
    """What somebody wants to be run.

    Args:
        job: `package.module:function`.
        name: For people; None: the function's.
        parallelism: Subtasks of each operator.
        venv: Virtual environment, below an allowed folder.
        savepoint: What it begins from.
    """

    job: str
    name: str | None = None
    parallelism: int = 1
    venv: str | None = None
    savepoint: str | None = None


class Coordinator:
    """The jobs of a cluster and their processes.

    Args:
        files: The cluster's directory.
        options: What it was started with.
        clock: Time.
        environment: Where the jobs' variables are taken from.
        token: The cluster's, which no log may show.
    """

    def __init__(
        self, files: ClusterFiles, options: ClusterOptions, clock: Clock, environment: Mapping[str, str], token: str
    ) -> None:
        self.files = files
        self.options = options
        self._clock = clock
        names = [name for name in environment if name in (*_INHERITED, *options.variables) or name.startswith("LC_")]
        self._environment = {name: environment[name] for name in names} | {"PYTHONUNBUFFERED": "1"}
        self._scrub = Scrubber([token, *(environment[name] for name in options.variables if name in environment)])
        self._lock = threading.RLock()
        self._jobs = Jobs(options.slots)
        self._processes: dict[str, JobProcess] = {}
        self._hung_up: dict[str, int] = {}
        self._said: dict[str, JobState] = {}
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._closing = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Take up the jobs that are stored, and look after them from now on.

        Raises:
            LakewardError: A record cannot be read.
        """
        with self._lock:
            self._carry_out(self._jobs.resume(self.files.records(), self._now_ms()))
        self._thread = threading.Thread(target=self._watch, name="lakeward-jobs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all processes at once; the jobs go on when a coordinator is started again."""
        self._closing = True
        self._wake()
        if self._thread is not None:
            self._thread.join()
        for process in self._processes.values():
            process.kill()
            process.process.wait()
            process.close()
        self._selector.close()
        self._waker.close()
        self._woken.close()

    # -- requests

    def submit(self, wanted: Submission) -> JobRecord:
        """A new job.

        Raises:
            ConfigError: It may not be run, or not so.
        """
        folder = find_module(wanted.job, self.options.allowed)
        venv = None if wanted.venv is None else self._venv(wanted.venv)
        savepoint = None if wanted.savepoint is None else self._savepoint(wanted.savepoint)
        name = wanted.name or wanted.job.rpartition(":")[2]
        record = JobRecord(
            id=f"j-{secrets.token_hex(4)}",
            name=name,
            job=wanted.job,
            folder=str(folder),
            parallelism=wanted.parallelism,
            venv=venv,
            savepoint=savepoint,
            created_us=self._clock.wall_us(),
        )
        with self._lock:
            self._carry_out(self._jobs.submit(record, self._now_ms()))
            return self._jobs.record(record.id)

    def savepoint(self, job: str, target: str, stops: bool = False) -> JobRecord:
        """A savepoint of a running job, with which it may have to stop; the record says how far it has come.

        Raises:
            ConfigError: The job does not run, or nothing may be written there.
        """
        asked = Savepoint(f"s-{secrets.token_hex(4)}", self._savepoint(target), stops=stops)
        check_is_free(open_store(asked.target))
        with self._lock:
            self._carry_out(self._jobs.ask_savepoint(self._jobs.record(job).id, asked))
            return self._jobs.record(job)

    def stop(self, job: str, rescale_to: int | None = None) -> JobRecord:
        """A last checkpoint of a running job, and its end; or another parallelism after that.

        Raises:
            ConfigError: The job does not run, or there are not as many slots.
        """
        with self._lock:
            found = self._jobs.record(job).id
            self._carry_out(self._jobs.ask_stop(found, rescale_to))
            return self._jobs.record(found)

    def cancel(self, job: str) -> JobRecord:
        """The end of a job, without another checkpoint.

        Raises:
            ConfigError: It is over already.
        """
        with self._lock:
            found = self._jobs.record(job).id
            self._carry_out(self._jobs.ask_cancel(found, self._now_ms()))
            return self._jobs.record(found)

    def record(self, job: str) -> tuple[JobRecord, dict[str, object]]:
        """A job, and how it is getting on.

        Raises:
            ConfigError: There is none.
        """
        with self._lock:
            record = self._jobs.record(job)
            return record, self._jobs.status(record.id)

    def records(self) -> list[tuple[JobRecord, dict[str, object]]]:
        """All jobs, in the order in which they were submitted."""
        with self._lock:
            return [(record, self._jobs.status(record.id)) for record in self._jobs]

    @property
    def slots_free(self) -> int:
        """Slots that no job has."""
        with self._lock:
            return self._jobs.slots_free

    def log_path(self, job: str) -> Path:
        """Where a job's output is.

        Raises:
            ConfigError: There is no such job.
        """
        return self.files.job_folder(self.record(job)[0].id) / "log"

    @property
    def failure(self) -> BaseException | None:
        """What has ended the care for the jobs; None while all is well."""
        return self._failure

    # -- the thread that looks after the processes

    def _watch(self) -> None:
        try:
            while not self._closing:
                for key, _ in self._selector.select(TICK_S):
                    with self._lock:
                        if key.data is None:
                            with suppress(BlockingIOError):
                                self._woken.recv(4096)
                        else:
                            self._attend(key.data, key.fileobj)
                with self._lock:
                    self._tick()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End this process; whoever has started it starts it again."""
        if self._failure is None:
            log.error("the coordinator cannot go on: %s", error, exc_info=not isinstance(error, LakewardError))
            self._failure = error
            os.kill(os.getpid(), signal.SIGTERM)

    def _attend(self, job: str, what: object) -> None:
        process = self._processes.get(job)
        if process is None:
            return
        if what is process.output:
            if not process.take_output():
                self._forget(process.output)
            return
        try:
            messages = process.hear()
        except ConfigError as error:
            log.warning("%s", error)
            messages = None
        if messages is None:
            self._forget(process.socket)
            self._hung_up[job] = self._now_ms()
            return
        for message in messages:
            self._carry_out(self._jobs.said(job, message, self._now_ms()))

    def _tick(self) -> None:
        now_ms = self._now_ms()
        for job, process in list(self._processes.items()):
            process.flush()
            status = process.process.poll()
            if status is not None:
                self._bury(process, status)
            elif now_ms - self._hung_up.get(job, now_ms) > GONE_TIMEOUT_MS:
                process.kill()
        self._carry_out(self._jobs.tick(now_ms))

    def _bury(self, process: JobProcess, status: int) -> None:
        job = process.id
        while (messages := process.hear()) is not None and messages:
            for message in messages:
                self._carry_out(self._jobs.said(job, message, self._now_ms()))
        process.kill()  # what it may have left in its session
        with suppress(OSError, ValueError):
            os.set_blocking(process.output.fileno(), False)
            for _ in range(1000):
                if not process.take_output():
                    break
        self._forget(process.socket)
        self._forget(process.output)
        self._hung_up.pop(job, None)
        process.close()
        del self._processes[job]
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        text, _ = read_log(self.files.job_folder(job) / "log", -8192, 8192)
        last_lines = "\n".join(text.decode("utf-8", "replace").splitlines()[-LAST_LINES:])
        log.info("the process of job %s %s", job, how)
        self._carry_out(self._jobs.exited(job, how, last_lines, self._now_ms()))

    def _forget(self, what: object) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(what)  # type: ignore[arg-type]

    def _wake(self) -> None:
        with suppress(OSError):
            self._waker.send(b"\0")

    # -- actions

    def _carry_out(self, actions: Sequence[Action]) -> None:
        """Do what the state machine says; what cannot be done ends the coordinator.

        What is stored is right then, and what is in memory no longer is: the next coordinator begins with the former.
        """
        try:
            self._do(actions)
        except BaseException as error:
            self._fail(error)
            raise

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Save(record):
                    self.files.save(record)
                    if self._said.get(record.id) is not record.state:
                        self._said[record.id] = record.state
                        log.info("job %s (%s) is %s", record.id, record.name, record.state.value)
                case Start(record):
                    self._start(record)
                case Send(job, message):
                    if job in self._processes:
                        self._processes[job].say(message)
                case Kill(job):
                    if job in self._processes:
                        self._processes[job].kill()
        if actions:
            self._wake()

    def _start(self, record: JobRecord) -> None:
        if self._is_done_already(record):
            return
        try:
            process = JobProcess(record, self.files.job_folder(record.id), self._environment, self._scrub)
        except ConfigError as error:
            failed: JsonObject = {"type": "failed", "error": str(error)}
            self._jobs.said(record.id, failed, self._now_ms())
            self._carry_out(self._jobs.exited(record.id, "did not start", "", self._now_ms()))
            return
        self._processes[record.id] = process
        self._selector.register(process.socket, selectors.EVENT_READ, record.id)
        self._selector.register(process.output, selectors.EVENT_READ, record.id)

    def _is_done_already(self, record: JobRecord) -> bool:
        """Note savepoints that were written before somebody could hear of it; whether the job has stopped with one."""
        stopped = False
        for one in record.pending:
            found, newest = _newest(one.target), _newest(str(self.files.job_folder(record.id) / "checkpoints"))
            if found is None or newest is None or found[0] != newest[0]:
                continue
            self._carry_out(self._jobs.saved_already(record.id, one.id, found[1]))
            stopped = stopped or (one.stops and found == newest)
        if stopped:
            self._jobs.said(record.id, {"type": "finished"}, self._now_ms())
            self._carry_out(self._jobs.exited(record.id, "has stopped", "", self._now_ms()))
        return stopped

    def _savepoint(self, path: str) -> str:
        self.files.savepoints.mkdir(mode=0o700, exist_ok=True)
        return str(confined(path, [self.files.savepoints, *self.options.savepoints], "savepoint"))

    def _venv(self, path: str) -> str:
        if not self.options.allowed:
            raise ConfigError("no folder is allowed", hint="lakeward cluster start --allow FOLDER")
        venv = confined(path, self.options.allowed, "venv")
        if not os.access(venv / "bin" / "python", os.X_OK):
            raise ConfigError(f"there is no bin/python in {venv}", hint="give the folder of a virtual environment")
        return str(venv)

    def _now_ms(self) -> int:
        return self._clock.monotonic_ms()


def _newest(directory: str) -> tuple[str, int] | None:
    """The job and number of the newest whole checkpoint in a directory; None if there is none."""
    if not Path(directory).is_dir():
        return None
    try:
        found = CheckpointWorkflow(open_store(directory)).newest_whole()
    except LakewardError:
        return None
    return None if found is None else (str(found.manifest.job_id), int(found.manifest.checkpoint))
