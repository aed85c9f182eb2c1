"""Random well-typed expressions over random batches agree with an interpreter that goes row by row in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakeward.dsl.expressions import Expr, coalesce, col, concat_str, evaluate, greatest, least, lit, when
from lakeward.engine.core.errors import GraphError, UserCodeError

SCHEMA = pa.schema(
    {"i": pa.int64(), "j": pa.int32(), "x": pa.float64(), "s": pa.string(), "t": pa.string(), "p": pa.bool_()}
)
Row = dict[str, Any]


class Fails(Exception):
    """The row interpreter cannot compute the row."""


@dataclass(frozen=True)
class Pair:
    """An expression and what it means for one row."""

    expression: Expr
    of: Callable[[Row], Any]


def strict(function: Callable[..., Any]) -> Callable[..., Any]:
    """Null where an argument is."""
    return lambda *values: None if any(value is None for value in values) else function(*values)


def checked(value: int, bits: int = 64) -> int:
    if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        raise Fails
    return value


def floor_div(a: int, b: int) -> int:
    if b == 0:
        raise Fails
    return checked(a // b)


def modulo(a: int, b: int) -> int:
    if b == 0:
        raise Fails
    return a % b


def true_div(a: float, b: float) -> float:
    if b == 0:
        return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)
    return a / b


def both(a: bool | None, b: bool | None) -> bool | None:
    if a is False or b is False:
        return False
    return None if a is None or b is None else True


def either(a: bool | None, b: bool | None) -> bool | None:
    if a is True or b is True:
        return True
    return None if a is None or b is None else False


def choose(test: Any, value: Callable[[Row], Any], other: Callable[[Row], Any]) -> Callable[[Row], Any]:
    return lambda row: value(row) if test(row) is True else other(row)


def first(a: Callable[[Row], Any], b: Callable[[Row], Any]) -> Callable[[Row], Any]:
    def of(row: Row) -> Any:
        value = a(row)
        return b(row) if value is None else value

    return of


def best(pick: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: pick([value for value in values if value is not None], default=None)


def binary(sides: st.SearchStrategy[Pair], build: Callable[..., Expr], mean: Callable[..., Any]) -> Any:
    return st.builds(
        lambda a, b: Pair(build(a.expression, b.expression), lambda r: mean(a.of(r), b.of(r))), sides, sides
    )


def unary(side: st.SearchStrategy[Pair], build: Callable[[Expr], Expr], mean: Callable[[Any], Any]) -> Any:
    return st.builds(lambda a: Pair(build(a.expression), lambda r: mean(a.of(r))), side)


def constant(value: Any) -> Pair:
    return Pair(lit(value), lambda row: value)


def column(name: str) -> Pair:
    return Pair(col(name), lambda row: row[name])


SMALL = st.integers(-5, 5)
integers = st.deferred(
    lambda: st.one_of(
        st.just(column("i")),
        SMALL.map(constant),
        unary(st.just(column("j")), lambda a: a.cast("int64"), lambda v: v),
        binary(integers, lambda a, b: a + b, strict(lambda a, b: checked(a + b))),
        binary(integers, lambda a, b: a - b, strict(lambda a, b: checked(a - b))),
        binary(integers, lambda a, b: a * b, strict(lambda a, b: checked(a * b))),
        binary(integers, lambda a, b: a // b, strict(floor_div)),
        binary(integers, lambda a, b: a % b, strict(modulo)),
        unary(integers, lambda a: -a, strict(lambda a: checked(-a))),
        unary(integers, lambda a: a.abs(), strict(lambda a: checked(abs(a)))),
        unary(texts, lambda a: a.str.length().cast("int64"), strict(len)),
        binary(integers, greatest, best(max)),
        binary(integers, least, best(min)),
        chosen(integers),
        filled(integers),
    )
)
floats = st.deferred(
    lambda: st.one_of(
        st.just(column("x")),
        st.floats(-10, 10, allow_nan=False).map(constant),
        binary(integers, lambda a, b: a / b, strict(lambda a, b: true_div(float(a), float(b)))),
        binary(floats, lambda a, b: a + b, strict(lambda a, b: a + b)),
        binary(floats, lambda a, b: a * b, strict(lambda a, b: a * b)),
        chosen(floats),
        filled(floats),
    )
)
texts = st.deferred(
    lambda: st.one_of(
        st.just(column("s")),
        st.just(column("t")),
        st.text("aBß/ ", max_size=3).map(constant),
        binary(texts, lambda a, b: a + b, strict(lambda a, b: a + b)),
        binary(texts, lambda a, b: concat_str(a, b, separator="/"), strict(lambda a, b: f"{a}/{b}")),
        unary(texts, lambda a: a.str.slice(1, 2), strict(lambda v: v[1:3])),
        unary(texts, lambda a: a.str.slice(-2), strict(lambda v: v[-2:])),
        unary(texts, lambda a: a.str.replace("a", "bb"), strict(lambda v: v.replace("a", "bb"))),
        unary(texts, lambda a: a.str.split_part("/", 2), strict(lambda v: part(v, 1))),
        unary(texts, lambda a: a.str.split_part("/", -1), strict(lambda v: part(v, -1))),
        chosen(texts),
        filled(texts),
    )
)
conditions = st.deferred(
    lambda: st.one_of(
        st.just(column("p")),
        binary(integers, lambda a, b: a < b, strict(lambda a, b: a < b)),
        binary(integers, lambda a, b: a == b, strict(lambda a, b: a == b)),
        binary(floats, lambda a, b: a >= b, strict(lambda a, b: a >= b)),
        binary(texts, lambda a, b: a != b, strict(lambda a, b: a != b)),
        unary(integers, lambda a: a.between(-3, 3), strict(lambda v: -3 <= v <= 3)),
        unary(integers, lambda a: a.is_in([1, 2, 3]), strict(lambda v: v in (1, 2, 3))),
        unary(texts, lambda a: a.str.contains("a"), strict(lambda v: "a" in v)),
        unary(texts, lambda a: a.is_null(), lambda v: v is None),
        unary(integers, lambda a: a.is_not_null(), lambda v: v is not None),
        binary(conditions, lambda a, b: a & b, both),
        binary(conditions, lambda a, b: a | b, either),
        binary(conditions, lambda a, b: a ^ b, strict(lambda a, b: a != b)),
        unary(conditions, lambda a: ~a, strict(lambda v: not v)),
    )
)


def part(text: str, index: int) -> str | None:
    parts = text.split("/")
    return parts[index] if index < len(parts) else None


def chosen(values: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    return st.builds(
        lambda c, a, b: Pair(when(c.expression).then(a.expression).otherwise(b.expression), choose(c.of, a.of, b.of)),
        conditions,
        values,
        values,
    )


def filled(values: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    return st.builds(lambda a, b: Pair(coalesce(a.expression, b.expression), first(a.of, b.of)), values, values)


rows = st.lists(
    st.fixed_dictionaries(
        {
            "i": st.none() | st.integers(-6, 6) | st.sampled_from([2**63 - 1, -(2**63)]),
            "j": st.none() | st.integers(-6, 6),
            "x": st.none() | st.floats(-4, 4, allow_nan=False) | st.sampled_from([0.0, math.inf]),
            "s": st.none() | st.text("abß/ ", max_size=4),
            "t": st.none() | st.sampled_from(["a/b/c", "", "B"]),
            "p": st.none() | st.booleans(),
        }
    ),
    max_size=12,
)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return (math.isnan(left) and math.isnan(right)) or left == right
    return type(left) is type(right) and left == right


def expected(pair: Pair, data: list[Row]) -> list[Any] | None:
    """None when some row cannot be computed."""
    try:
        return [pair.of(row) for row in data]
    except Fails:
        return None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(pair=st.one_of(integers, floats, texts, conditions), data=rows, cut=st.integers(0, 3))
def test_an_expression_means_for_every_row_what_plain_python_means(pair: Pair, data: list[Row], cut: int) -> None:
    whole = pa.RecordBatch.from_pylist(data, schema=SCHEMA)
    batch, kept = whole.slice(cut), data[cut:]
    wanted = expected(pair, kept)
    try:
        bound = pair.expression.bind(SCHEMA)
    except GraphError:  # a part of constants alone fails, whatever the rows
        return
    if wanted is None:
        with pytest.raises(UserCodeError):
            bound.evaluate(batch)
        return
    result = bound.evaluate(batch)
    assert isinstance(result, pa.Array)
    assert result.type.equals(bound.type)
    result.validate(full=True)
    found = result.to_pylist()
    assert len(found) == len(wanted)
    assert all(map(same, found, wanted)), f"{pair.expression}: {found} != {wanted}"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pair=st.one_of(integers, floats, texts, conditions))
def test_the_text_of_an_expression_builds_the_same_expression(pair: Pair) -> None:
    names = {"col": col, "lit": lit, "when": when, "coalesce": coalesce, "greatest": greatest, "least": least}
    again = eval(str(pair.expression), names | {"concat_str": concat_str})
    assert str(again) == str(pair.expression)
    assert again.equals(pair.expression)
    assert hash(again) == hash(pair.expression)


def test_membership_takes_both_zeros_for_one_number() -> None:
    assert evaluate(col("a").is_in([0.0, 2.0]), a=[0.0, -0.0, 2.0, 1.0, None]) == [True, True, True, False, None]
    assert evaluate(col("a").is_in([-0.0]), a=[0.0, -0.0]) == [True, True]


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32()])
def test_membership_takes_nan_for_one_value_whatever_its_bits(kind: pa.DataType) -> None:
    values = pa.array([math.nan, -math.nan, 1.0, None], kind)
    for nan in (math.nan, -math.nan):
        assert evaluate(col("a").is_in([nan]), a=values) == [True, True, False, None]
        assert evaluate(~col("a").is_in([nan, 1.0]), a=values) == [False, False, False, None]
        lists = pa.array([[nan], [2.0, None], None], pa.list_(kind))
        assert evaluate(col("a").list.contains(-nan), a=lists) == [True, False, None]
        assert evaluate(col("a") == nan, a=values) == [False, False, False, None]
    assert evaluate(col("a").is_in([1.0]), a=values) == [False, False, True, None]
    assert evaluate(col("a").is_in([math.nan, 2]), a=[1, 2]) == [False, True]
