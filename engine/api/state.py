"""Keyed state as operators see it: columnar slot tables, one pane a namespace.

A table maps keys to slots and holds one column a field; a batch of keys becomes an array of slot numbers, and the
operator updates the columns by scatter (`np.add.at(pane.column("count"), slots, 1)`). Behind the table lies a key-value
store (RocksDB): dirty slots are written at checkpoints, cold ones move there when memory runs short, and come back when
their keys do. Operators notice none of this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

SlotArray = npt.NDArray[np.int64]
"""Slot numbers, one a row; valid until the pane's next `slots`, `insert` or `remove` call."""


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """One field of a state table.

    Args:
        name: Unique in the table.
        type: Integers, floats, booleans, timestamps and dates are stored as numpy columns of the same width;
            strings, bytes and everything else as Python objects (slower), None being null.
        default: The value of a new slot, and of one that was stored without the field.
        renamed_from: The field's names in older checkpoints, of which each has one.
        addable: Whether its default may stand for what was stored without it.
    """

    name: str
    type: pa.DataType
    default: Any = None
    renamed_from: tuple[str, ...] = ()
    addable: bool = True


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A state table: its name in checkpoints, its key's types and its fields.

    Args:
        name: Unique in the operator; part of the stored state.
        key: Name and type of each key column: integers, booleans, dates, timestamps, floats, strings, bytes.
        columns: The fields.
        routing: How many of the first key columns decide the key group, and so the subtask; None: all of them. A table
            keyed by (auction, bidder) of a stream keyed by auction has 1.
        renamed_from: The table's names in older checkpoints, of which each has one.
    """

    name: str
    key: tuple[tuple[str, pa.DataType], ...]
    columns: tuple[ColumnSpec, ...] = field(default=())
    routing: int | None = None
    renamed_from: tuple[str, ...] = ()

    @property
    def schema(self) -> pa.Schema:
        """Key columns, then fields: the schema of `Pane.scan`."""
        fields = [pa.field(name, kind) for name, kind in self.key]
        return pa.schema(fields + [pa.field(c.name, c.type) for c in self.columns])


class Keys(Protocol):
    """A batch's keys, hashed and encoded once, for use with any table of the same key types."""

    def __len__(self) -> int: ...

    def take(self, rows: npt.NDArray[np.int64]) -> Keys:
        """The keys of some rows."""
        ...


