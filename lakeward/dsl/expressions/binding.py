"""From the tree to a `BoundExpression`: every name and type is checked here, once, when the graph is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from lakeward.dsl.expressions.comparisons import comparisons_of
from lakeward.dsl.expressions.compiled import Compiled, Run, constant, normal, reference, shared
from lakeward.dsl.expressions.conditional import compile_case, null_case
from lakeward.dsl.expressions.logic import compile_is_in
from lakeward.dsl.expressions.nodes import (
    Alias,
    Call,
    Case,
    Column,
    IsIn,
    Literal,
    Node,
    calls_users,
    columns_of,
    repeated,
    row_by_row,
)
from lakeward.dsl.expressions.pattern_nodes import MatchTime, RowsOf
from lakeward.dsl.expressions.some_rows import broadcast
from lakeward.engine.api.expression import BoundExpression, Comparison, Frame
from lakeward.engine.core.errors import GraphError, SchemaError
from lakeward.engine.core.names import did_you_mean


class Bound(BoundExpression):
    """A compiled expression."""

    __slots__ = ("_columns", "_comparisons", "_description", "_pure", "_reference", "_run", "_type", "_vectorised")

    def __init__(self, node: Node, compiled: Compiled, schema: pa.Schema) -> None:
        self._type = compiled.type
        self._columns = columns_of(node)
        self._comparisons = comparisons_of(node, schema)
        self._description = str(node)
        self._vectorised = not row_by_row(node)
        self._pure = not calls_users(node)
        source = compiled.node
        unchanged = isinstance(source, Column) and schema.field(source.name).type.equals(compiled.type)
        self._reference = source.name if isinstance(source, Column) and unchanged else None
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

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Comparisons that hold wherever this condition is true."""
        return self._comparisons

    @property
    def vectorised(self) -> bool:
        """False when a Python function is called for every row."""
        return self._vectorised

    @property
    def pure(self) -> bool:
        """Whether no function of the user's is called."""
        return self._pure

    def evaluate(self, batch: pa.RecordBatch) -> pa.Array:
        """The values for the batch's rows."""
        return self._run(Frame(batch))

    def evaluate_in(self, frame: Frame) -> pa.Array:
        """The values for the frame's rows; parts that other expressions of the same binding have too come from it."""
        return self._run(frame)

    def __repr__(self) -> str:
        return f"<{self._description}: {self._type}>"


def _repeated(compiled: Compiled) -> Run:
    value = compiled.constant
    return lambda frame: broadcast(value, frame.batch.num_rows)


def bind(node: Node, schema: pa.Schema) -> Bound:
    """Check an expression against a schema and compile it.

    Raises:
        SchemaError: A column does not exist, or an operation does not take its operands' types.
        GraphError: A constant part cannot be computed, or a parameter (a regular expression, a format) is wrong.
    """
    return bind_all([node], schema)[0]


def bind_all(nodes: Sequence[Node], schema: pa.Schema) -> list[Bound]:
    """Bind expressions that are computed over the same batches: a part that they share is computed once.

    Raises:
        SchemaError, GraphError: As `bind`.
    """
    binder = _Binder(schema, repeated(nodes))
    return [Bound(node, binder.whole(node), schema) for node in nodes]


class _Binder:
    """Compiles each part once, however often it occurs."""

    def __init__(self, schema: pa.Schema, repeated: frozenset[Node]) -> None:
        self.schema = schema
        self._repeated = repeated
        self._root: Node | None = None
        self._compiled: dict[Node, Compiled] = {}
        self._arguments: dict[Node, Compiled] = {}

    def whole(self, node: Node) -> Compiled:
        """Compile an expression; errors show it whole."""
        self._root = node
        return self.compile(node)

    def compile(self, node: Node) -> Compiled:
        """Compile a node of any kind."""
        found = self._compiled.get(node)
        if found is None:
            found = _KINDS[type(node)](self, node)
            if node in self._repeated and found.constant is None and not isinstance(found.node, Column):
                found = shared(found)
            self._compiled[node] = found
        return found

    def argument(self, node: Node) -> Compiled:
        """Compile a node for use by a kernel."""
        found = self._arguments.get(node)
        if found is None:
            raw = self.compile(node)
            found = normal(raw)
            if found is not raw and found.constant is None:
                found = shared(found)
            self._arguments[node] = found
        return found

    def column(self, node: Column) -> Compiled:
        """Look a column up."""
        found = self.schema.get_all_field_indices(node.name)
        if len(found) == 1:
            return reference(node, self.schema.field(found[0]).type)
        where = "" if isinstance(self._root, Column) else f" (in {self._root})"
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

    def of_a_pattern(self, node: Node) -> Compiled:
        """There is no pattern here."""
        hint = "var(...) and match_time() stand in the conditions and measures of a pattern: .key_by(...).match(...)"
        raise GraphError(f"{node} refers to the rows of a pattern, and this is none (in {self._root})", hint=hint)


_KINDS: dict[type[Node], Callable[..., Compiled]] = {
    Column: _Binder.column,
    Literal: _Binder.literal,
    Call: _Binder.call,
    Case: _Binder.case,
    IsIn: _Binder.is_in,
    Alias: _Binder.alias,
    RowsOf: _Binder.of_a_pattern,
    MatchTime: _Binder.of_a_pattern,
}
