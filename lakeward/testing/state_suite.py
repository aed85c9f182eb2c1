"""The conformance suite of key-value stores, which keyed state lies in.

class TestMyStore(KeyValueStoreSuite):
def make_factory(self) -> StoreFactory:
return MyStoreFactory(...)
"""

from __future__ import annotations

import os
import random
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from lakeward.engine.core.errors import CorruptionError
from lakeward.engine.core.snapshots import LocalFile
from lakeward.engine.state.kv import KeyValueStore, StoreFactory
from lakeward.engine.state.rescale import link_files
from lakeward.testing.arguments import expect_port
from lakeward.testing.suites import with_tests


@dataclass(frozen=True, slots=True)
class StoreUnderTest:
    """What a check gets: a factory, and a directory that nobody else uses."""

    factory: StoreFactory
    directory: str

    def new(self, name: str = "store") -> KeyValueStore:
        """A store in a folder of the directory: empty, or with the files that lie there."""
        return self.factory.open(self.path(name))

    def path(self, name: str) -> str:
        """A folder of the directory."""
        return os.path.join(self.directory, name)

    def reopen(self, snapshot: str, name: str) -> KeyValueStore:
        """A store with a snapshot's files, linked as a restore does."""
        link_files(self.path(snapshot), self.path(name))
        return self.new(name)


Check = Callable[[StoreUnderTest], None]


def numbered_rows(count: int, suffix: bytes = b"") -> list[tuple[bytes, bytes]]:
    """Sorted rows with keys and values of several lengths, also empty values and zero bytes."""
    return [(b"k%06d\0" % n, (b"v%d" % n) * (n % 4) + suffix) for n in range(count)]


def what_was_written_is_read(test: StoreUnderTest) -> None:
    """By key in any order, with None for what is not there, also for a key that is a prefix of another."""
    store = test.new()
    rows = numbered_rows(500)
    store.write(rows)
    keys = [key for key, _ in rows]
    random.Random(1).shuffle(keys)
    assert store.get_many(keys) == [dict(rows)[key] for key in keys]
    assert store.get_many([b"k", b"k000001", rows[1][0], b"zzz"]) == [None, None, rows[1][1], None]
    assert store.get_many([]) == []
    store.close()


def a_write_replaces_and_deletes(test: StoreUnderTest) -> None:
    """Deletes of unknown keys are ignored; a key that is deleted and put in one write is there."""
    store = test.new()
    store.write([(b"a", b"1"), (b"b", b"1"), (b"c", b"1")])
    store.write([(b"a", b"2"), (b"c", b"2")], [b"b", b"c", b"unknown"])
    assert list(store.scan(b"", b"z")) == [(b"a", b"2"), (b"c", b"2")]
    store.write([], [b"a", b"c"])
    assert list(store.scan(b"", b"z")) == []
    store.close()


def a_scan_is_sorted_and_half_open(test: StoreUnderTest) -> None:
    """Bytes are compared as unsigned numbers; the start is included, the end is not."""
    store = test.new()
    keys = sorted([b"a", b"a\0", b"a\xff", b"b", b"\x00", b"\x7f", b"\x80", b"\xff"])
    store.write([(key, b"") for key in keys])
    assert [key for key, _ in store.scan(b"\x00", b"\xff")] == keys[:-1]
    assert [key for key, _ in store.scan(b"a\0", b"b")] == [b"a\0", b"a\xff"]
    assert list(store.scan(b"b", b"b")) == []
    store.close()


def a_range_is_deleted_half_open(test: StoreUnderTest) -> None:
    """And can be written again at once."""
    store = test.new()
    rows = numbered_rows(100)
    store.write(rows)
    store.delete_range(rows[10][0], rows[90][0])
    assert list(store.scan(b"", b"z")) == rows[:10] + rows[90:]
    assert store.get_many([rows[10][0], rows[90][0]]) == [None, rows[90][1]]
    store.write(rows[50:51])
    assert list(store.scan(b"", b"z")) == rows[:10] + rows[50:51] + rows[90:]
    store.close()


