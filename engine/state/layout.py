"""How a row's fields become bytes: a version, a packed record of the fixed-width fields, then the others.

Each change of a table's columns makes a new layout; rows of older layouts stay as they are in the store and are
converted when they are read. All layouts are kept with the table's description, so no stored byte is without a schema.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.engine.api.state import ColumnSpec
from lakeward.engine.core.errors import CorruptionError, StateMigrationError
from lakeward.engine.core.hashing import is_binary_like
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.state.renames import stored_names
from lakeward.engine.state.values import AnyArray, as_objects, default_value, fixed_dtype, object_codec, repeat_default

_LENGTH = struct.Struct("<I")


class RowLayout:
    """One version of a table's columns.

    Args:
        version: Its number in the table, from 1.
        schema: The columns.

    Raises:
        TypeError: State cannot hold a column's type.
    """

    def __init__(self, version: int, schema: pa.Schema) -> None:
        self.version = version
        self.schema = schema
        self._fixed = [(field.name, dtype) for field in schema if (dtype := fixed_dtype(field.type)) is not None]
        self._objects = [(f.name, *object_codec(f.type)) for f in schema if fixed_dtype(f.type) is None]
        little = [(f"c{i}", dtype.newbyteorder("<")) for i, (_, dtype) in enumerate(self._fixed)]
        self._record = np.dtype([("version", "<u2"), *little])

    def pack(
        self, columns: Mapping[str, AnyArray], slots: AnyArray, order: AnyArray, encoded: bool = False
    ) -> list[bytes]:
        """The rows of `slots` as bytes, in another order: rows are brought into it whole, not column by column.

        Args:
            columns: The columns.
            slots: Their places.
            order: In which they are wanted.
            encoded: Whether values that are neither fixed in width nor text are bytes already.
        """
        records = np.empty(len(slots), dtype=self._record)
        records["version"] = self.version
        for number, (name, _) in enumerate(self._fixed):
            records[f"c{number}"] = columns[name].take(slots)
        heads: list[bytes] = records.view(f"V{self._record.itemsize}").take(order).tolist()
        if not self._objects:
            return heads
        parts = []
        for name, encode, _ in self._objects:
            done = encoded and not is_binary_like(self.schema.field(name).type)
            values = columns[name].take(slots[order]).tolist()
            parts.append(_pack_objects(values, bytes if done else encode))
        return [b"".join(row) for row in zip(heads, *parts, strict=True)]

    def frozen(self, columns: Mapping[str, AnyArray], slots: AnyArray) -> FrozenRows:
        """Copies of the rows of `slots`, to be packed later.

        Texts and bytes never change, so it is enough to keep them; what is changed in place is packed at once.
        """
        copies = {name: columns[name].take(slots) for name, _ in self._fixed}
        for name, encode, _ in self._objects:
            values = columns[name].take(slots)
            if not is_binary_like(self.schema.field(name).type):
                values = as_objects([None if value is None else encode(value) for value in values.tolist()])
            copies[name] = values
        return FrozenRows(self, copies)

    def unpack(self, rows: Sequence[bytes]) -> dict[str, AnyArray]:
        """The columns of rows written by `pack`.

        Raises:
            CorruptionError: A row is not of this layout.
        """
        width = self._record.itemsize
        heads = b"".join([row[:width] for row in rows] if self._objects else rows)
        if len(heads) != width * len(rows):
            raise CorruptionError(f"a stored row is not {width} bytes long as layout {self.version} says")
        records = np.frombuffer(heads, dtype=self._record)
        columns = {name: records[f"c{i}"].astype(dtype) for i, (name, dtype) in enumerate(self._fixed)}
        if self._objects:
            columns.update(self._unpack_objects(rows))
        return columns

    def _unpack_objects(self, rows: Sequence[bytes]) -> dict[str, AnyArray]:
        columns = {name: np.empty(len(rows), dtype=object) for name, _, _ in self._objects}
        fields = [(columns[name], decode) for name, _, decode in self._objects]
        for number, row in enumerate(rows):
            position = self._record.itemsize
            try:
                for column, decode in fields:
                    size = _LENGTH.unpack_from(row, position)[0]
                    position += _LENGTH.size
                    if size:
                        column[number] = decode(row[position : position + size - 1])
                        position += size - 1
            except (struct.error, ValueError) as error:
                raise CorruptionError(f"a stored row does not follow layout {self.version}: {error}") from error
        return columns

    def to_json(self) -> JsonObject:
        """Its description: readable, and exact in `schema`."""
        columns = [{"name": f.name, "type": str(f.type)} for f in self.schema]
        return {"columns": columns, "schema": schema_to_text(self.schema)}


def _pack_objects(values: Sequence[Any], encode: Any) -> list[bytes]:
    """Length + 1 and bytes of each value; a zero for None."""
    null = _LENGTH.pack(0)
    raws = [None if value is None else encode(value) for value in values]
    return [null if raw is None else _LENGTH.pack(len(raw) + 1) + raw for raw in raws]


def renamed_layouts(table: str, layouts: Sequence[RowLayout], columns: Sequence[ColumnSpec]) -> list[RowLayout]:
    """A table's stored layouts under the columns' new names: bytes know their place, not their name.

    Raises:
        StateMigrationError: Several old names of a column are there, in whichever of the layouts.
    """
    stored = [name for layout in layouts for name in layout.schema.names]
    wanted = {column.name: column.renamed_from for column in columns}
    origins = stored_names(f"state table '{table}': column", wanted, stored)
    renamed = {origin: name for name, origin in origins.items() if origin != name}
    if not renamed:
        return list(layouts)
    fields = ([field.with_name(renamed.get(field.name, field.name)) for field in layout.schema] for layout in layouts)
    return [RowLayout(layout.version, pa.schema(some)) for layout, some in zip(layouts, fields, strict=True)]


class FrozenRows:
    """Copies of rows, to be packed in pieces.

    Args:
        layout: Their layout.
        columns: Their columns; values that could change in place are bytes already.
    """

    def __init__(self, layout: RowLayout, columns: Mapping[str, AnyArray]) -> None:
        self._layout = layout
        self._columns = columns

    def pack(self, rows: AnyArray) -> list[bytes]:
        """Some of the rows as bytes."""
        return self._layout.pack(self._columns, rows, np.arange(len(rows)), encoded=True)


class Layouts:
    """All layouts of a table, the last being the one that is written.

    Args:
        table: The table's name, for errors.
        columns: The columns now.
        stored: The layouts found in a checkpoint.

    Raises:
        StateMigrationError: A column changed in a way that stored rows cannot follow.
    """

    def __init__(self, table: str, columns: Sequence[ColumnSpec], stored: Sequence[RowLayout] = ()) -> None:
        schema = pa.schema([pa.field(c.name, c.type) for c in columns])
        self._columns = columns
        self._defaults = {c.name: default_value(c.type, c.default) for c in columns}
        for layout in stored:
            _check_change(table, layout.schema, schema)
            _check_added(table, layout.schema, columns)
        same = [layout for layout in stored if layout.schema.equals(schema)]
        last = max((layout.version for layout in stored), default=0)
        self.current = same[-1] if same else RowLayout(last + 1, schema)
        self.all = [*stored] if same else [*stored, self.current]
        self._by_version = {layout.version: layout for layout in self.all}

    def unpack(self, rows: Sequence[bytes]) -> dict[str, AnyArray]:
        """The present columns of rows of any layout.

        Raises:
            CorruptionError: A row's version is unknown, or it does not follow its layout.
        """
        versions = np.frombuffer(b"".join([row[:2] for row in rows]), dtype="<u2")
        if (versions == self.current.version).all():
            return self.current.unpack(rows)
        columns = {c.name: self._empty(c, len(rows)) for c in self._columns}
        for version in np.unique(versions).tolist():
            layout = self._by_version.get(version)
            if layout is None:
                raise CorruptionError(f"a stored row has the unknown layout {version}")
            numbers = np.flatnonzero(versions == version)
            part = layout.unpack([rows[i] for i in numbers.tolist()])
            for name in columns.keys() & part.keys():
                columns[name][numbers] = part[name]
        return columns

    def _empty(self, column: ColumnSpec, count: int) -> AnyArray:
        dtype = fixed_dtype(column.type)
        if dtype is None:
            return repeat_default(self._defaults[column.name], count)
        return np.full(count, self._defaults[column.name], dtype=dtype)


def _check_change(table: str, old: pa.Schema, new: pa.Schema) -> None:
    for field in new:
        index = old.get_field_index(field.name)
        if index >= 0 and not can_follow(old.field(index).type, field.type):
            raise StateMigrationError(
                f"state table '{table}': column '{field.name}' was stored as {old.field(index).type} and is now "
                f"{field.type}",
                hint="columns can be added, dropped, or widened (int32 to int64, float32 to float64); "
                "give the new column another name, or start without the old state",
            )


def _check_added(table: str, old: pa.Schema, columns: Sequence[ColumnSpec]) -> None:
    for column in columns:
        if not column.addable and column.name not in old.names:
            raise StateMigrationError(
                f"state table '{table}' was stored without '{column.name}', for which nothing can stand",
                hint="a TTL cannot be added to stored state: give the state another name, or start without the old one",
            )


def can_follow(old: pa.DataType, new: pa.DataType) -> bool:
    """Whether values of a type are values of another without loss."""
    if old.equals(new):
        return True
    integers = pa.types.is_integer(old) and pa.types.is_integer(new)
    floats = pa.types.is_floating(old) and pa.types.is_floating(new)
    return bool((integers or floats) and np.can_cast(old.to_pandas_dtype(), new.to_pandas_dtype(), "safe"))


def schema_to_text(schema: pa.Schema) -> str:
    """An Arrow schema as base64 of its IPC form."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def schema_from_text(text: str) -> pa.Schema:
    """The inverse of `schema_to_text`.

    Raises:
        CorruptionError: The text is not a schema.
    """
    try:
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text, validate=True)))
    except (ValueError, pa.ArrowException, OSError) as error:
        raise CorruptionError(f"a stored table schema cannot be read: {error}") from error
