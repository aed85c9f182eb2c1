"""Refuse a graph that cannot run, naming the node and the way out."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from lakeward.engine.api.sink import Sink
from lakeward.engine.core.errors import GraphError, SchemaError
from lakeward.engine.core.keygroups import parallelism_hint
from lakeward.engine.core.names import did_you_mean
from lakeward.engine.graph.logical import LogicalGraph, Node, SourceSpec


def validate(graph: LogicalGraph, max_parallelism: int) -> None:
    """Check what can be known without running anything.

    Raises:
        GraphError: Two nodes share a uid, two sinks write to one place in one name, a parallelism is out of range,
            nothing is written, a node's rows go nowhere, or a watermark's column is missing or no timestamp.
    """
    _check_uids(graph)
    _check_sinks(graph)
    _check_sink_identities(graph)
    for node in graph:
        _check_parallelism(node, max_parallelism)
        check_event_time(node)


def _check_uids(graph: LogicalGraph) -> None:
    for uid, times in Counter(node.uid for node in graph).items():
        if times > 1:
            where = ", ".join(node.location for node in graph if node.uid == uid)
            raise GraphError(
                f"{times} operators share the uid '{uid}' ({where})",
                hint="a uid names an operator's state: give each operator its own",
            )


def _check_sinks(graph: LogicalGraph) -> None:
    if not any(isinstance(node.work, Sink) for node in graph):
        raise GraphError("the job writes nothing: it has no sink", hint="end a stream with .sink_to(...)")
    read = {edge.upstream for node in graph for edge in node.inputs}
    for node in graph:
        if node.uid not in read and not isinstance(node.work, Sink):
            raise GraphError("its rows go nowhere", hint="end the stream with .sink_to(...), or delete it").at(
                node.uid, node.location
            )


def _check_sink_identities(graph: LogicalGraph) -> None:
    first: dict[str, Node] = {}
    for node in graph:
        if not isinstance(node.work, Sink) or node.work.identity is None:
            continue
        other = first.setdefault(node.work.identity, node)
        if other is not node:
            raise GraphError(
                f"the sinks '{other.uid}' and '{node.uid}' both write to {node.work.description} under the same sink"
                " id, so each would take the other's commits for its own",
                hint="give each sink a sink_id of its own, or leave it out; or union the streams into one sink",
            ).at(node.uid, node.location)


def _check_parallelism(node: Node, max_parallelism: int) -> None:
    if node.parallelism is not None and not 1 <= node.parallelism <= max_parallelism:
        raise GraphError(
            f"parallelism {node.parallelism} is outside 1 .. {max_parallelism}",
            hint=parallelism_hint(node.parallelism),
        ).at(node.uid, node.location)


def check_event_time(node: Node) -> None:
    """Refuse a source whose watermark's column is missing or no timestamp.

    Raises:
        SchemaError: Names the column, and the nearest one there is.
    """
    strategy = node.work.watermarks if isinstance(node.work, SourceSpec) else None
    if strategy is None:
        return
    if strategy.column not in node.schema.names:
        raise SchemaError(
            f"the watermark's column '{strategy.column}' is not in the source",
            hint=did_you_mean(strategy.column, node.schema.names),
        ).at(node.uid, node.location)
    kind = node.schema.field(strategy.column).type
    if not (pa.types.is_timestamp(kind) and kind.unit == "us"):
        raise SchemaError(
            f"the watermark's column '{strategy.column}' is {kind}, not a timestamp in microseconds",
            hint='declare the column as pa.timestamp("us") in the source\'s schema',
        ).at(node.uid, node.location)
