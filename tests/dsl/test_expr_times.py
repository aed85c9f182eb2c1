"""Times: formats at vector speed, text to times, calendar months, time zones, durations."""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.dsl.expressions import Expr, col, duration, evaluate
from lakeward.dsl.expressions.civil import civil_from_days, days_from_civil
from lakeward.dsl.expressions.formatting import Digits
from lakeward.engine.core.errors import GraphError, RecordError, SchemaError, UserCodeError

instants = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


def ticks_of(moment: datetime, unit: str) -> int:
    micros = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return micros * UNITS[unit] // 1_000_000


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.none() | instants, min_size=1, max_size=20),
    unit=st.sampled_from(["s", "ms", "us"]),
    format=st.sampled_from(["%Y-%m-%d", "%F %T", "%d/%m/%y %R", "100%% %H", "%S", "%Y%m%d%H%M%S"]),
)
def test_digits_agree_with_python_over_nine_thousand_years(
    values: list[datetime | None], unit: str, format: str
) -> None:
    array = pa.array([None if v is None else ticks_of(v, unit) for v in values], pa.int64()).cast(
        pa.timestamp(unit, "UTC")
    )
    digits = Digits.of(format, UNITS[unit])
    assert digits is not None
    ticks = np.array([0 if v is None else ticks_of(v, unit) for v in values])
    wanted = [None if v is None else v.strftime(format) for v in values]
    assert digits.shows(ticks)
    assert digits(ticks, array).to_pylist() == wanted
    assert evaluate(col("a").dt.format(format), a=array) == wanted


def test_formats_whose_text_has_no_fixed_length_have_no_digits() -> None:
    assert Digits.of("%b %d", 1) is None
    assert Digits.of("plain", 1) is None


@pytest.mark.parametrize("format", ["%Y-%m-%d", "%H:%M", "%b %e %I %p", "%Y-%m-%dT%H:%M:%S.%f"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_a_large_batch_of_spread_times_is_formatted_like_a_small_one(format: str, zone: str) -> None:
    rng = np.random.default_rng(5)
    array = pa.array(rng.integers(-(2**50), 2**50, 3_000)).cast(pa.timestamp("us", zone))
    whole = evaluate(col("a").dt.format(format), a=array)
    assert whole[::97] == [evaluate(col("a").dt.format(format), a=array.slice(i, 1))[0] for i in range(0, 3_000, 97)]


def test_a_batch_of_one_day_has_its_text_in_every_row_that_has_a_time() -> None:
    morning = datetime(2026, 1, 2, tzinfo=UTC)
    times = [None, morning, morning + timedelta(hours=23), None, morning + timedelta(minutes=1)]
    array = pa.array([morning, *times], pa.timestamp("us", "UTC")).slice(1)
    assert evaluate(col("a").dt.format("%Y-%m-%d"), a=array) == [None if t is None else "2026-01-02" for t in times]


def test_years_beyond_four_digits_and_the_zone_itself_are_left_to_arrow() -> None:
    far = pa.array([253_402_300_800, 0, *range(0, 10**9, 10**7)]).cast(pa.timestamp("s", "UTC"))
    assert evaluate(col("a").dt.format("%Y"), a=far)[:2] == ["10000", "1970"]
    berlin = pa.array([datetime(2024, 7, 1, tzinfo=UTC)]).cast(pa.timestamp("us", "Europe/Berlin"))
    assert evaluate(col("a").dt.format("%H %Z %z"), a=berlin) == ["02 CEST +0200"]


def test_all_nulls_and_no_rows_are_formatted() -> None:
    for values in ([None, None], []):
        assert evaluate(col("a").dt.format("%Y"), a=pa.array(values, pa.timestamp("us"))) == values


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dates(), min_size=1, max_size=20))
def test_days_become_dates_and_dates_days(dates: list[date]) -> None:
    days = np.array([(each - date(1970, 1, 1)).days for each in dates])
    year, month, day = civil_from_days(days)
    assert list(zip(year.tolist(), month.tolist(), day.tolist(), strict=True)) == [
        (d.year, d.month, d.day) for d in dates
    ]
    assert days_from_civil(year, month, day).tolist() == days.tolist()


