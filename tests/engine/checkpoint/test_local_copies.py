"""State files on this machine's disk spare a restore the way to the store, and are never trusted more than it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.local_copies import LocalCopies
from lakeward.engine.checkpoint.store import CheckpointStore, MemoryStore
from lakeward.engine.core.errors import CorruptionError
from lakeward.engine.core.ids import Generation
from lakeward.testing import CheckpointStoreSuite

STATE = b"state" * 100


class TestLocalCopies(CheckpointStoreSuite):
    @pytest.fixture(autouse=True)
    def _in_folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make_store(self) -> CheckpointStore:
        return LocalCopies(MemoryStore(), self.folder)


class Lab:
    def __init__(self, folder: Path) -> None:
        self.files, self.copies = folder / "files", folder / "copies"
        self.files.mkdir()
        self.copies.mkdir()
        self.inner = MemoryStore()
        self.path = paths.state_file(Generation(1), hashlib.sha256(STATE).hexdigest())

    def store(self) -> LocalCopies:
        """Of one process."""
        return LocalCopies(self.inner, self.copies)

    def put(self) -> None:
        (self.files / "1.sst").write_bytes(STATE)
        self.store().put_file(self.path, str(self.files / "1.sst"))
        (self.files / "1.sst").unlink()

    def get(self, name: str = "2.sst") -> tuple[bytes, int, int]:
        """What another process gets, and how much of it from where."""
        store, target = self.store(), self.files / name
        store.get_file(self.path, str(target))
        return target.read_bytes(), store.local_bytes, store.distant_bytes


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_what_was_stored_from_here_is_restored_from_here(lab: Lab) -> None:
    lab.put()
    assert lab.get() == (STATE, len(STATE), 0)


def test_what_was_fetched_once_is_restored_from_here(lab: Lab) -> None:
    lab.inner.put(lab.path, STATE)
    assert lab.get() == (STATE, 0, len(STATE))
    assert lab.get("3.sst") == (STATE, len(STATE), 0)


def test_a_file_that_its_owner_writes_into_is_not_kept(lab: Lab) -> None:
    lab.inner.put(lab.path, STATE)
    lab.get("MANIFEST-000001")
    assert lab.get() == (STATE, 0, len(STATE))


@pytest.mark.parametrize("damage", [b"", STATE[:-1], STATE[:-1] + b"x"])
def test_a_damaged_copy_is_fetched_again_and_replaced(lab: Lab, damage: bytes) -> None:
    lab.put()
    (copy,) = lab.copies.iterdir()
    copy.write_bytes(damage)
    assert lab.get() == (STATE, 0, len(STATE))
    assert lab.get("3.sst") == (STATE, len(STATE), 0)


def test_a_copy_goes_with_its_file(lab: Lab) -> None:
    lab.put()
    lab.store().delete_many([lab.path])
    assert list(lab.copies.iterdir()) == []
    with pytest.raises(CorruptionError):
        lab.get()


def test_writing_into_what_was_restored_does_not_change_the_copy(lab: Lab) -> None:
    lab.put()
    lab.get("2.sst")
    with (lab.files / "2.sst").open("ab") as file:
        file.write(b"more")
    assert lab.get("3.sst") == (STATE, len(STATE), 0)


def test_without_room_for_copies_the_store_works_as_before(lab: Lab) -> None:
    lab.copies.rmdir()
    lab.put()
    assert lab.get() == (STATE, 0, len(STATE))
