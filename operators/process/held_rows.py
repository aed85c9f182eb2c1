"""Any number of rows a key, for lists and maps: found by key, a batch of keys at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import ColumnSpec, RowIds, RowsEvolution, RowsSpec
from lakeward.operators.process.declared import Declared
from lakeward.operators.process.expiry import Expiry
from lakeward.operators.process.forms import KEY_PREFIX, ValueForm
from lakeward.operators.process.key_batch import KeyBatch, prefixed
from lakeward.operators.process.stored_values import Settle, canonical, settled
from lakeward.operators.ranking.keyed_rows import KeyedRows
from lakeward.operators.windows.columns import Rows, group_rows, to_numpy
from lakeward.operators.windows.timed import KeyTypes

_TOUCHED = "##touched_us"  # no key column begins so, and no field: see `prefixed` and `ValueForm`


@dataclass(frozen=True, slots=True)
class Found:
    """Rows of the keys of a batch.

    Args:
        keys: The number of each row's key, rising.
        ids: The rows' ids.
        due_us: When each row expires; None: never.
    """

    keys: Rows
    ids: RowIds
    due_us: Rows | None = None


class HeldRows:
    """The rows of one list or map state.

    Args:
        context: The operator's.
        declared: The state.
        keys: Name and type of the key columns.
        batch: The keys that are being handled.
    """

    def __init__(self, context: OperatorContext, declared: Declared, keys: KeyTypes, batch: KeyBatch) -> None:
        self._batch = batch
        self._keys = [name for name, _ in prefixed(keys)]
        self._forms = [("", declared.form)]
        if declared.key_form is not None:
            self._forms.insert(0, (KEY_PREFIX, declared.key_form))
        columns = [(prefix + field.name, field.type) for prefix, form in self._forms for field in form.schema]
        timed = [] if declared.ttl is None else [(_TOUCHED, pa.int64())]
        schema = pa.schema([*prefixed(keys), *columns, *timed])
        evolution = RowsEvolution(tuple(evolving(self._forms)), declared.old_tables)
        mutable = (_TOUCHED,) if timed else ()
        self._rows = KeyedRows(
            context, RowsSpec(declared.table, schema, tuple(self._keys), mutable, evolution=evolution)
        )
        self.expiry = None if declared.ttl is None else Expiry(declared.ttl, self._remove_expired)
        if self.expiry is not None:
            for _, rows in self._rows.scan():
                self.expiry.note([rows.column(name) for name in self._keys], to_numpy(rows.column(_TOUCHED)))

    @property
    def canonical_name(self) -> Callable[[Any], Any] | None:
        """What to make of a map's key before it is looked for; None: nothing."""
        return canonical(self._forms[0][1])

    @property
    def settle(self) -> Settle | None:
        """Makes of a value, or of a map's value, the one that it is when it has been read."""
        return settled(self._forms[-1][1])

    def __len__(self) -> int:
        return len(self._rows)

    def find(self) -> Found:
        """The rows of the batch's keys, also those that have expired and are not removed yet."""
        matches = self._rows.find(self._batch.arrays)
        if self.expiry is None:
            return Found(matches.rows, matches.ids)
        return Found(matches.rows, matches.ids, self.expiry.due_us(self._rows.get(_TOUCHED, matches.ids)))

    def values(self, ids: RowIds) -> Iterator[list[Any]]:
        """The values of rows, for a map also the keys before them."""
        for prefix, form in self._forms:
            batch = self._rows.take(ids, [prefix + name for name in form.schema.names])
            yield form.values(batch.columns)

    def ids_of(self, keys: Rows) -> RowIds:
        """The ids of all rows of some of the batch's keys."""
        chosen = pa.array(keys)
        return self._rows.find([array.take(chosen) for array in self._batch.arrays]).ids

    def remove(self, ids: RowIds) -> None:
        """Forget rows."""
        if len(ids):
            self._rows.remove(ids)

    def append(self, keys: Rows, values: Sequence[Sequence[Any]], touched_us: Sequence[int]) -> None:
        """Add rows.

        Args:
            keys: The number of each row's key.
            values: The values; for a map, the keys before them.
            touched_us: When each was written; not looked at without a TTL.

        Raises:
            UserCodeError: A value is of another type than was declared.
        """
        if not len(keys):
            return
        chosen = pa.array(keys)
        arrays = [array.take(chosen) for array in self._batch.arrays]
        for (_, form), column in zip(self._forms, values, strict=True):
            arrays += form.arrays(column)
        if self.expiry is not None:
            times = np.array(touched_us, np.int64)
            self._note(keys, times)
            arrays.append(pa.array(times))
        self._rows.append(pa.RecordBatch.from_arrays(arrays, schema=self._rows.schema))

    def touch(self, ids: RowIds, touched_us: Sequence[int]) -> None:
        """Rows have been read at some times, where that counts."""
        self._rows.set(_TOUCHED, ids, np.array(touched_us, np.int64))

    def _note(self, keys: Rows, times: Rows) -> None:
        """Each key once: when the first of its new rows expires."""
        assert self.expiry is not None, "only then times are kept"
        order = np.lexsort((times, keys))
        first = order[np.flatnonzero(np.diff(keys[order], prepend=-1))]
        chosen = pa.array(keys[first])
        self.expiry.note([array.take(chosen) for array in self._batch.arrays], times[first])

    def _remove_expired(self, arrays: Sequence[pa.Array], now_us: int) -> Rows:
        assert self.expiry is not None, "only then anything expires"
        _, firsts = group_rows(arrays)  # a key may have been noted several times
        chosen = pa.array(firsts)
        found = self._rows.find([array.take(chosen) for array in arrays])
        due_us = self.expiry.due_us(self._rows.get(_TOUCHED, found.ids))
        left = due_us > now_us
        next_us = np.full(len(firsts), np.iinfo(np.int64).max)
        np.minimum.at(next_us, found.rows[left], due_us[left])
        next_us[next_us == np.iinfo(np.int64).max] = -1
        self.remove(found.ids[~left])
        result = np.full(len(arrays[0]), -1, np.int64)
        result[firsts] = next_us
        return result


def evolving(forms: Sequence[tuple[str, ValueForm]]) -> Iterator[ColumnSpec]:
    """What the columns of some forms, named with a prefix, may have been called, and what stands for them."""
    for prefix, form in forms:
        for one in form.columns:
            old = tuple(prefix + name for name in one.renamed_from)
            yield ColumnSpec(prefix + one.name, one.type, one.default, old)
