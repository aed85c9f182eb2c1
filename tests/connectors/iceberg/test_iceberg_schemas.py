"""Arrow schemas against Iceberg schemas: what is made, what fits, what is refused and how it is said."""

import pyarrow as pa
import pytest
from pyiceberg.schema import Schema
from pyiceberg.types import (
    DecimalType,
    DoubleType,
    IntegerType,
    ListType,
    LongType,
    NestedField,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
)

from lakeward.connectors.iceberg import IcebergSink, bucket, day, hour, truncate, year
from lakeward.connectors.iceberg.schemas import check_fits, to_arrow, to_iceberg
from lakeward.engine.core.errors import ConfigError, SchemaError
from lakeward.testing.lake import LocalLake


def fits(stream: pa.Schema, *fields: NestedField, nulls_for_missing: bool = False) -> None:
    check_fits(stream, Schema(*fields), "db.t", nulls_for_missing=nulls_for_missing)


@pytest.mark.parametrize(
    ("arrow", "iceberg"),
    [
        (pa.bool_(), "boolean"),
        (pa.int8(), "int"),
        (pa.uint16(), "int"),
        (pa.int32(), "int"),
        (pa.uint32(), "long"),
        (pa.int64(), "long"),
        (pa.float16(), "float"),
        (pa.float32(), "float"),
        (pa.float64(), "double"),
        (pa.date32(), "date"),
        (pa.date64(), "date"),
        (pa.time32("ms"), "time"),
        (pa.time64("us"), "time"),
        (pa.timestamp("s"), "timestamp"),
        (pa.timestamp("us"), "timestamp"),
        (pa.timestamp("us", "UTC"), "timestamptz"),
        (pa.timestamp("ms", "Europe/Berlin"), "timestamptz"),
        (pa.string(), "string"),
        (pa.large_string(), "string"),
        (pa.string_view(), "string"),
        (pa.dictionary(pa.int8(), pa.string()), "string"),
        (pa.binary(), "binary"),
        (pa.large_binary(), "binary"),
        (pa.binary(16), "fixed[16]"),
        (pa.uuid(), "uuid"),
        (pa.decimal128(12, 2), "decimal(12, 2)"),
        (pa.decimal256(38, 4), "decimal(38, 4)"),
        (pa.list_(pa.int64()), "list<long>"),
        (pa.large_list(pa.string()), "list<string>"),
        (pa.map_(pa.string(), pa.int32()), "map<string, int>"),
        (pa.struct([pa.field("a", pa.int32())]), "struct<3: a: optional int>"),
    ],
    ids=str,
)
def test_arrow_types_become_iceberg_types(arrow: pa.DataType, iceberg: str) -> None:
    schema = to_iceberg(pa.schema([pa.field("x", pa.int64()), pa.field("y", arrow)]))
    assert str(schema.find_type("y")) == iceberg


def test_types_that_iceberg_lacks_are_all_named_with_what_to_do() -> None:
    wrong = pa.schema(
        [
            ("fine", pa.int64()),
            ("ns", pa.timestamp("ns")),
            ("big", pa.uint64()),
            ("took", pa.duration("us")),
            ("deep", pa.struct([("inner", pa.null())])),
        ]
    )
    with pytest.raises(SchemaError) as raised:
        to_iceberg(wrong)
    for word in ("'ns' of type timestamp[ns]", "'big'", "'took'", "'deep.inner' of type null"):
        assert word in raised.value.message
    assert "'fine'" not in raised.value.message
    assert "nanoseconds" in raised.value.hint


def test_columns_that_are_not_nullable_become_required() -> None:
    schema = to_iceberg(pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("name", pa.string())]))
    assert schema.find_field("id").required
    assert schema.find_field("name").optional


def test_the_file_schema_carries_field_ids_at_every_depth() -> None:
    schema = to_iceberg(pa.schema([("tags", pa.list_(pa.string())), ("at", pa.struct([("lat", pa.float64())]))]))
    arrow = to_arrow(schema)
    ids = [
        arrow.field("tags").metadata,
        arrow.field("tags").type.value_field.metadata,
        arrow.field("at").type.field("lat").metadata,
    ]
    assert len({i[b"PARQUET:field_id"] for i in ids}) == 3


