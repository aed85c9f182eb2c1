"""`lakeward checkpoints list|show|verify`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import click

from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.checkpoint.store_fs import open_store
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow
from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.snapshots import OperatorSnapshot


def list_checkpoints(directory: str) -> None:
    """Print a line a checkpoint, newest first."""
    infos = _open(directory).list()
    if not infos:
        click.echo(f"no checkpoints in {directory}")
        return
    click.echo(f"{'checkpoint':>10}  {'state':<10} {'taken (UTC)':<19} {'run':>4} {'size':>10}  operators")
    for info in infos:
        taken = datetime.fromtimestamp(info.created_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
        final = ", input ended" if info.final else ""
        click.echo(
            f"{info.checkpoint:>10}  {info.state.value:<10} {taken:<19} {info.generation:>4} "
            f"{_size(info.size_bytes):>10}  {', '.join(info.operators)}{final}"
        )


def show_checkpoint(directory: str, checkpoint: int | None) -> None:
    """Print what a checkpoint holds.

    Raises:
        ConfigError: There is no such checkpoint.
    """
    workflow = _open(directory)
    infos = workflow.list()
    wanted = [one for one in infos if checkpoint is None or one.checkpoint == checkpoint]
    if not wanted:
        there = ", ".join(str(one.checkpoint) for one in infos)
        raise ConfigError(
            f"there is no checkpoint{'' if checkpoint is None else f' {checkpoint}'} in {directory}",
            hint=f"there are: {there}"
            if there
            else "give the job's checkpoint_dir; one is taken every checkpoint_interval",
        )
    manifest = workflow.read(wanted[0].checkpoint, wanted[0].generation)
    for line in describe(manifest):
        click.echo(line)


def verify_checkpoints(directory: str) -> int:
    """Check every file of every checkpoint; print what is wrong.

    Returns:
        The exit status: 0 when all is well, 1 when something is damaged.
    """
    workflow = _open(directory)
    damaged = workflow.verify()
    for one in damaged:
        for problem in one.problems:
            click.echo(f"checkpoint {one.checkpoint}: {problem}", err=True)
    good = len({info.checkpoint for info in workflow.list()} - {one.checkpoint for one in damaged})
    click.echo(f"{good} good, {len(damaged)} damaged")
    return 1 if damaged else 0


def describe(manifest: CheckpointManifest) -> Iterable[str]:
    """A manifest as lines of text."""
    yield f"checkpoint {manifest.checkpoint} of job '{manifest.job_name}' ({manifest.job_id})"
    yield f"  run {manifest.generation}, max_parallelism {manifest.max_parallelism}"
    for snapshot in manifest.operators:
        yield f"  {snapshot.uid} [{snapshot.subtask}]"
        yield from _describe_operator(snapshot)
    for uid, state in manifest.committers.items():
        yield f"  committer of {uid}: {state}"


def _describe_operator(snapshot: OperatorSnapshot) -> Iterable[str]:
    state = snapshot.state or {}
    splits = state.get("splits")
    if isinstance(splits, list):
        for split in splits:
            yield f"    split {split['id']}: {'finished' if split['finished'] else split['position']}"
    elif state:
        yield f"    state {dict(state)}"
    if snapshot.keyed is not None:
        size = sum(file.size_bytes for file in snapshot.keyed.files)
        groups = f"{snapshot.keyed.key_group_start} .. {snapshot.keyed.key_group_end - 1}"
        yield f"    keyed state: key groups {groups}, {len(snapshot.keyed.files)} files, {_size(size)}"
    if snapshot.in_flight:
        yield f"    rows on their way to it: {_size(sum(one.file.size_bytes for one in snapshot.in_flight))}"
    if snapshot.committables:
        yield f"    {len(snapshot.committables)} committables"


def _open(directory: str) -> CheckpointWorkflow:
    if "://" not in directory and not Path(directory).is_dir():
        raise ConfigError(f"there is no directory {directory}", hint="give the job's checkpoint_dir")
    return CheckpointWorkflow(open_store(directory))


def _size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000 or unit == "GB":
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    raise AssertionError("the loop returns")
