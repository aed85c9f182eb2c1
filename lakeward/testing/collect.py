"""A sink for tests: it collects what is committed, and says with which checkpoint it came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lakeward.connectors.memory import MemorySink
from lakeward.engine.core.expect import expect


@dataclass(frozen=True, slots=True)
class Commit:
    """What one checkpoint has made visible.

    >>> import lakeward as lw
    >>> env, sink = lw.StreamExecutionEnvironment(), CollectSink()
    >>> _ = env.from_collection([{"n": 1}, {"n": 2}]).sink_to(sink, uid="numbers")
    >>> _ = env.execute("numbers")
    >>> [(commit.checkpoint, commit.rows()) for commit in sink.commits]
    [(1, [{'n': 1}, {'n': 2}])]

    Args:
        checkpoint: Its number.
        table: Its rows; empty when it brought none.
    """

    checkpoint: int
    table: pa.Table

    def rows(self) -> list[dict[str, Any]]:
        """Its rows as dicts."""
        found: list[dict[str, Any]] = self.table.to_pylist()
        return found


class CollectSink(MemorySink):
    """Collects committed rows in this process, whatever becomes of the job: a `MemorySink` that a test can question.

    Rows are here once their checkpoint is committed, and never before: what a crashed run had only written is not. The
    sink may be made outside the job's function or anew inside it: a `JobHarness` goes on with the rows there were.

    >>> import lakeward as lw
    >>> env, sink = lw.StreamExecutionEnvironment(), CollectSink()
    >>> _ = env.from_collection([{"n": 1}, {"n": 2}]).sink_to(sink, uid="numbers")
    >>> _ = env.execute()
    >>> sink.rows()
    [{'n': 1}, {'n': 2}]
    >>> [(commit.checkpoint, commit.table.num_rows) for commit in sink.commits]
    [(1, 2)]

    Args:
        on_rewind: When a job goes back behind rows that are here: "refuse", "rollback" (drop them) or "append".
        on_existing: When a job without a checkpoint finds rows of its own here: "refuse" or "append".

    Guarantees: exactly once, as long as this process lives.
    """

    def rows(self) -> list[dict[str, Any]]:
        """The committed rows as dicts, in the order of their commits; of an updating stream, with their kinds."""
        found: list[dict[str, Any]] = self.table().to_pylist()
        return found

    @property
    def commits(self) -> list[Commit]:
        """What each checkpoint has made visible, in order; also those that brought no rows."""
        schema = self.table().schema
        made = [one for log in self._store.logs.values() for one in log.commits()]
        return [Commit(checkpoint, pa.Table.from_batches(batches, schema=schema)) for checkpoint, batches in made]

    def share(self, other: CollectSink) -> None:
        """Collect into the same place as another sink, which this one stands for from now on."""
        expect(other, CollectSink, "CollectSink.share", "give another CollectSink")
        self._store = other._store
