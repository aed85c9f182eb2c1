"""What all tests share: the test kit's fixtures, and that DuckDB reads every Iceberg table they write."""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest

from lakeward.engine.core.errors import ConfigError
from lakeward.testing.brokers import Broker, plan_broker
from lakeward.testing.lake import LocalLake, check_every_table, duckdb_reads_iceberg

_PLUGIN = "lakeward.testing.pytest_plugin"
_TABLES = "tables read back"
_BROKER = "broker"


def pytest_configure(config: pytest.Config) -> None:
    # Where the package is installed, its entry point has loaded the plugin already.
    if not any(getattr(plugin, "__name__", "") == _PLUGIN for plugin in config.pluginmanager.get_plugins()):
        config.pluginmanager.import_plugin(_PLUGIN)


def pytest_report_header() -> str:
    try:
        return f"kafka broker: {plan_broker(fetch=False)}"
    except ConfigError as error:
        return f"kafka broker: none ({error.message})"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = [report for report in terminalreporter.getreports("passed") if report.when == "call"]
    for used in sorted({str(text) for report in passed for name, text in report.user_properties if name == _BROKER}):
        terminalreporter.write_line(f"kafka tests ran against {used}")
    tables = sum(value for report in passed for name, value in report.user_properties if name == _TABLES)
    if tables:
        reader = "DuckDB" if duckdb_reads_iceberg() else "pyarrow alone, for want of DuckDB's extension"
        terminalreporter.write_line(f"{tables} Iceberg tables that the tests wrote were read back by {reader}")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and test items live as long as the run: the collector need not go through them again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """No test can forget it: when one has passed, DuckDB reads every Iceberg table that it left in its `tmp_path`."""
    yield
    arguments = getattr(item, "funcargs", {})
    if "lakeward_broker" in arguments:
        item.user_properties.append((_BROKER, str(arguments["lakeward_broker"].plan)))
    folder = arguments.get("tmp_path")
    tables = 0 if folder is None else check_every_table(folder)
    if tables:
        item.user_properties.append((_TABLES, tables))


@pytest.fixture(scope="session")
def broker(lakeward_broker: Broker) -> Broker:
    """The test kit's broker, under a shorter name."""
    return lakeward_broker


@pytest.fixture
def lake(lakeward_catalog: LocalLake) -> LocalLake:
    """The test kit's Iceberg catalog, under a shorter name."""
    return lakeward_catalog
