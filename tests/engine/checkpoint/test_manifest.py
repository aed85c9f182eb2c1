from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.checkpoint.manifest import (
    CheckpointClaim,
    CheckpointManifest,
    CommitMarker,
    CondemnedFiles,
    GenerationRecord,
    JobRecord,
    sha256_hex,
)
from lakeward.engine.checkpoint.paths import is_plain_name, is_sha256
from lakeward.engine.core.errors import CheckpointError, CorruptionError, InternalError
from lakeward.engine.core.ids import CheckpointId, Generation, JobId, OperatorId, SubtaskIndex
from lakeward.engine.core.snapshots import OperatorSnapshot, StoredFile, TableSnapshot

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
COUNT = st.integers(0, 2**53)
FILE = st.builds(
    StoredFile,
    name=st.text("abc.0/", min_size=1, max_size=6).filter(is_plain_name),
    size_bytes=COUNT,
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    generation=COUNT.map(Generation),
)
TABLE = st.builds(
    TableSnapshot,
    tables=OBJECT,
    key_group_start=COUNT,
    key_group_end=COUNT,
    files=st.lists(FILE, max_size=3).map(tuple),
)
SNAPSHOT = st.builds(
    OperatorSnapshot,
    uid=TEXT.map(OperatorId),
    subtask=st.integers(0, 100).map(SubtaskIndex),
    state=st.none() | OBJECT,
    keyed=st.none() | TABLE,
    committables=st.lists(OBJECT, max_size=2).map(tuple),
)
MANIFEST = st.builds(
    CheckpointManifest,
    job_id=TEXT.map(JobId),
    job_name=TEXT,
    checkpoint=COUNT.map(CheckpointId),
    generation=COUNT.map(Generation),
    created_us=COUNT,
    max_parallelism=COUNT,
    parallelism=st.dictionaries(TEXT.map(OperatorId), COUNT, max_size=3),
    operators=st.lists(SNAPSHOT, max_size=3, unique_by=lambda one: (one.uid, one.subtask)).map(tuple),
    committers=st.dictionaries(TEXT.map(OperatorId), st.none() | OBJECT, max_size=2),
    final=st.booleans(),
)

STORED = StoredFile("db/000017.sst", 3, "ab" * 32, Generation(3))
EXAMPLE = CheckpointManifest(
    job_id=JobId("j-1"),
    job_name="revenue",
    checkpoint=CheckpointId(42),
    generation=Generation(3),
    created_us=1_767_225_600_000_000,
    max_parallelism=128,
    parallelism={OperatorId("orders"): 1, OperatorId("window"): 2},
    operators=(
        OperatorSnapshot(OperatorId("orders"), SubtaskIndex(0), {"splits": {"orders-0": 17}}),
        OperatorSnapshot(
            OperatorId("window"),
            SubtaskIndex(0),
            keyed=TableSnapshot({"counts": {"version": 1}}, 0, 64, (STORED,)),
        ),
        OperatorSnapshot(OperatorId("revenue"), SubtaskIndex(0), committables=({"v": 1, "file": "a.parquet"},)),
    ),
    committers={OperatorId("revenue"): {"sink_id": "s-1"}},
)
OTHERS = [
    CheckpointClaim(CheckpointId(42), Generation(3), "ab" * 32, Generation(4)),
    CommitMarker(CheckpointId(42), Generation(3), "ab" * 32, 17),
    JobRecord(JobId("j-1"), "revenue", 17),
    GenerationRecord(Generation(3), JobId("j-1"), "revenue", 17, "host:4711"),
    GenerationRecord(Generation(3), JobId("j-1"), "revenue", 17, "host:4711", version=1),
    CondemnedFiles(Generation(3), ("files/000003/ab/ab",)),
]


@settings(max_examples=60, deadline=None)
@given(MANIFEST)
def test_every_manifest_comes_back_equal_and_with_the_same_bytes(manifest: CheckpointManifest) -> None:
    data = manifest.to_bytes()
    again = CheckpointManifest.from_bytes(data)
    assert again == manifest
    assert again.to_bytes() == data


@pytest.mark.parametrize("document", OTHERS, ids=lambda one: type(one).__name__)
def test_every_other_document_comes_back_equal(
    document: CheckpointClaim | CommitMarker | JobRecord | GenerationRecord | CondemnedFiles,
) -> None:
    assert type(document).from_bytes(document.to_bytes()) == document


def test_the_format_is_pinned_by_a_golden_checksum() -> None:
    """A change here makes existing checkpoints unreadable unless the old version stays readable."""
    assert sha256_hex(EXAMPLE.to_bytes()) == "c2639ff249a74e6fb1f3a595d225de411b474877393b6bda59bc6e5dce9448fc"


