"""Files are read whole, in order, and from any row on; what is wrong with them is said by name."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lakeward as lw
from lakeward.connectors.files import Csv, FilesSource
from lakeward.connectors.files import text as text_module
from lakeward.connectors.files.line_cursor import LineBlocks
from lakeward.connectors.files.paths import list_files, resolve
from lakeward.connectors.files.text import LineEnds, Place, QuotedLineEnds, TextFile
from lakeward.engine.core.errors import ConfigError, RecordError, SchemaError, SourceError
from lakeward.testing.source_suite import TestCounters, check_source, read_splits, reader_context

ROWS = [{"id": i, "name": f"name {i}" if i % 7 else None, "at": datetime(2026, 1, 1, 0, 0, i % 60)} for i in range(200)]  # noqa: DTZ001
SCHEMA = pa.schema({"id": pa.int64(), "name": pa.string(), "at": pa.timestamp("us")})


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, default=str).encode() + b"\n" for row in rows)


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    out = pa.BufferOutputStream()
    pcsv.write_csv(pa.Table.from_pylist(rows, SCHEMA), out)
    return out.getvalue().to_pybytes()


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path, row_group_size=30)


def three_files(folder: Path, format: str) -> None:
    """Three files of ROWS, one of them empty of rows."""
    for name, rows in (("b", ROWS[120:]), ("a", ROWS[:120]), ("c", [])):
        if format == "parquet":
            write_parquet(folder / f"{name}.parquet", rows)
        elif format.startswith("jsonl"):
            pack = gzip.compress if format.endswith("gz") else bytes
            (folder / f"{name}.{format}").write_bytes(pack(as_jsonl(rows)))
        else:
            pack = bz2.compress if format.endswith("bz2") else bytes
            (folder / f"{name}.{format}").write_bytes(pack(as_csv(rows)))


def read(source: FilesSource) -> list[dict[str, Any]]:
    log = read_splits(source, [(split, None) for split in source.list_splits(None)])
    return [dict(row) for row in log.rows()]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TextFile.__init__, "__kwdefaults__", {"block_bytes": 500})
    monkeypatch.setattr(LineBlocks.__init__, "__kwdefaults__", {"block_bytes": 500})


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("format", ["parquet", "jsonl", "jsonl.gz", "csv", "csv.bz2"])
def test_the_source_keeps_the_contract(format: str, tmp_path: Path) -> None:
    three_files(tmp_path, format)
    name: Any = format.split(".")[0]
    check_source(lambda: FilesSource(tmp_path, format=name, schema=SCHEMA), ROWS, batch_rows=7)


@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv"])
def test_files_are_read_in_the_order_of_their_paths(format: str, tmp_path: Path) -> None:
    three_files(tmp_path, format)
    source = FilesSource(tmp_path, format=format)  # type: ignore[arg-type]
    assert [split.id.rsplit("/", 1)[1] for split in source.list_splits(None)] == [f"{n}.{format}" for n in "abc"]
    assert read(source) == ROWS


@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv"])
def test_the_schema_is_found_in_the_files(format: str, tmp_path: Path) -> None:
    three_files(tmp_path, format)
    assert FilesSource(tmp_path, format=format).schema == SCHEMA  # type: ignore[arg-type]


def test_the_format_is_told_by_the_ending(tmp_path: Path) -> None:
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    (tmp_path / "x.tsv").write_bytes(b"a\tb\n3\t4\n")
    assert read(FilesSource(tmp_path / "x.csv.gz")) == [{"a": 1, "b": 2}]
    assert read(FilesSource(tmp_path / "x.tsv")) == [{"a": 3, "b": 4}]
    assert FilesSource("folder").description == "parquet files folder"


@pytest.mark.parametrize("format", ["parquet", "jsonl", "csv"])
def test_only_the_wanted_columns_are_read(format: str, tmp_path: Path) -> None:
    three_files(tmp_path, format)
    source = FilesSource(tmp_path, format=format, columns=["at", "id"])  # type: ignore[arg-type]
    assert source.schema.names == ["at", "id"]
    assert read(source) == [{"at": row["at"], "id": row["id"]} for row in ROWS]
    with pytest.raises(SchemaError, match="no column 'nam'"):
        _ = FilesSource(tmp_path, format=format, columns=["nam"]).schema  # type: ignore[arg-type]


class TestPlaces:
    """Which files a path, directory or glob names."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in ("a.parquet", "x/b.parquet", "x/y/c.parquet", "_staging/d.parquet", "x/.e.parquet", "notes.txt"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"n": [1]}), tmp_path / name)
        return tmp_path

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("", "a x/b x/y/c"),
            ("x", "x/b x/y/c"),
            ("*.parquet", "a"),
            ("**/*.parquet", "a x/b x/y/c"),
            ("x/*", "x/b"),
            ("x/**", "x/b x/y/c"),
            ("?/[bc].parquet", "x/b"),
            ("*/*/c*", "x/y/c"),
        ],
    )
    def test_globs_and_directories(self, folder: Path, pattern: str, expected: str) -> None:
        for place in (f"{folder}/{pattern}", f"file://{folder}/{pattern}"):
            if "?" in place and "://" in place:
                continue  # in a URI a question mark begins the query
            _, files = list_files(place, (".parquet",))
            assert [f.path.removeprefix(f"{folder}/").removesuffix(".parquet") for f in files] == expected.split()

    def test_a_file_whose_name_looks_like_a_glob_is_that_file(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"n": [1]}), tmp_path / "day=[1].parquet")
        assert read(FilesSource(tmp_path / "day=[1].parquet")) == [{"n": 1}]

    def test_relative_paths_are_resolved(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)
        assert len(FilesSource("x/*.parquet").list_splits(None)) == 1
        assert len(FilesSource("**/*.parquet").list_splits(None)) == 3

    @pytest.mark.parametrize("place", ["nothing-here", "nothing/*.parquet", "x/*.csv"])
    def test_nothing_found_is_an_error(self, folder: Path, place: str) -> None:
        with pytest.raises(ConfigError, match="no files to read"):
            FilesSource(folder / place).list_splits(None)

    @pytest.mark.parametrize(("name", "format"), [("a.jsonl", "jsonl"), ("x/b.ndjson.gz", "jsonl"), ("c.csv", "csv")])
    def test_a_directory_of_another_format_says_which(self, tmp_path: Path, name: str, format: str) -> None:
        (tmp_path / "x").mkdir()
        (tmp_path / name).write_text("")
        with pytest.raises(ConfigError, match=f"1 of the format {format}, as {Path(name).name}") as caught:
            lw.StreamExecutionEnvironment().from_source(FilesSource(tmp_path))
        assert f'format="{format}"' in caught.value.hint

    def test_an_unknown_scheme_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="gopher://x"):
            resolve("gopher://x/y")


