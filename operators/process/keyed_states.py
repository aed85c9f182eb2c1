"""All states of an operator: opened together, and written together when a batch is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.core.errors import InternalError
from lakeward.operators.process.declared import Declared
from lakeward.operators.process.expiry import Expiry
from lakeward.operators.process.held_rows import HeldRows
from lakeward.operators.process.key_batch import KeyBatch
from lakeward.operators.process.lists import BoundList, ListCells
from lakeward.operators.process.maps import BoundMap, MapCells
from lakeward.operators.process.renames import in_opening_order
from lakeward.operators.process.states import (
    AggregatingState,
    ListState,
    MapState,
    ReducingState,
    State,
    ValueState,
)
from lakeward.operators.process.values import BoundAggregating, BoundReducing, BoundValue, ValueCells, bound_value
from lakeward.operators.process.vectors import BatchValue
from lakeward.operators.windows.timed import KeyTypes


class _Cells(Protocol):
    def finish(self) -> None: ...

    def discard(self) -> None: ...


class KeyedStates:
    """The keyed states that a function declares.

    Args:
        context: The operator's; tables are opened here.
        states: What was declared, by name.
        keys: Name and type of the key columns.
        batch: The keys that are being handled.
        vectorised: Whether the function uses values of all keys at once.

    Attributes:
        bound: What the function uses, by name.
    """

    def __init__(
        self,
        context: OperatorContext,
        states: Mapping[str, Declared],
        keys: KeyTypes,
        batch: KeyBatch,
        vectorised: bool = False,
    ) -> None:
        self._vectorised = vectorised
        self._context = context
        self._keys = keys
        self._batch = batch
        self._cells: list[_Cells] = []
        self._expiries: list[Expiry] = []
        self.bound: dict[str, State] = {one.name: self._bind(one) for one in in_opening_order(states)}

    def _bind(self, declared: Declared) -> State:
        state, batch = declared.state, self._batch
        if isinstance(state, ListState | MapState):
            return self._bind_rows(declared)
        cells = ValueCells(self._context, declared, self._keys, batch)
        self._add(cells, cells.expiry)
        if isinstance(state, ValueState):
            if self._vectorised:
                return BatchValue(state, cells, batch)
            return bound_value(state, cells, batch)
        held: BoundValue[Any] = bound_value(ValueState(ttl=state.ttl), cells, batch)
        if isinstance(state, ReducingState):
            return BoundReducing(state, held)
        if isinstance(state, AggregatingState):
            return BoundAggregating(state, held)
        raise InternalError(f"there is no state of class {type(state).__name__}")

    def _bind_rows(self, declared: Declared) -> State:
        rows = HeldRows(self._context, declared, self._keys, self._batch)
        state = declared.state
        if isinstance(state, MapState):
            reads_count = state.ttl is not None and state.ttl.refresh == "read"
            entries = MapCells(rows, self._batch, reads_count)
            self._add(entries, rows.expiry)
            return BoundMap(state, entries, self._batch)
        assert isinstance(state, ListState), "the other state of many rows"
        cells = ListCells(rows, self._batch)
        self._add(cells, rows.expiry)
        return BoundList(state, cells, self._batch)

    def _add(self, cells: _Cells, expiry: Expiry | None) -> None:
        self._cells.append(cells)
        if expiry is not None:
            self._expiries.append(expiry)

    def finish(self) -> None:
        """Write what the batch has changed."""
        for cells in self._cells:
            cells.finish()

    def discard(self) -> None:
        """Forget what the batch has changed."""
        for cells in self._cells:
            cells.discard()

    def expire(self, now_us: int, by_event_time: bool) -> None:
        """Remove what has expired."""
        for expiry in self._due(by_event_time):
            expiry.advance(now_us)

    def _due(self, by_event_time: bool) -> Iterable[Expiry]:
        return (one for one in self._expiries if one.by_event_time == by_event_time)
