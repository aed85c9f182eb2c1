"""Key columns and fields with names that state might take for its own."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.engine.core.errors import SchemaError
from lakeward.operators.process.calls import Callee
from lakeward.operators.process.key_batch import prefixed
from lakeward.operators.process.operator import Process, ProcessInput
from lakeward.testing.harness import HarnessSnapshot, OperatorHarness

NAMES = [
    *(
        "",
        "#",
        "##",
        "/",
        "//",
        "#/",
        "/#touched_us",
        "//#touched_us",
        "#touched_us",
        "#time_us",
        "##touched_us",
        "##time_us",
        "##there",
    ),
    *("key.x", "key.value", "value", "value#given", "x", "x#given", "timestamp", "größe", "鍵", "a b", "a.b", "'", '"'),
]
SHOWN = pa.schema({"shown": pa.string()})
ROW = {"x": int, "y": str}


class EveryState(lw.KeyedProcessFunction):
    value = lw.ValueState(int, default=0)
    row = lw.ValueState(ROW, ttl="1h")
    listed = lw.ListState(ROW, ttl="1h")
    mapped = lw.MapState(str, ROW, ttl="1h")
    number = lw.MapState(int, int)

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.value.value += 1
        self.row.value = {"x": row["n"], "y": "row"}
        self.listed.append({"x": row["n"], "y": "listed"})
        self.mapped[f"m{row['n']}"] = {"x": row["n"], "y": "mapped"}
        self.number[row["n"]] = row["n"]
        ctx.timers.register_event_time(row["n"])

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Any:
        held = [self.value.value, self.row.value, list(self.listed), dict(self.mapped), dict(self.number)]
        yield {"shown": repr([ctx.current_key, *held])}


class EveryColumn(lw.KeyedBatchFunction):
    value = lw.ValueState(int, default=0, ttl="1h")

    def process_batch(self, batch: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> None:
        self.value.column = self.value.column.to_numpy() + 1
        ctx.timers.register_event_time(np.full(len(ctx.keys), 5), np.arange(len(ctx.keys)))

    def on_timers(self, timers: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> Any:
        return pa.record_batch({"shown": [f"{key} {n}" for key, n in zip(timers[0], self.value.column, strict=True)]})


def harness(function: Any, schema: pa.Schema, restored: list[HarnessSnapshot]) -> OperatorHarness:
    methods = ("process_batch",) if isinstance(function, lw.KeyedBatchFunction) else ("process",)
    keys = tuple(name for name in schema.names if name != "n")
    return OperatorHarness(
        Process(Callee(function, methods), (ProcessInput(schema, keys),), SHOWN, SHOWN), schema, restored=restored
    )


def over_a_restore(function: Any, schema: pa.Schema) -> list[str]:
    """What the timers show of three rows, the third of them behind a restore."""
    rows = [dict.fromkeys(schema.names, key) | {"n": n} for n, key in ((1, 7), (2, 7), (1, 8))]
    with harness(function, schema, []) as one:
        for row in rows[:2]:
            one.send([row])
        saved = one.snapshot()
    with harness(function, schema, [saved]) as one:
        one.send(rows[2:])
        one.watermark(10)
        return sorted(row["shown"] for row in one.take())


@pytest.mark.parametrize("name", NAMES)
def test_a_key_column_may_have_any_name(name: str) -> None:
    schema = pa.schema({name: pa.int64(), "n": pa.int64()})

    def held(key: int, count: int, *ns: int) -> str:
        rows = {what: [{"x": n, "y": what} for n in ns] for what in ("row", "listed", "mapped")}
        mapped = {f"m{n}": row for n, row in zip(ns, rows["mapped"], strict=True)}
        return repr([key, count, rows["row"][-1], rows["listed"], mapped, {n: n for n in ns}])

    assert over_a_restore(EveryState(), schema) == [held(7, 2, 1, 2)] * 2 + [held(8, 1, 1)]
    assert over_a_restore(EveryColumn(), schema) == ["7 2", "8 1"]


def test_key_columns_of_odd_names_are_told_apart() -> None:
    found = [name for name, _ in prefixed(tuple((name, pa.int64()) for name in NAMES))]
    assert len(set(found)) == len(NAMES)
    assert not [name for name in found if name.startswith("##")]
    schema = pa.schema({"#touched_us": pa.int64(), "/#touched_us": pa.int64(), "#time_us": pa.int64(), "n": pa.int64()})
    assert len(over_a_restore(EveryState(), schema)) == 3


@pytest.mark.parametrize("name", ["#k", "##touched_us", "##there", "key.value", "x#given"])
@pytest.mark.parametrize("state", [lw.ValueState, lw.ListState, lambda row, ttl: lw.MapState(str, row, ttl=ttl)])
def test_a_field_named_like_what_state_adds_is_refused_by_name(name: str, state: Any) -> None:
    class Fields(lw.KeyedProcessFunction):
        held = state({"x": int, name: int}, ttl="1h")

        def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...

    stream = lw.StreamExecutionEnvironment().from_collection([{"k": 1}]).key_by("k")
    with pytest.raises(SchemaError) as caught:
        stream.process(Fields(), returns={"k": int})
    assert "state 'held'" in caught.value.message
    assert repr(name) in caught.value.message
    assert caught.value.hint
