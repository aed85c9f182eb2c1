"""Folders of dead processes are removed; those of living ones, and whatever else lies beside them, are not."""

from __future__ import annotations

import gc
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lakeward.engine.core import scratch
from lakeward.engine.core.scratch import ScratchFolder, remove_abandoned

HOLD = """
import sys
from lakeward.engine.core.scratch import ScratchFolder
folder = ScratchFolder(sys.argv[1])
(folder.path / "state").mkdir()
(folder.path / "state" / "000042.sst").write_bytes(b"rows")
print(folder.path, flush=True)
sys.stdin.read()
"""
HOLD_AND_FORK = """
import os, sys
from lakeward.engine.core.scratch import ScratchFolder
folder = ScratchFolder(sys.argv[1])
if os.fork() == 0:
    folder.close()
    print(folder.path, folder.path.exists(), flush=True)
    sys.stdin.read()
    os._exit(0)
os.wait()
"""


@contextmanager
def running(program: str, parent: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that holds a folder in `parent`, and the line that it has printed."""
    command = [sys.executable, "-c", program, str(parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def killed(parent: Path) -> Path:
    """The folder that a process has left behind."""
    with running(HOLD, parent) as (process, line):
        process.kill()
    assert Path(line, "state", "000042.sst").exists()
    return Path(line)


def made(parent: Path, ending: str = "abcd_123") -> Path:
    """A folder named like one of ours that nobody holds."""
    path = parent / f"{scratch._prefix()}{ending}"
    (path / "state").mkdir(parents=True)
    return path


def test_the_folder_of_a_killed_process_is_removed_by_the_next_one(tmp_path: Path) -> None:
    left = [killed(tmp_path)]
    assert left[0].parent == tmp_path
    folder = ScratchFolder(str(tmp_path))
    assert list(tmp_path.iterdir()) == [folder.path]
    folder.close()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_living_process_stays(tmp_path: Path) -> None:
    with running(HOLD, tmp_path) as (_, line):
        ScratchFolder(str(tmp_path)).close()
        assert Path(line, "state", "000042.sst").exists()


def test_two_folders_of_one_process_do_not_harm_each_other(tmp_path: Path) -> None:
    first, second = ScratchFolder(str(tmp_path)), ScratchFolder(str(tmp_path))
    remove_abandoned(tmp_path)
    assert first.path.exists()
    assert second.path.exists()
    first.close()
    assert list(tmp_path.iterdir()) == [second.path]
    second.close()


def test_a_folder_that_was_forgotten_without_being_closed_is_removed_by_the_next_start(tmp_path: Path) -> None:
    forgotten = ScratchFolder(str(tmp_path)).path
    gc.collect()
    assert forgotten.exists()
    remove_abandoned(tmp_path)
    assert not forgotten.exists()


def test_a_forked_child_neither_removes_its_parents_folder_nor_keeps_it_after_the_parents_death(tmp_path: Path) -> None:
    with running(HOLD_AND_FORK, tmp_path) as (parent, line):
        path, _, exists = line.partition(" ")
        assert exists == "True"  # although the child has closed it
        remove_abandoned(tmp_path)
        assert Path(path).exists()
        parent.kill()
        parent.wait()
        remove_abandoned(tmp_path)  # the child lives on, until its standard input is closed
        assert not Path(path).exists()


@pytest.mark.parametrize("ending", ["warehouse", "abc", "abcd_1234", "abcd-123", "ABCD_123"])
def test_folders_that_are_not_named_as_we_name_them_stay(ending: str, tmp_path: Path) -> None:
    other = made(tmp_path, ending)
    remove_abandoned(tmp_path)
    assert other.exists()


def test_folders_of_other_hosts_and_programs_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = made(tmp_path)
    (tmp_path / "lakeward-warehouse").mkdir()
    monkeypatch.setattr(socket, "gethostname", lambda: "another/host")
    theirs = made(tmp_path)
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ours.name, "lakeward-warehouse"])
    assert theirs.name.startswith("lakeward-local-another-host-")


def test_folders_of_other_users_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = made(tmp_path)
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    remove_abandoned(tmp_path)
    assert theirs.exists()


def test_links_and_files_named_like_folders_of_ours_stay_and_so_does_what_they_lead_to(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    (target / "data").mkdir(parents=True)
    (tmp_path / f"{scratch._prefix()}abcd_123").symlink_to(target)
    (tmp_path / f"{scratch._prefix()}abcd_456").write_bytes(b"a file")
    remove_abandoned(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert (target / "data").exists()


def test_a_link_inside_of_an_abandoned_folder_is_removed_without_what_it_leads_to(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.mkdir()
    (made(tmp_path) / "link").symlink_to(target)
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_removed_is_named_in_a_warning_and_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = made(tmp_path)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "no", str(path))

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, "lakeward"):
        patched.setattr(scratch.shutil, "rmtree", refuse)
        folder = ScratchFolder(str(tmp_path))
    assert str(stuck) in caplog.text
    assert folder.path.exists()
    folder.close()


def test_a_new_folder_that_somebody_takes_for_an_abandoned_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race between making a folder and locking it, both ways that it can end."""
    real, lost = scratch.tempfile.mkdtemp, []

    def mkdtemp_and_be_overtaken(prefix: str, dir: Path) -> str:
        path = real(prefix=prefix, dir=dir)
        if len(lost) == 0:
            remove_abandoned(tmp_path)
            lost.append(path)
        elif len(lost) == 1:
            held.append(scratch._lock(Path(path)))
            lost.append(path)
        return path

    held: list[object] = []
    monkeypatch.setattr(scratch.tempfile, "mkdtemp", mkdtemp_and_be_overtaken)
    folder = ScratchFolder(str(tmp_path))
    assert str(folder.path) not in lost
    assert not os.path.exists(lost[0])
    remove_abandoned(tmp_path)
    assert folder.path.exists()
    folder.close()


def test_a_lock_on_a_folder_that_is_gone_by_then_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened, then removed by somebody and made again, then locked: that is not the one that has the name."""
    path, real = made(tmp_path), scratch.fcntl.flock

    def flock_too_late(descriptor: int, operation: int) -> None:
        path.rename(tmp_path / "removed")
        made(tmp_path)
        real(descriptor, operation)

    with monkeypatch.context() as patched:
        patched.setattr(scratch.fcntl, "flock", flock_too_late)
        assert scratch._lock(path) is None
    assert scratch._lock(path) is not None


def test_two_who_clean_at_once_do_not_disturb_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = made(tmp_path)
    real, calls = scratch.shutil.rmtree, []

    def rmtree_with_a_rival(path: Path) -> None:
        calls.append(path)
        remove_abandoned(tmp_path)  # finds it locked
        real(path)
        remove_abandoned(tmp_path)  # finds it gone

    monkeypatch.setattr(scratch.shutil, "rmtree", rmtree_with_a_rival)
    remove_abandoned(tmp_path)
    assert calls == [left]
    assert not left.exists()


def test_where_folders_cannot_be_locked_none_is_removed_but_by_its_own_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(9, "Bad file descriptor")  # as NFS says of a folder

    monkeypatch.setattr(scratch.fcntl, "flock", no_locks)
    left = made(tmp_path)
    folder = ScratchFolder(str(tmp_path))
    assert sorted(tmp_path.iterdir()) == sorted([left, folder.path])
    folder.close()
    assert list(tmp_path.iterdir()) == [left]