class TestText:
    """Line ends, byte order marks, quotes and blank lines."""

    @pytest.mark.parametrize(
        "data",
        [
            b'{"a":1}\n{"a":2}\n',
            b'{"a":1}\n{"a":2}',
            b'{"a":1}\r\n{"a":2}\r\n',
            b'\xef\xbb\xbf{"a":1}\n{"a":2}\n',
            b'\n{"a":1}\n\n  \n{"a":2}\n\n',
        ],
        ids=["plain", "no-last-line-end", "crlf", "bom", "blank-lines"],
    )
    def test_json_lines_in_every_style(self, data: bytes, tmp_path: Path) -> None:
        (tmp_path / "f.jsonl").write_bytes(data)
        check_source(lambda: FilesSource(tmp_path / "f.jsonl"), [{"a": 1}, {"a": 2}], batch_rows=1)

    @pytest.mark.parametrize(
        "data",
        [
            b"a,b\n1,x\n2,y\n",
            b"a,b\n1,x\n2,y",
            b"a,b\r\n1,x\r\n2,y\r\n",
            b"\xef\xbb\xbfa,b\n1,x\n2,y\n",
            b'"a","b"\n"1","x"\n\n2,"y"\n',
        ],
        ids=["plain", "no-last-line-end", "crlf", "bom", "quoted"],
    )
    def test_csv_in_every_style(self, data: bytes, tmp_path: Path) -> None:
        (tmp_path / "f.csv").write_bytes(data)
        check_source(lambda: FilesSource(tmp_path / "f.csv"), [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}], batch_rows=1)

    @pytest.mark.usefixtures("small_blocks")
    def test_line_ends_and_quotes_inside_quotes_belong_to_the_value(self, tmp_path: Path) -> None:
        rows = [{"n": i, "text": 'say "hi",\n\r\nthen go\n' * (i % 40)} for i in range(60)]
        table = pa.Table.from_pylist(rows)
        pcsv.write_csv(table, tmp_path / "f.csv")
        schema = pa.schema({"n": pa.int64(), "text": pa.string()})
        check_source(lambda: FilesSource(tmp_path / "f.csv", schema=schema), rows, batch_rows=3)

    def test_an_empty_field_is_null_and_a_quoted_one_is_not(self, tmp_path: Path) -> None:
        (tmp_path / "f.csv").write_bytes(b'a,b\n1,\n2,""\n3,NA\n')
        values = [row["b"] for row in read(FilesSource(tmp_path / "f.csv"))]
        assert values == [None, "", "NA"]
        values = [row["b"] for row in read(FilesSource(tmp_path / "f.csv", format=Csv(null_values=("", "NA"))))]
        assert values == [None, "", None]

    def test_csv_without_a_header_takes_names_from_the_schema(self, tmp_path: Path) -> None:
        (tmp_path / "f.csv").write_bytes(b"1;x\n2;y\n")
        options = Csv(delimiter=";", header=False)
        assert FilesSource(tmp_path / "f.csv", format=options).schema.names == ["f0", "f1"]
        source = FilesSource(
            tmp_path / "f.csv", format=options, schema=pa.schema({"n": pa.int64(), "s": pa.string()}), columns=["s"]
        )
        assert read(source) == [{"s": "x"}, {"s": "y"}]

    def test_an_empty_file_has_no_rows(self, tmp_path: Path) -> None:
        for name in ("a.jsonl", "b.csv"):
            (tmp_path / name).write_bytes(b"")
        schema = pa.schema({"a": pa.int64()})
        assert read(FilesSource(tmp_path / "a.jsonl", schema=schema)) == []
        assert read(FilesSource(tmp_path / "b.csv", schema=schema)) == []
        with pytest.raises(SchemaError, match="every file is empty"):
            _ = FilesSource(tmp_path / "a.jsonl").schema

    def test_a_record_without_end_does_not_fill_the_memory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(text_module, "RECORD_BYTES_MAX", 10_000)
        (tmp_path / "f.csv").write_bytes(b'a\n"' + b"x\n" * 2_000_000)
        source = FilesSource(tmp_path / "f.csv", schema=pa.schema({"a": pa.string()}))
        with pytest.raises(RecordError, match="longer than 10000 bytes"):
            read(source)

    @given(
        rows=st.lists(st.text(alphabet='ab",\n\r é', max_size=12), min_size=1, max_size=30),
        block_bytes=st.integers(1, 60),
        quoted=st.booleans(),
    )
    @settings(max_examples=60, deadline=None)
    def test_records_are_whole_and_complete_whatever_the_block_size(
        self, rows: list[str], block_bytes: int, quoted: bool, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        if quoted:
            records = [('"' + row.replace('"', '""') + '"\n').encode() for row in rows]
        else:
            records = [(row.replace("\n", " ").replace('"', "") + "\n").encode() for row in rows]
        path = tmp_path_factory.mktemp("blocks") / "f.txt"
        path.write_bytes(b"".join(records))
        ends = QuotedLineEnds() if quoted else LineEnds()
        location = resolve(path)
        for first in (0, len(records) // 2):
            start = Place(sum(map(len, records[:first])), first)
            file = TextFile(location.filesystem, location.path, start, ends, block_bytes=block_bytes)
            found: list[bytes] = []
            for offset, some in iter(file.next_records, None):
                assert offset == start.offset + sum(map(len, found))
                found += some
            file.close()
            assert found == records[first:]


class TestBadRecords:
    """What cannot be decoded is named, or counted."""

    GOOD = pa.schema({"a": pa.int64(), "b": pa.string()})

    @pytest.fixture
    def jsonl(self, tmp_path: Path) -> Path:
        lines = [b'{"a":%d,"b":"x"}' % i for i in range(100)]
        lines[41], lines[77] = b'{"a":"one"}', b'{"a":'
        (tmp_path / "f.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        return tmp_path / "f.jsonl"

    @pytest.fixture
    def csv(self, tmp_path: Path) -> Path:
        lines = [b"a,b"] + [b"%d,x" % i for i in range(100)]
        lines[42], lines[78] = b"one,x", b"77,x,y"
        (tmp_path / "f.csv").write_bytes(b"\n".join(lines) + b"\n")
        return tmp_path / "f.csv"

    @pytest.mark.parametrize(("name", "number"), [("jsonl", 42), ("csv", 43)])
    def test_a_bad_record_fails_with_file_record_byte_and_reason(
        self, name: str, number: int, request: pytest.FixtureRequest
    ) -> None:
        path: Path = request.getfixturevalue(name)
        offset = path.read_bytes().index(b'{"a":"one"}' if name == "jsonl" else b"one,x")
        with pytest.raises(RecordError) as raised:
            read(FilesSource(path, schema=self.GOOD))
        for part in (str(path), f"record {number} at byte {offset}", "one", "on_error"):
            assert part in str(raised.value)

    @pytest.mark.parametrize(
        ("text", "name", "shown"),
        [
            ('{"a": "x", "card": {"no": "4111"}}', "f.jsonl", """it begins '{"a": "x", "card": ***}'"""),
            ('{"a": 1, "card": {"day": "4111"}}', "f.jsonl", "card: ***; it begins"),
            ("a,card\n4111,4111\nx4111,4111", "f.csv", "invalid value ***; it is not shown, since it has the column"),
        ],
    )
    def test_a_bad_record_shows_no_hidden_field(self, tmp_path: Path, text: str, name: str, shown: str) -> None:
        (tmp_path / name).write_text(text)
        card = pa.struct({"day": pa.date32()}) if "jsonl" in name else pa.string()
        source = FilesSource(tmp_path / name, schema=pa.schema({"a": pa.int64(), "card": card}))
        env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(redact_columns=("card",)))
        with pytest.raises(RecordError) as raised:
            env.from_source(source).execute_and_collect()
        assert shown in str(raised.value)
        assert "4111" not in str(raised.value)

    @pytest.mark.parametrize("name", ["jsonl", "csv"])
    @pytest.mark.parametrize("batch_rows", [1, 10, 1_000])
    def test_bad_records_are_skipped_and_counted_when_asked(
        self, name: str, batch_rows: int, request: pytest.FixtureRequest
    ) -> None:
        source = FilesSource(request.getfixturevalue(name), schema=self.GOOD, on_error="skip")
        counters = TestCounters()
        reader = source.open_reader(reader_context(batch_rows=batch_rows, counters=counters))
        reader.add_split(source.list_splits(None)[0], None)
        rows = [row for event in iter(reader.poll, None) if hasattr(event, "batch") for row in event.batch.to_pylist()]
        assert [row["a"] for row in rows] == [i for i in range(100) if i not in (41, 77)]
        assert counters.values == {"bad_records": 2}

    def test_the_record_number_counts_on_after_a_restart(self, jsonl: Path) -> None:
        source = FilesSource(jsonl, schema=self.GOOD)
        reader = source.open_reader(reader_context(batch_rows=20))
        split = source.list_splits(None)[0]
        reader.add_split(split, None)
        reader.poll()
        step: Any = reader.poll()
        again = FilesSource(jsonl, schema=self.GOOD)
        with pytest.raises(RecordError, match="record 42 at byte"):
            read_splits(again, [(split, step.position)])

    def test_an_unknown_policy_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="on_error cannot be 'ignore'"):
            FilesSource("x", on_error="ignore")  # type: ignore[arg-type]


class TestSchemas:
    """Files that differ from the first one."""

    def write(self, folder: Path, **tables: pa.Table) -> FilesSource:
        for name, table in tables.items():
            pq.write_table(table, folder / f"{name}.parquet")
        return FilesSource(folder)

    def test_a_missing_column_is_named_with_its_file(self, tmp_path: Path) -> None:
        source = self.write(tmp_path, a=pa.table({"n": [1], "s": ["x"]}), b=pa.table({"n": [2]}))
        with pytest.raises(SchemaError, match=r"b\.parquet has no column 's'; it has n"):
            read(source)

    def test_a_missing_column_is_null_when_a_schema_was_given(self, tmp_path: Path) -> None:
        self.write(tmp_path, a=pa.table({"n": [1], "s": ["x"]}), b=pa.table({"n": [2]}))
        source = FilesSource(tmp_path, schema=pa.schema({"n": pa.int64(), "s": pa.string()}))
        assert read(source) == [{"n": 1, "s": "x"}, {"n": 2, "s": None}]

    def test_a_narrower_type_is_widened(self, tmp_path: Path) -> None:
        source = self.write(tmp_path, a=pa.table({"n": [1]}), b=pa.table({"n": pa.array([2], pa.int16())}))
        assert read(source) == [{"n": 1}, {"n": 2}]

    def test_a_value_that_does_not_fit_names_file_column_and_types(self, tmp_path: Path) -> None:
        source = self.write(tmp_path, a=pa.table({"n": pa.array([1], pa.int8())}), b=pa.table({"n": [300]}))
        with pytest.raises(SchemaError, match=r"b\.parquet, column 'n': int64 does not fit int8"):
            read(source)

    def test_columns_in_another_order_are_put_in_order(self, tmp_path: Path) -> None:
        source = self.write(tmp_path, a=pa.table({"n": [1], "s": ["x"]}), b=pa.table({"s": ["y"], "n": [2]}))
        assert read(source) == [{"n": 1, "s": "x"}, {"n": 2, "s": "y"}]

    def test_timestamps_become_microseconds(self, tmp_path: Path) -> None:
        zoned = pa.array([1_700_000_000_123], pa.timestamp("ms", "Asia/Tokyo"))
        naive = pa.array([1_700_000_000_123_456_789], pa.timestamp("ns"))
        source = self.write(tmp_path, a=pa.table({"zoned": zoned, "naive": naive}))
        assert source.schema.types == [pa.timestamp("us", "UTC"), pa.timestamp("us")]
        (row,) = read(source)
        assert row["zoned"] == datetime.fromtimestamp(1_700_000_000.123, UTC)
        assert row["naive"].microsecond == 123_456

    def test_nulls_are_refused_where_the_schema_rules_them_out(self, tmp_path: Path) -> None:
        self.write(tmp_path, a=pa.table({"n": pa.array([1, None])}))
        source = FilesSource(tmp_path, schema=pa.schema([pa.field("n", pa.int64(), nullable=False)]))
        with pytest.raises(SchemaError, match=r"a\.parquet, column 'n' has nulls"):
            read(source)

    def test_a_csv_column_that_is_missing_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_bytes(b"n,s\n1,x\n")
        (tmp_path / "b.csv").write_bytes(b"n\n2\n")
        with pytest.raises(SchemaError, match=r"b\.csv has no column 's'"):
            read(FilesSource(tmp_path, format="csv"))

    @pytest.mark.parametrize(
        ("options", "schema", "problem", "hint"),
        [
            (Csv(), {"n": int, "t": str}, "no column 't'; it has n, s", "leave the column out of schema= or columns="),
            (Csv(), {"x": int}, "no column 'x'; it has n, s", r"format=Csv\(header=False\)"),
            (Csv(header=False), None, r"short\.csv has no column 'f1'; it has f0", "that all files have in columns="),
        ],
    )
    def test_what_to_do_about_a_csv_column_that_is_missing_can_be_done(
        self, tmp_path: Path, options: Csv, schema: dict[str, type] | None, problem: str, hint: str
    ) -> None:
        (tmp_path / "long.csv").write_bytes(b"n,s\n1,x\n")
        if not options.header:
            (tmp_path / "short.csv").write_bytes(b"2\n")
        with pytest.raises(SchemaError, match=problem) as caught:
            read(FilesSource(tmp_path, format=options, schema=schema))
        assert re.search(hint, caught.value.hint or "")
        assert "with nulls" not in (caught.value.hint or "")

    def test_json_fields_that_are_null_in_the_sample_are_strings(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_bytes(b'{"n":1,"s":null}\n')
        assert FilesSource(tmp_path / "a.jsonl").schema == pa.schema({"n": pa.int64(), "s": pa.string()})


class TestChanges:
    """Files that are not what they were."""

    def half_read(self, path: Path) -> tuple[Any, Any]:
        source = FilesSource(path)
        split = source.list_splits(None)[0]
        reader = source.open_reader(reader_context(batch_rows=10))
        reader.add_split(split, None)
        step: Any = reader.poll()
        reader.close()
        return split, step.position

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            (lambda path: path.write_bytes(path.read_bytes()[:50]), "has changed"),
            (lambda path: path.write_bytes(path.read_bytes() + b"{}\n"), "has changed"),
            (lambda path: os.utime(path, ns=(1, 1)), "has changed"),
            (lambda path: path.unlink(), "is gone"),
        ],
        ids=["shrunk", "grown", "rewritten", "deleted"],
    )
    def test_a_changed_file_is_not_read_on(self, change: Callable[[Path], None], text: str, tmp_path: Path) -> None:
        path = tmp_path / "f.jsonl"
        path.write_bytes(as_jsonl(ROWS))
        split, position = self.half_read(path)
        (tmp_path / "other.jsonl").write_bytes(as_jsonl(ROWS))
        source = FilesSource(tmp_path, format="jsonl")
        assert source.schema == SCHEMA
        change(path)
        with pytest.raises(SourceError, match=text):
            read_splits(source, [(split, position)])

    def test_plain_text_resumes_at_the_byte(self, tmp_path: Path) -> None:
        path = tmp_path / "f.jsonl"
        path.write_bytes(as_jsonl(ROWS))
        _, position = self.half_read(path)
        assert position["offset"] == len(as_jsonl(ROWS[:10]))
        assert position["record"] == 10

    @pytest.mark.parametrize("name", ["f.parquet", "f.jsonl.gz"])
    def test_a_damaged_file_is_an_error_that_names_it(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / name
        if name == "f.parquet":
            write_parquet(path, ROWS)
        else:
            path.write_bytes(gzip.compress(as_jsonl(ROWS)))
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(SourceError, match=f"{name} cannot be read"):
            read(FilesSource(path, schema=SCHEMA))

    def test_a_file_of_another_format_is_an_error_that_names_it(self, tmp_path: Path) -> None:
        (tmp_path / "f.parquet").write_bytes(as_jsonl(ROWS))
        with pytest.raises(SourceError, match=r"f\.parquet cannot be read"):
            _ = FilesSource(tmp_path / "f.parquet").schema


def test_windows_over_files_that_are_read_in_parallel_lose_nothing(tmp_path: Path) -> None:
    for number in range(4):
        seconds = range(number * 10, number * 10 + 10)
        times = pa.array([second * 10**6 for second in seconds], pa.timestamp("us"))
        table = pa.table({"k": [second % 3 for second in seconds], "at": times})
        pq.write_table(table, tmp_path / f"part-{number}.parquet")
    for parallelism in (1, 2, 3, 4):
        env = lw.StreamExecutionEnvironment(parallelism=parallelism)
        rows = env.from_source(lw.FilesSource(str(tmp_path)), watermark=lw.WatermarkStrategy.monotonous("at"))
        counted = rows.key_by("k").window(lw.Tumbling("7s")).aggregate(n=lw.count()).execute_and_collect()
        assert sum(counted["n"].to_pylist()) == 40


class TestWhatCannotBeRead:
    """Said by name and with what to do, before the job runs wherever it can be known."""

    @pytest.mark.parametrize("name", ["f.jsonl", "f.csv"])
    def test_a_column_of_two_types_asks_for_a_schema(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).write_text('{"a": 1}\n{"a": "x"}\n' if name == "f.jsonl" else "a,b\n1\n")
        with pytest.raises(SchemaError, match=f"{name}: columns and types cannot be inferred") as caught:
            _ = FilesSource(tmp_path / name, on_error="skip").schema
        assert "schema=" in caught.value.hint

    def test_a_list_in_csv_is_refused_where_it_is_written(self, tmp_path: Path) -> None:
        schema = pa.schema({"tags": pa.list_(pa.int64()), "n": pa.int64()})
        (tmp_path / "f.csv").write_text('tags,n\n"[1, 2]",3\n')
        with pytest.raises(SchemaError, match="'tags' of type list<item: int64> cannot be read from CSV"):
            _ = FilesSource(tmp_path / "f.csv", schema=schema).schema
        assert read(FilesSource(tmp_path / "f.csv", schema=schema, columns=["n"])) == [{"n": 3}]

    def test_a_null_in_csv_where_none_may_be_is_a_bad_record(self, tmp_path: Path) -> None:
        schema = pa.schema([pa.field("n", pa.int64(), nullable=False), pa.field("m", pa.int64())])
        (tmp_path / "f.csv").write_text("n,m\n,1\n2,\n")
        assert read(FilesSource(tmp_path / "f.csv", schema=schema, on_error="skip")) == [{"n": 2, "m": None}]
        with pytest.raises(RecordError, match="record 2 at byte 4: column 'n' is null"):
            read(FilesSource(tmp_path / "f.csv", schema=schema))

    def test_two_columns_of_one_name_are_refused_if_they_are_wanted(self, tmp_path: Path) -> None:
        (tmp_path / "f.csv").write_text("a,a,b\n1,2,3\n")
        with pytest.raises(SchemaError, match="two columns 'a'"):
            _ = FilesSource(tmp_path / "f.csv").schema
        with pytest.raises(SchemaError, match="two columns 'a'"):
            read(FilesSource(tmp_path / "f.csv", schema={"a": int}))
        assert read(FilesSource(tmp_path / "f.csv", columns=["b"])) == [{"b": 3}]
        with pytest.raises(ConfigError, match="columns cannot be"):
            FilesSource(tmp_path / "f.csv", columns=["b", "b"])


@pytest.mark.parametrize(("name", "said"), [("x.dat", "format=..."), ("x.log.gz", "format=..."), ("x.csv", '"csv"')])
def test_an_ending_that_tells_no_format_is_refused_before_the_file_is_read(
    tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / name).write_bytes(b"id\n1\n")
    place = tmp_path / (name if said == "format=..." else "x*")
    with pytest.raises(ConfigError, match=f"{name} would be read as parquet, but ends in") as caught:
        FilesSource(place, schema={"id": int}).list_splits(None)
    assert said in caught.value.hint
    assert '"jsonl" (.jsonl, .ndjson, .json)' in caught.value.hint
    with pytest.raises(ConfigError, match="would be read as parquet"):
        lw.StreamExecutionEnvironment().from_source(FilesSource(place))


def test_what_has_no_ending_or_is_said_to_be_parquet_is_read_as_parquet(tmp_path: Path) -> None:
    for name in ("000000_0", "part.c000"):
        write_parquet(tmp_path / name, ROWS[:10])
    assert FilesSource(tmp_path / "000000_0").schema == SCHEMA
    assert len(FilesSource(tmp_path / "*0*", format="parquet").list_splits(None)) == 2
