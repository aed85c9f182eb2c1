"""A modelled cluster with the real control side: its cost grows with its workers, not with their square."""

from __future__ import annotations

import pytest

from lakeward.testing.simulation.cluster import ClusterFigures, ClusterModel, simulate_cluster


def run(workers: int) -> ClusterFigures:
    return simulate_cluster(ClusterModel(workers, state_mb=1000, cpu_scale=0), checkpoints=2)


@pytest.fixture(scope="module")
def small() -> ClusterFigures:
    return run(20)


@pytest.fixture(scope="module")
def large() -> ClusterFigures:
    return run(200)


def test_two_hundred_workers_take_checkpoints_and_come_back_when_a_host_is_lost(large: ClusterFigures) -> None:
    assert len(large.checkpoint_ms) == 3
    assert large.recovery["noticed"] < 5000


def test_what_a_restart_sends_grows_with_the_workers_alone(small: ClusterFigures, large: ClusterFigures) -> None:
    """But for the addresses of all workers, of which each gets a list."""
    assert large.start_bytes - 25 * 200**2 < 11 * small.start_bytes
    assert large.manifest_bytes < 11 * small.manifest_bytes


def test_what_a_checkpoint_sends_grows_with_the_workers_alone(small: ClusterFigures, large: ClusterFigures) -> None:
    assert max(large.control_bytes) < 11 * max(small.control_bytes)


def test_a_checkpoint_of_two_hundred_workers_is_acknowledged_as_soon_as_one_of_twenty(
    small: ClusterFigures, large: ClusterFigures
) -> None:
    assert max(large.slowest_ack_ms) < 1.2 * max(small.slowest_ack_ms)


def test_the_same_seed_gives_the_same_times() -> None:
    first, second = run(7), run(7)
    assert (first.checkpoint_ms, first.recovery) == (second.checkpoint_ms, second.recovery)
