"""The public names of the test kit: what is listed is there, says what it is, and costs nothing before it is used."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from lakeward import testing
from lakeward.testing.sources import Mark

PUBLIC = """
    ABORT BARRIER EOF FAIL PAUSE
    Broker CheckpointStoreSuite CollectSink Commit CrashPoint FaultPoint HarnessConfig HarnessSnapshot Item JobHarness
    JobRun KeyValueStoreSuite LocalLake ManualClock OperatorHarness ScriptedSource Simulated SimulationViolation
    SinkFeature SinkHarness SinkPolicy SinkSuite SourceSuite Watermark
    assert_survives_crashes simulate start_broker
"""
WITHOUT_EXAMPLES = """
    ABORT BARRIER EOF FAIL Item
    Broker start_broker
"""
"""Marks are shown with `ScriptedSource`; a broker takes seconds to start, and docs/testing.md has a test with one."""


def test_the_test_kit_is_what_is_listed() -> None:
    assert testing.__all__ == PUBLIC.split()
    assert dir(testing) == sorted(testing.__all__)


@pytest.mark.parametrize("name", [one for one in PUBLIC.split() if one != "Item"])
def test_every_name_says_what_it_is(name: str) -> None:
    found = getattr(testing, name)
    assert isinstance(found, Mark) or inspect.getdoc(found)


@pytest.mark.parametrize("name", [one for one in PUBLIC.split() if one not in WITHOUT_EXAMPLES.split()])
def test_every_name_has_an_example_that_runs(name: str) -> None:
    text = inspect.getdoc(getattr(testing, name)) or ""
    assert ">>> " in text
    assert "+SKIP" not in text


def test_another_name_is_an_error_that_says_so() -> None:
    with pytest.raises(AttributeError, match=r"module 'lakeward.testing' has no attribute 'MockSource'"):
        _ = testing.MockSource


def test_names_are_loaded_when_they_are_used() -> None:
    program = "import sys, lakeward.testing; print([n for n in ('pyarrow', 'lakeward.engine') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
