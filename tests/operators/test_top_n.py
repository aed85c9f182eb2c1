"""Top-N against a model that ranks all rows anew: kept up to date, over changelogs, and by window."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.api.changelog import DELETE, INSERT, ROW_KIND, UPDATE_AFTER, UPDATE_BEFORE, updating
from lakeward.engine.core.errors import LakewardError, RecordError, SchemaError
from lakeward.operators.changelog import materialise
from lakeward.operators.ranking.order import SortColumn
from lakeward.operators.ranking.top_n import TopNConfig
from lakeward.operators.ranking.window_top_n import WindowTopNConfig
from lakeward.operators.top_n import TopN, WindowTopN
from lakeward.testing.harness import HarnessConfig, HarnessSnapshot, OperatorHarness

SCHEMA = pa.schema({"k": pa.string(), "x": pa.int64(), "y": pa.string(), "n": pa.int64()})
PRICE = SortColumn("x", descending=True)
NAME = SortColumn("y")
Row = dict[str, Any]

keys = st.sampled_from(["a", "b", "c", None])
values = st.sampled_from([0, 1, 2, 3, 2**63 - 1, -(2**63), None])
texts = st.sampled_from(["u", "v", "", None])
batches_of_rows = st.lists(st.lists(st.tuples(keys, values, texts), max_size=8), min_size=1, max_size=6)


def numbered(batches: Iterable[Iterable[tuple[Any, ...]]]) -> list[list[Row]]:
    count = iter(range(10_000))
    return [[{"k": k, "x": x, "y": y, "n": next(count)} for k, x, y in batch] for batch in batches]


def sort_key(row: Row, order: Sequence[SortColumn]) -> tuple[Any, ...]:
    key: list[Any] = []
    for one in order:
        value = row[one.column]
        if value is None:
            key += [1, 0]
        elif isinstance(value, str):
            key += [0, tuple(-ord(c) for c in value) if one.descending else value]
        else:
            key += [0, -value if one.descending else value]
    return tuple(key)


def ranked(rows: Iterable[Row], config: TopNConfig | WindowTopNConfig) -> list[Row]:
    """The answer over all rows."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[k] for k in config.keys)].append(row)
    answer = []
    for group in groups.values():
        ordered = sorted(group, key=lambda row: sort_key(row, config.order))
        codes = [sort_key(row, config.order) for row in ordered]
        for place, (row, code) in enumerate(zip(ordered, codes, strict=True), 1):
            numbers = {"row_number": place, "rank": codes.index(code) + 1, "dense_rank": len({*codes[:place]})}
            rank = numbers[config.method]
            if rank <= config.n:
                answer.append({**row, config.rank_column: rank} if config.rank_column else row)
    return answer


def same_rows(found: Iterable[Row], expected: Iterable[Row]) -> None:
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


def check_well_formed(batch: pa.RecordBatch, upsert_key: Sequence[str] | None) -> None:
    """Every -U is followed by its +U, and a place changes once a batch at most."""
    rows = batch.to_pylist()
    kinds = [row[ROW_KIND] for row in rows]
    for at, kind in enumerate(kinds):
        if kind == UPDATE_BEFORE:
            assert kinds[at + 1] == UPDATE_AFTER
            before, after = ({k: v for k, v in rows[i].items() if k != ROW_KIND} for i in (at, at + 1))
            assert before != after
    if upsert_key is not None:
        places = [tuple(row[k] for k in upsert_key) for row in rows if row[ROW_KIND] != UPDATE_BEFORE]
        assert len(places) == len(set(places))


class Answer:
    """What has been sent, applied."""

    def __init__(self, factory: TopN) -> None:
        self.factory = factory
        self.sent: list[pa.RecordBatch] = []

    def take(self, *harnesses: OperatorHarness) -> None:
        for harness in harnesses:
            table = harness.take_table()
            if table is not None:
                for batch in table.to_batches():
                    check_well_formed(batch, self.factory.upsert_key)
                    self.sent.append(batch)

    @property
    def rows(self) -> list[Row]:
        table = pa.Table.from_batches(self.sent, self.factory.output_schema)
        by_key = materialise(table, self.factory.upsert_key).to_pylist()
        same_rows(materialise(table, None).to_pylist(), by_key)  # and as a multiset it comes to the same
        return by_key


