"""Streams: schemas are known while the job is written, and mistakes are found there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward import col
from lakeward.dsl.stream import DataStream
from lakeward.engine.core.errors import ConfigError, GraphError, LakewardError, SchemaError

AT = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = [
    {"shop": "a", "amount": 3, "at": AT},
    {"shop": "b", "amount": 5, "at": AT + timedelta(seconds=4)},
    {"shop": "a", "amount": 7, "at": AT + timedelta(seconds=11)},
]


def orders() -> DataStream:
    env = lw.StreamExecutionEnvironment()
    return env.from_collection(ROWS, watermark=lw.WatermarkStrategy.monotonous("at"))


def test_a_wrong_column_names_the_nearest_one_and_the_users_line() -> None:
    for verb in (
        lambda: orders().filter(col("amuont") > 1),
        lambda: orders().select("amuont"),
        lambda: orders().with_columns(x=col("amuont") + 1),
        lambda: orders().drop("amuont"),
        lambda: orders().rename({"amuont": "x"}),
        lambda: orders().key_by("amuont"),
    ):
        with pytest.raises(SchemaError) as caught:
            verb()
        assert "did you mean 'amount'" in str(caught.value)
        assert __file__ in str(caught.value)


@dataclass
class Broken:
    amount: Nowhere  # type: ignore[name-defined]  # noqa: F821


def odd(text: str | None) -> Callable[[Any], Any]:
    """A function with this return annotation."""

    def made(row: Any) -> Any:
        return row

    made.__annotations__ = {} if text is None else {"return": text}
    return made


@pytest.mark.parametrize(
    ("function", "returns", "words"),
    [
        (odd(None), None, "it has no return annotation"),
        (odd("dict"), None, "it returns 'dict', which names no columns"),
        (odd("Nowhere"), None, "annotation 'Nowhere' cannot be resolved"),
        (odd("1 / 0"), None, "annotation '1 / 0' cannot be resolved: division by zero"),
        (odd("Broken"), None, "annotations of Broken cannot be resolved: name 'Nowhere'"),
        (odd(None), int, "no schema can be made of <class 'int'>"),
        (odd(None), {"x": complex}, "column 'x': no Arrow type for <class 'complex'>"),
        (odd(None), {1: int}, "has a column 1"),
    ],
)
def test_a_function_whose_columns_are_not_known_names_the_users_line(
    function: Callable[[Any], Any], returns: Any, words: str
) -> None:
    verbs = [lambda: orders().map(function, returns=returns), lambda: orders().flat_map(function, returns=returns)]
    if returns is not None:
        verbs.append(lambda: orders().map_batches(function, returns=returns))
    for verb in verbs:
        with pytest.raises(GraphError) as caught:
            verb()
        assert words in caught.value.message
        assert (caught.value.location or "").startswith(__file__)


def test_an_aggregate_of_a_wrong_column_or_type_is_refused() -> None:
    windows = orders().key_by("shop").window(lw.Tumbling("10s"))
    with pytest.raises(SchemaError, match="amuont"):
        windows.aggregate(x=lw.sum("amuont"))
    with pytest.raises(SchemaError, match="shop"):
        windows.aggregate(x=lw.sum("shop"))
    with pytest.raises(SchemaError, match="already has a column 'shop'"):
        windows.aggregate(shop=lw.count())
    with pytest.raises(GraphError, match="at least one aggregate"):
        windows.aggregate()


def test_a_filter_that_is_no_condition_is_refused() -> None:
    with pytest.raises(SchemaError, match="needs a boolean"):
        orders().filter(col("amount") + 1)


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(SchemaError, match="two columns named 'shop'"):
        orders().select("shop", col("amount").alias("shop"))
    with pytest.raises(SchemaError, match="two columns named 'shop'"):
        orders().rename({"amount": "shop"})


def test_a_union_of_different_schemas_names_the_first_difference() -> None:
    stream = orders()
    other = stream.with_columns(amount=col("amount").cast("float64"))
    with pytest.raises(SchemaError, match="'amount: int64' and 'amount: double'"):
        stream.union(other)


def test_a_uid_twice_or_malformed_is_refused() -> None:
    stream = orders().filter(col("amount") > 1, uid="mine")
    with pytest.raises(GraphError, match="uid 'mine' is taken"):
        stream.filter(col("amount") > 2, uid="mine")
    with pytest.raises(GraphError, match="cannot be a uid"):
        stream.filter(col("amount") > 2, uid="../evil")


def test_a_function_whose_rows_type_is_unknown_is_refused() -> None:
    with pytest.raises(GraphError, match="returns"):
        orders().map(lambda row: row)


def test_a_side_stream_that_nobody_makes_is_refused() -> None:
    late = lw.OutputTag("late")
    with pytest.raises(GraphError, match="no side stream 'late'"):
        orders().key_by("shop").window(lw.Tumbling("10s")).aggregate(n=lw.count()).side_output(late)


def test_the_event_time_survives_a_rename_but_not_a_change() -> None:
    renamed = orders().rename({"at": "when"})
    table = renamed.key_by("shop").window(lw.Tumbling("10s")).aggregate(n=lw.count()).execute_and_collect()
    assert sorted(table["n"].to_pylist()) == [1, 1, 1]
    changed = orders().with_columns(at=col("at").dt.offset("1h"))
    with pytest.raises(GraphError, match="windows need event time"):
        changed.key_by("shop").window(lw.Tumbling("10s"))


def test_keys_may_be_several_columns_and_expressions() -> None:
    keyed = orders().key_by("shop", (col("amount") % 2).alias("odd")).window(lw.Sliding("20s", "10s"))
    table = keyed.aggregate(total=lw.sum(col("amount") * 10), mean=lw.mean("amount")).execute_and_collect()
    rows = sorted((row["shop"], row["odd"], row["window_start"].second, row["total"]) for row in table.to_pylist())
    assert rows == [("a", 1, 0, 100), ("a", 1, 10, 70), ("a", 1, 50, 30), ("b", 1, 0, 50), ("b", 1, 50, 50)]


@dataclass
class Order:
    shop: str
    amount: int


def doubled(order: Order) -> Order:
    return Order(order.shop, order.amount * 2)


def test_python_functions_take_and_give_dataclasses() -> None:
    stream = orders().select("shop", "amount").map(doubled)
    assert stream.schema == pa.schema({"shop": pa.string(), "amount": pa.int64()})
    assert stream.filter(lambda row: row["amount"] > 6).execute_and_collect()["amount"].to_pylist() == [10, 14]


def test_explain_says_which_steps_leave_the_fast_road() -> None:
    env = lw.StreamExecutionEnvironment(parallelism=2)
    stream = (
        env.from_collection(ROWS)
        .filter(col("amount") > 1, uid="quick")
        .map(lambda r: r, returns={"a": int}, uid="slow")
    )
    stream.sink_to(lw.BlackholeSink())
    lines = env.explain().splitlines()
    assert any("slow" in line and "row by row in Python" in line for line in lines)
    assert not any("quick" in line and "row by row" in line for line in lines)


def test_collecting_a_stream_leaves_the_job_as_it_was() -> None:
    env = lw.StreamExecutionEnvironment()
    stream = env.from_collection(ROWS)
    assert len(stream.execute_and_collect()) == 3
    assert len(stream.filter(col("shop") == "a").execute_and_collect()) == 2
    with pytest.raises(GraphError, match="no sink"):
        env.execute("job")


@pytest.mark.parametrize(
    "mistake",
    [
        lambda s: s.select(x=5),
        lambda s: s.drop(5),
        lambda s: s.rename("amount"),
        lambda s: s.rename({"amount": 5}),
        lambda s: s.union([s]),
        lambda s: s.union(orders()),
        lambda s: s.key_by(col("amount") % 2),
        lambda s: s.map(5, returns={"a": int}),
        lambda s: s.filter("amount > 2"),
        lambda s: lw.StreamExecutionEnvironment().execute(5),
        lambda s: s.sink_to("table"),
        lambda s: s.filter(col("amount") > 1, uid=5),
        lambda s: s.filter(col("amount") > 1, parallelism="2"),
        lambda s: s.key_by("shop").window("10s"),
        lambda s: s.key_by("shop").window(lw.Tumbling(None)),
        lambda s: s.key_by("shop").window(lw.Tumbling("1s")).aggregate(x=sum),
        lambda s: s.key_by("shop").window(lw.Tumbling("1s")).aggregate(x="amount"),
        lambda s: s.key_by("shop").window(lw.Tumbling("1s")).side_output_late_data("late"),
        lambda s: s.side_output("late"),
        lambda s: lw.StreamExecutionEnvironment().from_source("orders"),
        lambda s: lw.StreamExecutionEnvironment().from_collection(ROWS, watermark="at"),
        lambda s: lw.StreamExecutionEnvironment(checkpoint_dir=5),
        lambda s: lw.StreamExecutionEnvironment(parallelism="2"),
        lambda s: lw.StreamExecutionEnvironment(config={"parallelism": 2}),
        lambda s: s.filter(col("amount") > 1, parallelism=0),
        lambda s: s.key_by("shop", "shop"),
        lambda s: s.key_by("shop", col("amount").alias("n"), "n"),
        lambda s: lw.count(5),
        lambda s: lw.sum(5),
        lambda s: lw.sum(None),
        lambda s: lw.min([1, 2]),
        lambda s: lw.max(lw.when(col("amount") > 1)),
        lambda s: lw.mean(lambda row: row["amount"]),
        lambda s: lw.first(b"amount"),
        lambda s: lw.last(5.5),
        lambda s: lw.count_distinct(("shop", "amount")),
    ],
)
def test_an_argument_of_a_wrong_type_is_refused_with_a_hint(mistake: Callable[[DataStream], object]) -> None:
    with pytest.raises(LakewardError) as caught:
        mistake(orders())
    assert caught.value.hint


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        (pa.array([1], pa.decimal128(9, 2)), 'key_by(col("k").cast("string").alias("k_key"))'),
        (pa.array([b"ab"], pa.binary(2)), 'key_by(col("k").cast("binary").alias("k_key"))'),
        (pa.array([{"id": 1}]), 'key_by(col("k").struct.field("id").alias("k_key"))'),
    ],
    ids=["decimal", "fixed size", "struct"],
)
def test_a_column_that_cannot_be_a_key_comes_with_one_that_can(values: pa.Array, hint: str) -> None:
    stream = lw.StreamExecutionEnvironment().from_collection(pa.table({"k": values}))
    with pytest.raises(SchemaError, match="cannot be a key") as caught:
        stream.key_by("k")
    assert hint in caught.value.hint
    key = eval(hint.removeprefix("key_by(").removesuffix(")"), {"col": col})
    assert stream.key_by(key).keys == ("k_key",)


def test_a_float_is_a_key_whatever_its_bits() -> None:
    rows = [{"k": 0.0, "n": 1}, {"k": -0.0, "n": 2}, {"k": float("nan"), "n": 3}, {"k": -float("nan"), "n": 4}]
    stream = lw.StreamExecutionEnvironment().from_collection(rows)
    summed = stream.key_by("k").reduce(lambda a, b: {**a, "n": a["n"] + b["n"]})
    assert summed.execute_and_collect()["n"].to_pylist() == [1, 3, 3, 7]


def test_a_key_named_twice_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="key_by names 'shop' twice"):
        orders().key_by("shop", "amount", "shop")


def test_a_uid_that_is_given_never_collides_with_one_that_is_made() -> None:
    stream = orders().filter(col("amount") > 1, uid="filter-1").filter(col("amount") > 2)
    assert stream.uid == "filter-2"


def test_a_checkpoint_directory_may_be_a_path_and_a_column_be_selected_under_a_new_name(tmp_path: Path) -> None:
    env = lw.StreamExecutionEnvironment(checkpoint_dir=tmp_path / "with space")
    env.from_collection(ROWS).select(place="shop").sink_to(lw.BlackholeSink())
    assert env.execute() is not None
    assert (tmp_path / "with space" / "job.json").is_file()


@pytest.mark.parametrize("options", [{"parallelism": 0}, {"parallelism": 129}, {"checkpoint_interval": "ten"}])
def test_an_environment_with_options_that_cannot_work_is_refused(options: dict[str, object]) -> None:
    with pytest.raises((ConfigError, LakewardError)):
        lw.StreamExecutionEnvironment(**options)  # type: ignore[arg-type]


def test_a_filter_function_whose_result_is_neither_true_nor_false_is_named_with_its_row() -> None:
    stream = lw.StreamExecutionEnvironment().from_collection([{"v": 1, "k": 2}])
    with pytest.raises(lw.LakewardError, match=r"returned col\("):
        stream.filter(lambda v, k: col("v") > 1).execute_and_collect()


def test_a_function_of_no_columns_is_refused_when_it_is_written() -> None:
    stream = lw.StreamExecutionEnvironment().from_collection([{"v": 1}])
    with pytest.raises(lw.LakewardError, match="columns is empty"):
        stream.map(lambda: 1, columns=[], returns={"x": int})


def test_reduce_takes_dictionary_encoded_columns_and_functions_that_change_lists_of_their_first_row() -> None:
    def longer(held: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
        held["seen"].extend(row["seen"])
        return held

    table = pa.table({"k": [1, 1, 1], "seen": [[0], [1], [2]], "name": pa.array(["a", "b", "c"]).dictionary_encode()})
    stream = lw.StreamExecutionEnvironment().from_collection(table).key_by("k").reduce(longer)
    found = stream.execute_and_collect()
    assert found["seen"].to_pylist() == [[0], [0, 1], [0, 1, 2]]
    assert found["name"].to_pylist() == ["a", "a", "a"]


def test_a_projection_that_leaves_no_column_is_refused() -> None:
    stream = lw.StreamExecutionEnvironment().from_collection([{"a": 1}, {"a": 2}])
    for empty in (lambda: stream.select(), lambda: stream.drop("a")):
        with pytest.raises(SchemaError, match="leaves no column"):
            empty()


@pytest.mark.parametrize("name", ["batch_rows", "channel_batches_max", "checkpoint_interval_ms", "max_parallelism"])
def test_a_limit_with_which_no_job_could_run_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        lw.EngineConfig(**{name: 0})


def test_a_parallelism_above_the_number_of_key_groups_is_refused_with_the_way_to_more() -> None:
    with pytest.raises(ConfigError, match=r"parallelism 200 is outside 1 \.\. 128") as caught:
        lw.StreamExecutionEnvironment(parallelism=200)
    assert "config=lw.EngineConfig(max_parallelism=200)" in caught.value.hint
    config = lw.EngineConfig(max_parallelism=200)
    assert lw.StreamExecutionEnvironment(parallelism=200, config=config).config.parallelism == 200
    with pytest.raises(ConfigError, match="parallelism 0 is outside") as none:
        lw.StreamExecutionEnvironment(parallelism=0)
    assert none.value.hint == "give 1 or more"


def test_an_operators_parallelism_above_the_number_of_key_groups_is_refused_likewise() -> None:
    stream = lw.StreamExecutionEnvironment().from_collection([{"a": 1}]).map(dict, returns={"a": int}, parallelism=129)
    with pytest.raises(GraphError, match=r"map.*parallelism 129 is outside 1 \.\. 128") as caught:
        stream.execute_and_collect()
    assert "max_parallelism=129" in caught.value.hint


def test_streams_show_where_they_come_from_and_their_columns() -> None:
    orders = lw.StreamExecutionEnvironment().from_collection([{"shop": "a", "n": 1}], uid="orders")
    shown = "<DataStream 'orders': shop string, n int64>"
    assert repr(orders) == shown
    assert repr(orders.key_by("shop", "n")) == f"<KeyedStream by shop, n of {shown}>"
    windows = orders.key_by("shop").window(lw.CountWindow(2))
    assert repr(windows) == f"<WindowedStream by shop in CountWindow(n=2, slide=None) of {shown}>"
    assert repr(orders.window_all(lw.CountWindow(2))).startswith("<WindowedStream in CountWindow")
