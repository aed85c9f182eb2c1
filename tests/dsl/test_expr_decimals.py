"""Decimals are exact, with SQL's rules of digits; casts round as SQL does, or say which value does not fit."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.dsl.expressions import Expr, col, evaluate, lit
from lakeward.engine.core.errors import RecordError, SchemaError, UserCodeError

prices = st.integers(-(2**63), 2**63 - 1)


def bound_type(expression: Expr, **columns: pa.DataType) -> pa.DataType:
    return expression.bind(pa.schema(columns)).type


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.none() | prices, max_size=10))
def test_a_decimal_times_any_integer_is_exact(values: list[int | None]) -> None:
    made = lit(Decimal("0.908")) * col("price")
    wanted = [None if value is None else Decimal("0.908") * value for value in values]
    assert evaluate(made, price=pa.array(values, pa.int64())) == wanted
    assert bound_type(made, price=pa.int64()) == pa.decimal128(23, 3)


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        (col("a") * col("b"), pa.decimal128(19, 5)),
        (col("a") + col("b"), pa.decimal128(12, 3)),
        (col("a") - 1, pa.decimal128(11, 2)),
        (col("a") * col("i"), pa.decimal128(21, 2)),
        (col("wide") * col("wide"), pa.decimal128(38, 18)),
        (col("wide") / col("wide"), pa.decimal128(38, 6)),
        (col("a") / col("b"), pa.decimal128(19, 8)),
        (col("a") * 1.5, pa.float64()),
        (col("a") * Decimal("0.5"), pa.decimal128(12, 3)),
    ],
)
def test_results_have_the_digits_that_sql_gives_them(expression: Expr, kind: pa.DataType) -> None:
    columns = {"a": pa.decimal128(10, 2), "b": pa.decimal128(8, 3), "i": pa.int32(), "wide": pa.decimal128(38, 9)}
    assert bound_type(expression, **columns) == kind


def test_decimals_of_38_digits_are_multiplied_and_divided() -> None:
    wide = pa.array([Decimal("123456789.123456789"), Decimal(2), None], pa.decimal128(38, 9))
    assert evaluate(col("a") * col("a"), a=wide) == [Decimal("15241578780673678.515622620750190521"), 4, None]
    assert evaluate(col("b") / col("a"), a=wide, b=pa.array([1, 1, 1], pa.decimal128(38, 9)))[1] == Decimal("0.5")
    thirds = evaluate(col("a") / 3, a=pa.array([Decimal(1), Decimal(2)], pa.decimal128(38, 9)))
    assert thirds == [Decimal("0.333333333"), Decimal("0.666666667")]


def test_a_product_beyond_38_digits_is_an_error_not_another_number() -> None:
    wide = pa.array([Decimal(10) ** 28], pa.decimal128(38, 9))
    with pytest.raises(UserCodeError):
        evaluate(col("a") * col("a"), a=wide)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.none() | st.decimals(-(10**8), 10**8, places=4), max_size=10), digits=st.integers(0, 4))
def test_a_cast_to_fewer_digits_rounds_halves_away_from_zero(values: list[Decimal | None], digits: int) -> None:
    array = pa.array(values, pa.decimal128(13, 4))
    unit = Decimal(1).scaleb(-digits)
    by_mode: dict[str, Any] = {"half_up": ROUND_HALF_UP, "half_even": ROUND_HALF_EVEN}
    rounded = {m: [None if v is None else v.quantize(unit, mode) for v in values] for m, mode in by_mode.items()}
    assert evaluate(col("a").cast(pa.decimal128(13, digits)), a=array) == rounded["half_up"]
    wide = array.cast(pa.decimal128(20, 4))
    for mode, wanted in rounded.items():
        assert evaluate(col("a").round(digits, mode), a=wide) == wanted  # type: ignore[arg-type]


def test_a_cast_that_needs_one_digit_more_says_which_value_it_is() -> None:
    array = pa.array([Decimal("1.25"), Decimal("9.99")], pa.decimal128(3, 2))
    assert evaluate(col("a").cast("decimal(3, 1)"), a=array) == [Decimal("1.3"), Decimal("10.0")]
    assert evaluate(col("a").cast("decimal(2, 1)", errors="null"), a=array) == [Decimal("1.3"), None]
    with pytest.raises(RecordError, match=r"9\.99"):
        evaluate(col("a").cast("decimal(2, 1)"), a=array)
    full = pa.array([Decimal("9" * 37 + ".5")], pa.decimal128(38, 1))
    assert evaluate(col("a").cast("decimal(38, 0)"), a=full) == [Decimal(10) ** 37]


def test_a_decimal_becomes_an_integer_without_its_fraction() -> None:
    array = pa.array([Decimal("1.99"), Decimal("-1.99"), None], pa.decimal128(10, 2))
    assert evaluate(col("a").cast("int"), a=array) == [1, -1, None]


def test_a_float_becomes_the_nearest_decimal_and_nan_none() -> None:
    assert evaluate(col("a").cast("decimal(5, 2)"), a=[2.5, 1.375]) == [Decimal("2.50"), Decimal("1.38")]
    with pytest.raises(RecordError, match="nan"):
        evaluate(col("a").cast("decimal(5, 2)"), a=[float("nan")])


def test_decimals_compare_exactly_with_integers_and_literals() -> None:
    dearer = lit(Decimal("0.908")) * col("price") > 1_000_000
    assert evaluate(dearer, price=[1_101_321, 1_101_322, None]) == [False, True, None]
    assert evaluate(lit(Decimal("0.1")) * col("price") == Decimal("0.3"), price=[3, 4]) == [True, False]


@pytest.mark.parametrize("rounded", [col("a").round(), col("a").round(1, "half_up"), col("a").ceil()])
def test_rounding_up_a_decimal_without_room_for_it_is_an_error_not_zero(rounded: Expr) -> None:
    for kind, nines in ((pa.decimal128(4, 2), "99.99"), (pa.decimal128(38, 2), "9" * 36 + ".99")):
        array = pa.array([Decimal(nines)], kind)
        with pytest.raises(UserCodeError, match="does not fit"):
            evaluate(rounded, a=array)
    assert evaluate(rounded, a=pa.array([Decimal("99.99"), None], pa.decimal128(5, 2))) == [100, None]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_quotient_of_decimals_is_rounded_and_never_cut(data: st.DataObject) -> None:
    kinds, values = [], []
    for name in ("dividend", "divisor"):
        precision = data.draw(st.integers(1, 38), name)
        kinds.append(pa.decimal128(precision, data.draw(st.integers(0, precision), name)))
        digits = data.draw(st.integers(1, 10**precision - 1), name)
        values.append(Decimal(digits).scaleb(-kinds[-1].scale, Context(prec=80)))
    quotient = col("a") / col("b")
    if kinds[0].scale + kinds[1].precision + 1 > 76:  # more digits than Arrow computes with, even of nothing
        with pytest.raises(SchemaError, match="too many digits"):
            bound_type(quotient, a=kinds[0], b=kinds[1])
        return
    kind = bound_type(quotient, a=kinds[0], b=kinds[1])
    exact = Context(prec=160, rounding=ROUND_HALF_UP)
    wanted = exact.quantize(exact.divide(*values), Decimal(1).scaleb(-kind.scale))
    columns = {name: pa.array([value], kind) for name, value, kind in zip("ab", values, kinds, strict=True)}
    if wanted < Decimal(10) ** (kind.precision - kind.scale):
        assert evaluate(quotient, **columns) == [wanted]
    else:
        with pytest.raises(UserCodeError, match="fit"):
            evaluate(quotient, **columns)
