"""Jobs as tests give them, and what they collect."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from lakeward.dsl.environment import StreamExecutionEnvironment
from lakeward.engine.api.changelog import is_updating
from lakeward.engine.config import EngineConfig
from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.expect import expect
from lakeward.engine.core.ids import OperatorId
from lakeward.engine.graph.logical import Exchange, LogicalGraph, Node, SourceSpec
from lakeward.operators.changelog import materialise
from lakeward.testing.arguments import expect_function, function_refusal
from lakeward.testing.collect import CollectSink
from lakeward.testing.compare import Answer, check_answer
from lakeward.testing.sources import ScriptedSource

Job: TypeAlias = (
    StreamExecutionEnvironment
    | Callable[[], StreamExecutionEnvironment]
    | Callable[[StreamExecutionEnvironment], object]
    | Callable[[StreamExecutionEnvironment, Path], object]
)
"""A job to test: a function that writes it on the environment it is given, and that may take a second argument, a
folder that is empty at first and kept over restarts; a function that returns an environment; or an environment. A
function is called again for every start, as a new process would."""

Read: TypeAlias = Callable[[Path], Answer]
"""Reads what is visible in a sink of one's own, out of the folder that the job got as its second argument; in several
by their uids."""

INTERVAL_MS = 100
"""Time between checkpoints of jobs that say nothing about it. Virtual, as a rule: it costs nothing."""


def build_job(job: Job, config: EngineConfig | None, folder: Path) -> tuple[LogicalGraph, EngineConfig]:
    """Write a job.

    Args:
        job: The job.
        config: What the environment is made with; None: what the job says.
        folder: For jobs that want one.

    Returns:
        Its graph and how it wants to be run.

    Raises:
        ConfigError: It is none of what a job may be.
    """
    # What an environment is made with says nothing of the graph: a config counts for one that was made before, too.
    definition = _environment(job, config, folder).definition()
    return definition.graph, config or definition.config


def check_job(job: Job) -> None:
    """Refuse what is no job.

    Raises:
        ConfigError: It is neither an environment nor a function of nothing, an environment, or that and a folder.
    """
    if isinstance(job, StreamExecutionEnvironment):
        return
    if not callable(job) or inspect.iscoroutinefunction(job) or _parameters(job) is None:
        hint = "give a function that writes it: def job(env): ..., or job(env, folder)"
        raise function_refusal(job, "a job under test", hint)


def _environment(job: Job, config: EngineConfig | None, folder: Path) -> StreamExecutionEnvironment:
    if isinstance(job, StreamExecutionEnvironment):
        return job
    check_job(job)
    write: Callable[..., object] = job
    env = StreamExecutionEnvironment(config=config or EngineConfig(checkpoint_interval_ms=INTERVAL_MS))
    given = (env, folder)[: _parameters(write)]
    returned = write(*given)
    if isinstance(returned, StreamExecutionEnvironment):
        return returned
    if not given:
        raise ConfigError(
            f"a job function without parameters returned {type(returned).__name__}",
            hint="return the environment, or take it: def job(env): ...",
        )
    return env


def _parameters(write: Callable[..., object]) -> int | None:
    """How many arguments a job's function wants: those without a default; None: more than there are."""
    try:
        parameters = inspect.signature(write).parameters.values()
    except ValueError:  # a builtin without a signature
        return None
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [one for one in parameters if one.default is inspect.Parameter.empty]
    count = sum(one.kind in by_place for one in needed)
    if count > 2 or any(one.kind is inspect.Parameter.KEYWORD_ONLY for one in needed):
        return None
    # A decorator's wrapper takes anything; what it wraps takes the environment.
    return count or int(any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in needed))


def sources(graph: LogicalGraph) -> dict[OperatorId, ScriptedSource]:
    """The scripted sources of a job."""
    works = ((node.uid, node.work) for node in graph)
    return {
        uid: work.source
        for uid, work in works
        if isinstance(work, SourceSpec) and isinstance(work.source, ScriptedSource)
    }


