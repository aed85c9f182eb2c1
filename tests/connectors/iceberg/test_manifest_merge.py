"""Merging manifests: which, and that copying entries gives what decoding them gives."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.manifest import ManifestContent, ManifestFile
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.update.snapshot import _ManifestMergeManager
from pyiceberg.transforms import BucketTransform, IdentityTransform
from pyiceberg.types import LongType, NestedField, StringType

from lakeward.connectors.iceberg import pyiceberg_internals as internals
from lakeward.connectors.iceberg.manifest_lists import ManifestLists
from lakeward.connectors.iceberg.manifest_merge import choose_merge, copy_entries
from lakeward.testing.lake import LocalLake, check_readers_agree

SCHEMA = Schema(NestedField(1, "id", LongType()), NestedField(2, "name", StringType()))
SPEC = PartitionSpec(
    PartitionField(1, 1000, IdentityTransform(), "id"), PartitionField(2, 1001, BucketTransform(4), "name_bucket")
)


def manifest(name: str, files: int, size_bytes: int | None = None) -> ManifestFile:
    return ManifestFile.from_args(
        manifest_path=name,
        manifest_length=5_000 + 350 * files if size_bytes is None else size_bytes,
        partition_spec_id=0,
        content=ManifestContent.DATA,
        sequence_number=1,
        min_sequence_number=1,
        added_snapshot_id=1,
        added_files_count=0,
        existing_files_count=files,
        deleted_files_count=0,
        added_rows_count=0,
        existing_rows_count=files,
        deleted_rows_count=0,
        partitions=[],
        key_metadata=None,
    )


# --- which manifests are merged -------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(fanout=st.integers(2, 20), files=st.integers(1, 30), commits=st.integers(1, 600))
def test_manifests_stay_few_and_an_entry_is_rewritten_once_a_tier(fanout: int, files: int, commits: int) -> None:
    listed: list[ManifestFile] = []
    rewritten = most = 0
    for n in range(commits):
        chosen = choose_merge(listed, fanout, 1 << 40)
        assert not chosen or len(chosen) >= fanout
        left = [m for m in listed if m not in chosen]
        held = sum(m.existing_files_count or 0 for m in chosen)
        listed = [manifest(f"added-{n}", files), *left, *([manifest(f"merged-{n}", held)] if chosen else [])]
        rewritten, most = rewritten + held, max(most, len(listed))
    tiers = next(t for t in range(64) if fanout**t > commits * files)
    assert most <= fanout * (tiers + 1)
    assert rewritten <= commits * files * (tiers + 1)
    assert sum(m.existing_files_count or 0 for m in listed) == commits * files


def test_large_manifests_are_left_alone_and_a_merge_stays_below_the_target() -> None:
    large = [manifest(f"large-{n}", 100, 600) for n in range(20)]
    assert choose_merge(large, 10, 1_000) == []
    middling = [manifest(f"middling-{n}", 100, 400) for n in range(20)]
    assert choose_merge([*large, *middling], 10, 1_000) == middling[-2:]


def test_a_table_with_a_long_tail_catches_up_in_steps() -> None:
    tail = [manifest(f"small-{n}", 1) for n in range(5_000)]
    assert choose_merge(tail, 10, 1 << 30) == tail[-100:]
    assert len(choose_merge(tail, 200, 1 << 30)) == 200


def test_the_lowest_full_tier_goes_first_and_deletes_are_never_merged() -> None:
    upper = [manifest(f"upper-{n}", 5) for n in range(4)]
    lower = [manifest(f"lower-{n}", 1) for n in range(4)]
    assert choose_merge([*upper, *lower], 4, 1 << 20) == lower
    assert choose_merge([*upper, *lower[:3]], 4, 1 << 20) == upper
    deletes = [manifest(f"deletes-{n}", 1) for n in range(4)]
    for one in deletes:
        one._data[3] = ManifestContent.DELETES
    assert choose_merge(deletes, 4, 1 << 20) == []


# --- what a merged manifest holds -----------------------------------------------------------------------------------


def made(lake: LocalLake, properties: dict[str, str] | None = None, spec: PartitionSpec = SPEC) -> Table:
    lake.open_catalog().create_namespace("db")
    return lake.open_catalog().create_table("db.t", SCHEMA, partition_spec=spec, properties=properties or {})


def rows(*ids: int | None) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64()), "name": [f"row-{n}" for n in ids]})


def entries(table: Table, manifests: Sequence[ManifestFile]) -> list[Any]:
    """Live entries, as readers see them, with what they inherit."""
    found = [entry for m in manifests for entry in m.fetch_manifest_entry(table.io)]
    return sorted(
        ([e.snapshot_id, e.sequence_number, e.file_sequence_number, e.data_file._data] for e in found), key=repr
    )


def merged(table: Table, manifests: list[ManifestFile]) -> ManifestFile:
    made = internals._SpecAwareAppend(table, [], {}, ManifestLists())._merge(manifests)
    return internals._as_listed(made, table.metadata.next_sequence_number())


def decoded(table: Table, manifests: list[ManifestFile]) -> ManifestFile:
    """What pyiceberg makes of them."""
    producer = internals._SpecAwareAppend(table, [], {}, ManifestLists())
    return _ManifestMergeManager(1 << 20, 2, True, producer)._create_manifest(table.spec().spec_id, manifests)


def current(table: Table) -> list[ManifestFile]:
    head = table.current_snapshot()
    assert head is not None
    return head.manifests(table.io)


def compare(table: Table, manifests: list[ManifestFile]) -> None:
    ours, theirs = merged(table, manifests), decoded(table, manifests)
    assert entries(table, [ours]) == entries(table, [theirs]) == entries(table, manifests)
    facts = ("existing_files_count", "added_files_count", "deleted_files_count", "existing_rows_count", "content")
    for fact in (*facts, "added_rows_count", "min_sequence_number", "partition_spec_id", "key_metadata"):
        assert getattr(ours, fact) == getattr(theirs, fact), fact
    assert [s._data for s in ours.partitions or []] == [s._data for s in theirs.partitions or []]


@pytest.mark.parametrize("codec", ["gzip", "null", "zstd"])
@pytest.mark.parametrize("spec", [SPEC, PartitionSpec()], ids=["partitioned", "unpartitioned"])
def test_copied_entries_are_those_that_decoding_gives(lake: LocalLake, spec: PartitionSpec, codec: str) -> None:
    table = made(lake, {"write.avro.compression-codec": codec}, spec)
    for ids in ((1, 2, 3), (-5, None), (70_000,), (2**40, 7)):
        table.append(rows(*ids))
    assert copy_entries(table.io, current(table)) is not None
    compare(table, current(table))
    if codec == "zstd":  # which DuckDB 1.5.5 does not know in Avro: it reads the table when all its manifests are new
        with table.transaction() as change:
            change.set_properties({"write.avro.compression-codec": "gzip"})
        table.overwrite(table.scan().to_arrow())
    read = check_readers_agree(table, "id")
    assert read["id"].to_pylist() == [-5, 1, 2, 3, 7, 70_000, 2**40, None]


def test_entries_that_were_merged_before_keep_their_numbers(lake: LocalLake) -> None:
    table = made(lake)
    for n in range(4):
        table.append(rows(n, n + 10))
    once = merged(table, current(table)[:2])
    assert copy_entries(table.io, [once, *current(table)[2:]]) is not None
    compare(table, [once, *current(table)[2:]])


def test_deleted_entries_are_left_out(lake: LocalLake) -> None:
    table = made(lake)
    table.append(rows(1, 2, 3))
    table.append(rows(4))
    table.delete("id = 2")
    assert any(m.deleted_files_count for m in current(table))
    compare(table, current(table))


def test_manifests_from_before_a_change_of_the_schema_are_decoded(lake: LocalLake) -> None:
    table = made(lake)
    table.append(rows(1))
    table.append(rows(2))
    with table.update_schema() as update:
        update.add_column("more", LongType())
    table.append(rows(3).append_column("more", pa.array([1])))
    assert copy_entries(table.io, current(table)) is None
    compare(table, current(table))


def test_manifests_of_format_version_one_are_decoded(lake: LocalLake) -> None:
    table = made(lake, {"format-version": "1"})
    table.append(rows(1))
    table.append(rows(2))
    assert copy_entries(table.io, current(table)) is None
    assert entries(table, [merged(table, current(table))]) == entries(table, current(table))


def test_a_damaged_manifest_is_noticed(lake: LocalLake) -> None:
    table = made(lake)
    table.append(rows(1))
    path = Path(current(table)[0].manifest_path.removeprefix("file://"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="damaged"):
        copy_entries(table.io, current(table))
    path.write_bytes(whole)
    assert copy_entries(table.io, current(table)) is not None


def test_independent_readers_read_a_table_of_merged_manifests(lake: LocalLake) -> None:
    table = made(lake, {"commit.manifest.min-count-to-merge": "2"})
    for n in range(6):
        table.append(rows(n, n + 100))
        staged = internals.stage_append(table, [], {})
        internals.commit_once(table, staged.updates, staged.requirements)
    assert len(current(table)) <= 4
    assert any(m.existing_files_count and m.existing_files_count > 2 for m in current(table))
    read = check_readers_agree(table, "id")
    assert cast("list[int]", read["id"].to_pylist()) == sorted([*range(6), *range(100, 106)])
