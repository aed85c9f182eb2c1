"""Conditions and measures of a pattern, bound to a stream: what they refer to becomes columns of their own."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from lakeward.dsl.aggregates import AggregateExpr
from lakeward.dsl.expressions import Expr, col
from lakeward.dsl.expressions.nodes import Column, Node, walk
from lakeward.dsl.expressions.pattern_nodes import MatchTime, RowsOf, replaced
from lakeward.engine.core.errors import GraphError, SchemaError
from lakeward.engine.core.expect import expect
from lakeward.engine.core.names import did_you_mean
from lakeward.operators.patterns.pattern import Formula, Reference


class Binder:
    """Binds the expressions of one pattern.

    Args:
        schema: The stream's.
        variables: The pattern's variables in order.
        time_column: The event time; None: there is none.
    """

    def __init__(self, schema: pa.Schema, variables: Sequence[str], time_column: str | None) -> None:
        self._schema = schema
        self._variables = variables
        self._time_column = time_column
        self.inputs: dict[str, Expr] = {}
        """What the operator reads of each row, by name."""

    def condition(self, variable: str, where: Expr) -> Formula:
        """The condition of a variable.

        Raises:
            SchemaError: It is no boolean, or reads what is not there.
        """
        if any(isinstance(part, MatchTime) for part in walk(where.node)):
            hint = f'the time of the row at hand is col("{self._time_column or "at"}")'
            raise GraphError(
                f"the condition of '{variable}' asks for the time of the match, which has not ended", hint=hint
            )
        formula = self._formula(where)
        if not pa.types.is_boolean(formula.expression.type):
            raise SchemaError(f"the condition of '{variable}' is {formula.expression.type}, no boolean: {where}")
        return formula

    def measure(self, name: str, measure: Expr) -> Formula:
        """A measure."""
        expect(measure, Expr, f"the measure '{name}'", 'give an expression: lw.var("up").last("price")')
        return self._formula(measure)

    def _formula(self, expression: Expr) -> Formula:
        references: dict[RowsOf, str] = {}

        def by(part: RowsOf | MatchTime) -> Node:
            if isinstance(part, MatchTime):
                return Column(self._time())
            return Column(references.setdefault(part, str(part)))

        node = replaced(expression.node, by)
        found = tuple((name, self._reference(part)) for part, name in references.items())
        types = {str(part): self._type(part, self._reference(part)) for part in references}
        fields = [*self._schema, *(pa.field(name, kind) for name, kind in types.items())]
        bound = Expr(node).bind(pa.schema(fields))
        for name in sorted(bound.columns - set(types)):
            self.inputs[name] = col(name)
        return Formula(bound, found)

    def _time(self) -> str:
        if self._time_column is None:
            raise GraphError("match_time() needs event time, and this stream has none", hint="leave it out")
        return self._time_column

    def _reference(self, part: RowsOf) -> Reference:
        for name in part.variables:
            if name not in self._variables:
                hint = did_you_mean(name, self._variables)
                raise GraphError(f"{part}: the pattern has no variable '{name}' with rows", hint=hint)
        stages = tuple(n for n, name in enumerate(self._variables) if not part.variables or name in part.variables)
        if part.function in ("first", "last"):
            assert part.operand is not None, "it has a column"
            return Reference(stages, self._input(part.operand), part.function == "last", part.offset)
        column = None if part.operand is None else self._input(part.operand)
        given = None if part.operand is None else Expr(part.operand)
        return Reference(stages, aggregate=AggregateExpr(part.function, given).bind(self._schema, str(part), column))

    def _type(self, part: RowsOf, reference: Reference) -> pa.DataType:
        if reference.aggregate is not None:
            return reference.aggregate.output_type
        assert part.operand is not None, "it has a column"
        return Expr(part.operand).bind(self._schema).type

    def _input(self, operand: Node) -> str:
        """The name of the column in which the operator finds what is taken of each row."""
        expression = Expr(operand)
        name = expression.source or f"__in({expression})"
        self.inputs[name] = expression
        return name
