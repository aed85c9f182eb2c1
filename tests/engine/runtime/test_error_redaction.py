"""Whatever fails on a row: what is hidden shows neither in the error nor in what Python prints of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lakeward as lw
from lakeward import col
from lakeward.engine.core.errors import JobFailedError, LakewardError

EMAIL = "ada@example.org"
AT = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = [
    {"id": n, "at": AT if n < 2 else None, "buyer": {"email": EMAIL, "age": 36}, "email": EMAIL, "card_no": "4111222"}
    for n in range(3)
]


def refuse(row: dict[str, Any], *more: Any) -> Any:
    raise KeyError(row["email"], row["buyer"])


def mention(email: str) -> int:
    raise ValueError(f"no {email}")


def look_up(keys: pa.Table) -> pa.Table:
    raise ValueError(f"no {keys['email'][0]}")


FAILING: dict[str, Callable[[lw.DataStream], lw.DataStream]] = {
    "map": lambda rows: rows.map(refuse, returns={"a": int}),
    "positional map": lambda rows: rows.map(mention, columns=["email"], returns={"a": int}),
    "misfit": lambda rows: rows.map(lambda row: {"card_no": row["card_no"]}, returns={"card_no": int}),
    "flat_map": lambda rows: rows.flat_map(refuse, returns={"a": int}),
    "filter": lambda rows: rows.filter(refuse),
    "reduce": lambda rows: rows.key_by("card_no").reduce(refuse),
    "reduce misfit": lambda rows: rows.key_by("card_no").reduce(lambda a, b: {**b, "id": b["email"]}),
    "udf": lambda rows: rows.with_columns(n=lw.udf(mention)(col("email").str.upper().str.lower())),
    "cast": lambda rows: rows.with_columns(n=col("email").cast("int64")),
    "cast in a condition": lambda rows: rows.filter(col("card_no").cast("int8") > 1),
    "lookup": lambda rows: rows.lookup_join(
        lw.FunctionLookup(look_up, pa.schema({"email": pa.string(), "n": pa.int64()})), on="email"
    ),
    "event time": lambda rows: rows.window_all(lw.Tumbling("1m")).aggregate(most=lw.max("card_no")),
}


def printed(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize("case", FAILING)
def test_no_hidden_value_is_printed(case: str) -> None:
    config = lw.EngineConfig(redact_columns=("EMAIL", "card_*"))
    rows = lw.StreamExecutionEnvironment(config=config).from_collection(
        ROWS, watermark=lw.WatermarkStrategy.monotonous("at")
    )
    with pytest.raises(LakewardError) as caught:
        FAILING[case](rows).execute_and_collect()
    text = printed(caught.value)
    assert "example.org" not in text
    assert "4111222" not in text
    assert "***" in text


@pytest.mark.parametrize("case", FAILING)
def test_without_a_word_about_it_the_values_show(case: str) -> None:
    rows = lw.StreamExecutionEnvironment().from_collection(ROWS, watermark=lw.WatermarkStrategy.monotonous("at"))
    with pytest.raises(LakewardError) as caught:
        FAILING[case](rows).execute_and_collect()
    assert "example.org" in printed(caught.value) or "4111222" in printed(caught.value)


def test_a_value_of_a_file_that_does_not_fit_is_hidden_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"pin": [1, 411122233344]}), tmp_path / "a.parquet")
    for hidden in ((), ("pin",)):
        env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(redact_columns=hidden))
        rows = env.from_source(lw.FilesSource(tmp_path, schema={"pin": pa.int32()}))
        with pytest.raises(LakewardError) as caught:
            rows.execute_and_collect()
        assert ("411122233344" in str(caught.value)) == (not hidden)


def test_a_job_that_gives_up_hides_as_well() -> None:
    def unreachable(keys: pa.Table) -> pa.Table:
        raise ConnectionError(f"no answer for {keys['token'][0]}")

    config = lw.EngineConfig(restart=lw.RestartConfig(attempts_max=0))
    rows = lw.StreamExecutionEnvironment(config=config).from_collection([{"token": "t-123456"}])
    source = lw.FunctionLookup(unreachable, pa.schema({"token": pa.string(), "n": pa.int64()}))
    joined = rows.lookup_join(source, on="token", retries=0)
    with pytest.raises(JobFailedError) as caught:
        joined.execute_and_collect()
    assert "t-123456" not in printed(caught.value)


def raised_from(row: dict[str, Any]) -> Any:
    try:
        refuse(row)
    except KeyError as error:
        raise ValueError("no such buyer") from error


def raised_while_handling(row: dict[str, Any]) -> Any:
    try:
        refuse(row)
    except KeyError:
        raise ValueError("no such buyer")  # noqa: B904 (as users write it)


def grouped(row: dict[str, Any]) -> Any:
    raise ExceptionGroup("all failed", [KeyError(row["email"])])


def noted(row: dict[str, Any]) -> Any:
    error = ValueError("no such buyer")
    error.add_note(f"it was {row['email']}")
    raise error


@pytest.mark.parametrize("function", [raised_from, raised_while_handling, grouped, noted])
def test_what_belongs_to_an_exception_shows_no_hidden_value_either(function: Callable[[dict[str, Any]], Any]) -> None:
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(redact_columns=("email",)))
    with pytest.raises(LakewardError) as caught:
        env.from_collection(ROWS).map(function, returns={"a": int}).execute_and_collect()
    assert EMAIL not in printed(caught.value)
