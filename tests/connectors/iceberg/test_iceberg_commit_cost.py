"""What a commit reads and writes does not grow with the number of commits; counted, not timed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO
from pyiceberg.table import Table

from lakeward.connectors.iceberg.catalogs import open_catalog
from lakeward.connectors.iceberg.committables import WrittenFile, commit_token
from lakeward.connectors.iceberg.lake_table import LakeTable, TableSpec
from lakeward.connectors.iceberg.maintenance import Expiry, plan_expiry
from lakeward.connectors.iceberg.manifest_lists import ManifestLists
from lakeward.connectors.iceberg.markers import Marker, Position
from lakeward.connectors.iceberg.publish import Publisher
from lakeward.connectors.iceberg.recovery import Policy
from lakeward.engine.core.clock import SystemClock
from lakeward.testing.lake import LocalLake

TABLE = "shop.orders"
SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string())])


@dataclass
class Traffic:
    """Files of one commit."""

    read: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    deleted: int = 0
    manifests: int = 0


class Stream:
    """A sink's commits, one after another; each of a data file of one row, written past the sink's writers."""

    def __init__(self, lake: LocalLake) -> None:
        self.lake = LakeTable(TableSpec(TABLE, lake.catalog))
        table = self.lake.ensure(SCHEMA)
        self.uuid = str(table.metadata.table_uuid)
        self.schema = table.schema().as_arrow()
        self.folder = lake.folder / "files"
        self.folder.mkdir()
        self.done = 0
        self.last: Marker | None = None
        self.restart()

    def restart(self) -> None:
        self.publisher = Publisher(self.lake, self.uuid, Policy(TABLE, "mine"), None, SystemClock())

    def commit(self) -> None:
        self.done += 1
        files = [self.write(self.done)]
        target = Marker(Position(1, self.done), commit_token(files), "job")
        self.last = self.publisher.publish(files, target, self.last)

    def write(self, number: int) -> WrittenFile:
        path, name = self.folder / f"{number:06}.parquet", f"row-{number}"
        pq.write_table(pa.Table.from_arrays([pa.array([number]), pa.array([name])], schema=self.schema), path)
        counts = {1: 1, 2: 1}
        bounds = {1: number.to_bytes(8, "little"), 2: name.encode()}
        return WrittenFile(
            path=path.as_uri(),
            spec_id=0,
            schema_id=0,
            partition=(),
            record_count=1,
            size_bytes=path.stat().st_size,
            column_sizes=counts,
            value_counts=counts,
            null_counts={1: 0, 2: 0},
            nan_counts={},
            lower_bounds=bounds,
            upper_bounds=bounds,
            split_offsets=(4,),
        )

    def load(self) -> Table:
        return self.publisher.load()


@pytest.fixture
def stream(lake: LocalLake) -> Iterator[Stream]:
    made = Stream(lake)
    yield made
    made.lake.close()


def watch(monkeypatch: pytest.MonkeyPatch) -> Traffic:
    """Counts every file that is opened, written or deleted through pyiceberg's file system."""
    traffic = Traffic()
    pending: list[str] = []
    open_file, create, delete = PyArrowFile.open, PyArrowFile.create, PyArrowFileIO.delete

    def opened(self: PyArrowFile, *args: Any, **kwargs: Any) -> Any:
        traffic.read.append(len(self))
        return open_file(self, *args, **kwargs)

    def created(self: PyArrowFile, *args: Any, **kwargs: Any) -> Any:
        pending.append(self.location)
        return create(self, *args, **kwargs)

    def deleted(self: PyArrowFileIO, location: Any) -> None:
        traffic.deleted += 1
        delete(self, location)

    monkeypatch.setattr(PyArrowFile, "open", opened)
    monkeypatch.setattr(PyArrowFile, "create", created)
    monkeypatch.setattr(PyArrowFileIO, "delete", deleted)
    traffic.written = pending  # type: ignore[assignment]
    return traffic


def take(traffic: Traffic) -> Traffic:
    """What was counted since the last call."""
    sizes = [Path(str(path).removeprefix("file://")).stat().st_size for path in traffic.written]
    taken = Traffic(list(traffic.read), sizes, traffic.deleted)
    traffic.read.clear()
    traffic.written.clear()
    traffic.deleted = 0
    return taken


