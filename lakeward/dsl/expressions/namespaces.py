"""The functions behind `.struct`, `.list`, `.map` and `.json` of an expression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pyarrow as pa

from lakeward.dsl.expressions import json_rules, nested
from lakeward.dsl.expressions.expr import Constant, Expr, col, evaluate, to_node  # noqa: F401 (for the examples)
from lakeward.dsl.expressions.nodes import Call, Function, Node
from lakeward.engine.api.row_types import arrow_type, schema_of
from lakeward.engine.core.errors import GraphError


class Namespace:
    """Functions of one kind of value."""

    __slots__ = ("_node",)

    def __init__(self, node: Node) -> None:
        self._node = node

    def _call(self, function: Function, *params: Any) -> Expr:
        return Expr(Call(function, (self._node,), params))


def unless_raise(errors: str) -> str | None:
    """What a call keeps of the argument `errors`: nothing of its default.

    Raises:
        GraphError: It is neither "raise" nor "null".
    """
    if errors not in ("raise", "null"):
        raise GraphError(f'errors is "raise" or "null", not {errors!r}')
    return None if errors == "raise" else errors


class StructNamespace(Namespace):
    """Functions of structs."""

    __slots__ = ()

    def field(self, name: str) -> Expr:
        """A field; null where the struct is.

        >>> evaluate(col("a").struct.field("x"), a=[{"x": 1}, None])
        [1, None]
        """
        return self._call(nested.STRUCT_FIELD, name)

    def __getattr__(self, name: str) -> Expr:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.field(name)


class ListNamespace(Namespace):
    """Functions of lists."""

    __slots__ = ()

    def length(self) -> Expr:
        """The number of elements.

        >>> evaluate(col("a").list.length(), a=[[1, 2], [], None])
        [2, 0, None]
        """
        return self._call(nested.LIST_LENGTH)

    def get(self, index: int) -> Expr:
        """An element, counted from 0 or, when negative, from the end; null where there is none.

        >>> evaluate(col("a").list.get(-1), a=[[1, 2], [], None])
        [2, None, None]
        """
        return self._call(nested.LIST_GET, index)

    def first(self) -> Expr:
        """The first element; null where there is none.

        >>> evaluate(col("a").list.first(), a=[[1, 2], []])
        [1, None]
        """
        return self.get(0)

    def last(self) -> Expr:
        """The last element; null where there is none.

        >>> evaluate(col("a").list.last(), a=[[1, 2], []])
        [2, None]
        """
        return self.get(-1)

    def slice(self, start: int, length: int | None = None) -> Expr:
        """Some elements, from `start` (counted from 0, or from the end when negative).

        >>> evaluate(col("a").list.slice(1, 2), a=[[1, 2, 3, 4], [1], None])
        [[2, 3], [], None]
        """
        return self._call(nested.LIST_SLICE, start, length)

    def contains(self, value: Expr | Constant) -> Expr:
        """Whether an element equals a value, or both are NaN; null elements equal none.

        >>> evaluate(col("a").list.contains(2), a=[[1, 2], [], None])
        [True, False, None]
        """
        return Expr(Call(nested.LIST_CONTAINS, (self._node, to_node(value))))

    def join(self, separator: str) -> Expr:
        """The texts of a list in one, with a separator between them; null where one is null.

        >>> evaluate(col("a").list.join(", "), a=[["x", "y"], [], ["x", None]])
        ['x, y', '', None]
        """
        return self._call(nested.LIST_JOIN, separator)


class MapNamespace(Namespace):
    """Functions of maps."""

    __slots__ = ()

    def get(self, key: Any) -> Expr:
        """The value of a key; null where there is none. If a key occurs twice, the last counts.

        >>> evaluate(col("a").map.get("x"), a=pa.array([[("x", 1)], []], pa.map_(pa.string(), pa.int64())))
        [1, None]
        """
        return self._call(nested.MAP_GET, key)

    def keys(self) -> Expr:
        """The list of keys.

        >>> evaluate(col("a").map.keys(), a=pa.array([[("x", 1)], None], pa.map_(pa.string(), pa.int64())))
        [['x'], None]
        """
        return self._call(nested.MAP_KEYS)

    def values(self) -> Expr:
        """The list of values, in the order of the keys.

        >>> evaluate(col("a").map.values(), a=pa.array([[("x", 1)], None], pa.map_(pa.string(), pa.int64())))
        [[1], None]
        """
        return self._call(nested.MAP_VALUES)

    def length(self) -> Expr:
        """The number of entries, int32.

        >>> evaluate(col("a").map.length(), a=pa.array([[("x", 1)], None], pa.map_(pa.string(), pa.int64())))
        [1, None]
        """
        return self._call(nested.MAP_LENGTH)


class JsonNamespace(Namespace):
    """Functions of JSON text."""

    __slots__ = ()

    def get(self, path: str, type: Any, errors: Literal["raise", "null"] = "raise") -> Expr:
        """The value at a path, decoded as a type by the rules of the `Json` format; null if it is missing or null.

        Only what the path needs is decoded. To take several values of one document, decode them together as a struct:
        `col("doc").json.get("$", {"id": int, "name": str}).struct.field("id")` parses once a step, however often it is
        written.

        >>> docs = ['{"user": {"tags": ["x", "y"]}}', '{}', None, "broken"]
        >>> evaluate(col("doc").json.get("$.user.tags[0]", str, errors="null"), doc=docs)
        ['x', None, None, None]
        >>> user = col("doc").json.get("$.user", {"tags": list[str]})
        >>> evaluate(user.struct.field("tags").list.length(), doc=docs[:2])
        [2, None]

        Args:
            path: `$` is the document, `.name` or `['a name']` a member, `[0]` an element, `[-1]` the last one.
            type: As for `Expr.cast`; or a dataclass, TypedDict, or dict of names and types for a struct.
            errors: "raise", or "null" for null where the text is no JSON or a value is of another type.

        Raises:
            SchemaError: There is no such type.
            GraphError: It is no path.
        """
        kind = (
            pa.struct(list(schema_of(type))) if isinstance(type, Mapping) else arrow_type(type, f"json.get({path!r})")
        )
        json_rules.parse_path(path)
        return self._call(json_rules.GET, path, kind, unless_raise(errors))

    def text(self, path: str, errors: Literal["raise", "null"] = "raise") -> Expr:
        """The text at a path, or the JSON of what else is there; null if it is missing or null.

        For values whose type differs from document to document; slower than `get`.

        >>> evaluate(col("doc").json.text("$.a"), doc=['{"a": "x"}', '{"a": [1, 2]}', '{"a": null}'])
        ['x', '[1,2]', None]

        Args:
            path: As for `get`.
            errors: "raise", or "null" for null where the text is no JSON.
        """
        json_rules.parse_path(path)
        return self._call(json_rules.TEXT, path, unless_raise(errors))
