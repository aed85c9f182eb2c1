"""Bugs that are put into the engine on purpose, and how they are looked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from lakeward.testing.simulation import Fault, SimulationViolation, Swarm, simulate

SEEDS_MAX = 500

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Plant:
    """A bug, and where to look for it first."""

    name: str
    patch: Patch
    swarm: Swarm = field(default_factory=Swarm)
    first: int = 0
    """The seed that finds it; others are tried when it no longer does."""


def set_method(owner: Any, name: str, method: Callable[..., Any] | property) -> Patch:
    return lambda monkeypatch: monkeypatch.setattr(owner, name, method)


def both(*patches: Patch) -> Patch:
    """A bug that does no harm but for another one."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        for one in patches:
            one(monkeypatch)

    return patch


def rates(*groups: Mapping[Fault, float], **more: float) -> dict[Fault, float]:
    return {fault: rate for group in groups for fault, rate in group.items()} | {Fault[k]: v for k, v in more.items()}


def first_violation(swarm: Swarm, first: int = 0) -> SimulationViolation | None:
    for seed in (*range(first, SEEDS_MAX), *range(first)):
        try:
            simulate(seed, swarm)
        except SimulationViolation as violation:
            return violation
    return None


def check_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator finds the bug, and nothing where it was found when the bug is gone."""
    with monkeypatch.context() as planted:
        plant.patch(planted)
        found = first_violation(plant.swarm, plant.first)
    assert found is not None, f"not found within {SEEDS_MAX} seeds"
    print(f"{plant.name}: seed {found.seed}: {found.problem.splitlines()[0]}")
    simulate(found.seed, plant.swarm)
