"""Keyed state tables: a pane for each namespace, opened when it is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import pyarrow as pa

from lakeward.engine.api.state import StateTable, StateUsage, TableSpec
from lakeward.engine.state.deferred import Piece
from lakeward.engine.state.keys import KeyBatch
from lakeward.engine.state.pane import PaneContext, SlotPane


class SlotTable(StateTable):
    """The `StateTable` of the engine: slots in memory over rows in a key-value store.

    Made by `lakeward.engine.state.backend.StateBackend.table`.

    Args:
        context: What the table's panes share.
    """

    def __init__(self, context: PaneContext) -> None:
        self._context = context
        self._panes: dict[int, SlotPane] = {}
        self._stored = context.rows.counts()
        self._dropped: set[int] = set()

    @property
    def spec(self) -> TableSpec:
        """Its description."""
        return self._context.spec

    def keys(self, arrays: Sequence[pa.Array], distinct: bool = False) -> KeyBatch:
        """Hash and encode a batch's key columns, all different if `distinct`.

        Raises:
            SchemaError: Number or types of the columns are not the key's.
        """
        self._context.budget.advance(self)
        keys = self._context.codec.encode(arrays)
        keys.distinct = distinct
        return keys

    def pane(self, namespace: int = 0) -> SlotPane:
        """The pane of a namespace, made when missing."""
        pane = self._panes.get(namespace)
        if pane is None:
            pane = SlotPane(self._context, namespace, self._stored.pop(namespace, 0))
            self._panes[namespace] = pane
        return pane

    def namespaces(self) -> list[int]:
        """Namespaces that hold at least one key, sorted."""
        return sorted([*self._stored, *(number for number, pane in self._panes.items() if len(pane))])

    def drop(self, namespace: int) -> None:
        """Forget a pane; what never reached the store costs it nothing."""
        in_store = self._stored.pop(namespace, None) is not None
        pane = self._panes.pop(namespace, None)
        if pane is not None:
            self._context.budget.forget(pane)
            in_store = in_store or pane.in_store
        if in_store:
            self._context.rows.drop(namespace)
            self._dropped.add(namespace)

    def usage(self) -> StateUsage:
        """How much it holds; keys that are in the store alone are taken to be like the others."""
        entries = sum(len(pane) for pane in self._panes.values())
        in_memory = sum(pane.size_bytes for pane in self._panes.values())
        bytes_per_key = max((pane.bytes_per_key for pane in self._panes.values()), default=0.0)
        cold = sum(pane.cold_keys for pane in self._panes.values()) + sum(self._stored.values())
        return StateUsage(entries + sum(self._stored.values()), in_memory + int(cold * bytes_per_key))

    def freeze(self) -> Iterator[Piece]:
        """All changes, and how many keys each pane has, as they are now; they count as written.

        Returns:
            What to write to the store; made of copies, so that the table may be used before it is asked for.
        """
        counts = dict.fromkeys(self._dropped, 0)
        pieces = []
        for namespace, pane in self._panes.items():
            pieces.append(pane.freeze())
            count = pane.count_change()
            if count is not None:
                counts[namespace] = count
        self._dropped.clear()
        return chain(*pieces, [self._context.rows.counts_piece(counts)] if counts else [])

    def shrink(self) -> None:
        """Give back memory where that was asked for; nobody holds slot numbers now."""
        for pane in self._panes.values():
            pane.shrink_if_wanted()
