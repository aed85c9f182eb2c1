"""Functions over whole windows: against a plain Python model, straight and restored; and their rules."""

from __future__ import annotations

import datetime as dt
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward import col
from lakeward.engine.core.errors import GraphError, SchemaError, UserCodeError
from lakeward.testing import ABORT, BARRIER, EOF, FAIL, CollectSink, Item, JobHarness, ScriptedSource

SCHEMA = pa.schema({"k": pa.string(), "v": pa.int64(), "at": pa.timestamp("us", tz="UTC")})
SECOND = 1_000_000
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
RESULT = {"k": str, "number": int, "start": int, "end": int, "vs": list[int]}

Row = dict[str, Any]
Answer = tuple[str | None, int, int, list[int]]
"""Key, bounds of the window in seconds (-1: none), values of its rows."""


def seconds(moment: dt.datetime) -> int:
    return (moment - EPOCH) // dt.timedelta(seconds=1)


class Numbered(lw.ProcessWindowFunction):
    """Shows a window; numbers those of a key."""

    number: lw.ValueState[int] = lw.ValueState(default=0)

    def process(self, key: str | None, window: lw.TimeWindow | None, rows: list[Row], ctx: Any) -> Iterator[Row]:
        assert ctx.current_key == key
        assert (ctx.timestamp is None) == (window is None)
        if window is not None:
            assert ctx.timestamp == window.end - dt.timedelta(microseconds=1)
        self.number.value += 1
        start, end = (-1, -1) if window is None else (seconds(window.start), seconds(window.end))
        yield {"k": key, "number": self.number.value, "start": start, "end": end, "vs": [row["v"] for row in rows]}


# -- models: rows in the order of arrival to windows


def by_key(rows: list[Row]) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["k"]].append(row)
    return found


def in_order(rows: list[Row]) -> list[int]:
    return [row["v"] for row in sorted(rows, key=lambda row: row["at"])]


