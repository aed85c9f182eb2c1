"""Names, times and ends that process functions meet seldom."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.engine.core.errors import GraphError, UserCodeError

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
SHOWN = {"shown": str}


def shown(function: Any, rows: int, key: str = "k") -> list[str]:
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=1))
    given = [{key: 1, "n": n, "at": NOON + dt.timedelta(seconds=n)} for n in range(rows)]
    stream = env.from_collection(given, watermark=lw.WatermarkStrategy.monotonous("at"))
    found: list[str] = stream.key_by(key).process(function, returns=SHOWN).execute_and_collect()["shown"].to_pylist()
    return found


@dataclass
class Touched:
    touched_us: int


class CountsTouches(lw.KeyedProcessFunction):
    held = lw.ValueState(Touched, ttl="1h")
    seen = lw.ListState(Touched, ttl="1h")
    named = lw.MapState(str, Touched, ttl="1h")

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
        held = self.held.value or Touched(0)
        self.held.value = Touched(held.touched_us + 1)
        self.seen.append(self.held.value)
        self.named["last"] = self.held.value
        ctx.timers.register_event_time(0)
        yield {"shown": f"{held.touched_us} {[one.touched_us for one in self.seen]}"}

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> None:
        assert ctx.current_key == 1


@pytest.mark.parametrize("key", ["touched_us", "time_us", "value"])
def test_fields_and_keys_may_be_named_like_the_time_of_a_ttl(key: str) -> None:
    assert shown(CountsTouches(), 3, key) == ["0 [1]", "1 [1, 2]", "2 [1, 2, 3]"]


class Reads(lw.KeyedProcessFunction):
    """Reads a list at some times, and changes it in place at one."""

    held = lw.ValueState(list[int], ttl=lw.StateTtl("10s", time="event"))

    def __init__(self, changed_at: int) -> None:
        self.changed_at = changed_at

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.held.value = [1]
        for second in (5, 8, 12, 16, 20):
            ctx.timers.register_event_time(NOON + dt.timedelta(seconds=second))

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Any:
        held = self.held.value
        if held is not None and timestamp == NOON + dt.timedelta(seconds=self.changed_at):
            held.append(2)
        yield {"shown": f"{held}"}


@pytest.mark.parametrize(
    ("changed_at", "expected"),
    [
        (99, ["[1]", "[1]", "None", "None", "None"]),
        (8, ["[1]", "[1, 2]", "[1, 2]", "[1, 2]", "None"]),
    ],
)
def test_a_list_lives_longer_if_it_was_changed_and_not_if_it_was_read(changed_at: int, expected: list[str]) -> None:
    assert shown(Reads(changed_at), 1) == expected


class CountsForAnHour(lw.KeyedBatchFunction):
    count = lw.ValueState(int, default=0, ttl="1h")

    def process_batch(self, batch: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> Any:
        self.count.column = counts = self.count.column.to_numpy() + 1
        return pa.record_batch({"shown": [str(count) for count in counts]})


def test_a_vectorised_state_with_a_ttl_begins_empty() -> None:
    assert shown(CountsForAnHour(), 3) == ["1", "2", "3"]


class ManyTimers(lw.KeyedBatchFunction):
    def __init__(self, domain: str, count: int) -> None:
        self.domain, self.count = domain, count

    def process_batch(self, batch: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> None:
        register = getattr(ctx.timers, f"register_{self.domain}_time")
        register(4_102_444_800_000_000 + np.arange(self.count), np.zeros(self.count, np.int64))

    def on_timers(self, timers: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> Any:
        return pa.record_batch({"shown": [str(time.value) for time in timers.column("timestamp")]})


@pytest.mark.parametrize(("domain", "count"), [("processing", 3), ("event", 3), ("event", 1500)])
def test_all_timers_of_a_key_come_to_a_vectorised_function_at_the_end(domain: str, count: int) -> None:
    expected = [str(4_102_444_800_000_000 + n) for n in range(count)]
    assert shown(ManyTimers(domain, count), 1) == expected


class Forgetful(lw.KeyedProcessFunction):
    held = lw.ReducingState(int, lambda one, other: None)  # type: ignore[arg-type,return-value]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.held.add(row["n"])


def test_a_reducing_function_that_returns_nothing_is_named() -> None:
    with pytest.raises(UserCodeError, match="the function of a ReducingState returned None"):
        shown(Forgetful(), 2)


@dataclass(frozen=True, slots=True)
class Slotted(lw.KeyedProcessFunction):
    step: int
    count: lw.ValueState[int] = lw.ValueState(default=5)  # noqa: RUF009 (a declaration, not a value)

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
        self.count.value += self.step
        yield {"shown": str(self.count.value)}


def test_a_state_of_a_dataclass_with_slots_has_its_default() -> None:
    assert shown(Slotted(2), 2) == ["7", "9"]


class Counts(lw.KeyedProcessFunction):
    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
        count: lw.ValueState[int] = getattr(self, "count")  # noqa: B009 (each subclass declares it in its own way)
        count.value = (count.value or 0) + 1
        yield {"shown": str(count.value)}


@dataclass
class WantsItsState(Counts):
    step: int
    count: lw.ValueState[int]


@dataclass
class WantsItsInheritedState(WantsItsState):
    more: int = 0


@dataclass
class OfTheClass(Counts):
    count: ClassVar[lw.ValueState[int]]
    step: int


@dataclass
class ByAValue(Counts):
    count = lw.ValueState(int)
    step: int


@dataclass
class NoArgument(Counts):
    step: int
    count: lw.ValueState[int] = field(init=False)


@dataclass
class WithItsOwnConstructor(Counts):
    count: lw.ValueState[int]

    def __init__(self, step: int) -> None:
        self.step = step


@pytest.mark.parametrize("make", [WantsItsState, WantsItsInheritedState])
@pytest.mark.parametrize("given", [(), (1,), (1, None)])
def test_a_dataclass_that_wants_its_state_as_an_argument_is_told_how_to_declare_it(make: Any, given: Any) -> None:
    with pytest.raises(GraphError, match="its constructor wants the state 'count'") as caught:
        make(*given)
    assert "count = lw.ValueState(...), or count: ClassVar[lw.ValueState[...]]" in caught.value.hint
    assert "test_process_edges.py" in caught.value.location


@pytest.mark.parametrize("make", [OfTheClass, ByAValue, NoArgument, WithItsOwnConstructor])
def test_a_dataclass_has_states_that_are_no_arguments(make: Any) -> None:
    assert shown(make(1), 2) == ["1", "2"]


class InInit(lw.KeyedProcessFunction):
    def __init__(self) -> None:
        self.seen = lw.ValueState(int)

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.seen.value = 1


def test_a_state_that_is_made_in_init_is_told_where_to_be_declared() -> None:
    with pytest.raises(UserCodeError) as caught:
        shown(InInit(), 1)
    assert "declare it in the class" in (caught.value.hint or "")


class Exact(lw.KeyedProcessFunction):
    local: lw.ValueState[Annotated[dt.datetime, pa.timestamp("us")]]
    small: lw.ListState[Annotated[float, pa.float32()] | None]
    named: lw.MapState[Annotated[bytes, pa.binary(2)], Annotated[Decimal, pa.decimal128(6, 2)]]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
        yield {"shown": repr((self.local.value, list(self.small), dict(self.named)))}
        self.local.value = dt.datetime(2026, 1, 1)  # noqa: DTZ001 (without a time zone)
        self.small.replace([0.1, None])
        self.named[b"ab"] = Decimal("1.5")


def test_states_are_of_the_arrow_type_that_their_annotation_says() -> None:
    local = dt.datetime(2026, 1, 1)  # noqa: DTZ001 (without a time zone)
    held = (local, [float(np.float32(0.1)), None], {b"ab": Decimal("1.50")})
    assert shown(Exact(), 2) == [repr((None, [], {})), repr(held)]


class NamesOfMaps(lw.KeyedProcessFunction):
    """Sets the same keys again and again, written in several ways."""

    numbers: lw.MapState[float, int]
    small: lw.MapState[Annotated[float, pa.float32()], int]
    moments: lw.MapState[dt.datetime, int]
    local: lw.MapState[Annotated[dt.datetime, pa.timestamp("us")], int]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
        n = row["n"]
        zone = dt.timezone(dt.timedelta(hours=2 * n))
        moment = NOON.astimezone(zone) if n % 2 else NOON.replace(tzinfo=None)
        for state, name in ((self.numbers, float("nan")), (self.small, 0.1), (self.small, 1e300)):
            state[name] = n
        for state in (self.moments, self.local):
            state[moment] = n
            assert moment in state
            assert state[moment] == n
        self.numbers[(0.0, -0.0)[n % 2]] = n
        del self.small[1e300]
        yield {"shown": repr([list(state.values()) for state in (self.numbers, self.small, self.moments, self.local)])}


def test_a_key_of_a_map_is_the_same_however_it_is_written_and_wherever_batches_end() -> None:
    assert shown(NamesOfMaps(), 4) == [repr([[n, n], [n], [n], [n]]) for n in range(4)]


class BroadcastNames(lw.BroadcastProcessFunction):
    limits: lw.BroadcastState[float, int]
    since: lw.BroadcastState[dt.datetime, int]

    def process(self, row: dict[str, Any], ctx: lw.ProcessContext) -> None: ...

    def process_broadcast(self, row: dict[str, Any], ctx: lw.ProcessContext) -> Any:
        self.limits[float("nan")] = row["n"]
        self.since[NOON if row["n"] % 2 else NOON.replace(tzinfo=None)] = row["n"]
        yield {"shown": repr([list(self.limits.values()), list(self.since.values())])}


def test_a_key_of_broadcast_state_is_the_same_however_it_is_written() -> None:
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=1))
    rows, rules = env.from_collection([{"k": 1}]), env.from_collection([{"n": n} for n in range(3)])
    result = rows.connect(rules.broadcast()).process(BroadcastNames(), returns=SHOWN)
    assert result.execute_and_collect()["shown"].to_pylist() == [repr([[n], [n]]) for n in range(3)]


class ColumnOfARow(lw.KeyedProcessFunction):
    seen: lw.ValueState[int]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.seen.column = [1]


def test_a_function_of_rows_that_sets_a_column_is_told_to_use_the_value() -> None:
    with pytest.raises(UserCodeError, match="used as a column where no batch of keys") as caught:
        shown(ColumnOfARow(), 1)
    assert "functions of rows use .value" in (caught.value.hint or "")


class RowsByDefault(lw.KeyedBatchFunction):
    held = lw.ValueState(Touched, default=Touched(4))

    def process_batch(self, batch: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> Any:
        column = self.held.column
        self.held.column = [{"touched_us": one["touched_us"] + 1} for one in column.to_pylist()]
        return pa.record_batch({"shown": [str(one) for one in column.field("touched_us")]})


def test_a_vectorised_state_of_rows_has_its_default() -> None:
    assert shown(RowsByDefault(), 2) == ["4", "5"]


class KeyOfARule(lw.BroadcastProcessFunction):
    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...

    def process_broadcast(self, row: dict[str, Any], ctx: Any) -> Any:
        yield {"shown": str(ctx.current_key)}


def test_a_broadcast_row_that_is_asked_for_its_key_is_told_that_it_has_none() -> None:
    env = lw.StreamExecutionEnvironment()
    rows, rules = env.from_collection([{"k": 1}]), env.from_collection([{"rule": 1}])
    result = rows.key_by("k").connect(rules.broadcast()).process(KeyOfARule(), returns=SHOWN)
    with pytest.raises(UserCodeError, match="a key is asked for where there is none"):
        result.execute_and_collect()


class Shown(NamedTuple):
    shown: str


@pytest.mark.parametrize("single", [Touched(1), Shown("a"), ("a", 1), {"shown": "a"}, "a", 5, True, object()])
def test_one_row_instead_of_a_list_of_it_is_told_to_be_yielded(single: Any) -> None:
    class OfTimers(lw.KeyedProcessFunction):
        def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
            ctx.timers.register_event_time(0)

        def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Any:
            return single

    rows = lw.StreamExecutionEnvironment().from_collection([{"k": 1}])
    for run, given in (
        (lambda: shown(lambda row: single, 1), "row: {'k': 1"),
        (lambda: shown(OfTimers(), 1), "key: {'k': 1}"),
        (lambda: rows.flat_map(lambda row: single, returns=SHOWN).execute_and_collect(), "row: {'k': 1}"),
    ):
        with pytest.raises(UserCodeError, match=f"returned a single {type(single).__name__}") as caught:
            run()
        assert "yield row, or return [row]" in caught.value.hint
        assert given in str(caught.value)
        assert "test_process_edges.py" in str(caught.value.trace[-1])


def test_a_function_that_gives_one_row_by_mistake_fails_for_that_row_alone() -> None:
    rows = lw.StreamExecutionEnvironment().from_collection([{"n": n} for n in range(4)])
    made = rows.flat_map(
        lambda row: row["n"] if row["n"] % 2 else [row], returns={"n": int}, on_error=lw.OnError.skip()
    )
    assert made.execute_and_collect()["n"].to_pylist() == [0, 2]


def test_a_type_error_behind_the_first_row_of_a_generator_is_the_functions_own() -> None:
    def broken(row: dict[str, Any]) -> Any:
        yield {"shown": "a"}
        yield {"shown": "a" + 1}  # type: ignore[operator]  # the mistake

    with pytest.raises(UserCodeError, match="raised TypeError: can only concatenate"):
        shown(broken, 1)


class MapOfTenSeconds(lw.KeyedProcessFunction):
    """Sets entry 1 at second 0 and entry 2 at second 3, touches as it is told, and shows the map at some seconds."""

    named = lw.MapState(str, int, ttl=lw.StateTtl("10s", time="event", refresh="read"))

    def __init__(self, touches: dict[int, str]) -> None:
        self.touches = touches

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.named["first"] = 1
        for second in (3, 8, 9, 11, 12, 14, 18, 19):
            ctx.timers.register_event_time(NOON + dt.timedelta(seconds=second))

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Any:
        second = (timestamp - NOON).seconds
        if second == 3:
            self.named["second"] = 2
        match self.touches.get(second):
            case "read":
                assert self.named["first"] == 1
            case "write":
                self.named["first"] = 1
            case "remove":
                del self.named["first"]
        yield {"shown": f"{second} {sorted(self.named)}"}


BOTH, SECOND, FIRST = ["first", "second"], ["second"], ["first"]


@pytest.mark.parametrize(
    ("touches", "held"),
    [
        ({}, [BOTH, BOTH, BOTH, SECOND, SECOND, [], [], []]),
        ({8: "read"}, [BOTH, BOTH, BOTH, BOTH, BOTH, FIRST, [], []]),
        ({9: "write"}, [BOTH, BOTH, BOTH, BOTH, BOTH, FIRST, FIRST, []]),
        ({8: "remove", 9: "write"}, [BOTH, SECOND, BOTH, BOTH, BOTH, FIRST, FIRST, []]),
        ({8: "read", 9: "remove"}, [BOTH, BOTH, SECOND, SECOND, SECOND, [], [], []]),
    ],
)
def test_entries_of_a_map_expire_one_by_one_ten_seconds_after_the_last_touch(
    touches: dict[int, str], held: list[list[str]]
) -> None:
    seconds = (3, 8, 9, 11, 12, 14, 18, 19)
    assert shown(MapOfTenSeconds(touches), 1) == [f"{at} {names}" for at, names in zip(seconds, held, strict=True)]


class TouchedEarlier(lw.KeyedProcessFunction):
    """Two timers: the later one first, which sets one that goes back in time and reads."""

    named = lw.MapState(str, int, ttl=lw.StateTtl("10s", time="event", refresh="read"))

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.named["x"] = 1
        for second in (8, 12, 16, 30):
            ctx.timers.register_event_time(NOON + dt.timedelta(seconds=second))

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Any:
        second = (timestamp - NOON).seconds
        if second == 8:
            assert self.named["x"] == 1
            ctx.timers.register_event_time(NOON + dt.timedelta(seconds=5))
        if second == 5:
            assert self.named["x"] == 1
        yield {"shown": f"{second} {len(self.named)}"}


def test_an_entry_that_an_earlier_time_touched_last_expires_by_that_time() -> None:
    assert shown(TouchedEarlier(), 1) == ["8 1", "5 1", "12 1", "16 0", "30 0"]