configs = [
    TopNConfig(SCHEMA, ("k",), 2, (PRICE,), rank_column="r"),
    TopNConfig(SCHEMA, ("k",), 3, (PRICE, NAME), rank_column="r"),
    TopNConfig(SCHEMA, ("k",), 2, (PRICE,)),
    TopNConfig(SCHEMA, ("k",), 1, (PRICE,)),
    TopNConfig(SCHEMA, ("k",), 1, (NAME, PRICE), rank_column="r"),
    TopNConfig(SCHEMA, ("k", "y"), 2, (SortColumn("x"),), rank_column="r"),
    TopNConfig(SCHEMA, ("k",), 2, (PRICE,), method="rank", rank_column="r"),
    TopNConfig(SCHEMA, ("k",), 2, (NAME,), method="dense_rank", rank_column="r"),
    TopNConfig(SCHEMA, ("k",), 1, (PRICE,), method="rank"),
]


def names(config: TopNConfig) -> str:
    return f"{config.n}-{config.method}-{'-'.join(one.column for one in config.order)}-{config.rank_column}"


@pytest.mark.parametrize("config", configs, ids=names)
@given(given_batches=batches_of_rows)
@settings(max_examples=12, deadline=None)
def test_the_changes_leave_the_batch_answer_after_every_batch(
    config: TopNConfig, given_batches: list[list[tuple[Any, ...]]]
) -> None:
    factory = TopN(config)
    answer, seen = Answer(factory), []
    with OperatorHarness(factory, SCHEMA) as harness:
        for rows in numbered(given_batches):
            harness.send(rows)
            seen += rows
            answer.take(harness)
            same_rows(answer.rows, ranked(seen, config))


def partition(rows: Sequence[Row], harnesses: Sequence[OperatorHarness], key: Sequence[str], schema: pa.Schema) -> None:
    """Send each row to the subtask that owns its key."""
    from lakeward.engine.core.hashing import hash_columns
    from lakeward.engine.core.keygroups import key_groups

    batch = pa.RecordBatch.from_pylist(list(rows), schema=schema)
    groups = key_groups(hash_columns([batch.column(name) for name in key]), 128)
    for harness in harnesses:
        owned = harness._context._config.key_groups
        mask = [owned.start <= group < owned.stop for group in groups.tolist()]
        harness.send(batch.filter(pa.array(mask, pa.bool_())))


@pytest.mark.parametrize("store", ["memory", "rocksdb"])
@pytest.mark.parametrize("config", [configs[0], configs[3], configs[6]], ids=names)
@given(given_batches=batches_of_rows)
@settings(max_examples=4, deadline=None)
def test_it_goes_on_after_a_restore_at_another_parallelism(
    config: TopNConfig, store: Any, given_batches: list[list[tuple[Any, ...]]]
) -> None:
    factory = TopN(config)
    answer, seen = Answer(factory), []
    snapshots: list[HarnessSnapshot] = []
    for parallelism, rows in zip((1, 2, 3, 1, 2, 1), numbered(given_batches), strict=False):
        settings_of = [HarnessConfig(i, parallelism, store=store) for i in range(parallelism)]
        harnesses = [OperatorHarness(factory, SCHEMA, config=one, restored=snapshots) for one in settings_of]
        try:
            partition(rows, harnesses, config.keys, SCHEMA)
            seen += rows
            answer.take(*harnesses)
            same_rows(answer.rows, ranked(seen, config))
            snapshots = [harness.snapshot() for harness in harnesses]
        finally:
            for harness in harnesses:
                harness.close()


UPDATING = updating(SCHEMA)


def changelog(batches: Sequence[Sequence[tuple[Any, ...]]], upsert: bool) -> list[list[Row]]:
    """A well-formed changelog out of any numbers: each says what happens to one of a few rows."""
    live: dict[int, Row] = {}
    made = []
    for batch in batches:
        rows: list[Row] = []
        for place, (k, x, y, action) in enumerate(batch):
            n = action % 4 if upsert else place % 3
            new = {"k": "ab"[n % 2] if upsert else k, "x": x, "y": y, "n": n}
            if n not in live:
                rows.append({**new, ROW_KIND: INSERT})
                live[n] = new
            elif action % 3 == 0:
                rows.append({**live.pop(n), ROW_KIND: DELETE})
            else:
                rows += [{**live[n], ROW_KIND: UPDATE_BEFORE}, {**new, ROW_KIND: UPDATE_AFTER}]
                live[n] = new
        made.append(rows)
    return made


