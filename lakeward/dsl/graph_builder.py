"""Collects the nodes of a job while the user writes it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from lakeward.engine.core.errors import GraphError
from lakeward.engine.core.expect import expect, expect_whole, user_location
from lakeward.engine.core.ids import OperatorId
from lakeward.engine.graph.logical import Edge, LogicalGraph, Node, Work

_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def _shown(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


class GraphBuilder:
    """The nodes so far. Uids that the user does not give are made from what the operator does and a number."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._numbers: Counter[str] = Counter()
        self._side_streams: dict[str, tuple[pa.Schema, str]] = {}

    def add(
        self, kind: str, work: Work, inputs: Sequence[Edge], schema: pa.Schema, uid: str | None, parallelism: int | None
    ) -> Node:
        """Append a node.

        Raises:
            GraphError: The uid is malformed or taken.
            ConfigError: The uid or the parallelism is of a wrong type.
        """
        location = user_location()
        if parallelism is not None:
            expect_whole(parallelism, "parallelism", least=1)
        node = Node(self._uid(kind, uid, location), work, tuple(inputs), schema, parallelism, location)
        self._nodes.append(node)
        return node

    def note_side_stream(self, name: str, schema: pa.Schema) -> None:
        """A side stream that functions send rows to is read: its name stands for rows of one type in the whole job.

        Raises:
            GraphError: It was read as rows of another type; names both places.
        """
        location = user_location()
        known, place = self._side_streams.setdefault(name, (schema, location))
        if not known.equals(schema):
            raise GraphError(
                f"the side stream '{name}' is read as rows of {_shown(schema)}, and at {place} of {_shown(known)}",
                hint="an OutputTag of a name has rows of one type in a job: use one tag, or give one another name",
                location=location,
            )

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
