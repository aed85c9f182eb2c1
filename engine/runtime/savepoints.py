"""Serves the savepoints that are asked of a running job: a checkpoint at once, then a copy of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import Protocol

from lakeward.engine.checkpoint.events import Event, Tick
from lakeward.engine.checkpoint.savepoint import Owner, check_is_free, write_savepoint
from lakeward.engine.checkpoint.store import CheckpointStore
from lakeward.engine.checkpoint.store_fs import open_store
from lakeward.engine.core.errors import LakewardError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.runtime.control import JobControl, SavepointRequest

log = logging.getLogger("lakeward")


class CheckpointedJob(Protocol):
    """What is needed of a running job."""

    @property
    def last_completed(self) -> CheckpointId | None:
        """Its newest completed checkpoint of this attempt."""
        ...

    def request_checkpoint(self) -> CheckpointId:
        """Start a checkpoint as soon as can be; returns which."""
        ...

    def submit(self, work: Callable[[], Event]) -> None:
        """Do something slow, after what was given before."""
        ...


class _Step(Enum):
    """How far a request has come."""

    CHECKING = auto()
    CHECKED = auto()
    TAKING = auto()
    WRITING = auto()


class RequestedSavepoints:
    """The savepoints that are asked of a job, as one attempt of it serves them.

    A request that an attempt does not live to answer is served from its beginning by the next one.

    Args:
        control: Where they are asked for.
        source: The job's checkpoints.
        make_owner: Who writes, and when.
    """

    def __init__(self, control: JobControl, source: CheckpointStore, make_owner: Callable[[], Owner]) -> None:
        self._control = control
        self._source = source
        self._make_owner = make_owner
        self._steps: dict[SavepointRequest, _Step] = {}
        self._taken: dict[SavepointRequest, CheckpointId] = {}

    def serve(self, job: CheckpointedJob) -> None:
        """Do what can be done for each request; called now and then."""
        for request in self._control.waiting():
            match self._steps.get(request):
                case None:
                    self._steps[request] = _Step.CHECKING
                    job.submit(partial(self._check, request))
                case _Step.CHECKED if request.stops:
                    self._control.stop()
                case _Step.CHECKED:
                    self._steps[request] = _Step.TAKING
                    self._taken[request] = job.request_checkpoint()
                case _Step.TAKING if (job.last_completed or CheckpointId(-1)) >= self._taken[request]:
                    self._steps[request] = _Step.WRITING
                    job.submit(partial(self._write, request))

    def finish(self) -> None:
        """Write those that still wait, now that the job has stopped or come to its end with a last checkpoint."""
        for request in self._control.waiting():
            self._write(request)

    def _check(self, request: SavepointRequest) -> Event:
        try:
            check_is_free(open_store(request.target))
        except LakewardError as error:
            request.done.set_exception(error)
        else:
            self._steps[request] = _Step.CHECKED
        return Tick()

    def _write(self, request: SavepointRequest) -> Event:
        try:
            saved = write_savepoint(self._source, open_store(request.target), self._make_owner())
        except LakewardError as error:
            log.warning("no savepoint was written to %s: %s", request.target, error)
            request.done.set_exception(error)
        else:
            log.info("checkpoint %d is saved in %s", saved.checkpoint, request.target)
            request.done.set_result(saved.checkpoint)
        return Tick()
