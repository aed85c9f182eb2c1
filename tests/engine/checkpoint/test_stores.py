from __future__ import annotations

import errno
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lakeward.engine.checkpoint.store import CheckpointStore, MemoryStore
from lakeward.engine.checkpoint.store_fs import FileSystemStore, open_store
from lakeward.engine.checkpoint.store_object import ObjectStore
from lakeward.engine.core.errors import CheckpointError, ConfigError
from lakeward.testing import CheckpointStoreSuite


class TestMemoryStore(CheckpointStoreSuite):
    def make_store(self) -> CheckpointStore:
        return MemoryStore()


class InFolder(CheckpointStoreSuite):
    @pytest.fixture(autouse=True)
    def _in_folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path


class TestFolder(InFolder):
    def make_store(self) -> CheckpointStore:
        return FileSystemStore(str(self.folder / "made" / "by" / "the store"))


class TestFileUri(InFolder):
    def make_store(self) -> CheckpointStore:
        return FileSystemStore((self.folder / "with space").as_uri())


@pytest.mark.skipif(importlib.util.find_spec("obstore") is None, reason="an optional package")
class TestObjectStore(CheckpointStoreSuite):
    def make_store(self) -> CheckpointStore:
        return ObjectStore("memory:///")


def test_two_stores_on_one_folder_see_the_same_files(tmp_path: Path) -> None:
    one, other = FileSystemStore(str(tmp_path)), FileSystemStore(str(tmp_path))
    assert one.create_if_absent("a", b"1")
    assert not other.create_if_absent("a", b"2")
    assert other.read("a") == b"1"


def refuse_links(source: str, target: str) -> None:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


@pytest.mark.parametrize("one_file_system", [True, False])
def test_a_finished_file_is_linked_where_it_can_be_and_stays_when_the_local_one_goes(
    one_file_system: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, local = FileSystemStore(str(tmp_path / "store")), tmp_path / "000012.sst"
    store.put("state/a", b"what was there")
    local.write_bytes(b"rows")
    if not one_file_system:
        monkeypatch.setattr(os, "link", refuse_links)
    store.put_file("state/a", str(local))
    assert (tmp_path / "store/state/a").samefile(local) == one_file_system
    local.unlink()
    assert store.read("state/a") == b"rows"
    assert store.list("") == ["state/a"]
    assert not list((tmp_path / "store/.tmp").iterdir())


@pytest.mark.parametrize("one_file_system", [True, False])
def test_a_file_that_is_taken_into_the_store_can_be_read_by_its_owner_alone(
    one_file_system: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, local = FileSystemStore(str(tmp_path / "store")), tmp_path / "000012.sst"
    local.write_bytes(b"rows")
    local.chmod(0o644)
    if not one_file_system:
        monkeypatch.setattr(os, "link", refuse_links)
    store.put_file("state/a", str(local))
    assert (tmp_path / "store/state/a").stat().st_mode & 0o777 == 0o600


def test_of_a_symbolic_link_the_store_takes_the_file_behind_it(tmp_path: Path) -> None:
    store, local, link = FileSystemStore(str(tmp_path / "store")), tmp_path / "000012.sst", tmp_path / "link"
    local.write_bytes(b"rows")
    link.symlink_to(local.name)
    store.put_file("state/a", str(link))
    local.unlink()
    assert store.read("state/a") == b"rows"


def test_a_file_is_fetched_to_a_new_place_even_where_the_local_one_is_shared_with_the_store(tmp_path: Path) -> None:
    store, local = FileSystemStore(str(tmp_path / "store")), tmp_path / "000012.sst"
    local.write_bytes(b"rows")
    store.put_file("state/a", str(local))
    store.put("state/b", b"others")
    store.get_file("state/b", str(local))
    assert (local.read_bytes(), store.read("state/a")) == (b"others", b"rows")


def test_a_link_that_is_being_made_to_an_old_file_is_not_taken_for_an_abandoned_one(tmp_path: Path) -> None:
    FileSystemStore(str(tmp_path / "store"))
    local, temporary = tmp_path / "000012.sst", tmp_path / "store/.tmp/another"
    local.write_bytes(b"rows")
    os.utime(local, (0, 0))
    os.link(local, temporary)
    FileSystemStore(str(tmp_path / "store"))
    assert temporary.exists(), "the link is younger than what is in the file"
    local.unlink()
    FileSystemStore(str(tmp_path / "store"))
    assert not temporary.exists(), "its process died, and took its folder with it"


def test_a_deleted_file_leaves_no_empty_folders_behind(tmp_path: Path) -> None:
    store = FileSystemStore(str(tmp_path))
    store.put("a/b/c", b"1")
    store.delete("a/b/c")
    assert [entry.name for entry in tmp_path.iterdir()] == [".tmp"]


def test_temporary_files_are_not_listed_and_old_ones_are_removed(tmp_path: Path) -> None:
    FileSystemStore(str(tmp_path)).put("a", b"1")
    old, young = tmp_path / ".tmp" / "old", tmp_path / ".tmp" / "young"
    old.write_bytes(b"torn")
    young.write_bytes(b"being written")
    now_s = young.stat().st_mtime
    os.utime(old, (now_s - 3660, now_s - 3660))
    os.utime(young, (now_s - 3500, now_s - 3500))
    store = FileSystemStore(str(tmp_path))
    assert store.list("") == ["a"]
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize("location", ["{folder}/file", "{folder}/file/deeper"])
def test_a_location_that_is_not_a_folder_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="a part of its path is a file") as caught:
        open_store(location.format(folder=tmp_path))
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("hdfs://host/x", "cannot hold checkpoints"),
        ("nonsense://x/y", "cannot hold checkpoints"),
        ("file://host/x", "not the URI of a folder on this machine"),
        ("  ", "empty text"),
    ],
)
def test_a_location_that_cannot_hold_checkpoints_is_refused(location: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_store(location)
    assert caught.value.hint


def test_an_object_store_without_its_package_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigError, match="s3://bucket/prefix is in an object store") as caught:
        open_store("s3://bucket/prefix")
    assert "lakeward[s3]" in caught.value.hint


