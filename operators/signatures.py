"""What the signature of a user's function says: the columns or rows that it takes, and the rows that it makes.

A function of one parameter takes whole rows. A function of several takes the values of the columns that they are named
like, or of those that are listed for it.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lakeward.engine.api.row_types import arrow_type, is_row_class, resolve_annotation, row_fields, schema_of
from lakeward.engine.core.errors import GraphError, SchemaError
from lakeward.engine.core.names import did_you_mean
from lakeward.operators.function_names import function_name, plain_function
from lakeward.operators.row_values import check_annotation

_MANY = (Iterable, Iterator, Generator, Sequence, list, tuple, set, frozenset)
_RETURNS_HINT = (
    "annotate the function's result with a dataclass, TypedDict or NamedTuple (flat_map: Iterable[...] of one), "
    'or say it: returns={"word": str, "count": int}'
)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


# -- what it makes


def output_schema_of(function: Callable[..., Any], returns: Any = None) -> pa.Schema:
    """The schema of the rows that a function makes.

    >>> class Word(typing.NamedTuple):
    ...     word: str
    ...     length: int
    >>> def split(line: dict) -> Iterable[Word]: ...
    >>> output_schema_of(split)
    word: string
    length: int64

    Args:
        function: Annotated with a dataclass, TypedDict or NamedTuple as its result, or an iterable of them.
        returns: What it returns, if the annotation does not say so: one of these classes, a pyarrow schema, or a dict
            of column names to types (see `lakeward.engine.api.row_types.arrow_type`).

    Returns:
        The schema.

    Raises:
        GraphError: Neither says it.
        SchemaError: A field's type has no Arrow type.
    """
    hint = result_of(function, returns)
    if returns is None and not is_row_class(hint):
        annotation = getattr(plain_function(function), "__annotations__", {}).get("return")
        said = "has no return annotation" if annotation is None else f"returns {annotation!r}, which names no columns"
        raise GraphError(
            f"the columns that {function_name(function)} makes are not known: it {said}", hint=_RETURNS_HINT
        )
    return schema_of(hint)


def result_of(function: Callable[..., Any], returns: Any) -> Any:
    """What a row of a function's results is: as said by `returns`, else by its annotation."""
    return _element(_hint_of(function, "return") if returns is None else returns)


def _element(hint: Any) -> Any:
    """What an iterable is of: `Iterable[Word]` is of `Word`. Optional means that nothing may come."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in _MANY and args:
        return _element(args[0])
    if type(None) in args and len(args) == 2:
        return _element(args[0] if args[1] is type(None) else args[1])
    return hint


# -- what it takes


@dataclass(frozen=True, slots=True)
class Argument:
    """A column whose value a function gets.

    Args:
        column: Its name.
        hint: The annotation of the parameter; None: it has none.
        keyword: The parameter's name, if the value has to be given by it.
    """

    column: str
    hint: Any = None
    keyword: str | None = None


def arguments_of(
    function: Callable[..., Any], schema: pa.Schema, columns: Sequence[str] | None = None
) -> tuple[Argument, ...] | None:
    """The columns whose values a function gets, one an argument.

    >>> schema = pa.schema({"auction": pa.int64(), "price": pa.float64(), "url": pa.string()})
    >>> [one.column for one in arguments_of(lambda price, auction, factor=2: ..., schema)]
    ['price', 'auction']
    >>> [one.column for one in arguments_of(lambda cents: ..., schema, ["price"])]
    ['price']
    >>> print(arguments_of(lambda row: ..., schema))
    None

    Args:
        function: Called once a row.
        schema: The rows' schema.
        columns: Which columns, in the order of its parameters; None: it says so itself by having several parameters,
            named like columns. One with a default need not be a column.

    Returns:
        The arguments, those that have to be given by name last; None if it takes whole rows.

    Raises:
        SchemaError: A parameter is named like no column, a listed column is unknown, an annotation does not fit its
            column; or what would get whole rows is named like a column, or annotated with the type of a value.
        GraphError: It takes another number of arguments, or nothing by position and no column by name.
    """
    parameters = _parameters(function)
    if columns is not None:
        found = _listed(function, parameters, schema, columns)
    elif parameters is None:
        return None
    elif _takes_columns(parameters):
        found = _named(function, parameters, schema)
    else:
        _check_row(function, parameters, schema)
        return None
    for one in found:
        if one.hint is not None:
            what = f"the parameter for column {one.column!r} of {function_name(function)}"
            check_annotation(what, one.hint, schema.field(one.column).type)
    return found


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """The parameters of a function; None: it does not say, as some that are written in C."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None


