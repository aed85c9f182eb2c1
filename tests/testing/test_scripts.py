"""Scripts that cannot work are refused where they are written, with step, row, column and value."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest

from lakeward.engine.core.errors import ConfigError
from lakeward.testing import BARRIER, PAUSE, ScriptedSource, Watermark

NUMBERS = {"n": int, "name": str}
ROWS = [{"n": 1}]


@pytest.mark.parametrize(
    "script", [["BARRIER"], [{"n": 1}], [5], [None], [[1]], [[{"n": 1}, BARRIER]], [pa.table({"n": [1]})]]
)
def test_a_step_of_a_script_that_is_neither_rows_nor_a_mark_is_refused(script: Any) -> None:
    with pytest.raises(ConfigError, match=r"step 0 of script 0.* cannot be") as refused:
        ScriptedSource(NUMBERS, script)
    assert "test_scripts.py" in str(refused.value)


@pytest.mark.parametrize("script", [5, "abc", BARRIER, {"n": 1}, None])
def test_a_script_that_is_no_list_is_refused(script: Any) -> None:
    with pytest.raises(ConfigError, match="script 1 of a ScriptedSource cannot be"):
        ScriptedSource(NUMBERS, [], script)


def test_a_misspelt_column_of_a_script_is_refused_where_it_is_written() -> None:
    with pytest.raises(
        ConfigError, match="step 0 of script 0: row 0 has 'amuont', and its schema has only amount"
    ) as refused:
        ScriptedSource({"amount": int}, [[{"amuont": 1}]])
    assert "'amount'" in str(refused.value.hint)
    assert "test_scripts.py" in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (pa.int64(), "x", r"'x' \(str\) in column 'v', which does not fit int64"),
        (pa.int64(), 1.5, r"1.5 \(float\)"),
        (pa.int8(), 300, "300"),
        (pa.string(), 5, "5"),
        (pa.timestamp("us", "UTC"), "2026-01-01", "'2026-01-01'"),
        (pa.list_(pa.int64()), ["x"], r"\['x'\] \(list\)"),
        (pa.field("v", pa.int64(), nullable=False), None, "row 1 has no value in column 'v', and its schema wants one"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_step_row_and_column(kind: Any, value: Any, said: str) -> None:
    field = kind if isinstance(kind, pa.Field) else pa.field("v", kind)
    good = {pa.string(): "a", pa.list_(pa.int64()): [1]}.get(field.type, 1)
    with pytest.raises(ConfigError, match="step 1 of script 1: row 1 has ") as refused:
        ScriptedSource(pa.schema([field]), [], [BARRIER, [{"v": good}, {"v": value}]])
    assert refused.match(said)
    assert "test_scripts.py" in str(refused.value)


def test_the_value_of_a_secret_is_not_shown() -> None:
    with pytest.raises(ConfigError) as refused:
        ScriptedSource({"password": int}, [[{"password": "hunter2"}]])
    assert "hunter2" not in str(refused.value)
    assert "*** (str) in column 'password'" in str(refused.value)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"n": [1]}, r"it lacks column 'name' \(string\)"),
        ({"n": ["x"], "name": ["x"]}, "its column 'n' is string, not int64"),
        ({"n": [1], "name": ["x"], "more": [1]}, "its column 'more' is int64, which the schema lacks"),
        ({"name": ["x"], "n": [1]}, "its columns stand in another order"),
    ],
)
def test_a_batch_of_another_schema_is_refused(columns: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"step 2 of script 0 does not have the schema .*: {said}") as refused:
        ScriptedSource(NUMBERS, [[], BARRIER, pa.record_batch(columns)])
    assert refused.value.hint == "the schema is n: int64, name: string"


def test_a_batch_of_the_schema_and_rows_with_less_are_taken() -> None:
    batch = pa.record_batch({"n": [1], "name": ["x"]})
    script = ScriptedSource(NUMBERS, [batch, [{"n": 2}], []]).scripts[0]
    assert [one.to_pylist() for one in script if isinstance(one, pa.RecordBatch)] == [
        [{"n": 1, "name": "x"}],
        [{"n": 2, "name": None}],
        [],
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda: PAUSE("1s"),  # type: ignore[arg-type]
        lambda: PAUSE(-1),
        lambda: Watermark("1s"),  # type: ignore[arg-type]
        lambda: Watermark(1.5),  # type: ignore[arg-type]
        lambda: Watermark(True),
        lambda: ScriptedSource(NUMBERS, [], bounded="no"),  # type: ignore[arg-type]
        lambda: ScriptedSource(5, []),  # type: ignore[arg-type]
    ],
)
def test_marks_and_options_of_a_wrong_kind_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be") as refused:
        make()
    assert "test_scripts.py" in str(refused.value)


def test_a_watermark_without_a_time_zone_is_refused_where_it_is_written() -> None:
    with pytest.raises(ConfigError, match="has no time zone"):
        Watermark(dt.datetime(2026, 1, 1))  # noqa: DTZ001 (the mistake)
