"""Seeded simulation: random jobs over the real engine, faults at every port, exactly-once checked at every commit.

After FoundationDB's simulation (Zhou et al., 2021) and TigerBeetle's VOPR: one thread, virtual time, swarm testing, a
phase with faults and one without. `docs/simulation.md` says what is simulated and what is checked.
"""

from lakeward.testing.simulation.knobs import Fault, Knobs, Swarm
from lakeward.testing.simulation.runner import SimulationReport, SimulationViolation, simulate

__all__ = ["Fault", "Knobs", "SimulationReport", "SimulationViolation", "Swarm", "simulate"]
