"""Merging manifests in tiers, by copying their entries instead of decoding them.

A commit adds one small manifest; a table that never merged them would be planned ever more slowly. Merging them all
into one rewrites that one again and again, ever larger. So manifests are merged as a log-structured merge tree merges
its runs (O'Neil et al., 1996; size-tiered as in Bigtable's merging compactions): a number of manifests of about the
same number of files become one of the next tier. An entry is rewritten once a tier, a commit merges one tier at most,
and there are fewer manifests than tiers times that number.

A merged entry is the old one with three numbers written out that a manifest's reader inherits from the manifest list.
They come first in Avro's form of it, so the rest, statistics and all, is copied as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

from pyiceberg.avro.codecs import AVRO_CODEC_KEY, KNOWN_CODECS
from pyiceberg.avro.decoder import BinaryDecoder, new_decoder
from pyiceberg.avro.encoder import BinaryEncoder
from pyiceberg.avro.file import META_SCHEMA, SYNC_SIZE, AvroFileHeader
from pyiceberg.avro.resolver import construct_reader
from pyiceberg.conversions import from_bytes
from pyiceberg.io import FileIO
from pyiceberg.manifest import ManifestContent, ManifestEntryStatus, ManifestFile, PartitionFieldSummary
from pyiceberg.types import PrimitiveType, StructType
from pyiceberg.utils.concurrent import ExecutorFactory

MERGED_AT_ONCE_MAX = 100
"""Manifests that one commit merges, unless the table's own count is higher: a table with a long tail catches up."""

_PREFIX = [
    ("status", "int"),
    ("snapshot_id", ["null", "long"]),
    ("sequence_number", ["null", "long"]),
    ("file_sequence_number", ["null", "long"]),
]


@dataclass(frozen=True, slots=True)
class CopiedManifest:
    """A merged manifest that is not written yet.

    Args:
        content: The file.
        files: Data files it names.
        min_sequence_number: The smallest of their sequence numbers.
    """

    content: bytes
    files: int
    min_sequence_number: int


def choose_merge(manifests: Sequence[ManifestFile], fanout: int, target_size_bytes: int) -> list[ManifestFile]:
    """The manifests to merge into one now: the oldest of the lowest tier that is full; empty if none is.

    Args:
        manifests: Those of one partition spec, newest first.
        fanout: Manifests that make a tier full.
        target_size_bytes: What the merged one should not exceed; half as large ones are left alone.

    Returns:
        None or at least two, in the given order.
    """
    fanout = max(fanout, 2)
    tiers: dict[int, list[ManifestFile]] = {}
    for manifest in manifests:
        if manifest.content == ManifestContent.DATA and manifest.manifest_length * 2 < target_size_bytes:
            tiers.setdefault(_tier(manifest, fanout), []).append(manifest)
    for tier in sorted(tiers):
        if len(tiers[tier]) >= fanout:
            return _oldest(tiers[tier], max(fanout, MERGED_AT_ONCE_MAX), target_size_bytes)
    return []


def copy_entries(io: FileIO, manifests: Sequence[ManifestFile]) -> CopiedManifest | None:
    """Merge manifests as bytes, every live entry as an existing one.

    Args:
        io: To read them.
        manifests: Committed ones, of one partition spec.

    Returns:
        The result; None if they are not all written alike in a form that can be copied (other libraries' manifests,
        or such from before a change of the schema): these must be decoded.
    """
    contents = list(ExecutorFactory.get_or_create().map(lambda m: _read(io, m.manifest_path), manifests))
    first = _Container(contents[0])
    if not first.is_copyable():
        return None
    merged, files, smallest = BytesIO(), 0, []
    merged.write(first.header)
    for manifest, content in zip(manifests, contents, strict=True):
        container = _Container(content)
        if container.meta != first.meta:
            return None
        for entry in container.entries():
            found = entry.inherit(manifest) if entry is not None else None
            if found is None:
                return None
            if found.status != ManifestEntryStatus.DELETED:
                first.write_block(merged, found.content)
                files += 1
                smallest.append(found.sequence_number)
    return CopiedManifest(merged.getvalue(), files, min(smallest)) if smallest else None


def live_files(manifests: Sequence[ManifestFile]) -> tuple[int, int] | None:
    """Data files and rows that manifests hold together; None if one does not say."""
    numbers = [
        (m.added_files_count, m.existing_files_count, m.added_rows_count, m.existing_rows_count) for m in manifests
    ]
    known = [(a, e, ar, er) for a, e, ar, er in numbers if None not in (a, e, ar, er)]
    if len(known) < len(numbers):
        return None
    return sum((a or 0) + (e or 0) for a, e, _, _ in known), sum((ar or 0) + (er or 0) for _, _, ar, er in known)


def merge_summaries(
    manifests: Sequence[ManifestFile], partition_type: StructType
) -> list[PartitionFieldSummary] | None:
    """What manifests hold together of each partition field; None if one does not say."""
    stored = [manifest.partitions for manifest in manifests]
    known = [summaries for summaries in stored if summaries is not None]
    types = [field.field_type for field in partition_type.fields]
    if len(known) < len(stored) or any(len(summaries) != len(types) for summaries in known):
        return None
    merged = []
    for position, field_type in enumerate(types):
        if not isinstance(field_type, PrimitiveType):
            return None
        merged.append(_merge_field([summaries[position] for summaries in known], field_type))
    return merged


