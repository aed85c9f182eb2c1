"""What states may hold: None beside rows, keys of maps that have a hash, and any names of columns."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, NamedTuple, TypedDict

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.engine.core.errors import SchemaError, UserCodeError
from lakeward.operators.process.calls import Callee
from lakeward.operators.process.operator import Process, ProcessInput
from lakeward.testing.harness import HarnessConfig, HarnessSnapshot, OperatorHarness

SCHEMA = pa.schema({"k": pa.string(), "n": pa.int64()})
SHOWN = pa.schema({"shown": pa.string()})


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    label: str

    def __post_init__(self) -> None:
        assert self.label is not None, "no row is made where there is None"


class Pair(NamedTuple):
    x: int
    inner: list[Point | None]


class Typed(TypedDict):
    x: int


class Holds(lw.KeyedProcessFunction):
    points: lw.ListState[Point | None]
    pairs: lw.ListState[Annotated[Pair | None, "as a tuple"]]
    dicts: lw.MapState[str | None, Typed | None]
    by_point: lw.MapState[Point | None, float | None]
    one: lw.ValueState[Point | None]
    within: lw.ValueState[list[Point | None]]
    latest = lw.AggregatingState(Typed | None, create=lambda: {"x": 0}, add=lambda acc, x: x, result=lambda acc: acc)

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        point = Point(row["n"], "p") if row["n"] % 2 else None
        self.points.append(point)
        self.pairs.append(None if point else Pair(7, [point, Point(1, "i")]))
        self.dicts["a" if point else None] = None if point else Typed(x=1)
        self.by_point[point] = None if point else 0.5
        self.one.value = point
        self.within.value = [point, Point(2, "w")]
        self.latest.add(Typed(x=row["n"]))


class Shows(Holds):
    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
        held = [list(self.points), list(self.pairs), dict(self.dicts), dict(self.by_point)]
        yield {"shown": repr([*held, self.one.value, self.within.value, self.latest.value])}


def harness(function: Any, restored: list[HarnessSnapshot], keys: tuple[str, ...] = ("k",)) -> OperatorHarness:
    factory = Process(Callee(function), (ProcessInput(SCHEMA, keys),), SHOWN, SHOWN)
    return OperatorHarness(factory, SCHEMA, HarnessConfig(store="rocksdb", memory_bytes=1 << 14), restored)


def test_none_is_a_value_of_lists_and_maps_of_rows_whose_type_admits_it() -> None:
    with harness(Holds(), []) as one:
        for n in range(3):
            one.send([{"k": "a", "n": n}])
        saved = one.snapshot()
    with harness(Shows(), [saved]) as one:
        one.send([{"k": "a", "n": 0}])
        shown = one.take()[0]["shown"]
    pair = Pair(7, [None, Point(1, "i")])
    expected = [
        [None, Point(1, "p"), None],
        [pair, None, pair],
        {"a": None, None: {"x": 1}},
        {Point(1, "p"): None, None: 0.5},
        None,
        [None, Point(2, "w")],
        {"x": 2},
    ]
    assert shown == repr(expected)


class Strict(lw.KeyedProcessFunction):
    points: lw.ListState[Point]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.points.append(Point(row["n"], "p") if row["n"] else None)  # type: ignore[arg-type]


class Lenient(lw.KeyedProcessFunction):
    points: lw.ListState[Point | None]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
        self.points.append(None)
        yield {"shown": repr(list(self.points))}


def test_a_type_that_does_not_admit_none_refuses_it_and_may_admit_it_later() -> None:
    with harness(Strict(), []) as one:
        one.send([{"k": "a", "n": 4}])
        saved = one.snapshot()
        with pytest.raises(UserCodeError, match="state 'points' is no row"):
            one.send([{"k": "a", "n": 0}])
    with harness(Lenient(), [saved]) as one:
        one.send([{"k": "a", "n": 0}])
        assert one.take()[0]["shown"] == repr([Point(4, "p"), None])


@dataclasses.dataclass
class Mutable:
    x: int


@dataclasses.dataclass(frozen=True)
class FrozenWithList:
    x: list[int]


@dataclasses.dataclass(frozen=True)
class OwnHash:
    x: list[int]

    def __hash__(self) -> int:
        return sum(self.x)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (list[int], "list[int]"),
        (dict[str, int], "dict[str, int]"),
        (set[int], "set[int]"),
        (Typed, "Typed"),
        (Mutable, "Mutable"),
        (Mutable | None, "Mutable"),
        (Pair, "list["),
        (FrozenWithList, "list[int]"),
        (tuple[Mutable, ...], "Mutable"),
        ({"x": int}, "dict"),
        (pa.list_(pa.int64()), "list<"),
    ],
    ids=str,
)
@pytest.mark.parametrize("state", [lw.MapState, lw.BroadcastState])
def test_keys_of_maps_that_have_no_hash_are_refused_by_name_where_the_job_is_written(
    state: Any, kind: Any, named: str
) -> None:
    class Maps(lw.KeyedProcessFunction):
        by_key = state(kind, int)

        def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...

    stream = lw.StreamExecutionEnvironment().from_collection([{"k": 1}]).key_by("k")
    with pytest.raises(SchemaError) as caught:
        stream.process(Maps(), returns={"k": int})
    assert "state 'by_key'" in caught.value.message
    assert named in caught.value.message
    assert "frozen" in caught.value.hint


@pytest.mark.parametrize("kind", [tuple[int, ...], frozenset[str], Point, OwnHash, str | None, pa.string(), "int"])
def test_keys_of_maps_that_have_a_hash_are_taken(kind: Any) -> None:
    class Maps(lw.KeyedProcessFunction):
        by_key = lw.MapState(kind, int)

        def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...

    stream = lw.StreamExecutionEnvironment().from_collection([{"k": 1}]).key_by("k")
    assert stream.process(Maps(), returns={"k": int}).schema.names == ["k"]
