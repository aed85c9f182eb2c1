from __future__ import annotations

import pyarrow as pa
import pytest

from lakeward.connectors.blackhole import BlackholeSink
from lakeward.connectors.collection import CollectionSource
from lakeward.engine.api.time import WatermarkStrategy
from lakeward.engine.core.errors import GraphError, SchemaError
from lakeward.engine.core.ids import OperatorId
from lakeward.engine.graph.logical import Edge, Exchange, LogicalGraph, Node, SourceSpec
from lakeward.engine.graph.plan import plan
from lakeward.engine.graph.render import render
from lakeward.engine.graph.validate import validate
from lakeward.operators.stateless import Identity

SCHEMA = pa.schema({"a": pa.int64()})


def uid(name: str) -> OperatorId:
    return OperatorId(name)


def source(name: str, parallelism: int | None = None) -> Node:
    spec = SourceSpec(CollectionSource([{"a": 1}]))
    return Node(uid(name), spec, (), SCHEMA, parallelism)


def step(name: str, *edges: Edge, parallelism: int | None = None) -> Node:
    return Node(uid(name), Identity(), edges, SCHEMA, parallelism)


def sink(name: str, edge: Edge, parallelism: int | None = None) -> Node:
    return Node(uid(name), BlackholeSink(), (edge,), SCHEMA, parallelism)


def chains(graph: LogicalGraph, parallelism: int = 1) -> list[list[str]]:
    return [[node.uid for node in vertex.nodes] for vertex in plan(graph, parallelism, 128).vertices]


def test_a_line_of_operators_becomes_one_task() -> None:
    graph = LogicalGraph((source("s"), step("m", Edge(uid("s"))), sink("k", Edge(uid("m")))))
    assert chains(graph) == [["s", "m", "k"]]
    assert plan(graph, 1, 128).edges == ()


def test_two_readers_of_one_operator_are_chained_as_a_tree() -> None:
    graph = LogicalGraph((source("s"), sink("k1", Edge(uid("s"))), sink("k2", Edge(uid("s")))))
    assert chains(graph) == [["s", "k1", "k2"]]


def test_a_key_exchange_breaks_the_chain_only_when_there_is_more_than_one_subtask() -> None:
    hash_edge = Edge(uid("s"), Exchange.HASH, ("a",))
    graph = LogicalGraph((source("s"), step("m", hash_edge), sink("k", Edge(uid("m")))))
    assert chains(graph, 1) == [["s", "m", "k"]]
    assert chains(graph, 2) == [["s"], ["m", "k"]]
    assert plan(graph, 2, 128).edges[0].exchange is Exchange.HASH


def test_a_change_of_parallelism_rebalances() -> None:
    graph = LogicalGraph((source("s", 1), sink("k", Edge(uid("s")), 3)))
    assert chains(graph) == [["s"], ["k"]]
    assert plan(graph, 1, 128).edges[0].exchange is Exchange.REBALANCE


def test_a_union_has_a_task_of_its_own() -> None:
    union = step("u", Edge(uid("s1")), Edge(uid("s2")))
    graph = LogicalGraph((source("s1"), source("s2"), union, sink("k", Edge(uid("u")))))
    assert chains(graph) == [["s1"], ["s2"], ["u", "k"]]


def test_the_same_graph_is_always_rendered_alike() -> None:
    graph = LogicalGraph((source("s"), step("m", Edge(uid("s"))), sink("k", Edge(uid("m")))))
    assert render(plan(graph, 1, 128)) == render(plan(graph, 1, 128))
    assert "task s (parallelism 1)" in render(plan(graph, 1, 128))


def test_two_operators_of_one_uid_are_refused() -> None:
    graph = LogicalGraph((source("s"), sink("k", Edge(uid("s"))), sink("k", Edge(uid("s")))))
    with pytest.raises(GraphError, match="2 operators share the uid 'k'"):
        validate(graph, 128)


class OwnedSink(BlackholeSink):
    """A sink whose commits are told apart by a name that the user chose."""

    def __init__(self, owner: str | None) -> None:
        super().__init__()
        self._owner = owner

    @property
    def identity(self) -> str | None:
        return self._owner


def owned(name: str, owner: str | None) -> Node:
    return Node(uid(name), OwnedSink(owner), (Edge(uid("s")),), SCHEMA, None)


def test_two_sinks_that_write_to_one_place_in_one_name_are_refused() -> None:
    graph = LogicalGraph((source("s"), owned("left", "me at t"), owned("other", "you at t"), owned("right", "me at t")))
    with pytest.raises(GraphError, match=r"the sinks 'left' and 'right' both write to .* under the same sink id"):
        validate(graph, 128)


def test_sinks_without_a_name_of_their_own_are_told_apart_by_uid() -> None:
    validate(LogicalGraph((source("s"), owned("left", None), owned("right", None))), 128)


def test_a_stream_that_ends_nowhere_is_refused() -> None:
    graph = LogicalGraph((source("s"), step("m", Edge(uid("s"))), sink("k", Edge(uid("s")))))
    with pytest.raises(GraphError, match="rows go nowhere"):
        validate(graph, 128)


def test_a_parallelism_beyond_the_key_groups_is_refused() -> None:
    graph = LogicalGraph((source("s"), sink("k", Edge(uid("s")), 9)))
    with pytest.raises(GraphError, match=r"outside 1 \.\. 8"):
        validate(graph, 8)


def test_a_watermark_on_a_column_that_is_no_timestamp_is_refused() -> None:
    spec = SourceSpec(CollectionSource([{"a": 1}]), WatermarkStrategy.monotonous("a"))
    graph = LogicalGraph((Node(uid("s"), spec, (), SCHEMA), sink("k", Edge(uid("s")))))
    with pytest.raises(SchemaError, match="not a timestamp"):
        validate(graph, 128)