def _merge_field(summaries: list[PartitionFieldSummary], field_type: PrimitiveType) -> PartitionFieldSummary:
    lower = [s.lower_bound for s in summaries if s.lower_bound is not None]
    upper = [s.upper_bound for s in summaries if s.upper_bound is not None]
    nan = [s.contains_nan for s in summaries]
    return PartitionFieldSummary(
        any(s.contains_null for s in summaries),
        None if None in nan else any(nan),
        min(lower, key=lambda raw: from_bytes(field_type, raw), default=None),
        max(upper, key=lambda raw: from_bytes(field_type, raw), default=None),
    )


def _tier(manifest: ManifestFile, fanout: int) -> int:
    files, tier = (manifest.added_files_count or 0) + (manifest.existing_files_count or 0), 0
    while files >= fanout:
        files, tier = files // fanout, tier + 1
    return tier


def _oldest(manifests: list[ManifestFile], count_max: int, size_max_bytes: int) -> list[ManifestFile]:
    chosen: list[ManifestFile] = []
    size_bytes = 0
    for manifest in manifests[: -count_max - 1 : -1]:
        size_bytes += manifest.manifest_length
        if len(chosen) >= 2 and size_bytes > size_max_bytes:
            break
        chosen.append(manifest)
    return chosen[::-1]


def _read(io: FileIO, path: str) -> bytes:
    with io.new_input(path).open() as stream:
        return stream.read()


@dataclass(frozen=True, slots=True)
class _Inherited:
    """An entry with nothing left to inherit."""

    content: bytes
    status: int
    sequence_number: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """A manifest entry whose first four fields are decoded.

    Args:
        content: All of it.
        status: Added, existing or deleted.
        numbers: Its snapshot id, sequence number and file sequence number; None is inherited.
        prefix_size_bytes: Where the rest begins.
    """

    content: bytes
    status: int
    numbers: tuple[int | None, int | None, int | None]
    prefix_size_bytes: int

    def inherit(self, manifest: ManifestFile) -> _Inherited | None:
        """The entry as an existing (or deleted) one; None if a number is missing that cannot be inherited."""
        if self.status != ManifestEntryStatus.ADDED:
            snapshot_id, sequence_number, file_sequence_number = self.numbers
            if snapshot_id is None or sequence_number is None or file_sequence_number is None:
                return None
            return _Inherited(self.content, self.status, sequence_number)
        inherited = (manifest.added_snapshot_id, manifest.sequence_number, manifest.sequence_number)
        numbers = [own if own is not None else theirs for own, theirs in zip(self.numbers, inherited, strict=True)]
        changed = BytesIO()
        encoder = BinaryEncoder(changed)
        encoder.write_int(ManifestEntryStatus.EXISTING)
        for number in numbers:
            if number is None:
                return None
            encoder.write_int(1)  # the union's second branch: not null
            encoder.write_int(number)
        return _Inherited(
            changed.getvalue() + self.content[self.prefix_size_bytes :], ManifestEntryStatus.EXISTING, numbers[1] or 0
        )


class _Container:
    """An Avro object container file with one record a block, as pyiceberg writes manifests."""

    def __init__(self, content: bytes) -> None:
        self._decoder = new_decoder(content)
        header = construct_reader(META_SCHEMA, {-1: AvroFileHeader}).read(self._decoder)
        self._size_bytes = len(content)
        self._sync: bytes = header.sync
        self.meta: dict[str, str] = header.meta
        self.header = content[: self._decoder.tell()]

    def is_copyable(self) -> bool:
        """Whether entries begin with the four known fields, in blocks that can be decompressed here."""
        fields = json.loads(self.meta["avro.schema"])["fields"]
        prefix = [(field["name"], field["type"]) for field in fields[: len(_PREFIX)]]
        return prefix == _PREFIX and self.meta.get(AVRO_CODEC_KEY, "null") in KNOWN_CODECS

    def entries(self) -> Iterator[_Entry | None]:
        """Every entry; None, and no more, for a block that holds several."""
        codec = KNOWN_CODECS[self.meta.get(AVRO_CODEC_KEY, "null")]  # type: ignore[index]
        while self._decoder.tell() < self._size_bytes:
            if self._decoder.read_int() != 1:
                yield None
                return
            block = self._decoder.read_bytes()
            if self._decoder.read(SYNC_SIZE) != self._sync:
                raise ValueError("a manifest is damaged: a block does not end in the file's sync marker")
            yield _decode_prefix(codec.decompress(block) if codec is not None else block)

    def write_block(self, output: BytesIO, entry: bytes) -> None:
        """Append an entry to a copy of this file."""
        codec = KNOWN_CODECS[self.meta.get(AVRO_CODEC_KEY, "null")]  # type: ignore[index]
        encoder = BinaryEncoder(output)
        encoder.write_int(1)
        encoder.write_bytes(codec.compress(entry)[0] if codec is not None else entry)
        encoder.write(self._sync)


def _decode_prefix(content: bytes) -> _Entry:
    decoder = new_decoder(content)
    status = decoder.read_int()
    numbers = (_optional(decoder), _optional(decoder), _optional(decoder))
    return _Entry(content, status, numbers, decoder.tell())


def _optional(decoder: BinaryDecoder) -> int | None:
    return decoder.read_int() if decoder.read_int() else None
