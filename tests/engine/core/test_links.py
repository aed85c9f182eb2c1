"""Second names for finished files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakeward.engine.core.links import link_or_copy


def test_a_file_that_is_there_is_left_alone_since_it_may_have_other_names(tmp_path: Path) -> None:
    source, target, stored = tmp_path / "source", tmp_path / "target", tmp_path / "stored"
    source.write_bytes(b"new")
    target.write_bytes(b"a checkpoint's")
    stored.hardlink_to(target)
    with pytest.raises(FileExistsError):
        link_or_copy(str(source), str(target))
    assert stored.read_bytes() == b"a checkpoint's"
