"""A plan as text, for `explain()`."""

from __future__ import annotations

from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.graph.logical import Node, SourceSpec
from lakeward.engine.graph.plan import Plan, PlanEdge, Vertex


def render(plan: Plan) -> str:
    """The plan, a task a block: its operators with their uid, what they do, the road taken and the schema they send.

    Returns:
        Lines of text; equal plans give equal text.
    """
    blocks = [_block(plan, vertex) for vertex in plan.vertices]
    return "\n".join(blocks)


def _block(plan: Plan, vertex: Vertex) -> str:
    lines = [f"task {vertex.id} (parallelism {vertex.parallelism})"]
    lines += [f"  <- {_edge(edge)}" for edge in plan.inputs(vertex.id)]
    depth = {vertex.nodes[0].uid: 0}
    for node in vertex.nodes:
        level = depth[node.inputs[0].upstream] + 1 if node.uid not in depth else 0
        depth[node.uid] = level
        lines += _node(node, level)
    return "\n".join(lines)


def _edge(edge: PlanEdge) -> str:
    keys = f" by {', '.join(edge.keys)}" if edge.keys else ""
    side = f", side stream '{edge.tag}'" if edge.tag else ""
    return f"{edge.exchange.value}{keys} from {edge.operator}{side}"


def _node(node: Node, level: int) -> list[str]:
    pad = "  " * (level + 1)
    road = "" if _vectorised(node) else "  [row by row in Python]"
    lines = [f"{pad}{node.uid}: {node.description}{road}"]
    if isinstance(node.work, SourceSpec) and node.work.watermarks is not None:
        marks = node.work.watermarks
        lines.append(f"{pad}  event time {marks.column}, at most {marks.out_of_orderness_us / 1e6:g} s out of order")
    if isinstance(node.work, SourceSpec) and node.work.pushdown is not None:
        lines.append(f"{pad}  {node.work.pushdown}")
    lines += [f"{pad}  side stream '{edge.tag}' of {edge.upstream}" for edge in node.inputs if edge.tag]
    lines.append(f"{pad}  [{', '.join(f'{f.name}: {f.type}' for f in node.schema)}]")
    return lines


def _vectorised(node: Node) -> bool:
    return not isinstance(node.work, OperatorFactory) or node.work.vectorised
