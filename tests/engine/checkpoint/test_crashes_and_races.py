"""A small job over a checkpoint directory and an idempotent sink, killed, raced and damaged in every way.

The job reads numbers; each checkpoint covers the next ten of them. Whatever happens, the lake must in the end hold every
number once, in order.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.checkpoint.store import CheckpointStore, MemoryStore
from lakeward.engine.checkpoint.store_fs import FileSystemStore
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow, Recovery
from lakeward.engine.core.errors import CheckpointError, CorruptionError, StaleWriterError
from lakeward.engine.core.ids import CheckpointId, JobId, OperatorId, SubtaskIndex
from lakeward.engine.core.snapshots import LocalFile, OperatorSnapshot, TableSnapshot

ROWS_A_CHECKPOINT = 10
ROWS = 50
RETAINED = 2
UID = OperatorId("numbers")


class Crash(BaseException):
    """The process dies here. Not an Exception: nothing may catch it."""


Gate = Callable[[str], None]


class GatedStore:
    """Passes a gate before and after each call; the gate may crash, or let somebody else run."""

    def __init__(self, inner: CheckpointStore, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    def _through[T](self, call: Callable[[], T]) -> T:
        self._gate("before")
        result = call()
        self._gate("after")
        return result

    def read(self, path: str) -> bytes | None:
        return self._through(lambda: self._inner.read(path))

    def put(self, path: str, data: bytes) -> None:
        self._through(lambda: self._inner.put(path, data))

    def create_if_absent(self, path: str, data: bytes) -> bool:
        return self._through(lambda: self._inner.create_if_absent(path, data))

    def put_file(self, path: str, local_path: str) -> None:
        self._through(lambda: self._inner.put_file(path, local_path))

    def get_file(self, path: str, local_path: str) -> None:
        self._through(lambda: self._inner.get_file(path, local_path))

    def size(self, path: str) -> int | None:
        return self._through(lambda: self._inner.size(path))

    def list(self, prefix: str) -> list[str]:
        return self._through(lambda: self._inner.list(prefix))

    def delete(self, path: str) -> None:
        self._through(lambda: self._inner.delete(path))
