"""Bugs in what worker processes do or say, and in savepoints, put in on purpose: the simulator has to find each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from planting import Plant, check_found, set_method

from lakeward.engine.checkpoint import savepoint
from lakeward.engine.checkpoint.inventory import take_inventory
from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.checkpoint.protocol import CheckpointState
from lakeward.engine.checkpoint.savepoint import Owner
from lakeward.engine.checkpoint.store import CheckpointStore
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.processes import remote
from lakeward.engine.processes.exchange import RemoteReader
from lakeward.engine.processes.frames import Frame, FrameReader, Kind
from lakeward.engine.processes.remote import RemoteWorker, StartOrder, WorkerProcesses
from lakeward.engine.processes.shares import shares as real_shares
from lakeward.engine.runtime import savepoints
from lakeward.engine.runtime.metrics import Metrics
from lakeward.testing.simulation import Fault, Swarm

STOPS = {Fault.STOP: 0.01, Fault.CRASH_BETWEEN: 0.01}
KEYED = ("tumbling", "reduce")
IN_WORKERS = Swarm(rates={}, processes=1.0, parallelism=(2, 3), rows=(20, 60), interval_ms=20)
MOVED = Swarm(rates={Fault.MOVE: 0.01}, rows=(20, 60), interval_ms=20)
RESTARTED = replace(IN_WORKERS, rates=STOPS)

real_decode = RemoteReader._decode
real_heard = RemoteWorker.heard
real_own_splits = WorkerProcesses._own_splits
real_begin = WorkerProcesses.begin


def urgent(kind: Kind) -> Any:
    """Messages of one kind are put before what waits."""

    def on_frame(self: RemoteReader, frame: Frame) -> None:
        message = real_decode(self, frame)
        if message is not None and frame.kind is kind:
            self._queue.appendleft(message)
        elif message is not None:
            self._queue.append(message)

    return on_frame


def heard_without(kind: str) -> Any:
    """The coordinator does not listen to one kind of message."""

    def heard(self: RemoteWorker, message: Mapping[str, Any], metrics: Metrics) -> None:
        if message["type"] != kind:
            real_heard(self, message, metrics)

    return heard


def shares_of_the_first_taker(manifest: CheckpointManifest, plan: Any, workers: int) -> list[CheckpointManifest]:
    """Keyed state that key groups of two workers lie in goes to one of them only."""
    seen: set[tuple[str, int]] = set()
    dealt = []
    for one in real_shares(manifest, plan, workers):
        operators = []
        for snapshot in one.operators:
            name = (snapshot.uid, snapshot.subtask)
            operators.append(replace(snapshot, keyed=None) if name in seen else snapshot)
            if snapshot.keyed is not None:
                seen.add(name)
        dealt.append(replace(one, operators=tuple(operators)))
    return dealt


def shares_without_rows_in_flight(manifest: CheckpointManifest, plan: Any, workers: int) -> list[CheckpointManifest]:
    """Rows that were on their way between workers stay behind."""
    bare = tuple(replace(one, in_flight=()) for one in manifest.operators)
    return real_shares(replace(manifest, operators=bare), plan, workers)


def splits_from_the_start(self: WorkerProcesses, worker: RemoteWorker, splits: Any) -> JsonObject:
    """Workers are told what to read, not from where on."""
    fresh = {uid: [[replace(one, position=None) for one in own] for own in dealt] for uid, dealt in splits.items()}
    return real_own_splits(self, worker, fresh)


def start_with_no_state(self: WorkerProcesses, order: StartOrder) -> None:
    """Workers begin anew, while sources go on."""
    real_begin(self, replace(order, manifest=None))


def save_the_oldest(source: CheckpointStore, target: CheckpointStore, owner: Owner) -> CheckpointManifest:
    """Saves the oldest checkpoint that there is."""
    oldest = min(view.checkpoint for view in take_inventory(source) if view.state is CheckpointState.READY)
    return real_write(source, target, owner, oldest)


def copy_and_count_from_one(self: savepoint.Beginning, *arguments: Any) -> Any:
    """The first checkpoint in the new directory gets the number 1."""
    return replace(real_copy(self, *arguments), next_checkpoint=1)


real_copy = savepoint.Beginning.copy
real_write = savepoints.write_savepoint


PLANTS = [
    Plant(
        "a barrier overtakes rows of another worker",
        set_method(RemoteReader, "on_frame", urgent(Kind.BARRIER)),
        IN_WORKERS,
    ),
    Plant(
        "a watermark overtakes rows of another worker",
        set_method(RemoteReader, "on_frame", urgent(Kind.WATERMARK)),
        replace(IN_WORKERS, programs=KEYED),
        first=1,
    ),
    Plant(
        "frames that come twice are taken twice",
        set_method(FrameReader, "_check_number", lambda self, number: None),
        replace(IN_WORKERS, rates={Fault.NETWORK_DOUBLE: 0.02}),
        first=2,
    ),
    Plant(
        "what sinks hand over is not heard",
        set_method(RemoteWorker, "heard", heard_without("handed_over")),
        replace(IN_WORKERS, rates={Fault.ACK_LATE: 0.5}, programs=("filter",), timeout_ms=150),
        first=90,
    ),
    Plant(
        "keyed state of two workers is restored by one",
        set_method(remote, "shares", shares_of_the_first_taker),
        replace(RESTARTED, programs=KEYED),
        first=2,
    ),
    Plant(
        "rows in flight are not dealt to workers",
        set_method(remote, "shares", shares_without_rows_in_flight),
        RESTARTED,
        first=5,
    ),
    Plant(
        "workers read splits from their start again",
        set_method(WorkerProcesses, "_own_splits", splits_from_the_start),
        RESTARTED,
        first=2,
    ),
    Plant(
        "workers are started without the checkpoint",
        set_method(WorkerProcesses, "begin", start_with_no_state),
        RESTARTED,
        first=2,
    ),
    Plant(
        "a receiver gives no credit",
        set_method(RemoteReader, "_give_credit", lambda self: None),
        replace(IN_WORKERS, channel_batches=1),
    ),
    Plant(
        "a savepoint is of an older checkpoint",
        set_method(savepoints, "write_savepoint", save_the_oldest),
        replace(MOVED, retained=3),
    ),
    Plant(
        "the number of the next checkpoint starts anew with a savepoint",
        set_method(savepoint.Beginning, "copy", copy_and_count_from_one),
        MOVED,
    ),
]


@pytest.mark.parametrize("plant", PLANTS, ids=[plant.name for plant in PLANTS])
def test_the_simulator_finds(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    check_found(plant, monkeypatch)
