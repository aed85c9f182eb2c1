"""A plan as lines that are equal where two processes run the same job, and show in what they do not. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from lakeward.engine.graph.logical import Node, SourceSpec
from lakeward.engine.graph.plan import Plan, PlanEdge, Vertex

_NOTHING = "nothing more"


def outline(plan: Plan) -> list[str]:
    """What has to be the same in all processes of a job: tasks, their operators and schemas, and how rows are sent.

    Descriptions are left out: paths and addresses in them may differ from host to host.
    """
    lines = [f"max_parallelism {plan.max_parallelism}"]
    for vertex in plan.vertices:
        lines += _task(plan, vertex)
    return lines


def difference(mine: Sequence[str], theirs: Sequence[str]) -> tuple[str, str] | None:
    """The first lines in which two outlines differ; None: they are equal.

    >>> difference(["task a, parallelism 2", "operator a"], ["task a, parallelism 2", "operator b"])
    ('operator a', 'operator b')
    >>> difference(["task a, parallelism 2"], [])
    ('task a, parallelism 2', 'nothing more')
    """
    for one, other in zip_longest(mine, theirs, fillvalue=_NOTHING):
        if one != other:
            return one, other
    return None


def _task(plan: Plan, vertex: Vertex) -> list[str]:
    head = f"task '{vertex.id}', parallelism {vertex.parallelism}"
    return [head, *map(_edge, plan.inputs(vertex.id)), *(line for node in vertex.nodes for line in _node(node))]


def _edge(edge: PlanEdge) -> str:
    keys = f" by {', '.join(edge.keys)}" if edge.keys else ""
    return (
        f"task '{edge.target}', input {edge.index}: {edge.exchange.value}{keys} from '{edge.operator}'{_side(edge.tag)}"
    )


def _node(node: Node) -> list[str]:
    work = node.work.source if isinstance(node.work, SourceSpec) else node.work
    fields = ", ".join(f"{f.name}: {f.type}{'' if f.nullable else ' not null'}" for f in node.schema)
    lines = [f"operator '{node.uid}', {type(work).__name__}, [{fields}]"]
    lines += [f"operator '{node.uid}', reads '{edge.upstream}'{_side(edge.tag)}" for edge in node.inputs]
    if isinstance(node.work, SourceSpec) and node.work.watermarks is not None:
        marks = node.work.watermarks
        lines.append(f"operator '{node.uid}', event time {marks.column}, out of order {marks.out_of_orderness_us} us")
    if isinstance(node.work, SourceSpec) and node.work.pushdown is not None:
        lines.append(f"operator '{node.uid}', {node.work.pushdown}")
    return lines


def _side(tag: str | None) -> str:
    return f", side stream '{tag}'" if tag else ""
