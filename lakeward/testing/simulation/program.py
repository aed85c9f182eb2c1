"""What a simulated job is: how it is written in the DSL, and what its tables have to hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lakeward.dsl.environment import StreamExecutionEnvironment
from lakeward.dsl.stream import DataStream
from lakeward.engine.api.time import WatermarkStrategy
from lakeward.engine.graph.logical import LogicalGraph
from lakeward.testing.simulation.knobs import AttemptKnobs, Knobs
from lakeward.testing.simulation.oracle import Truth
from lakeward.testing.simulation.sink import SimTableSink
from lakeward.testing.simulation.source import SimSource, SplitData
from lakeward.testing.simulation.table import SimTable

IDLE_TIMEOUT = "200ms"
"""Shorter than most silences; splits that are only waiting for their turn are called idle now and then, too."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What a program is built from, for one start of the job.

    Args:
        sources: By uid.
        tables: By the uid of their sink.
        knobs: The seed's.
        attempt: This start's.
    """

    sources: Mapping[str, SimSource]
    tables: Mapping[str, SimTable]
    knobs: Knobs
    attempt: AttemptKnobs

    def read(self, env: StreamExecutionEnvironment, uid: str, *, idle: bool = False) -> DataStream:
        """The stream of a source; `idle`: its splits fall silent for a while, and are not waited for then."""
        watermark, source = WatermarkStrategy("ts", self.knobs.disorder_us), self.sources[uid]
        if idle:
            watermark, source = watermark.with_idleness(IDLE_TIMEOUT), source.with_silences()
        return env.from_source(source, watermark=watermark, uid=uid)

    def write(self, stream: DataStream, uid: str) -> None:
        """End a stream in its table; an updating one with its upsert key, if it has one."""
        names, key = stream.schema.names, stream.upsert_key
        self.tables[uid].key = None if key is None else tuple(names.index(name) for name in key)
        stream.sink_to(SimTableSink(self.tables[uid]), uid=uid, parallelism=self.attempt.sink_parallelism)

    @property
    def keyed_parallelism(self) -> int:
        """Of keyed operators, for this start."""
        return self.attempt.keyed_parallelism


Inputs = Mapping[str, Sequence[SplitData]]
"""The splits of each source, by its uid."""


@dataclass(frozen=True, slots=True)
class Program:
    """A job and its oracle.

    Args:
        sources: Uids of its sources.
        build: Writes it in the DSL.
        truths: What each sink has to hold, by its uid.
    """

    sources: tuple[str, ...]
    build: Callable[[StreamExecutionEnvironment, Bench], None]
    truths: Callable[[Inputs], dict[str, Truth]]

    def graph(self, bench: Bench) -> LogicalGraph:
        """The logical graph for one start of the job."""
        env = StreamExecutionEnvironment(config=bench.attempt.config)
        self.build(env, bench)
        return env._builder.graph()
