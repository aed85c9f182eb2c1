"""What is asked of a running job from outside: a savepoint, a stop, to be canceled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from lakeward.engine.core.errors import JobCanceledError, JobFailedError, LakewardError
from lakeward.engine.core.ids import CheckpointId


@dataclass(frozen=True, slots=True, eq=False)
class SavepointRequest:
    """A savepoint that somebody wants.

    Args:
        target: The directory to write it to: a path or URI.
        stops: Whether the job has to stop with it: it holds all that the job has done then.
        done: Gets the number of the checkpoint that was saved, or the error.
    """

    target: str
    stops: bool
    done: Future[CheckpointId] = field(default_factory=Future)


class JobControl:
    """Takes requests for one job from any thread; the job, in all its attempts, serves them.

    What is asked while the job recovers or waits to be restarted is served when it runs again; when it has ended,
    it is refused.

    >>> control = JobControl()
    >>> asked = control.savepoint("/backups/monday")
    >>> control.stop()
    >>> control.stopping, [request.target for request in control.waiting()]
    (True, ['/backups/monday'])
    >>> control.close(None)
    >>> asked.exception().message
    'the job ended before the savepoint was written'
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[SavepointRequest] = []
        self._closed = False
        self.stopping = False
        """Whether the job has to take a last checkpoint and stop."""
        self.canceled = False
        """Whether the job has to end as it is."""

    def savepoint(self, target: str) -> Future[CheckpointId]:
        """Have a checkpoint taken at once, and saved.

        Args:
            target: Where to: an empty directory, or one that does not exist.

        Returns:
            Gets the number of the checkpoint that was saved; a LakewardError if it could not be.
        """
        return self._ask(SavepointRequest(target, stops=False))

    def stop(self) -> None:
        """Have the job take a last checkpoint and stop."""
        self.stopping = True

    def stop_with_savepoint(self, target: str) -> Future[CheckpointId]:
        """Have the job take a last checkpoint, stop, and save it.

        The job goes on if the target cannot be written to from the first. Should writing fail later, the job has
        stopped with the checkpoint in its own directory, of which `lakeward savepoint` makes a savepoint.

        Args:
            target: Where to: an empty directory, or one that does not exist.
        """
        return self._ask(SavepointRequest(target, stops=True))

    def cancel(self) -> None:
        """Have the job end without another checkpoint; it can go on from the newest that it has."""
        self.canceled = True

    # -- the job's side

    def waiting(self) -> tuple[SavepointRequest, ...]:
        """The savepoints that nobody has answered yet, oldest first."""
        with self._lock:
            self._requests = [one for one in self._requests if not one.done.done()]
            return tuple(self._requests)

    def check_goes_on(self) -> None:
        """Raise if the job was canceled.

        Raises:
            JobCanceledError: It was.
        """
        if self.canceled:
            raise JobCanceledError("the job was canceled", hint="run it again to go on from its last checkpoint")

    def close(self, error: LakewardError | None) -> None:
        """The job has ended: refuse what waits, and whatever is asked from now on.

        Args:
            error: What it ended with; None: nothing.
        """
        with self._lock:
            self._closed = True
        why = "" if error is None else f": {error.message}"
        for request in self.waiting():
            request.done.set_exception(_ended(why))

    @contextmanager
    def until_end(self) -> Iterator[None]:
        """While inside, the job takes requests; those that it leaves unanswered are refused."""
        try:
            yield
        except LakewardError as error:
            self.close(error)
            raise
        finally:
            self.close(None)

    def _ask(self, request: SavepointRequest) -> Future[CheckpointId]:
        with self._lock:
            if not self._closed:
                self._requests.append(request)
                return request.done
        request.done.set_exception(_ended(""))
        return request.done


def _ended(why: str) -> JobFailedError:
    return JobFailedError(
        f"the job ended before the savepoint was written{why}",
        hint="`lakeward savepoint CHECKPOINT_DIR DIR` saves the last checkpoint of a job that has ended",
    )
