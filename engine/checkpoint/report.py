"""What a checkpoint directory holds, for people: lists and verdicts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.inventory import CheckpointView
from lakeward.engine.checkpoint.protocol import CheckpointState, passed_over
from lakeward.engine.checkpoint.transfer import FileTransfer
from lakeward.engine.core.ids import CheckpointId, Generation, JobId

ViewKey = tuple[CheckpointId, Generation | None]


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """One checkpoint, for people.

    Args:
        checkpoint: Its number.
        generation: The run of the job that took it; 0 if nothing says so.
        state: What its files amount to.
        created_us: When it was taken, in microseconds since 1970 UTC; 0 if its manifest cannot be read.
        size_bytes: Length of its state files together (many are shared with its neighbours).
        operators: The uids in it, sorted.
        final: Whether the input had ended.
        damage: Why its manifest cannot be used; empty if it can.
    """

    checkpoint: CheckpointId
    generation: Generation
    state: CheckpointState
    created_us: int
    size_bytes: int
    operators: tuple[str, ...]
    final: bool
    damage: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointProblems:
    """What is wrong with one checkpoint.

    Args:
        checkpoint: Its number.
        problems: One sentence each.
    """

    checkpoint: CheckpointId
    problems: tuple[str, ...]

    @property
    def reason(self) -> str:
        """All problems on one line."""
        return "; ".join(self.problems)


def view_key(view: CheckpointView) -> ViewKey:
    """What tells one manifest from all others in the directory."""
    return view.checkpoint, view.generation


def checkpoint_info(view: CheckpointView) -> CheckpointInfo:
    """A view as a line for people."""
    manifest = view.manifest
    return CheckpointInfo(
        checkpoint=view.checkpoint,
        generation=view.generation or Generation(0),
        state=view.state,
        created_us=manifest.created_us if manifest else 0,
        size_bytes=manifest.size_bytes() if manifest else 0,
        operators=tuple(sorted({str(snapshot.uid) for snapshot in manifest.operators})) if manifest else (),
        final=manifest.final if manifest else False,
        damage=view.damage,
    )


def foreign_checkpoints(views: Sequence[CheckpointView], job_id: JobId | None) -> dict[ViewKey, str]:
    """Manifests that another job wrote, with a sentence about each; for a directory without a job, none."""
    return {
        view_key(view): f"it belongs to job {view.manifest.job_id} ('{view.manifest.job_name}'), not to {job_id}, "
        f"whose directory this is by its {paths.JOB}"
        for view in views
        if view.manifest is not None and job_id is not None and view.manifest.job_id != job_id
    }


def file_problems(view: CheckpointView, transfer: FileTransfer) -> Iterator[str]:
    """Read every state file of a checkpoint, and say what is wrong."""
    for file in view.manifest.files() if view.manifest else ():
        problem = transfer.problem(file)
        if problem:
            yield problem


def missing_files(view: CheckpointView, present: Collection[str]) -> Iterator[str]:
    """State files of a checkpoint that are not there.

    Args:
        view: The checkpoint.
        present: Paths of all that are.
    """
    for file in view.manifest.files() if view.manifest is not None else ():
        path = paths.state_file(file.generation, file.sha256)
        if path not in present:
            yield f"{path} ({file.name}) is missing"


def all_problems(
    views: Sequence[CheckpointView], foreign: Mapping[ViewKey, str], transfer: FileTransfer
) -> tuple[CheckpointProblems, ...]:
    """Everything that is wrong with any checkpoint that could be restored, newest first."""
    problems: dict[CheckpointId, list[str]] = {}
    for view, passed in zip(views, passed_over([view.candidate() for view in views]), strict=True):
        files = () if passed else file_problems(view, transfer)
        texts = problems.setdefault(view.checkpoint, [])
        for text in (view.damage, view.remark, foreign.get(view_key(view), ""), *files):
            if text and text not in texts:
                texts.append(text)
    return tuple(CheckpointProblems(checkpoint, tuple(texts)) for checkpoint, texts in problems.items() if texts)
