"""Rules of JSON text: values at a path, decoded by type as the JSON format of sources does it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.dsl.expressions.compiled import Compiled, Kernel, apply
from lakeward.dsl.expressions.json_scalars import Step, fast_kernel, spread
from lakeward.dsl.expressions.nested import element
from lakeward.dsl.expressions.nodes import Call, Function, Style
from lakeward.dsl.expressions.text_rules import text_args
from lakeward.engine.core.errors import GraphError

_STEP = re.compile(r"\.(?P<name>[^.\[\]'\"*]+)|\[(?P<index>-?\d+)\]|\[(?P<quote>['\"])(?P<quoted>.*?)(?P=quote)\]")
_REASON_CHARS_MAX = 200

Walk = Callable[[Any, tuple[Step, ...]], Any]
"""From a document to the value at a path; None where there is none."""


def parse_path(path: str) -> tuple[Step, ...]:
    """The names and indices of a path.

    >>> parse_path("$.user.tags[0]"), parse_path("$['a b'][-1]"), parse_path("$")
    (('user', 'tags', 0), ('a b', -1), ())

    Raises:
        GraphError: It is no path.
    """
    steps: list[Step] = []
    end = 1
    for match in _STEP.finditer(path, 1):
        if match.start() != end:
            break
        end = match.end()
        steps.append(int(match["index"]) if match["index"] is not None else match["name"] or match["quoted"] or "")
    if not path.startswith("$") or end != len(path):
        raise GraphError(f"json: {path!r} is no path", hint="write $.name, $.list[0], $['a name'], or $ for all of it")
    return tuple(steps)


def _get(call: Call, args: Sequence[Compiled]) -> Compiled:
    path, kind, errors = call.params
    steps = parse_path(path)
    return apply(call, _decoder(steps, kind, errors == "null"), text_args(call, args))


GET = Function("json.get", Style.METHOD, _get, keywords=("errors",), decodes=True, costly=True)


def _decoder(steps: tuple[Step, ...], kind: pa.DataType, forgiving: bool) -> Kernel:
    """Decodes no more than the path needs."""
    if not steps and pa.types.is_struct(kind):
        return _typed(kind, lambda rows: rows, forgiving)
    if steps and isinstance(steps[0], str):
        general = _either(_typed(*_shape(steps, kind), False), _walked(steps, kind, forgiving, _walk_strictly))
        return fast_kernel(steps, kind, general) or general
    return _walked(steps, kind, forgiving, _walk)


def _either(typed: Kernel, walked: Kernel) -> Kernel:
    """Whole documents by type; where one does not fit, each by the one value: what lies beside it may be anything."""

    def function(array: Any) -> pa.Array:
        try:
            return typed(array)
        except pa.ArrowInvalid:
            return walked(array)

    return function


def _walked(steps: tuple[Step, ...], kind: pa.DataType, forgiving: bool, walk: Walk) -> Kernel:
    """The value at the path by Python, and only that by type."""
    found, typed = _python(steps, forgiving, walk), _typed(*_shape(("value",), kind), forgiving)
    place = "$" + "".join(f".{step}" if isinstance(step, str) else f"[{step}]" for step in steps)

    def function(array: Any) -> pa.Array:
        documents = found(array, lambda value: msgspec.json.encode({"value": value}))
        try:
            return typed(documents)
        except pa.ArrowInvalid as error:
            raise pa.ArrowInvalid(str(error).replace("`$.value", f"`{place}")) from error

    return function


def _shape(steps: tuple[Step, ...], kind: pa.DataType) -> tuple[pa.DataType, Callable[[pa.Array], pa.Array]]:
    """The type that has just what the path needs, and how to take the value out of it."""
    if not steps:
        return kind, lambda array: array
    inner, take = _shape(steps[1:], kind)
    step = steps[0]
    if isinstance(step, int):
        return pa.list_(inner), lambda array: take(element(array, step))
    return pa.struct({step: inner}), lambda array: take(pc.struct_field(array, [0]))


def _typed(fields: pa.DataType, take: Callable[[pa.Array], pa.Array], forgiving: bool) -> Kernel:
    """Documents that are objects, by the decoder of JSON sources."""
    from lakeward.connectors.formats.json import Json

    schema = pa.schema(list(fields))
    decoder = Json(schema).decoder()

    def function(array: Any) -> pa.Array:
        texts = array.drop_null() if array.null_count else array
        decoded = decoder.decode(texts.cast(pa.large_binary()).to_pylist())
        if decoded.bad and not forgiving:
            raise pa.ArrowInvalid(f"data cannot be parsed: {decoded.bad[0].reason[:_REASON_CHARS_MAX]}")
        values = take(decoded.batch.to_struct_array())
        values = values if decoded.rows is None else _at_rows(values, decoded.rows, len(texts))
        return spread(values, array) if array.null_count else values

    return function


def _at_rows(values: pa.Array, rows: Any, length: int) -> pa.Array:
    """Values at their rows, null at the others."""
    places = pc.index_in(pa.array(range(length), pa.int64()), value_set=pa.array(rows, pa.int64()))
    return values.take(places)


def _python(
    steps: tuple[Step, ...], forgiving: bool, walk: Walk
) -> Callable[[pa.Array, Callable[[Any], Any]], pa.Array]:
    """The way for documents of any shape: Python objects, about half a million a second."""
    parse = msgspec.json.Decoder().decode

    def function(array: pa.Array, write: Callable[[Any], Any]) -> pa.Array:
        found = []
        for text in array.to_pylist():
            try:
                value = None if text is None else walk(parse(text), steps)
            except msgspec.DecodeError as error:
                if not forgiving:
                    raise pa.ArrowInvalid(f"data cannot be parsed: {error}") from error
                value = None
            found.append(None if value is None else write(value))
        return pa.array(found, pa.binary())

    return function


def _walk(value: Any, steps: tuple[Step, ...]) -> Any:
    for step in steps:
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, dict) else None
        elif isinstance(value, list) and -len(value) <= step < len(value):
            value = value[step]
        else:
            return None
    return value


def _walk_strictly(value: Any, steps: tuple[Step, ...]) -> Any:
    """As `_walk`, but a step into what has no members or elements is an error, unless it is null."""
    place = "$"
    for step in steps:
        wanted, what = (dict, "object") if isinstance(step, str) else (list, "array")
        if value is None:
            return None
        if not isinstance(value, wanted):
            raise msgspec.ValidationError(f"Expected `{what} | null` at `{place}`, got {type(value).__name__}")
        value = _walk(value, (step,))
        place += f".{step}" if isinstance(step, str) else f"[{step}]"
    return value


def _text(call: Call, args: Sequence[Compiled]) -> Compiled:
    path, errors = call.params
    found = _python(parse_path(path), errors == "null", _walk)

    def write(value: Any) -> bytes:
        return value.encode() if isinstance(value, str) else msgspec.json.encode(value)

    return apply(call, lambda array: found(array, write).cast(pa.string()), text_args(call, args))


TEXT = Function("json.text", Style.METHOD, _text, keywords=("errors",), decodes=True, costly=True)
