"""Filter, project and union over batches with nulls, empty batches and slices."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lakeward.dsl.expressions import Expr, bind_columns, col, lit
from lakeward.engine.api.changelog import DELETE, INSERT, UPDATE_AFTER, UPDATE_BEFORE, updating
from lakeward.engine.api.context import Output
from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.core.errors import SchemaError
from lakeward.operators.stateless import Filter, Identity, Project
from lakeward.testing.harness import OperatorHarness

BATCH = pa.record_batch({"a": [1, None, 3, 4], "b": ["x", "y", None, "z"]})


class Collected(Output):
    """Keeps what an operator sends."""

    def __init__(self) -> None:
        self.batches: list[pa.RecordBatch] = []

    def emit(self, batch: pa.RecordBatch) -> None:
        self.batches.append(batch)

    def emit_side(self, tag: str, batch: pa.RecordBatch) -> None:
        raise AssertionError(tag)


def run(factory: OperatorFactory, *batches: pa.RecordBatch) -> list[pa.RecordBatch]:
    out, operator = Collected(), factory.create()
    for batch in batches:
        operator.on_batch(batch, out)
    return out.batches


def filtering(predicate: Expr) -> Filter:
    return Filter(predicate.bind(BATCH.schema))


def test_a_filter_keeps_rows_whose_condition_is_true_and_not_null() -> None:
    (kept,) = run(filtering(col("a") > 1), BATCH)
    assert kept.to_pydict() == {"a": [3, 4], "b": [None, "z"]}


def test_a_filter_that_keeps_nothing_sends_nothing() -> None:
    assert run(filtering(col("a") > 9), BATCH) == []
    assert run(filtering(lit(None).cast("bool")), BATCH) == []


def test_a_filter_passes_a_batch_untouched_when_every_row_stays() -> None:
    (kept,) = run(filtering(col("a").is_null() | (col("a") > 0)), BATCH)
    assert kept is BATCH
    assert run(filtering(lit(True)), BATCH)[0] is BATCH


def test_a_filter_respects_slices() -> None:
    (kept,) = run(filtering(col("a") >= 3), BATCH.slice(1, 2))
    assert kept.to_pydict() == {"a": [3], "b": [None]}


def test_a_filter_refuses_what_is_no_condition() -> None:
    with pytest.raises(SchemaError, match='col\\("a"\\) is int64'):
        filtering(col("a"))


def test_a_projection_computes_adds_drops_and_renames() -> None:
    columns, schema = bind_columns({"twice": col("a") * 2, "b": col("b"), "c": col("a"), "k": lit(7)}, BATCH.schema)
    (made,) = run(Project(columns, schema), BATCH)
    assert made.schema == schema
    assert made.to_pydict() == {
        "twice": [2, None, 6, 8],
        "b": ["x", "y", None, "z"],
        "c": [1, None, 3, 4],
        "k": [7, 7, 7, 7],
    }


def test_a_projection_does_not_copy_columns_it_passes_on() -> None:
    columns, schema = bind_columns({"renamed": col("a")}, BATCH.schema)
    (made,) = run(Project(columns, schema), BATCH)
    assert made.column(0).buffers()[1].address == BATCH.column(0).buffers()[1].address


def test_a_projection_keeps_the_number_of_rows_of_empty_and_sliced_batches() -> None:
    columns, schema = bind_columns({"one": lit(1), "a": col("a")}, BATCH.schema)
    made = run(Project(columns, schema), BATCH.slice(0, 0), BATCH.slice(2))
    assert [batch.num_rows for batch in made] == [0, 2]


def test_a_projection_must_fit_its_schema() -> None:
    columns, _ = bind_columns({"a": col("a")}, BATCH.schema)
    with pytest.raises(SchemaError):
        Project(columns, pa.schema({"a": pa.string()}))


def test_descriptions_say_what_is_computed() -> None:
    columns, schema = bind_columns({"a": col("a"), "c": col("a") + 1}, BATCH.schema)
    assert Project(columns, schema).description == 'project 1 column, c = col("a") + 1'
    assert filtering(col("a") > 1).description == 'filter col("a") > 1'
    assert Identity().description == "union"
    assert Project(columns, schema).vectorised


def test_a_union_passes_batches_on_as_they_are() -> None:
    assert run(Identity(), BATCH)[0] is BATCH


def test_of_an_update_of_which_one_row_is_left_out_a_deletion_or_an_insertion_is_made() -> None:
    schema = updating(pa.schema({"k": pa.int64(), "v": pa.int64()}))
    rows = [(1, 1, UPDATE_BEFORE), (1, 9, UPDATE_AFTER), (2, 9, UPDATE_BEFORE), (2, 1, UPDATE_AFTER)]
    rows += [(3, 1, UPDATE_BEFORE), (3, 2, UPDATE_AFTER), (4, 9, UPDATE_BEFORE), (4, 8, UPDATE_AFTER), (5, 1, INSERT)]
    batch = pa.RecordBatch.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)
    with OperatorHarness(Filter((col("v") < 5).bind(schema)), schema) as harness:
        harness.send(batch)
        found = [tuple(row.values()) for row in harness.take()]
    assert found == [(1, 1, DELETE), (2, 1, INSERT), (3, 1, UPDATE_BEFORE), (3, 2, UPDATE_AFTER), (5, 1, INSERT)]
