"""From a logical graph as it was written to the plan that runs. Pure."""

from __future__ import annotations

from lakeward.engine.config import EngineConfig
from lakeward.engine.graph.logical import LogicalGraph
from lakeward.engine.graph.optimise import optimise
from lakeward.engine.graph.plan import Plan, plan
from lakeward.engine.graph.validate import validate


def prepare(graph: LogicalGraph, config: EngineConfig) -> tuple[LogicalGraph, Plan]:
    """Validate, optimise and plan: what every run of a job, `explain()` and the simulator begin with.

    Args:
        graph: As the user wrote it.
        config: Says the parallelism, and whether to optimise.

    Returns:
        The graph that is run, and its tasks.

    Raises:
        GraphError: The job cannot run as it is written.
    """
    validate(graph, config.max_parallelism)
    if config.optimise:
        graph = optimise(graph, config.parallelism)
    return graph, plan(graph, config.parallelism, config.max_parallelism)