def test_the_four_hundredth_commit_reads_and_writes_no_more_than_the_hundredth(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic, commits = watch(monkeypatch), []
    for _ in range(400):
        stream.commit()
        taken = take(traffic)
        head = stream.load().metadata.current_snapshot()
        assert head is not None
        taken.manifests = len(stream.publisher.lists.read(head, stream.load().io))
        commits.append(taken)
    early, late = commits[100:200], commits[300:400]
    for what in ("read", "written"):
        before, after = (sum(sum(getattr(c, what)) for c in part) for part in (early, late))
        assert after <= before * 1.2, f"{what}: {before} bytes for commits 101 to 200, {after} for 301 to 400"
        before, after = (max(sum(getattr(c, what)) for c in part) for part in (early, late))
        assert after <= before * 1.2, f"{what} at most by one commit: {before} bytes, then {after}"
    assert max(len(c.read) for c in commits[1:]) <= 10, "a commit reads nothing but the manifests that it merges"
    assert sum(len(c.read) > 0 for c in late) <= 12, "most commits merge nothing, so they read nothing"
    assert max(c.manifests for c in commits) <= 30
    assert max(c.deleted for c in late) <= 1 + 1 + 10, "no burst: a metadata file, a manifest list, merged manifests"
    assert len(stream.load().metadata.snapshots) == 30


def test_the_manifest_lists_in_memory_are_those_in_storage(stream: Stream) -> None:
    for _ in range(35):
        stream.commit()
    table = stream.load()
    for snapshot in table.metadata.snapshots:
        known = stream.publisher.lists.read(snapshot, table.io)
        stored = snapshot.manifests(table.io)
        assert [repr(m) for m in known] == [repr(m) for m in stored]


def test_the_metadata_in_memory_is_that_in_storage(stream: Stream, lake: LocalLake) -> None:
    for _ in range(33):
        stream.commit()
        known, stored = stream.load(), lake.load(TABLE)
        assert known.metadata_location == stored.metadata_location
        assert known.metadata.model_dump_json(exclude_none=True) == stored.metadata.model_dump_json(exclude_none=True)
        assert known.io.properties == stored.io.properties


def test_a_commit_copies_no_snapshot_and_changes_no_metadata_that_was_handed_out(stream: Stream) -> None:
    for _ in range(32):
        stream.commit()
    before = stream.load()
    was = before.metadata.model_dump_json()
    stream.commit()
    after = stream.load()
    assert before.metadata.model_dump_json() == was
    assert after.metadata_location != before.metadata_location
    known = {id(snapshot) for snapshot in before.metadata.snapshots}
    copies = [snapshot.sequence_number for snapshot in after.metadata.snapshots if id(snapshot) not in known]
    assert copies == [4, 33], "the oldest one, whose parent was expired, and the new one"


def test_a_change_by_somebody_else_is_seen_at_the_next_load(stream: Stream, lake: LocalLake) -> None:
    stream.commit()
    with lake.load(TABLE).transaction() as transaction:
        transaction.set_properties({"theirs": "1"})
    assert stream.load().metadata.properties["theirs"] == "1"
    stream.commit()
    assert lake.load(TABLE).metadata.properties["theirs"] == "1"


def test_after_a_restart_expiry_goes_on_and_leaves_no_manifest_behind(stream: Stream, lake: LocalLake) -> None:
    for n in range(75):
        if n % 25 == 13:
            stream.restart()
        stream.commit()
    table = lake.load(TABLE)
    assert len(table.metadata.snapshots) == 30
    live = {m.manifest_path for s in table.metadata.snapshots for m in s.manifests(table.io)}
    lists = {s.manifest_list for s in table.metadata.snapshots}
    assert {f"file://{f}" for f in lake.metadata_files(TABLE) if f.suffix == ".avro"} == live | lists


def test_a_manifest_that_an_older_kept_snapshot_uses_is_not_deleted(stream: Stream, lake: LocalLake) -> None:
    for n in range(1, 16):
        stream.commit()
        if n == 5:
            kept = lake.load(TABLE).metadata.current_snapshot_id
            assert kept is not None
            lake.load(TABLE).manage_snapshots().create_tag(kept, "keep").commit()
    stream.publisher = Publisher(stream.lake, stream.uuid, Policy(TABLE, "mine"), 2, SystemClock())
    for _ in range(30):
        stream.commit()
    table = lake.load(TABLE)
    assert len(table.metadata.snapshots) == 3
    for snapshot in table.metadata.snapshots:
        for manifest in snapshot.manifests(table.io):
            assert manifest.fetch_manifest_entry(table.io)


def test_expiry_reads_only_snapshots_that_can_share_a_manifest(stream: Stream) -> None:
    for _ in range(12):
        stream.commit()
    table, lists = stream.load(), ManifestLists()
    plan = plan_expiry(table.metadata, 5)
    old = next(s for s in table.metadata.snapshots if s.sequence_number == 1)
    late = next(s for s in table.metadata.snapshots if s.sequence_number == 11)
    dead = Expiry((late,), (old,))._unreachable(table.io, lists)
    assert late.manifest_list in dead
    assert [s.sequence_number for s in plan.expired] == [5, 4, 3, 2, 1]


def test_manifest_lists_in_memory_are_bounded(stream: Stream) -> None:
    for _ in range(8):
        stream.commit()
    table, lists = stream.load(), ManifestLists(remembered_max=10)
    for snapshot in table.metadata.snapshots:
        assert lists.read(snapshot, table.io) == tuple(snapshot.manifests(table.io))
    assert lists._size == sum(len(known) for known in lists._lists.values()) <= 10


def test_catalogs_of_other_kinds_are_left_as_they_are(lake: LocalLake) -> None:
    from pyiceberg.catalog.memory import InMemoryCatalog

    from lakeward.connectors.iceberg.pyiceberg_internals import remember_metadata

    memory = InMemoryCatalog("memory", warehouse=lake.folder.as_uri())
    assert remember_metadata(memory) is memory
    memory.close()
    opened = open_catalog(lake.catalog)
    assert remember_metadata(opened) is opened
    opened.close()
