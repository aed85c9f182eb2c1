"""How values of a state become columns and back, as their annotation says."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.engine.api.row_types import arrow_type, is_row_class, row_fields, schema_of
from lakeward.engine.api.state import ColumnSpec
from lakeward.engine.core.errors import SchemaError, UserCodeError
from lakeward.engine.core.plain import plain_value
from lakeward.engine.core.redaction import FailedRow
from lakeward.operators.process.renames import heirs_first
from lakeward.operators.process.states import RenamedFrom
from lakeward.operators.row_values import bare, value_maker
from lakeward.operators.rows import RowReader, RowWriter, column_to_list, fits, list_to_column

VALUE = "value"
"""The only column of values that are no rows."""

KEY_PREFIX = "key."
"""What the columns of a map's keys begin with."""

GIVEN = "#given"
"""The end of the columns that say whether a field has a value."""

_THERE = "##there"
"""The column that says whether there is a row, where None may stand for one."""


class ValueForm:
    """Values of one type, as columns of a table of state.

    >>> form = ValueForm(list[int], "state 'held'")
    >>> form.schema.names, form.values(form.arrays([[1, 2], [3]]))
    (['value'], [[1, 2], [3]])

    Args:
        hint: The type: as for rows (a dataclass, NamedTuple, TypedDict, names with types) or as for one column.
        what: Whose values they are, for errors.
        none: Whether None is a value, if the type admits it.

    Attributes:
        schema: Of the columns: one a field of a row, else only `VALUE`.
        mutable: Whether values can be changed in place.
        columns: The columns with their values for what was stored without them, and their old names.

    Raises:
        SchemaError: It has no Arrow type, or a field's name is one of state's own.
    """

    def __init__(self, hint: Any, what: str, none: bool = False) -> None:
        self.what = what
        given, none, hint = hint, none and _admits_none(hint), bare(hint)
        self.rows = is_row_class(hint) or isinstance(hint, Mapping | pa.Schema)
        try:
            self.schema = schema_of(hint) if self.rows else pa.schema({VALUE: arrow_type(given)})
        except SchemaError as error:
            raise SchemaError(f"{what}: {error.message}", hint=error.hint) from None
        if self.rows:
            self._check_names()
            row_class = hint if is_row_class(hint) else None
            self._reader = RowReader(self.schema, row_class)
            self._writer = RowWriter(self.schema, what)
        else:
            self._make = value_maker(hint, self.schema.types[0])
        self.mutable = _mutable(hint, self.schema, self.rows)
        columns = _given_columns(hint) if is_row_class(hint) else {}
        self.columns = [columns.get(field.name, ColumnSpec(field.name, field.type)) for field in self.schema]
        self._none = none and self.rows
        if self._none:
            self.schema = self.schema.append(pa.field(_THERE, pa.bool_()))
            self.columns.append(ColumnSpec(_THERE, pa.bool_(), True))

    def _check_names(self) -> None:
        for name in self.schema.names:
            if name.startswith(("#", KEY_PREFIX)) or name.endswith(GIVEN):
                raise SchemaError(
                    f"{self.what}: a field cannot be named {name!r}",
                    hint=f"names of state's own begin with '#' or '{KEY_PREFIX}', or end with '{GIVEN}': rename it",
                )

    @property
    def description(self) -> str:
        """The type, for errors."""
        if not self.rows:
            return str(self.schema.types[0])
        return "rows of " + ", ".join(f"{field.name}: {field.type}" for field in self.schema if field.name != _THERE)

    def values(self, arrays: Sequence[pa.Array]) -> list[Any]:
        """The values that lie in these columns."""
        if self._none:
            return self._rows_or_none(pa.RecordBatch.from_arrays(list(arrays), schema=self.schema))
        if self.rows:
            batch = pa.RecordBatch.from_arrays(list(arrays), schema=self.schema)
            return list(self._reader.rows(batch))
        values = column_to_list(arrays[0])
        if self._make is None:
            return values
        return [None if value is None else self._make(value) for value in values]

    def _rows_or_none(self, batch: pa.RecordBatch) -> list[Any]:
        there = batch.column(_THERE)
        rows = self._reader.rows(batch.drop_columns([_THERE]).filter(there))
        return [next(rows) if one else None for one in there.to_pylist()]

    def _arrays_or_none(self, values: Sequence[Any]) -> list[pa.Array]:
        there = np.fromiter((value is not None for value in values), np.bool_, len(values))
        arrays = self._writer.arrays([value for value in values if value is not None])
        places = pa.array(np.cumsum(there) - 1, mask=~there)
        return [*(array.take(places) for array in arrays), pa.array(there)]

    def arrays(self, values: Sequence[Any]) -> list[pa.Array]:
        """The columns of some values.

        Raises:
            UserCodeError: A value is of another type; names the state and the value.
        """
        if self._none:
            return self._arrays_or_none(values)
        if self.rows:
            return self._writer.arrays(values)
        kind = self.schema.types[0]
        try:
            return [list_to_column(values, kind)]
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            wrong = next((value for value in values if not fits(value, kind)), None)
            raise UserCodeError(
                f"{self.what} holds {kind}, but was given a value of type {type(wrong).__name__}",
                hint=f"{error}",
                rows=(FailedRow(wrong, label="value"),),
            ) from error


