from collections.abc import Iterator
from pathlib import Path

import pytest

from lakeward.testing.lake import LocalLake


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[LocalLake]:
    made = LocalLake(tmp_path / "lake")
    yield made
    made.close()
