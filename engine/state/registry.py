"""What a snapshot says about its tables: their ids, keys and layouts, as JSON."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from lakeward.engine.api.state import RowsSpec, TableSpec
from lakeward.engine.core.errors import CorruptionError, StateMigrationError
from lakeward.engine.core.json_types import Json, JsonObject
from lakeward.engine.state.evolution import check_evolution
from lakeward.engine.state.layout import Layouts, RowLayout, renamed_layouts, schema_from_text, schema_to_text
from lakeward.engine.state.renames import stored_name

FORMAT_VERSION = 1


@dataclass(slots=True)
class StoredTable:
    """A table as it lies in a store.

    Args:
        id: Its number in the store.
        name: Its name in the operator.
        key: Its key columns.
        layouts: Every layout that rows may have.
        routing: How many of the first key columns decide the key group; None: all.
    """

    id: int
    name: str
    key: pa.Schema
    layouts: list[RowLayout] = field(default_factory=list)
    routing: int | None = None

    def check_key(self, spec: TableSpec) -> None:
        """Keys cannot change.

        Raises:
            StateMigrationError: The table was stored with another key; names the column and both types.
        """
        for number, (name, kind) in enumerate(spec.key):
            old = self.key.field(number).type if number < len(self.key) else None
            if old != kind:
                raise self._other_key(name, f"was stored as {old or 'nothing'} and is now {kind}")
        if len(self.key) > len(spec.key):
            lost = self.key.field(len(spec.key))
            raise self._other_key(lost.name, f"was stored as {lost.type} and is now gone")
        if self.routing != routing_of(spec):
            was, now = (len(spec.key) if n is None else n for n in (self.routing, routing_of(spec)))
            raise StateMigrationError(
                f"state table '{self.name}': the first {was} key columns decided the key group, now the first {now} do",
                hint="what state is spread by cannot change; give the operator another uid, or start without state",
            )

    def _other_key(self, column: str, change: str) -> StateMigrationError:
        return StateMigrationError(
            f"state table '{self.name}': key column '{_user_name(column)}' {change}",
            hint="the key of stored state cannot change; give the operator another uid, or start without state",
        )

    def layout_like(self, schema: pa.Schema) -> RowLayout:
        """The layout of exactly this schema, added when missing."""
        for layout in self.layouts:
            if layout.schema.equals(schema):
                return layout
        self.layouts.append(RowLayout(max((x.version for x in self.layouts), default=0) + 1, schema))
        return self.layouts[-1]

    def to_json(self) -> JsonObject:
        """Its description: readable, and exact in `key_schema` and each layout's `schema`."""
        return {
            "id": self.id,
            "key": [{"name": f.name, "type": str(f.type)} for f in self.key],
            "key_schema": schema_to_text(self.key),
            "layouts": {str(layout.version): layout.to_json() for layout in self.layouts},
            **_routing_json(self.routing),
        }


def _user_name(column: str) -> str:
    """A column as the user knows it: keys have a sign before their names in state, so that no field has the same."""
    return column.removeprefix("#")


def _routing_json(routing: int | None) -> JsonObject:
    return {} if routing is None else {"routing": routing}


def routing_of(spec: TableSpec | RowsSpec) -> int | None:
    """How many of the first key columns decide the key group; None: all, also if they are counted."""
    return None if spec.routing == len(spec.key) else spec.routing


@dataclass(frozen=True, slots=True)
class StoredRows:
    """A row table as it lies in a store.

    Args:
        id: Its number in the store.
        spec: Its description; the name is the table's in the operator.
    """

    id: int
    spec: RowsSpec

    def check(self, spec: RowsSpec) -> None:
        """Rows are read as they were written, perhaps without some of their columns.

        Raises:
            StateMigrationError: The table was stored without a column or with another key; names what changed.
        """
        stored = {field.name: field for field in self.spec.schema}
        for new in spec.schema:
            old = stored.get(new.name)
            if old is None:
                raise self._changed(f"column '{_user_name(new.name)}' of type {new.type} is new")
            if old.type != new.type:
                raise self._changed(f"column '{_user_name(new.name)}' was stored as {old.type} and is now {new.type}")
        for what in ("key", "mutable"):
            was, now = getattr(self.spec, what), getattr(spec, what)
            if was != now:
                before, after = (list(map(_user_name, names)) for names in (was, now))
                raise self._changed(f"the {what} columns were {before} and are now {after}")
        if routing_of(self.spec) != routing_of(spec):
            raise self._changed("other columns of the key decide where its rows go")

    def _changed(self, change: str) -> StateMigrationError:
        return StateMigrationError(
            f"state table '{self.spec.name}': {change}",
            hint="stored rows have the columns that were read when they came; give the operator another uid, or start "
            "without state",
        )

    def to_json(self) -> JsonObject:
        """Its description: readable, and exact in `schema`."""
        return {
            "id": self.id,
            "columns": [{"name": f.name, "type": str(f.type)} for f in self.spec.schema],
            "schema": schema_to_text(self.spec.schema),
            "key": list(self.spec.key),
            "mutable": list(self.spec.mutable),
            **_routing_json(routing_of(self.spec)),
        }

    @classmethod
    def from_json(cls, name: str, described: Mapping[str, Any]) -> StoredRows:
        """The inverse of `to_json`."""
        key, mutable = (tuple(str(column) for column in described[what]) for what in ("key", "mutable"))
        schema, routing = schema_from_text(described["schema"]), described.get("routing")
        return cls(int(described["id"]), RowsSpec(name, schema, key, mutable, routing))


