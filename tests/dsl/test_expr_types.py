"""What binding accepts and refuses, the types it promises, and the words of its errors."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.dsl.expressions import (
    Expr,
    as_column,
    bind_columns,
    coalesce,
    col,
    concat_str,
    evaluate,
    from_epoch,
    greatest,
    least,
    lit,
    struct,
    when,
)
from lakeward.engine.core.errors import GraphError, RecordError, SchemaError, UserCodeError

SCHEMA = pa.schema(
    {
        "i8": pa.int8(),
        "i32": pa.int32(),
        "i64": pa.int64(),
        "u64": pa.uint64(),
        "f32": pa.float32(),
        "price": pa.float64(),
        "d": pa.decimal128(10, 2),
        "wide": pa.decimal128(38, 9),
        "s": pa.string(),
        "ls": pa.large_string(),
        "b": pa.bool_(),
        "at": pa.timestamp("us", tz="UTC"),
        "naive": pa.timestamp("ms"),
        "day": pa.date32(),
        "dur": pa.duration("us"),
        "dict": pa.dictionary(pa.int32(), pa.string()),
        "tags": pa.list_(pa.string()),
        "user": pa.struct({"id": pa.int64(), "name": pa.string()}),
    }
)

TYPES: list[tuple[Expr, pa.DataType]] = [
    (col("i32") + col("i64"), pa.int64()),
    (col("i8") + 1, pa.int8()),
    (col("i8") + 1_000, pa.int64()),
    (col("i32") + 1.5, pa.float64()),
    (col("i64") + col("f32"), pa.float64()),
    (col("i8") * col("f32"), pa.float32()),
    (col("f32") * 0.5, pa.float32()),
    (col("i32") / 2, pa.float64()),
    (col("i32") // 2, pa.int32()),
    (col("price") % 2, pa.float64()),
    (col("i32") ** 2, pa.int32()),
    (col("u64") + col("i64"), pa.int64()),
    (col("d") + col("d"), pa.decimal128(11, 2)),
    (col("d") * Decimal("0.90"), pa.decimal128(13, 4)),
    (col("d") + 1, pa.decimal128(11, 2)),
    (col("d") * 1.5, pa.float64()),
    (col("wide") + col("wide"), pa.decimal128(38, 9)),
    (col("d") > 3, pa.bool_()),
    (-col("i8"), pa.int8()),
    (col("s") + col("s"), pa.string()),
    (col("s") + col("ls"), pa.large_string()),
    (col("dict") + "!", pa.string()),
    (col("dict").str.upper(), pa.string()),
    (col("at") - col("at"), pa.duration("us")),
    (col("at") + timedelta(seconds=1), pa.timestamp("us", tz="UTC")),
    (col("dur") + col("at"), pa.timestamp("us", tz="UTC")),
    (col("day") + timedelta(days=1), pa.timestamp("us")),
    (col("dur") * 2, pa.duration("us")),
    (col("dur") / timedelta(hours=1), pa.float64()),
    (col("at").dt.epoch_ms(), pa.int64()),
    (col("at").dt.date(), pa.date32()),
    (col("at") > datetime(2024, 1, 1, tzinfo=UTC), pa.bool_()),
    (col("at") >= date(2024, 1, 1), pa.bool_()),
    (col("naive") < datetime(2024, 1, 1), pa.bool_()),  # noqa: DTZ001
    (when(col("b")).then(1).otherwise(col("i32")), pa.int32()),
    (when(col("b")).then(1).otherwise(2.5), pa.float64()),
    (when(col("b")).then("x"), pa.string()),
    (coalesce(col("i32"), col("price")), pa.float64()),
    (col("i32").fill_null(0), pa.int32()),
    (greatest(col("i8"), col("i32"), 7), pa.int32()),
    (lit(1), pa.int64()),
    (lit(1) + 2, pa.int64()),
    (lit(None), pa.null()),
    (lit(1, pa.int8()) + col("i32"), pa.int32()),
    (col("i64").is_in([1, 2]), pa.bool_()),
    (col("i64").is_in([]), pa.bool_()),
    (col("i32").floor(), pa.int32()),
    (col("d").round(1), pa.decimal128(10, 2)),
    (col("tags").list.get(0), pa.string()),
    (col("tags").list.length(), pa.int32()),
    (col("user").struct.field("id"), pa.int64()),
    (col("user").struct.name.str.upper(), pa.string()),
    (col("s").cast("decimal(12, 3)"), pa.decimal128(12, 3)),
    (col("s").cast(int), pa.int64()),
    (from_epoch(col("i64")), pa.timestamp("us", tz="UTC")),
    (col("price") * np.float64(2), pa.float64()),
    (np.int64(2) * col("i32"), pa.int32()),
]


@pytest.mark.parametrize(("expression", "kind"), TYPES, ids=[str(expression) for expression, _ in TYPES])
@pytest.mark.parametrize("rows", [0, 3])
def test_the_promised_type_is_the_type_that_comes(expression: Expr, kind: pa.DataType, rows: int) -> None:
    bound = expression.bind(SCHEMA)
    assert bound.type == kind
    batch = pa.RecordBatch.from_arrays([pa.nulls(rows, field.type) for field in SCHEMA], schema=SCHEMA)
    result = bound.evaluate(batch)
    assert result.type == kind
    assert len(result) == rows


REFUSED: list[tuple[Expr, list[str]]] = [
    (col("pric") * 2, ["no column 'pric'", "did you mean 'price'?", 'in col("pric") * 2']),
    (col("s") + 1, ['col("s") + 1', 'col("s") is string', "1 is int64", '.cast("string")']),
    (col("s") * col("i64"), ['col("s") is string', 'col("i64") is int64', '.cast("double")']),
    (col("s") > 5, ['col("s") > 5', "string", "int64", "cast"]),
    (col("i64") & col("b"), ['col("i64") is no condition', "!= 0"]),
    (~col("s"), ["no condition"]),
    (col("i64").str.upper(), ["str.upper() takes text", '.cast("string")']),
    (col("s").dt.year(), ["dt.year() takes times", '.cast("timestamp")']),
    (col("i64").dt.year(), ["from_epoch"]),
    (col("at") > "2024-01-01", ["a time cannot be compared with text"]),
    (col("at") > datetime(2024, 1, 1), ["time zone", "tzinfo=UTC"]),  # noqa: DTZ001
    (col("at") - col("naive"), ["time zone", '.cast("timestamp")']),
    (col("at") + "10s", [".dt.offset("]),
    (col("i64") == None, ["is_null()"]),  # noqa: E711
    (when(col("i64")).then(1).otherwise(2), ["no condition"]),
    (when(col("b")).then(1).otherwise("x"), ["no common type"]),
    (coalesce(col("i64"), col("s")), ["no common type"]),
    (col("d") // 2, ["does not take decimals"]),
    (col("tags") + col("tags"), ["does not take these types"]),
    (col("tags").cast("int64"), ["cast", "int64"]),
    (col("user").struct.field("nam"), ["no field 'nam'", "did you mean 'name'?"]),
    (col("s").str.matches("("), ["'('", "RE2"]),
    (col("s").str.extract("a(b)", 2), ["no group 2"]),
    (col("s").str.split_part("/", 0), ["from 1"]),
    (col("at").dt.floor("10 parsecs"), ["10 parsecs"]),
    (lit(1) // 0, ["lit(1) // lit(0)".replace("lit(0)", "0"), "divide by zero"]),
    (-col("u64"), ["signed"]),
    (concat_str(col("s"), col("i64")), ["concat_str() takes text"]),
]


@pytest.mark.parametrize(("expression", "words"), REFUSED, ids=[str(expression) for expression, _ in REFUSED])
def test_a_wrong_expression_is_refused_with_what_to_do(expression: Expr, words: list[str]) -> None:
    with pytest.raises(GraphError) as caught:
        expression.bind(SCHEMA)
    for word in words:
        assert word in str(caught.value)


def test_a_column_name_that_occurs_twice_is_refused() -> None:
    schema = pa.schema([("a", pa.int64()), ("a", pa.int64())])
    with pytest.raises(SchemaError, match="2 columns are called 'a'"):
        (col("a") + 1).bind(schema)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: bool(col("a") > 1), "use & for and"),
        (lambda: 1 < col("a") < 3, ".between"),
        (lambda: col("a") and col("b"), "use & for and"),
        (lambda: 1 in col("a"), "is_in"),
    ],
)
def test_python_s_own_logic_on_expressions_says_what_to_write(make: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: lit(object()),
        lambda: lit(300, "int8"),
        lambda: lit(2**70),
        lambda: col("a").cast("int65"),
        lambda: col("a").cast("int", errors="ignore"),  # type: ignore[arg-type]
        lambda: col("a").is_in("abc"),
        lambda: coalesce(),
        lambda: coalesce("b", "a"),
        lambda: coalesce(col("a"), "b", col("c")),
        lambda: greatest("a", "b"),
        lambda: least("a"),
        lambda: concat_str("a", "b"),
        lambda: struct(),
        lambda: col(3),  # type: ignore[arg-type]
        lambda: as_column(3),  # type: ignore[arg-type]
        lambda: lit(3).name,
        lambda: col("a").dt.offset("soon").bind(pa.schema({"a": pa.timestamp("us")})),
    ],
)
def test_a_wrong_argument_is_refused_where_it_is_written(make: Any) -> None:
    with pytest.raises(GraphError):
        make()


@pytest.mark.parametrize(
    ("expression", "values", "words"),
    [
        (col("a") + 1, [1, 2**63 - 1], ['col("a") + 1: integer overflow', f"= {2**63 - 1}", "double"]),
        (lit(6) // col("a"), [3, 1, 0, 2], ["division by zero", 'col("a") = 0', "null_if(0)"]),
        (col("a").cast("int8"), [1, 300], ['col("a") = 300', 'errors="null"']),
        (col("a") ** -1, [1], ["negative integer powers"]),
        ((col("a") + 1) * 2, [2**62], ['(col("a") + 1) = 4611686018427387905']),
    ],
)
def test_a_value_that_cannot_be_computed_is_shown(expression: Expr, values: list[int], words: list[str]) -> None:
    with pytest.raises((UserCodeError, RecordError)) as caught:
        evaluate(expression, a=values)
    for word in words:
        assert word in str(caught.value)


def test_a_null_beside_the_failing_value_does_not_fail() -> None:
    assert evaluate(col("a") // col("b"), a=[None, 4], b=[0, 2]) == [None, 2]
    assert evaluate(col("a") // col("b"), a=[7, -7, 7, -7], b=[2, 2, -2, -2]) == [3, -4, -4, 3]
    assert evaluate(col("a") % col("b"), a=[7, -7, 7, -7], b=[2, 2, -2, -2]) == [1, 1, -1, -1]
    assert evaluate(col("a") // 0.0, a=[1.0, -1.0, None]) == [float("inf"), float("-inf"), None]


def test_a_branch_fails_only_for_rows_that_take_it() -> None:
    safe = when(col("b") != 0).then(col("a") // col("b")).when(col("a") > 8).then(-1).otherwise(col("a"))
    assert evaluate(safe, a=[6, 7, 9, None], b=[2, 0, 0, 0]) == [3, 7, -1, None]
    assert evaluate(coalesce(col("a"), 6 // col("b")), a=[1, None, 3], b=[0, 2, 0]) == [1, 3, 3]
    with pytest.raises(UserCodeError, match="division by zero"):
        evaluate(when(col("b") == 0).then(col("a") // col("b")), a=[1], b=[0])


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (col("price") * 2 > 100, '(col("price") * 2) > 100'),
        (2 * col("a") + lit(1, "int8"), '(2 * col("a")) + lit(1, int8)'),
        (1 < col("a"), 'col("a") > 1'),  # noqa: SIM300 (Python turns it around)
        (lit(1) < col("a"), 'lit(1) < col("a")'),
        (~(col("a") | col("b")), '~(col("a") | col("b"))'),
        (-(col("a") ** 2), '-(col("a") ** 2)'),
        ((col("a") + 1).abs(), '(col("a") + 1).abs()'),
        (col('say "hi"').is_null(), 'col("say \\"hi\\"").is_null()'),
        (col("a").str.split_part("/", 3).is_in(["x"]), 'col("a").str.split_part("/", 3).is_in(["x"])'),
        (col("a").cast("int").alias("n"), 'col("a").cast("int64").alias("n")'),
        (col("a").cast("int", errors="null"), 'col("a").cast("int64", errors="null")'),
        (col("a").str.slice(1), 'col("a").str.slice(1)'),
        (concat_str(col("a"), "x", separator="-"), 'concat_str(col("a"), "x", separator="-", ignore_nulls=False)'),
        (from_epoch(col("a")), 'from_epoch(col("a"), unit="ms")'),
        (col("a") + timedelta(seconds=5), 'col("a") + lit(timedelta(seconds=5))'),
        (col("a") > datetime(2024, 1, 1, tzinfo=UTC), 'col("a") > lit(datetime(2024, 1, 1, 0, 0, tzinfo=UTC))'),
        (coalesce(col("a"), None, "x"), 'coalesce(col("a"), None, "x")'),
        (when(col("a")).then(1).otherwise(col("b")), 'when(col("a")).then(1).otherwise(col("b"))'),
        (col("a").dt.offset(microseconds=-1), 'col("a").dt.offset("-1us")'),
    ],
)
def test_an_expression_prints_as_it_is_written(expression: Expr, text: str) -> None:
    assert str(expression) == text


def test_expressions_are_equal_when_they_are_written_alike() -> None:
    assert (col("a") + 1).equals(col("a") + 1)
    assert hash(col("a") + 1) == hash(col("a") + 1)
    for other in (col("a") + 2, col("a") + 1.0, col("a") + True, col("a") - 1, col("b") + 1, (col("a") + 1).alias("x")):
        assert not (col("a") + 1).equals(other)
    assert lit(float("nan")).equals(lit(float("nan")))
    assert col("a").alias("b").source == "a"
    assert (col("a") + col("b")).columns() == {"a", "b"}


def test_a_projection_keeps_what_is_known_of_columns_that_pass_unchanged() -> None:
    field = pa.field("a", pa.int64(), nullable=False, metadata={"unit": "cents"})
    columns, schema = bind_columns({"b": col("a"), "c": col("a") + 1}, pa.schema([field], metadata={"k": "v"}))
    assert schema.field("b") == field.with_name("b")
    assert schema.field("b").metadata == {b"unit": b"cents"}
    assert schema.field("c") == pa.field("c", pa.int64())
    assert schema.metadata == {b"k": b"v"}
    assert [bound.reference for _, bound in columns] == ["a", None]


def test_a_plain_column_is_passed_without_a_copy() -> None:
    batch = pa.record_batch({"a": [1, 2, 3]})
    result = col("a").bind(batch.schema).evaluate(batch)
    assert result.buffers()[1].address == batch.column(0).buffers()[1].address


def test_a_cast_of_dictionary_encoded_text_gives_plain_text() -> None:
    table = pa.table({"x": pa.array(["a", None, "a"]).dictionary_encode()})
    result = lw.StreamExecutionEnvironment().from_collection(table).select(x=col("x").cast("string"))
    assert result.schema.field("x").type == pa.string()
    assert result.execute_and_collect()["x"].to_pylist() == ["a", None, "a"]


def test_text_alone_is_a_constant_and_where_a_column_may_be_meant_the_error_says_how_to_write_either() -> None:
    with pytest.raises(GraphError, match="never asks for what comes behind the text 'b'") as caught:
        coalesce("b", col("a"))
    assert caught.value.hint.endswith("write lw.col('b') for the column, lw.lit('b') for the text")
    for expression in (coalesce(lit("b"), col("a")), greatest(lit("b")), concat_str(lit("b"), lit("c"))):
        assert 'lit("b")' in str(expression)
    assert evaluate(coalesce(lit("b"), col("a")), a=["x"]) == ["b"]
    assert evaluate(concat_str("b", col("a")), a=["x"]) == ["bx"]
    assert evaluate(greatest("b", col("a")), a=["a"]) == ["b"]
    assert evaluate(coalesce(None, col("a"), "none"), a=["x", None]) == ["x", "none"]
