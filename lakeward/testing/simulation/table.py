"""A lake table in memory: data files, and snapshots that are committed by compare-and-swap, with a summary each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lakeward.engine.core.errors import SinkError
from lakeward.testing.simulation.faults import Faults, ViolationFound
from lakeward.testing.simulation.knobs import Fault

Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class TableSnapshot:
    """One version of the table.

    Args:
        version: Its number; the empty table has 0.
        summary: What the committer wrote about it: `sink_id`, `checkpoint`, `job_id`; empty for rivals.
        added: Data files that it added.
    """

    version: int
    summary: Mapping[str, str] = field(default_factory=dict)
    added: tuple[str, ...] = ()


class CommitConflict(SinkError):
    """Somebody else has committed since the table was loaded."""


class SimTable:
    """The table. Readers see the rows of the files in its snapshots, and nothing else.

    Args:
        name: For the trace.
        faults: What goes wrong.
    """

    def __init__(self, name: str, faults: Faults) -> None:
        self.name = name
        self._faults = faults
        self._files: dict[str, list[Row]] = {}
        self._history: list[TableSnapshot] = [TableSnapshot(0)]
        self.content: Counter[Row] = Counter()
        self.on_commit: Callable[[SimTable, TableSnapshot], None] = lambda table, snapshot: None

    @property
    def current(self) -> TableSnapshot:
        """The newest snapshot, for checks: no fault happens here."""
        return self._history[-1]

    def marker(self, sink_id: str) -> int | None:
        """The checkpoint of a sink's newest marked snapshot, for checks."""
        return _marker(self._history, sink_id)

    def write_file(self, name: str, rows: Sequence[Row]) -> None:
        """Store a data file; nobody sees it yet."""
        self._faults.fail(Fault.TABLE_ERROR, f"{self.name}: write {name}", SinkError)
        if name in self._files:
            raise ViolationFound(f"data file {name} is written twice: names must be unique over all attempts")
        self._files[name] = list(rows)
        self._faults.around(f"after writing {name}")

    def load(self, sink_id: str) -> tuple[int, int | None]:
        """The current version, and the checkpoint of the sink's newest marked snapshot."""
        self._faults.around(f"before loading {self.name}")
        self._faults.fail(Fault.TABLE_ERROR, f"{self.name}: load", SinkError)
        return self.current.version, _marker(self._history, sink_id)

    def commit(self, base: int, summary: Mapping[str, str], added: Sequence[str]) -> None:
        """Add a snapshot on top of version `base`.

        Raises:
            CommitConflict: The table has another version by now.
            SinkError: It failed; the commit may or may not have happened.
        """
        where = f"{self.name}: commit {summary.get('checkpoint', '')} on version {base}"
        if self._faults.happens(Fault.RIVAL_COMMIT):
            self.rival_commit()
        self._faults.around(f"before {where}")
        self._faults.fail(Fault.TABLE_ERROR, where, SinkError)
        if base != self.current.version:
            raise CommitConflict(f"{self.name} is at version {self.current.version}, not at {base}")
        snapshot = TableSnapshot(base + 1, dict(summary), tuple(added))
        self._history.append(snapshot)
        for name in added:
            self.content.update(self._files[name])
        self._faults.note(where)
        self.on_commit(self, snapshot)
        self._faults.fail(Fault.TABLE_LOST, where, SinkError)
        self._faults.around(f"after {where}")

    def rival_commit(self) -> None:
        """Somebody compacts the table, and expires all snapshots but the newest and each sink's last marked one."""
        self._history.append(TableSnapshot(self.current.version + 1))
        newest_marked = {s.summary["sink_id"]: s.version for s in self._history if s.summary}
        kept = {self.current.version, *newest_marked.values()}
        self._history = [snapshot for snapshot in self._history if snapshot.version in kept]
        self._faults.note(f"{self.name}: a rival commits version {self.current.version}")


def _marker(history: Sequence[TableSnapshot], sink_id: str) -> int | None:
    for snapshot in reversed(history):
        if snapshot.summary.get("sink_id") == sink_id:
            return int(snapshot.summary["checkpoint"])
    return None