def _admits_none(hint: Any) -> bool:
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    return type(None) in typing.get_args(hint)


def unhashable(hint: Any) -> Any:
    """The part of a type whose values have no hash, so that they cannot be keys of a dict; None: there is none.

    >>> unhashable(tuple[int, ...]), unhashable(tuple[list[int], ...])
    (None, list[int])
    """
    hint = bare(hint)
    if isinstance(hint, pa.DataType):
        return hint if pa.types.is_nested(hint) else None
    if isinstance(hint, Mapping | pa.Schema):
        return "dict"
    if is_row_class(hint):
        if typing.is_typeddict(hint) or hint.__hash__ is None:
            return hint
        return _first_unhashable(row_fields(hint).values()) if _hashes_fields(hint) else None
    origin = typing.get_origin(hint)
    if origin in (tuple, frozenset):
        return _first_unhashable(one for one in typing.get_args(hint) if one is not Ellipsis)
    return hint if origin not in (None, typing.Literal) else None


def _first_unhashable(hints: Iterable[Any]) -> Any:
    return next((found for found in map(unhashable, hints) if found is not None), None)


def _hashes_fields(row_class: type) -> bool:
    """Whether its hash is that of its fields: of a NamedTuple's, or what `dataclasses` have made."""
    made: Any = row_class.__hash__
    code = getattr(made, "__code__", None)
    return made is tuple.__hash__ or (code is not None and code.co_filename == "<string>")


def _mutable(hint: Any, schema: pa.Schema, rows: bool) -> bool:
    if any(pa.types.is_nested(field.type) for field in schema):
        return True
    if not rows:
        return False
    if not is_row_class(hint) or typing.is_typeddict(hint):
        return True
    parameters = getattr(hint, "__dataclass_params__", None)
    return dataclasses.is_dataclass(hint) and not getattr(parameters, "frozen", False)


def _old_names(hint: Any) -> Iterator[str]:
    """What an annotation says that the field was called: around the type, or inside of `... | None`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        yield from _old_names(args[0])
        for one in args[1:]:
            if isinstance(one, RenamedFrom):
                yield from one.name
    elif origin in (typing.Union, types.UnionType, typing.Required, typing.NotRequired):
        for arg in args:
            yield from _old_names(arg)


def _given_columns(row_class: type) -> dict[str, ColumnSpec]:
    """What the fields of a row class say of their columns."""
    defaults = dict(getattr(row_class, "_field_defaults", {}))
    if dataclasses.is_dataclass(row_class):
        for one in dataclasses.fields(row_class):
            if one.default is not dataclasses.MISSING:
                defaults[one.name] = one.default
            elif one.default_factory is not dataclasses.MISSING:
                defaults[one.name] = one.default_factory()
    schema, found = schema_of(row_class), {}
    for name, hint in row_fields(row_class).items():
        found[name] = ColumnSpec(
            name, schema.field(name).type, plain_value(defaults.get(name)), tuple(_old_names(hint))
        )
    heirs_first({name: one.renamed_from for name, one in found.items()}, f"fields of {row_class.__qualname__}")
    return found
