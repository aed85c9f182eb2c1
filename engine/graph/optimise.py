"""Logical graph to a cheaper logical graph: columns that nobody reads are not read, filters are told to sources. Pure.

Columns are followed backwards from the sinks (liveness, as in a compiler; databases call it projection pushdown): an
operator that says which columns it reads frees those above it from the others; joins and rankings keep in their state
only what is read of their rows. Uids, splits and positions stay as they are, and state with more columns than are
needed is read as well: a job may be restored from a checkpoint of an engine without this pass, and with another query
above its state, unless that one reads columns that were not kept (which is an error that says so).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from lakeward.engine.api.changelog import ROW_KIND
from lakeward.engine.api.context import Output
from lakeward.engine.api.expression import Comparison
from lakeward.engine.api.operator import Operator, OperatorFactory, RowFlow
from lakeward.engine.core.ids import OperatorId
from lakeward.engine.graph.logical import Edge, Exchange, LogicalGraph, Node, Pushdown, SourceSpec

Columns = frozenset[str]


def optimise(graph: LogicalGraph, parallelism: int) -> LogicalGraph:
    """The same job with less work.

    Args:
        graph: A validated graph.
        parallelism: Subtasks of operators that say nothing else.

    Returns:
        A graph with the same uids in the same order, and perhaps some more without state: projections before an
        exchange that would carry columns which nobody reads.
    """
    live = _Liveness(graph)
    for node in reversed(graph.nodes):
        live.follow(node)
    rewriter = _Rewriter(graph, live, parallelism)
    for node in graph:
        rewriter.add(node)
    return LogicalGraph(tuple(rewriter.nodes))


class _Liveness:
    """Which columns each node sends on, and which it reads of each of its inputs; filled from the sinks backwards."""

    def __init__(self, graph: LogicalGraph) -> None:
        self._schemas = {node.uid: node.schema for node in graph}
        self._live: dict[OperatorId, set[str]] = {node.uid: set() for node in graph}
        self._with_side_readers = {edge.upstream for node in graph for edge in node.inputs if edge.tag is not None}
        self.sent: dict[OperatorId, tuple[str, ...]] = {}
        self.reads: dict[OperatorId, list[Columns]] = {}

    def follow(self, node: Node) -> None:
        """Take in a node all of whose readers are known."""
        self.sent[node.uid] = sent = self._sent(node)
        self.reads[node.uid] = reads = self._reads(node, frozenset(sent))
        for edge, columns in zip(node.inputs, reads, strict=True):
            if edge.tag is None:
                self._live[edge.upstream] |= columns | set(edge.keys)

    def _sent(self, node: Node) -> tuple[str, ...]:
        """Of the node's columns those that are read, in their order; all where the node can't leave any out."""
        every = tuple(node.schema.names)
        live = self._live[node.uid] | {ROW_KIND}  # how a row is to be taken always counts
        if isinstance(node.work, SourceSpec):
            live |= {node.work.watermarks.column} if node.work.watermarks is not None else set()
        elif not isinstance(node.work, OperatorFactory) or node.uid in self._with_side_readers:
            return every  # what a side stream carries is rows as they came in
        if len(set(every)) < len(every):
            return every  # two columns of one name: there is no saying which is meant
        # One column at least: Arrow's batches without any do not know how many rows they have.
        columns = tuple(name for name in every if name in live) or _cheapest(node.schema)
        if isinstance(node.work, OperatorFactory) and node.work.narrowed(columns) is None:
            return every
        return columns

    def _reads(self, node: Node, sent: Columns) -> list[Columns]:
        inputs = [self._schemas[edge.upstream] for edge in node.inputs]
        required = None
        if isinstance(node.work, OperatorFactory) and node.uid not in self._with_side_readers:
            required = node.work.required_columns(sent, inputs)
        whole = [frozenset(schema.names) for schema in inputs]
        if required is None or any(edge.tag is not None for edge in node.inputs):
            return whole
        return [every & columns for every, columns in zip(whole, required, strict=True)]


class _Rewriter:
    """Makes the new nodes, from the sources on."""

    def __init__(self, graph: LogicalGraph, live: _Liveness, parallelism: int) -> None:
        self._live = live
        self._counts = {node.uid: node.parallelism or parallelism for node in graph}
        self._readers: dict[OperatorId, list[tuple[Node, Edge]]] = {node.uid: [] for node in graph}
        for node in graph:
            for edge in node.inputs:
                self._readers[edge.upstream].append((node, edge))
        self._made: dict[OperatorId, Node] = {}
        self.nodes: list[Node] = []

    def add(self, node: Node) -> None:
        """Add a node all of whose inputs were added."""
        edges = [self._early_projection(node, i, edge) for i, edge in enumerate(node.inputs)]
        columns = self._live.sent[node.uid]
        node = replace(node, inputs=tuple(edges))
        if isinstance(node.work, SourceSpec):
            node = self._pushed(node, node.work, columns)
        elif isinstance(node.work, OperatorFactory) and len(columns) < len(node.schema):
            work = node.work.narrowed(columns)
            assert work is not None, "asked before"
            node = replace(node, work=work, schema=_subset(node.schema, columns))
        self._append(node)

    def _append(self, node: Node) -> None:
        self._made[node.uid] = node
        self.nodes.append(node)

    def _pushed(self, node: Node, spec: SourceSpec, columns: tuple[str, ...]) -> Node:
        """A source that reads what is needed, if it can."""
        predicate = self._predicate(node, spec)
        if len(columns) == len(node.schema) and not predicate:
            return node
        source = spec.source.pushed(columns, predicate)
        if source is None:
            return node
        assert source.schema.names == list(columns), f"{source.description} has other columns than it was asked for"
        work = SourceSpec(source, spec.watermarks, Pushdown(columns, len(node.schema), source.skips_by))
        return replace(node, work=work, schema=source.schema)

    def _predicate(self, node: Node, spec: SourceSpec) -> tuple[Comparison, ...]:
        """What holds for every row that is not thrown away by the filters right above a source.

        Rows that are left out do not advance the watermark. So that no row is late, or not late, for that reason, a
        source with event time is only told its lower bounds: what it leaves out is older than all that is kept.
        """
        found: list[Comparison] = []
        names: Mapping[str, str] = {name: name for name in node.schema.names}
        while len(readers := self._readers[node.uid]) == 1:
            node, edge = readers[0]
            passed = node.work.passed() if isinstance(node.work, OperatorFactory) and edge.tag is None else None
            if passed is None:
                break
            found += [replace(one, column=names[one.column]) for one in passed.where if one.column in names]
            if passed.columns is not None:
                names = {name: names[before] for name, before in passed.columns.items() if before in names}
        if spec.watermarks is not None:
            found = [one for one in found if one.column == spec.watermarks.column and one.operator in (">", ">=")]
        return tuple(found)

    def _early_projection(self, node: Node, index: int, edge: Edge) -> Edge:
        """The edge into a node, from a projection of its own if it would carry columns that are never read."""
        before = self._made[edge.upstream]
        exchanged = self._counts[edge.upstream] != self._counts[node.uid] or (
            edge.exchange is not Exchange.FORWARD and self._counts[node.uid] > 1
        )
        if edge.tag is not None:
            return edge
        read = self._live.reads[node.uid][index] | set(edge.keys)
        edge = replace(edge, reads=read)
        if not exchanged:
            return edge
        columns = tuple(name for name in before.schema.names if name in read)
        if len(columns) == len(before.schema):
            return edge
        uid = self._free_uid(f"{node.uid}.columns-{index + 1}")
        schema = _subset(before.schema, columns)
        keep = Node(uid, KeepColumns(columns), (Edge(before.uid),), schema, before.parallelism, node.location)
        self._counts[uid] = self._counts[before.uid]
        self._append(keep)
        return replace(edge, upstream=uid)

    def _free_uid(self, wanted: str) -> OperatorId:
        while OperatorId(wanted) in self._counts:
            wanted += "_"
        return OperatorId(wanted)


@dataclass(frozen=True, slots=True)
class KeepColumns(OperatorFactory):
    """Leaves columns out before rows are sent to other tasks.

    Args:
        columns: Those that stay.
    """

    columns: tuple[str, ...]

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return _KeepColumnsOperator(self.columns)

    @property
    def description(self) -> str:
        """What it does."""
        return f"keep {', '.join(self.columns)}"

    @property
    def row_flow(self) -> RowFlow:
        """A row a row."""
        return RowFlow(one_to_one=True, repeatable=True)


class _KeepColumnsOperator(Operator):
    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = list(columns)

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Pass on some of the columns."""
        out.emit(batch.select(self._columns))


def _cheapest(schema: pa.Schema) -> tuple[str, ...]:
    """A column of fixed width, if there is one."""
    fixed = [field.name for field in schema if pa.types.is_primitive(field.type)]
    return tuple((fixed or schema.names)[:1])


def _subset(schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    return pa.schema([schema.field(name) for name in columns], metadata=schema.metadata)
