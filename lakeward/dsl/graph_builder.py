"""Collects the nodes of a job while the user writes it."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from lakeward.engine.core.errors import GraphError
from lakeward.engine.core.ids import OperatorId
from lakeward.engine.graph.logical import Edge, LogicalGraph, Node, Work

_ROOTS = tuple(
    str((Path(__file__).resolve().parent.parent / name).resolve()) for name in ("", "engine", "operators", "connectors")
)
_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def user_location() -> str:
    """`file:line` of the nearest caller outside Lakeward."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_ROOTS):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def expect(value: object, kind: type | tuple[type, ...], what: str, hint: str) -> None:
    """Refuse an argument of a wrong type with an error that says how to write it.

    >>> expect("10s", str, "size", "write a duration")

    Raises:
        GraphError: It is not of the kind.
    """
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        short = repr(value) if len(repr(value)) <= 60 else type(value).__name__
        raise GraphError(f"{what} cannot be {short}", hint=hint, location=user_location())


class GraphBuilder:
    """The nodes so far. Uids that the user does not give are made from what the operator does and a number."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._numbers: Counter[str] = Counter()

    def add(
        self, kind: str, work: Work, inputs: Sequence[Edge], schema: pa.Schema, uid: str | None, parallelism: int | None
    ) -> Node:
        """Append a node.

        Raises:
            GraphError: The uid is malformed or taken.
        """
        location = user_location()
        if parallelism is not None:
            expect(parallelism, int, "parallelism", "give a whole number of subtasks")
        node = Node(self._uid(kind, uid, location), work, tuple(inputs), schema, parallelism, location)
        self._nodes.append(node)
        return node

    def remove(self, uid: OperatorId) -> None:
        """Take a node back that nothing reads from."""
        self._nodes = [node for node in self._nodes if node.uid != uid]

    def graph(self, sinks_of: Sequence[OperatorId] | None = None) -> LogicalGraph:
        """All nodes, or only those that the given nodes need."""
        if sinks_of is None:
            return LogicalGraph(tuple(self._nodes))
        needed = set(sinks_of)
        for node in reversed(self._nodes):
            if node.uid in needed:
                needed.update(edge.upstream for edge in node.inputs)
        return LogicalGraph(tuple(node for node in self._nodes if node.uid in needed))

    def _uid(self, kind: str, uid: str | None, location: str) -> OperatorId:
        if uid is None:
            taken_uids = {node.uid for node in self._nodes}
            self._numbers[kind] += 1
            while f"{kind}-{self._numbers[kind]}" in taken_uids:
                self._numbers[kind] += 1
            return OperatorId(f"{kind}-{self._numbers[kind]}")
        expect(uid, str, "a uid", 'give a name: uid="orders"')
        if not _UID.fullmatch(uid):
            raise GraphError(
                f"'{uid}' cannot be a uid",
                hint="use letters, digits, '.', '_' and '-', at most 100, starting with a letter or digit",
                location=location,
            )
        taken = next((node for node in self._nodes if node.uid == uid), None)
        if taken is not None:
            raise GraphError(
                f"the uid '{uid}' is taken by the operator at {taken.location}",
                hint="a uid names an operator's state: give each operator its own",
                location=location,
            )
        return OperatorId(uid)
