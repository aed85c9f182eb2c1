"""State that every subtask has a copy of: how `BroadcastState` is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import RowsEvolution, RowsSpec
from lakeward.engine.core.errors import UserCodeError
from lakeward.engine.core.hashing import hash_columns
from lakeward.engine.core.keygroups import key_group_range, key_groups
from lakeward.operators.process.declared import Declared
from lakeward.operators.process.forms import KEY_PREFIX
from lakeward.operators.process.held_rows import evolving
from lakeward.operators.process.renames import in_opening_order
from lakeward.operators.process.states import BroadcastState, State
from lakeward.operators.process.stored_values import canonical, settled

K = TypeVar("K")
V = TypeVar("V")

_NOTHING = object()


class BroadcastStates:
    """The broadcast states of one subtask.

    Args:
        context: The operator's; tables are opened here.
        states: What was declared, by name.

    Attributes:
        bound: What the function uses, by name.
        writable: Whether a row of the broadcast stream is being handled.
    """

    def __init__(self, context: OperatorContext, states: Mapping[str, Declared]) -> None:
        self.writable = False
        self._cells = {one.name: _Cells(context, one) for one in in_opening_order(states)}
        self.bound: dict[str, State] = {
            name: BoundBroadcast(states[name].state, cells, self) for name, cells in self._cells.items()
        }

    def discard(self) -> None:
        """Take back what the batch has changed."""
        for cells in self._cells.values():
            cells.discard()

    def finish(self) -> None:
        """Write what the batch has changed."""
        for cells in self._cells.values():
            cells.finish()


class _Cells:
    """One broadcast state: all of it in memory, and in the table the entries of our key groups.

    Every subtask has the same entries, so each saves those whose keys belong to its key groups: together they are saved
    once, and a restore at another parallelism reads them all.
    """

    def __init__(self, context: OperatorContext, declared: Declared) -> None:
        assert declared.key_form is not None, "a broadcast state is a map"
        self._keys, self._values = declared.key_form, declared.form
        self._max_parallelism = context.max_parallelism
        self._ours = key_group_range(context.subtask, context.parallelism, context.max_parallelism)
        self._names = tuple(KEY_PREFIX + name for name in self._keys.schema.names)
        keys = [pa.field(name, field.type) for name, field in zip(self._names, self._keys.schema, strict=True)]
        forms = [(KEY_PREFIX, self._keys), ("", self._values)]
        evolution = RowsEvolution(tuple(evolving(forms)), declared.old_tables)
        spec = RowsSpec(declared.table, pa.schema([*keys, *self._values.schema]), self._names, evolution=evolution)
        self._rows = context.rows(spec)
        self.name = canonical(self._keys) or _same
        self.settle = settled(self._values) or _same
        self.held: dict[Any, Any] = {}
        self._changed: dict[Any, Any] = {}
        for batch in context.restored_rows(spec):
            columns = batch.columns
            names = map(self.name, self._keys.values(columns[: len(self._names)]))
            self.held.update(zip(names, self._values.values(columns[len(self._names) :]), strict=True))

    def change(self, name: Any) -> None:
        """The entry of this name is about to change, or to go."""
        self._changed.setdefault(name, self.held.get(name, _NOTHING))

    def discard(self) -> None:
        """Take changes back. Entries that are put back come last, as if set anew."""
        for name, old in self._changed.items():
            if old is _NOTHING:
                self.held.pop(name, None)
            else:
                self.held[name] = old
        self._changed = {}

    def finish(self) -> None:
        """Write what has changed, as far as it is ours to save."""
        changed, self._changed = list(self._changed), {}
        if not changed:
            return
        arrays = self._keys.arrays(changed)
        if any(array.null_count for array in arrays):
            raise UserCodeError("a BroadcastState is given None as a key", hint="use another value")
        groups = key_groups(hash_columns(arrays), self._max_parallelism)
        ours = np.flatnonzero((groups >= self._ours.start) & (groups < self._ours.stop))
        chosen = pa.array(ours)
        mine = [array.take(chosen) for array in arrays]
        gone = self._rows.find(mine).ids
        if len(gone):
            self._rows.remove(gone)
        left = [number for number in ours.tolist() if changed[number] in self.held]
        if left:
            chosen = pa.array(left)
            values = self._values.arrays([self.held[changed[number]] for number in left])
            columns = [*(array.take(chosen) for array in arrays), *values]
            self._rows.append(pa.RecordBatch.from_arrays(columns, schema=self._rows.spec.schema))


def _same(name: Any) -> Any:
    return name


class BoundBroadcast(BroadcastState[K, V], Generic[K, V]):
    """A `BroadcastState` in a running job."""

    def __init__(self, declared: Any, cells: _Cells, states: BroadcastStates) -> None:
        super().__init__(declared.key, declared.value)
        self._cells = cells
        self._states = states

    def _check(self) -> dict[Any, Any]:
        if not self._states.writable:
            raise UserCodeError(
                "a BroadcastState is changed by a row that not every subtask gets",
                hint="change it in process_broadcast only; everywhere else it is read-only",
            )
        return self._cells.held

    def __getitem__(self, key: K) -> V:
        return self._cells.held[self._cells.name(key)]  # type: ignore[no-any-return]

    def __setitem__(self, key: K, value: V) -> None:
        held, name = self._check(), self._cells.name(key)
        self._cells.change(name)
        held[name] = self._cells.settle(value)

    def __delitem__(self, key: K) -> None:
        held, name = self._check(), self._cells.name(key)
        if name not in held:
            raise KeyError(key)
        self._cells.change(name)
        del held[name]

    def __iter__(self) -> Iterator[K]:
        return iter(list(self._cells.held))

    def __len__(self) -> int:
        return len(self._cells.held)

    def clear(self) -> None:
        """Forget everything."""
        held = self._check()
        for key in list(held):
            self._cells.change(key)
        held.clear()
