"""Print, blackhole, and finding connectors by name."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lakeward.connectors.blackhole import BlackholeSink
from lakeward.connectors.console import PrintSink
from lakeward.connectors.registry import SINKS, SOURCES, sink_factory, source_factory
from lakeward.engine.api.sink import Sink, WriterContext
from lakeward.engine.api.source import Source
from lakeward.engine.core.clock import ManualClock
from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.ids import CheckpointId, JobId, OperatorId, SubtaskIndex
from lakeward.testing.source_suite import TestCounters

BATCH = pa.record_batch({"shop": ["a", "b", "c"], "amount": [1, 2, None]})


def writer_context(counters: TestCounters | None = None) -> WriterContext:
    return WriterContext(
        uid=OperatorId("out"),
        job_id=JobId("job"),
        subtask=SubtaskIndex(1),
        attempt="1",
        schema=BATCH.schema,
        clock=ManualClock(),
        counters=counters or TestCounters(),
    )


def test_rows_are_printed_with_the_subtask_that_had_them(capsys: pytest.CaptureFixture[str]) -> None:
    writer = PrintSink().open_writer(writer_context())
    writer.write(BATCH)
    assert writer.prepare_commit(CheckpointId(1)) == ()
    assert capsys.readouterr().out == "2> shop=a, amount=1\n2> shop=b, amount=2\n2> shop=c, amount=None\n"


def test_a_limit_hides_the_rest_and_says_how_much(capsys: pytest.CaptureFixture[str]) -> None:
    writer = PrintSink(limit=2, prefix="orders ").open_writer(writer_context())
    writer.write(BATCH)
    writer.write(BATCH)
    writer.close()
    writer.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["orders 2> shop=a, amount=1", "orders 2> shop=b, amount=2", "orders 2> ... and 4 more rows"]


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ConfigError, match="limit cannot be -1"):
        PrintSink(limit=-1)


def test_the_blackhole_counts_what_it_swallows() -> None:
    counters = TestCounters()
    writer = BlackholeSink().open_writer(writer_context(counters))
    writer.write(BATCH)
    writer.write(BATCH.slice(0, 1))
    assert writer.prepare_commit(CheckpointId(1)) == ()
    assert counters.values == {"written_records": 4}


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_registered_source_exists(name: str) -> None:
    factory = source_factory(name)
    assert isinstance(factory, type)
    assert issubclass(factory, Source)


@pytest.mark.parametrize("name", sorted(SINKS))
def test_every_registered_sink_exists(name: str) -> None:
    factory = sink_factory(name)
    assert isinstance(factory, type)
    assert issubclass(factory, Sink)


def test_an_unknown_connector_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no sink named 'carrier pigeon'(.|\n)*blackhole.*print"):
        sink_factory("carrier pigeon")
    with pytest.raises(ConfigError, match=r"no source named 'print'(.|\n)*nexmark"):
        source_factory("print")
