"""The fixtures of the pytest plugin, as a user's tests get them; it costs nothing where it is not used."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import lakeward as lw
from lakeward.testing import Broker, CollectSink, JobHarness, LocalLake, ManualClock

PLUGIN = "lakeward.testing.pytest_plugin"
INSTALLED = any(one.value == PLUGIN for one in entry_points(group="pytest11"))
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *([] if INSTALLED else ["-p", PLUGIN])]


def test_a_job_from_a_topic_into_the_catalog_with_the_fixtures_alone(
    lakeward_broker: Broker,
    lakeward_topic: str,
    lakeward_catalog: LocalLake,
    lakeward_env: lw.StreamExecutionEnvironment,
) -> None:
    lakeward_broker.produce(lakeward_topic, [b'{"n": 1}', b'{"n": 2}'])
    numbers = lw.KafkaSource(lakeward_broker.bootstrap, lakeward_topic, format=lw.Json({"n": int}), stop="latest")
    sink = lw.IcebergSink("db.numbers", catalog=lakeward_catalog.catalog)
    lakeward_env.from_source(numbers, uid="numbers").sink_to(sink, uid="table")
    lakeward_env.execute("numbers")
    found = lakeward_catalog.open_catalog().load_table("db.numbers").scan().to_arrow()
    assert sorted(found["n"].to_pylist()) == [1, 2]


def test_checkpoints_of_the_environment_lie_in_the_folder_of_the_test(
    lakeward_env: lw.StreamExecutionEnvironment, tmp_path: Path
) -> None:
    lakeward_env.from_collection([{"n": 1}], uid="in").sink_to(CollectSink(), uid="out")
    lakeward_env.execute()
    assert (tmp_path / "checkpoints" / "job.json").is_file()


def test_the_clock_is_that_of_a_harness(lakeward_clock: ManualClock) -> None:
    harness = JobHarness(lambda env: env.from_collection([{"n": 1}]).sink_to(CollectSink()), clock=lakeward_clock)
    lakeward_clock.advance_ms(5)
    assert harness.clock.monotonic_ms() == 5


HEAVY = ("pyarrow", "numpy", "confluent_kafka", "pyiceberg", "rocksdict", "lakeward.engine", "lakeward.dsl")


def test_loading_the_plugin_loads_nothing_heavy() -> None:
    found = f"[name for name in {HEAVY} if name in sys.modules]"
    program = f"import sys, pytest; import {PLUGIN}; print({found})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tests_that_ask_for_no_fixture_do_not_load_anything(tmp_path: Path) -> None:
    (tmp_path / "test_nothing.py").write_text(
        f"import sys\ndef test_it():\n    assert not [n for n in {HEAVY} if n in sys.modules]\n"
    )
    done = subprocess.run([*PYTEST, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_project_of_its_own_gets_the_fixtures(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "def test_it(lakeward_env, lakeward_clock, lakeward_catalog):\n"
        "    assert lakeward_env.from_collection([{'n': 1}]).execute_and_collect().num_rows == 1\n"
    )
    done = subprocess.run([*PYTEST, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
