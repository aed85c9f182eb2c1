"""Python functions inside of expressions."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import lakeward as lw
from lakeward.dsl.expressions import col, evaluate, lit
from lakeward.engine.core.errors import GraphError, SchemaError, UserCodeError
from lakeward.operators.stateless import Filter


@lw.udf
def joined(left: str, right: int) -> str:
    return f"{left}{right}"


@lw.udf(returns="int32", nulls="pass")
def or_minus_one(value: int | None) -> int:
    return -1 if value is None else value


def checked(value: int) -> int:
    if value > 2:
        raise ValueError("too large")
    return value


def test_a_function_of_values_is_called_row_by_row_with_columns_and_constants() -> None:
    assert evaluate(joined(col("a"), col("b")), a=["x", "y"], b=[1, 2]) == ["x1", "y2"]
    assert evaluate(joined("z", col("b")), b=[1, 2]) == ["z1", "z2"]
    assert evaluate(joined("z", 3), b=[1, 2]) == ["z3", "z3"]


def test_nulls_make_a_null_without_a_call_or_are_passed_on() -> None:
    assert evaluate(joined(col("a"), col("b")), a=["x", None, "z"], b=[None, 2, 3]) == [None, None, "z3"]
    assert evaluate(or_minus_one(col("a")), a=[None, 5]) == [-1, 5]
    assert evaluate(joined(col("a"), lit(None, "int")), a=["x"]) == [None]


def test_the_type_comes_from_the_annotation_or_is_said() -> None:
    schema = pa.schema({"a": pa.int64()})
    assert joined(col("a"), col("a")).bind(schema).type == pa.string()
    assert or_minus_one(col("a")).bind(schema).type == pa.int32()
    with pytest.raises(GraphError, match="no known type") as caught:
        lw.udf(lambda a: a)
    assert "returns=int" in str(caught.value)
    with pytest.raises(SchemaError):
        lw.udf(lambda a: a, returns="nonsense")


@pytest.mark.parametrize("values", [[datetime(2024, 1, 1, tzinfo=UTC)], ["text"], [[1, 2]], [{"x": 1}], [b"b"], [None]])
def test_values_of_every_kind_go_in_and_come_out(values: list[Any]) -> None:
    array = pa.array(values)
    kind = pa.timestamp("us", "UTC") if pa.types.is_timestamp(array.type) else array.type
    column = array.cast(kind)
    made = lw.udf(lambda value: value, returns=kind)(col("a"))
    assert evaluate(made, a=column) == column.to_pylist()


def test_an_error_names_the_function_its_file_and_line_and_the_values() -> None:
    with pytest.raises(UserCodeError) as caught:
        evaluate(lw.udf(checked)(col("a")), a=[1, None, 3, 4])
    text = str(caught.value)
    assert re.search(r"function 'checked' \(.*test_expr_udf\.py:\d+\) raised ValueError: too large", text)
    assert 'for: col("a") = 3' in text
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_error_of_a_function_of_constants_alone_has_no_empty_line_for_a_row() -> None:
    def broken(text: str) -> int:
        return len(text) // 0

    stream = lw.StreamExecutionEnvironment().from_collection([{"a": 1}])
    with pytest.raises(UserCodeError, match="ZeroDivisionError") as caught:
        stream.select(n=lw.udf(broken)("t")).execute_and_collect()
    assert "for:" not in str(caught.value)
    assert "in broken: return len(text) // 0" in str(caught.value)


def test_a_function_that_stops_an_iteration_does_not_lose_rows() -> None:
    def stops(value: int) -> int:
        if value == 2:
            raise StopIteration
        return value

    with pytest.raises(UserCodeError, match="raised StopIteration") as caught:
        evaluate(lw.udf(stops)(col("a")), a=[1, 2, 3])
    assert isinstance(caught.value.__cause__, StopIteration)
    assert caught.value.raised is caught.value.__cause__
    assert "raise StopIteration" in str(caught.value.trace[-1]), "its line, not that of the definition"
    assert caught.value.rows[0].index == 1


def test_a_function_that_stops_an_iteration_once_is_an_error_all_the_same() -> None:
    left = [1, 2]
    with pytest.raises(UserCodeError, match="raised StopIteration") as caught:
        evaluate(lw.udf(lambda value: next(iter(left and [left.pop()])), returns=int)(col("a")), a=[1, 2, 3])
    assert isinstance(caught.value.__cause__, StopIteration)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("vectorised", [False, True])
def test_what_ends_a_process_or_a_generator_passes_through(kind: type[BaseException], vectorised: bool) -> None:
    def ends(value: Any) -> Any:
        raise kind("now")

    made = lw.udf(ends, returns=int, vectorised=vectorised)(col("a"))
    with pytest.raises(kind, match="now"):
        evaluate(made, a=[1])
    with pytest.raises(kind, match="now"):
        lw.StreamExecutionEnvironment().from_collection([{"a": 1}]).with_columns(b=made).execute_and_collect()


class Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ExceptionGroup("both", [ValueError("one"), KeyError("two")]), "ExceptionGroup: both"),
        (Speechless(), "Speechless"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (MemoryError(), "MemoryError"),
    ],
)
@pytest.mark.parametrize("vectorised", [False, True])
def test_odd_exceptions_are_named_and_chained(error: Exception, said: str, vectorised: bool) -> None:
    def odd(value: Any) -> Any:
        raise error

    with pytest.raises(UserCodeError, match=f"raised {said}") as caught:
        evaluate(lw.udf(odd, returns=int, vectorised=vectorised)(col("a")), a=[1])
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(("wrong", "words"), [("x", "'x', which is no int64"), (1.5, "1.5"), (2**70, "no int64")])
def test_a_result_of_another_type_is_shown(wrong: Any, words: str) -> None:
    with pytest.raises(UserCodeError, match="returned") as caught:
        evaluate(lw.udf(lambda value: wrong if value == 2 else value, returns=int)(col("a")), a=[1, 2])
    assert words in str(caught.value)


def test_a_vectorised_function_gets_arrays_and_returns_one() -> None:
    lengths: list[int] = []

    @lw.udf(returns=float, vectorised=True)
    def ratio(a: pa.Array, b: pa.Array) -> pa.Array:
        lengths.append(len(a))
        assert isinstance(b, pa.Array)
        return pc.divide(a.cast(pa.float64()), b)

    assert evaluate(ratio(col("a"), 2), a=[1, None, 3]) == [0.5, None, 1.5]
    assert lengths == [3]


def test_vectorised_udf_is_a_decorator_too() -> None:
    @lw.vectorised_udf(returns=int)
    def doubled(a: pa.Array) -> pa.Array:
        return pc.multiply(a, 2)

    assert evaluate(doubled(col("a")), a=[1, None, 3]) == [2, None, 6]
    with pytest.raises(GraphError, match=r"untyped'.*has no known type") as caught:

        @lw.vectorised_udf
        def untyped(a: pa.Array) -> pa.Array:
            return a

    assert "lw.vectorised_udf(function, returns=int)" in caught.value.hint


def test_a_vectorised_function_may_return_a_numpy_array_or_another_type_that_can_be_cast() -> None:
    halves = lw.vectorised_udf(lambda a: np.asarray(a) // 2, returns="int32")
    assert evaluate(halves(col("a")), a=[4, 7]) == [2, 3]
    chunked = lw.vectorised_udf(lambda a: pa.chunked_array([a]), returns=int)
    assert evaluate(chunked(col("a")), a=[4, 7]) == [4, 7]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda a: a.slice(1), "1 values for 2 rows"),
        (lambda a: 5, "returned 5"),
        (lambda a: pa.array(["x", "y"]), "returned string, not int64"),
        (lambda a: 1 // 0, "ZeroDivisionError"),
    ],
)
def test_a_wrong_result_of_a_vectorised_function_is_an_error_that_names_it(function: Any, words: str) -> None:
    with pytest.raises(UserCodeError) as caught:
        evaluate(lw.vectorised_udf(function, returns=int)(col("a")), a=[1, 2])
    assert words in str(caught.value)
    assert "test_expr_udf.py" in str(caught.value)


def test_the_plan_says_which_steps_leave_the_fast_road() -> None:
    schema = pa.schema({"a": pa.int64()})
    slow = Filter((lw.udf(checked)(col("a")) > 1).bind(schema))
    fast = Filter((lw.vectorised_udf(lambda a: a, returns=int)(col("a")) > 1).bind(schema))
    assert not slow.vectorised
    assert fast.vectorised
    assert slow.description == 'filter checked(col("a")) > 1'


def test_mistakes_are_found_when_the_function_is_wrapped() -> None:
    async def later(value: int) -> int:
        return value

    for make in (
        lambda: lw.udf(later),
        lambda: lw.udf(checked, nulls="sometimes"),  # type: ignore[call-overload]
        lambda: lw.udf(5),  # type: ignore[call-overload]
        lambda: lw.udf(checked)(),
        lambda: lw.udf(lambda a: a, vectorised=True),
    ):
        with pytest.raises(GraphError):
            make()


def test_equal_functions_that_were_wrapped_twice_are_two_functions() -> None:
    first, second = lw.udf(checked), lw.udf(checked)
    assert not first(col("a")).equals(second(col("a")))
    assert first(col("a")).equals(first(col("a")))


def test_a_wrong_number_of_arguments_is_refused_where_it_is_written() -> None:
    with pytest.raises(GraphError, match=r"'joined'.*cannot be called with 1 argument: missing") as caught:
        joined(col("a"))
    assert "(left" in caught.value.hint
    with pytest.raises(GraphError, match="with 3 arguments: too many"):
        joined(col("a"), col("b"), 1)
    assert evaluate(lw.udf(max, returns=int)(col("a"), 2), a=[1, 3]) == [2, 3]  # written in C
    assert evaluate(lw.udf(lambda x, by=2: x * by, returns=int)(col("a")), a=[1]) == [2]