@pytest.mark.parametrize("seed", range(4))
def test_every_flipped_bit_lost_tail_and_added_byte_is_found(seed: int) -> None:
    rng = random.Random(seed)
    data = EXAMPLE.to_bytes()
    for _ in range(250):
        changed = bytearray(data)
        how = rng.randrange(3)
        if how == 0:
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif how == 1:
            del changed[rng.randrange(len(data)) :]
        else:
            changed.insert(rng.randrange(len(data) + 1), rng.randrange(256))
        if bytes(changed) != data:
            with pytest.raises(CorruptionError):
                CheckpointManifest.from_bytes(bytes(changed), "here")


def sealed(body: dict[str, object]) -> bytes:
    encoded = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return b'{"sha256":"%s","body":%s}\n' % (hashlib.sha256(encoded).hexdigest().encode(), encoded)


def body_of(manifest: CheckpointManifest) -> dict[str, object]:
    body: dict[str, object] = orjson.loads(manifest.to_bytes())["body"]
    return body


def test_a_newer_version_is_refused_with_a_hint_and_is_not_called_damage() -> None:
    data = sealed({**body_of(EXAMPLE), "version": 99, "something_new": 1})
    with pytest.raises(CheckpointError, match="format version 99; this Lakeward reads versions up to 2") as caught:
        CheckpointManifest.from_bytes(data)
    assert not isinstance(caught.value, CorruptionError)
    assert "upgrade" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"final": 1}, "'final' is not true or false"),
        ({"checkpoint": "42"}, "'checkpoint' is not a whole number"),
        ({"checkpoint": -1}, "'checkpoint' is not a whole number"),
        ({"checkpoint": True}, "'checkpoint' is not a whole number"),
        ({"operators": {}}, "'operators' is not a list"),
        ({"operators": [3]}, "operator snapshot is not an object"),
        ({"committers": {"x": 3}}, "committer's state"),
        ({"parallelism": {"x": "2"}}, "'x' is not a whole number"),
        ({"surprise": 1}, "unknown fields"),
        ({"job_name": None}, "'job_name' is not a text"),
        ({"kind": "commit marker"}, "holds a commit marker"),
    ],
)
def test_a_field_of_the_wrong_type_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(CorruptionError, match=message):
        CheckpointManifest.from_bytes(sealed({**body_of(EXAMPLE), **change}))


def test_a_missing_field_is_refused() -> None:
    body = body_of(EXAMPLE)
    del body["generation"]
    with pytest.raises(CorruptionError, match="no field 'generation'"):
        CheckpointManifest.from_bytes(sealed(body))


@pytest.mark.parametrize(
    "file",
    [replace(STORED, name="../../etc/passwd"), replace(STORED, name="/x"), replace(STORED, sha256="../" * 20)],
)
def test_a_manifest_cannot_point_outside_its_directories(file: StoredFile) -> None:
    assert not (is_plain_name(file.name) and is_sha256(file.sha256))
    snapshot = OperatorSnapshot(OperatorId("w"), SubtaskIndex(0), keyed=TableSnapshot({}, 0, 1, (file,)))
    data = replace(EXAMPLE, operators=(snapshot,)).to_bytes()
    with pytest.raises(CorruptionError, match="which no Lakeward writes"):
        CheckpointManifest.from_bytes(data)


@pytest.mark.parametrize(
    ("bad", "message"),
    [(float("nan"), "number nan"), (float("inf"), "number inf"), (2**70, "as JSON"), ({1: 2}, "as JSON")],
)
def test_state_that_json_would_change_is_refused_when_written(bad: object, message: str) -> None:
    snapshot = OperatorSnapshot(OperatorId("w"), SubtaskIndex(0), {"deep": [{"er": bad}]})  # type: ignore[dict-item]
    with pytest.raises(CheckpointError, match=message):
        replace(EXAMPLE, operators=(snapshot,)).to_bytes()


def test_two_snapshots_of_one_subtask_are_a_bug() -> None:
    with pytest.raises(InternalError, match="two snapshots"):
        replace(EXAMPLE, operators=EXAMPLE.operators[:1] * 2).to_bytes()


def test_files_shared_by_subtasks_are_counted_once() -> None:
    snapshot = EXAMPLE.operators[1]
    twice = replace(EXAMPLE, operators=(snapshot, replace(snapshot, subtask=SubtaskIndex(1))))
    assert len(twice.files()) == 1
    assert twice.size_bytes() == 3
