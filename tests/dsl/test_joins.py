"""The join verbs: names, types and refusals when the graph is built; whole jobs against DuckDB, with restores."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pytest

import lakeward as lw
from lakeward import col
from lakeward.dsl.stream import DataStream
from lakeward.engine.core.errors import ConfigError, GraphError, LakewardError, RecordError, SchemaError
from lakeward.testing import ABORT, BARRIER, EOF, FAIL, CollectSink, Item, JobHarness, ScriptedSource

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
MARK = lw.WatermarkStrategy.bounded_out_of_orderness("at", "2s")
ORDERS = pa.schema({"id": pa.int64(), "user": pa.int64(), "amount": pa.int64(), "at": pa.timestamp("us")})
USERS = pa.schema({"user": pa.int32(), "name": pa.string(), "at": pa.timestamp("us"), "until": pa.timestamp("us")})
SECOND = 1_000_000


def order_rows(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": n,
            "user": None if n % 11 == 0 else n * 7919 % 40,
            "amount": n % 9,
            "at": (n + n * 37 % 20) * SECOND // 10,
        }
        for n in range(first, first + count)
    ]


def user_rows(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {"user": None if n % 13 == 0 else n % 35, "name": f"n{n}", "at": at, "until": at + n % 7 * SECOND}
        for n in range(first, first + count)
        for at in [(n * 4 + n * 31 % 20) * SECOND // 10]
    ]


def latest(rows: DataStream) -> DataStream:
    return rows.key_by("user").deduplicate(keep="last", order_by="at")


def environment(**options: Any) -> tuple[DataStream, DataStream]:
    env = lw.StreamExecutionEnvironment(**options)
    orders = env.from_collection(order_rows(0, 30), schema=ORDERS, watermark=MARK, uid="orders")
    users = env.from_collection(user_rows(0, 12), schema=USERS, watermark=MARK, uid="users")
    return orders, users


# -- names and types


def test_left_columns_come_first_then_right_ones_with_a_suffix_where_names_clash() -> None:
    orders, users = environment()
    joined = orders.join(users, on="user")
    assert joined.schema.names == ["id", "user", "amount", "at", "name", "at_right", "until"]
    assert orders.join(users, on="user", suffix="_u", how="semi").schema.names == ORDERS.names
    other = orders.join(users.rename({"user": "key"}), left_on="user", right_on="key")
    assert other.schema.names == ["id", "user", "amount", "at", "key", "name", "at_right", "until"]


def test_keys_of_two_types_become_their_common_type() -> None:
    orders, users = environment()
    assert orders.join(users, on="user").schema.field("user").type == pa.int64()
    assert users.join(orders, on="user").schema.field("user").type == pa.int64()


def test_keys_may_be_expressions() -> None:
    orders, users = environment()
    joined = orders.join(users, left_on=(col("user") - 10).alias("next"), right_on=[col("user").alias("user")])
    rows = joined.execute_and_collect().to_pylist()
    assert rows
    assert all(row["next"] == row["user"] - 10 == row["user_right"] for row in rows)


def test_an_inner_join_of_append_only_streams_is_append_only_and_others_are_not() -> None:
    orders, users = environment()
    updating = {how: orders.join(users, on="user", how=how).is_updating for how in lw.dsl.joins.HOWS}  # type: ignore[attr-defined]
    assert updating == {"inner": False, "semi": False, "left": True, "right": True, "full": True, "anti": True}
    changing = orders.join(users, on="user", how="left")
    assert changing.join(users, on="user", suffix="_2").is_updating


def test_the_upsert_key_of_a_result_is_made_of_those_of_its_inputs_and_the_join_key() -> None:
    orders, users = environment()
    plain = orders.join(users, on="user", how="left")
    assert plain.upsert_key is None, "rows of an append-only stream may be equal"
    one = orders.join(users.rename({"user": "key"}), left_on="user", right_on="key", how="full", validate="1:1")
    assert one.upsert_key == ("user", "key")
    again = one.join(users, on="user", how="left", validate="m:1", suffix="_2")
    assert again.upsert_key == ("user", "key")


# -- refusals


def refused(build: Callable[[DataStream, DataStream], Any]) -> LakewardError:
    with pytest.raises(LakewardError) as caught:
        build(*environment())
    assert "test_joins.py" in str(caught.value), "the error names the user's line"
    return caught.value


REFUSALS: list[tuple[Callable[[DataStream, DataStream], Any], type[LakewardError], str]] = [
    (lambda o, u: o.join(u, on="usr"), SchemaError, "no column 'usr'"),
    (lambda o, u: o.join(u), GraphError, "either on, or left_on and right_on"),
    (lambda o, u: o.join(u, on="user", left_on="user", right_on="user"), GraphError, "either on, or left_on"),
    (lambda o, u: o.join(u, left_on=["id", "user"], right_on="user"), GraphError, "2 left and 1 right keys"),
    (
        lambda o, u: o.join(u, left_on="id", right_on="name"),
        SchemaError,
        "'id: int64' and 'name: string' have no common",
    ),
    (lambda o, u: o.join(u, on="user", how="outer"), ConfigError, "join: how cannot be 'outer'"),
    (lambda o, u: o.join(u, on="user", suffix=""), SchemaError, "two columns 'at': left 'at' and right 'at'"),
    (lambda o, u: o.join(u, on="user", where=col("amount") + 1), SchemaError, "where needs a boolean"),
    (lambda o, u: o.join(u, on="user", where=col("nme") == "x"), SchemaError, "'nme'"),
    (lambda o, u: o.join(environment()[1], on="user"), GraphError, "two environments"),
    (lambda o, u: o.interval_join(u, on="user"), GraphError, "lower and upper, or within"),
    (lambda o, u: o.interval_join(u, on="user", lower="5s", upper="1s"), ConfigError, "above upper"),
    (lambda o, u: o.interval_join(u, on="user", within=("at", "name")), SchemaError, "timestamps of the right"),
    (
        lambda o, u: o.interval_join(u, on="user", lower=0, upper=1, how="left", event_time="t"),
        GraphError,
        "no event time",
    ),
    (
        lambda o, u: o.join(u, on="user", how="left").interval_join(u, on="user", lower=0, upper=1),
        SchemaError,
        "cannot take the updating stream",
    ),
    (lambda o, u: o.select("user").window_join(u, on="user", window=lw.Tumbling("1s")), GraphError, "needs event time"),
    (lambda o, u: o.window_join(u, on="user", window="1s"), ConfigError, "window_join: window"),
    (lambda o, u: o.window_join(u, on="user", window=lw.GlobalWindow()), ConfigError, "windows, not a GlobalWindow"),
    (lambda o, u: o.window_join(u, on="user", window=lw.CountWindow(3)), ConfigError, "windows, not a CountWindow"),
    (lambda o, u: o.window_join(u, on="user", window=lw.SameWindow()), ConfigError, "windows, not a SameWindow"),
    (
        lambda o, u: o.window_join(u, on="user", window=lw.Session("1s", time="processing")),
        ConfigError,
        "a window join goes by event time",
    ),
    (lambda o, u: o.temporal_join(u, on="user", how="full"), GraphError, "cannot be 'full'"),
    (lambda o, u: o.temporal_join(u, on="user", version="name"), SchemaError, "'name' is string, not a timestamp"),
    (
        lambda o, u: o.temporal_join(
            u.key_by("user", "name").deduplicate(keep="last", order_by="at"), on="user", version="at"
        ),
        GraphError,
        "one row a key (user), but its rows are told apart by user, name",
    ),
    (
        lambda o, u: o.with_columns(name=lw.lit("x")).temporal_join(latest(u), on=["user", "name"], version="at"),
        GraphError,
        "one row a key (user, name), but its rows are told apart by user",
    ),
    (lambda o, u: o.temporal_join(latest(u), on="user"), GraphError, "from when on a right row is valid"),
    (lambda o, u: latest(o).temporal_join(u, on="user"), SchemaError, "cannot take the updating stream"),
    (lambda o, u: o.lookup_join(u, on="user", how="right"), ConfigError, "lookup_join: how"),
    (lambda o, u: o.lookup_join(o.join(u, on="user", how="left"), on="user"), SchemaError, "table of a lookup join"),
    (lambda o, u: o.lookup_join("users", on="user"), ConfigError, "lookup_join: table"),
]


@pytest.mark.parametrize(("build", "kind", "message"), REFUSALS, ids=[message for _, _, message in REFUSALS])
def test_what_cannot_work_is_refused_when_the_graph_is_built(
    build: Callable[[DataStream, DataStream], Any], kind: type[LakewardError], message: str
) -> None:
    error = refused(build)
    assert isinstance(error, kind)
    assert message in error.message


def test_an_endless_table_to_look_up_in_is_refused() -> None:
    orders, _ = environment()
    endless = orders._context.environment.from_source(lw.KafkaSource("broker:1", "t", format=lw.Json(schema=USERS)))
    with pytest.raises(GraphError, match="never ends"):
        orders.lookup_join(endless, on="user")


def test_a_broken_promise_of_one_row_a_key_fails_the_job_and_names_the_key() -> None:
    orders, users = environment(config=lw.EngineConfig(restart=lw.RestartConfig(attempts_max=0)))
    rows = users.filter(col("user") == 1).union(users.filter(col("user") == 1))
    with pytest.raises(LakewardError) as caught:
        orders.join(rows, on="user", validate="m:1").execute_and_collect()
    cause: BaseException | None = caught.value
    while cause is not None and not isinstance(cause, RecordError):
        cause = cause.__cause__
    assert cause is not None
    assert "{'user': 1}" in str(cause)


# -- event time, late rows, state that ends


def test_the_event_time_of_an_interval_join_is_the_later_side_where_that_is_known() -> None:
    orders, users = environment()
    after = orders.interval_join(users, on="user", lower="0s", upper="5s")
    before = orders.interval_join(users, on="user", lower="-5s", upper="0s")
    both = orders.interval_join(users, on="user", lower="-5s", upper="5s")
    named = orders.interval_join(users, on="user", lower="-5s", upper="5s", event_time="latest")
    times = [stream.event_time and stream.event_time.column for stream in (after, before, both, named)]
    assert times == ["at_right", "at", None, "latest"]
    rows = named.execute_and_collect().to_pylist()
    assert rows
    assert all(row["latest"] == max(row["at"], row["at_right"]) for row in rows)


def test_late_rows_of_each_side_go_to_their_side_stream() -> None:
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=1))
    mark = lw.WatermarkStrategy.monotonous("at")
    rows = [{"k": 1, "at": NOON + dt.timedelta(seconds=s)} for s in (0, 60, 1)]
    left, right = (env.from_collection(rows, watermark=mark) for _ in range(2))
    tag = lw.OutputTag("late")
    joined = left.interval_join(right, on="k", lower="0s", upper="1s", late_left=tag)
    late, answer = joined.side_output(tag).execute_and_collect(), joined.execute_and_collect()
    assert late.schema == left.schema
    assert late.num_rows + answer.num_rows >= 2, "a row is late, or in time to meet its equal"


def test_rows_are_forgotten_when_event_time_has_passed_their_time_to_live() -> None:
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=1))
    mark = lw.WatermarkStrategy.monotonous("at")
    times = [NOON, NOON + dt.timedelta(hours=5), NOON + dt.timedelta(hours=5, seconds=1)]
    left = env.from_collection([{"k": n, "at": at} for n, at in enumerate(times)], watermark=mark)
    right = env.from_collection([{"k": 0, "at": times[0]}, {"k": 2, "at": times[2]}], watermark=mark)
    found = left.join(right, on="k", state_ttl="1h").execute_and_collect()
    assert {0, 2} == set(found["k"].to_pylist())


def test_an_interval_that_begins_before_left_rows_are_kept_for_it_is_an_error_with_the_way_out() -> None:
    orders, users = environment(config=lw.EngineConfig(restart=lw.RestartConfig(attempts_max=0)))
    early = users.with_columns(since=col("at") - dt.timedelta(seconds=3))
    with pytest.raises(LakewardError, match='lookback="3s"'):
        orders.interval_join(early, on="user", within=("since", "until")).execute_and_collect()
    orders.interval_join(early, on="user", within=("since", "until"), lookback="3s").execute_and_collect()


# -- whole jobs


@dataclass(frozen=True)
class Job:
    """A join of orders and users, and the batch query that says what it must answer."""

    build: Callable[[DataStream, DataStream], DataStream]
    sql: str


PAIR = 'select o.*, u.name, u."at" as at_right, u.until from o'
PADDED = (
    'select o.id, coalesce(o."user", u."user") as "user", o.amount, o."at", u.name, u."at" as at_right, u.until from o'
)
ON = 'o."user" = u."user"'
SECONDS = "interval 1 second"
BOUNDED = 'select o.*, u.name, u."at" as at_right, u.until, a as window_start, b as window_end from o'
IN_WINDOW = 'least(o."at", u."at") >= a and greatest(o."at", u."at") < b'
JOBS = {
    "inner": Job(lambda o, u: o.join(u, on="user"), f"{PAIR} join u on {ON}"),
    "left": Job(lambda o, u: o.join(u, on="user", how="left"), f"{PAIR} left join u on {ON}"),
    "full where": Job(
        lambda o, u: o.join(u, on="user", how="full", where=col("at") < col("at_right")),
        f'{PADDED} full join u on {ON} and o."at" < u."at"',
    ),
    "semi": Job(lambda o, u: o.join(u, on="user", how="semi"), f"select o.* from o semi join u on {ON}"),
    "anti": Job(lambda o, u: o.join(u, on="user", how="anti"), f"select o.* from o anti join u on {ON}"),
    "join of an updating stream": Job(
        lambda o, u: o.join(u, on="user", how="anti").join(u.select("name", id="user"), on="id", how="left"),
        f'select a.*, u.name from (select o.* from o anti join u on {ON}) a left join u on a.id = u."user"',
    ),
    "interval": Job(
        lambda o, u: o.interval_join(u, on="user", lower="-2s", upper="3s", how="left"),
        f'{PAIR} left join u on {ON} and u."at" between o."at" - 2 * {SECONDS} and o."at" + 3 * {SECONDS}',
    ),
    "within": Job(
        lambda o, u: o.interval_join(u, on="user", within=("at", "until"), where=col("amount") > 2),
        f'{PAIR} join u on {ON} and o."at" between u."at" and u.until and amount > 2',
    ),
    "window": Job(
        lambda o, u: o.window_join(u, on="user", window=lw.Tumbling("4s"), how="full"),
        """select id, coalesce(o."user", u."user") as "user", amount, o."at", name, u."at" as at_right, until,
        coalesce(o.w, u.w) as window_start, window_start + interval 4 seconds as window_end
        from (select *, time_bucket(interval 4 seconds, "at", timestamp '1970-01-01') as w from o) o
        full join (select *, time_bucket(interval 4 seconds, "at", timestamp '1970-01-01') as w from u) u
        on o."user" = u."user" and o.w = u.w""",
    ),
    "cumulative windows": Job(
        lambda o, u: o.window_join(u, on="user", window=lw.Cumulative("2s", size="6s")),
        f"""with w as (select s + d * interval 6 seconds as a, a + n * interval 2 seconds as b
        from (select timestamp '1970-01-01' as s), range(100) as days(d), range(1, 4) as steps(n))
        {BOUNDED} join u on {ON} join w on {IN_WINDOW}""",
    ),
    "sessions": Job(
        lambda o, u: o.window_join(u, on="user", window=lw.Session("1s")),
        f"""with e as (select "user", "at" from o union all select "user", "at" from u),
        n as (select *, "at" - lag("at") over (partition by "user" order by "at") > {SECONDS} as apart from e),
        s as (select *, sum(coalesce(apart, true)::int) over (partition by "user" order by "at") as s from n),
        w as (select "user", min("at") as a, max("at") + {SECONDS} as b from s group by "user", s)
        {BOUNDED} join u on {ON} join w on w."user" = o."user" and {IN_WINDOW}""",
    ),
    "temporal": Job(
        lambda o, u: o.temporal_join(u, on="user", how="left"),
        f'{PAIR} asof left join u on {ON} and o."at" >= u."at"',
    ),
    "temporal with versions that are updated": Job(
        lambda o, u: o.temporal_join(latest(u), on="user", version="at", how="left"),
        f'{PAIR} asof left join u on {ON} and o."at" >= u."at"',
    ),
    "lookup": Job(lambda o, u: o.lookup_join(u, on="user", how="left"), f"{PAIR} left join u on {ON}"),
    "lookup anti": Job(lambda o, u: o.lookup_join(u, on="user", how="anti"), f"select * from o anti join u on {ON}"),
}
ORDER_BATCHES = [order_rows(first, 40) for first in range(0, 400, 40)]
USER_BATCHES = [user_rows(first, 10) for first in range(0, 100, 10)]


def ordered(table: pa.Table) -> list[dict[str, Any]]:
    with duckdb.connect() as con:
        con.register("found", table)
        return list(con.sql("select * from found order by all").to_arrow_table().to_pylist())


def oracle(job: Job) -> list[dict[str, Any]]:
    with duckdb.connect() as con:
        for name, batches, schema in (("o", ORDER_BATCHES, ORDERS), ("u", USER_BATCHES, USERS)):
            con.register(name, pa.Table.from_pylist([row for batch in batches for row in batch], schema=schema))
        return list(con.sql(f"select * from ({job.sql}) order by all").to_arrow_table().to_pylist())


def harness(script: Sequence[Item]) -> JobHarness:
    """All jobs as one, each with its own sink."""

    def job(env: lw.StreamExecutionEnvironment) -> None:
        orders = env.from_source(ScriptedSource(ORDERS, script), watermark=MARK, uid="orders", parallelism=1)
        users = env.from_source(ScriptedSource(USERS, USER_BATCHES), watermark=MARK, uid="users", parallelism=1)
        for name, one in JOBS.items():
            one.build(orders, users).sink_to(CollectSink(), uid=uid(name))

    return JobHarness(job, state="rocksdb")


def uid(name: str) -> str:
    return name.replace(" ", "-")


def test_joins_give_the_batch_answer_when_run_straight() -> None:
    joins = harness(ORDER_BATCHES)
    assert joins.run(parallelism=2).ended
    for name, job in JOBS.items():
        assert ordered(joins.table(uid(name))) == oracle(job), name


@pytest.mark.parametrize("end", [EOF, ABORT], ids=["stop", "crash"])
def test_joins_give_the_same_answer_after_failures_and_restores_at_other_parallelism(end: Item) -> None:
    marks: dict[int, Item] = {2: BARRIER, 3: BARRIER, 4: FAIL, 6: BARRIER, 7: end, 9: end}
    script: list[Item] = []
    for number, batch in enumerate(ORDER_BATCHES):
        script += [marks[number]] if number in marks else []
        script.append(batch)
    joins = harness(script)
    runs = joins.run_to_end(parallelism=(2, 3, 1))
    assert len(runs) == 3
    assert runs[-1].restored is not None, "the last run must have gone on from a checkpoint"
    for name, job in JOBS.items():
        assert ordered(joins.table(uid(name))) == oracle(job), name
