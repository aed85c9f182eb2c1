"""What an operator subtask is given: identity, restored state, its state backend, counters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from lakeward.engine.api.calls import AsyncCalls
from lakeward.engine.api.context import Counter
from lakeward.engine.api.state import RowsSpec, RowTable, StateTable, TableSpec
from lakeward.engine.core.clock import Clock
from lakeward.engine.core.errors import LakewardError
from lakeward.engine.core.ids import JobId, OperatorId, SubtaskIndex
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.keygroups import key_group_range
from lakeward.engine.core.redaction import SECRETS_ONLY, Redaction
from lakeward.engine.runtime.async_calls import JobCalls
from lakeward.engine.runtime.metrics import OperatorCounters
from lakeward.engine.state.backend import RestoreSource, StateBackend
from lakeward.engine.state.kv import StoreFactory
from lakeward.engine.state.reader import read_rows


@dataclass(frozen=True, slots=True)
class JobInfo:
    """What all operators of a run share.

    Args:
        job_id: The job's identity.
        job_name: The name given to `execute`.
        attempt: A name that no other run of the job ever had.
        clock: Processing time.
        max_parallelism: Number of key groups.
        calls: Runs asynchronous calls.
        redaction: Which fields are not shown.
    """

    job_id: JobId
    job_name: str
    attempt: str
    clock: Clock
    max_parallelism: int
    calls: JobCalls
    redaction: Redaction = SECRETS_ONLY


@dataclass(frozen=True, slots=True)
class StateConfig:
    """Where and how a subtask's keyed state is kept.

    Args:
        store_factory: Opens the key-value store.
        directory: A directory of the subtask's own.
        memory_bytes: Its memory budget.
        restore: Keyed state of the restored checkpoint that the subtask owns a part of, on local disk.
        restore_all: Fetches that of all old subtasks.
    """

    store_factory: StoreFactory
    directory: Path
    memory_bytes: int
    restore: Sequence[RestoreSource]
    restore_all: Callable[[], Sequence[RestoreSource]]


class SubtaskContext:
    """The `OperatorContext` of one operator subtask.

    Args:
        info: What all operators share.
        uid: The operator.
        subtask: Number and count of its instances.
        counters: Its counters.
        state: How its keyed state is kept.
        restored: Its small state in the restored checkpoint, of all old subtasks.
    """

    def __init__(
        self,
        info: JobInfo,
        uid: OperatorId,
        subtask: tuple[SubtaskIndex, int],
        counters: OperatorCounters,
        state: StateConfig,
        restored: Sequence[JsonObject],
    ) -> None:
        self._info = info
        self.uid = uid
        self.subtask, self.parallelism = subtask
        self._counters = counters
        self._state = state
        self.restored = restored
        self.backend: StateBackend | None = None
        self.find_origin: Callable[[LakewardError], None] | None = None
        """Knows where rows were read; set by the source's task for its operators."""

    def add_origin(self, error: LakewardError) -> None:
        """Say in an error where its row was read, as far as that is known."""
        if self.find_origin is not None:
            self.find_origin(error.at(self.uid))

    @property
    def job_id(self) -> JobId:
        """The job's identity."""
        return self._info.job_id

    @property
    def job_name(self) -> str:
        """The name given to `execute`."""
        return self._info.job_name

    @property
    def attempt(self) -> str:
        """A name that no other start of this subtask ever had."""
        return f"{self._info.attempt}-{self.subtask}"

    @property
    def clock(self) -> Clock:
        """Processing time."""
        return self._info.clock

    @property
    def redaction(self) -> Redaction:
        """Which fields neither errors nor log lines may show."""
        return self._info.redaction

    @property
    def max_parallelism(self) -> int:
        """Number of key groups of the job."""
        return self._info.max_parallelism

    @property
    def key_groups(self) -> range:
        """The key groups that this subtask owns."""
        return key_group_range(self.subtask, self.parallelism, self._info.max_parallelism)

    def table(self, spec: TableSpec) -> StateTable:
        """Open a keyed state table; the first table opens the backend and restores it."""
        return self._opened_backend().table(spec)

    def rows(self, spec: RowsSpec) -> RowTable:
        """Open a keyed table of whole rows; the first table opens the backend and restores it."""
        return self._opened_backend().rows(spec)

    def restored_rows(self, spec: RowsSpec) -> Iterator[pa.RecordBatch]:
        """All rows that a table had in the restored checkpoint, those of the other subtasks too."""
        return read_rows(self._state.store_factory, self._state.restore_all(), spec)

    def async_calls(self, threads: int | None = None) -> AsyncCalls:
        """Calls that run beside the worker."""
        return self._info.calls.open(threads)

    def counter(self, name: str) -> Counter:
        """A metric of this operator."""
        return self._counters.counter(name)

    def gauge(self, name: str, value: int) -> None:
        """How much there is of something now."""
        self._counters.gauge(self.subtask, name, value)

    def _opened_backend(self) -> StateBackend:
        if self.backend is None:
            self.backend = self._open_backend()
        return self.backend

    def _open_backend(self) -> StateBackend:
        state = self._state
        state.directory.mkdir(parents=True, exist_ok=True)
        backend = StateBackend(
            state.store_factory,
            str(state.directory),
            self.key_groups,
            self._info.max_parallelism,
            state.memory_bytes,
        )
        if state.restore:
            backend.restore(state.restore)
        return backend