def test_a_file_system_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.link", _failing(errno.EOPNOTSUPP))
    with pytest.raises(ConfigError, match="has no hard links"):
        open_store(str(tmp_path))


def test_a_folder_that_may_not_be_written_is_refused_with_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.mkstemp", _failing(errno.EACCES))
    with pytest.raises(ConfigError, match=f"{tmp_path} cannot be written: Permission denied") as caught:
        open_store(str(tmp_path))
    assert "owner or the mode" in caught.value.hint


@pytest.mark.parametrize("at", ["fsync", "replace", "link"])
def test_a_full_disk_is_named_and_leaves_the_old_content(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileSystemStore(str(tmp_path))
    store.put("a", b"old")
    write = store.create_if_absent if at == "link" else store.put
    path = "b" if at == "link" else "a"
    with monkeypatch.context() as patch:
        patch.setattr(f"os.{at}", _failing(errno.ENOSPC))
        with pytest.raises(CheckpointError, match=f"cannot write {path}") as caught:
            write(path, b"new")
    assert "the disk is full" in caught.value.hint
    assert store.list("") == ["a"]
    assert store.read("a") == b"old"
    assert list((tmp_path / ".tmp").iterdir()) == []
    store.put("a", b"new")
    assert store.read("a") == b"new"


def test_a_read_error_is_not_taken_for_a_missing_file(tmp_path: Path) -> None:
    store = FileSystemStore(str(tmp_path))
    store.put("folder/file", b"1")
    for call in (store.read, store.size):
        with pytest.raises(CheckpointError, match="cannot"):
            call("folder/file/deeper")
    with pytest.raises(CheckpointError):
        store.read("folder")


def test_processes_racing_for_one_name_have_one_winner(tmp_path: Path) -> None:
    program = (
        "import sys; from lakeward.engine.checkpoint.store_fs import FileSystemStore\n"
        "store = FileSystemStore(sys.argv[1]); print('ready', flush=True); sys.stdin.read(1)\n"
        "print(sum(store.create_if_absent(f'race/{n}', sys.argv[2].encode()) for n in range(50)))\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in ("one", "two", "three")
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == b"ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(b"g")
        racer.stdin.flush()
    wins = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sum(wins) == 50


def _failing(number: int) -> Callable[..., object]:
    def fail(*_args: object, **_kwargs: object) -> object:
        raise OSError(number, os.strerror(number))

    return fail
