"""The conformance suite of sources: what the engine relies on, as small checks that any source can be put through.

    class TestMySource(SourceSuite):
        def make_source(self) -> Source:
            return MySource(...)

        def expected_rows(self):
            return [{"n": 1}, {"n": 2}]

gives a test for every check; `check_source(make_source, expected_rows)` makes them all at once.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections import Counter as Multiset
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lakeward.engine.api.source import (
    CounterRegistry,
    ReaderContext,
    Source,
    SourceReader,
    Split,
    SplitBatch,
    SplitFinished,
)
from lakeward.engine.core.clock import Clock, SystemClock
from lakeward.engine.core.expect import expect
from lakeward.engine.core.ids import JobId, SplitId, SubtaskIndex
from lakeward.engine.core.json_types import JsonObject
from lakeward.testing.compare import check_rows
from lakeward.testing.suites import with_tests

Row = Mapping[str, Any]


class CountedMetric:
    """A counter whose value a test can read."""

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        """Add to it."""
        self.value += amount


class TestCounters(CounterRegistry):
    """Counters that a test can read.

    >>> counters = TestCounters()
    >>> counters.counter("bad_records").inc(2)
    >>> counters.values
    {'bad_records': 2}
    """

    __test__ = False  # not a test class, whatever its name makes pytest think

    def __init__(self) -> None:
        self._metrics: dict[str, CountedMetric] = {}

    def counter(self, name: str) -> CountedMetric:
        """The counter of this name, made at first use."""
        return self._metrics.setdefault(name, CountedMetric())

    @property
    def values(self) -> dict[str, int]:
        """Every counter's value by name."""
        return {name: metric.value for name, metric in self._metrics.items()}


def reader_context(
    *,
    subtask: int = 0,
    parallelism: int = 1,
    batch_rows: int = 1024,
    linger_ms: int = 5,
    clock: Clock | None = None,
    counters: CounterRegistry | None = None,
) -> ReaderContext:
    """A reader context for tests, with everything defaulted."""
    return ReaderContext(
        uid="source-under-test",
        job_id=JobId("test-job"),
        subtask=SubtaskIndex(subtask),
        parallelism=parallelism,
        batch_rows=batch_rows,
        linger_ms=linger_ms,
        clock=clock or SystemClock(),
        counters=counters or TestCounters(),
    )


@dataclass(frozen=True, slots=True)
class SourceCase:
    """A source to check and what it must yield.

    Args:
        make_source: Makes the same source anew.
        expected_rows: Every row of it, in any order: dicts by column name, or an Arrow table.
        batch_rows: Rows a batch; small, so that there are several positions to resume from.
        timeout_s: Longest wait for rows that ought to come.
        quiet_ms: How long an unbounded source must stay silent after its last expected row.
        poll_limit_ms: A poll that takes longer counts as blocking; one in twenty may (a busy test machine).
    """

    make_source: Callable[[], Source]
    expected_rows: Sequence[Row] | pa.Table
    batch_rows: int = 16
    timeout_s: float = 20.0
    quiet_ms: int = 60
    poll_limit_ms: int = 200

    def expected(self) -> Multiset[str]:
        """The expected rows, comparable without regard to order."""
        table = self.expected_rows
        return as_multiset(table.to_pylist() if isinstance(table, pa.Table) else table)


@dataclass(slots=True)
class SplitLog:
    """What was read of one split: its batches' rows, the position after each, and whether it ended."""

    batches: list[list[Row]] = field(default_factory=list)
    positions: list[JsonObject] = field(default_factory=list)
    finished: bool = False

    def rows(self, from_batch: int = 0) -> list[Row]:
        """All rows after the first `from_batch` batches, in order."""
        return [row for batch in self.batches[from_batch:] for row in batch]


@dataclass(slots=True)
class ReadLog:
    """What reading gave, by split, and how long each poll took."""

    splits: dict[SplitId, SplitLog] = field(default_factory=dict)
    poll_ms: list[float] = field(default_factory=list)
    row_count: int = 0

    def rows(self) -> list[Row]:
        """All rows of all splits."""
        return [row for log in self.splits.values() for row in log.rows()]

    @property
    def finished(self) -> bool:
        """Whether every split has ended."""
        return all(log.finished for log in self.splits.values())


