"""Both key-value stores against the conformance suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakeward.engine.core.errors import CheckpointError, CorruptionError
from lakeward.engine.state.kv import StoreFactory
from lakeward.engine.state.memory import MemoryStoreFactory
from lakeward.engine.state.rocksdb import RocksDbStoreFactory
from lakeward.testing import KeyValueStoreSuite

FACTORIES: dict[str, StoreFactory] = {"memory": MemoryStoreFactory(), "rocksdb": RocksDbStoreFactory()}


class TestMemoryStore(KeyValueStoreSuite):
    def make_factory(self) -> StoreFactory:
        return FACTORIES["memory"]


class TestRocksDb(KeyValueStoreSuite):
    def make_factory(self) -> StoreFactory:
        return FACTORIES["rocksdb"]


@pytest.mark.parametrize(("writer", "reader"), [("memory", "rocksdb"), ("rocksdb", "memory")])
def test_files_of_another_kind_of_store_are_refused(writer: str, reader: str, tmp_path: Path) -> None:
    store = FACTORIES[writer].open(str(tmp_path / "a"))
    store.write([(b"a", b"1")])
    store.checkpoint(str(tmp_path / "snapshot"))
    store.close()
    with pytest.raises(CorruptionError, match="another kind of store"):
        FACTORIES[reader].open(str(tmp_path / "snapshot"))


@pytest.mark.parametrize("kind", FACTORIES)
def test_a_checkpoint_into_a_file_in_the_way_is_a_checkpoint_error(kind: str, tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_bytes(b"")
    store = FACTORIES[kind].open(str(tmp_path / "a"))
    with pytest.raises(CheckpointError, match="in-the-way"):
        store.checkpoint(str(tmp_path / "in-the-way" / "snapshot"))
    store.close()
