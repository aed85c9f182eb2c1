"""What a restored checkpoint holds for the subtasks of a job at another parallelism."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.core.ids import CheckpointId, Generation, JobId, OperatorId, SubtaskIndex
from lakeward.engine.core.snapshots import OperatorSnapshot, StoredFile, TableSnapshot
from lakeward.engine.runtime.restore import RestoredState

UID = OperatorId("join")


def manifest_of(parallelism: int) -> CheckpointManifest:
    parts = [
        OperatorSnapshot(
            UID, SubtaskIndex(n), keyed=TableSnapshot({"of": n}, 12 * n // parallelism, 12 * (n + 1) // parallelism, ())
        )
        for n in range(parallelism)
    ]
    return CheckpointManifest(
        job_id=JobId("j"),
        job_name="job",
        checkpoint=CheckpointId(1),
        generation=Generation(1),
        created_us=0,
        max_parallelism=12,
        parallelism={UID: parallelism},
        operators=tuple(parts),
    )


def test_each_subtask_gets_what_overlaps_or_all_and_files_are_fetched_once(tmp_path: Path) -> None:
    fetched: list[str] = []

    def download(files: Sequence[StoredFile], directory: str) -> None:
        fetched.append(Path(directory).name)

    restored = RestoredState(manifest_of(3), download, tmp_path, 12)
    mine = [restored.keyed(UID, SubtaskIndex(n), 2) for n in range(2)]
    assert [[source.tables["of"] for source in sources] for sources in mine] == [[0, 1], [1, 2]]
    assert [source.tables["of"] for source in restored.all_keyed(UID)] == [0, 1, 2]
    assert fetched == ["join-0", "join-1", "join-2"]
