"""Physical plan to tasks: operators, chains, channels, and the state they are restored with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from lakeward.engine.api.operator import Operator, OperatorFactory
from lakeward.engine.api.sink import Sink
from lakeward.engine.api.source import ReaderContext
from lakeward.engine.config import EngineConfig
from lakeward.engine.core.ids import OperatorId, SubtaskIndex
from lakeward.engine.graph.logical import Exchange, Node, SourceSpec
from lakeward.engine.graph.owners import owners
from lakeward.engine.graph.plan import Plan, PlanEdge, Vertex, VertexId
from lakeward.engine.runtime.chain import Chain, ChainedOperator, errors_named
from lakeward.engine.runtime.channel import Channel, ChannelReader, ChannelWriter
from lakeward.engine.runtime.context import JobInfo, StateConfig, SubtaskContext
from lakeward.engine.runtime.metrics import Metrics, OperatorCounters
from lakeward.engine.runtime.output import ChainOutput, EdgeWriter
from lakeward.engine.runtime.partition import make_partitioner
from lakeward.engine.runtime.restore import RestoredState
from lakeward.engine.runtime.sink_operator import SinkOperator
from lakeward.engine.runtime.source_task import SourceSetup, SourceTask, SplitState
from lakeward.engine.runtime.task import AlignmentLimit, InputChannel, RunnableTask, Task, TaskCore, TaskId
from lakeward.engine.runtime.unaligned import RestoredInput, RestoredRows
from lakeward.engine.state.kv import StoreFactory


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What tasks are built with.

    Args:
        config: Limits and intervals.
        info: What all operators share.
        metrics: The run's counters.
        restored: The restored checkpoint.
        splits: The splits of each source, dealt to its subtasks.
        store_factory: Opens key-value stores.
        directory: This attempt's local directory.
    """

    config: EngineConfig
    info: JobInfo
    metrics: Metrics
    restored: RestoredState
    splits: Mapping[OperatorId, Sequence[Sequence[SplitState]]]
    store_factory: StoreFactory
    directory: Path


@dataclass(frozen=True, slots=True)
class ChannelEnds:
    """A channel as this process has it: an end is None if its subtask is elsewhere."""

    writer: ChannelWriter | None
    reader: ChannelReader | None


class Placement(Protocol):
    """Which subtasks are this process's, and how they are connected with the others."""

    def is_here(self, subtask: int) -> bool:
        """Whether subtasks with this number are this process's."""
        ...

    def connect(self, edge: int, sender: int, receiver: int, batches_max: int) -> ChannelEnds:
        """The channel between two subtasks; edges are counted in the order of the plan."""
        ...


class OneProcess:
    """All subtasks are here."""

    def is_here(self, subtask: int) -> bool:
        """Always."""
        return True

    def connect(self, edge: int, sender: int, receiver: int, batches_max: int) -> ChannelEnds:
        """A queue."""
        channel = Channel(batches_max)
        return ChannelEnds(channel, channel)


def build_tasks(plan: Plan, context: BuildContext, placement: Placement | None = None) -> list[RunnableTask]:
    """Make this process's tasks, sources first, in an order in which every task comes after those it reads from."""
    return _Builder(plan, context, placement or OneProcess()).build()


def task_id(vertex: str, number: int) -> TaskId:
    """The name of a vertex's subtask.

    >>> task_id("totals", 1)
    'totals-1'
    """
    return TaskId(f"{vertex}-{number}")


