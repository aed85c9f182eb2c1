"""The cluster's directory: records that survive, a token that nobody else reads, paths that lead nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lakeward.cluster.files import ClusterFiles, confined, find_module, read_token
from lakeward.cluster.jobs import JobRecord, JobState, Savepoint, SavepointState
from lakeward.cluster.process import JobLog, Scrubber, read_log
from lakeward.cluster.records import from_bytes, to_bytes
from lakeward.engine.core.errors import ConfigError, LakewardError, StateMigrationError

RECORD = JobRecord(
    "j-1",
    "revenue ü",
    "shop.jobs:revenue",
    "/srv/jobs",
    3,
    venv="/srv/venv",
    savepoint="/srv/saved",
    created_us=1_795_000_000_000_000,
    state=JobState.STOPPING,
    rescale_to=2,
    error="line one\nline two",
    restarts=4,
    savepoints=(Savepoint("s-1", "/out", SavepointState.DONE, True, 7), Savepoint("s-2", "/o", error="no")),
)

TRAVERSALS = [
    "../out",
    "a/../../out",
    "..",
    ".",
    "",
    "/etc/passwd",
    "//etc/passwd",
    "/",
    "a/../..",
    "%2e%2e%2fout",
    "%252e%252e%252fout",
    "..%2fout",
    "..%5cout",
    "..\\out",
    "a\\..\\..\\out",
    "a\0b",
    "\0",
    "x" * 1001,
    "link/out",
    "link",
    "a/./../../out",
    "....//....//out/../../../..",
    "~root/../../../../../../etc",
    "C:\\Windows",
    "\\\\host\\share",
    "file:///../../../../../etc/passwd",
    "/proc/self/root/etc",
    "/proc/self/cwd",
    "./../../out",
    "a//../..//..//out",
    "../savepoints-of-others/x",
    "%00",
    "%c0%ae%c0%ae/out",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "savepoints"
    made.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (made / "link").symlink_to(tmp_path / "elsewhere")
    return made


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leads_out_of_the_allowed_folders(root: Path, path: str) -> None:
    with pytest.raises(ConfigError):
        confined(path, [root], "savepoint")


@pytest.mark.parametrize("path", ["monday", "2026/11/24", "a..b", "…", "with space"])
def test_a_plain_path_is_below_the_first_folder(root: Path, path: str) -> None:
    assert confined(path, [root], "savepoint").is_relative_to(root.resolve())
    assert confined(str(root / path), [root], "savepoint") == confined(path, [root], "savepoint")


MODULES = [
    "shop",
    "shop:",
    ":main",
    "shop:main()",
    "../shop:main",
    "shop/jobs:main",
    ".shop:main",
    "shop..jobs:main",
    "shop:__import__('os')",
    "shop:main;ls",
    "shop.py:main",
    "/etc/passwd:main",
    "shop\0:main",
    "shop:main\n",
    "-m:main",
    "link.jobs:main",
    "missing:main",
    "shop:" + "x" * 300 + "!",
]


@pytest.mark.parametrize("job", MODULES)
def test_a_job_that_is_in_no_allowed_folder_is_refused_without_being_imported(tmp_path: Path, job: str) -> None:
    (tmp_path / "allowed").mkdir()
    (tmp_path / "other").mkdir()
    canary = tmp_path / "imported"
    for folder in ("allowed", "other"):
        (tmp_path / folder / "jobs.py").write_text(f"open({str(canary)!r}, 'w')")
    (tmp_path / "allowed" / "link").symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError):
        find_module(job, [tmp_path / "allowed"])
    assert not canary.exists()


def test_modules_and_packages_of_allowed_folders_are_found(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    for name in ("jobs.py", "shop/__init__.py", "shop/deep.py"):
        (tmp_path / name).write_text("")
    for job in ("jobs:main", "shop:main", "shop.deep:main"):
        assert find_module(job, [tmp_path / "shop", tmp_path]) == tmp_path.resolve()


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    files = ClusterFiles.open(tmp_path / "cluster")
    files.save(RECORD)
    assert ClusterFiles.open(tmp_path / "cluster").records() == [RECORD]


def test_a_record_that_is_cut_or_changed_is_never_read_as_another() -> None:
    data = to_bytes(RECORD)
    for length in range(len(data)):
        with pytest.raises(LakewardError, match=r"j-1\.json"):
            from_bytes(data[:length], "j-1.json")


def test_a_damaged_record_is_named_and_nothing_is_forgotten(tmp_path: Path) -> None:
    files = ClusterFiles.open(tmp_path / "cluster")
    files.save(RECORD)
    (tmp_path / "cluster" / "records" / "j-1.json").write_bytes(b"{")
    with pytest.raises(LakewardError, match=r"records/j-1.json is damaged"):
        files.records()


def test_a_record_of_a_newer_version_says_so() -> None:
    data = to_bytes(RECORD).replace(b'"version":1', b'"version":2')
    with pytest.raises(StateMigrationError, match="version 2"):
        from_bytes(data, "j-1.json")


def test_the_token_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    files = ClusterFiles.open(tmp_path / "cluster")
    token = files.token()
    assert len(token) == 64
    assert files.token() == token
    assert (tmp_path / "cluster" / "token").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "cluster").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("what", ["readable by others", "empty", "short", "missing", "no text"])
def test_a_token_that_is_not_a_secret_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "token"
    content = {"empty": b"", "short": b"abc", "no text": b"\xff" * 64}.get(what, b"0" * 64)
    if what != "missing":
        path.write_bytes(content)
        path.chmod(0o644 if what == "readable by others" else 0o600)
    with pytest.raises(ConfigError):
        read_token(path)


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir(mode=0o755)
    os.chmod(tmp_path / "cluster", 0o755)
    with pytest.raises(ConfigError, match="others may enter"):
        ClusterFiles.open(tmp_path / "cluster")


def test_only_one_coordinator_works_in_a_directory(tmp_path: Path) -> None:
    files = ClusterFiles.open(tmp_path / "cluster")
    held = files.lock()
    with pytest.raises(ConfigError, match="another coordinator"):
        files.lock()
    os.close(held)
    os.close(files.lock())


def test_a_log_does_not_grow_for_ever_and_hides_secrets_that_come_in_pieces(tmp_path: Path) -> None:
    log = JobLog(tmp_path / "log", Scrubber(["hunter2-hunter2"]))
    log.write(b"my password is hunter2-hun")
    log.write(b"ter2\n")
    for _ in range(250):
        log.write(b"x" * 99_999 + b"\n")
    log.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 25 << 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1"]


def test_a_log_is_read_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert read_log(path, -10, 100) == (b"", 0)
    path.write_bytes(b"0123456789")
    assert read_log(path, -4, 100) == (b"6789", 10)
    assert read_log(path, 2, 3) == (b"234", 5)
    assert read_log(path, 10, 3) == (b"", 10)
    assert read_log(path, 99, 3) == (b"012", 3)  # another file by now
    assert read_log(path, -99, 3) == (b"012", 3)


def test_a_secret_in_pieces_is_hidden(tmp_path: Path) -> None:
    log = JobLog(tmp_path / "log", Scrubber(["hunter2-hunter2"]))
    for part in (b"a hunter2", b"-hunter2 b", b" c\nend"):
        log.write(part)
    log.close()
    assert (tmp_path / "log").read_bytes() == b"a *** b c\nend"
