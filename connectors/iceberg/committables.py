"""What a checkpoint stores of a data file: small, versioned JSON from which the committer can publish it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from lakeward.engine.core.errors import SinkStateError
from lakeward.engine.core.json_types import JsonObject

COMMITTABLE_VERSION = 1
EMPTY_TOKEN = "empty"


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A finished data file that no reader sees yet.

    Args:
        path: Its full location.
        spec_id: The partition spec it was written under.
        schema_id: The schema it was written under.
        partition: Its partition values as Iceberg's single-value binary form; None for null.
        record_count: Rows.
        size_bytes: Length of the file.
        column_sizes: Compressed bytes by field id.
        value_counts: Values with nulls by field id.
        null_counts: Nulls by field id.
        nan_counts: NaNs by field id of float columns.
        lower_bounds: Smallest value by field id, in binary form, possibly cut short.
        upper_bounds: Largest value by field id.
        split_offsets: Where row groups begin.
    """

    path: str
    spec_id: int
    schema_id: int
    partition: tuple[bytes | None, ...]
    record_count: int
    size_bytes: int
    column_sizes: Mapping[int, int]
    value_counts: Mapping[int, int]
    null_counts: Mapping[int, int]
    nan_counts: Mapping[int, int]
    lower_bounds: Mapping[int, bytes]
    upper_bounds: Mapping[int, bytes]
    split_offsets: tuple[int, ...]

    def to_json(self) -> JsonObject:
        """The committable; see `from_json`."""
        return {
            "v": COMMITTABLE_VERSION,
            "path": self.path,
            "spec": self.spec_id,
            "schema": self.schema_id,
            "partition": [None if value is None else _text(value) for value in self.partition],
            "rows": self.record_count,
            "bytes": self.size_bytes,
            "sizes": _numbers_out(self.column_sizes),
            "values": _numbers_out(self.value_counts),
            "nulls": _numbers_out(self.null_counts),
            "nans": _numbers_out(self.nan_counts),
            "lower": {str(key): _text(value) for key, value in self.lower_bounds.items()},
            "upper": {str(key): _text(value) for key, value in self.upper_bounds.items()},
            "splits": list(self.split_offsets),
        }

    @classmethod
    def from_json(cls, committable: JsonObject) -> WrittenFile:
        """Read a committable of this or an older version.

        Raises:
            SinkStateError: A newer version of Lakeward wrote it.
        """
        if committable.get("v") != COMMITTABLE_VERSION:
            raise SinkStateError(
                f"the checkpoint holds an Iceberg committable of version {committable.get('v')!r};"
                f" this Lakeward reads version {COMMITTABLE_VERSION}",
                hint="restore with the Lakeward version that wrote the checkpoint, or a newer one",
            )
        stored = cast("Mapping[str, Any]", committable)
        return cls(
            path=stored["path"],
            spec_id=stored["spec"],
            schema_id=stored["schema"],
            partition=tuple(None if value is None else _bytes(value) for value in stored["partition"]),
            record_count=stored["rows"],
            size_bytes=stored["bytes"],
            column_sizes=_numbers_in(stored["sizes"]),
            value_counts=_numbers_in(stored["values"]),
            null_counts=_numbers_in(stored["nulls"]),
            nan_counts=_numbers_in(stored["nans"]),
            lower_bounds={int(key): _bytes(value) for key, value in stored["lower"].items()},
            upper_bounds={int(key): _bytes(value) for key, value in stored["upper"].items()},
            split_offsets=tuple(stored["splits"]),
        )


def commit_token(files: Iterable[WrittenFile]) -> str:
    """Names what a commit adds: equal for the same files in any order, different for any other commit.

    It tells "our own commit has landed" from "another run has committed the same checkpoint id".
    """
    paths = sorted(file.path for file in files)
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()[:16] if paths else EMPTY_TOKEN


def read_committables(committables: Sequence[JsonObject]) -> list[WrittenFile]:
    """All files of a checkpoint."""
    return [WrittenFile.from_json(committable) for committable in committables]


def _numbers_out(numbers: Mapping[int, int]) -> dict[str, int]:
    return {str(key): value for key, value in numbers.items()}


def _numbers_in(numbers: Mapping[str, int]) -> dict[int, int]:
    return {int(key): value for key, value in numbers.items()}


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)