def _takes_columns(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Whether a function has several parameters that must be given, or none to give a row to."""
    required = [one for one in parameters.values() if one.default is one.empty and one.kind not in _VARIADIC]
    if len(required) > 1 or any(one.kind is one.KEYWORD_ONLY for one in required):
        return True
    return not any(one.kind in (*_POSITIONAL, one.VAR_POSITIONAL) for one in parameters.values())


def _check_row(function: Callable[..., Any], parameters: Mapping[str, inspect.Parameter], schema: pa.Schema) -> None:
    """Refuse a function that seems to want a value where it would get a row."""
    first = next(iter(parameters.values()))
    if first.kind is first.VAR_POSITIONAL:
        return
    hint, said = _hint_of(function, first.name), None
    if _is_of_value(hint):
        said = f"is annotated {getattr(hint, '__name__', hint)}"
    elif hint in (None, Any, object) and first.kind is not first.POSITIONAL_ONLY and first.name in schema.names:
        said = "is named like a column"
    if said is not None:
        column = first.name if first.name in schema.names else "..."
        raise SchemaError(
            f"the parameter {first.name!r} of {function_name(function)} {said}, but would get the whole row, as a dict",
            hint=f'for the value of a column, say which: columns=["{column}"]; for rows, name the parameter "row", and '
            "annotate it, if at all, with dict or a class of the columns",
        )


def _is_of_value(hint: Any) -> bool:
    """Whether an annotation is one of a column's value: neither of a row, nor of whatever there may be."""
    if hint is None or is_row_class(hint):
        return False
    try:
        kind = arrow_type(hint)
    except SchemaError:
        return False
    return not (pa.types.is_struct(kind) or pa.types.is_map(kind))


def _listed(
    function: Callable[..., Any],
    parameters: Mapping[str, inspect.Parameter] | None,
    schema: pa.Schema,
    columns: Sequence[str],
) -> tuple[Argument, ...]:
    """The columns that were listed, by position."""
    for name in columns:
        if name not in schema.names:
            raise SchemaError(f"there is no column {name!r}", hint=did_you_mean(name, schema.names))
    if parameters is None:
        return tuple(map(Argument, columns))
    try:
        inspect.Signature(list(parameters.values())).bind(*columns)
    except TypeError as error:
        raise GraphError(
            f"{function_name(function)} cannot be called with {len(columns)} values ({', '.join(columns)}): {error}",
            hint="columns= lists one column for each parameter, in their order",
        ) from error
    plain = [one for one in parameters.values() if one.kind in _POSITIONAL]
    hints = [_hint_of(function, one.name) for one in plain]
    hints += [None] * (len(columns) - len(hints))
    return tuple(Argument(name, hint) for name, hint in zip(columns, hints, strict=False))


def _named(
    function: Callable[..., Any], parameters: Mapping[str, inspect.Parameter], schema: pa.Schema
) -> tuple[Argument, ...]:
    """The columns that the parameters are named like."""
    found: list[Argument] = []
    in_order = True
    given = function.keywords if isinstance(function, functools.partial) else {}
    for name, one in parameters.items():
        if one.kind in _VARIADIC or name in given:
            continue
        if name not in schema.names:
            in_order = False
            if one.default is one.empty:
                raise _no_column(function, name, schema)
            continue
        by_name = one.kind is one.KEYWORD_ONLY or not in_order
        if not (by_name and one.kind is one.POSITIONAL_ONLY):
            found.append(Argument(name, _hint_of(function, name), name if by_name else None))
    if not found:
        raise GraphError(
            f"{function_name(function)} takes no argument that could be the row or a column",
            hint="give it one parameter, for the row, or one for each column that it needs, named like it",
        )
    return tuple(found)


def _no_column(function: Callable[..., Any], name: str, schema: pa.Schema) -> SchemaError:
    return SchemaError(
        f"{function_name(function)} has a parameter {name!r}, but the stream has no such column",
        hint=f"{did_you_mean(name, schema.names)}. A function of several parameters gets a value of the column that "
        "each is named like, or of those listed in columns=[...]; to get whole rows it has one parameter",
    )


def row_class_of(function: Callable[..., Any]) -> type | None:
    """The dataclass, NamedTuple or TypedDict that a function's first parameter is annotated with; None for dicts."""
    first = next(iter(_parameters(function) or ()), None)
    hint = None if first is None else _hint_of(function, first)
    return hint if is_row_class(hint) else None


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The resolved annotation of each parameter of a function, None where it has none.

    >>> def f(row: dict, n: "int", more=1): ...
    >>> hints_of(f)
    {'row': <class 'dict'>, 'n': <class 'int'>, 'more': None}
    """
    return {name: _hint_of(function, name) for name in _parameters(function) or ()}


# -- annotations


def _hint_of(function: Callable[..., Any], name: str) -> Any:
    """A resolved annotation of a function, by parameter; None: there is none."""
    plain = plain_function(function)
    if is_row_class(plain):
        return row_fields(plain).get(name)
    annotation = getattr(plain, "__annotations__", {}).get(name)
    return resolve_annotation(annotation, scope_of(plain), function_name(function))


def scope_of(function: Any) -> dict[str, Any]:
    """The names that a function's annotations may use: its module's and those it closes over."""
    plain = inspect.unwrap(getattr(function, "__func__", function))
    names = dict(getattr(plain, "__globals__", {}))
    cells, free = (
        getattr(plain, "__closure__", None) or (),
        getattr(getattr(plain, "__code__", None), "co_freevars", ()),
    )
    for name, cell in zip(free, cells, strict=True):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # not filled yet: then the annotation cannot mean it either
            continue
    return names


# -- functions of lists


class ElementView:
    """A function of lists of rows or values, as it would look if it took one: what its annotations say of elements.

    >>> def embed(texts: list[str]) -> list[dict]: ...
    >>> [one.hint for one in arguments_of(ElementView(embed), pa.schema({"text": pa.string()}), ["text"])]
    [<class 'str'>]

    Args:
        function: The function, which calls go to.

    Raises:
        GraphError: A parameter is annotated, but not as a list.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        plain = plain_function(function)
        self.__qualname__ = getattr(plain, "__qualname__", type(plain).__qualname__)
        self.__code__ = getattr(plain, "__code__", None)
        self.__closure__ = getattr(plain, "__closure__", None)
        self.__signature__ = inspect.signature(function)
        names = [*self.__signature__.parameters, "return"]
        hints = {name: _hint_of(function, name) for name in names}
        self.__annotations__ = {
            name: hint if name == "return" else _list_element(function, name, hint)
            for name, hint in hints.items()
            if hint not in (None, list, Any)
        }

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._function(*args, **kwargs)


def _list_element(function: Callable[..., Any], name: str, hint: Any) -> Any:
    args = typing.get_args(hint)
    if typing.get_origin(hint) not in _MANY or not args:
        raise GraphError(
            f"the parameter {name!r} of {function_name(function)} is annotated {getattr(hint, '__name__', hint)}, but "
            "would get a list",
            hint="annotate it as a list: list[...]; or leave batch_rows out, to get one row a call",
        )
    return args[0]
