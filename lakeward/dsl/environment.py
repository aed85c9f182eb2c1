"""Where a job begins: the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from lakeward.connectors.collection import CollectionSource
from lakeward.connectors.memory import MemorySink
from lakeward.dsl.graph_builder import GraphBuilder
from lakeward.dsl.hosts import on_hosts
from lakeward.dsl.launch import current_launch
from lakeward.dsl.savepoints import open_existing
from lakeward.dsl.stream import DataStream, EventTime, StreamContext
from lakeward.engine.api.row_types import SchemaLike
from lakeward.engine.api.source import Source
from lakeward.engine.api.time import WatermarkStrategy
from lakeward.engine.checkpoint.store import CheckpointStore, MemoryStore
from lakeward.engine.checkpoint.store_fs import open_store
from lakeward.engine.config import EngineConfig
from lakeward.engine.core.durations import Duration, parse_duration_us
from lakeward.engine.core.errors import ConfigError, Domain, LakewardError
from lakeward.engine.core.expect import expect
from lakeward.engine.core.ids import OperatorId
from lakeward.engine.core.keygroups import parallelism_hint
from lakeward.engine.execute import JobDefinition, JobResult, Ports, execute, stop_on_signals, work_for
from lakeward.engine.graph.logical import SourceSpec
from lakeward.engine.graph.prepare import prepare
from lakeward.engine.graph.render import render
from lakeward.engine.graph.validate import check_event_time
from lakeward.engine.processes.launcher import make_launcher

PROCESSES_VARIABLE = "LAKEWARD_PROCESSES"
"""Of the environment: how many worker processes jobs have that say nothing else; 1: none besides their own."""


class StreamExecutionEnvironment:
    """A job in the making: add sources, transform their streams, end them in sinks, then `execute`.

    >>> env = StreamExecutionEnvironment()
    >>> numbers = env.from_collection([{"n": 1}, {"n": 2}, {"n": 3}])
    >>> from lakeward.dsl.expressions import col
    >>> numbers.filter(col("n") > 1).execute_and_collect().to_pydict()
    {'n': [2, 3]}

    Args:
        parallelism: Subtasks of each operator that says nothing else.
        checkpoint_interval: Time between checkpoints, and so between commits of a lakehouse table. ("10s")
        checkpoint_dir: Directory or URI (`file://`, `s3://`) of this job's checkpoints, one a job. A job that is run
            again with it goes on where its newest good checkpoint left off. None: checkpoints are kept in memory, so
            that only failures inside this process are survived.
        config: Every other limit and interval; the three arguments above win over it.

    Raises:
        ConfigError: A value cannot work.
    """

    def __init__(
        self,
        *,
        parallelism: int | None = None,
        checkpoint_interval: Duration | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        config: EngineConfig | None = None,
    ) -> None:
        launch = current_launch()
        if config is not None:
            expect(config, EngineConfig, "config", "give lw.EngineConfig(...)")
        base = _with_processes(config or EngineConfig())
        interval = launch.checkpoint_interval or checkpoint_interval
        if interval is not None:
            interval_ms = parse_duration_us(interval, "checkpoint_interval") // 1000
            if interval_ms < 1:
                raise ConfigError("checkpoint_interval is shorter than 1 ms", hint='write for example "10s"')
            base = replace(base, checkpoint_interval_ms=interval_ms)
        if parallelism is not None:
            expect(parallelism, int, "parallelism", "give a whole number of subtasks")
        wanted = parallelism if launch.parallelism is None else launch.parallelism
        base = base if wanted is None else replace(base, parallelism=wanted)
        if not 1 <= base.parallelism <= base.max_parallelism:
            problem = f"parallelism {base.parallelism} is outside 1 .. {base.max_parallelism}"
            raise ConfigError(problem, hint=parallelism_hint(base.parallelism))
        self.config = base
        if checkpoint_dir is not None:
            expect(checkpoint_dir, (str, os.PathLike), "checkpoint_dir", "give a directory or a URI")
            checkpoint_dir = os.fspath(checkpoint_dir)
        self._checkpoint_dir = launch.checkpoint_dir or checkpoint_dir
        if launch.worker is not None:
            self.config, self._checkpoint_dir = launch.worker.job.config, launch.worker.job.checkpoint_dir
        self._builder = GraphBuilder()

    def from_source(
        self,
        source: Source,
        *,
        watermark: WatermarkStrategy | None = None,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> DataStream:
        """Read a source.

        >>> from lakeward import NexmarkSource
        >>> bids = StreamExecutionEnvironment().from_source(
        ...     NexmarkSource(1000), watermark=WatermarkStrategy.monotonous("dateTime"), uid="bids"
        ... )
        >>> bids.select("auction", "price").execute_and_collect().num_rows
        920

        Args:
            source: For example a `KafkaSource`.
            watermark: Which column is event time and how late rows may come; needed for windows.
            uid: Name of its state (positions) in checkpoints; give one to every source.
            parallelism: Number of readers.

        Returns:
            The stream of its rows.

        Raises:
            SchemaError: The watermark's column is missing or not a timestamp.
        """
        expect(source, Source, "a source", "give for example lw.KafkaSource(...)")
        if watermark is not None:
            hint = 'give lw.WatermarkStrategy.bounded_out_of_orderness("column", "5s")'
            expect(watermark, WatermarkStrategy, "a watermark", hint)
        work = SourceSpec(source, watermark)
        node = self._builder.add("source", work, (), source.schema, uid, parallelism)
        check_event_time(node)
        event_time = EventTime(watermark.column) if watermark is not None else None
        return DataStream(StreamContext(self, self._builder), node, event_time)

    def from_collection(
        self,
        rows: Sequence[Any] | pa.Table | pa.RecordBatch,
        *,
        schema: SchemaLike | None = None,
        watermark: WatermarkStrategy | None = None,
        uid: str | None = None,
    ) -> DataStream:
        """Read rows given here: dicts, dataclass instances, tuples (with a schema), or an Arrow table.

        >>> env = StreamExecutionEnvironment()
        >>> env.from_collection([{"a": 1, "b": "x"}]).schema.names
        ['a', 'b']

        Returns:
            A bounded stream.

        Raises:
            SchemaError: The rows do not have one schema.
        """
        return self.from_source(CollectionSource(rows, schema=schema), watermark=watermark, uid=uid, parallelism=1)

    def explain(self) -> str:
        """The plan as text: tasks, their operators, what they do, which go row by row through Python, schemas.

        >>> from lakeward import BlackholeSink, col
        >>> env = StreamExecutionEnvironment()
        >>> orders = env.from_collection([{"amount": 3}], uid="orders")
        >>> _ = orders.filter(col("amount") > 1, uid="paid").sink_to(BlackholeSink(), uid="nowhere")
        >>> print(env.explain())
        task orders (parallelism 1)
          orders: collection of 1 rows
            [amount: int64]
            paid: filter col("amount") > 1
              [amount: int64]
              nowhere: blackhole
                [amount: int64]
        """
        _, physical = prepare(self._builder.graph(), self.config)
        return render(physical)

    def execute(
        self, name: str = "job", *, savepoint: str | os.PathLike[str] | None = None, drop_state: Sequence[str] = ()
    ) -> JobResult | None:
        """Run the job until its input ends or it is stopped.

        SIGINT and SIGTERM stop it with a last checkpoint; a second SIGINT stops it at once (nothing is lost: it goes
        on from the checkpoint before).

        >>> from lakeward import MemorySink
        >>> env, sink = StreamExecutionEnvironment(), MemorySink()
        >>> _ = env.from_collection([{"a": 1}, {"a": 2}]).sink_to(sink, uid="memory")
        >>> env.execute("numbers").ended
        True
        >>> sink.table()["a"].to_pylist()
        [1, 2]

        Args:
            name: The job's name; with a sink's uid it makes the default sink id, so keep it.
            savepoint: A savepoint, or another job's checkpoint directory, to begin from, at any parallelism. The
                environment's own `checkpoint_dir` has to be empty. The same call, made again after a crash, goes on.
            drop_state: Operators that the job no longer has, and whose state in what it goes on from may be dropped.

        Returns:
            How it ended; None under `lakeward explain`, which runs nothing, and in a worker on another host for all
            jobs but its own, whose call does not return.

        Raises:
            LakewardError: It cannot work as written, or it failed for good.
        """
        launch = current_launch()
        if launch.explain_only:
            launch.plans[name] = self.explain()
            return None
        if launch.worker is not None:
            if name == launch.worker.job.name:
                work_for(self.definition(name), launch.worker.spec)
                sys.exit()  # what the script does with the result is done where the job was started
            return None
        with stop_on_signals() as stop:
            control = launch.make_control()
            ports = Ports(stop=stop, control=control, observe=launch.observe, make_launcher=make_launcher)
            job = self._begun(self.definition(name), savepoint, drop_state)
            if launch.hosts is not None:
                job, ports = on_hosts(job, self._checkpoint_dir, ports, launch.hosts)
            return _run(job, ports)

    def _begun(
        self, job: JobDefinition, savepoint: str | os.PathLike[str] | None, drop_state: Sequence[str]
    ) -> JobDefinition:
        """A job with what it begins from."""
        expect(drop_state, (list, tuple), "drop_state", 'list the operators: drop_state=["old-window"]')
        launch = current_launch()
        place = launch.savepoint or savepoint
        dropped = frozenset(OperatorId(uid) for uid in (*launch.dropped_state, *drop_state))
        return replace(job, savepoint=None if place is None else open_existing(place), dropped_state=dropped)

    def definition(self, name: str = "job", store: CheckpointStore | None = None) -> JobDefinition:
        """The job as data, for whoever runs it another way (tests, tools).

        >>> env = StreamExecutionEnvironment()
        >>> _ = env.from_collection([{"a": 1}]).execute_and_collect()
        >>> env.definition("empty").graph.nodes[0].uid
        'source-1'

        Args:
            name: The job's name.
            store: Where its checkpoints go; by default the environment's `checkpoint_dir`.
        """
        expect(name, str, "a job's name", 'give a text: env.execute("revenue")')
        return JobDefinition(self._builder.graph(), name, self.config, store or self._store())

    def collect(self, stream: DataStream) -> pa.Table:
        """Run only what a stream needs and return its rows; see `DataStream.execute_and_collect`.

        >>> env = StreamExecutionEnvironment()
        >>> env.collect(env.from_collection([{"a": 1}])).to_pydict()
        {'a': [1]}
        """
        sink = MemorySink()
        uid = stream.sink_to(sink)
        try:
            job = JobDefinition(self._builder.graph([uid]), "collect", self.config, MemoryStore())
            with stop_on_signals() as stop:
                _run(job, Ports(stop=stop))
        finally:
            self._builder.remove(uid)
        return sink.table()

    def _store(self) -> CheckpointStore:
        return MemoryStore() if self._checkpoint_dir is None else open_store(self._checkpoint_dir)


def _with_processes(config: EngineConfig) -> EngineConfig:
    """A configuration that says nothing of processes has as many as the process's environment says."""
    said = os.environ.get(PROCESSES_VARIABLE)
    if config.processes is not None or not said:
        return config
    if not said.isdecimal() or int(said) < 1:
        raise ConfigError(f"{PROCESSES_VARIABLE} is '{said}'", hint="give a whole number of worker processes")
    return replace(config, processes=int(said))


def _run(job: JobDefinition, ports: Ports) -> JobResult:
    """Run a job. An error that is not Lakeward's own leaves out the frames of Lakeward that it came through."""
    try:
        return execute(job, ports)
    except LakewardError as error:
        if error.domain is Domain.USER:
            error.__traceback__ = None
        raise error from error.__cause__
