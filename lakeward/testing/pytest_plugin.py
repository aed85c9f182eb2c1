"""Fixtures for pytest; loaded by its entry point wherever Lakeward is installed.

Importing this costs next to nothing, and nothing is started unless a test asks for it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lakeward.dsl.environment import StreamExecutionEnvironment
    from lakeward.engine.core.clock import ManualClock
    from lakeward.testing.brokers import Broker
    from lakeward.testing.lake import LocalLake


def pytest_configure() -> None:
    """Jobs that tests run stay in the test's process, whatever their parallelism, unless they say otherwise."""
    os.environ.setdefault("LAKEWARD_PROCESSES", "1")


@pytest.fixture(scope="session")
def lakeward_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real Kafka broker, one for the whole run, the workers of pytest-xdist included: use topics of your own.

    The one at $LAKEWARD_TEST_BOOTSTRAP, else Apache Kafka, else noida-db; the test fails with what to do where there is
    none.
    """
    from lakeward.testing.brokers import shared_broker

    folder = broker_folder(tmp_path_factory)
    with shared_broker(folder) as shared:
        yield shared
    if (folder / "broker-ended.json").exists():  # stopped by now, and its data is of no use to anybody
        for data in folder.glob("data-*"):
            shutil.rmtree(data, ignore_errors=True)


def broker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the broker of this run keeps its data: the same folder for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if base.name.startswith("popen-") else base) / "lakeward-broker"


@pytest.fixture
def lakeward_topic(lakeward_broker: Broker) -> str:
    """A new, empty topic of that broker, with one partition; `lakeward_broker.create_topic(...)` makes others."""
    return lakeward_broker.create_topic()


@pytest.fixture
def lakeward_catalog(tmp_path: Path) -> Iterator[LocalLake]:
    """An Iceberg catalog in SQLite, with a warehouse, in the test's `tmp_path`; its `catalog` is for `IcebergSink`."""
    from lakeward.testing.lake import LocalLake

    lake = LocalLake(tmp_path / "lake")
    yield lake
    lake.close()


@pytest.fixture
def lakeward_clock() -> ManualClock:
    """A clock that moves only when told to, for `JobHarness(clock=...)` and for code of your own that takes a clock."""
    from lakeward.engine.core.clock import ManualClock

    return ManualClock()


@pytest.fixture
def lakeward_env(tmp_path: Path) -> StreamExecutionEnvironment:
    """An environment with its checkpoints in the test's `tmp_path`."""
    from lakeward.dsl.environment import StreamExecutionEnvironment

    return StreamExecutionEnvironment(checkpoint_dir=tmp_path / "checkpoints")
