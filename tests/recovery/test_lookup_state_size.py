"""What checkpoints of a lookup join write: its table once, however many checkpoints there are."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.execute import execute
from lakeward.testing import BARRIER, Item, ScriptedSource

ROWS = pa.schema({"k": pa.int64(), "v": pa.int64()})
NAMES = pa.schema({"k": pa.int64(), "name": pa.string()})
TABLE_ROWS = 20_000
CHECKPOINTS = 8


@dataclass
class CountingStore(MemoryStore):
    """Counts what is written, by checkpoint."""

    written: list[int] = field(default_factory=lambda: [0])

    def __post_init__(self) -> None:
        super().__init__()

    def put(self, path: str, data: bytes) -> None:
        super().put(path, data)
        self.written[-1] += len(data)

    def create_if_absent(self, path: str, data: bytes) -> bool:
        made = super().create_if_absent(path, data)
        self.written[-1] += len(data) if made else 0
        if path.endswith("/committed.json"):
            self.written.append(0)
        return made


def names(first: int, count: int) -> pa.RecordBatch:
    """Rows whose text does not compress."""
    letters = np.random.default_rng(first).bytes(30 * count).hex()
    texts = [letters[n * 60 : (n + 1) * 60] for n in range(count)]
    return pa.record_batch([pa.array(np.arange(first, first + count)), pa.array(texts)], schema=NAMES)


def bytes_per_checkpoint(rows: list[Item], table: list[Item], parallelism: int) -> list[int]:
    """What each checkpoint of a job has written."""
    config = lw.EngineConfig(restart=lw.RestartConfig(attempts_max=0))
    env = lw.StreamExecutionEnvironment(parallelism=parallelism, checkpoint_interval="20ms", config=config)
    left, right = (
        env.from_source(ScriptedSource(schema, script), uid=uid, parallelism=1)
        for schema, script, uid in ((ROWS, rows, "rows"), (NAMES, table, "names"))
    )
    left.lookup_join(right, on="k", how="left", uid="join").sink_to(lw.BlackholeSink(), uid="sink")
    store = CountingStore()
    assert execute(env.definition("lookup", store)).ended
    return store.written[:-1]


@pytest.mark.parametrize("parallelism", [1, 3])
def test_the_table_of_a_lookup_join_is_written_once_however_many_checkpoints_there_are(parallelism: int) -> None:
    table, rows = names(0, TABLE_ROWS), list[Item]()
    for number in range(CHECKPOINTS):
        rows += [[{"k": number * 1000 + n, "v": number} for n in range(100)], BARRIER]
    written = bytes_per_checkpoint(rows, [table], parallelism)
    assert len(written) >= CHECKPOINTS
    assert sum(written) < 1.3 * table.nbytes
    later = [size for number, size in enumerate(written) if sum(written[:number]) > table.nbytes // 2]
    assert len(later) >= CHECKPOINTS - 2
    assert max(later) < table.nbytes // 100, "a checkpoint refers to the table, and does not write it again"


def test_while_the_table_is_read_a_row_is_written_a_few_times_not_in_each_checkpoint() -> None:
    parts = 16
    table: list[Item] = []
    for number in range(parts):
        table += [names(number * TABLE_ROWS // parts, TABLE_ROWS // parts), BARRIER]
    written = bytes_per_checkpoint([[{"k": 1, "v": 1}]], table, 1)
    assert len(written) >= parts
    assert sum(written) < 4 * names(0, TABLE_ROWS).nbytes, "each row is copied a logarithmic number of times"
