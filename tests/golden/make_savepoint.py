"""Writes the golden savepoint of today's formats: `python tests/golden/make_savepoint.py tests/golden/savepoints/NAME`.

Run it once for every change of a stored format, and keep what is there: they are read for ever.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from everything_job import BATCHES, job

from lakeward.engine.checkpoint.store import CheckpointStore
from lakeward.engine.checkpoint.store_fs import FileSystemStore
from lakeward.testing import EOF, JobHarness

BEFORE = 5
"""How many batches have been read when the savepoint is taken."""


def copied(source: CheckpointStore, target: CheckpointStore) -> None:
    """Everything of a store in another one."""
    for path in source.list(""):
        data = source.read(path)
        assert data is not None, "it was listed"
        target.put(path, data)


def main(directory: Path) -> None:
    """Run the first half of the job at parallelism 2."""
    assert not directory.exists(), "golden savepoints are never written again"
    harness = JobHarness(lambda env: job(env, [*BATCHES[:BEFORE], EOF]), state="rocksdb")
    assert harness.run(parallelism=2).stopped
    copied(harness.savepoint(), FileSystemStore(str(directory / "savepoint")))
    (directory / "answers.json").write_text(json.dumps(harness.all_rows(), default=str, indent=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
