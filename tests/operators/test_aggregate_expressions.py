from __future__ import annotations

import pyarrow as pa
import pytest

from lakeward.dsl.aggregates import count, count_distinct, max, sum
from lakeward.dsl.expressions import col
from lakeward.dsl.windows import Sliding, Tumbling
from lakeward.engine.core.errors import ConfigError, SchemaError

SCHEMA = pa.schema({"shop": pa.string(), "amount": pa.int32()})


def test_a_named_column_is_used_as_it_is() -> None:
    aggregate = sum("amount")
    column, expression = aggregate.input_column("__in_total")
    assert (column, expression is not None) == ("amount", True)
    bound = aggregate.bind(SCHEMA, "total")
    assert (bound.column, bound.input_type, bound.output_type) == ("amount", pa.int32(), pa.int64())
    assert aggregate.bind_input(SCHEMA) is None


def test_an_expression_is_computed_under_a_name_of_its_own() -> None:
    aggregate = max(col("amount") * 2)
    column, _ = aggregate.input_column("__in_most")
    bound = aggregate.bind(SCHEMA, "most", column)
    computed = aggregate.bind_input(SCHEMA)
    assert bound.column == "__in_most"
    assert computed is not None
    assert bound.input_type == bound.output_type == computed.type
    assert "amount" in bound.description


def test_counting_rows_has_no_input() -> None:
    bound = count().bind(SCHEMA, "n")
    assert (bound.column, bound.input_type, bound.output_type, bound.field.nullable) == (None, None, pa.int64(), False)
    assert count().input_column("__in_n") == (None, None)


def test_a_missing_column_is_named_with_those_there_are() -> None:
    with pytest.raises(SchemaError, match="no column 'amonut'") as caught:
        count_distinct("amonut").bind(SCHEMA, "n")
    assert "shop, amount" in caught.value.hint


def test_a_sum_of_strings_names_column_and_type() -> None:
    with pytest.raises(SchemaError, match="sum of column 'shop' of type string"):
        sum("shop").bind(SCHEMA, "total")


def test_windows_take_durations_as_text_timedelta_or_seconds() -> None:
    assert Tumbling("1m").layout() == Tumbling(60).layout()
    assert Sliding("1m", "10s", "3s").layout().offset_us == 3_000_000


@pytest.mark.parametrize("size", ["0s", "10 parsecs", -1])
def test_windows_of_no_length_are_refused_where_they_are_written(size: str | int) -> None:
    with pytest.raises(ConfigError):
        Tumbling(size)


def test_an_offset_as_long_as_the_slide_is_refused() -> None:
    with pytest.raises(ConfigError, match="offset"):
        Sliding("1m", "10s", "10s")
