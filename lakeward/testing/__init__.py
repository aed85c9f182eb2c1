"""The public test kit: everything needed to test jobs, operators and connectors; see docs/testing.md.

Names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lakeward.engine.core.clock import ManualClock
    from lakeward.testing.brokers import Broker, start_broker
    from lakeward.testing.collect import CollectSink, Commit
    from lakeward.testing.crash_points import CrashPoint, assert_survives_crashes
    from lakeward.testing.harness import HarnessConfig, HarnessSnapshot, OperatorHarness
    from lakeward.testing.job_harness import JobHarness, JobRun
    from lakeward.testing.lake import LocalLake
    from lakeward.testing.simulated_job import Simulated, simulate
    from lakeward.testing.simulation.runner import SimulationViolation
    from lakeward.testing.sink_suite import FaultPoint, SinkFeature, SinkHarness, SinkPolicy, SinkSuite
    from lakeward.testing.source_suite import SourceSuite
    from lakeward.testing.sources import ABORT, BARRIER, EOF, FAIL, PAUSE, Item, ScriptedSource, Watermark
    from lakeward.testing.state_suite import KeyValueStoreSuite
    from lakeward.testing.store_suite import CheckpointStoreSuite

_HOMES = {
    "engine.core.clock": ("ManualClock",),
    "testing.brokers": ("Broker", "start_broker"),
    "testing.collect": ("CollectSink", "Commit"),
    "testing.crash_points": ("CrashPoint", "assert_survives_crashes"),
    "testing.harness": ("HarnessConfig", "HarnessSnapshot", "OperatorHarness"),
    "testing.job_harness": ("JobHarness", "JobRun"),
    "testing.lake": ("LocalLake",),
    "testing.simulated_job": ("Simulated", "simulate"),
    "testing.simulation.runner": ("SimulationViolation",),
    "testing.sink_suite": ("FaultPoint", "SinkFeature", "SinkHarness", "SinkPolicy", "SinkSuite"),
    "testing.source_suite": ("SourceSuite",),
    "testing.sources": ("ABORT", "BARRIER", "EOF", "FAIL", "PAUSE", "Item", "ScriptedSource", "Watermark"),
    "testing.state_suite": ("KeyValueStoreSuite",),
    "testing.store_suite": ("CheckpointStoreSuite",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ABORT",
    "BARRIER",
    "EOF",
    "FAIL",
    "PAUSE",
    "Broker",
    "CheckpointStoreSuite",
    "CollectSink",
    "Commit",
    "CrashPoint",
    "FaultPoint",
    "HarnessConfig",
    "HarnessSnapshot",
    "Item",
    "JobHarness",
    "JobRun",
    "KeyValueStoreSuite",
    "LocalLake",
    "ManualClock",
    "OperatorHarness",
    "ScriptedSource",
    "Simulated",
    "SimulationViolation",
    "SinkFeature",
    "SinkHarness",
    "SinkPolicy",
    "SinkSuite",
    "SourceSuite",
    "Watermark",
    "assert_survives_crashes",
    "simulate",
    "start_broker",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'lakeward.testing' has no attribute '{name}'")
    value = getattr(import_module(f"lakeward.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
