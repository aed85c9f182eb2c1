"""The contract of a single aggregate function."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyarrow as pa

from lakeward.engine.api.state import ColumnSpec
from lakeward.operators.aggregates.bound import BoundAggregate
from lakeward.operators.aggregates.lanes import Fetch, Given, Lane
from lakeward.operators.windows.columns import Mask, Rows, to_arrow


class AggregateFunction(ABC):
    """How one aggregate is kept. All its state is in the columns that it is handed.

    Args:
        bound: The aggregate.
    """

    def __init__(self, bound: BoundAggregate) -> None:
        self.bound = bound
        self.lane = Lane(bound.column, bound.condition)

    @property
    @abstractmethod
    def fields(self) -> tuple[ColumnSpec, ...]:
        """State columns of its own, named after the output column."""

    @property
    def adds(self) -> bool:
        """Whether it looks at values; False: its lane's count is all it needs."""
        return True

    @property
    def additive(self) -> bool:
        """Whether its state is whole numbers that are added up, so that a part can be subtracted again, exactly."""
        return False

    @abstractmethod
    def add(self, fetch: Fetch, given: Given) -> None:
        """Add values, none of them null."""

    @abstractmethod
    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Add partial results: row i of `part` to row `ids[i]` of `into`."""

    @abstractmethod
    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """The results; `counts` are the values seen, `valid` marks the rows that saw any (None: all did)."""

    def opened(self, empty: bool) -> None:  # noqa: B027 - a hook
        """Called once before anything else: whether the state starts empty, or was restored."""

    def result(self, fetch: Fetch) -> pa.Array:
        """The output column, one row a row of the state columns."""
        counts = self.lane.counts(fetch)
        valid: Mask = counts > 0
        return self.values(fetch, counts, None if valid.all() else valid)


class Count(AggregateFunction):
    """`count()` and `count(x)`: how many rows came through the lane."""

    fields = ()
    adds = False
    additive = True

    def add(self, fetch: Fetch, given: Given) -> None:
        """Nothing to add: the lane counts."""

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Nothing to add: the lane counts."""

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """The counts."""
        return pa.array(counts)


class OneColumn(AggregateFunction):
    """Base of aggregates with a single state column."""

    part = ""

    @property
    def state(self) -> str:
        """Name of the state column."""
        return f"{self.bound.name}#{self.part}"

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """The state column itself."""
        return to_arrow(fetch(self.state), self.bound.output_type, valid)
