"""What the checkpoint coordinator hears and what it says: small frozen values that can be logged and replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import Enum

from lakeward.engine.core.errors import CheckpointError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import Json, JsonObject
from lakeward.engine.core.snapshots import OperatorSnapshot, snapshot_from_json, snapshot_to_json


class CheckpointFailure(Enum):
    """Why a checkpoint was given up, as a sentence for people."""

    TIMED_OUT = "not all tasks acknowledged it in time"
    DECLINED = "a task could not take its snapshot"
    PUBLISH_FAILED = "its manifest could not be stored"
    COMMIT_FAILED = "a sink could not commit it"
    SUBSUMED = "the barrier of a newer checkpoint came first"


class AckResult(Enum):
    """What an acknowledgement was worth, as a sentence for people."""

    ACCEPTED = "counted"
    DUPLICATE = "the task had acknowledged this checkpoint before"
    LATE = "the checkpoint is over"
    UNKNOWN = "there is no such checkpoint or no such task"


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Acked:
    """A task finished its snapshot, uploads included.

    Args:
        checkpoint: Of which checkpoint.
        task: The task.
        snapshots: Of every operator in the task's chain.
    """

    checkpoint: CheckpointId
    task: str
    snapshots: tuple[OperatorSnapshot, ...]


@dataclass(frozen=True, slots=True)
class Declined:
    """A task could not take its snapshot."""

    checkpoint: CheckpointId
    task: str
    reason: str


@dataclass(frozen=True, slots=True)
class Published:
    """The manifest is durable in the store."""

    checkpoint: CheckpointId


@dataclass(frozen=True, slots=True)
class PublishFailed:
    """The manifest could not be written."""

    checkpoint: CheckpointId
    reason: str


@dataclass(frozen=True, slots=True)
class Committed:
    """All sinks have committed, and the commit marker is durable."""

    checkpoint: CheckpointId


@dataclass(frozen=True, slots=True)
class CommitFailed:
    """The claim, a sink's commit or the marker failed for good in this attempt."""

    checkpoint: CheckpointId
    reason: str


@dataclass(frozen=True, slots=True)
class AllTasksEnded:
    """Every task has seen the end of its input and sent out all its rows."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Somebody wants the job to take a last checkpoint and stop."""


@dataclass(frozen=True, slots=True)
class CheckpointRequested:
    """Somebody wants a checkpoint now, without waiting for its time."""


Event = (
    Tick
    | Acked
    | Declined
    | Published
    | PublishFailed
    | Committed
    | CommitFailed
    | AllTasksEnded
    | StopRequested
    | CheckpointRequested
)


@dataclass(frozen=True, slots=True)
class InjectBarriers:
    """Tell every source to put the barrier into its output.

    Args:
        checkpoint: The checkpoint.
        aligned: Whether no barrier may overtake rows: a checkpoint that another version of the job may start from.
    """

    checkpoint: CheckpointId
    aligned: bool = False


@dataclass(frozen=True, slots=True)
class Publish:
    """Store the manifest; answer with `Published` or `PublishFailed`.

    Args:
        checkpoint: The checkpoint.
        snapshots: Of all operators and subtasks, ordered by uid and subtask.
        final: The input has ended; a job restored from it has nothing left to read.
    """

    checkpoint: CheckpointId
    snapshots: tuple[OperatorSnapshot, ...]
    final: bool


@dataclass(frozen=True, slots=True)
class Commit:
    """Claim, commit all sinks, mark as committed; answer with `Committed` or `CommitFailed`."""

    checkpoint: CheckpointId


@dataclass(frozen=True, slots=True)
class NotifyComplete:
    """Tell the tasks that the checkpoint is complete and committed; older ones may be deleted."""

    checkpoint: CheckpointId


@dataclass(frozen=True, slots=True)
class NotifyAborted:
    """Tell the tasks that the checkpoint was given up.

    Args:
        checkpoint: The checkpoint.
        reason: Why.
        detail: The task and its own words, where there are any; not compared.
    """

    checkpoint: CheckpointId
    reason: CheckpointFailure
    detail: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class FailJob:
    """End this attempt of the job; the restart policy decides what comes next."""

    reason: str


@dataclass(frozen=True, slots=True)
class FinishJob:
    """The last checkpoint is committed: end the job well.

    Args:
        final: Whether because its input ended; False when it was asked to stop.
    """

    final: bool


Instruction = InjectBarriers | Publish | Commit | NotifyComplete | NotifyAborted | FailJob | FinishJob

_EVENTS: tuple[type[Event], ...] = (
    Tick,
    Acked,
    Declined,
    Published,
    PublishFailed,
    Committed,
    CommitFailed,
    AllTasksEnded,
    StopRequested,
    CheckpointRequested,
)
_INSTRUCTIONS: tuple[type[Instruction], ...] = (
    InjectBarriers,
    Publish,
    Commit,
    NotifyComplete,
    NotifyAborted,
    FailJob,
    FinishJob,
)
_TYPES: dict[str, type[Event | Instruction]] = {kind.__name__: kind for kind in (*_EVENTS, *_INSTRUCTIONS)}


def to_json(message: Event | Instruction) -> JsonObject:
    """An event or instruction as it goes into a log.

    >>> to_json(Declined(CheckpointId(7), "window-0", "disk full"))
    {'type': 'Declined', 'checkpoint': 7, 'task': 'window-0', 'reason': 'disk full'}
    """
    values = {item.name: _value_to_json(getattr(message, item.name)) for item in fields(message)}
    return {"type": type(message).__name__, **values}


def from_json(data: JsonObject) -> Event | Instruction:
    """The event or instruction that `to_json` wrote.

    Raises:
        CheckpointError: It is none of ours, or a field is missing or too many.
    """
    kind = _TYPES.get(str(data.get("type")))
    names = {name for name in data if name != "type"}
    if kind is None or names != {item.name for item in fields(kind)}:
        raise CheckpointError(
            f"not a checkpoint event or instruction: {dict(data)!r}",
            hint="the log was written by another version of Lakeward, or is damaged",
        )
    make: Callable[..., Event | Instruction] = kind
    return make(**{name: _value_from_json(kind, name, data[name]) for name in names})


def _value_to_json(value: object) -> Json:
    if isinstance(value, CheckpointFailure):
        return value.name
    if isinstance(value, tuple):
        return [snapshot_to_json(item) for item in value]
    if isinstance(value, bool | int | str):
        return value
    raise CheckpointError(f"a checkpoint event holds {value!r}, which cannot be logged")


def _value_from_json(kind: type[Event | Instruction], name: str, value: Json) -> object:
    if kind is NotifyAborted and name == "reason":
        try:
            return CheckpointFailure[str(value)]
        except KeyError as error:
            raise CheckpointError(f"unknown checkpoint failure {value!r} in the log") from error
    if name == "snapshots":
        if not isinstance(value, list):
            raise CheckpointError(f"snapshots in the log are not a list: {value!r}")
        return tuple(snapshot_from_json(item) for item in value)
    return value
