"""What all tests share: the Kafka broker, one for the whole run, and a line in the header that says which."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from lakeward.engine.core.errors import ConfigError
from lakeward.testing.brokers import Broker, broker_used, plan_broker, shared_broker

_DIRECTORY_VARIABLE = "LAKEWARD_TEST_BROKER_DIRECTORY"  # inherited by the workers of pytest-xdist


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


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A real broker, shared by all tests of the run: use topics of your own (`broker.create_topic()`)."""
    with shared_broker(os.environ[_DIRECTORY_VARIABLE]) as shared:
        yield shared


def _is_xdist_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")
