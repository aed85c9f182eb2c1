"""The memory sink shows rows of committed checkpoints only, and survives restarts inside the process."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pytest

from lakeward.connectors.memory import MemorySink
from lakeward.engine.core.errors import SinkStateError, StaleWriterError
from lakeward.testing import SinkFeature, SinkHarness, SinkPolicy, SinkSuite
from lakeward.testing.sink_suite import RunSpec, SinkRun, check_rows


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


def test_a_restart_ends_the_right_of_the_runs_before_it() -> None:
    harness = MemoryHarness()
    zombie = SinkRun(harness)
    first = zombie.advance(1, range(3))
    second = zombie.take(2, range(3, 6))
    SinkRun(harness, RunSpec(restored=first, commit_done=True))
    with pytest.raises(StaleWriterError):
        zombie.commit(second)
    check_rows(harness, range(3))


def test_a_pending_commit_is_made_only_over_what_its_checkpoint_was_made_for() -> None:
    """Whoever committed in between: an older Lakeward ended nobody's right."""
    harness = MemoryHarness()
    run = SinkRun(harness)
    run.advance(1, range(3))
    second, third = run.take(2, range(3, 6)), run.take(3, range(3, 7))
    run.commit(second)
    with pytest.raises(SinkStateError, match="was made over checkpoint 1"):
        SinkRun(harness, RunSpec(restored=third))
    check_rows(harness, range(6))
    SinkRun(harness, RunSpec(restored=third, policy=SinkPolicy(on_rewind="rollback")))
    check_rows(harness, range(7))