def as_multiset(rows: Iterable[Row]) -> Multiset[str]:
    """Rows as a multiset, comparable whatever their types; column order does not count."""
    return Multiset(repr(sorted(row.items())) for row in rows)


def read_splits(
    source: Source,
    assignments: Sequence[tuple[Split, JsonObject | None]],
    *,
    rows: int | None = None,
    readers: int = 1,
    batch_rows: int = 1024,
    timeout_s: float = 20.0,
    quiet_ms: int = 0,
) -> ReadLog:
    """Read splits to their end, or, if the source is unbounded, until `rows` rows came and `quiet_ms` passed.

    Args:
        source: What to read.
        assignments: Splits and the position to begin each at (None: its start), dealt out to the readers in turn.
        rows: How many rows to wait for; None: until every split has finished.
        readers: How many readers to spread the splits over.
        batch_rows: Rows a batch.
        timeout_s: Longest wait for all of it.
        quiet_ms: How long to listen for surplus rows afterwards.

    Returns:
        Everything that was read.

    Raises:
        AssertionError: It took longer than `timeout_s`, or a batch has another schema than the source.
    """
    opened = [
        source.open_reader(reader_context(subtask=i, parallelism=readers, batch_rows=batch_rows))
        for i in range(readers)
    ]
    log = ReadLog({split.id: SplitLog() for split, _ in assignments})
    try:
        for i, (split, position) in enumerate(assignments):
            opened[i % readers].add_split(split, position)
        _drain(source, opened, log, rows=rows, deadline=time.monotonic() + timeout_s)
        _listen(source, opened, log, quiet_ms)
    finally:
        for reader in opened:
            reader.close()
    return log


def _drain(source: Source, readers: Sequence[SourceReader], log: ReadLog, *, rows: int | None, deadline: float) -> None:
    while not (log.finished if rows is None or source.bounded else log.row_count >= rows):
        if not _poll_each(source, readers, log):
            SystemClock().sleep_ms(1)
        assert time.monotonic() < deadline, (
            f"{source.description}: {log.row_count} rows came"
            + (f", {rows} were expected" if rows is not None else "")
            + f"; splits not finished: {[s for s, one in log.splits.items() if not one.finished]}"
        )


def _listen(source: Source, readers: Sequence[SourceReader], log: ReadLog, quiet_ms: int) -> None:
    end = time.monotonic() + quiet_ms / 1000
    while time.monotonic() < end:
        if not _poll_each(source, readers, log):
            SystemClock().sleep_ms(1)


def _poll_each(source: Source, readers: Sequence[SourceReader], log: ReadLog) -> bool:
    came = False
    for reader in readers:
        before = time.monotonic()
        event = reader.poll()
        log.poll_ms.append((time.monotonic() - before) * 1000)
        if event is not None:
            _record(source, event, log)
            came = True
    return came


def _record(source: Source, event: SplitBatch | SplitFinished, log: ReadLog) -> None:
    split = log.splits[event.split]
    assert not split.finished, f"{event.split}: something came after SplitFinished: {event}"
    if isinstance(event, SplitFinished):
        split.finished = True
        return
    assert event.batch.schema.equals(source.schema), f"schema {event.batch.schema} differs from {source.schema}"
    if event.origin is not None:
        numbers = [event.origin.number(row) for row in range(event.batch.num_rows)]
        assert numbers == sorted(set(numbers)), f"{event.split}: rows of a batch have the origins {numbers}"
    split.batches.append(event.batch.to_pylist())
    split.positions.append(event.position)
    log.row_count += event.batch.num_rows