changes = st.lists(
    st.lists(st.tuples(keys, st.sampled_from([1, 2, None]), texts, st.integers(0, 11)), max_size=8),
    min_size=1, max_size=6,
)  # fmt: skip
total = (PRICE, NAME, SortColumn("n"))
"""An order that tells all rows apart: in what order equal ones come after a retraction is not promised."""
over_changes = [
    TopNConfig(UPDATING, ("k",), 2, total, rank_column="r"),
    TopNConfig(UPDATING, ("k",), 2, total),
    TopNConfig(UPDATING, ("k",), 1, total),
    TopNConfig(UPDATING, ("k",), 2, (PRICE,), method="rank", rank_column="r"),
    TopNConfig(UPDATING, ("k",), 1, (PRICE,), method="dense_rank"),
]


@pytest.mark.parametrize("upsert", [True, False], ids=["by key", "by row"])
@pytest.mark.parametrize("config", over_changes, ids=names)
@given(given_batches=changes)
@settings(max_examples=12, deadline=None)
def test_rows_that_are_taken_back_make_room_for_others(
    config: TopNConfig, upsert: bool, given_batches: list[list[tuple[Any, ...]]]
) -> None:
    factory = TopN(replace(config, upsert_key=("k", "n") if upsert else None))
    answer = Answer(factory)
    seen: list[Row] = []
    with OperatorHarness(factory, UPDATING) as harness:
        for rows in changelog(given_batches, upsert):
            harness.send(rows)
            seen += rows
            answer.take(harness)
            table = pa.Table.from_pylist(seen, schema=UPDATING)
            same_rows(answer.rows, ranked(materialise(table, None).to_pylist(), config))


def test_a_row_that_enters_shifts_the_ranks_behind_it() -> None:
    with OperatorHarness(TopN(configs[0]), SCHEMA) as harness:
        harness.send([{"k": "a", "x": 5, "y": "p", "n": 0}, {"k": "a", "x": 3, "y": "q", "n": 1}])
        harness.take()
        harness.send([{"k": "a", "x": 4, "y": "r", "n": 2}, {"k": "a", "x": 1, "y": "s", "n": 3}])
        sent = [(row["n"], row["r"], row[ROW_KIND]) for row in harness.take()]
    assert sent == [(1, 2, UPDATE_BEFORE), (2, 2, UPDATE_AFTER)]


def test_without_update_before_only_the_new_rows_are_sent() -> None:
    with OperatorHarness(TopN(replace(configs[0], update_before=False)), SCHEMA) as harness:
        harness.send([{"k": "a", "x": 5, "y": "p", "n": 0}])
        harness.take()
        harness.send([{"k": "a", "x": 6, "y": "r", "n": 2}])
        sent = [(row["n"], row["r"], row[ROW_KIND]) for row in harness.take()]
    assert sent == [(2, 1, UPDATE_AFTER), (0, 2, INSERT)]


def test_rows_that_fell_out_are_forgotten() -> None:
    with OperatorHarness(TopN(configs[0]), SCHEMA) as harness:
        for start in range(0, 100, 10):
            harness.send([{"k": "a", "x": start + i, "y": "", "n": i} for i in range(10)])
        assert len(harness.operator._rows) == 2  # type: ignore[attr-defined]


def test_nothing_is_sent_when_a_row_is_replaced_by_an_equal_one() -> None:
    row = {"k": "a", "x": 1, "y": "p", "n": 0}
    for config in over_changes:
        with OperatorHarness(TopN(config), UPDATING) as harness:
            harness.send([{**row, ROW_KIND: INSERT}])
            assert len(harness.take()) == 1
            harness.send([{**row, ROW_KIND: UPDATE_BEFORE}, {**row, ROW_KIND: UPDATE_AFTER}])
            assert harness.take() == []


def test_taking_back_a_row_that_is_not_there_is_an_error() -> None:
    with OperatorHarness(TopN(over_changes[0]), UPDATING) as harness, pytest.raises(RecordError, match="not there"):
        harness.send([{"k": "a", "x": 1, "y": "p", "n": 0, ROW_KIND: DELETE}])


