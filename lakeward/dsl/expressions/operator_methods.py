"""What `Expr` inherits: Python's operators, and comparisons that have none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from typing import Literal as Choice

from lakeward.dsl.expressions import arithmetic, conditional, logic
from lakeward.dsl.expressions.nodes import Function
from lakeward.engine.core.errors import GraphError

if TYPE_CHECKING:
    from lakeward.dsl.expressions.expr import Constant, Expr


class Methods:
    """Methods that build calls."""

    __slots__ = ()

    def _call(self, function: Function, *args: Expr | Constant, params: tuple[Any, ...] = ()) -> Expr:
        """A call of a function on this and other arguments."""
        raise NotImplementedError

    def _called_by(self, function: Function, left: Expr | Constant) -> Expr:
        """A call of a function on another argument and this."""
        raise NotImplementedError


class OperatorMethods(Methods):
    """Python's operators."""

    __slots__ = ()

    # Arithmetic

    def __add__(self, other: Expr | Constant) -> Expr:
        return self._call(arithmetic.ADD, other)

    def __radd__(self, other: Constant) -> Expr:
        return self._called_by(arithmetic.ADD, other)

    def __sub__(self, other: Expr | Constant) -> Expr:
        return self._call(arithmetic.SUBTRACT, other)

    def __rsub__(self, other: Constant) -> Expr:
        return self._called_by(arithmetic.SUBTRACT, other)

    def __mul__(self, other: Expr | Constant) -> Expr:
        return self._call(arithmetic.MULTIPLY, other)

    def __rmul__(self, other: Constant) -> Expr:
        return self._called_by(arithmetic.MULTIPLY, other)

    def __truediv__(self, other: Expr | Constant) -> Expr:
        return self._call(arithmetic.TRUE_DIVIDE, other)

    def __rtruediv__(self, other: Constant) -> Expr:
        return self._called_by(arithmetic.TRUE_DIVIDE, other)

    def __floordiv__(self, other: Expr | Constant) -> Expr:
        return self._call(arithmetic.FLOOR_DIVIDE, other)

    def __rfloordiv__(self, other: Constant) -> Expr:
        return self._called_by(arithmetic.FLOOR_DIVIDE, other)

    def __mod__(self, other: Expr | Constant) -> Expr:
        return self._call(arithmetic.MODULO, other)

    def __rmod__(self, other: Constant) -> Expr:
        return self._called_by(arithmetic.MODULO, other)

    def __pow__(self, other: Expr | Constant) -> Expr:
        return self._call(arithmetic.POWER, other)

    def __rpow__(self, other: Constant) -> Expr:
        return self._called_by(arithmetic.POWER, other)

    def __neg__(self) -> Expr:
        return self._call(arithmetic.NEGATE)

    # Comparison and logic

    def __eq__(self, other: Expr | Constant) -> Expr:  # type: ignore[override]
        return self._call(logic.EQUAL, other)

    def __ne__(self, other: Expr | Constant) -> Expr:  # type: ignore[override]
        return self._call(logic.NOT_EQUAL, other)

    def __lt__(self, other: Expr | Constant) -> Expr:
        return self._call(logic.LESS, other)

    def __le__(self, other: Expr | Constant) -> Expr:
        return self._call(logic.LESS_EQUAL, other)

    def __gt__(self, other: Expr | Constant) -> Expr:
        return self._call(logic.GREATER, other)

    def __ge__(self, other: Expr | Constant) -> Expr:
        return self._call(logic.GREATER_EQUAL, other)

    def __and__(self, other: Expr | bool) -> Expr:
        return self._call(logic.AND, other)

    def __rand__(self, other: bool) -> Expr:
        return self._called_by(logic.AND, other)

    def __or__(self, other: Expr | bool) -> Expr:
        return self._call(logic.OR, other)

    def __ror__(self, other: bool) -> Expr:
        return self._called_by(logic.OR, other)

    def __xor__(self, other: Expr | bool) -> Expr:
        return self._call(logic.XOR, other)

    def __rxor__(self, other: bool) -> Expr:
        return self._called_by(logic.XOR, other)

    def __invert__(self) -> Expr:
        return self._call(logic.NOT)

    def between(
        self,
        low: Expr | Constant,
        high: Expr | Constant,
        closed: Choice["both", "left", "right", "none"] = "both",
    ) -> Expr:
        """Whether low <= value <= high.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").between(2, 3), a=[1, 2, 3, 4, None])
        [False, True, True, False, None]

        Args:
            low: The lower bound.
            high: The upper bound.
            closed: Which bounds belong to it.

        Raises:
            GraphError: `closed` is something else.
        """
        if closed not in logic.CLOSED:
            raise GraphError(f"between: no choice {closed!r}", hint='use "both", "left", "right" or "none"')
        return self._call(logic.BETWEEN, low, high, params=() if closed == "both" else (closed,))

    def eq_missing(self, other: Expr | Constant) -> Expr:
        """Whether two values are equal, null being equal to null (SQL's IS NOT DISTINCT FROM).

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").eq_missing(col("b")), a=[1, 1, None, None], b=[1, 2, 1, None])
        [True, False, False, True]
        """
        return self._call(conditional.EQ_MISSING, other)

    def ne_missing(self, other: Expr | Constant) -> Expr:
        """Whether two values differ, null being equal to null (SQL's IS DISTINCT FROM).

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").ne_missing(None), a=[1, None])
        [True, False]
        """
        return self._call(conditional.NE_MISSING, other)
