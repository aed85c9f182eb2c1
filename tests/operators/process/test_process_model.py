"""Process functions with every kind of state, against a dict of Python objects a key."""

from __future__ import annotations

import copy
import datetime as dt
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from process_model import ModelContext, ModelFolded, ModelList, ModelMap, ModelValue, Now

import lakeward as lw
from lakeward.engine.core.clock import ManualClock
from lakeward.engine.core.hashing import hash_columns
from lakeward.engine.core.ids import SubtaskIndex
from lakeward.engine.core.keygroups import key_group_range, key_groups
from lakeward.operators.process.calls import Callee
from lakeward.operators.process.operator import Process, ProcessInput
from lakeward.testing.harness import HarnessConfig, OperatorHarness

MOMENT = pa.timestamp("us", tz="UTC")
FIELDS = [pa.field("id", pa.int64()), pa.field("op", pa.string()), pa.field("n", pa.int64()), pa.field("at", MOMENT)]
RESULT = pa.schema({"id": pa.int64(), "what": pa.string()})
ASIDE = lw.OutputTag("aside", {"id": int, "n": int})
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MAX_PARALLELISM = 8
EVENT, CLOCK = (lambda **o: lw.StateTtl("20us", time="event", **o)), (lambda **o: lw.StateTtl("30ms", **o))


NAN = float("nan")
NO_NUMBER = np.array([0xFFF8_0000_0000_0001], np.uint64).view(np.float64)[0]  # not a number either, in other bits
NAMES = ["a", "b", None, "", *(f"k{n}" for n in range(20))]
KEYS: dict[str, tuple[list[pa.DataType], list[Any]]] = {
    "text": ([pa.string()], NAMES),
    "float": ([pa.float64()], [(0.0, -0.0), (NAN, NO_NUMBER), None, 1.5, -1.5, float("inf"), 5e-324]),
    "small float": ([pa.float32()], [(0.0, -0.0), NAN, None, 1.5]),
    "dictionary": ([pa.dictionary(pa.int8(), pa.string())], NAMES[:8]),
    "nanoseconds": ([pa.timestamp("ns")], [0, 1, 999, 1000, -1, None]),
    "time": ([pa.timestamp("s", "Europe/Berlin")], [0, 1, -1, None]),
    "bytes": ([pa.binary()], [b"", b"\0", b"\0\0", b"\xff", None]),
    "true or false": ([pa.bool_()], [True, False, None]),
    "numbers and names": (
        [pa.uint8(), pa.large_string()],
        [(n, name) for n in (0, 255, None) for name in ("", "x", None)],
    ),
    "floats and days": ([pa.float64(), pa.date32()], [(n, day) for n in (0.0, NAN, None) for day in (0, -1, None)]),
}
"""Types of key columns, and keys; those of one column may be written in several ways."""


