"""Values of every type and row class come back from state as they went in, with nulls at every place."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, TypedDict

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lakeward as lw
from lakeward.operators.process.calls import Callee
from lakeward.operators.process.operator import Process, ProcessInput
from lakeward.testing.harness import HarnessConfig, OperatorHarness

SCHEMA = pa.schema({"k": pa.int64(), "n": pa.int64()})
RESULT = pa.schema({"k": pa.int64()})
Exact = Annotated[Decimal, pa.decimal128(20, 3)]
Local = Annotated[dt.datetime, pa.timestamp("us")]


@dataclass(frozen=True)
class Inner:
    a: int | None
    b: str | None


@dataclass
class AsDataclass:
    number: int | None
    fraction: float | None
    small: Annotated[int, pa.int8()] | None
    text: str | None
    raw: bytes | None
    truth: bool | None
    exact: Exact | None
    day: dt.date | None
    moment: dt.datetime | None
    local: Local | None
    span: dt.timedelta | None
    listed: list[int | None] | None
    mapped: dict[str, float | None] | None
    inner: Inner | None
    inners: list[Inner | None] | None
    pair: tuple[int, ...] | None
    some: frozenset[str] | None


class AsNamedTuple(NamedTuple):
    number: int | None
    fraction: float | None
    small: Annotated[int, pa.int8()] | None
    text: str | None
    raw: bytes | None
    truth: bool | None
    exact: Exact | None
    day: dt.date | None
    moment: dt.datetime | None
    local: Local | None
    span: dt.timedelta | None
    listed: list[int | None] | None
    mapped: dict[str, float | None] | None
    inner: Inner | None
    inners: list[Inner | None] | None
    pair: tuple[int, ...] | None
    some: frozenset[str] | None


class AsTypedDict(TypedDict):
    number: int | None
    fraction: float | None
    small: Annotated[int, pa.int8()] | None
    text: str | None
    raw: bytes | None
    truth: bool | None
    exact: Exact | None
    day: dt.date | None
    moment: dt.datetime | None
    local: Local | None
    span: dt.timedelta | None
    listed: list[int | None] | None
    mapped: dict[str, float | None] | None
    inner: Inner | None
    inners: list[Inner | None] | None
    pair: tuple[int, ...] | None
    some: frozenset[str] | None


INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT = st.floats(allow_nan=False)
MOMENT = st.datetimes(timezones=st.just(dt.UTC))
INNER = st.builds(Inner, st.none() | INT64, st.none() | st.text(max_size=3))
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "number": INT64,
    "fraction": FLOAT,
    "small": st.integers(-128, 127),
    "text": st.text(max_size=5),
    "raw": st.binary(max_size=5),
    "truth": st.booleans(),
    "exact": st.decimals(-(10**6), 10**6, places=3),
    "day": st.dates(),
    "moment": MOMENT,
    "local": st.datetimes(),
    "span": st.timedeltas(dt.timedelta(days=-(10**6)), dt.timedelta(days=10**6)),
    "listed": st.lists(st.none() | INT64, max_size=3),
    "mapped": st.dictionaries(st.text(max_size=2), st.none() | FLOAT, max_size=3),
    "inner": INNER,
    "inners": st.lists(st.none() | INNER, max_size=3),
    "pair": st.lists(INT64, max_size=3).map(tuple),
    "some": st.frozensets(st.text(max_size=2), max_size=3),
}
ROWS = st.fixed_dictionaries({name: st.none() | kind for name, kind in FIELDS.items()})


def keeper(kind: Any) -> type[lw.KeyedProcessFunction]:
    class Keeper(lw.KeyedProcessFunction):
        """Holds a value in a state of every kind, and shows what it held before."""

        value = lw.ValueState(kind)
        brief = lw.ValueState(kind, ttl="1h")
        listed = lw.ListState(kind)
        mapped = lw.MapState(int, kind)

        def __init__(self, values: list[Any]) -> None:
            self.values = values
            self.shown: list[Any] = []

        def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
            n = row["n"]
            if n < 0:
                self.shown.append((row["k"], self.value.value, self.brief.value, list(self.listed), dict(self.mapped)))
                return
            self.value.value = self.brief.value = self.mapped[n] = self.values[n]
            self.listed.append(self.values[n])

    return Keeper


def held(kind: Any, values: list[Any]) -> list[Any]:
    """What is held for two keys after a restore."""
    factory = Process(Callee(keeper(kind)(values)), (ProcessInput(SCHEMA, ("k",)),), RESULT, RESULT)
    function = factory.callee.function
    config = HarnessConfig(memory_bytes=1 << 10)
    with OperatorHarness(factory, SCHEMA, config) as one:
        for n in range(len(values)):
            one.send([{"k": n % 2, "n": n}])
        snapshot = one.snapshot()
    with OperatorHarness.restore(factory, SCHEMA, [snapshot], config) as one:
        one.send([{"k": 0, "n": -1}, {"k": 1, "n": -1}])
    shown: list[Any] = function.shown
    return shown


def expected(values: list[Any]) -> list[Any]:
    parts = [{n: value for n, value in enumerate(values) if n % 2 == key} for key in (0, 1)]
    last = [list(part.values())[-1] if part else None for part in parts]
    return [(key, last[key], last[key], list(parts[key].values()), parts[key]) for key in (0, 1)]


@pytest.mark.parametrize("kind", [AsDataclass, AsNamedTuple, AsTypedDict])
@settings(max_examples=12, deadline=None)
@given(rows=st.lists(ROWS, min_size=1, max_size=4))
def test_rows_of_every_class_come_back_with_their_nulls(kind: Any, rows: list[dict[str, Any]]) -> None:
    values = [kind(**row) for row in rows]
    assert held(kind, values) == expected(values)


PLAIN: list[tuple[Any, str]] = [
    (int, "number"),
    (float, "fraction"),
    (Annotated[int, pa.int8()], "small"),
    (str, "text"),
    (bytes, "raw"),
    (bool, "truth"),
    (Exact, "exact"),
    (dt.date, "day"),
    (dt.datetime, "moment"),
    (Local, "local"),
    (dt.timedelta, "span"),
    (list[int | None], "listed"),
    (dict[str, float | None], "mapped"),
    (Inner, "inner"),
    (list[Inner | None], "inners"),
    (tuple[int, ...], "pair"),
    (frozenset[str], "some"),
]


@pytest.mark.parametrize(("kind", "name"), PLAIN, ids=[name for _, name in PLAIN])
def test_plain_values_come_back(kind: Any, name: str) -> None:
    @settings(max_examples=6, deadline=None)
    @given(values=st.lists(FIELDS[name], min_size=1, max_size=4))
    def check(values: list[Any]) -> None:
        assert held(kind, values) == expected(values)

    check()