def check_ends(graph: LogicalGraph) -> None:
    """Refuse a job that would never end.

    Raises:
        ConfigError: A source is not bounded.
    """
    for node in graph:
        if isinstance(node.work, SourceSpec) and not node.work.source.bounded:
            raise ConfigError(
                f"source '{node.uid}' has no end, so neither has the job",
                hint="test with a bounded source: ScriptedSource, CollectionSource, FilesSource, KafkaSource(stop=...)",
            )


def check_read(read: Read | None) -> None:
    """Refuse what cannot read a sink.

    Raises:
        ConfigError: It is no function of a folder.
    """
    if read is not None:
        expect_function(read, (Path(),), "read", "give a function of the job's folder: read=lambda folder: [...]")


class Collected:
    """The scripts and the collecting sinks of a job, the same ones over all its starts.

    A job's function may make them anew at every start; their place in the script and their rows are those of the first.
    """

    def __init__(self) -> None:
        self._passed: dict[OperatorId, set[Any]] = {}
        self._sinks: dict[OperatorId, tuple[Node, CollectSink]] = {}

    def bind(self, graph: LogicalGraph) -> None:
        """Take a new start's sources and sinks in: at the first start they are emptied, later they go on."""
        for uid, source in sources(graph).items():
            if uid not in self._passed:
                source.passed = self._passed[uid] = set()
            source.passed = self._passed[uid]
            source.attended = True
        for node in graph:
            if isinstance(node.work, CollectSink):
                self._bind_sink(node, node.work)

    def _bind_sink(self, node: Node, sink: CollectSink) -> None:
        if node.uid not in self._sinks:
            sink.clear()
            self._sinks[node.uid] = (node, sink)
        first = self._sinks[node.uid][1]
        if sink is not first:
            sink.share(first)

    @property
    def sinks(self) -> Mapping[OperatorId, CollectSink]:
        """The collecting sinks by uid."""
        return {uid: sink for uid, (_, sink) in self._sinks.items()}

    def table(self, uid: str | None = None) -> pa.Table:
        """What a sink has collected; of an updating stream, what is left of it. None: of the only sink.

        Raises:
            ConfigError: There is no such sink, or not only one.
        """
        if uid is not None:
            expect(uid, str, "the uid of a CollectSink", 'give it as text: rows("out")')
        if uid is None and len(self._sinks) == 1:
            uid = next(iter(self._sinks))
        if uid is None or OperatorId(uid) not in self._sinks:
            names = ", ".join(self._sinks) or "none"
            raise ConfigError(f"which CollectSink, '{uid or ''}'? there are: {names}", hint="give the uid of one")
        node, sink = self._sinks[OperatorId(uid)]
        table = sink.table()
        if is_updating(table.schema):
            edge = node.inputs[0]
            table = materialise(table, edge.keys if edge.exchange is Exchange.FORWARD and edge.keys else None)
        return table

    def rows(self, uid: str | None = None) -> list[dict[str, Any]]:
        """The same as dicts."""
        found: list[dict[str, Any]] = self.table(uid).to_pylist()
        return found

    def answer(self, read: Read | None, folder: Path) -> Answer:
        """What the job has made visible: in its collecting sinks, or as `read` says.

        Raises:
            ConfigError: There is nothing to look at.
        """
        if read is not None:
            check_read(read)
            found = read(folder)
            check_answer(found, "what read returned")
            return found
        if not self._sinks:
            raise ConfigError(
                "the job has no CollectSink, so there is nothing to compare",
                hint="end it in a CollectSink, or say how to read its sink: read=lambda folder: ...",
            )
        return self.all_rows()

    def all_rows(self) -> dict[str, list[dict[str, Any]]]:
        """What each sink has collected, by uid."""
        return {str(uid): self.rows(uid) for uid in self._sinks}
