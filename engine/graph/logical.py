"""The logical graph: frozen nodes and edges. Pure data: making it runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import pyarrow as pa

from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.api.sink import Sink
from lakeward.engine.api.source import Source
from lakeward.engine.api.time import WatermarkStrategy
from lakeward.engine.core.ids import OperatorId


class Exchange(Enum):
    """How rows get from the subtasks of one operator to those of the next."""

    FORWARD = "forward"
    """To the subtask of the same number."""
    HASH = "hash"
    """To the subtask that owns the row's key group."""
    REBALANCE = "rebalance"
    """To all subtasks in turn, batch by batch."""


@dataclass(frozen=True, slots=True)
class Edge:
    """Where a node's rows come from.

    Args:
        upstream: The node they come from.
        exchange: How they are distributed.
        keys: Key columns of a hash exchange.
        tag: Name of a side stream; None for the main one.
    """

    upstream: OperatorId
    exchange: Exchange = Exchange.FORWARD
    keys: tuple[str, ...] = ()
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A source with the event time of its rows."""

    source: Source
    watermarks: WatermarkStrategy | None = None

    @property
    def description(self) -> str:
        """What it reads."""
        return self.source.description


Work = SourceSpec | OperatorFactory | Sink


@dataclass(frozen=True, slots=True)
class Node:
    """One step of a job.

    Args:
        uid: Its name in checkpoints.
        work: What it does.
        inputs: Where its rows come from; none for a source.
        schema: Schema of the rows it sends on (for a sink: of those it takes).
        parallelism: Subtasks; None: the job's default.
        location: `file:line` of the user's code that made it.
    """

    uid: OperatorId
    work: Work
    inputs: tuple[Edge, ...]
    schema: pa.Schema
    parallelism: int | None = None
    location: str = ""

    @property
    def description(self) -> str:
        """What it does, in a few words."""
        return self.work.description


@dataclass(frozen=True, slots=True)
class LogicalGraph:
    """A job: nodes in an order in which every node comes after those it reads from."""

    nodes: tuple[Node, ...]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def node(self, uid: OperatorId) -> Node:
        """The node of this uid.

        Raises:
            KeyError: There is none.
        """
        for node in self.nodes:
            if node.uid == uid:
                return node
        raise KeyError(uid)
