"""A small client of a session cluster, for scripts in Python and for the command line."""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from lakeward.cluster.files import ClusterFiles, read_token
from lakeward.engine.core.clock import Clock, SystemClock
from lakeward.engine.core.errors import ClusterError, ConfigError

T = TypeVar("T")

_TIMEOUT_S = 30.0
_POLL_MS = 200


class JobInfo(msgspec.Struct, frozen=True):
    """A job of a cluster.

    Args:
        id: Names it for ever.
        name: For people.
        job: `package.module:function`.
        state: WAITING, RUNNING, STOPPING, FINISHED, STOPPED, CANCELED or FAILED.
        parallelism: Subtasks of each operator, and slots that it takes.
        error: Why it has failed.
        restarts: Times that its process has died.
        savepoints: Those asked for, oldest first: id, target, state, checkpoint, error.
        status: How it is getting on: attempt, restarts, checkpoint, checkpoint_age_ms, rows_per_s, watermark_us, ...
        checkpoints: Its checkpoint directory.
        created_us: When it was submitted, in microseconds since 1970 UTC.
    """

    id: str
    name: str
    job: str
    state: str
    parallelism: int
    error: str | None
    restarts: int
    savepoints: list[dict[str, Any]]
    status: dict[str, Any]
    checkpoints: str
    created_us: int

    @property
    def is_over(self) -> bool:
        """Whether nothing will happen any more."""
        return self.state in ("FINISHED", "STOPPED", "CANCELED", "FAILED")


_JOBS = list[JobInfo]


class Client:
    """Talks to the cluster in a directory of this machine, which `lakeward cluster start --dir` was given.

    >>> Client("/nowhere")
    Traceback (most recent call last):
    ...
    lakeward.engine.core.errors.ConfigError: no cluster was started in /nowhere
      hint: lakeward cluster start --dir DIR --allow FOLDER

    Args:
        directory: The cluster's directory.
        clock: Time, for waiting.

    Raises:
        ConfigError: There is none, or its token cannot be read.
    """

    def __init__(self, directory: str | Path, clock: Clock | None = None) -> None:
        self._files = ClusterFiles(Path(directory).expanduser())
        self._files.endpoint()
        self._token = read_token(self._files.root / "token")
        self._clock = clock or SystemClock()

    def cluster(self) -> dict[str, Any]:
        """Version, slots, free slots and the number of jobs."""
        return self._ask("GET", "/v1/cluster", dict[str, Any])

    def submit(
        self,
        job: str,
        *,
        name: str | None = None,
        parallelism: int = 1,
        venv: str | None = None,
        savepoint: str | None = None,
    ) -> JobInfo:
        """Run a job.

        Args:
            job: `package.module:function`, in a folder that the cluster allows.
            name: For people; None: the function's.
            parallelism: Subtasks of each operator.
            venv: Folder of a virtual environment to run it in, with Lakeward in it.
            savepoint: What it begins from.

        Raises:
            ConfigError: It may not be run, or not so.
        """
        body = {"job": job, "name": name, "parallelism": parallelism, "venv": venv, "savepoint": savepoint}
        return self._ask("POST", "/v1/jobs", JobInfo, body)

    def list(self) -> Sequence[JobInfo]:
        """All jobs, in the order in which they were submitted."""
        return self._ask("GET", "/v1/jobs", _JOBS)

    def show(self, job: str) -> JobInfo:
        """A job, by its id or name.

        Raises:
            ConfigError: There is none.
        """
        return self._ask("GET", _path(job), JobInfo)

    def logs(self, job: str, *, follow: bool = False) -> Iterator[str]:
        """What a job has printed, in parts; the last 64 kB, and with `follow` what comes until it is over."""
        offset = -65_536
        while True:
            info = self.show(job)
            part = self._ask("GET", f"{_path(job)}/logs?offset={offset}", dict[str, Any])
            if part["text"]:
                yield part["text"]
            elif not follow or info.is_over:
                return
            else:
                self._clock.sleep_ms(_POLL_MS)
            offset = part["next_offset"]

    def cancel(self, job: str) -> JobInfo:
        """End a job without another checkpoint."""
        return self._ask("POST", f"{_path(job)}/cancel", JobInfo, {})

    def stop(self, job: str, *, savepoint: str | None = None) -> JobInfo:
        """Stop a running job with a last checkpoint, and save that; returns when it has stopped.

        Args:
            job: Its id or name.
            savepoint: The directory to save it in.

        Raises:
            ConfigError: The job does not run, or the savepoint cannot be written: it goes on then.
        """
        info = self._ask("POST", f"{_path(job)}/stop", JobInfo, {"savepoint": savepoint})
        if savepoint is not None:
            self._wait_for_savepoint(info)
        return self.wait(info.id)

    def savepoint(self, job: str, target: str) -> JobInfo:
        """Write a savepoint of a running job; returns when it is written.

        Args:
            job: Its id or name.
            target: The directory.

        Raises:
            ConfigError: The job does not run, or it cannot be written.
        """
        return self._wait_for_savepoint(self._ask("POST", f"{_path(job)}/savepoints", JobInfo, {"target": target}))

    def rescale(self, job: str, parallelism: int) -> JobInfo:
        """Stop a running job with a last checkpoint, and go on with another parallelism; returns when it does.

        Raises:
            ConfigError: The job does not run, or there are not as many slots.
        """
        info = self._ask("POST", f"{_path(job)}/rescale", JobInfo, {"parallelism": parallelism})
        while not info.is_over and (info.state != "RUNNING" or info.status.get("state") != "RUNNING"):
            self._clock.sleep_ms(_POLL_MS)
            info = self.show(info.id)
        return info

    def wait(self, job: str) -> JobInfo:
        """Wait until a job is over."""
        while not (info := self.show(job)).is_over:
            self._clock.sleep_ms(_POLL_MS)
        return info

    def _wait_for_savepoint(self, info: JobInfo) -> JobInfo:
        asked = info.savepoints[-1]["id"]
        while True:
            (found,) = [one for one in info.savepoints if one["id"] == asked]
            if found["state"] == "DONE":
                return info
            if found["state"] == "FAILED":
                raise ConfigError(f"no savepoint was written: {found['error']}")
            self._clock.sleep_ms(_POLL_MS)
            info = self.show(info.id)

    def _ask(self, method: str, path: str, answer: type[T], body: dict[str, Any] | None = None) -> T:
        url = urlsplit(self._files.endpoint().url)
        connection = http.client.HTTPConnection(url.hostname or "", url.port or 0, timeout=_TIMEOUT_S)
        headers = {"Authorization": f"Bearer {self._token}"}
        data = None
        if body is not None:
            data = msgspec.json.encode({name: value for name, value in body.items() if value is not None})
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ClusterError(
                f"the cluster in {self._files.root} does not answer: {error}",
                hint="is it running? lakeward cluster start",
            ) from error
        finally:
            connection.close()
        try:
            if response.status >= 400:
                problem = msgspec.json.decode(content)
                raise ConfigError(str(problem["error"]), hint=str(problem.get("hint", "")))
            return msgspec.json.decode(content, type=answer)
        except (msgspec.MsgspecError, KeyError, TypeError) as error:
            raise ClusterError(f"what answers at {url.netloc} is no cluster of Lakeward") from error


def _path(job: str) -> str:
    return f"/v1/jobs/{quote(job, safe='')}"