def check_splits_are_stable(case: SourceCase) -> None:
    """The same input gives the same splits in the same order, known or not; ids are unique; starts are JSON."""
    source = case.make_source()
    first = source.list_splits(None)
    ids = [split.id for split in first]
    assert len(set(ids)) == len(ids), f"split ids repeat: {ids}"
    known = {split.id: split.start for split in first}
    assert [split.id for split in source.list_splits(known)] == ids, "splits change order once they are known"
    assert [split.id for split in case.make_source().list_splits(None)] == ids, "a new source lists other splits"
    for split in first:
        assert json.loads(json.dumps(split.start)) == split.start, f"{split.id}: start is not plain JSON"


def check_every_row_is_read_once(case: SourceCase) -> None:
    """All rows come, none twice, all in the source's schema; a bounded source ends, an unbounded one does not."""
    source = case.make_source()
    log = _read_all(case, source)
    _assert_same(as_multiset(log.rows()), case.expected(), "rows read")
    if not source.bounded:
        assert not any(one.finished for one in log.splits.values()), "a split of an unbounded source has ended"


def check_order_in_a_split_is_kept(case: SourceCase) -> None:
    """A second read of the same splits gives the same rows in the same order: replay is deterministic."""
    source = case.make_source()
    splits = source.list_splits(None)
    first, second = _read_all(case, source, splits), _read_all(case, case.make_source(), splits)
    for split, log in first.splits.items():
        assert second.splits[split].rows() == log.rows(), f"{split}: another order at the second read"


def check_resume_from_every_position(case: SourceCase) -> None:
    """A new reader opened at any position that was handed out yields exactly the rest of that split."""
    source = case.make_source()
    splits = {split.id: split for split in source.list_splits(None)}
    log = _read_all(case, source)
    for split_id, one in log.splits.items():
        for done in _spread(len(one.positions)):
            position = json.loads(json.dumps(one.positions[done - 1]))
            _check_rest(case, splits[split_id], position, one.rows(from_batch=done))


def check_poll_does_not_block(case: SourceCase) -> None:
    """Polls return at once, with rows or without."""
    source = case.make_source()
    log = _read_all(case, source)
    slow = [round(ms) for ms in log.poll_ms if ms > case.poll_limit_ms]
    assert len(slow) <= len(log.poll_ms) / 20 + 1, f"{len(slow)} of {len(log.poll_ms)} polls blocked, for ms: {slow}"


