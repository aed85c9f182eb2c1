"""What all tests share: the Kafka broker, one for the whole run, and that DuckDB reads every table they write."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator

import pytest

from lakeward.engine.core.errors import ConfigError
from lakeward.testing.brokers import Broker, broker_used, plan_broker, shared_broker
from lakeward.testing.lake import check_every_table, duckdb_reads_iceberg

_DIRECTORY_VARIABLE = "LAKEWARD_TEST_BROKER_DIRECTORY"  # inherited by the workers of pytest-xdist
_TABLES = "tables read back"


def pytest_configure(config: pytest.Config) -> None:
    if not _is_xdist_worker(config):
        os.environ[_DIRECTORY_VARIABLE] = tempfile.mkdtemp(prefix="lakeward-broker-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not _is_xdist_worker(config):
        shutil.rmtree(os.environ.pop(_DIRECTORY_VARIABLE), ignore_errors=True)


def pytest_report_header() -> str:
    try:
        return f"kafka broker: {plan_broker(fetch=False)}"
    except ConfigError as error:
        return f"kafka broker: none ({error.message})"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    used = broker_used(os.environ[_DIRECTORY_VARIABLE])
    if used:
        terminalreporter.write_line(f"kafka tests ran against {used}")
    passed = [report for report in terminalreporter.getreports("passed") if report.when == "call"]
    tables = sum(value for report in passed for name, value in report.user_properties if name == _TABLES)
    if tables:
        reader = "DuckDB" if duckdb_reads_iceberg() else "pyarrow alone, for want of DuckDB's extension"
        terminalreporter.write_line(f"{tables} Iceberg tables that the tests wrote were read back by {reader}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """No test can forget it: when one has passed, DuckDB reads every Iceberg table that it left in its `tmp_path`."""
    yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    tables = 0 if folder is None else check_every_table(folder)
    if tables:
        item.user_properties.append((_TABLES, tables))


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A real broker, shared by all tests of the run: use topics of your own (`broker.create_topic()`)."""
    with shared_broker(os.environ[_DIRECTORY_VARIABLE]) as shared:
        yield shared


def _is_xdist_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")