def test_narrow_types_fit_wide_columns_and_zoneless_times_are_utc() -> None:
    fits(
        pa.schema(
            [
                ("b", pa.int32()),
                ("a", pa.float32()),
                ("c", pa.decimal128(5, 2)),
                ("d", pa.timestamp("us")),
                ("e", pa.list_(pa.int32())),
            ]
        ),
        NestedField(1, "a", DoubleType()),
        NestedField(2, "b", LongType()),
        NestedField(3, "c", DecimalType(9, 2)),
        NestedField(4, "d", TimestamptzType()),
        NestedField(5, "e", ListType(6, LongType(), element_required=False)),
    )


def test_every_difference_is_listed_with_both_types() -> None:
    with pytest.raises(SchemaError) as raised:
        fits(
            pa.schema(
                [
                    ("id", pa.int64()),
                    ("prise", pa.float64()),
                    ("at", pa.timestamp("us", "UTC")),
                    ("shop", pa.struct([("city", pa.int32())])),
                    ("key", pa.string()),
                ]
            ),
            NestedField(1, "id", IntegerType()),
            NestedField(2, "price", DoubleType()),
            NestedField(3, "at", TimestampType()),
            NestedField(4, "shop", StructType(NestedField(5, "city", StringType()))),
            NestedField(6, "key", StringType(), required=True),
        )
    for text in (
        "column 'price' (double) is missing from the rows",
        "column 'prise' (double) is not in the table",
        "column 'id' is long in the rows but int in the table",
        "column 'at' is timestamptz in the rows but timestamp in the table",
        "column 'shop.city' is int in the rows but string in the table",
        "column 'key' may be null in the rows but is required in the table",
    ):
        assert text in raised.value.message


def test_missing_optional_columns_can_be_filled_but_required_ones_cannot() -> None:
    stream = pa.schema([("id", pa.int64())])
    note, shop = NestedField(2, "note", StringType()), NestedField(3, "shop", StringType(), required=True)
    fits(stream, NestedField(1, "id", LongType()), note, nulls_for_missing=True)
    with pytest.raises(SchemaError, match="'note'"):
        fits(stream, NestedField(1, "id", LongType()), note)
    with pytest.raises(SchemaError, match="'shop'"):
        fits(stream, NestedField(1, "id", LongType()), shop, nulls_for_missing=True)


STREAM = pa.schema([("ts", pa.timestamp("us")), ("city", pa.string()), ("amount", pa.float64())])


@pytest.mark.parametrize(
    ("partition_by", "word"),
    [
        ([day("time")], "no column 'time'"),
        ([hour("city")], "'city' is string"),
        ([bucket("amount", 4)], "'amount' is double"),
        ([truncate("ts", 4)], "'ts' is timestamp"),
    ],
    ids=str,
)
def test_impossible_partitioning_is_refused_before_the_first_row(
    lake: LocalLake, partition_by: list[object], word: str
) -> None:
    sink = IcebergSink("db.t", catalog=lake.catalog, partition_by=partition_by)  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match=word):
        sink.check_schema(STREAM)
    assert not lake.open_catalog().table_exists("db.t")


def test_another_partitioning_than_the_tables_is_refused_and_none_takes_the_tables(lake: LocalLake) -> None:
    from lakeward.connectors.iceberg.lake_table import LakeTable, TableSpec

    made = LakeTable(TableSpec("db.t", lake.catalog, partition_by=(day("ts"), bucket("city", 8))))
    made.ensure(STREAM)
    made.close()
    with pytest.raises(SchemaError, match=r"\[day\(ts\), bucket\[8\]\(city\)\].*\[year\(ts\)\]"):
        IcebergSink("db.t", catalog=lake.catalog, partition_by=[year("ts")]).check_schema(STREAM)
    IcebergSink("db.t", catalog=lake.catalog).check_schema(STREAM)
    IcebergSink("db.t", catalog=lake.catalog, partition_by=[day("ts"), bucket("city", 8)]).check_schema(STREAM)


def test_a_missing_table_that_must_not_be_made_is_an_error(lake: LocalLake) -> None:
    with pytest.raises(ConfigError, match=r"db\.t does not exist"):
        IcebergSink("db.t", catalog=lake.catalog, create="never").check_schema(STREAM)


@pytest.mark.parametrize(
    "options",
    [
        {"on_rewind": "ignore"},
        {"create": "always"},
        {"compression": "rar"},
        {"target_file_size_bytes": 0},
        {"partition_by": "ts"},
    ],
    ids=str,
)
def test_unknown_options_are_refused_when_the_sink_is_described(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        IcebergSink("db.t", **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"namespace\.table"):
        IcebergSink("orders")
