"""Text, time, cast and nested functions, with the edges that make them wrong elsewhere."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.dsl.expressions import col, evaluate, from_epoch, lit
from lakeward.dsl.expressions.patterns import named_group
from lakeward.engine.core.errors import GraphError, RecordError, UserCodeError

UTC_US = pa.timestamp("us", tz="UTC")
instants = st.datetimes(datetime(1950, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def times(values: list[Any], kind: pa.DataType = UTC_US) -> pa.Array:
    return pa.array(values, kind)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.none() | instants, max_size=20),
    cut=st.integers(0, 2),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York"]),
    format=st.sampled_from(["%Y-%m-%d", "%Y-%m-%d %H", "%H:%M", "%Y-%m-%dT%H:%M:%S", "%j %U", "%I %p", "%d.%m.%y %M"]),
)
def test_strftime_agrees_with_python_in_every_zone(
    values: list[datetime | None], cut: int, zone: str, format: str
) -> None:
    array = times(values, pa.timestamp("us", tz=zone)).slice(cut)
    local = [None if value is None else value.astimezone(ZoneInfo(zone)) for value in values[cut:]]
    wanted = [None if value is None else value.strftime(format) for value in local]
    assert evaluate(col("a").dt.strftime(format), a=array) == wanted


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.none() | instants, max_size=20), zone=st.sampled_from(["UTC", "Asia/Kolkata"]))
def test_calendar_fields_agree_with_python_before_and_after_1970(values: list[datetime | None], zone: str) -> None:
    array = times(values, pa.timestamp("us", tz=zone))
    local = [None if value is None else value.astimezone(ZoneInfo(zone)) for value in values]
    for name, of in {
        "year": lambda t: t.year,
        "month": lambda t: t.month,
        "day": lambda t: t.day,
        "hour": lambda t: t.hour,
        "minute": lambda t: t.minute,
        "second": lambda t: t.second,
        "weekday": lambda t: t.isoweekday(),
        "week": lambda t: t.isocalendar()[1],
        "date": lambda t: t.date(),
        "epoch_us": lambda t: (t - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1),
        "epoch_s": lambda t: (t - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1),
    }.items():
        found = evaluate(getattr(col("a").dt, name)(), a=array)
        assert found == [None if t is None else of(t) for t in local], name


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.none() | instants, max_size=20), seconds=st.sampled_from([1, 10, 60, 90, 3600, 86400]))
def test_floor_goes_down_also_before_1970(values: list[datetime | None], seconds: int) -> None:
    start, step = datetime(1970, 1, 1, tzinfo=UTC), timedelta(seconds=seconds)
    wanted = [None if t is None else start + (t - start) // step * step for t in values]
    assert evaluate(col("a").dt.floor(f"{seconds}s"), a=times(values)) == wanted


def test_floor_to_days_means_local_days_in_a_local_zone() -> None:
    late = times([datetime(2024, 1, 1, 23, 30, tzinfo=UTC)], pa.timestamp("us", tz="Europe/Berlin"))
    assert evaluate(col("a").dt.floor("1d"), a=late)[0].astimezone(UTC) == datetime(2024, 1, 1, 23, tzinfo=UTC)


def test_floor_knows_calendar_units() -> None:
    at = times([datetime(2024, 5, 17, 8, tzinfo=UTC)])
    days = {unit: evaluate(col("a").dt.floor(unit).dt.date(), a=at) for unit in ("week", "month", "quarter", "year")}
    assert days == {
        "week": [date(2024, 5, 13)],
        "month": [date(2024, 5, 1)],
        "quarter": [date(2024, 4, 1)],
        "year": [date(2024, 1, 1)],
    }


def test_strftime_writes_microseconds_as_seconds_dot_f_only() -> None:
    at = times([datetime(2024, 5, 17, 8, 30, 15, 42, tzinfo=UTC)])
    assert evaluate(col("a").dt.strftime("%H:%M:%S.%f"), a=at) == ["08:30:15.000042"]
    with pytest.raises(GraphError, match="%f"):
        evaluate(col("a").dt.strftime("%f"), a=at)


def test_times_are_made_from_numbers_of_any_unit() -> None:
    for unit, value in {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_999}.items():
        assert evaluate(from_epoch(col("a"), unit).dt.epoch_us(), a=[value, None]) == [1_000_000, None]  # type: ignore[arg-type]
    with pytest.raises(UserCodeError):
        evaluate(from_epoch(col("a"), "s"), a=[2**60])


@pytest.mark.parametrize(
    ("source", "target", "values", "wanted"),
    [
        (pa.string(), "int", ["7", "-7", "x", "7.5", "", "99999999999999999999", None], [7, -7] + [None] * 5),
        (pa.string(), "int8", ["127", "128", "a"], [127, None, None]),
        (pa.string(), "double", ["1.5", "1e3", ".5", "abc", "1.5x"], [1.5, 1000.0, 0.5, None, None]),
        (pa.string(), "bool", ["true", "0", "maybe"], [True, False, None]),
        (pa.string(), "decimal(6, 2)", ["1.25", "x", "99999.00"], [Decimal("1.25"), None, None]),
        (pa.string(), "date", ["2024-05-17", "soon"], [date(2024, 5, 17), None]),
        (pa.float64(), "int", [1.9, -1.9, float("nan"), 1e30], [1, -1, None, None]),
        (pa.int64(), "int8", [1, 300, -300, None], [1, None, None, None]),
    ],
)
def test_a_forgiving_cast_makes_null_of_what_does_not_fit(
    source: pa.DataType, target: str, values: list[Any], wanted: list[Any]
) -> None:
    array = pa.array(values, source)
    assert evaluate(col("a").cast(target, errors="null"), a=array) == wanted
    with pytest.raises(RecordError):
        evaluate(col("a").cast(target), a=array)


def test_text_becomes_an_instant_with_and_without_an_offset() -> None:
    values = ["2024-05-17T08:00:00Z", "2024-05-17 10:00:00+02:00", "2024-05-17 08:00:00", "2024-05-17T08:00", None]
    expected = datetime(2024, 5, 17, 8, tzinfo=UTC)
    assert evaluate(col("a").cast("timestamp"), a=values) == [expected] * 4 + [None]
    assert evaluate(col("a").cast(datetime), a=values[2:]) == [expected] * 2 + [None]
    assert evaluate(col("a").cast("timestamp", errors="null"), a=["soon", values[0]]) == [None, expected]


def test_times_lose_units_and_zones_downwards() -> None:
    before = times([datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)])
    assert evaluate(col("a").cast("timestamp[s]"), a=before) == [datetime(1969, 12, 31, 23, 59, 59)]  # noqa: DTZ001
    assert evaluate(col("a").cast("timestamp[s]").cast("timestamp").dt.epoch_us(), a=before) == [-1_000_000]


def test_bad_values_are_found_fast_among_many_good_ones() -> None:
    values = [str(i) if i % 100 else "bad" for i in range(20_000)]
    found = evaluate(col("a").cast("int", errors="null"), a=values)
    assert found == [i if i % 100 else None for i in range(20_000)]


@pytest.mark.parametrize(
    ("pattern", "group", "wanted"),
    [
        (r"(\w+)-(\d+)", 1, ["ab", None, None]),
        (r"(\w+)-(\d+)", 2, ["12", None, None]),
        (r"(\w+)-(\d+)", 0, ["ab-12", None, None]),
        (r"(?P<word>\w+)-(?:\d)(?P<last>\d)", "last", ["2", None, None]),
        (r"\((x)\)", 1, [None, "x", None]),
        (r"[(](x)", 1, [None, "x", None]),
        (r"[^])(]*-([0-9])", 1, ["1", None, None]),
        (r"(?i)(AB)", 1, ["ab", None, None]),
    ],
)
def test_extract_finds_groups_by_number_and_name(pattern: str, group: int | str, wanted: list[str | None]) -> None:
    assert evaluate(col("a").str.extract(pattern, group), a=["ab-12", "(x)", None]) == wanted


def test_a_group_that_captures_nothing_is_not_counted() -> None:
    assert named_group(r"(?:a)(?i:b)(c)", 1) == r"(?:a)(?i:b)(?P<found>c)"
    assert named_group(r"\(a\)(b)", 1) == r"\(a\)(?P<found>b)"


def test_lists_give_null_where_there_is_no_element() -> None:
    lists = pa.array([[9], [1, 2, 3], None, [], [4, None]], pa.list_(pa.int64()))
    sliced = lists.slice(1)
    assert evaluate(col("a").list.get(1), a=sliced) == [2, None, None, None]
    assert evaluate(col("a").list.get(-2), a=sliced) == [2, None, None, 4]
    assert evaluate(col("a").list.get(0), a=pa.array([], lists.type)) == []
    fixed = pa.array([[1, 2], None], pa.list_(pa.int64(), 2))
    assert evaluate(col("a").list.get(1), a=fixed) == [2, None]
    assert evaluate(col("a").list.get(1), a=sliced.cast(pa.large_list(pa.int64()))) == [2, None, None, None]


def test_constants_are_repeated_for_every_row() -> None:
    assert evaluate(lit("x"), a=[1, 2]) == ["x", "x"]
    assert evaluate(lit(1) + 2, a=[1, 2]) == [3, 3]
    assert evaluate(lit(None), a=[1, 2]) == [None, None]
    assert evaluate(lit([1, 2]), a=pa.array([], pa.int64())) == []


def test_dictionary_columns_are_decoded_for_functions() -> None:
    coded = pa.array(["x", None, "x"]).dictionary_encode()
    assert evaluate(col("a") == "x", a=coded) == [True, None, True]
    assert evaluate(col("a"), a=coded) == ["x", None, "x"]


def test_a_decimal_sum_beyond_38_digits_must_fit_again() -> None:
    wide = pa.array([Decimal("1.5"), Decimal(10) ** 28], pa.decimal128(38, 9))
    assert evaluate(col("a") + col("a"), a=wide)[0] == Decimal(3)
    with pytest.raises(UserCodeError):
        evaluate(col("a") * 100, a=pa.array([Decimal(10) ** 28], pa.decimal128(38, 9)))
