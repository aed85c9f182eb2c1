from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from lakeward.cli.demo import BIDS, Place, _report
from lakeward.cli.main import main
from lakeward.connectors.nexmark import NexmarkSource


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """The command line sets up logging for its whole process, which here is the tests'."""
    loggers = [logging.getLogger(name) for name in ("lakeward", "lakeward.kafka")]
    before = [(logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.mark.kill
@pytest.mark.timeout(180)
def test_the_demo_ends_with_nothing_lost_and_notices_when_something_is(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    result = CliRunner().invoke(main, ["demo", "--directory", str(directory), "--events", "150000"])
    assert result.exit_code == 0, result.output
    assert result.output.count("killed with -9") == 2
    assert "0 lost, 0 doubled" in result.output
    assert not (directory / "broker").exists()

    bids = pa.Table.from_batches([NexmarkSource(None).read(0, 0, 150_000)])
    place = Place(directory)
    assert _report(place, bids) == 0
    assert _report(place, pa.concat_tables([bids, bids.filter(bids["price"].to_numpy() > 10_000).slice(0, 1)])) == 1
    assert place.read(BIDS).num_rows == (bids["price"].to_numpy() >= 1_000).sum()


def test_a_directory_that_is_not_the_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    result = CliRunner().invoke(main, ["demo", "--directory", str(tmp_path)])
    assert result.exit_code == 1
    assert (tmp_path / "precious").read_text() == "mine"
