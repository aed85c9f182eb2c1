"""The memory sink shows rows of committed checkpoints only, and survives restarts inside the process."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from lakeward.connectors.memory import MemorySink
from lakeward.testing import SinkFeature, SinkHarness, SinkPolicy, SinkSuite
from lakeward.testing.sink_suite import SinkRun, check_rows


class MemoryHarness(SinkHarness):
    """One memory sink; a restarted job finds the same one, with other options perhaps."""

    features = frozenset({SinkFeature.ROLLBACK, SinkFeature.REWIND_APPEND, SinkFeature.EXISTING_APPEND})

    def __init__(self) -> None:
        self.first = MemorySink()

    def sink(self, policy: SinkPolicy) -> MemorySink:
        return self.first.with_options(on_rewind=policy.on_rewind, on_existing=policy.on_existing)  # type: ignore[arg-type]

    def visible_rows(self) -> Sequence[tuple[int, str]]:
        return [(row["id"], row["name"]) for row in self.first.table().to_pylist()]


class TestMemorySink(SinkSuite):
    # Its committables are the rows themselves, so that writers may be in other processes: they are not small.
    test_committables_are_small_versioned_json = None

    def make_harness(self) -> MemoryHarness:
        return MemoryHarness()


def test_rows_come_in_the_order_of_their_commits() -> None:
    harness = MemoryHarness()
    run = SinkRun(harness)
    run.advance(1, [5])
    run.advance(2, [3])
    assert harness.first.table()["id"].to_pylist() == [5, 3]


def test_a_cleared_sink_starts_anew() -> None:
    harness = MemoryHarness()
    SinkRun(harness).advance(1, range(3))
    harness.first.clear()
    SinkRun(harness).advance(1, range(2))
    check_rows(harness, range(2))


def test_an_empty_result_still_has_its_schema() -> None:
    harness = MemoryHarness()
    SinkRun(harness).advance(1)
    assert harness.first.table().schema == pa.schema({"id": pa.int64(), "name": pa.string()})


def test_a_slice_is_carried_without_the_rows_around_it() -> None:
    harness = MemoryHarness()
    run = SinkRun(harness)
    batch = pa.record_batch({"id": list(range(10_000)), "name": ["x" * 50] * 10_000})
    run.writers[0].write(batch.slice(5_000, 3))
    (committable,) = run.writers[0].prepare_commit(1)  # type: ignore[arg-type]
    assert len(str(committable["arrow"])) < 2_000