class Pane(ABC):
    """The part of a table that belongs to one namespace (for windows: one pane; otherwise namespace 0)."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of keys, in memory or not."""

    @abstractmethod
    def slots(self, keys: Keys) -> SlotArray:
        """The slot of each key, made with the defaults where new; marks them as changed."""

    @abstractmethod
    def insert(self, keys: Keys) -> tuple[SlotArray, npt.NDArray[np.bool_]]:
        """As `slots`, and for each row whether it is the first row ever of its key (duplicates in the batch: False)."""

    @abstractmethod
    def find(self, keys: Keys) -> SlotArray:
        """The slot of each key, -1 where there is none; changes nothing."""

    @abstractmethod
    def column(self, name: str) -> npt.NDArray[Any]:
        """The writable column of a field, to be indexed by slot numbers; fetch it anew after `slots` or `insert`."""

    @abstractmethod
    def mark_changed(self, slots: SlotArray) -> None:
        """Slots that `find` gave are changed by the caller: cheaper than looking for them again by `slots`."""

    @abstractmethod
    def remove(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Forget these keys; unknown ones are ignored. Returns which were known: of equal keys, one is."""

    @abstractmethod
    def scan(self) -> Iterator[pa.RecordBatch]:
        """All rows, in memory or not, in no order, as batches of `TableSpec.schema`; leave the pane alone meanwhile."""


class StateTable(ABC):
    """A keyed state table of one operator subtask, holding the key groups that the subtask owns."""

    @property
    @abstractmethod
    def spec(self) -> TableSpec:
        """Its description."""

    @abstractmethod
    def keys(self, arrays: Sequence[pa.Array], distinct: bool = False) -> Keys:
        """Hash and encode a batch's key columns.

        Args:
            arrays: The columns, in the order of `TableSpec.key`.
            distinct: Whether it is known that all keys are different: new ones are then not compared with each other.
        """

    @abstractmethod
    def pane(self, namespace: int = 0) -> Pane:
        """The pane of a namespace (any int64), made when missing."""

    @abstractmethod
    def namespaces(self) -> list[int]:
        """Namespaces that hold at least one key, sorted."""

    @abstractmethod
    def drop(self, namespace: int) -> None:
        """Forget a pane as a whole; cheap."""


@dataclass(frozen=True, slots=True)
class StateUsage:
    """How much a table holds.

    Args:
        entries: Number of keys, or of rows.
        size_bytes: What they would take in memory, estimated where they are not.
    """

    entries: int
    size_bytes: int


RowIds = npt.NDArray[np.int64]
"""Ids of rows in a row table; they hold while the process lives, not over a restore."""


@dataclass(frozen=True, slots=True)
class RowsSpec:
    """A table of whole rows: its name in checkpoints, the rows' schema and the columns they are found by.

    Args:
        name: Unique in the operator, among slot tables too; part of the stored state.
        schema: Of the rows, as the operator appends them.
        key: The columns that rows are found by. Not nested.
        mutable: Columns of the schema that may be changed in place: fixed width, never null.
        routing: How many of the first key columns decide the key group, and so the subtask; None: all of them.
        unique: Whether no two rows of a namespace have the same key. Their index is smaller and faster.
        evolution: How rows of an older checkpoint with other columns become these; None: they must have these.
    """

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    mutable: tuple[str, ...] = ()
    routing: int | None = None
    unique: bool = False
    evolution: RowsEvolution | None = None


@dataclass(frozen=True, slots=True)
class RowsEvolution:
    """What becomes of stored rows whose columns are not those of the table any more.

    Columns that are not wanted are dropped, and those of a narrower type widened.

    Args:
        columns: Those with old names, or a value for rows that were stored without them (else null).
        renamed_from: The table's names in older checkpoints, of which each has one.
    """

    columns: tuple[ColumnSpec, ...] = ()
    renamed_from: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Matches:
    """Pairs of a wanted key and a row that has it.

    Args:
        rows: Positions in the wanted keys, rising.
        ids: The rows' ids; those of one key in the order in which they were appended.
    """

    rows: npt.NDArray[np.int64]
    ids: RowIds


class RowTable(ABC):
    """Whole rows by key, any number a key: what joins and rankings remember. Cut into namespaces as panes are.

    Rows stay in Arrow; finding the rows of a batch of keys is one vectorised probe. Null keys never match.
    """

    @property
    @abstractmethod
    def spec(self) -> RowsSpec:
        """Its description."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows, in memory or not."""

    @abstractmethod
    def append(self, batch: pa.RecordBatch, namespace: int = 0) -> RowIds:
        """Add rows; returns their ids."""

    @abstractmethod
    def put(self, batch: pa.RecordBatch, ids: RowIds, namespace: int = 0) -> RowIds:
        """Give rows the place of others of the same key, whose ids they get; where the id is -1, add them.

        Cheaper than `remove` and `append`, since nothing has to be found or indexed anew for a row that is replaced. It
        is meant for tables of one row a key: among several rows of a key the new one's place is open.

        Args:
            batch: The rows.
            ids: Which row of the namespace each one replaces, each id once; its key must be the same.
            namespace: Where they belong.

        Returns:
            The rows' ids.
        """

    @abstractmethod
    def find_or_append(self, batch: pa.RecordBatch, namespace: int = 0) -> tuple[RowIds, RowIds]:
        """Find the row of each key, and add those rows whose key has none; only in tables whose keys are unique.

        Cheaper than `find` and then `append`, since keys are hashed and looked for once.

        Args:
            batch: Rows of different keys, none of them null. Of those whose key has a row, nothing but the key is used.
            namespace: Where they belong.

        Returns:
            The id of each key's row, and the positions in the batch, rising, of the rows that were added.
        """

    @abstractmethod
    def find(self, keys: Sequence[pa.Array], namespaces: Sequence[int] | None = None) -> Matches:
        """The rows that have these keys, in all namespaces or in some."""

    @abstractmethod
    def take(self, ids: RowIds, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """Rows by id, in the order of `ids`, all columns or some; an id may come many times."""

    @abstractmethod
    def reading_order(self, ids: RowIds) -> npt.NDArray[np.int64]:
        """The positions of `ids` in the order in which the rows lie in memory, where `take` copies them fastest."""

    @abstractmethod
    def get(self, name: str, ids: RowIds) -> npt.NDArray[Any]:
        """The values of a mutable column."""

    @abstractmethod
    def set(self, name: str, ids: RowIds, values: npt.NDArray[Any]) -> None:
        """Change a mutable column; of an id that comes twice the last value stays."""

    @abstractmethod
    def remove(self, ids: RowIds) -> None:
        """Forget these rows; each id once."""

    @abstractmethod
    def namespaces(self) -> list[int]:
        """Namespaces that hold rows, sorted."""

    @abstractmethod
    def drop(self, namespace: int) -> None:
        """Forget a namespace as a whole; cheap."""

    @abstractmethod
    def scan(self, namespace: int | None = None) -> Iterator[tuple[RowIds, pa.RecordBatch]]:
        """All rows of a namespace or of all, in the order of append; leave the table alone meanwhile."""
