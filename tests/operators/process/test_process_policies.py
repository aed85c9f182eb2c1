"""What becomes of rows on which a process function fails."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest

import lakeward as lw
from lakeward.engine.core.errors import GraphError, UserCodeError

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
FAILED = lw.OutputTag("failed")
SEEN = lw.OutputTag("seen", {"k": str, "n": int})
RESULT = {"k": str, "total": int, "listed": list[int], "mapped": int, "folded": int}


class Careful(lw.KeyedProcessFunction):
    """Changes everything there is before it fails."""

    total: lw.ValueState[int] = lw.ValueState(default=0)
    held: lw.ValueState[list[int]] = lw.ValueState(default=[])
    listed: lw.ListState[int]
    mapped: lw.MapState[int, int]
    folded = lw.ReducingState(int, max)

    def __init__(self, misfit: bool = False) -> None:
        self.misfit = misfit
        self.calls: list[int] = []

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Iterator[dict[str, Any]]:
        n = row["n"]
        self.calls.append(n)
        self.total.value += n
        self.held.value.append(n)
        self.listed.append(n)
        self.mapped[n % 3] = n
        self.folded.add(n)
        if n % 10 == 4:
            self.listed.clear()
            self.mapped.clear()
        ctx.timers.register_event_time(NOON + dt.timedelta(seconds=n))
        ctx.output(SEEN, {"k": row["k"], "n": n})
        total = "text" if n % 10 == 3 and self.misfit else self.total.value
        yield {
            "k": row["k"],
            "total": total,
            "listed": list(self.listed),
            "mapped": len(self.mapped),
            "folded": self.folded.value,
        }
        if n % 10 == 4 or (n % 10 == 3 and not self.misfit):
            raise ValueError(f"refused {n}")

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Iterator[tuple[Any, ...]]:
        yield ctx.current_key, -int((timestamp - NOON).total_seconds()), list(self.held.value), 0, 0


def stream(ns: list[int], batch_rows: int) -> lw.DataStream:
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=batch_rows))
    rows = [{"k": "ab"[n % 2], "n": n, "at": NOON} for n in ns]
    return env.from_collection(rows, watermark=lw.WatermarkStrategy.monotonous("at"))


def run(ns: list[int], batch_rows: int, on_error: lw.OnError, function: Any) -> tuple[Any, Any, Any]:
    result = stream(ns, batch_rows).key_by("k").process(function, returns=RESULT, on_error=on_error, uid="careful")
    env = result._context.environment
    rows, seen, failed = lw.MemorySink(), lw.MemorySink(), lw.MemorySink()
    result.sink_to(rows)
    result.side_output(SEEN).sink_to(seen)
    if on_error.tag is not None:
        result.side_output(FAILED).drop("failed_at").sink_to(failed)
    metrics = env.execute("careful").metrics["careful"]
    side = None if on_error.tag is None else failed.table().to_pylist()
    return [rows.table().to_pylist(), seen.table().to_pylist()], side, metrics


@pytest.mark.parametrize("misfit", [False, True])
@pytest.mark.parametrize("batch_rows", [1, 7, 100])
def test_rows_that_fail_leave_nothing_behind(batch_rows: int, misfit: bool) -> None:
    ns = list(range(1, 60))
    good = [n for n in ns if n % 10 not in (3, 4)]
    wanted, _, _ = run(good, batch_rows, lw.OnError.fail(), Careful())
    found, failed, metrics = run(ns, batch_rows, lw.OnError.side_output(FAILED), Careful(misfit))
    assert sorted(found[0], key=repr) == sorted(wanted[0], key=repr)
    assert found[1] == wanted[1]
    assert [row["n"] for row in failed] == [n for n in ns if n % 10 in (3, 4)]
    kinds = {row["error_type"] for row in failed}
    assert kinds == ({"ValueError", "UserCodeError"} if misfit else {"ValueError"})
    assert metrics["failed_rows"] == 12


def test_rows_are_tried_again_and_then_skipped() -> None:
    function = Careful()
    policy = lw.OnError.retry(attempts=3, backoff="1ms").then(lw.OnError.skip())
    found, _, metrics = run([1, 3, 5], 100, policy, function)
    wanted, _, _ = run([1, 5], 100, lw.OnError.fail(), Careful())
    assert found == wanted
    assert (metrics["failed_rows"], metrics["retried_calls"]) == (1, 2)
    assert function.calls == [1, 3, 1, 3, 3, 5]


class Several(lw.KeyedProcessFunction):
    """Sends several rows for each, of which one does not fit once."""

    total: lw.ValueState[int] = lw.ValueState(default=0)

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Iterator[dict[str, Any]]:
        self.total.value += 1
        for n in range(3):
            yield {"k": row["k"], "total": "text" if (row["n"], n) == (7, 1) else self.total.value}


@pytest.mark.parametrize("rows", [20, 400, 2000])
def test_of_many_results_the_row_whose_result_does_not_fit_is_the_one_that_fails(rows: int) -> None:
    policy = lw.OnError.side_output(FAILED)
    result = (
        stream(list(range(rows)), 10_000)
        .key_by("k")
        .process(Several(), returns={"k": str, "total": int}, on_error=policy)
    )
    found, failed = lw.MemorySink(), lw.MemorySink()
    result.sink_to(found)
    result.side_output(FAILED).sink_to(failed)
    result._context.environment.execute("several")
    assert failed.table()["n"].to_pylist() == [7]
    assert found.table().num_rows == 3 * (rows - 1)
    assert max(found.table()["total"].to_pylist()) == rows // 2


class Broken(lw.KeyedProcessFunction):
    """Fails where no policy helps."""

    total: lw.ValueState[int]

    def __init__(self, what: str) -> None:
        self.what = what

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        if self.what == "state":
            self.total.value = "text"  # type: ignore[assignment]
        ctx.timers.register_event_time(NOON)

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> None:
        raise ValueError("in a timer")


@pytest.mark.parametrize(("what", "said"), [("state", "state 'total' holds int64"), ("timer", "in a timer")])
def test_what_is_no_row_s_fault_ends_the_job(what: str, said: str) -> None:
    result = stream([1], 1).key_by("k").process(Broken(what), returns=RESULT, on_error=lw.OnError.skip())
    with pytest.raises(UserCodeError, match=said):
        result.execute_and_collect()


class Rules(lw.BroadcastProcessFunction):
    limits: lw.BroadcastState[str, int]

    def process(self, row: dict[str, Any], ctx: lw.ProcessContext) -> None: ...

    def process_broadcast(self, row: dict[str, Any], ctx: lw.ProcessContext) -> Iterator[dict[str, Any]]:
        before = self.limits.get("last", 0)
        self.limits[row["k"]] = row["n"]
        self.limits["last"] = row["n"]
        if row["n"] < 0:
            raise ValueError("no limit")
        yield {"k": row["k"], "total": before}


def test_a_broadcast_row_that_fails_changes_no_state() -> None:
    orders = stream([1], 1)
    rules = orders._context.environment.from_collection([{"k": "a", "n": n} for n in (5, -1, 7, -2, 9)])
    both = orders.connect(rules.broadcast())
    found = both.process(Rules(), returns={"k": str, "total": int}, on_error=lw.OnError.skip())
    assert found.execute_and_collect()["total"].to_pylist() == [0, 5, 7]
    with pytest.raises(GraphError, match="failed rows of two streams"):
        both.process(Rules(), returns={"k": str}, on_error=lw.OnError.side_output(FAILED))


@pytest.mark.parametrize("kind", ["reducing", "aggregating"])
def test_a_function_of_a_state_that_fails_fails_the_row_and_leaves_the_state(kind: str) -> None:
    def most(held: int, n: int) -> int:
        if n % 10 == 3:
            raise ValueError(f"refused {n}")
        return max(held, n)

    class Folding(lw.KeyedProcessFunction):
        reduced = lw.ReducingState(int, most)
        gathered = lw.AggregatingState(int, create=lambda: 0, add=most, result=lambda held: held)

        def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Iterator[dict[str, Any]]:
            state: Any = self.reduced if kind == "reducing" else self.gathered
            state.add(row["n"])
            yield {"k": row["k"], "total": state.value}

    result = stream([1, 5, 9, 33, 3, 7], 100).key_by("k")
    made = result.process(Folding(), returns={"k": str, "total": int}, on_error=lw.OnError.side_output(FAILED))
    found, failed = lw.MemorySink(), lw.MemorySink()
    made.sink_to(found)
    made.side_output(FAILED).sink_to(failed)
    made._context.environment.execute("folding")
    assert found.table()["total"].to_pylist() == [1, 5, 9, 9]
    assert failed.table().select(["n", "error_message"]).to_pylist() == [
        {"n": n, "error_message": f"refused {n}"} for n in (33, 3)
    ]
    line = most.__code__.co_firstlineno + 2
    assert {place.rpartition(":")[2] for place in failed.table()["error_at"].to_pylist()} == {str(line)}


@pytest.mark.parametrize("policy", [lw.OnError.fail(), lw.OnError.skip(), lw.OnError.side_output(FAILED)])
@pytest.mark.parametrize("keyed", [False, True])
def test_values_that_the_function_takes_out_of_its_row_before_it_fails_are_hidden_all_the_same(
    policy: lw.OnError, keyed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def telling(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        password = row.pop("password")
        if row["n"] == 2:
            raise ValueError(f"cannot log in with {password}")
        yield {"n": row["n"]}

    env = lw.StreamExecutionEnvironment()
    rows = env.from_collection([{"k": 1, "n": n, "password": f"sesame-{n}"} for n in range(4)])
    stream_of = rows.key_by("k") if keyed else rows
    made = stream_of.process(telling, returns={"n": int}, on_error=policy)
    said = ""
    with caplog.at_level("INFO", "lakeward"):
        try:
            result = made.side_output(FAILED) if policy.tag else made
            said = repr(result.drop("password").execute_and_collect().to_pylist()) if policy.tag else ""
            result.execute_and_collect()
        except UserCodeError as error:
            said = str(error)
    assert "sesame" not in said + caplog.text
    assert "cannot log in with ***" in said + caplog.text
    assert "'password': ***" in str(said) + caplog.text


def test_a_second_call_that_gives_a_state_what_does_not_fit_ends_the_job_with_no_state_half_written() -> None:
    class Twice(lw.KeyedProcessFunction):
        first: lw.ValueState[int] = lw.ValueState(default=0)
        second: lw.ValueState[int]
        calls = 0

        def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Iterator[dict[str, Any]]:
            type(self).calls += 1
            self.first.value += 1
            if type(self).calls == 1:
                raise ValueError("at first")
            self.second.value = "text"  # type: ignore[assignment]
            yield {"k": row["k"], "total": self.first.value}

    policy = lw.OnError.retry(attempts=3, backoff=0).then(lw.OnError.skip())
    result = stream([1, 2], 10).key_by("k").process(Twice(), returns={"k": str, "total": int}, on_error=policy)
    with pytest.raises(UserCodeError, match="state 'second' holds int64, but was given a value of type str"):
        result.execute_and_collect()
    assert Twice.calls == 2


def test_a_row_whose_result_never_fits_is_tried_again_and_sent_aside_as_it_came() -> None:
    policy = lw.OnError.retry(attempts=3, backoff=0).then(lw.OnError.side_output(FAILED))
    found, failed, metrics = run([1, 3, 5], 100, policy, Careful(misfit=True))
    wanted, _, _ = run([1, 5], 100, lw.OnError.fail(), Careful())
    assert found == wanted
    assert [(row["n"], row["error_type"]) for row in failed] == [(3, "UserCodeError")]
    assert (metrics["failed_rows"], metrics["retried_calls"]) == (1, 2)
