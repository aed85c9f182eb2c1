"""What a function reads of its state does not depend on where batches end."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
import pytest

import lakeward as lw

UTC = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
NAIVE = UTC.replace(tzinfo=None)
EAST = UTC.astimezone(dt.timezone(dt.timedelta(hours=2)))
Plain = Annotated[dt.datetime, pa.timestamp("us")]
Berlin = Annotated[dt.datetime, pa.timestamp("us", "Europe/Berlin")]
Small = Annotated[float, pa.float32()]
SMALL = 0.10000000149011612


@dataclass
class Seen:
    at: dt.datetime | None
    times: list[dt.datetime]
    share: float = 0.1


class Place(NamedTuple):
    at: dt.datetime
    name: str


@dataclass(frozen=True)
class Mixed:
    utc: dt.datetime
    plain: Plain


CASES: list[tuple[Any, Any, Any]] = [
    (dt.datetime, NAIVE, UTC),
    (dt.datetime, EAST, UTC),
    (Plain, UTC, NAIVE),
    (Plain, EAST, NAIVE),
    (Small, 0.1, SMALL),
    (list[dt.datetime], [NAIVE, UTC, EAST], [UTC, UTC, UTC]),
    (dict[str, dt.datetime], {"a": NAIVE}, {"a": UTC}),
    (list[Small], [0.1], [SMALL]),
    (Seen, Seen(NAIVE, [UTC, NAIVE]), Seen(UTC, [UTC, UTC])),
    (Seen, Seen(None, [EAST]), Seen(None, [UTC])),
    (Place, Place(NAIVE, "a"), Place(UTC, "a")),
    (Mixed, Mixed(NAIVE, EAST), Mixed(UTC, NAIVE)),
    ({"at": dt.datetime}, {"at": NAIVE}, {"at": UTC}),
]


def function_of(kind: Any, given: Any, ttl: str | None) -> lw.KeyedProcessFunction:
    class Holding(lw.KeyedProcessFunction):
        value = lw.ValueState(kind, ttl=ttl)
        listed = lw.ListState(kind, ttl=ttl)
        mapped = lw.MapState(str, kind, ttl=ttl)
        reduced = lw.ReducingState(kind, lambda held, new: new, ttl=ttl)
        defaulted = lw.ValueState(kind, default=given, ttl=ttl)

        def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Iterator[dict[str, Any]]:
            held = [self.value.value, *self.listed, *self.mapped.values(), self.reduced.value]
            first = [self.mapped.setdefault("first", given), self.defaulted.value] if row["n"] == 0 else []
            yield {"held": repr([*held, *first])}
            self.value.value = given
            self.listed.replace([given, given])
            self.mapped["m"] = given
            self.mapped.update({"n": given})
            self.reduced.add(given)

    return Holding()


def shown(function: Any, batch_rows: int) -> list[str]:
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=batch_rows))
    rows = env.from_collection([{"k": "a", "n": n} for n in range(4)]).key_by("k")
    found = rows.process(function, returns={"held": str}).execute_and_collect()["held"].to_pylist()
    return [text.replace("zoneinfo.ZoneInfo(key='UTC')", "datetime.timezone.utc") for text in found]


@pytest.mark.parametrize("ttl", [None, "1h"])
@pytest.mark.parametrize(("kind", "given", "stored"), CASES)
def test_what_is_set_is_at_once_what_is_read_in_the_next_batch(
    kind: Any, given: Any, stored: Any, ttl: str | None
) -> None:
    first = repr([None, None, stored, stored])
    later = repr([stored] * 7)
    for batch_rows in (1, 2, 10):
        assert shown(function_of(kind, given, ttl), batch_rows) == [first, *[later] * 3]


def test_times_of_another_zone_come_back_in_the_one_of_their_type() -> None:
    results = {size: shown(function_of(Berlin, NAIVE, None), size) for size in (1, 2, 10)}
    assert results[1] == results[2] == results[10]
    assert "Europe/Berlin" in results[1][1]


class Keys(lw.KeyedProcessFunction):
    """Sets one entry again and again, by keys that are one when they have been stored."""

    places: lw.MapState[Place, int]
    times: lw.MapState[tuple[dt.datetime, ...], int]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Iterator[dict[str, Any]]:
        at = (NAIVE, EAST, UTC)[row["n"] % 3]
        self.places[Place(at, "a")] = self.times[at,] = row["n"]
        found = [self.places[Place(other, "a")] == self.times[other,] == row["n"] for other in (NAIVE, EAST, UTC)]
        yield {"held": repr([len(self.places), len(self.times), *found])}


@pytest.mark.parametrize("batch_rows", [1, 2, 10])
def test_keys_of_maps_with_times_inside_are_the_same_whether_they_were_stored_or_not(batch_rows: int) -> None:
    assert shown(Keys(), batch_rows) == [repr([1, 1, True, True, True])] * 4


class Rules(lw.BroadcastProcessFunction):
    since: lw.BroadcastState[str, dt.datetime]

    def process(self, row: dict[str, Any], ctx: lw.ProcessContext) -> None: ...

    def process_broadcast(self, row: dict[str, Any], ctx: lw.ProcessContext) -> Iterator[dict[str, Any]]:
        self.since["a"] = NAIVE
        yield {"held": repr(self.since["a"])}


def test_what_is_set_in_broadcast_state_is_at_once_what_is_read_after_a_restart() -> None:
    env = lw.StreamExecutionEnvironment()
    one, rules = (env.from_collection([{"k": 1}]) for _ in range(2))
    found = one.connect(rules.broadcast()).process(Rules(), returns={"held": str})
    assert found.execute_and_collect()["held"].to_pylist() == [repr(UTC)]


def test_a_value_that_does_not_fit_is_refused_by_the_name_of_its_state_as_ever() -> None:
    with pytest.raises(lw.LakewardError, match="state 'value' holds float, but was given a value of type str"):
        shown(Misfit(), 10)


class Misfit(lw.KeyedProcessFunction):
    value: lw.ValueState[Small]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.value.value = "text"  # type: ignore[assignment]
