"""What `Expr` inherits: the functions of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Literal as Choice

from lakeward.dsl.expressions import arithmetic, numeric
from lakeward.dsl.expressions.operator_methods import Methods

if TYPE_CHECKING:
    from lakeward.dsl.expressions.expr import Constant, Expr


class NumberMethods(Methods):
    """Functions of numbers. Null stays null."""

    __slots__ = ()

    def abs(self) -> Expr:
        """The distance from zero, of a number or a duration.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").abs(), a=[-3, 3])
        [3, 3]
        """
        return self._call(numeric.ABS)

    def sign(self) -> Expr:
        """-1, 0 or 1, in the same type.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").sign(), a=[-3.5, 0.0, 2.0])
        [-1.0, 0.0, 1.0]
        """
        return self._call(numeric.SIGN)

    def round(self, digits: int = 0, mode: Choice["half_even", "half_up"] = "half_even") -> Expr:
        """Rounded to so many digits after the point, in the same type (an error where a decimal has no room for it).

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").round(1), a=[1.25, 1.35, -2.0])
        [1.2, 1.4, -2.0]
        >>> evaluate(col("a").round(mode="half_up"), a=[0.5, -2.5])
        [1.0, -3.0]

        Args:
            digits: How many; -2 rounds to hundreds.
            mode: Where halves go: "half_even" to the even neighbour, as in Python; "half_up" away from zero, as in SQL.
        """
        chosen = None if mode == "half_even" else mode
        params = () if not digits and chosen is None else (digits, chosen)
        return self._call(numeric.ROUND, params=params)

    def floor(self) -> Expr:
        """The next whole number down, in the same type.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").floor(), a=[1.5, -1.5])
        [1.0, -2.0]
        """
        return self._call(numeric.FLOOR)

    def ceil(self) -> Expr:
        """The next whole number up, in the same type.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").ceil(), a=[1.5, -1.5])
        [2.0, -1.0]
        """
        return self._call(numeric.CEIL)

    def trunc(self) -> Expr:
        """Without the fraction, in the same type.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").trunc(), a=[1.5, -1.5])
        [1.0, -1.0]
        """
        return self._call(numeric.TRUNC)

    def clip(self, low: Expr | Constant = None, high: Expr | Constant = None) -> Expr:
        """Not below one bound and not above another; None is no bound.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").clip(0, 10), a=[-5, 5, 50, None])
        [0, 5, 10, None]
        >>> evaluate(col("a").clip(high=10), a=[-5, 50])
        [-5, 10]
        """
        return self._call(numeric.CLIP, low, high)

    def sqrt(self) -> Expr:
        """The square root; nan of negative numbers.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").sqrt(), a=[9.0])
        [3.0]
        """
        return self._call(numeric.SQRT)

    def pow(self, exponent: Expr | Constant) -> Expr:
        """To the power of; the same as `**`.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").pow(2), a=[3])
        [9]
        """
        return self._call(arithmetic.POWER, exponent)

    def exp(self) -> Expr:
        """Euler's number to the power of the value.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").exp(), a=[0.0])
        [1.0]
        """
        return self._call(numeric.EXP)

    def ln(self) -> Expr:
        """The natural logarithm; -inf of zero, nan of negative numbers.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").ln(), a=[1.0])
        [0.0]
        """
        return self._call(numeric.LN)

    def log(self, base: Expr | Constant) -> Expr:
        """The logarithm to a base.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").log(2), a=[8.0])
        [3.0]
        """
        return self._call(numeric.LOG, base)

    def log2(self) -> Expr:
        """The logarithm to base 2.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").log2(), a=[8.0])
        [3.0]
        """
        return self._call(numeric.LOG2)

    def log10(self) -> Expr:
        """The logarithm to base 10.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").log10(), a=[1000.0])
        [3.0]
        """
        return self._call(numeric.LOG10)

    def sin(self) -> Expr:
        """The sine of an angle in radians.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").sin(), a=[0.0])
        [0.0]
        """
        return self._call(numeric.SIN)

    def cos(self) -> Expr:
        """The cosine of an angle in radians.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").cos(), a=[0.0])
        [1.0]
        """
        return self._call(numeric.COS)

    def tan(self) -> Expr:
        """The tangent of an angle in radians.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").tan(), a=[0.0])
        [0.0]
        """
        return self._call(numeric.TAN)

    def asin(self) -> Expr:
        """The angle in radians whose sine this is.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").asin(), a=[0.0])
        [0.0]
        """
        return self._call(numeric.ASIN)

    def acos(self) -> Expr:
        """The angle in radians whose cosine this is.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").acos(), a=[1.0])
        [0.0]
        """
        return self._call(numeric.ACOS)

    def atan(self) -> Expr:
        """The angle in radians whose tangent this is.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").atan(), a=[0.0])
        [0.0]
        """
        return self._call(numeric.ATAN)

    def atan2(self, x: Expr | Constant) -> Expr:
        """The angle in radians of the point (x, this).

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").atan2(1.0), a=[0.0])
        [0.0]
        """
        return self._call(numeric.ATAN2, x)

    def is_nan(self) -> Expr:
        """Whether a number is "not a number".

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").is_nan(), a=[1.5, float("nan"), None])
        [False, True, None]
        """
        return self._call(numeric.IS_NAN)

    def is_finite(self) -> Expr:
        """Whether a number is neither infinite nor nan.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").is_finite(), a=[1.5, float("inf"), float("nan")])
        [True, False, False]
        """
        return self._call(numeric.IS_FINITE)

    def fill_nan(self, value: Expr | Constant) -> Expr:
        """The value, or another where it is nan.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").fill_nan(None), a=[1.5, float("nan")])
        [1.5, None]
        """
        return self._call(numeric.FILL_NAN, value)

    def bit_and(self, other: Expr | Constant) -> Expr:
        """The bits that both integers have.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").bit_and(6), a=[12, 3])
        [4, 2]
        """
        return self._call(numeric.BIT_AND, other)

    def bit_or(self, other: Expr | Constant) -> Expr:
        """The bits that one or both integers have.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").bit_or(6), a=[12, 3])
        [14, 7]
        """
        return self._call(numeric.BIT_OR, other)

    def bit_xor(self, other: Expr | Constant) -> Expr:
        """The bits that just one of two integers has.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").bit_xor(6), a=[12, 3])
        [10, 5]
        """
        return self._call(numeric.BIT_XOR, other)

    def bit_not(self) -> Expr:
        """The bits that an integer does not have.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").bit_not(), a=[0, -1])
        [-1, 0]
        """
        return self._call(numeric.BIT_NOT)

    def shift_left(self, bits: Expr | Constant) -> Expr:
        """An integer's bits moved up; those that leave the type are lost.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").shift_left(2), a=[3])
        [12]
        """
        return self._call(numeric.SHIFT_LEFT, bits)

    def shift_right(self, bits: Expr | Constant) -> Expr:
        """An integer's bits moved down; the sign stays.

        >>> from lakeward.dsl.expressions import col, evaluate
        >>> evaluate(col("a").shift_right(1), a=[12, -2])
        [6, -1]
        """
        return self._call(numeric.SHIFT_RIGHT, bits)
