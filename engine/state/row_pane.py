"""One namespace of a row table: its chunks and the index of its keys."""

from __future__ import annotations

import numpy as np

from lakeward.engine.api.state import RowIds
from lakeward.engine.core.errors import InternalError, LakewardError, StateMigrationError
from lakeward.engine.core.hashing import Int64Array
from lakeward.engine.state.keys import KeyBatch
from lakeward.engine.state.row_chunks import Chunk
from lakeward.engine.state.row_directory import RowDirectory
from lakeward.engine.state.row_index import KeyRows
from lakeward.engine.state.row_log import KeyLog
from lakeward.engine.state.row_spec import RowForm
from lakeward.engine.state.row_unique import TwoRowsError, UniqueKeyRows

_BYTES_PER_ROW = 5  # a chunk's id of the row, and whether it is dead
_BYTES_PER_CHUNK = 1_000


class RowPane:
    """Chunks in the order of append, and what is known of their keys.

    Args:
        namespace: Which one.
        form: The table's description.

    Attributes:
        restored: Whether some of the rows that are in no index yet come from a checkpoint.
    """

    def __init__(self, namespace: int, form: RowForm) -> None:
        self.namespace = namespace
        self._form = form
        self.restored = False
        self.keys = UniqueKeyRows(form.codec) if form.spec.unique else KeyRows(form.codec)
        self.log = KeyLog(form.encode)
        self.chunks: list[Chunk] = []
        self.rows = 0
        self.live = 0
        self.counted_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Memory that stays in use when the chunks' rows are in the store."""
        return (
            self.keys.size_bytes
            + self.log.size_bytes
            + self.rows * _BYTES_PER_ROW
            + len(self.chunks) * _BYTES_PER_CHUNK
        )

    def find(self, keys: KeyBatch, directory: RowDirectory) -> tuple[Int64Array, RowIds]:
        """Positions in `keys`, none of which is null, rising, and the rows that have these keys, as they came."""
        if self.log.rows and not self.keys.used:
            found = self.log.find(keys)
            if found is not None:
                return found
        self.index(directory)
        return self.keys.find(keys, directory.chunks)

    def index(self, directory: RowDirectory) -> None:
        """Enter the rows of the log in the index.

        Raises:
            StateMigrationError: Restored rows have one key, in a table whose keys are now said to be unique.
            InternalError: Rows have one key in such a table.
        """
        if self.log.rows:
            for ids, keys in self.log.take():
                try:
                    directory.slots[ids] = self.keys.add(keys, ids)
                except TwoRowsError as error:
                    raise self._two_rows(keys.take(np.array([error.position]))) from None
        self.restored = False

    def _two_rows(self, key: KeyBatch) -> LakewardError:
        spec, columns = self._form.spec, self._form.codec.decode(key)
        row = {name: column[0].as_py() for name, column in zip(spec.key, columns, strict=True)}
        problem = f"state table '{spec.name}', whose keys are unique, has two rows of {row}"
        if not self.restored:
            return InternalError(problem)
        return StateMigrationError(
            f"restored {problem}",
            hint="the job that wrote them did not say that keys are unique: do not say so now (validate= of a join), "
            "or give the operator another uid, or start without state",
        )

    def all_ids(self, directory: RowDirectory) -> RowIds:
        """Ids of the rows, and of removed ones that the index still holds."""
        ids = [chunk.live_ids() for chunk in self.chunks]
        return np.concatenate([*ids, self.keys.dead_ids(directory.chunks)])
