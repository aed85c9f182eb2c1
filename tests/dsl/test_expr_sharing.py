"""What expressions of one step have in common is computed once, and costly parts only for the rows that need them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.dsl.expressions import Expr, bind_columns, coalesce, col, lit, udf, when
from lakeward.engine.api.context import Output
from lakeward.engine.core.errors import UserCodeError
from lakeward.operators.stateless import Filter, Project

BATCH = pa.record_batch({"a": pa.array([1, 2, 3, 4]), "b": pa.array([0, 1, 0, None]), "s": ["x/y", "z", None, "a/b/c"]})


class Kept(Output):
    """The batches that were sent."""

    def __init__(self) -> None:
        self.batches: list[pa.RecordBatch] = []

    def emit(self, batch: pa.RecordBatch) -> None:
        self.batches.append(batch)

    def emit_side(self, tag: str, batch: pa.RecordBatch) -> None:
        raise AssertionError(tag)


class Counted:
    """A function that remembers what it was called with."""

    def __init__(self, function: Callable[[Any], Any] = lambda value: value * 10) -> None:
        self.seen: list[Any] = []
        self._function = function

    def __call__(self, value: Any) -> Any:
        self.seen.append(value)
        return self._function(value)


def project(**columns: Expr) -> pa.RecordBatch:
    bound, schema = bind_columns(columns, BATCH.schema)
    out = Kept()
    Project(bound, schema).create().on_batch(BATCH, out)
    return out.batches[0]


def test_a_part_that_several_columns_have_is_computed_once() -> None:
    counted = Counted()
    costly = udf(counted, returns=int)(col("a"))
    made = project(x=costly, y=costly + 1, z=when(costly > 20).then(costly))
    assert made.to_pydict() == {"x": [10, 20, 30, 40], "y": [11, 21, 31, 41], "z": [None, None, 30, 40]}
    assert counted.seen == [1, 2, 3, 4]


def test_a_part_that_one_column_has_twice_is_computed_once_also_when_it_was_written_twice() -> None:
    counted = Counted()
    function = udf(counted, returns=int)
    made = project(x=function(col("a")) + function(col("a")))
    assert made["x"].to_pylist() == [20, 40, 60, 80]
    assert counted.seen == [1, 2, 3, 4]


def test_a_filter_computes_a_shared_part_once() -> None:
    counted = Counted()
    costly, out = udf(counted, returns=int)(col("a")), Kept()
    Filter(((costly > 10) & (costly < 40)).bind(BATCH.schema)).create().on_batch(BATCH, out)
    assert out.batches[0]["a"].to_pylist() == [2, 3]
    assert counted.seen == [1, 2, 3, 4]


def test_each_batch_is_computed_anew() -> None:
    counted = Counted()
    costly = udf(counted, returns=int)(col("a"))
    bound, schema = bind_columns({"x": costly, "y": costly}, BATCH.schema)
    operator, out = Project(bound, schema).create(), Kept()
    operator.on_batch(BATCH, out)
    operator.on_batch(BATCH.slice(2), out)
    assert [batch["y"].to_pylist() for batch in out.batches] == [[10, 20, 30, 40], [30, 40]]
    assert counted.seen == [1, 2, 3, 4, 3, 4]


def test_columns_computed_alone_share_nothing_but_are_right() -> None:
    part = col("s").str.split_part("/", 1)
    assert project(x=part, y=col("s").str.split_part("/", 2)).to_pydict() == {
        "x": ["x", "z", None, "a"],
        "y": ["y", None, None, "b"],
    }
    assert part.bind(BATCH.schema).evaluate(BATCH).to_pylist() == ["x", "z", None, "a"]


def test_a_stream_calls_a_function_once_a_row_for_all_columns_of_a_step() -> None:
    counted = Counted()
    costly = lw.udf(counted, returns=int)(col("a"))
    stream = lw.StreamExecutionEnvironment().from_collection([{"a": 1}, {"a": 2}])
    made = stream.with_columns(x=costly, y=costly * 2).execute_and_collect().to_pylist()
    assert made == [{"a": 1, "x": 10, "y": 20}, {"a": 2, "x": 20, "y": 40}]
    assert sorted(counted.seen) == [1, 2]


@pytest.mark.parametrize(
    ("make", "wanted", "seen"),
    [
        (lambda f: when(col("b") == 0).then(f(col("a"))).otherwise(-1), [10, -1, 30, -1], [1, 3]),
        (lambda f: when(col("b") == 0).then(0).otherwise(f(col("a"))), [0, 20, 0, 40], [2, 4]),
        (lambda f: when(col("a") > 9).then(f(col("a"))).otherwise(5), [5, 5, 5, 5], []),
        (lambda f: when(col("a") > 0).then(f(col("a"))).otherwise(5), [10, 20, 30, 40], [1, 2, 3, 4]),
        (lambda f: coalesce(col("b"), f(col("a"))), [0, 1, 0, 40], [4]),
        (lambda f: (col("a") > 2) & (f(col("a")) > 30), [False, False, False, True], [3, 4]),
        (lambda f: (f(col("a")) > 30) & (col("a") > 2), [False, False, False, True], [3, 4]),
        (lambda f: (col("a") > 2) | (f(col("a")) > 10), [False, True, True, True], [1, 2]),
        (lambda f: (col("b") == 0) & (f(col("a")) > 10), [False, False, True, None], [1, 3, 4]),
    ],
)
def test_a_costly_part_sees_only_the_rows_that_need_it(make: Any, wanted: list[Any], seen: list[int]) -> None:
    counted = Counted()
    assert project(x=make(udf(counted, returns=int)))["x"].to_pylist() == wanted
    assert counted.seen == seen


def test_a_costly_part_that_is_needed_elsewhere_too_is_computed_for_all_rows_once() -> None:
    counted = Counted()
    costly = udf(counted, returns=int)(col("a"))
    made = project(x=when(col("b") == 0).then(costly).otherwise(-1), y=costly)
    assert made.to_pydict() == {"x": [10, -1, 30, -1], "y": [10, 20, 30, 40]}
    assert counted.seen == [1, 2, 3, 4]


def test_a_value_that_fails_only_in_rows_that_do_not_take_it_does_no_harm() -> None:
    inverse = udf(lambda value: 12 // value, returns=int)(col("b"))
    assert project(x=when(col("b") != 0).then(inverse))["x"].to_pylist() == [None, 12, None, None]
    with pytest.raises(UserCodeError, match="ZeroDivisionError"):
        project(x=inverse)


def test_constants_are_folded_when_the_graph_is_built() -> None:
    bound = ((lit(2) + 3) * 4).bind(BATCH.schema)
    assert bound.evaluate(BATCH).to_pylist() == [20] * 4
    assert bound.columns == frozenset()


def test_dictionary_columns_are_decoded_once_a_step_and_come_out_plain() -> None:
    coded = pa.record_batch({"s": pa.array(["a", "b", "a"]).dictionary_encode()})
    bound, schema = bind_columns({"x": col("s").str.upper(), "y": col("s") + "!"}, coded.schema)
    out = Kept()
    Project(bound, schema).create().on_batch(coded, out)
    assert out.batches[0].to_pydict() == {"x": ["A", "B", "A"], "y": ["a!", "b!", "a!"]}