def check_a_closed_reader_can_be_replaced(case: SourceCase) -> None:
    """Stop in the middle of every split, close, go on in another reader from the positions: every row once."""
    source = case.make_source()
    splits = source.list_splits(None)
    half = max(1, sum(case.expected().values()) // 2)
    before = ReadLog({split.id: SplitLog() for split in splits})
    reader = source.open_reader(reader_context(batch_rows=case.batch_rows))
    for split in splits:
        reader.add_split(split, None)
    deadline = time.monotonic() + case.timeout_s
    while before.row_count < half and not before.finished:
        _poll_each(source, [reader], before)
        assert time.monotonic() < deadline, f"{before.row_count} of {half} rows came before the restart"
    reader.close()
    rest = [
        (split, one.positions[-1] if one.positions else None)
        for split in splits
        if not (one := before.splits[split.id]).finished
    ]
    remaining = sum(case.expected().values()) - before.row_count
    after = read_splits(case.make_source(), rest, rows=remaining, timeout_s=case.timeout_s, quiet_ms=case.quiet_ms)
    _assert_same(as_multiset(before.rows() + after.rows()), case.expected(), "rows read before and after a restart")


def check_two_readers_share_the_splits(case: SourceCase) -> None:
    """Splits dealt out to two readers of one source yield every row once."""
    source = case.make_source()
    log = _read_all(case, source, readers=2)
    _assert_same(as_multiset(log.rows()), case.expected(), "rows read by two readers")


SOURCE_CHECKS: tuple[Callable[[SourceCase], None], ...] = (
    check_splits_are_stable,
    check_every_row_is_read_once,
    check_order_in_a_split_is_kept,
    check_resume_from_every_position,
    check_poll_does_not_block,
    check_a_closed_reader_can_be_replaced,
    check_two_readers_share_the_splits,
)
"""Every check, for `pytest.mark.parametrize`."""


@with_tests(SOURCE_CHECKS, lambda suite, check: check(suite.case()))
class SourceSuite(ABC):
    """The tests that a source has to pass, for a test class of your own to inherit.

    >>> from lakeward import CollectionSource
    >>> class TestNumbers(SourceSuite):
    ...     def make_source(self):
    ...         return CollectionSource(self.expected_rows())
    ...     def expected_rows(self):
    ...         return [{"n": n} for n in range(40)]
    >>> TestNumbers().test_resume_from_every_position()
    """

    batch_rows = 16
    """Rows a batch; choose it so that a split has several batches."""

    @abstractmethod
    def make_source(self) -> Source:
        """The same source, made anew at every call."""

    @abstractmethod
    def expected_rows(self) -> Sequence[Row] | pa.Table:
        """Every row of it in any order: dicts by column name, or an Arrow table."""

    def case(self) -> SourceCase:
        """What the checks are given; for other limits of time than usual."""
        expect(self.make_source(), Source, "what make_source returned", "return the source, made anew")
        rows = self.expected_rows()
        check_rows(rows, "what expected_rows returned")
        return SourceCase(self.make_source, rows, self.batch_rows)


def check_source(
    make_source: Callable[[], Source],
    expected_rows: Sequence[Row] | pa.Table,
    *,
    batch_rows: int = 16,
    timeout_s: float = 20.0,
    quiet_ms: int = 60,
    poll_limit_ms: int = 200,
) -> None:
    """Put a source through the whole suite.

    >>> from lakeward import CollectionSource
    >>> rows = [{"n": n} for n in range(40)]
    >>> check_source(lambda: CollectionSource(rows), rows)

    Args:
        make_source: Makes the same source anew, at every call.
        expected_rows: Every row of it in any order: dicts by column name, or an Arrow table.
        batch_rows: Rows a batch; choose it so that a split has several batches.
        timeout_s: Longest wait of one check, in seconds.
        quiet_ms: How long an unbounded source must stay silent after its last row.
        poll_limit_ms: A poll that takes longer counts as blocking.

    Raises:
        AssertionError: The source breaks the contract; the text says how.
    """
    case = SourceCase(make_source, expected_rows, batch_rows, timeout_s, quiet_ms, poll_limit_ms)
    for check in SOURCE_CHECKS:
        check(case)


def _read_all(case: SourceCase, source: Source, splits: Sequence[Split] | None = None, *, readers: int = 1) -> ReadLog:
    assignments = [(split, None) for split in (source.list_splits(None) if splits is None else splits)]
    return read_splits(
        source,
        assignments,
        rows=sum(case.expected().values()),
        readers=readers,
        batch_rows=case.batch_rows,
        timeout_s=case.timeout_s,
        quiet_ms=0 if source.bounded else case.quiet_ms,
    )


def _check_rest(case: SourceCase, split: Split, position: JsonObject, rest: list[Row]) -> None:
    source = case.make_source()
    log = read_splits(
        source,
        [(split, position)],
        rows=len(rest),
        batch_rows=case.batch_rows,
        timeout_s=case.timeout_s,
        quiet_ms=0 if source.bounded else case.quiet_ms,
    )
    assert log.rows() == rest, f"{split.id} resumed at {position}: {len(log.rows())} rows came, {len(rest)} are left"


def _spread(count: int, limit: int = 8) -> list[int]:
    """Up to `limit` of the numbers 1..count, the first and the last among them."""
    if count <= limit:
        return list(range(1, count + 1))
    return sorted({1 + round(i * (count - 1) / (limit - 1)) for i in range(limit)})


def _assert_same(got: Multiset[str], expected: Multiset[str], what: str) -> None:
    missing, surplus = expected - got, got - expected
    assert missing.total() + surplus.total() == 0, (
        f"{what}: {missing.total()} missing, {surplus.total()} too many or different; "
        f"first missing {next(iter(missing), None)}, first surplus {next(iter(surplus), None)}"
    )
