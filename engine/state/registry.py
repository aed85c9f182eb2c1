"""What a snapshot says about its tables: their ids, keys and layouts, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lakeward.engine.api.state import TableSpec
from lakeward.engine.core.errors import CheckpointError, CorruptionError
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.state.layout import Layouts, RowLayout, schema_from_text, schema_to_text

FORMAT_VERSION = 1


@dataclass(slots=True)
class StoredTable:
    """A table as it lies in a store.

    Args:
        id: Its number in the store.
        name: Its name in the operator.
        key: Its key columns.
        layouts: Every layout that rows may have.
    """

    id: int
    name: str
    key: pa.Schema
    layouts: list[RowLayout] = field(default_factory=list)

    def check_key(self, spec: TableSpec) -> None:
        """Keys cannot change.

        Raises:
            CheckpointError: The table was stored with another key; names the column and both types.
        """
        for number, (name, kind) in enumerate(spec.key):
            old = self.key.field(number).type if number < len(self.key) else None
            if old != kind:
                raise self._other_key(name, f"was stored as {old or 'nothing'} and is now {kind}")
        if len(self.key) > len(spec.key):
            lost = self.key.field(len(spec.key))
            raise self._other_key(lost.name, f"was stored as {lost.type} and is now gone")

    def _other_key(self, column: str, change: str) -> CheckpointError:
        return CheckpointError(
            f"state table '{self.name}': key column '{column}' {change}",
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
        }


class TableRegistry:
    """All tables of one store, by name.

    Args:
        max_parallelism: Number of key groups that the rows' keys were made with.
    """

    def __init__(self, max_parallelism: int) -> None:
        self.max_parallelism = max_parallelism
        self.tables: dict[str, StoredTable] = {}

    def register(self, name: str, key: pa.Schema) -> StoredTable:
        """The table of this name, made when missing."""
        if name not in self.tables:
            self.tables[name] = StoredTable(len(self.tables) + 1, name, key)
        return self.tables[name]

    def open(self, spec: TableSpec) -> tuple[StoredTable, Layouts]:
        """The table and its layouts, with one for the present columns.

        Raises:
            CheckpointError: Stored rows cannot be read as `spec` says.
        """
        table = self.register(spec.name, pa.schema([pa.field(name, kind) for name, kind in spec.key]))
        table.check_key(spec)
        layouts = Layouts(spec.name, spec.columns, table.layouts)
        table.layouts = layouts.all
        return table, layouts

    def to_json(self) -> JsonObject:
        """The description that goes into a checkpoint."""
        tables = {name: table.to_json() for name, table in self.tables.items()}
        return {"version": FORMAT_VERSION, "max_parallelism": self.max_parallelism, "tables": tables}

    @classmethod
    def from_json(cls, described: JsonObject) -> TableRegistry:
        """The inverse of `to_json`.

        Raises:
            CheckpointError: Written by a newer version.
            CorruptionError: Not such a description.
        """
        version = described.get("version")
        if version != FORMAT_VERSION:
            raise CheckpointError(
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
            stored = StoredTable(int(table["id"]), name, schema_from_text(table["key_schema"]), layouts)
            registry.tables[name] = stored
        return registry
