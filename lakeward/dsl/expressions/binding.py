"""From the tree to a `BoundExpression`: every name and type is checked here, once, when the graph is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from lakeward.dsl.expressions.arithmetic import compile_is_in
from lakeward.dsl.expressions.compiled import Compiled, Run, constant, normal, reference
from lakeward.dsl.expressions.conditional import broadcast, compile_case, null_case
from lakeward.dsl.expressions.nodes import Alias, Call, Case, Column, IsIn, Literal, Node, columns_of
from lakeward.engine.api.expression import BoundExpression
from lakeward.engine.core.errors import SchemaError
from lakeward.engine.core.names import did_you_mean


class Bound(BoundExpression):
    """A compiled expression."""

    __slots__ = ("_columns", "_description", "_reference", "_run", "_type")

    def __init__(self, node: Node, compiled: Compiled) -> None:
        self._type = compiled.type
        self._columns = columns_of(node)
        self._description = str(node)
        source = compiled.node
        self._reference = source.name if isinstance(source, Column) else None
        self._run: Run = compiled.run if compiled.constant is None else _repeated(compiled)

    @property
    def type(self) -> pa.DataType:
        """The type of every result."""
        return self._type

    @property
    def columns(self) -> frozenset[str]:
        """The input columns that it reads."""
        return self._columns

    @property
    def description(self) -> str:
        """The expression's text."""
        return self._description

    @property
    def reference(self) -> str | None:
        """The input column that this is, unchanged."""
        return self._reference

    def evaluate(self, batch: pa.RecordBatch) -> pa.Array:
        """The values for the batch's rows."""
        return self._run(batch)

    def __repr__(self) -> str:
        return f"<{self._description}: {self._type}>"


def _repeated(compiled: Compiled) -> Run:
    value = compiled.constant
    return lambda batch: broadcast(value, batch.num_rows)


def bind(node: Node, schema: pa.Schema) -> Bound:
    """Check an expression against a schema and compile it.

    Raises:
        SchemaError: A column does not exist, or an operation does not take its operands' types.
        GraphError: A constant part cannot be computed, or a parameter (a regular expression, a format) is wrong.
    """
    return Bound(node, _Binder(schema, node).compile(node))


@dataclass(frozen=True, slots=True)
class _Binder:
    schema: pa.Schema
    root: Node

    def compile(self, node: Node) -> Compiled:
        """Compile a node of any kind."""
        return _KINDS[type(node)](self, node)

    def argument(self, node: Node) -> Compiled:
        """Compile a node for use by a kernel."""
        return normal(self.compile(node))

    def column(self, node: Column) -> Compiled:
        """Look a column up."""
        found = self.schema.get_all_field_indices(node.name)
        if len(found) == 1:
            return reference(node, self.schema.field(found[0]).type)
        where = "" if isinstance(self.root, Column) else f" (in {self.root})"
        if found:
            raise SchemaError(f"{len(found)} columns are called {node.name!r}{where}", hint="rename one of them")
        raise SchemaError(f"no column {node.name!r}{where}", hint=did_you_mean(node.name, self.schema.names))

    def literal(self, node: Literal) -> Compiled:
        """A constant."""
        return constant(node, node.value, weak=not node.typed)

    def call(self, node: Call) -> Compiled:
        """Compile the arguments, then let the function's rule do the rest."""
        return node.function.compile(node, [self.argument(arg) for arg in node.args])

    def case(self, node: Case) -> Compiled:
        """Compile when/then/otherwise."""
        conditions = [self.argument(condition) for condition, _ in node.branches]
        values = [self.argument(value) for _, value in node.branches]
        values.append(null_case(node) if node.otherwise is None else self.argument(node.otherwise))
        return compile_case(node, conditions, values)

    def is_in(self, node: IsIn) -> Compiled:
        """Compile a membership test."""
        return compile_is_in(node, self.argument(node.operand), [self.argument(value) for value in node.values])

    def alias(self, node: Alias) -> Compiled:
        """A name changes nothing about the value."""
        return self.compile(node.operand)


_KINDS: dict[type[Node], Callable[..., Compiled]] = {
    Column: _Binder.column,
    Literal: _Binder.literal,
    Call: _Binder.call,
    Case: _Binder.case,
    IsIn: _Binder.is_in,
    Alias: _Binder.alias,
}