@pytest.mark.parametrize("kind", [pa.float64(), pa.uint64(), pa.decimal128(12, 2), pa.bool_(), pa.date32()], ids=str)
@pytest.mark.parametrize("descending", [False, True])
def test_every_type_with_an_order_is_ranked_by_it(kind: pa.DataType, descending: bool) -> None:
    schema = pa.schema({"k": pa.int64(), "x": kind})
    low, high = (False, True) if pa.types.is_boolean(kind) else (1, 2**52)
    high = 20_000 if kind == pa.date32() else 10**9 if pa.types.is_decimal(kind) else high
    rows = [{"k": 1, "x": one} for one in (low, None, high)]
    with OperatorHarness(
        TopN(TopNConfig(schema, ("k",), 2, (SortColumn("x", descending),), rank_column="r")), schema
    ) as h:
        for row in rows:
            h.send(pa.RecordBatch.from_pylist([row], schema=schema))
        found = materialise(h.take_table(), ("k", "r")).to_pylist()
    best = sorted(found, key=lambda row: row["r"])
    expected = pa.array([high, low] if descending else [low, high], kind).to_pylist()
    assert [row["x"] for row in best] == expected


def test_nan_is_the_greatest_number() -> None:
    schema = pa.schema({"k": pa.int64(), "x": pa.float64()})
    config = TopNConfig(schema, ("k",), 4, (SortColumn("x", True),), rank_column="r")
    with OperatorHarness(TopN(config), schema) as harness:
        for x in (1.0, float("nan"), None, float("inf"), -0.0):
            harness.send([{"k": 1, "x": x}])
        found = materialise(harness.take_table(), ("k", "r")).sort_by("r")["x"].to_pylist()
    assert repr(found) == "[nan, inf, 1.0, -0.0]"


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (replace(configs[0], order=(SortColumn("z"),)), "no column 'z'"),
        (replace(configs[0], keys=("z",)), "no column 'z'"),
        (replace(configs[0], rank_column="x"), "a column 'x' already"),
    ],
)
def test_what_cannot_be_ranked_is_refused(config: TopNConfig, problem: str) -> None:
    with pytest.raises(SchemaError, match=problem):
        TopN(config)


# -- windows

END = pa.timestamp("us", "UTC")
WINDOWED = pa.schema({"window_start": END, "window_end": END, "k": pa.string(), "x": pa.int64(), "n": pa.int64()})
window_rows = st.lists(
    st.lists(st.tuples(st.integers(1, 4), keys, st.sampled_from([1, 2, None])), max_size=8), min_size=1, max_size=6
)
WINDOW = ("window_start", "window_end")
window_configs = [
    WindowTopNConfig(WINDOWED, WINDOW, 1, (PRICE,), "rank"),
    WindowTopNConfig(WINDOWED, WINDOW, 2, (PRICE,), rank_column="r"),
    WindowTopNConfig(WINDOWED, (*WINDOW, "k"), 1, (PRICE, SortColumn("n"))),
]


@pytest.mark.parametrize("config", window_configs)
@given(given_batches=window_rows)
@settings(max_examples=12, deadline=None)
def test_a_window_sends_its_answer_once_when_it_is_over(
    config: WindowTopNConfig, given_batches: list[list[tuple[Any, ...]]]
) -> None:
    factory = WindowTopN(config)
    in_time: list[Row] = []
    sent: list[Row] = []
    late, count, snapshots = 0, 0, []
    for watermark, batch in enumerate(given_batches, 1):
        with OperatorHarness(factory, WINDOWED, restored=snapshots) as harness:
            for end, k, x in batch:
                row = {"window_start": end - 1, "window_end": end, "k": k, "x": x, "n": (count := count + 1)}
                if end - 1 > watermark - 1 or watermark == 1:
                    in_time.append(row)
                else:
                    late += 1
                harness.send([row])
            harness.watermark(watermark)
            sent += harness.take()
            snapshots = [harness.snapshot()]
            if watermark == len(given_batches):
                sent += harness.end()
    expected = pa.Table.from_pylist(ranked(in_time, config), schema=factory.output_schema).to_pylist()
    same_rows(sent, expected)


def test_a_window_top_n_over_a_changelog_is_refused() -> None:
    with pytest.raises(LakewardError, match="takes rows back"):
        WindowTopN(WindowTopNConfig(updating(WINDOWED), WINDOW, 1, (PRICE,)))
