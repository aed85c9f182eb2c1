"""What we rely on below pyiceberg's public interface; fails loudly when another version changes it."""

import ast
from pathlib import Path

import pyarrow as pa
import pyiceberg
import pytest
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Transaction
from pyiceberg.table.update.snapshot import _MergeAppendFiles

from lakeward.connectors.iceberg import pyiceberg_internals as internals
from lakeward.connectors.iceberg.lake_table import LakeTable, TableSpec
from lakeward.testing.lake import LocalLake

SCHEMA = pa.schema([("id", pa.int64())])
FOLDER = Path(internals.__file__).parent


@pytest.fixture
def table(lake: LocalLake) -> LakeTable:
    made = LakeTable(TableSpec("db.t", lake.catalog))
    made.ensure(SCHEMA)
    return made


def test_the_version_is_the_one_that_the_internals_were_written_for() -> None:
    assert pyiceberg.__version__.startswith(internals.SUPPORTED_VERSION), (
        "read pyiceberg_internals.py against the new pyiceberg before changing SUPPORTED_VERSION"
    )


@pytest.mark.parametrize("hook", ["_manifests", "_process_manifests", "_summary"])
def test_our_overrides_of_the_append_are_called(table: LakeTable, hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hasattr(_MergeAppendFiles, hook), f"pyiceberg has no {hook} any more: the override is dead"
    called = []
    original = getattr(internals._SpecAwareAppend, hook)

    def watched(self: object, *args: object) -> object:
        called.append(hook)
        return original(self, *args)

    monkeypatch.setattr(internals._SpecAwareAppend, hook, watched)
    table.load().append(pa.table({"id": [1]}))
    internals.stage_append(table.load(), [], {"k": "v"})
    assert called
    table.close()


def test_staging_looks_at_the_metadata_as_it_was_loaded(table: LakeTable, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Transaction) -> None:
        raise AssertionError("the stock transaction copies all metadata at every look")

    monkeypatch.setattr(Transaction, "table_metadata", property(refuse))
    internals.stage_append(table.load(), [], {})
    table.close()


def test_a_commit_on_a_moved_table_is_refused_at_once_and_without_retry(table: LakeTable) -> None:
    stale = table.load()
    staged = internals.stage_append(stale, [], {"mine": "1"})
    table.load().append(pa.table({"id": [1]}))
    with pytest.raises(CommitFailedException):
        internals.commit_once(stale, staged.updates, staged.requirements)
    assert len(table.load().metadata.snapshots) == 1
    staged.discard()
    table.close()


def test_a_staged_snapshot_carries_the_promised_id_and_sequence_number(table: LakeTable) -> None:
    loaded = table.load()
    staged = internals.stage_append(loaded, [], {"mine": "1"})
    metadata = internals.commit_once(loaded, staged.updates, staged.requirements)
    head = metadata.current_snapshot()
    assert head is not None
    assert head.summary is not None
    assert (head.snapshot_id, head.sequence_number) == (staged.snapshot_id, staged.sequence_number)
    assert head.summary["mine"] == "1"
    table.close()


def test_private_names_of_pyiceberg_appear_in_one_file_only() -> None:
    offenders = []
    for file in FOLDER.glob("*.py"):
        if file.name == "pyiceberg_internals.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyiceberg"):
                offenders += [f"{file.name}: {name.name}" for name in node.names if name.name.startswith("_")]
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                owner = node.value.id if isinstance(node.value, ast.Name) else "?"
                offenders += [] if owner in ("self", "cls") else [f"{file.name}:{node.lineno} {owner}.{node.attr}"]
    assert not offenders
