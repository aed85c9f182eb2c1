"""Which subtask a row on its way to an operator belongs to, when it is restored with another plan. Pure.

Rows that take each other's place in an updating stream have to go to one subtask, or one could overtake the other. On a
hash exchange the keys say which. A forward edge goes on as the operators before it were dealt their rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from lakeward.engine.core.ids import OperatorId
from lakeward.engine.graph.logical import Edge, Exchange, Node
from lakeward.engine.graph.plan import Plan, Vertex


@dataclass(frozen=True, slots=True)
class Owners:
    """How rows in flight are dealt to an operator's subtasks.

    Args:
        keys: By the key group of these columns; empty: all to the first; None: as the old subtasks had them.
        is_certain: Whether that is right after a change of parallelism, too.
    """

    keys: tuple[str, ...] | None
    is_certain: bool = True


def owners(plan: Plan, node: Node, index: int) -> Owners:
    """Who gets the rows in flight of one of an operator's inputs.

    Args:
        plan: What runs now.
        node: The operator.
        index: The input.
    """
    edge, vertex = node.inputs[index], _home(plan, node.uid)
    exchange, keys = edge.exchange, edge.keys
    if vertex.nodes[0].uid == node.uid:
        planned = next(one for one in plan.inputs(vertex.id) if one.index == index)
        exchange, keys = planned.exchange, planned.keys
    match exchange:
        case Exchange.HASH:
            return Owners(keys)
        case Exchange.GLOBAL:
            return Owners(())
        case Exchange.FORWARD if edge.keys:
            return _upstream(plan, edge, edge.upstream)
    return Owners(None)


def _upstream(plan: Plan, edge: Edge, uid: OperatorId) -> Owners:
    """How the operators before a forward edge were dealt their rows, in columns of the rows on the edge."""
    inputs = plan.inputs(_home(plan, uid).id)
    hashed = [one for one in inputs if one.exchange is Exchange.HASH]
    for one in hashed:
        if set(one.keys) <= set(edge.keys):
            return Owners(one.keys)
    if any(len(one.keys) == len(edge.keys) for one in hashed):
        return Owners(edge.keys)  # the whole key, under other names
    if hashed:
        return Owners(None, is_certain=False)
    forward = [one for one in inputs if one.exchange is Exchange.FORWARD]
    return _upstream(plan, edge, forward[0].operator) if forward else Owners(None)


def _home(plan: Plan, uid: OperatorId) -> Vertex:
    return next(vertex for vertex in plan.vertices for node in vertex.nodes if node.uid == uid)