class Everything(lw.KeyedProcessFunction):
    id: lw.ValueState[int]
    value: lw.ValueState[int]
    text = lw.ValueState(str, default="-")
    held: lw.ValueState[list[int]] = lw.ValueState(default=[])
    row = lw.ValueState({"a": int, "b": str})
    listed: lw.ListState[int]
    mapped: lw.MapState[str, int]
    most = lw.ReducingState(int, max)
    mean = lw.AggregatingState(
        {"sum": int, "n": int},
        create=lambda: {"sum": 0, "n": 0},
        add=lambda acc, x: {"sum": acc["sum"] + x, "n": acc["n"] + 1},
        result=lambda acc: acc["sum"] / acc["n"],
    )
    old_value = lw.ValueState(int, ttl=EVENT())
    old_read = lw.ValueState(int, ttl=EVENT(refresh="read"))
    old_clock = lw.ValueState(int, default=-1, ttl=CLOCK())
    old_held = lw.ValueState(list[int], ttl=CLOCK())
    old_listed = lw.ListState(int, ttl=EVENT())
    old_mapped = lw.MapState(str, int, ttl=CLOCK(refresh="read"))
    old_most = lw.ReducingState(int, max, ttl=EVENT())

    def process(self, row: dict[str, Any], ctx: Any) -> Iterator[dict[str, Any]]:
        n = row["n"]
        self.id.value = row["id"]
        getattr(self, f"do_{row['op']}")(n, ctx)
        if n % 3 == 0:
            yield self.shown(ctx, row["op"])
        if n % 7 == 0:
            ctx.output(ASIDE, {"id": row["id"], "n": n})

    def on_timer(self, timestamp: dt.datetime, ctx: Any) -> Iterator[dict[str, Any]]:
        time = (timestamp - EPOCH) // dt.timedelta(microseconds=1)
        if ctx.time_domain == "event" and time % 3 == 0 and time < 10_000:
            ctx.timers.register_event_time(time + 5)
        if time % 4 == 0:
            ctx.timers.delete_event_time(time + 2)
        if time % 2 == 0:
            self.value.value = time
            self.old_value.value = time
            self.listed.append(time)
        yield self.shown(ctx, f"timer {ctx.time_domain} {time}")

    def shown(self, ctx: Any, why: str) -> dict[str, Any]:
        old = [self.old_value.value, self.old_read.value, self.old_clock.value, self.old_held.value]
        old += [list(self.old_listed), list(self.old_mapped), self.old_most.value]
        now = [self.value.value, self.value.exists, self.text.value, self.held.value, self.held.exists, self.row.value]
        now += [list(self.listed), list(self.mapped.items()), self.most.value, self.mean.value]
        return {"id": self.id.value, "what": repr((why, ctx.timestamp_us, now, old))}

    def do_set(self, n: int, ctx: Any) -> None:
        self.value.value = n
        self.text.value = f"t{n}"
        self.old_value.value = self.old_read.value = self.old_clock.value = n
        self.old_held.value = [n]
        self.row.value = {"a": n, "b": None if n % 2 else "x"}

    def do_clear(self, n: int, ctx: Any) -> None:
        for state in (self.value, self.text, self.held, self.row, self.listed, self.most, self.mean, self.mapped):
            if n % 2:
                state.clear()

    def do_change(self, n: int, ctx: Any) -> None:
        self.held.value.append(n)
        if len(self.held.value) > 3:
            self.held.value.clear()
        if n % 2 and self.old_held.value is not None:
            self.old_held.value.append(n)

    def do_list(self, n: int, ctx: Any) -> None:
        self.listed.append(n)
        self.old_listed.append(n)
        if n % 5 == 0:
            self.listed.replace(reversed(list(self.listed)))
        if len(self.listed) > 6:
            self.listed.clear()

    def do_map(self, n: int, ctx: Any) -> None:
        name = f"m{n % 5}"
        if n % 2:
            self.mapped[name] = n
            self.old_mapped[name] = n
        else:
            self.mapped.pop(name, None)
            self.old_mapped.get(name)

    def do_fold(self, n: int, ctx: Any) -> None:
        self.most.add(n)
        self.mean.add(n)
        self.old_most.add(n)

    def do_timer(self, n: int, ctx: Any) -> None:
        ctx.timers.register_event_time(ctx.timestamp_us + n)
        if n % 4 == 0:
            ctx.timers.delete_event_time(ctx.timestamp_us + n - 1)
        if n % 5 == 0:
            ctx.timers.register_processing_time(START_US + 10_000 * n)

    def do_read(self, n: int, ctx: Any) -> None:
        assert self.old_read.value is None or self.old_read.value >= 0
        for name in self.old_mapped:
            assert self.old_mapped[name] > 0


START_US = ManualClock().wall_us()
OPS = ("set", "clear", "change", "list", "map", "fold", "timer", "read")


