"""Whose rows in flight are, by the plan that runs now: what replaces a row goes where the row went."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lakeward.connectors.blackhole import BlackholeSink
from lakeward.connectors.collection import CollectionSource
from lakeward.engine.api.changelog import updating
from lakeward.engine.core.ids import OperatorId
from lakeward.engine.graph.logical import Edge, Exchange, LogicalGraph, Node, SourceSpec
from lakeward.engine.graph.owners import Owners, owners
from lakeward.engine.graph.plan import plan
from lakeward.operators.stateless import Identity

PLAIN = pa.schema({"a": pa.int64(), "b": pa.int64()})
UPDATING = updating(PLAIN)


def owners_of_sink(
    upsert_key: tuple[str, ...], sinks: int | None = 2, keys: tuple[str, ...] = ("a",), between: bool = False
) -> Owners:
    """Of the rows on their way to the sink of an aggregate over keys, with two subtasks."""
    source = Node(OperatorId("in"), SourceSpec(CollectionSource([{"a": 1, "b": 2}])), (), PLAIN, 2)
    keyed = Edge(OperatorId("in"), Exchange.HASH, keys)
    aggregate = Node(OperatorId("aggregate"), Identity(), (keyed,), UPDATING if upsert_key else PLAIN, 2)
    nodes = [source, aggregate]
    if between:
        forward = Edge(OperatorId("aggregate"), keys=upsert_key)
        nodes.append(Node(OperatorId("between"), Identity(), (forward,), UPDATING, 2))
    out = Node(OperatorId("out"), BlackholeSink(), (Edge(nodes[-1].uid, keys=upsert_key),), UPDATING, sinks)
    made = plan(LogicalGraph((*nodes, out)), 2, 128)
    return owners(made, out, 0)


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize(
    ("upsert_key", "sinks", "expected"),
    [
        (("a",), 2, Owners(("a",))),  # straight on: as the aggregate was dealt its rows
        (("a",), 3, Owners(("a",))),  # over a hash exchange by the upsert key
        (("a",), 1, Owners(None)),  # to the only one
        (("b", "a"), 2, Owners(("a",))),  # told apart by more than the aggregate's key
        (("b", "a"), 3, Owners(("b", "a"))),
        (("b",), 2, Owners(("b",))),  # the aggregate's key under another name
        (("b", "c"), 2, Owners(None, is_certain=False)),  # which of them was the key?
    ],
)
def test_changes_of_one_key_have_one_owner(
    upsert_key: tuple[str, ...], sinks: int, expected: Owners, between: bool
) -> None:
    assert owners_of_sink(upsert_key, sinks, between=between) == expected


def test_rows_that_replace_no_others_may_be_anybodys() -> None:
    assert owners_of_sink((), 2) == owners_of_sink((), 3) == Owners(None)