class TableRegistry:
    """All tables of one store, by name.

    Args:
        max_parallelism: Number of key groups that the rows' keys were made with.
    """

    def __init__(self, max_parallelism: int) -> None:
        self.max_parallelism = max_parallelism
        self.tables: dict[str, StoredTable] = {}
        self.row_tables: dict[str, StoredRows] = {}
        self._restored: list[str] = []

    def register(self, name: str, key: pa.Schema, routing: int | None = None) -> StoredTable:
        """The table of this name, made when missing."""
        if name not in self.tables:
            self._check_free(name, self.row_tables)
            self.tables[name] = StoredTable(self._next_id(), name, key, routing=routing)
        return self.tables[name]

    def register_rows(self, spec: RowsSpec) -> StoredRows:
        """The row table of this name, made when missing.

        Raises:
            StateMigrationError: It was stored without one of the columns, or with another key.
        """
        if spec.name not in self.row_tables:
            self._check_free(spec.name, self.tables)
            self.row_tables[spec.name] = StoredRows(self._next_id(), spec)
        stored = self.row_tables[spec.name]
        stored.check(spec)
        self.row_tables[spec.name] = replace(stored, spec=spec)  # rows to come have no more columns than these
        return self.row_tables[spec.name]

    def open_rows(self, spec: RowsSpec) -> tuple[StoredRows, RowsSpec | None]:
        """The row table of this name, and what its stored rows are if they have to be made into others first.

        Raises:
            StateMigrationError: Stored rows cannot be read as `spec` says.
        """
        evolution = spec.evolution
        if evolution is None:
            return self.register_rows(spec), None
        self._rename(self.row_tables, spec.name, evolution.renamed_from)
        stored = self.row_tables.get(spec.name)
        if stored is None or stored.spec.schema.equals(spec.schema):
            return self.register_rows(spec), None
        old = stored.spec
        check_evolution(old, spec)
        self.row_tables[spec.name] = StoredRows(stored.id, spec)
        return self.row_tables[spec.name], old

    def note_restored(self) -> None:
        """All tables so far are those of a checkpoint."""
        self._restored = sorted([*self.tables, *self.row_tables])

    def _rename(self, tables: dict[str, Any], name: str, old: Sequence[str]) -> None:
        """A table gets its new name; once it has it, old ones are not looked for any more.

        Raises:
            StateMigrationError: There is a checkpoint, and it has a table of none of the names, or of several old ones.
        """
        stored = stored_name("state table", name, old, tables)
        if stored is not None and stored != name:
            tables[name] = tables.pop(stored)
        elif stored is None and old and self._restored:
            shown, none = " or ".join(map(repr, old)), "neither" if len(old) == 1 else "none of these"
            raise StateMigrationError(
                f"state table '{name}' is said to have been {shown}, but the checkpoint has {none}",
                hint=f"it has {', '.join(self._restored)}; leave renamed_from out to begin without",
            )

    def _next_id(self) -> int:
        return len(self.tables) + len(self.row_tables) + 1

    def _check_free(self, name: str, others: Collection[str]) -> None:
        if name in others:
            raise StateMigrationError(
                f"state table '{name}' was stored as a table of another kind",
                hint="slot tables and row tables share their names; give the operator another uid",
            )

    def open(self, spec: TableSpec) -> tuple[StoredTable, Layouts]:
        """The table and its layouts, with one for the present columns.

        Raises:
            StateMigrationError: Stored rows cannot be read as `spec` says.
        """
        self._rename(self.tables, spec.name, spec.renamed_from)
        key = pa.schema([pa.field(name, kind) for name, kind in spec.key])
        table = self.register(spec.name, key, routing_of(spec))
        table.check_key(spec)
        table.name = spec.name
        table.layouts = renamed_layouts(spec.name, table.layouts, spec.columns)
        layouts = Layouts(spec.name, spec.columns, table.layouts)
        table.layouts = layouts.all
        return table, layouts

    def to_json(self) -> JsonObject:
        """The description that goes into a checkpoint."""
        tables = {name: table.to_json() for name, table in self.tables.items()}
        described: dict[str, Json] = {
            "version": FORMAT_VERSION,
            "max_parallelism": self.max_parallelism,
            "tables": tables,
        }
        if self.row_tables:
            described["row_tables"] = {name: table.to_json() for name, table in self.row_tables.items()}
        return described

    @classmethod
    def from_json(cls, described: JsonObject) -> TableRegistry:
        """The inverse of `to_json`.

        Raises:
            StateMigrationError: Written by a newer version.
            CorruptionError: Not such a description.
        """
        version = described.get("version")
        if version != FORMAT_VERSION:
            raise StateMigrationError(
                f"the state has format version {version}, this Lakeward reads {FORMAT_VERSION}",
                hint="restore it with the Lakeward version that wrote it, or a newer one",
            )
        try:
            return cls._parse(described)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptionError(f"the description of stored tables cannot be read: {error!r}") from error

    @classmethod
    def _parse(cls, described: Mapping[str, Any]) -> TableRegistry:
        registry = cls(int(described["max_parallelism"]))
        for name, table in described["tables"].items():
            layouts = [RowLayout(int(v), schema_from_text(x["schema"])) for v, x in table["layouts"].items()]
            key, routing = schema_from_text(table["key_schema"]), table.get("routing")
            registry.tables[name] = StoredTable(int(table["id"]), name, key, layouts, routing)
        for name, table in described.get("row_tables", {}).items():
            registry.row_tables[name] = StoredRows.from_json(name, table)
        return registry