class Model:
    """Handles rows and time as the operator should."""

    def __init__(self) -> None:
        self.now, self.context = Now(), ModelContext()
        self.functions: dict[Any, Everything] = {}
        self.rows: list[tuple[Any, str]] = []

    def function(self, key: Any) -> Everything:
        if key not in self.functions:
            made = self.functions[key] = Everything()
            for name in dir(Everything):
                state = getattr(Everything, name, None)
                if isinstance(state, lw.ValueState):
                    setattr(made, name, ModelValue(self.now, state))
                elif isinstance(state, lw.ListState):
                    setattr(made, name, ModelList(self.now, state))
                elif isinstance(state, lw.MapState):
                    setattr(made, name, ModelMap(self.now, state))
                elif isinstance(state, lw.ReducingState):
                    setattr(made, name, ModelFolded(self.now, state, None, state.function, lambda x: x))
                elif isinstance(state, lw.AggregatingState):
                    folded = ModelFolded(self.now, state, state.create, state.fold, state.result)
                    setattr(made, name, folded)
            for name, kind in (("id", ModelValue), ("value", ModelValue), ("listed", ModelList), ("mapped", ModelMap)):
                setattr(made, name, kind(self.now, lw.ValueState()))
        return self.functions[key]

    def at(self, key: Any, time_us: int | None, watermark_us: int | None = None) -> Everything:
        self.context.current_key = self.context.timers.key = key
        self.context.timestamp_us = self.now.time_us = time_us
        if watermark_us is not None:
            self.now.watermark_us = watermark_us
        return self.function(key)

    def row(self, row: dict[str, Any]) -> None:
        function = self.at(row["id"], (row["at"] - EPOCH) // dt.timedelta(microseconds=1))
        self.rows += [(one["id"], one["what"]) for one in function.process(row, self.context)]
        self.settle(function)

    def settle(self, function: Everything) -> None:
        for state in vars(function).values():
            if isinstance(state, ModelValue):
                state.settle()

    def advance(self, domain: str, upto_us: int) -> None:
        timers = self.context.timers.set[domain]
        before = self.now.watermark_us
        while due := [one for one in timers if one[0] <= upto_us]:
            time, key = min(due, key=lambda one: (one[0], str(one[1])))
            timers.discard((time, key))
            self.context.time_domain = domain
            self.now.by_clock = domain == "processing"
            function = self.at(key, time, max(time, before) if domain == "event" else None)
            self.rows += [
                (one["id"], one["what"])
                for one in function.on_timer(EPOCH + dt.timedelta(microseconds=time), self.context)
            ]
            self.settle(function)
        self.context.time_domain = None
        self.now.by_clock = False
        self.now.watermark_us = max(before, upto_us) if domain == "event" else before


class Subtasks:
    """The operator at some parallelism, restored at others in between."""

    def __init__(self, parallelism: int, memory_bytes: int, kinds: list[pa.DataType]) -> None:
        self.memory_bytes = memory_bytes
        self.names = [f"k{number}" for number in range(len(kinds))]
        keys = [pa.field(name, kind) for name, kind in zip(self.names, kinds, strict=True)]
        self.schema = pa.schema([*keys, *FIELDS])
        self.start(parallelism, [])
        self.rows: list[tuple[Any, str]] = []
        self.side: list[Any] = []

    def start(self, parallelism: int, snapshots: list[Any]) -> None:
        factory = Process(Callee(Everything()), (ProcessInput(self.schema, tuple(self.names), "at"),), RESULT, RESULT)
        self.harnesses = [
            OperatorHarness(
                factory,
                self.schema,
                HarnessConfig(number, parallelism, MAX_PARALLELISM, memory_bytes=self.memory_bytes),
                snapshots,
            )
            for number in range(parallelism)
        ]

    def restart(self, parallelism: int, clock_ms: float) -> None:
        snapshots = [one.snapshot() for one in self.harnesses]
        self.take()
        self.close()
        self.start(parallelism, snapshots)
        for one in self.harnesses:
            one.clock.advance_ms(clock_ms)

    def send(self, rows: list[dict[str, Any]], keys: list[tuple[Any, ...]]) -> None:
        fields = zip(self.schema, zip(*keys, strict=True), strict=False)
        columns = [column_of(values, field.type) for field, values in fields]
        rest = pa.RecordBatch.from_pylist(rows, schema=pa.schema(FIELDS))
        batch = pa.RecordBatch.from_arrays([*columns, *rest.columns], schema=self.schema)
        groups = key_groups(hash_columns(columns), MAX_PARALLELISM)
        for number, one in enumerate(self.harnesses):
            mine = key_group_range(SubtaskIndex(number), len(self.harnesses), MAX_PARALLELISM)
            part = batch.filter(pa.array((groups >= mine.start) & (groups < mine.stop)))
            if part.num_rows:
                one.send(part)
        self.take()

    def take(self) -> None:
        for one in self.harnesses:
            self.rows += [(row["id"], row["what"]) for row in one.take()]
            self.side += one.take_side("aside")

    def close(self) -> None:
        for one in self.harnesses:
            one.close()


def column_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    as_numbers = {pa.types.lib.Type_TIMESTAMP: pa.int64(), pa.types.lib.Type_DATE32: pa.int32()}
    return pa.array(values, as_numbers.get(kind.id, kind)).cast(kind)


def by_key(rows: list[tuple[Any, str]]) -> dict[Any, list[str]]:
    found: dict[Any, list[str]] = {}
    for key, what in rows:
        found.setdefault(key, []).append(what)
    return found


def random_row(rng: random.Random, time_us: int, number: int) -> dict[str, Any]:
    at = EPOCH + dt.timedelta(microseconds=max(0, time_us + rng.randrange(-8, 12)))
    return {"id": number, "op": rng.choice(OPS), "n": rng.randrange(1, 40), "at": at}


@pytest.mark.parametrize("memory_bytes", [1 << 28, 1 << 14])
@pytest.mark.parametrize("seed", range(3))
def test_every_state_is_that_of_one_row_after_the_other(seed: int, memory_bytes: int) -> None:
    print(f"seed {seed}")
    compare(random.Random(seed), "text", memory_bytes, 60)


@pytest.mark.parametrize("keys", [name for name in KEYS if name != "text"])
def test_keys_of_every_type_have_states_and_timers_of_their_own(keys: str) -> None:
    for seed in range(2):
        print(f"seed {seed}")
        compare(random.Random(f"{keys}/{seed}"), keys, 1 << (28 if seed else 13), 25)


def compare(rng: random.Random, keys: str, memory_bytes: int, steps: int) -> None:
    kinds, chosen = KEYS[keys]
    model, subtasks = Model(), Subtasks(rng.randrange(1, 4), memory_bytes, kinds)
    model.now.clock_us = START_US
    time_us, clock_ms = 0, 0
    try:
        for _ in range(steps):
            what = rng.random()
            if what < 0.6:
                rows = [random_row(rng, time_us, rng.randrange(len(chosen))) for _ in range(rng.choice([1, 3, 40]))]
                subtasks.send(rows, [key_of(rng, chosen[row["id"]], len(kinds)) for row in rows])
                for row in copy.deepcopy(rows):
                    model.row(row)
            elif what < 0.8:
                time_us += rng.randrange(0, 15)
                for one in subtasks.harnesses:
                    one.watermark(time_us)
                subtasks.take()
                model.advance("event", time_us)
            elif what < 0.9:
                advance_ms = rng.randrange(0, 30)
                clock_ms += advance_ms
                for one in subtasks.harnesses:
                    one.tick(advance_ms)
                subtasks.take()
                model.now.clock_us = START_US + clock_ms * 1000
                model.advance("processing", model.now.clock_us)
            else:
                subtasks.restart(rng.randrange(1, 4), clock_ms)
        for one in subtasks.harnesses:
            one.watermark(20_000)
        subtasks.take()
        model.advance("event", 20_000)
        check(model, subtasks)
    finally:
        subtasks.close()


def key_of(rng: random.Random, key: Any, columns: int) -> tuple[Any, ...]:
    if columns > 1:
        return tuple(key)
    return (rng.choice(key) if isinstance(key, tuple) else key,)


def check(model: Model, subtasks: Subtasks) -> None:
    found, wanted = by_key(subtasks.rows), by_key(model.rows)
    for key, rows in wanted.items():
        for number, (one, other) in enumerate(zip(found.get(key, []), rows, strict=False)):
            assert one == other, f"row {number} of key {key}"
    assert found == wanted
    shown = [(row["id"], row["n"]) for row in subtasks.side]
    assert sorted(shown) == sorted((row["id"], row["n"]) for row in model.context.side)
    assert len(model.rows) > 20