def timed(bounds_at: Callable[[int], list[tuple[int, int]]]) -> Callable[[Any, list[Row]], list[Answer]]:
    def answers(key: Any, rows: list[Row]) -> list[Answer]:
        windows: dict[tuple[int, int], list[Row]] = defaultdict(list)
        for row in rows:
            for bounds in bounds_at(row["at"] // SECOND):
                windows[bounds].append(row)
        return [(key, start, end, in_order(held)) for (start, end), held in windows.items()]

    return answers


def sessions(key: Any, rows: list[Row]) -> list[Answer]:
    found: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row["at"]):
        if found and row["at"] <= found[-1][-1]["at"] + 2 * SECOND:
            found[-1].append(row)
        else:
            found.append([row])
    return [(key, held[0]["at"] // SECOND, held[-1]["at"] // SECOND + 2, in_order(held)) for held in found]


def counted(size: int, slide: int) -> Callable[[Any, list[Row]], list[Answer]]:
    def answers(key: Any, rows: list[Row]) -> list[Answer]:
        ends = range(slide, len(rows) + 1, slide)
        return [(key, -1, -1, in_order(rows[max(0, end - size) : end])) for end in ends]

    return answers


KINDS: dict[str, tuple[Any, Callable[[Any, list[Row]], list[Answer]]]] = {
    "tumbling": (lw.Tumbling("5s"), timed(lambda t: [(t // 5 * 5, t // 5 * 5 + 5)])),
    "sliding": (
        lw.Sliding("6s", slide="2s"),
        timed(lambda t: [(s, s + 6) for s in range(t - 5, t + 1) if s % 2 == 0]),
    ),
    "cumulative": (
        lw.Cumulative("2s", size="6s"),
        timed(lambda t: [(t // 6 * 6, e) for e in range(t // 6 * 6 + 2, t // 6 * 6 + 7, 2) if t < e]),
    ),
    "session": (lw.Session("2s"), sessions),
    "count": (lw.CountWindow(3), counted(3, 3)),
    "sliding count": (lw.CountWindow(4, slide=2), counted(4, 2)),
    "global": (lw.GlobalWindow(), lambda key, rows: [(key, -1, -1, in_order(rows))]),
}


def random_batches(seed: int) -> list[list[Row]]:
    """Rows of five keys, at most a second out of order, several at a time; some seconds are empty."""
    rng = random.Random(seed)
    moments = sorted(rng.choice(range(60)) * SECOND for _ in range(rng.randrange(20, 120)))
    times = sorted((max(0, at - rng.choice((0, SECOND))), rng.random()) for at in moments)
    rows = [{"k": rng.choice("abcde"), "v": v, "at": at} for v, (at, _) in enumerate(times)]
    for i in range(0, len(rows) - 1, 2):  # neighbours that are a second apart at most change places
        if abs(rows[i]["at"] - rows[i + 1]["at"]) <= SECOND and rng.random() < 0.5:
            rows[i], rows[i + 1] = rows[i + 1], rows[i]
    return [rows[i : i + 7] for i in range(0, len(rows), 7)]


def run_of(batches: list[Any], build: Any, marks: list[Item], parallelism: list[int]) -> list[Row]:
    script: list[Item] = []
    for number, batch in enumerate(batches):
        script += [marks[number - 1], batch] if 0 < number <= len(marks) else [batch]
    source, sink = ScriptedSource(SCHEMA, script), CollectSink()
    watermark = lw.WatermarkStrategy.bounded_out_of_orderness("at", "1s")

    def job(env: lw.StreamExecutionEnvironment) -> None:
        build(env.from_source(source, watermark=watermark, uid="source", parallelism=1)).sink_to(sink, uid="sink")

    JobHarness(job, config=lw.EngineConfig(checkpoint_interval_ms=5)).run_to_end(parallelism)
    return sink.table().to_pylist()


def straight(batches: list[Any], build: Any, parallelism: int = 1) -> list[Row]:
    return run_of(batches, build, [], [parallelism])


def restored(batches: list[Any], build: Any) -> list[Row]:
    """With crashes and stops, after each of which the parallelism is another one."""
    return run_of(batches, build, [BARRIER, FAIL, EOF, BARRIER, ABORT], [2, 3, 1])


def answers_of(rows: list[Row]) -> list[Answer]:
    return sorted(((row["k"], row["start"], row["end"], row["vs"]) for row in rows), key=repr)


@pytest.mark.parametrize(("seed", "run"), [(1, straight), (2, restored)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_function_gets_each_window_once_with_all_of_its_rows_in_order(kind: str, seed: int, run: Any) -> None:
    window, model = KINDS[kind]
    batches = random_batches(seed)
    rows = [row for batch in batches for row in batch]
    expected = sorted((one for key, mine in by_key(rows).items() for one in model(key, mine)), key=repr)

    def build(stream: lw.DataStream) -> lw.DataStream:
        return stream.key_by("k").window(window).process(Numbered(), returns=RESULT, uid="numbered")

    found = run(batches, build)
    assert answers_of(found) == expected
    for mine in by_key(found).values():
        assert sorted(row["number"] for row in mine) == list(range(1, len(mine) + 1))
        ends = [row["end"] for row in sorted(mine, key=lambda row: row["number"])]
        assert ends == sorted(ends), "windows of a key come in the order of their ends"


def test_windows_over_the_whole_stream_have_no_key_but_state() -> None:
    batches = random_batches(3)
    rows = [row for batch in batches for row in batch]
    expected = sorted(KINDS["tumbling"][1](None, rows), key=repr)

    def build(stream: lw.DataStream) -> lw.DataStream:
        return stream.window_all(lw.Tumbling("5s")).process(Numbered(), returns=RESULT, uid="numbered")

    for found in (straight(batches, build, parallelism=2), restored(batches, build)):
        assert answers_of(found) == expected
        assert sorted(row["number"] for row in found) == list(range(1, len(found) + 1))


def test_results_of_windows_are_handed_on_within_their_windows() -> None:
    def build(stream: lw.DataStream) -> lw.DataStream:
        counts = stream.key_by("k").window(lw.Tumbling("5s")).aggregate(v=lw.count())
        counts = counts.with_columns(size=col("v"))
        return counts.key_by("size").window(lw.SameWindow()).process(sizes, returns=RESULT, uid="sizes")

    def sizes(key: int, window: lw.TimeWindow, rows: list[Row], ctx: lw.KeyedContext, seen: lw.ValueState[int]) -> Any:
        assert ctx.current_key == key
        seen.value = (seen.value or 0) + 1
        start, end = seconds(window.start), seconds(window.end)
        yield {"k": str(key), "number": seen.value, "start": start, "end": end, "vs": [row["v"] for row in rows]}

    batches = random_batches(4)
    windows = [
        one for key, mine in by_key([r for b in batches for r in b]).items() for one in KINDS["tumbling"][1](key, mine)
    ]
    expected: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    for _, start, end, vs in windows:
        expected[str(len(vs)), start, end].append(len(vs))
    for found in (straight(batches, build, parallelism=2), restored(batches, build)):
        assert answers_of(found) == sorted(((*window, vs) for window, vs in expected.items()), key=repr)
        for mine in by_key(found).values():
            assert sorted(row["number"] for row in mine) == list(range(1, len(mine) + 1))


# -- late rows and early results


def row(k: str, v: int, second: int) -> Row:
    return {"k": k, "v": v, "at": second * SECOND}


LATE = lw.OutputTag("late")
WITH_LATE: list[Any] = [[row("a", 1, 1)], [row("a", 2, 20)], [row("a", 3, 2)], [row("a", 4, 21)]]


def test_rows_that_are_late_go_aside_and_the_function_never_sees_them() -> None:
    def build(stream: lw.DataStream) -> Any:
        windows = stream.key_by("k").window(lw.Tumbling("5s")).side_output_late_data(LATE)
        return windows.process(Numbered(), returns=RESULT)

    def only_late(stream: lw.DataStream) -> Any:
        result = build(stream)
        result.sink_to(lw.BlackholeSink())
        return result.side_output(LATE)

    assert answers_of(straight(WITH_LATE, build)) == [("a", 0, 5, [1]), ("a", 20, 25, [2, 4])]
    late = straight(WITH_LATE, only_late)
    assert [(one["k"], one["v"]) for one in late] == [("a", 3)]


def test_a_row_within_the_allowed_lateness_calls_the_function_again_with_the_whole_window() -> None:
    def build(stream: lw.DataStream) -> Any:
        windows = stream.key_by("k").window(lw.Tumbling("5s")).allowed_lateness("1h")
        return windows.process(Numbered(), returns=RESULT)

    found = straight(WITH_LATE, build)
    assert [(one["number"], one["start"], one["vs"]) for one in found] == [(1, 0, [1]), (2, 0, [1, 3]), (3, 20, [2, 4])]


@pytest.mark.parametrize("window", [lw.Tumbling("1m"), lw.Session("1m"), lw.GlobalWindow(), lw.CountWindow(9)])
def test_a_trigger_calls_the_function_with_what_the_window_has_so_far(window: Any) -> None:
    def build(stream: lw.DataStream) -> Any:
        return stream.key_by("k").window(window).trigger(lw.every_rows(1)).process(Numbered(), returns=RESULT)

    batches = [[row("a", 1, 1)], [row("a", 2, 2), row("b", 9, 2)], [row("a", 3, 1)]]
    found = straight(batches, build)
    assert [one["vs"] for one in found if one["k"] == "a"] == [[1], [1, 2], [1, 3, 2]]
    assert [one["vs"] for one in found if one["k"] == "b"] == [[9]]


@pytest.mark.parametrize("kind", ["tumbling", "session"])
def test_the_last_call_for_each_window_has_all_of_its_rows_after_a_restore_too(kind: str) -> None:
    window, model = KINDS[kind]
    batches = random_batches(5)

    def build(stream: lw.DataStream) -> Any:
        windows = stream.key_by("k").window(window).trigger(lw.every_rows(1))
        return windows.process(Numbered(), returns=RESULT, uid="numbered")

    last = {
        (one["k"], one["start"], one["end"]): one
        for one in sorted(restored(batches, build), key=lambda o: len(o["vs"]))
    }
    for key, mine in by_key([one for batch in batches for one in batch]).items():
        for _, start, end, vs in model(key, mine):
            assert last[key, start, end]["vs"] == vs


def test_sessions_that_are_joined_after_they_were_handed_over_come_again_as_one() -> None:
    def build(stream: lw.DataStream) -> Any:
        return stream.key_by("k").window(lw.Session("5s")).trigger(lw.every_rows(1)).process(Numbered(), returns=RESULT)

    windows = [[row("a", 1, 10)], [row("a", 2, 18)], [row("a", 3, 14), row("a", 4, 15)], [row("b", 9, 15)]]
    late = lw.WatermarkStrategy.bounded_out_of_orderness("at", "1m")
    env = lw.StreamExecutionEnvironment()
    found = build(env.from_source(ScriptedSource(SCHEMA, windows), watermark=late)).execute_and_collect().to_pylist()
    assert [(one["start"], one["vs"]) for one in found] == [(10, [1]), (18, [2]), (10, [1, 3, 4, 2]), (15, [9])]


def test_a_discarding_trigger_calls_the_function_with_the_rows_since_the_last_call() -> None:
    def build(stream: lw.DataStream) -> Any:
        windows = stream.key_by("k").window(lw.GlobalWindow()).trigger(lw.every_rows(2), discarding=True)
        return windows.process(Numbered(), returns=RESULT)

    found = straight([[row("a", 1, 1), row("a", 2, 2)], [row("a", 3, 3)]], build)
    assert [one["vs"] for one in found] == [[1, 2], [3]]


# -- rows, parameters, states, side streams, timers


@dataclass
class Reading:
    v: int
    at: dt.datetime


@dataclass
class Wrong:
    v: str


class Pair(NamedTuple):
    v: int
    k: str


class Typed(TypedDict):
    v: int


def stream_of(*rows: Row) -> lw.DataStream:
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    watermark = lw.WatermarkStrategy.bounded_out_of_orderness("at", "1m")
    return lw.StreamExecutionEnvironment().from_collection(table, watermark=watermark)


def shown(function: Any) -> str:
    windows = stream_of(row("a", 1, 1), row("a", 2, 2)).key_by("k").window(lw.Tumbling("1m"))
    text: str = windows.process(function, returns={"text": str}).execute_and_collect()["text"].to_pylist()[0]
    return text


def test_rows_are_what_their_annotation_says() -> None:
    def dicts(key, window, rows):  # type: ignore[no-untyped-def]
        yield {"text": repr([(one["k"], one["v"]) for one in rows])}

    def readings(key: str, window: lw.TimeWindow, rows: list[Reading]) -> Any:
        yield {"text": repr([(type(one).__name__, one.v, one.at.second) for one in rows])}

    def pairs(key: str, window: lw.TimeWindow, rows: Iterable[Pair]) -> Any:
        yield {"text": repr([tuple(one) for one in rows])}

    def typed(key: str, window: lw.TimeWindow, rows: list[Typed]) -> Any:
        yield {"text": repr([one["v"] for one in rows])}

    def tuples(key: str, window: lw.TimeWindow, rows: list[tuple[str, int, dt.datetime]]) -> Any:
        yield {"text": repr([one[:2] for one in rows])}

    def quoted(key: str, window: lw.TimeWindow, rows: "list[Reading]") -> Any:  # noqa: UP037 (it is the point)
        yield {"text": repr([one.v for one in rows])}

    assert shown(quoted) == "[1, 2]"
    assert shown(dicts) == "[('a', 1), ('a', 2)]"
    assert shown(readings) == "[('Reading', 1, 1), ('Reading', 2, 2)]"
    assert shown(pairs) == "[(1, 'a'), (2, 'a')]"
    assert shown(typed) == "[1, 2]"
    assert shown(tuples) == "[('a', 1), ('a', 2)]"


def test_several_key_columns_come_as_a_tuple() -> None:
    def keys(key: tuple[str, int], window: Any, rows: list[Row], ctx: lw.KeyedContext) -> Any:
        assert ctx.current_key == key
        return [{"text": repr(key)}]

    windows = stream_of(row("a", 1, 1)).key_by("k", "v").window(lw.CountWindow(1))
    assert windows.process(keys, returns={"text": str}).execute_and_collect()["text"].to_pylist() == ["('a', 1)"]


def test_many_windows_fire_at_once_and_each_has_its_own_rows() -> None:
    rows = [row(f"k{n % 700}", n, n % 3) for n in range(10_000)]

    def sums(key: str, window: Any, rows: list[Row]) -> Any:
        assert {one["k"] for one in rows} == {key}
        yield {"k": key, "total": sum(one["v"] for one in rows)}

    windows = stream_of(*rows).key_by("k").window(lw.Tumbling("1m"))
    found = windows.process(sums, returns={"k": str, "total": int}).execute_and_collect().to_pylist()
    assert {one["k"]: one["total"] for one in found} == {
        key: sum(one["v"] for one in mine) for key, mine in by_key(rows).items()
    }


class Watched(lw.ProcessWindowFunction):
    """Sends large windows aside, keeps what it saw for all windows of the key, and calls itself back."""

    seen: lw.ListState[int]
    large = lw.OutputTag("large", {"k": str, "size": int})

    def process(self, key: str, window: lw.TimeWindow, rows: list[Row], ctx: lw.KeyedContext) -> Any:
        self.seen.extend(one["v"] for one in rows)
        ctx.timers.register_event_time(window.end + dt.timedelta(seconds=30))
        if len(rows) > 1:
            ctx.output(self.large, {"k": key, "size": len(rows)})
        return [{"text": f"window {list(self.seen)}"}]

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Any:
        yield {"text": f"timer {seconds(timestamp)} {list(self.seen)}"}


def test_state_side_streams_and_timers_are_those_of_the_key() -> None:
    def build(stream: lw.DataStream) -> Any:
        return stream.key_by("k").window(lw.Tumbling("10s")).process(Watched(), returns={"text": str}, uid="watched")

    batches = [[row("a", 1, 1), row("a", 2, 2)], [row("a", 3, 15)], [row("a", 4, 60)], [row("a", 5, 120)]]
    expected = ["window [1, 2]", "window [1, 2, 3]", "timer 40 [1, 2, 3]", "timer 50 [1, 2, 3]"]
    expected += ["window [1, 2, 3, 4]", "timer 100 [1, 2, 3, 4]", "window [1, 2, 3, 4, 5]", "timer 160 [1, 2, 3, 4, 5]"]
    assert sorted(one["text"] for one in straight(batches, build)) == sorted(expected)
    assert sorted(one["text"] for one in restored(batches, build)) == sorted(expected)
    aside = straight(batches, lambda stream: build(stream).side_output(Watched.large))
    assert aside == [{"k": "a", "size": 2}]


class Watermarks(lw.ProcessWindowFunction):
    """Shows how far event time has come where windows and timers are handled."""

    def process(self, key: str, window: lw.TimeWindow, rows: list[Row], ctx: lw.KeyedContext) -> Iterator[Row]:
        ctx.timers.register_event_time(window.end + dt.timedelta(seconds=5))
        yield {"what": f"window {seconds(window.end)}", "at": ctx.watermark, "ended": ctx.input_has_ended}

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Iterator[Row]:
        yield {"what": f"timer {seconds(timestamp)}", "at": ctx.watermark, "ended": ctx.input_has_ended}


@pytest.mark.parametrize(("parallelism", "behind_calls"), [(1, False), (2, False), (1, True)])
@pytest.mark.parametrize(
    "window", [lw.Tumbling("10s"), lw.Sliding("10s", "10s"), lw.Session("8s"), lw.Cumulative("10s", "10s")]
)
def test_the_watermark_of_a_window_is_the_one_that_made_it_fire(
    window: Any, parallelism: int, behind_calls: bool
) -> None:
    async def same(row: Row) -> Row:
        return row

    def job(env: lw.StreamExecutionEnvironment) -> None:
        script = [[row("a", 1, 2)], [row("a", 1, 11)], [row("a", 1, 24)], [row("a", 1, 40)]]
        time = lw.WatermarkStrategy.bounded_out_of_orderness("at", "1s")
        stream = env.from_source(ScriptedSource(SCHEMA, script), watermark=time, uid="in")
        if behind_calls:  # an operator of the same task that lets watermarks wait for its rows
            stream = stream.map_async(same, returns=SCHEMA, uid="calls")
        shown = {"what": str, "at": dt.datetime, "ended": bool}
        windows = stream.key_by("k").window(window).process(Watermarks(), returns=shown, uid="w")
        windows.sink_to(CollectSink(), uid="out")

    harness = JobHarness(job)
    harness.run(parallelism=parallelism)
    found = {
        one["what"]: (one["at"] and (one["at"] - EPOCH) / dt.timedelta(seconds=1), one["ended"])
        for one in harness.rows()
    }
    ends = [10, 19, 32, 48] if isinstance(window, lw.Session) else [10, 20, 30, 50]
    fired = {19: 22.999999, 32: 38.999999, 48: None, 10: 9.999999, 20: 22.999999, 30: 38.999999, 50: None}
    assert {what: at for what, (at, _) in found.items() if what[0] == "w"} == {
        f"window {end}": fired[end] for end in ends
    }
    assert all(ended == (at is None) for at, ended in found.values())
    for what, (at, _) in found.items():
        assert at is None or at >= int(what.split()[1]) - 1e-6


def test_the_event_time_of_results_is_the_end_of_the_window_if_they_keep_it() -> None:
    def sizes(key: str, window: lw.TimeWindow, rows: list[Row]) -> Any:
        yield {"k": key, "window_end": window.end, "size": len(rows)}

    windows = stream_of(row("a", 1, 1), row("a", 2, 7), row("a", 3, 61)).key_by("k").window(lw.Tumbling("5s"))
    result = windows.process(sizes, returns={"k": str, "window_end": dt.datetime, "size": int})
    minutes = result.key_by("k").window(lw.Tumbling("1m")).aggregate(n=lw.sum("size"))
    assert minutes.execute_and_collect()["n"].to_pylist() == [2, 1]
    assert windows.process(sizes, returns={"k": str, "size": int}).event_time is None


# -- errors


def windows_of_one() -> lw.WindowedStream:
    return stream_of(row("a", 1, 1)).key_by("k").window(lw.Tumbling("1m"))


def test_a_function_with_other_parameters_is_refused_and_told_what_it_gets() -> None:
    def one(row: Row) -> Any: ...

    class Two(lw.ProcessWindowFunction):
        def process(self, key, rows):  # type: ignore[no-untyped-def, override]
            return []

    with pytest.raises(GraphError, match="cannot be called") as caught:
        windows_of_one().process(one, returns={"n": int})
    assert "it gets (key, window, rows); its other parameters are the context (ctx) and states" in caught.value.hint
    assert __file__ in caught.value.location
    with pytest.raises(GraphError, match=r"'.*Two.process'") as caught:
        windows_of_one().process(Two(), returns={"n": int})
    assert caught.value.hint == "it gets (self, key, window, rows, ctx)"


def test_rows_annotated_as_a_single_one_or_of_another_type_are_refused() -> None:
    def single(key: str, window: Any, rows: Reading) -> Any: ...

    def wrong(key: str, window: Any, rows: list[Wrong]) -> Any: ...

    with pytest.raises(GraphError, match=r"'rows' of function .*single.* is annotated Reading") as caught:
        windows_of_one().process(single, returns={"n": int})
    assert caught.value.hint == "annotate it list[Reading]"
    with pytest.raises(SchemaError, match=r"Wrong.v is annotated str"):
        windows_of_one().process(wrong, returns={"n": int})


def test_functions_of_rows_and_of_windows_are_not_taken_for_each_other() -> None:
    class OfRows(lw.KeyedProcessFunction):
        def process(self, row: Row, ctx: lw.KeyedContext) -> Any:
            return []

    with pytest.raises(GraphError, match=r"OfRows is neither an lw.ProcessWindowFunction nor a function"):
        windows_of_one().process(OfRows(), returns={"n": int})
    with pytest.raises(GraphError, match=r"Numbered is neither an lw.KeyedProcessFunction nor a function"):
        stream_of(row("a", 1, 1)).key_by("k").process(Numbered(), returns={"n": int})
    with pytest.raises(GraphError, match="makes are not known"):
        windows_of_one().process(lambda key, window, rows: [])


def test_an_error_of_the_function_names_it_and_the_window() -> None:
    def fails(key: str, window: lw.TimeWindow, rows: list[Row]) -> Any:
        yield {"n": 1 // (len(rows) - 1)}

    with pytest.raises(
        UserCodeError, match=r"(?s)fails.* raised ZeroDivisionError.*key, window, rows: \('a', TimeWindow"
    ) as e:
        windows_of_one().process(fails, returns={"n": int}).execute_and_collect()
    assert "test_process_windows.py" in str(e.value)


def test_a_timer_that_nobody_handles_is_an_error() -> None:
    class Timed(lw.ProcessWindowFunction):
        def process(self, key: str, window: lw.TimeWindow, rows: list[Row], ctx: lw.KeyedContext) -> Any:
            ctx.timers.register_event_time(window.end)

    with pytest.raises(UserCodeError, match=r"a timer of .*Timed has come, which has no on_timer"):
        windows_of_one().process(Timed(), returns={"n": int}).execute_and_collect()
