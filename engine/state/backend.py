"""The keyed state of one operator subtask: its tables, their snapshots, and how they come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from lakeward.engine.api.state import RowsSpec, StateUsage, TableSpec
from lakeward.engine.core.disk import make_state_folder
from lakeward.engine.core.errors import CheckpointError, GraphError, InternalError, StateMigrationError
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.snapshots import LocalFile
from lakeward.engine.state.budget import MemoryBudget
from lakeward.engine.state.deferred import DeferredSnapshot, DeferredStore
from lakeward.engine.state.evolution import evolve_rows
from lakeward.engine.state.heap import keep_freed_memory
from lakeward.engine.state.keys import KeyCodec
from lakeward.engine.state.kv import StoreFactory
from lakeward.engine.state.pane import PaneContext
from lakeward.engine.state.registry import TableRegistry
from lakeward.engine.state.rescale import RestoreSource, copy_rows, link_files
from lakeward.engine.state.row_blobs import RowBlobs
from lakeward.engine.state.row_spec import RowForm
from lakeward.engine.state.row_store import RowStore
from lakeward.engine.state.row_table import ChunkedRowTable
from lakeward.engine.state.table import SlotTable

__all__ = ["RestoreSource", "StateBackend", "StateFiles"]


@dataclass(frozen=True, slots=True)
class StateFiles:
    """A snapshot of a backend.

    Args:
        tables: Describes the tables; needed to read the files.
        files: The key-value store's files. They never change, and live until the caller deletes them.
    """

    tables: JsonObject
    files: list[LocalFile]


class FrozenState:
    """The state of a subtask as it was when a checkpoint was taken.

    Args:
        tables: What its tables are.
        snapshot: Its content.
    """

    def __init__(self, tables: JsonObject, snapshot: DeferredSnapshot) -> None:
        self.tables = tables
        self._snapshot = snapshot

    def finish(self) -> StateFiles:
        """Write it; by any thread, while the backend goes on.

        Raises:
            CheckpointError: Files cannot be written.
        """
        return StateFiles(self.tables, self._snapshot.finish())

    def give_up(self) -> None:
        """Nobody wants its files any more: if they are not there yet, they are never made."""
        self._snapshot.give_up()


class StateBackend:
    """All keyed tables of one operator subtask.

    >>> import tempfile
    >>> import numpy as np, pyarrow as pa
    >>> from lakeward.engine.api.state import ColumnSpec
    >>> from lakeward.engine.state.memory import MemoryStoreFactory
    >>> folder = tempfile.TemporaryDirectory()
    >>> work = folder.name
    >>> backend = StateBackend(MemoryStoreFactory(), work + "/a", range(128), 128, memory_bytes=1 << 20)
    >>> spec = TableSpec("counts", (("shop", pa.string()),), (ColumnSpec("n", pa.int64()),))
    >>> table = backend.table(spec)
    >>> pane = table.pane()
    >>> slots = pane.slots(table.keys([pa.array(["a", "b", "a"])]))
    >>> np.add.at(pane.column("n"), slots, 1)
    >>> files = backend.snapshot(work + "/snapshot")
    >>> again = StateBackend(MemoryStoreFactory(), work + "/b", range(128), 128, memory_bytes=1 << 20)
    >>> again.restore([RestoreSource(files.tables, work + "/snapshot", 0, 128)])
    >>> next(again.table(spec).pane().scan()).sort_by("shop").to_pydict()
    {'shop': ['a', 'b'], 'n': [2, 1]}
    >>> folder.cleanup()

    Args:
        store_factory: Makes the key-value store.
        directory: The store's own directory: missing or empty.
        key_groups: The key groups that the subtask owns.
        max_parallelism: Number of key groups of the job.
        memory_bytes: Memory for rows, over all tables; colder ones go to the store.
    """

    def __init__(
        self, store_factory: StoreFactory, directory: str, key_groups: range, max_parallelism: int, memory_bytes: int
    ) -> None:
        keep_freed_memory()
        self._factory = store_factory
        self._directory = directory
        self._key_groups = key_groups
        self._registry = TableRegistry(max_parallelism)
        self._budget = MemoryBudget(memory_bytes)
        self._store: DeferredStore | None = None
        self._tables: dict[str, SlotTable | ChunkedRowTable] = {}

    @property
    def used_bytes(self) -> int:
        """Memory that the tables use now."""
        return self._budget.used_bytes

    def restore(self, sources: Sequence[RestoreSource]) -> None:
        """Take over the rows of our key groups from a checkpoint; before the first `table`.

        One source with exactly our key groups is opened as it is; otherwise rows are copied out of every source that
        overlaps (rescaling).

        Raises:
            CheckpointError: The sources do not hold all our key groups.
            StateMigrationError: They were made with another `max_parallelism`.
            CorruptionError: Files are damaged or missing.
        """
        if self._store is not None:
            raise InternalError("state is restored after a table was opened")
        ours = self._key_groups
        sources = [s for s in sources if len(s.overlap(ours))]
        self._check(sources)
        if len(sources) == 1 and (sources[0].key_group_start, sources[0].key_group_end) == (ours.start, ours.stop):
            link_files(sources[0].directory, self._directory)
            self._registry = TableRegistry.from_json(sources[0].tables)
            self._open()
        else:
            copy_rows(self._open(), self._registry, sources, ours, self._factory)
        self._registry.note_restored()

    def table(self, spec: TableSpec) -> SlotTable:
        """Open a table, with the rows it had in the restored checkpoint.

        Raises:
            StateMigrationError: The stored rows cannot be read as `spec` says.
            SchemaError: A column cannot be a key, or a default is not of its column's type.
            TypeError: State cannot hold a column's type.
        """
        self._check_new(spec.name)
        codec = KeyCodec(spec.key, spec.routing)
        stored, layouts = self._registry.open(spec)
        rows = RowStore(self._open(), stored.id, codec, self._registry.max_parallelism)
        table = SlotTable(PaneContext(spec, codec, rows, layouts, self._budget))
        self._tables[spec.name] = table
        return table

    def rows(self, spec: RowsSpec) -> ChunkedRowTable:
        """Open a row table, with the rows it had in the restored checkpoint.

        Raises:
            StateMigrationError: It was stored with other columns or another key.
            CorruptionError: Its stored rows are damaged.
            SchemaError: A column cannot be a key, or cannot be mutable.
        """
        self._check_new(spec.name)
        form = RowForm(spec)
        stored, old = self._registry.open_rows(spec)
        blobs = RowBlobs(self._open(), stored.id, spec.name)
        if old is not None:
            evolve_rows(blobs, old, spec)
        table = ChunkedRowTable(form, blobs, self._budget)
        self._tables[spec.name] = table
        return table

    def freeze(self, target_dir: str) -> FrozenState:
        """Take a snapshot: copies of what has changed, which is quick; `FrozenState.finish` writes it.

        Args:
            target_dir: A directory that does not exist yet, best on the file system of ours.

        Returns:
            The snapshot; later changes do not touch it.
        """
        pieces = [table.freeze() for table in self._tables.values()]
        snapshot = self._open().defer(chain.from_iterable(pieces), target_dir)
        for table in self._tables.values():
            if isinstance(table, SlotTable):
                table.shrink()
        return FrozenState(self._registry.to_json(), snapshot)

    def snapshot(self, target_dir: str) -> StateFiles:
        """`freeze`, and finish at once.

        Raises:
            CheckpointError: Files cannot be written.
        """
        return self.freeze(target_dir).finish()

    def usage(self) -> dict[str, StateUsage]:
        """How much each table holds, in memory or not."""
        return {name: table.usage() for name, table in self._tables.items()}

    def close(self) -> None:
        """Release memory and the store; what was not snapshotted is gone."""
        if self._store is not None:
            self._store.close()
        self._tables.clear()

    def _check_new(self, name: str) -> None:
        if name in self._tables:
            raise GraphError(f"state table '{name}' is opened twice", hint="open a table once a name, in `open`")

    def _open(self) -> DeferredStore:
        if self._store is None:
            make_state_folder(self._directory)
            self._store = DeferredStore(self._factory.open(self._directory))
        return self._store

    def _check(self, sources: Sequence[RestoreSource]) -> None:
        held = {group for source in sources for group in source.overlap(self._key_groups)}
        missing = sorted(set(self._key_groups) - held)
        if sources and missing:
            raise CheckpointError(f"the checkpoint has no state of key groups {missing[0]} to {missing[-1]}")
        for source in sources:
            made_with = source.tables.get("max_parallelism")
            if made_with != self._registry.max_parallelism:
                raise StateMigrationError(
                    f"the state has {made_with} key groups, the job {self._registry.max_parallelism}",
                    hint="max_parallelism is fixed for the life of a job's state: set it to what it was",
                )