def a_checkpoint_holds_what_was_there(test: StoreUnderTest) -> None:
    """Every row, also those just written, and nothing of what comes later; every file lies where it says."""
    store = test.new()
    rows = numbered_rows(3000)
    store.write(rows)
    files = store.checkpoint(test.path("one"))
    assert files
    assert all(file.path == os.path.join(test.path("one"), file.name) for file in files)
    assert sorted(file.name for file in files) == sorted(os.listdir(test.path("one")))
    store.write(numbered_rows(3000, b"later"))
    store.delete_range(b"", b"z")
    store.close()
    again = test.reopen("one", "again")
    assert list(again.scan(b"", b"z")) == rows
    again.close()


def an_empty_store_can_be_checkpointed(test: StoreUnderTest) -> None:
    """A first checkpoint may come before the first row."""
    store = test.new()
    store.checkpoint(test.path("one"))
    store.close()
    again = test.reopen("one", "again")
    assert list(again.scan(b"", b"z")) == []
    again.close()


def checkpoint_files_never_change(test: StoreUnderTest) -> None:
    """Neither when the store goes on, nor when another store works on links of them."""
    store = test.new()
    store.write(numbered_rows(2000))
    store.checkpoint(test.path("one"))
    before = contents(test.path("one"))
    store.write(numbered_rows(2000, b"later"))
    store.checkpoint(test.path("two"))
    store.close()
    again = test.reopen("one", "again")
    again.write(numbered_rows(4000, b"again"))
    again.checkpoint(test.path("three"))
    again.close()
    assert contents(test.path("one")) == before


def a_chain_of_checkpoints_restores_each(test: StoreUnderTest) -> None:
    """Restore, change, checkpoint, five times; each is right, and older ones stay so."""
    store = test.new("store0")
    model: dict[bytes, bytes] = {}
    expected: dict[int, list[tuple[bytes, bytes]]] = {}
    for number in range(5):
        rows = [(b"%03d" % random.Random(number * 100 + n).randrange(300), b"%d" % number) for n in range(50)]
        model.update(rows)
        store.write(sorted(dict(rows).items()))
        store.checkpoint(test.path(f"snapshot{number}"))
        expected[number] = sorted(model.items())
        store.close()
        store = test.reopen(f"snapshot{number}", f"store{number + 1}")
    store.close()
    for number, rows in expected.items():
        again = test.reopen(f"snapshot{number}", f"check{number}")
        assert list(again.scan(b"", b"\xff")) == rows, f"snapshot {number}"
        again.close()


def a_damaged_file_is_an_error(test: StoreUnderTest) -> None:
    """A flipped bit in the middle of the largest file never passes as data, and rows are never left out in silence."""
    store = test.new()
    noise = random.Random(7)
    store.write([(b"%06d" % n, noise.randbytes(100)) for n in range(5000)])
    files = store.checkpoint(test.path("one"))
    store.close()
    damage_largest(files)
    assert raises_corruption(lambda: read_all(test.reopen("one", "again"))), "a scan did not see the damage"


def a_missing_file_is_an_error(test: StoreUnderTest) -> None:
    """Whichever file it is."""
    store = test.new()
    store.write(numbered_rows(100))
    files = store.checkpoint(test.path("one"))
    store.close()
    for number, file in enumerate(files):
        link_files(test.path("one"), test.path(f"part{number}"))
        os.unlink(os.path.join(test.path(f"part{number}"), file.name))
        with open(os.path.join(test.path(f"part{number}"), "unrelated"), "wb") as unrelated:
            unrelated.write(b"x")
        assert raises_corruption(lambda n=number: read_all(test.new(f"part{n}"))), f"{file.name} was not missed"  # type: ignore[misc]


