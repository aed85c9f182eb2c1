"""What each worker needs of a restored checkpoint. Pure.

Sending all of it to all would cost the square of the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.core.ids import KeyGroup
from lakeward.engine.core.keygroups import subtask_of
from lakeward.engine.core.snapshots import OperatorSnapshot, TableSnapshot
from lakeward.engine.graph.logical import Exchange, SourceSpec
from lakeward.engine.graph.plan import Plan, Vertex


def shares(manifest: CheckpointManifest, plan: Plan, workers: int) -> list[CheckpointManifest]:
    """The manifest as each worker gets it.

    In each are the keyed state that overlaps key groups of the worker's subtasks, small state and rows in flight of all
    subtasks, and all keyed state of operators that get a broadcast stream, for they may read each other's. Left out are
    what the job no longer has, what was to be committed, and the positions of sources, which are dealt as splits.

    Args:
        manifest: The restored checkpoint.
        plan: What runs; a vertex's subtask `n` is worker `n % workers`'s.
        workers: How many there are.

    Returns:
        One for each worker, in order.
    """
    homes = {node.uid: (vertex, node) for vertex in plan.vertices for node in vertex.nodes}
    dealt: list[list[OperatorSnapshot]] = [[] for _ in range(workers)]
    for one in manifest.operators:
        if one.uid not in homes:
            continue
        vertex, node = homes[one.uid]
        keyed = set(_takers(one.keyed, plan, vertex, workers)) if one.keyed is not None else set()
        state = None if isinstance(node.work, SourceSpec) else one.state
        small = replace(one, keyed=None, committables=(), state=state)
        for_all = small.state is not None or bool(small.in_flight)
        for worker in range(workers) if for_all else sorted(keyed):
            dealt[worker].append(replace(small, keyed=one.keyed) if worker in keyed else small)
    return [replace(manifest, operators=tuple(own), committers={}).with_version() for own in dealt]


def _takers(keyed: TableSnapshot, plan: Plan, vertex: Vertex, workers: int) -> Iterator[int]:
    """The workers that restore keyed state from a snapshot."""
    if any(edge.exchange is Exchange.BROADCAST for edge in plan.inputs(vertex.id)):
        yield from range(min(workers, vertex.parallelism))
        return
    if keyed.key_group_start < keyed.key_group_end:
        ends = (KeyGroup(keyed.key_group_start), KeyGroup(keyed.key_group_end - 1))
        first, last = (subtask_of(group, vertex.parallelism, plan.max_parallelism) for group in ends)
        yield from (subtask % workers for subtask in range(first, last + 1))
