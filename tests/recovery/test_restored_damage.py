"""A checkpoint that turns out damaged while it is restored: the job goes back to the one before, in one more start."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from test_processes import SLOW_S, check_answer, running

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.protocol import CheckpointState
from lakeward.engine.checkpoint.store_fs import open_store
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow


def flip_all_files_of_the_newest_committed_checkpoint(folder: Path) -> None:
    """And those of later ones that were not; not those that it shares with checkpoints before."""
    workflow = CheckpointWorkflow(open_store(str(folder)))
    listed = workflow.list()
    newest = next(one.checkpoint for one in listed if one.state is CheckpointState.READY)
    files = {
        one.checkpoint: {
            paths.state_file(file.generation, file.sha256)
            for file in workflow.read(one.checkpoint, one.generation).files()
        }
        for one in listed
    }
    damaged = set[str]().union(*(files[one] for one in files if one >= newest))
    for path in damaged.difference(*(files[one] for one in files if one < newest)):
        data = bytearray((folder / path).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / path).write_bytes(bytes(data))


@pytest.mark.kill
@pytest.mark.parametrize("processes", [None, 1])
def test_a_job_whose_newest_checkpoint_is_damaged_goes_back_to_the_one_before(
    processes: int | None, tmp_path: Path
) -> None:
    with running(tmp_path, processes=processes, batch_s=SLOW_S) as job:
        newest = 0
        for _ in range(3):
            newest = job.wait_for_checkpoint(newest)
        workers = job.workers
        job.process.kill()
    for pid in workers:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    flip_all_files_of_the_newest_committed_checkpoint(tmp_path / "checkpoints")
    with running(tmp_path, processes=processes, batch_s=0, on_rewind="rollback") as job:
        ended = job.end()
        log = job.log.read_text()
    assert ended["restarts"] == 0
    assert "cannot be restored, and is read as a whole" in log
    assert "cannot be used" in log
    check_answer(tmp_path)
