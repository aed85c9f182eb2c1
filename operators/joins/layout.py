"""What a joined row looks like: which column of which side stands where in the result."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import pyarrow as pa

from lakeward.engine.api.changelog import append_only
from lakeward.engine.core.errors import SchemaError

How = Literal["inner", "left", "right", "full", "semi", "anti"]
"""Which rows without a partner come too (left, right, full), or which rows of the left come alone (semi, anti)."""

HOWS: tuple[How, ...] = get_args(How)
LEFT, RIGHT = 0, 1


@dataclass(frozen=True, slots=True)
class JoinColumn:
    """A column of the result.

    Args:
        name: Its name there.
        side: The input that it comes from: 0 left, 1 right.
        source: Its name in that input.
        stand_in: A key column of the right that it is taken from when the row has no left side.
    """

    name: str
    side: int
    source: str
    stand_in: str | None = None


@dataclass(frozen=True, slots=True)
class JoinLayout:
    """The result's columns.

    Args:
        columns: In their order.
        schema: Their fields; without row kinds.
    """

    columns: tuple[JoinColumn, ...]
    schema: pa.Schema

    @classmethod
    def of(
        cls, left: pa.Schema, right: pa.Schema, keys: Sequence[tuple[str, str]], how: How = "inner", suffix: str = ""
    ) -> JoinLayout:
        """Left columns, then right columns without the keys that have the names of the left ones.

        >>> left = pa.schema({"id": pa.int64(), "n": pa.int64()})
        >>> right = pa.schema({"id": pa.int64(), "n": pa.string()})
        >>> JoinLayout.of(left, right, [("id", "id")], suffix="_right").schema.names
        ['id', 'n', 'n_right']

        Args:
            left: Schema of the left input.
            right: Schema of the right input.
            keys: Pairs of key columns.
            how: The kind of join: says which columns can be null.
            suffix: What is appended to right names that the left has too.

        Raises:
            SchemaError: Two columns would have one name.
        """
        left, right = append_only(left), append_only(right)
        merged = {theirs for ours, theirs in keys if ours == theirs}
        columns = [JoinColumn(name, LEFT, name, name if name in merged else None) for name in left.names]
        taken = {name: f"left '{name}'" for name in left.names}
        for name in right.names:
            if name in merged:
                continue
            column = JoinColumn(name + suffix if name in left.names else name, RIGHT, name)
            if column.name in taken or column.name in set(right.names) - {name}:
                other = taken.get(column.name, f"right '{column.name}'")
                raise _clash(column.name, other, name)
            taken[column.name] = f"right '{name}'"
            columns.append(column)
        fields = [_field(column, (left, right), how) for column in columns]
        return cls(tuple(columns), pa.schema(fields))

    def left_only(self) -> JoinLayout:
        """The left columns alone: what semi and anti joins send."""
        columns = tuple(column for column in self.columns if column.side == LEFT)
        return replace(self, columns=columns, schema=pa.schema([self.schema.field(c.name) for c in columns]))

    def only(self, names: Collection[str] | None) -> JoinLayout:
        """Some of the columns, in their order; None: all."""
        if names is None:
            return self
        columns = tuple(column for column in self.columns if column.name in names)
        return replace(self, columns=columns, schema=pa.schema([self.schema.field(c.name) for c in columns]))

    def sources(self, side: int, names: Collection[str] | None = None) -> list[str]:
        """The columns of an input that are needed for the result, or for some columns of it."""
        wanted = [c for c in self.columns if c.side == side and (names is None or c.name in names)]
        return [column.source for column in wanted]

    def stand_ins(self) -> list[str]:
        """Right key columns that are needed for rows without a left side."""
        return [column.stand_in for column in self.columns if column.stand_in is not None]

    def compose(self, left: pa.RecordBatch | None, right: pa.RecordBatch | None) -> pa.RecordBatch:
        """Put rows side by side; a missing side is null, but for keys, which are those of the other side.

        Args:
            left: Rows of the left input, with at least the columns that `sources` names.
            right: The rows of the right input beside them.
        """
        present = left if left is not None else right
        assert present is not None, "a joined row has at least one side"
        arrays = []
        for column, field in zip(self.columns, self.schema, strict=True):
            rows = (left, right)[column.side]
            if rows is not None:
                arrays.append(rows.column(column.source))
            elif column.stand_in is not None and right is not None:
                arrays.append(right.column(column.stand_in))
            else:
                arrays.append(pa.nulls(present.num_rows, field.type))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def _field(column: JoinColumn, schemas: tuple[pa.Schema, pa.Schema], how: How) -> pa.Field:
    field = schemas[column.side].field(column.source).with_name(column.name)
    padded = how in (("right", "full") if column.side == LEFT else ("left", "full"))
    return field.with_nullable(True) if padded else field


def _clash(name: str, other: str, right: str) -> SchemaError:
    return SchemaError(
        f"the join makes two columns '{name}': {other} and right '{right}'",
        hint='choose another suffix="...", or rename one of them before the join',
    )
