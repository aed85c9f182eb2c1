"""What a worker process needs of the job besides what the coordinator sends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lakeward.engine.checkpoint.store import CheckpointStore
from lakeward.engine.config import EngineConfig
from lakeward.engine.core.clock import Clock
from lakeward.engine.graph.plan import Plan
from lakeward.engine.runtime.async_calls import JobCalls
from lakeward.engine.runtime.io import IoExecutor
from lakeward.engine.runtime.job import IoResult
from lakeward.engine.state.kv import StoreFactory


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """The job, as every worker has it.

    Args:
        plan: What runs.
        name: The job's name.
        config: Limits and intervals.
        store: The checkpoint directory.
        ports: The outside world.
    """

    plan: Plan
    name: str
    config: EngineConfig
    store: CheckpointStore
    ports: WorkerPorts


@dataclass(frozen=True, slots=True)
class WorkerPorts:
    """Everything outside the engine that a worker touches.

    Args:
        clock: Time.
        make_io: Makes the executor of uploads.
        make_calls: Makes what runs asynchronous calls.
        store_factory: Opens the key-value stores behind keyed state.
        directory: Where the folders of local state lie; None: the temporary directory.
    """

    clock: Clock
    make_io: Callable[[], IoExecutor[IoResult]]
    make_calls: Callable[[], JobCalls]
    store_factory: StoreFactory
    directory: str | None
