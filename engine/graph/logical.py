"""The logical graph: frozen nodes and edges. Pure data: making it runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import pyarrow as pa

from lakeward.engine.api.expression import Comparison
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
    BROADCAST = "broadcast"
    """Every row to every subtask."""
    GLOBAL = "global"
    """All rows to the first subtask."""


@dataclass(frozen=True, slots=True)
class Edge:
    """Where a node's rows come from.

    Args:
        upstream: The node they come from.
        exchange: How they are distributed.
        keys: Key columns of a hash exchange; of a forward edge, the upsert key of the updating stream on it.
        tag: Name of a side stream; None for the main one.
        reads: Columns that somebody reads, here or later; what the others hold does not matter. None: not known.
    """

    upstream: OperatorId
    exchange: Exchange = Exchange.FORWARD
    keys: tuple[str, ...] = ()
    tag: str | None = None
    reads: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Pushdown:
    """What a source was told about the query above it.

    Args:
        columns: The columns that it reads.
        of: How many there would be.
        predicate: What holds for every row that is not thrown away; the source leaves out others that it can tell.
    """

    columns: tuple[str, ...]
    of: int
    predicate: tuple[Comparison, ...] = ()

    def __str__(self) -> str:
        columns = f"reads {', '.join(self.columns) or 'no column'} of {self.of} columns" if self.narrows else ""
        skips = f"may skip rows unless {' & '.join(map(str, self.predicate))}" if self.predicate else ""
        return ", ".join(part for part in (columns, skips) if part)

    @property
    def narrows(self) -> bool:
        """Whether not all columns are read."""
        return len(self.columns) < self.of


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A source with the event time of its rows."""

    source: Source
    watermarks: WatermarkStrategy | None = None
    pushdown: Pushdown | None = None

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
