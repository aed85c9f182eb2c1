"""The conformance suite of checkpoint stores.

class TestMyStore(CheckpointStoreSuite):
def make_store(self) -> CheckpointStore:
return MyStore(...)
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from lakeward.engine.checkpoint.store import CheckpointStore, delete_all
from lakeward.engine.core.errors import CheckpointError, CorruptionError
from lakeward.testing.arguments import expect_port
from lakeward.testing.suites import with_tests

StoreCheck = Callable[[CheckpointStore], None]


def what_was_put_is_read_back(store: CheckpointStore) -> None:
    """Any bytes, of any length."""
    for data in (b"", b"\0", b"x" * 70_000, bytes(range(256))):
        store.put("a/b.json", data)
        assert store.read("a/b.json") == data
        assert store.size("a/b.json") == len(data)


def a_missing_file_is_none_and_nothing_else(store: CheckpointStore) -> None:
    """Not an error, not empty bytes; a sibling or a folder does not count."""
    store.put("folder/file", b"1")
    assert store.read("folder/other") is None
    assert store.read("nowhere/at/all") is None
    assert store.size("folder/other") is None


def put_replaces_the_whole_content(store: CheckpointStore) -> None:
    """A shorter content leaves nothing of a longer one."""
    store.put("a", b"long content")
    store.put("a", b"short")
    assert store.read("a") == b"short"


def only_the_first_create_wins(store: CheckpointStore) -> None:
    """And a loser changes nothing."""
    assert store.create_if_absent("a/b", b"first") is True
    assert store.create_if_absent("a/b", b"second") is False
    assert store.create_if_absent("a/b", b"first") is False
    assert store.read("a/b") == b"first"


def an_empty_file_takes_a_name_too(store: CheckpointStore) -> None:
    """Existence counts, not content."""
    assert store.create_if_absent("empty", b"") is True
    assert store.create_if_absent("empty", b"") is False
    assert store.read("empty") == b""


def a_put_file_blocks_a_create(store: CheckpointStore) -> None:
    """Names are one space, however they were taken."""
    store.put("a", b"put")
    assert store.create_if_absent("a", b"created") is False
    assert store.read("a") == b"put"


def a_deleted_name_can_be_created_again(store: CheckpointStore) -> None:
    """Deletion is complete, and repeating it is harmless."""
    store.create_if_absent("a/b/c", b"1")
    store.delete("a/b/c")
    store.delete("a/b/c")
    assert store.read("a/b/c") is None
    assert store.list("a/") == []
    assert store.create_if_absent("a/b/c", b"2") is True


def many_files_are_deleted_at_once(store: CheckpointStore) -> None:
    """Those that are there, and no other ones."""
    names = [f"d/{number}" for number in range(5)]
    for name in names:
        store.put(name, b"")
    delete_all(store, [*names[:2], "d/never", names[4]])
    assert store.list("d/") == ["d/2", "d/3"]
    delete_all(store, [])


def of_many_racing_creators_exactly_one_wins(store: CheckpointStore) -> None:
    """The one promise that the protocol stands on."""
    with ThreadPoolExecutor(8) as threads:
        for round_number in range(20):
            path = f"race/{round_number}"
            wins = list(threads.map(lambda n, path=path: store.create_if_absent(path, b"%d" % n), range(8)))
            assert wins.count(True) == 1, f"{wins.count(True)} of 8 racing creators won"
            assert store.read(path) == b"%d" % wins.index(True), "the winner's content is not what is stored"


def list_gives_paths_by_prefix_in_order(store: CheckpointStore) -> None:
    """A prefix is text, not a folder; folders are not listed."""
    for path in ("c/2/x", "c/10/x", "c/10/y", "cc/1", "d"):
        store.put(path, b"")
    assert store.list("c/") == ["c/10/x", "c/10/y", "c/2/x"]
    assert store.list("c/1") == ["c/10/x", "c/10/y"]
    assert store.list("c") == ["c/10/x", "c/10/y", "c/2/x", "cc/1"]
    assert store.list("") == ["c/10/x", "c/10/y", "c/2/x", "cc/1", "d"]
    assert store.list("nothing/") == []


def files_come_back_as_they_went(store: CheckpointStore) -> None:
    """Through the disk of this machine, replacing what was there."""
    with _folder() as folder:
        (folder / "in").write_bytes(b"state" * 10_000)
        store.put_file("files/000001/ab/abc", str(folder / "in"))
        assert store.size("files/000001/ab/abc") == 50_000
        (folder / "out").write_bytes(b"old" * 100_000)
        store.get_file("files/000001/ab/abc", str(folder / "out"))
        assert (folder / "out").read_bytes() == b"state" * 10_000
        (folder / "in").write_bytes(b"new")
        store.put_file("files/000001/ab/abc", str(folder / "in"))
        assert store.read("files/000001/ab/abc") == b"new"


def getting_a_missing_file_is_an_error(store: CheckpointStore) -> None:
    """Of the kind that says that state is gone; and it makes no local file."""
    with _folder() as folder:
        try:
            store.get_file("files/000001/ab/abc", str(folder / "out"))
        except CorruptionError:
            assert not (folder / "out").exists()
            return
        raise AssertionError("no CorruptionError for a missing file")


def putting_a_missing_local_file_is_an_error(store: CheckpointStore) -> None:
    """And leaves nothing in the store."""
    with _folder() as folder:
        try:
            store.put_file("files/000001/ab/abc", str(folder / "missing"))
        except CheckpointError:
            assert store.list("") == []
            return
        raise AssertionError("no CheckpointError for a missing local file")


def paths_cannot_leave_the_store(store: CheckpointStore) -> None:
    """However they are written."""
    for path in ("../x", "a/../../x", "/etc/x", "a//b", "./a", "a/", "", "a\0b"):
        for call in (store.read, store.size, store.delete, lambda bad: store.put(bad, b"")):
            try:
                call(path)
            except CheckpointError:
                continue
            raise AssertionError(f"the path {path!r} was accepted")


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


STORE_CHECKS: dict[str, StoreCheck] = {
    check.__name__: check
    for check in (
        what_was_put_is_read_back,
        a_missing_file_is_none_and_nothing_else,
        put_replaces_the_whole_content,
        only_the_first_create_wins,
        an_empty_file_takes_a_name_too,
        a_put_file_blocks_a_create,
        a_deleted_name_can_be_created_again,
        many_files_are_deleted_at_once,
        of_many_racing_creators_exactly_one_wins,
        list_gives_paths_by_prefix_in_order,
        files_come_back_as_they_went,
        getting_a_missing_file_is_an_error,
        putting_a_missing_local_file_is_an_error,
        paths_cannot_leave_the_store,
    )
}
"""Every check by its name, for test runners that want one test each."""


def _run(suite: CheckpointStoreSuite, check: StoreCheck) -> None:
    store = suite.make_store()
    expect_port(store, CheckpointStore, "what make_store returned", "return a new, empty store")
    check(store)


@with_tests(STORE_CHECKS.values(), _run)
class CheckpointStoreSuite(ABC):
    """The tests that a checkpoint store has to pass, for a test class of your own to inherit.

    >>> from lakeward.engine.checkpoint.store import MemoryStore
    >>> class TestMemoryStore(CheckpointStoreSuite):
    ...     def make_store(self):
    ...         return MemoryStore()
    >>> TestMemoryStore().test_of_many_racing_creators_exactly_one_wins()
    """

    @abstractmethod
    def make_store(self) -> CheckpointStore:
        """A new, empty store, at every call."""