class _Builder:
    def __init__(self, plan: Plan, context: BuildContext, placement: Placement) -> None:
        self._plan = plan
        self._context = context
        self._placement = placement
        self._counts = {vertex.id: vertex.parallelism for vertex in plan.vertices}
        self._channels = {edge: self._connect(number, edge) for number, edge in enumerate(plan.edges)}
        operators = sum(len(vertex.nodes) * vertex.parallelism for vertex in plan.vertices)
        self._memory_bytes = context.config.state_memory_bytes // max(1, min(operators, self._stateful(plan)))

    @staticmethod
    def _stateful(plan: Plan) -> int:
        """Subtasks that can hold keyed state: those of operators, not of sources and sinks."""
        works = [(node.work, vertex.parallelism) for vertex in plan.vertices for node in vertex.nodes]
        return sum(count for work, count in works if isinstance(work, OperatorFactory) and work.stateful)

    def build(self) -> list[RunnableTask]:
        return [
            self._task(vertex, SubtaskIndex(number))
            for vertex in self._plan.vertices
            for number in range(vertex.parallelism)
            if self._placement.is_here(number)
        ]

    def _connect(self, number: int, edge: PlanEdge) -> list[list[ChannelEnds]]:
        """Channels of an edge by sender and receiver; a forward edge connects equal numbers only."""
        limit = self._context.config.channel_batches_max
        senders, receivers = self._counts[edge.source], self._counts[edge.target]
        forward = edge.exchange is Exchange.FORWARD
        none = ChannelEnds(None, None)
        return [
            [
                self._placement.connect(number, sender, receiver, limit) if not forward or sender == receiver else none
                for receiver in range(receivers)
            ]
            for sender in range(senders)
        ]

    def _task(self, vertex: Vertex, number: SubtaskIndex) -> RunnableTask:
        outputs = {node.uid: ChainOutput() for node in vertex.nodes}
        inner = vertex.nodes[1:] if isinstance(vertex.nodes[0].work, SourceSpec) else vertex.nodes
        chained = [self._operator(node, vertex, number, outputs[node.uid]) for node in inner]
        for one in chained:
            edge = one.node.inputs[0]
            if edge.upstream in outputs and one.node is not vertex.nodes[0]:
                outputs[edge.upstream].connect(edge.tag, one.receive)
        core = TaskCore(
            task_id(vertex.id, number),
            Chain(chained),
            self._edges(vertex, number, outputs),
            self._context.directory / "snapshots",
        )
        if isinstance(vertex.nodes[0].work, SourceSpec):
            return SourceTask(core, self._source(vertex, number, outputs[vertex.nodes[0].uid]))
        return Task(core, self._inputs(vertex, number), self._limit(vertex))

    def _edges(
        self, vertex: Vertex, number: SubtaskIndex, outputs: Mapping[OperatorId, ChainOutput]
    ) -> list[EdgeWriter]:
        writers = []
        for edge in self._plan.outputs(vertex.id):
            partitioner = make_partitioner(
                edge.exchange, edge.keys, number, self._counts[edge.target], self._plan.max_parallelism
            )
            writer = EdgeWriter(partitioner, [ends.writer for ends in self._channels[edge][number]])
            outputs[edge.operator].connect(edge.tag, writer.emit)
            writers.append(writer)
        return writers

    def _inputs(self, vertex: Vertex, number: SubtaskIndex) -> list[InputChannel]:
        return [
            InputChannel(reader, edge.index, group if self._reads_all(edge.source) else None)
            for group, edge in enumerate(self._plan.inputs(vertex.id))
            for row in self._channels[edge]
            if (reader := row[number].reader) is not None
        ]

    def _limit(self, vertex: Vertex) -> AlignmentLimit:
        """Tasks that all get the same rows align their barriers: what one of them has still to get is not another's."""
        copies = any(edge.exchange is Exchange.BROADCAST for edge in self._plan.inputs(vertex.id))
        timeout_ms = None if copies else self._context.config.alignment_timeout_ms
        return AlignmentLimit(timeout_ms, self._context.info.clock)

    def _restored_rows(self, node: Node, vertex: Vertex, number: SubtaskIndex) -> RestoredRows:
        before = {one.uid: (one, vertex.parallelism) for vertex in self._plan.vertices for one in vertex.nodes}
        inputs = []
        for index, edge in enumerate(node.inputs):
            upstream, parallelism = before[edge.upstream]
            schema = upstream.schema if edge.tag is None else None
            inputs.append(RestoredInput(edge, schema, owners(self._plan, node, index), parallelism))
        subtask = (number, vertex.parallelism)
        return RestoredRows(self._context.restored, node.uid, inputs, subtask, self._plan.max_parallelism)

    def _reads_all(self, vertex: VertexId) -> bool:
        """Whether all subtasks of a vertex hear the same watermarks: each from all subtasks of those before it."""
        edges = self._plan.inputs(vertex)
        return bool(edges) and all(
            edge.exchange is not Exchange.FORWARD or self._reads_all(edge.source) for edge in edges
        )

    def _operator(self, node: Node, vertex: Vertex, number: SubtaskIndex, out: ChainOutput) -> ChainedOperator:
        counters = OperatorCounters(self._context.metrics, node.uid)
        context = SubtaskContext(
            self._context.info,
            node.uid,
            (number, vertex.parallelism),
            counters,
            self._state(node, vertex, number),
            self._context.restored.states(node.uid),
        )
        chained = ChainedOperator(node, _make_operator(node, counters), context, out)
        if rows := self._restored_rows(node, vertex, number):
            chained.restored = rows.batches()
        return chained

    def _state(self, node: Node, vertex: Vertex, number: SubtaskIndex) -> StateConfig:
        return StateConfig(
            store_factory=self._context.store_factory,
            directory=self._context.directory / "state" / f"{node.uid}-{number}",
            memory_bytes=self._memory_bytes,
            restore=self._context.restored.keyed(node.uid, number, vertex.parallelism),
            restore_all=partial(self._context.restored.all_keyed, node.uid),
        )

    def _source(self, vertex: Vertex, number: SubtaskIndex, out: ChainOutput) -> SourceSetup:
        node = vertex.nodes[0]
        assert isinstance(node.work, SourceSpec), "the head of a source task is a source"
        counters = OperatorCounters(self._context.metrics, node.uid)
        reader_context = ReaderContext(
            uid=node.uid,
            job_id=self._context.info.job_id,
            subtask=number,
            parallelism=vertex.parallelism,
            batch_rows=self._context.config.batch_rows,
            linger_ms=self._context.config.linger_ms,
            clock=self._context.info.clock,
            counters=counters,
            redaction=self._context.info.redaction,
        )
        with errors_named(node):
            reader = node.work.source.open_reader(reader_context)
        splits = self._context.splits[node.uid][number]
        return SourceSetup(node, number, reader, out, splits, counters, self._context.info.clock)


def _make_operator(node: Node, counters: OperatorCounters) -> Operator:
    if isinstance(node.work, Sink):
        return SinkOperator(node.work, node.schema, counters)
    assert isinstance(node.work, OperatorFactory), "sources head their tasks"
    return node.work.create()
