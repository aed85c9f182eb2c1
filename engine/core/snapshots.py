"""What a snapshot leaves behind: small, frozen, JSON-able descriptions of state files and positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lakeward.engine.core.errors import CorruptionError
from lakeward.engine.core.ids import Generation, OperatorId, SubtaskIndex
from lakeward.engine.core.json_types import Json, JsonObject


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of a state snapshot on this machine's disk, not yet in the checkpoint store.

    Args:
        name: Its name inside the snapshot ("000017.sst").
        path: Where it lies now; it does not change any more.
    """

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the checkpoint store, addressed by the run that stored it and by its content.

    Args:
        name: Its name inside the snapshot.
        size_bytes: Its length.
        sha256: Its checksum, and its name in the store.
        generation: The run of the job that stored it. Only checkpoints of that run refer to it.
    """

    name: str
    size_bytes: int
    sha256: str
    generation: Generation


@dataclass(frozen=True, slots=True)
class TableSnapshot:
    """The keyed tables of one operator subtask at a checkpoint.

    Args:
        tables: The table specs as JSON (names, key types, columns, layout version), so that the state can be read
            without the job.
        key_group_start: First key group in it.
        key_group_end: One past the last.
        files: The key-value store's files.
    """

    tables: JsonObject
    key_group_start: int
    key_group_end: int
    files: tuple[StoredFile, ...]


@dataclass(frozen=True, slots=True)
class InFlightRows:
    """Rows that were on their way to an operator subtask when the barrier of a checkpoint overtook them.

    Args:
        index: Which of the operator's inputs they are for.
        file: An Arrow IPC stream; rows of one channel are in their order.
    """

    index: int
    file: StoredFile


@dataclass(frozen=True, slots=True)
class OperatorSnapshot:
    """All state of one operator subtask at a checkpoint.

    Args:
        uid: The operator.
        subtask: Which parallel instance.
        state: What `Operator.snapshot` returned (for a source: its splits and positions); None when nothing.
        keyed: Its keyed tables; None when it has none.
        committables: What a sink's writer prepared for this checkpoint.
        in_flight: Rows that it has still to be given before any others.
    """

    uid: OperatorId
    subtask: SubtaskIndex
    state: JsonObject | None = None
    keyed: TableSnapshot | None = None
    committables: Sequence[JsonObject] = ()
    in_flight: tuple[InFlightRows, ...] = ()

    def files(self) -> tuple[StoredFile, ...]:
        """Every file that it refers to."""
        return (*(self.keyed.files if self.keyed else ()), *(one.file for one in self.in_flight))


class JsonFields:
    """Reads a JSON object field by field, and refuses a missing, unknown or wrongly typed one.

    >>> fields = JsonFields({"name": "000017.sst", "size": 3}, "state file")
    >>> fields.text("name"), fields.integer("size")
    ('000017.sst', 3)
    >>> fields.done()

    Args:
        data: What was decoded.
        what: What it should be, for the error.
    """

    __slots__ = ("_data", "_used", "_what")

    def __init__(self, data: Json, what: str) -> None:
        self._what = what
        self._used: set[str] = set()
        if not isinstance(data, Mapping):
            raise self._error("is not an object")
        self._data: JsonObject = data

    def text(self, name: str) -> str:
        """A string field."""
        value = self._take(name)
        if not isinstance(value, str):
            raise self._error(f"field '{name}' is not a text")
        return value

    def integer(self, name: str) -> int:
        """A field with a whole number of zero or more."""
        value = self._take(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self._error(f"field '{name}' is not a whole number of zero or more")
        return value

    def flag(self, name: str) -> bool:
        """A true or false field."""
        value = self._take(name)
        if not isinstance(value, bool):
            raise self._error(f"field '{name}' is not true or false")
        return value

    def obj(self, name: str) -> JsonObject:
        """A field with an object."""
        value = self._take(name)
        if not isinstance(value, Mapping):
            raise self._error(f"field '{name}' is not an object")
        return value

    def optional_obj(self, name: str) -> JsonObject | None:
        """A field with an object or null."""
        value = self._take(name)
        if value is not None and not isinstance(value, Mapping):
            raise self._error(f"field '{name}' is not an object or null")
        return value

    def items(self, name: str) -> Sequence[Json]:
        """A field with a list."""
        value = self._take(name)
        if not isinstance(value, list | tuple):
            raise self._error(f"field '{name}' is not a list")
        return value

    def optional_items(self, name: str) -> Sequence[Json]:
        """A field with a list; an empty one when there is no such field."""
        return self.items(name) if name in self._data else ()

    def done(self) -> None:
        """Refuse fields that nobody read.

        Raises:
            CorruptionError: There are some.
        """
        unknown = sorted(self._data.keys() - self._used)
        if unknown:
            raise self._error(f"has unknown fields {unknown}")

    def _take(self, name: str) -> Json:
        if name not in self._data:
            raise self._error(f"has no field '{name}'")
        self._used.add(name)
        return self._data[name]

    def _error(self, problem: str) -> CorruptionError:
        return CorruptionError(
            f"{self._what} {problem}", hint="it is damaged, or was written by something else than this Lakeward"
        )


def stored_file_to_json(file: StoredFile) -> JsonObject:
    """A stored file as JSON."""
    return {
        "name": file.name,
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
        "generation": file.generation,
    }


def stored_file_from_json(data: Json) -> StoredFile:
    """The stored file that `stored_file_to_json` wrote.

    Raises:
        CorruptionError: It is something else.
    """
    fields = JsonFields(data, "stored file")
    file = StoredFile(
        name=fields.text("name"),
        size_bytes=fields.integer("size_bytes"),
        sha256=fields.text("sha256"),
        generation=Generation(fields.integer("generation")),
    )
    fields.done()
    return file


def snapshot_to_json(snapshot: OperatorSnapshot) -> JsonObject:
    """An operator's snapshot as JSON, for manifests, logs and messages between processes.

    >>> snapshot_from_json(snapshot_to_json(OperatorSnapshot(OperatorId("orders"), SubtaskIndex(0), {"offset": 7})))
    OperatorSnapshot(uid='orders', subtask=0, state={'offset': 7}, keyed=None, committables=(), in_flight=())
    """
    rows: JsonObject = {"in_flight": [_in_flight_to_json(one) for one in snapshot.in_flight]}
    return {
        "uid": snapshot.uid,
        "subtask": snapshot.subtask,
        "state": snapshot.state,
        "keyed": None if snapshot.keyed is None else _table_to_json(snapshot.keyed),
        "committables": list(snapshot.committables),
        **(rows if snapshot.in_flight else {}),
    }


def snapshot_from_json(data: Json) -> OperatorSnapshot:
    """The snapshot that `snapshot_to_json` wrote.

    Raises:
        CorruptionError: It is something else.
    """
    fields = JsonFields(data, "operator snapshot")
    keyed = fields.optional_obj("keyed")
    snapshot = OperatorSnapshot(
        uid=OperatorId(fields.text("uid")),
        subtask=SubtaskIndex(fields.integer("subtask")),
        state=fields.optional_obj("state"),
        keyed=None if keyed is None else _table_from_json(keyed),
        committables=tuple(_committable(item) for item in fields.items("committables")),
        in_flight=tuple(_in_flight_from_json(item) for item in fields.optional_items("in_flight")),
    )
    fields.done()
    return snapshot


def _table_to_json(table: TableSnapshot) -> JsonObject:
    return {
        "tables": table.tables,
        "key_group_start": table.key_group_start,
        "key_group_end": table.key_group_end,
        "files": [stored_file_to_json(file) for file in table.files],
    }


def _table_from_json(data: Json) -> TableSnapshot:
    fields = JsonFields(data, "table snapshot")
    table = TableSnapshot(
        tables=fields.obj("tables"),
        key_group_start=fields.integer("key_group_start"),
        key_group_end=fields.integer("key_group_end"),
        files=tuple(stored_file_from_json(file) for file in fields.items("files")),
    )
    fields.done()
    return table


def _in_flight_to_json(rows: InFlightRows) -> JsonObject:
    return {"index": rows.index, "file": stored_file_to_json(rows.file)}


def _in_flight_from_json(data: Json) -> InFlightRows:
    fields = JsonFields(data, "rows in flight")
    rows = InFlightRows(fields.integer("index"), stored_file_from_json(fields.obj("file")))
    fields.done()
    return rows


def _committable(data: Json) -> JsonObject:
    if not isinstance(data, Mapping):
        raise CorruptionError("a committable in an operator snapshot is not an object")
    return data