@settings(max_examples=40, deadline=None)
@given(
    moment=st.datetimes(datetime(1800, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    months=st.integers(-500, 500),
)
def test_months_are_added_as_on_a_calendar(moment: datetime, months: int) -> None:
    index = moment.year * 12 + moment.month - 1 + months
    year, month = index // 12, index % 12 + 1
    wanted = moment.replace(year=year, month=month, day=min(moment.day, calendar.monthrange(year, month)[1]))
    assert evaluate(col("a").dt.add_months(col("n")), a=[moment, None, moment], n=[months, 1, None]) == [
        wanted,
        None,
        None,
    ]
    assert evaluate(col("a").dt.add_months(months), a=[moment.date()]) == [wanted.date()]


def test_months_keep_the_time_on_the_clocks_of_the_columns_zone() -> None:
    zone = ZoneInfo("Europe/Berlin")
    winter = pa.array([datetime(2024, 2, 29, 12, tzinfo=zone)]).cast(pa.timestamp("us", "Europe/Berlin"))
    assert evaluate(col("a").dt.add_months(2).dt.format("%F %H"), a=winter) == ["2024-04-29 12"]


@pytest.mark.parametrize(
    ("format", "text", "wanted"),
    [
        ("%Y-%m-%d", "2024-02-29", utc(2024, 2, 29)),
        ("%Y-%m-%d", "1931-08-30", utc(1931, 8, 30)),
        ("%F %T", "1969-12-31 23:59:59", utc(1969, 12, 31, 23, 59, 59)),
        ("%d/%b/%Y:%H:%M:%S %z", "01/Mar/2024:00:30:00 +0200", utc(2024, 2, 29, 22, 30)),
        ("%d/%b/%Y:%H:%M:%S %z", "31/Mar/2024:23:30:00 -0200", utc(2024, 4, 1, 1, 30)),
        ("%Y-%m-%d %H:%M:%S.%f", "2024-05-17 08:30:15.25", utc(2024, 5, 17, 8, 30, 15, 250_000)),
        ("%Y%m%d%H", "2024051708", utc(2024, 5, 17, 8)),
        ("%I:%M %p %d.%m.%y", "08:30 PM 17.05.24", utc(2024, 5, 17, 20, 30)),
        ("%Y-%m-%d", "2024-02-30", None),
        ("%Y-%m-%d", "2023-02-29", None),
        ("%d.%m.%Y", "31.04.2024", None),
        ("%Y%m%d", "20240631", None),
        ("%d/%b/%Y %z", "31/Jun/2024 +0000", None),
        ("%Y-%m-%d", "2024-13-01", None),
        ("%Y-%m-%d", "2024-01-01x", None),
        ("%Y-%m-%d %H:%M:%S.%f", "2024-05-17 08:30:15", None),
        ("%Y-%m-%d %H:%M:%S.%f", "2024-02-30 08:30:15.5", None),
    ],
)
def test_text_is_parsed_by_its_format_and_a_day_that_does_not_exist_is_none(
    format: str, text: str, wanted: datetime | None
) -> None:
    found = evaluate(col("a").str.strptime(format, errors="null"), a=[None, text, text])
    assert found == [None, wanted, wanted]
    if wanted is None:
        with pytest.raises(RecordError) as caught:
            evaluate(col("a").str.strptime(format), a=[text])
        assert repr(text) in str(caught.value)
        assert 'errors="null"' in str(caught.value)


def test_unknown_parts_of_a_format_are_refused() -> None:
    for format in ("%Q", "%f", "%Y %f", "%"):
        with pytest.raises(GraphError):
            evaluate(col("a").str.strptime(format), a=["x"])


def test_clocks_of_a_zone_become_instants_and_the_hours_that_clocks_skip_or_repeat_are_decided() -> None:
    twice, skipped = datetime(2024, 10, 27, 2, 30), datetime(2024, 3, 31, 2, 30)  # noqa: DTZ001 (a clock's)
    local = pa.array([twice], pa.timestamp("us"))
    for choice, hour in (("earliest", 0), ("latest", 1)):
        made = col("a").dt.replace_time_zone("Europe/Berlin", ambiguous=choice)  # type: ignore[arg-type]
        assert evaluate(made.dt.convert_time_zone("UTC").dt.hour(), a=local) == [hour]
    for time, word in ((twice, "ambiguous"), (skipped, "nonexistent")):
        with pytest.raises(RecordError) as caught:
            evaluate(col("a").dt.replace_time_zone("Europe/Berlin"), a=pa.array([time], pa.timestamp("us")))
        assert word in str(caught.value)


def test_what_is_no_instant_or_no_zone_is_refused() -> None:
    naive, aware = pa.schema({"a": pa.timestamp("us")}), pa.schema({"a": pa.timestamp("us", "UTC")})
    with pytest.raises(SchemaError, match="no instant") as caught:
        col("a").dt.convert_time_zone("UTC").bind(naive)
    assert "replace_time_zone" in str(caught.value)
    with pytest.raises(GraphError, match="Mars"):
        col("a").dt.convert_time_zone("Mars/Crater").bind(aware)
    with pytest.raises(GraphError, match="often"):
        col("a").dt.replace_time_zone("UTC", ambiguous="often").bind(aware)  # type: ignore[arg-type]
    assert col("a").dt.convert_time_zone("+02:00").bind(aware).type == pa.timestamp("us", "+02:00")


@pytest.mark.parametrize(
    ("unit", "total", "wanted"),
    [
        ("s", "total_microseconds", -1_500_000_000),
        ("ms", "total_microseconds", -1_500_000),
        ("us", "total_microseconds", -1_500),
        ("ns", "total_microseconds", -2),
        ("ns", "total_milliseconds", -1),
        ("s", "total_minutes", -25.0),
        ("ms", "total_seconds", -1.5),
    ],
)
def test_durations_have_lengths_in_any_unit(unit: str, total: str, wanted: float) -> None:
    array = pa.array([-1_500, None]).cast(pa.duration(unit))
    assert evaluate(getattr(col("a").dt, total)(), a=array) == [wanted, None]


def test_durations_are_made_of_counts_and_never_wrap_around() -> None:
    assert evaluate(duration(col("n"), "d"), n=[1, None, -2]) == [timedelta(days=1), None, timedelta(days=-2)]
    with pytest.raises(UserCodeError, match="overflow"):
        evaluate(duration(col("n"), "d"), n=[2**50])


@pytest.mark.parametrize("every", ["1h", "hour", timedelta(hours=1)])
def test_intervals_may_be_units_or_durations(every: Any) -> None:
    at = [datetime(1969, 12, 31, 22, 10, tzinfo=UTC), datetime(2024, 1, 1, 5, tzinfo=UTC)]
    assert evaluate(col("a").dt.floor(every).dt.hour(), a=at) == [22, 5]
    assert evaluate(col("a").dt.ceil(every).dt.hour(), a=at) == [23, 5]


def test_times_in_a_range_include_the_bounds_that_are_asked_for() -> None:
    low, high = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)
    results = {closed: evaluate(col("a").between(low, high, closed=closed), a=[low, high]) for closed in
               ("both", "left", "right", "none")}  # fmt: skip
    assert results == {"both": [True, True], "left": [True, False], "right": [False, True], "none": [False, False]}
    with pytest.raises(GraphError):
        col("a").between(low, high, closed="half")  # type: ignore[arg-type]


def test_the_text_of_the_new_calls_is_what_one_writes() -> None:
    expressions: dict[str, Expr] = {
        'col("a").dt.replace_time_zone("UTC", ambiguous="latest")': col("a").dt.replace_time_zone(
            "UTC", ambiguous="latest"
        ),
        'col("a").between(1, 2, closed="left")': col("a").between(1, 2, closed="left"),
        'col("a").round(2, mode="half_up")': col("a").round(2, mode="half_up"),
        'col("a").clip(None, 3)': col("a").clip(high=3),
    }
    assert {text: str(each) for text, each in expressions.items()} == {text: text for text in expressions}


@pytest.mark.parametrize("text", ["2024-01-31", "2024-01-31T00:00", "2024-01-31 02:00:00.000+02:00", "2024-01-31T00Z"])
def test_the_end_of_a_date_is_not_taken_for_an_offset(text: str) -> None:
    for others in ([], ["2024-01-31T01:00:00+01:00", None]):
        made = evaluate(col("a").cast("timestamp"), a=[text, *others])
        assert made[0] == datetime(2024, 1, 31, tzinfo=UTC)


def test_text_with_nanoseconds_is_rounded_down_to_microseconds() -> None:
    texts = ["2024-01-31T10:00:00.123456789Z", "2024-01-31 10:00:00.123456789", "2024-01-31T10:00:00.5Z", None]
    whole = datetime(2024, 1, 31, 10, tzinfo=UTC)
    fine = whole.replace(microsecond=123456)
    assert evaluate(col("a").cast("timestamp"), a=texts) == [fine, fine, whole.replace(microsecond=500000), None]
    assert evaluate(col("a").cast("timestamp", errors="null"), a=["x", texts[0]]) == [None, fine]


@pytest.mark.parametrize("format", ["%", "%Y%", "%Q", "%-d", "%E", "100 % %Y"])
def test_a_format_that_arrow_would_write_as_it_is_is_refused(format: str) -> None:
    with pytest.raises(GraphError, match="directive"):
        col("a").dt.strftime(format).bind(pa.schema({"a": pa.timestamp("us")}))


def test_the_zone_of_a_time_without_one_cannot_be_shown() -> None:
    with pytest.raises(GraphError, match="has none"):
        col("a").dt.strftime("%H %Z").bind(pa.schema({"a": pa.timestamp("us")}))
    assert evaluate(col("a").dt.strftime("%H %Z%%z"), a=[datetime(2024, 1, 1, tzinfo=UTC)]) == ["00 UTC%z"]
