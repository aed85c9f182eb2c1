"""A worker's tasks between two connections: what it is told, what it says, one step after another.

No socket here, and nothing waits: `worker_process.py` puts it on sockets, the simulator on a network of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from lakeward.engine.checkpoint.events import Acked, to_json
from lakeward.engine.checkpoint.local_copies import tell_where_from
from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow
from lakeward.engine.core.error_json import error_to_json
from lakeward.engine.core.errors import InternalError, LakewardError
from lakeward.engine.core.ids import CheckpointId, Generation, JobId, OperatorId
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.log_scope import note_in_scope
from lakeward.engine.core.scratch import ScratchFolder
from lakeward.engine.processes.exchange import Exchange, Post
from lakeward.engine.processes.frames import Frame
from lakeward.engine.processes.launcher import WorkerSpec
from lakeward.engine.processes.settings import WorkerJob
from lakeward.engine.runtime.build import BuildContext, build_tasks
from lakeward.engine.runtime.context import JobInfo
from lakeward.engine.runtime.io import IoExecutor
from lakeward.engine.runtime.job import TICK_INTERVAL_MS, IoResult, SplitsListed
from lakeward.engine.runtime.metrics import Metrics
from lakeward.engine.runtime.restore import RestoredState
from lakeward.engine.runtime.source_task import SplitState
from lakeward.engine.runtime.task import RunnableTask
from lakeward.engine.runtime.worker import HandedOver, LocalWorker, WorkerEvent

log = logging.getLogger("lakeward")

STATUS_INTERVAL_MS = 200


class WorkerCore:
    """One worker of a job.

    Args:
        job: The job.
        spec: Which worker.
        tell: Says something to the coordinator, without waiting.
        post: Sends a frame to another worker, without waiting.
    """

    def __init__(self, job: WorkerJob, spec: WorkerSpec, tell: Callable[[JsonObject], None], post: Post) -> None:
        self._job = job
        self._tell = tell
        self._exchange = Exchange(spec.number, spec.workers, post)
        self._metrics = Metrics()
        self._worker: LocalWorker | None = None
        self._io: IoExecutor[IoResult] = job.ports.make_io()
        self._calls = job.ports.make_calls()
        self._scratch = ScratchFolder(job.ports.directory)
        self._workflow = CheckpointWorkflow(job.store, Generation(spec.attempt))
        self._next_tick_ms = self._next_status_ms = 0
        self._ended_told = False
        self.is_closing = False
        """Whether the coordinator has said that it is enough."""

    @property
    def worker(self) -> LocalWorker:
        """Its tasks, once it has begun."""
        if self._worker is None:
            raise InternalError("a worker has no tasks before it is started")
        return self._worker

    @property
    def tasks(self) -> list[RunnableTask]:
        """Its tasks, each after those it reads from; none before it has begun."""
        return [] if self._worker is None else list(self._worker.tasks)

    def begin(self, manifest: CheckpointManifest | None, start: Mapping[str, Any]) -> None:
        """Restore and open the tasks.

        Args:
            manifest: The checkpoint to restore.
            start: What the coordinator says besides.
        """
        self._worker = self._build(manifest, start)
        self._worker.open()
        tell_where_from(self._job.store)
        self._tell({"type": "opened"})

    def obey(self, order: Mapping[str, Any]) -> None:
        """Do what the coordinator says."""
        match order["type"]:
            case "inject":
                note_in_scope(checkpoint=order["checkpoint"])
                self.worker.inject(CheckpointId(order["checkpoint"]), order["aligned"])
            case "complete":
                self._workflow.forget_uploads()
                self.worker.complete(CheckpointId(order["checkpoint"]))
            case "abort":
                self.worker.abort(CheckpointId(order["checkpoint"]))
            case "add_split":
                state = SplitState.from_json(order["split"])
                next(source for source in self.worker.sources if source.id == order["task"]).add_split(state)
            case "close":
                self.is_closing = True
            case unknown:
                raise InternalError(f"the coordinator said '{unknown}', which no worker understands")

    def on_frame(self, worker: int, frame: Frame) -> None:
        """A frame has come from another worker."""
        self._exchange.on_frame(worker, frame)

    def report(self) -> bool:
        """Tell what has happened since the last call, and how it goes; True when something has happened."""
        events: list[WorkerEvent] = self.worker.take_events()
        while (result := self._io.poll()) is not None:
            if isinstance(result, SplitsListed):
                raise InternalError("splits are listed by the coordinator")
            events.append(result)
        if any(isinstance(event, Acked) for event in events):
            self._tell_status()
        for event in events:
            self._tell(_event_to_json(event))
        if self.worker.has_ended and not self._ended_told:
            self._ended_told = True
            self._tell_status()
            self._tell({"type": "ended"})
        self._tick()
        return bool(events)

    def fail(self, error: BaseException) -> None:
        """Say what went wrong."""
        if self._worker is not None:
            self._tell_status()
        if isinstance(error, LakewardError):
            error.redact(self._job.config.redaction)
        self._tell({"type": "failed", "error": error_to_json(error)})

    def close(self) -> None:
        """Release everything."""
        self._io.close()
        try:
            if self._worker is not None:
                self._worker.close()
        finally:
            self._calls.close()
            self._scratch.close()

    def _build(self, manifest: CheckpointManifest | None, start: Mapping[str, Any]) -> LocalWorker:
        job, ports = self._job, self._job.ports
        self._workflow.reuse({sha256: Generation(holder) for sha256, holder in start["reusable"].items()})
        restored = RestoredState(
            manifest, self._workflow.download, self._scratch.path / "restored", job.config.max_parallelism
        )
        info = JobInfo(
            JobId(start["job_id"]),
            job.name,
            start["attempt"],
            ports.clock,
            job.config.max_parallelism,
            self._calls,
            job.config.redaction,
        )
        splits = {
            OperatorId(uid): [
                [SplitState.from_json(one) for one in dealt["own"].get(str(subtask), ())]
                for subtask in range(dealt["subtasks"])
            ]
            for uid, dealt in start["splits"].items()
        }
        context = BuildContext(
            job.config, info, self._metrics, restored, splits, ports.store_factory, self._scratch.path
        )
        tasks = build_tasks(job.plan, context, self._exchange)
        return LocalWorker(tasks, self._workflow, self._io.submit)

    def _tick(self) -> None:
        now_ms = self._job.ports.clock.monotonic_ms()
        if now_ms >= self._next_tick_ms:
            self._next_tick_ms = now_ms + TICK_INTERVAL_MS
            self.worker.tick(self._job.ports.clock.wall_us())
        if now_ms >= self._next_status_ms:
            self._next_status_ms = now_ms + STATUS_INTERVAL_MS
            self._tell_status()

    def _tell_status(self) -> None:
        values = self._metrics.own()
        self._tell(
            {
                "type": "status",
                "counters": values.counters,
                "gauges": values.gauges,
                "watermark_us": self.worker.watermark_us,
            }
        )


def _event_to_json(event: WorkerEvent) -> JsonObject:
    if isinstance(event, HandedOver):
        return {
            "type": "handed_over",
            "checkpoint": event.checkpoint,
            "uid": event.uid,
            "subtask": event.subtask,
            "committables": list(event.committables),
        }
    return {"type": "event", "event": to_json(event)}
