"""Lists and maps to rows."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.api.changelog import DELETE, INSERT, ROW_KIND, UPDATE_AFTER, UPDATE_BEFORE, updating
from lakeward.engine.core.errors import SchemaError
from lakeward.operators.unnest import Unnest
from lakeward.testing.harness import OperatorHarness

ITEM = pa.struct([("name", pa.string()), ("price", pa.int64())])
KINDS = [pa.list_(pa.int64()), pa.large_list(pa.int64()), pa.list_(pa.int64(), 2)]


def unnested(spec: Unnest, batch: pa.RecordBatch) -> list[dict[str, Any]]:
    with OperatorHarness(spec, spec.schema) as harness:
        harness.send(batch)
        table = harness.take_table()
        assert table is None or table.schema == spec.output_schema
        return [] if table is None else table.to_pylist()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("keep_empty", [False, True])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_each_element_becomes_a_row_beside_the_other_columns(
    kind: pa.DataType, keep_empty: bool, data: st.DataObject
) -> None:
    sizes = {"min_size": 2, "max_size": 2} if pa.types.is_fixed_size_list(kind) else {"max_size": 3}
    element = st.one_of(st.none(), st.integers(0, 9))
    rows = data.draw(st.lists(st.one_of(st.none(), st.lists(element, **sizes)), max_size=6))
    skip = data.draw(st.integers(0, len(rows)))
    schema = pa.schema({"id": pa.int64(), "items": kind, "z": pa.string()})
    columns = [pa.array(range(len(rows)), pa.int64()), pa.array(rows, kind), pa.array(["z"] * len(rows), pa.string())]
    batch = pa.RecordBatch.from_arrays(columns, schema=schema).slice(skip)
    found = unnested(Unnest(schema, "items", ("item",), keep_empty, "place"), batch)
    expected = []
    for number, items in enumerate(rows[skip:], skip):
        expected += [{"id": number, "item": x, "place": i, "z": "z"} for i, x in enumerate(items or [], 1)]
        if not items and keep_empty:
            expected.append({"id": number, "item": None, "place": None, "z": "z"})
    assert found == expected


def test_a_map_becomes_keys_and_values() -> None:
    schema = pa.schema({"id": pa.int64(), "tags": pa.map_(pa.string(), pa.int64())})
    rows = [{"id": 0, "tags": []}, {"id": 1, "tags": [("a", 1), ("b", None)]}, {"id": 2, "tags": None}]
    batch = pa.RecordBatch.from_pylist(rows, schema=schema)
    pairs = [{"id": 1, "tag": "a", "n": 1}, {"id": 1, "tag": "b", "n": None}]
    assert unnested(Unnest(schema, "tags", ("tag", "n")), batch) == pairs
    assert unnested(Unnest(schema, "tags", ("tag", "n")), batch.slice(1)) == pairs
    both = unnested(Unnest(schema, "tags", ("tag",), keep_empty=True), batch)
    assert [row["tag"] for row in both] == [None, {"key": "a", "value": 1}, {"key": "b", "value": None}, None]


def test_structs_in_lists_stay_whole_or_become_columns() -> None:
    schema = pa.schema({"items": pa.list_(ITEM)})
    items = [{"name": "pen", "price": 2}, None, {"name": None, "price": 3}]
    batch = pa.RecordBatch.from_pylist([{"items": items}], schema=schema)
    assert [row["item"] for row in unnested(Unnest(schema, "items", ("item",)), batch)] == items
    flat = unnested(Unnest(schema, "items", ("name", "price")), batch)
    assert flat == [{"name": "pen", "price": 2}, {"name": None, "price": None}, {"name": None, "price": 3}]


def test_what_is_taken_back_is_taken_back_element_by_element() -> None:
    schema = updating(pa.schema({"id": pa.int64(), "items": pa.list_(pa.string())}))
    rows = [(["a", "b"], UPDATE_BEFORE), (["a"], UPDATE_AFTER), (["c"], INSERT), (["d"], DELETE)]
    batch = pa.RecordBatch.from_pylist([{"id": 1, "items": x, ROW_KIND: kind} for x, kind in rows], schema=schema)
    found = [(row["item"], row[ROW_KIND]) for row in unnested(Unnest(schema, "items", ("item",)), batch)]
    assert found == [("a", DELETE), ("b", DELETE), ("a", INSERT), ("c", INSERT), ("d", DELETE)]


@pytest.mark.parametrize(
    ("column", "names", "problem"),
    [
        ("id", ("x",), "needs a list or a map"),
        ("items", ("id",), "two columns 'id'"),
        ("items", ("a", "b"), "into 2 columns"),
        ("pairs", ("a", "b", "c"), "into 3 columns"),
    ],
)
def test_what_cannot_be_unnested_is_refused(column: str, names: tuple[str, ...], problem: str) -> None:
    schema = pa.schema({"id": pa.int64(), "items": pa.list_(pa.int64()), "pairs": pa.list_(ITEM)})
    with pytest.raises(SchemaError, match=problem):
        Unnest(schema, column, names)
