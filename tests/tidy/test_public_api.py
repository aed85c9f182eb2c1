"""The public API is what is listed here: a name that comes or goes is a decision, and shows in the change."""

from __future__ import annotations

import inspect

import pytest

import lakeward

PUBLIC = """
    BlackholeSink CollectionSource DataStream EngineConfig Expr FilesSink FilesSource IcebergSink JobResult Json
    KafkaSource KeyedStream LakewardError MemorySink NexmarkSource OutputTag PrintSink RestartConfig Sliding
    StreamExecutionEnvironment Tumbling WatermarkStrategy WindowedStream
    bucket coalesce col concat_str count count_distinct day first greatest hour last least lit max mean min month
    sum truncate when year
"""

WITHOUT_EXAMPLE = {
    "DataStream": "made by an environment; shown there",
    "EngineConfig": "a list of limits; what users write is StreamExecutionEnvironment",
    "JobResult": "what execute returns; shown there",
    "KeyedStream": "made by key_by; shown there",
    "LakewardError": "caught, not made",
    "RestartConfig": "a list of limits",
    "WindowedStream": "made by window; shown there",
    "hour": "as day, which has one",
    "month": "as day, which has one",
    "truncate": "as bucket, which has one",
    "year": "as day, which has one",
}
"""Public names whose docstring has no example to run, each with the reason."""


def test_the_public_api_is_what_is_listed() -> None:
    assert lakeward.__all__ == PUBLIC.split()


@pytest.mark.parametrize("name", PUBLIC.split())
def test_every_public_name_exists_and_says_what_it_is(name: str) -> None:
    assert inspect.getdoc(getattr(lakeward, name))


@pytest.mark.parametrize("name", [name for name in PUBLIC.split() if name not in WITHOUT_EXAMPLE])
def test_every_public_name_has_an_example_that_runs(name: str) -> None:
    text = inspect.getdoc(getattr(lakeward, name)) or ""
    assert ">>> " in text
    assert "+SKIP" not in text


def test_no_reason_is_given_for_a_name_that_has_an_example() -> None:
    having = [name for name in WITHOUT_EXAMPLE if ">>> " in (inspect.getdoc(getattr(lakeward, name)) or "")]
    assert having == []
