"""Logical graph to physical plan: which operators are chained into one task, how tasks are connected. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from lakeward.engine.api.changelog import is_updating
from lakeward.engine.core.ids import OperatorId
from lakeward.engine.graph.logical import Edge, Exchange, LogicalGraph, Node

VertexId = NewType("VertexId", str)
"""Name of a vertex: the uid of its first operator."""


@dataclass(frozen=True, slots=True)
class Vertex:
    """Operators that run in one task, calling each other directly; a tree with its head first.

    Args:
        id: The head's uid.
        nodes: The operators, each after the one it reads from.
        parallelism: Number of subtasks.
    """

    id: VertexId
    nodes: tuple[Node, ...]
    parallelism: int


@dataclass(frozen=True, slots=True)
class PlanEdge:
    """A connection between two vertices, through channels.

    Args:
        source: The sending vertex.
        operator: The operator in it whose rows are sent.
        tag: Its side stream; None for the main one.
        target: The receiving vertex.
        exchange: How rows are distributed over the receiver's subtasks.
        keys: Key columns of a hash exchange.
        index: Which of the receiver's inputs it is, in the order of the graph.
    """

    source: VertexId
    operator: OperatorId
    tag: str | None
    target: VertexId
    exchange: Exchange
    keys: tuple[str, ...]
    index: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What runs: vertices in topological order, and the edges between them."""

    vertices: tuple[Vertex, ...]
    edges: tuple[PlanEdge, ...]
    max_parallelism: int

    def inputs(self, vertex: VertexId) -> tuple[PlanEdge, ...]:
        """The edges into a vertex."""
        return tuple(edge for edge in self.edges if edge.target == vertex)

    def outputs(self, vertex: VertexId) -> tuple[PlanEdge, ...]:
        """The edges out of a vertex."""
        return tuple(edge for edge in self.edges if edge.source == vertex)


def plan(graph: LogicalGraph, parallelism: int, max_parallelism: int) -> Plan:
    """Chain what can be chained and connect the rest.

    An operator joins the task of the one it reads from when that is its only input, both have the same parallelism
    and no exchange is needed (a hash exchange between single subtasks is none).

    Args:
        graph: A validated graph.
        parallelism: Subtasks of operators that say nothing else.
        max_parallelism: Number of key groups.
    """
    home: dict[OperatorId, VertexId] = {}
    chains: dict[VertexId, list[Node]] = {}
    edges: list[PlanEdge] = []
    counts = {node.uid: node.parallelism or parallelism for node in graph}
    for node in graph:
        if len(node.inputs) == 1 and _chains(node.inputs[0], counts, node.uid):
            home[node.uid] = home[node.inputs[0].upstream]
            chains[home[node.uid]].append(node)
            continue
        vertex = VertexId(node.uid)
        home[node.uid] = vertex
        chains[vertex] = [node]
        for index, edge in enumerate(node.inputs):
            upstream = graph.node(edge.upstream)
            exchange = _exchange(edge, upstream, counts[upstream.uid], counts[node.uid])
            edges.append(PlanEdge(home[edge.upstream], edge.upstream, edge.tag, vertex, exchange, edge.keys, index))
    vertices = tuple(Vertex(v, tuple(nodes), counts[nodes[0].uid]) for v, nodes in chains.items())
    return Plan(vertices, tuple(edges), max_parallelism)


def _chains(edge: Edge, counts: dict[OperatorId, int], uid: OperatorId) -> bool:
    if counts[edge.upstream] != counts[uid]:
        return False
    return edge.exchange is Exchange.FORWARD or counts[uid] == 1


def _exchange(edge: Edge, upstream: Node, senders: int, receivers: int) -> Exchange:
    """How rows get there; a forward edge between different numbers of subtasks has to distribute them somehow."""
    if edge.exchange is not Exchange.FORWARD or senders == receivers:
        return edge.exchange
    if receivers == 1 or edge.tag is not None or not is_updating(upstream.schema):
        return Exchange.REBALANCE
    # What a row replaces must go where the row goes, or one would overtake the other.
    return Exchange.HASH if edge.keys else Exchange.GLOBAL
