"""A lake table in memory: data files, and snapshots that are committed by compare-and-swap, with a summary each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lakeward.engine.core.errors import SinkError
from lakeward.testing.simulation.faults import Faults, ViolationFound
from lakeward.testing.simulation.knobs import Fault

Row = tuple[object, ...]

Change = tuple[Row, bool]
"""A row, and whether it is added or taken back."""


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
    """The table. Readers see what the changes in the files of its snapshots leave, and nothing else.

    It is read in two ways: as a multiset of rows, and, if it has a key, by the last change of each key.

    Args:
        name: For the trace.
        faults: What goes wrong.
    """

    def __init__(self, name: str, faults: Faults) -> None:
        self.name = name
        self._faults = faults
        self._files: dict[str, list[Change]] = {}
        self._history: list[TableSnapshot] = [TableSnapshot(0)]
        self.content: Counter[Row] = Counter()
        self.key: tuple[int, ...] | None = None
        self.by_key: dict[Row, Row] = {}
        self.on_commit: Callable[[SimTable, TableSnapshot], None] = lambda table, snapshot: None

    @property
    def current(self) -> TableSnapshot:
        """The newest snapshot, for checks: no fault happens here."""
        return self._history[-1]

    def marker(self, sink_id: str) -> int | None:
        """The checkpoint of a sink's newest marked snapshot, for checks."""
        return _marker(self._history, sink_id)

    def write_file(self, name: str, changes: Sequence[Change]) -> None:
        """Store a data file; nobody sees it yet."""
        self._faults.fail(Fault.TABLE_ERROR, f"{self.name}: write {name}", SinkError)
        if name in self._files:
            raise ViolationFound(f"data file {name} is written twice: names must be unique over all attempts")
        self._files[name] = list(changes)
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
        self._apply([change for name in added for change in self._files[name]])
        self._faults.note(where)
        self.on_commit(self, snapshot)
        self._faults.fail(Fault.TABLE_LOST, where, SinkError)
        self._faults.around(f"after {where}")

    def _apply(self, changes: Sequence[Change]) -> None:
        """Carry out the changes of a commit: each counts, in whatever order; by key, the last one does."""
        for row, adds in changes:
            self.content[row] += 1 if adds else -1
            if self.key is not None:
                key = tuple(row[place] for place in self.key)
                self.by_key[key] = row
                if not adds:
                    del self.by_key[key]
        missing = [row for row, times in self.content.items() if times < 0]
        if missing:
            raise ViolationFound(f"{self.name}: {missing[:3]} are taken back and are not there")
        self.content = +self.content

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