def large_values_are_kept(test: StoreUnderTest) -> None:
    """Values of a kilobyte to a megabyte, also those that replace another one, after ranges and keys were deleted."""
    store = test.new()
    noise = random.Random(3)
    rows = [(b"k%03d" % n, noise.randbytes(1 << 10 + n % 11)) for n in range(40)]
    store.write(rows)
    store.checkpoint(test.path("one"))
    changed = dict(rows) | {key: noise.randbytes(100_000) for key, _ in rows[:5]}
    store.write(sorted(changed.items())[:5], [rows[7][0]])
    store.delete_range(rows[20][0], rows[30][0])
    store.checkpoint(test.path("two"))
    store.close()
    left = {key: value for key, value in changed.items() if key != rows[7][0] and not b"k020" <= key < b"k030"}
    for name, expected in (("one", rows), ("two", sorted(left.items()))):
        again = test.reopen(name, f"again-{name}")
        assert list(again.scan(b"", b"z")) == expected, f"snapshot {name}"
        assert again.get_many([key for key, _ in rows]) == [dict(expected).get(key) for key, _ in rows]
        again.close()


def a_damaged_large_value_is_an_error(test: StoreUnderTest) -> None:
    """As a damaged file of small rows is."""
    store = test.new()
    noise = random.Random(8)
    store.write([(b"%02d" % n, noise.randbytes(200_000)) for n in range(10)])
    damage_largest(store.checkpoint(test.path("one")))
    store.close()
    assert raises_corruption(lambda: read_all(test.reopen("one", "again"))), "a scan did not see the damage"


def contents(directory: str) -> dict[str, bytes]:
    """Every file of a directory."""
    found = {}
    for name in os.listdir(directory):
        with open(os.path.join(directory, name), "rb") as file:
            found[name] = file.read()
    return found


def damage_largest(files: list[LocalFile]) -> None:
    """Flip a bit in the middle of the largest file."""
    largest = max((file.path for file in files), key=os.path.getsize)
    with open(largest, "rb") as file:
        content = bytearray(file.read())
    content[len(content) // 2] ^= 1
    os.unlink(largest)
    with open(largest, "wb") as damaged:
        damaged.write(content)


def read_all(store: KeyValueStore) -> None:
    """Scan everything, then close."""
    try:
        for _ in store.scan(b"", b"\xff"):
            pass
    finally:
        store.close()


def raises_corruption(run: Callable[[], None]) -> bool:
    """Whether it raises `CorruptionError`."""
    try:
        run()
    except CorruptionError:
        return True
    return False


KEY_VALUE_STORE_CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        what_was_written_is_read,
        a_write_replaces_and_deletes,
        a_scan_is_sorted_and_half_open,
        a_range_is_deleted_half_open,
        a_checkpoint_holds_what_was_there,
        an_empty_store_can_be_checkpointed,
        checkpoint_files_never_change,
        a_chain_of_checkpoints_restores_each,
        a_damaged_file_is_an_error,
        a_missing_file_is_an_error,
        large_values_are_kept,
        a_damaged_large_value_is_an_error,
    )
}
"""Every check by its name."""


def _run(suite: KeyValueStoreSuite, check: Check) -> None:
    factory = suite.make_factory()
    expect_port(factory, StoreFactory, "what make_factory returned", "return an object that opens stores")
    with tempfile.TemporaryDirectory() as directory:
        check(StoreUnderTest(factory, directory))


@with_tests(KEY_VALUE_STORE_CHECKS.values(), _run)
class KeyValueStoreSuite(ABC):
    """The tests that a key-value store for keyed state has to pass, for a test class of your own to inherit.

    >>> from lakeward.engine.state.memory import MemoryStoreFactory
    >>> class TestMemoryStore(KeyValueStoreSuite):
    ...     def make_factory(self):
    ...         return MemoryStoreFactory()
    >>> TestMemoryStore().test_checkpoint_files_never_change()
    """

    @abstractmethod
    def make_factory(self) -> StoreFactory:
        """What opens the stores to be checked, each in a folder that the test gives."""
