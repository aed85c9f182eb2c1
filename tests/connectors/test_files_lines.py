"""JSON lines are cut where they lie in the file: the same rows, errors and positions as line by line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakeward.connectors.files import FilesSource
from lakeward.connectors.files.line_cursor import LineBlocks
from lakeward.connectors.formats.json import JsonDecoder
from lakeward.connectors.formats.json_lines import PAD, Lines, Quotes
from lakeward.engine.api.source import Split
from lakeward.engine.core.errors import RecordError
from lakeward.testing.source_suite import TestCounters, read_splits, reader_context

BID = pa.schema({"auction": pa.int64(), "channel": pa.string(), "at": pa.timestamp("us"), "price": pa.float64()})


def bid(i: int) -> bytes:
    at = f"2026-01-01 {i // 3600 % 24:02}:{i // 60 % 60:02}:{i % 60:02}.{i % 1000:03}"
    channel = '"' if i % 997 == 0 else "ü" * (i % 3) + "c" * (i % 70)
    return json.dumps({"auction": i, "channel": channel, "at": at, "price": i / 4}, ensure_ascii=False).encode()


def rows_of(lines: list[bytes]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in lines]


def auctions(source: FilesSource, split: Split, position: Any, batch_rows: int) -> tuple[list[int], list[Any]]:
    """What is read from a position on, and the positions between."""
    reader = source.open_reader(reader_context(batch_rows=batch_rows))
    reader.add_split(split, position)
    found, positions = [], []
    while hasattr(polled := reader.poll(), "batch"):
        found += polled.batch.column("auction").to_pylist()
        positions.append((len(found), polled.position))
    reader.close()
    return found, positions


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"], ids=["feed", "return and feed"])
@pytest.mark.parametrize("block_bytes", [3_000, 100_000, 1 << 21])
def test_a_file_is_read_whole_and_from_each_position(
    block_bytes: int, ending: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LineBlocks.__init__, "__kwdefaults__", {"block_bytes": block_bytes})
    lines = [bid(i) for i in range(6000)]
    path = tmp_path / "bids.jsonl"
    text = ending.join([*lines[:3000], b"", b"  ", *lines[3000:]])  # with no line feed at the end
    path.write_bytes(b"\xef\xbb\xbf" + text)
    source = FilesSource(path, schema=BID)
    (split,) = source.list_splits(None)
    found, positions = auctions(source, split, None, 1000)
    assert found == list(range(6000))
    assert positions[-1][1]["offset"] == path.stat().st_size
    assert positions[-1][1]["record"] == 6002
    for read, position in positions:
        assert auctions(source, split, position, 700)[0] == list(range(read, 6000))


def test_values_are_those_of_a_parser(tmp_path: Path) -> None:
    lines = [bid(i) for i in range(5000)]
    (tmp_path / "bids.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    source = FilesSource(tmp_path, format="jsonl", schema=BID)
    (split,) = source.list_splits(None)
    found = read_splits(source, [(split, None)], batch_rows=4096).rows()
    want = rows_of(lines)
    assert [row["channel"] for row in found] == [row["channel"] for row in want]
    assert [row["price"] for row in found] == [row["price"] for row in want]
    assert [row["at"].isoformat(" ", "milliseconds") for row in found] == [row["at"] for row in want]


def test_a_bad_line_is_named_by_file_line_and_byte(tmp_path: Path) -> None:
    lines = [bid(i) for i in range(4000)]
    lines[2500] = b'{"auction": "many"}'
    path = tmp_path / "bids.jsonl"
    path.write_bytes(b"\r\n".join(lines))
    source = FilesSource(path, schema=BID)
    (split,) = source.list_splits(None)
    with pytest.raises(RecordError) as caught:
        auctions(source, split, None, 1000)
    offset = sum(len(line) + 2 for line in lines[:2500])
    assert f"{path}, record 2501 at byte {offset}: " in caught.value.message
    assert 'it begins \'{"auction": "many"}\'' in caught.value.message


def test_bad_lines_can_be_left_out(tmp_path: Path) -> None:
    lines = [bid(i) for i in range(4000)]
    for row in (0, 1, 1999, 3999):
        lines[row] = lines[row][:-3]
    (tmp_path / "bids.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    source = FilesSource(tmp_path / "bids.jsonl", schema=BID, on_error="skip")
    (split,) = source.list_splits(None)
    counters = TestCounters()
    reader = source.open_reader(reader_context(counters=counters, batch_rows=1500))
    reader.add_split(split, None)
    rows = 0
    while hasattr(polled := reader.poll(), "batch"):
        rows += polled.batch.num_rows
    assert rows == 3996
    assert counters.values["bad_records"] == 4


def test_a_column_that_is_not_read_is_not_checked(tmp_path: Path) -> None:
    lines = [bid(i) for i in range(1000)]
    lines[700] = lines[700].replace(b'"price": 175.0', b'"price": "free"')
    (tmp_path / "bids.jsonl").write_bytes(b"\n".join(lines))
    source = FilesSource(tmp_path / "bids.jsonl", schema=BID).pushed(("auction", "at"), ())
    assert isinstance(source, FilesSource)
    (split,) = source.list_splits(None)
    assert auctions(source, split, None, 1000)[0] == list(range(1000))
    assert source.schema.names == ["auction", "at"]


def test_a_line_longer_than_the_buffer_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LineBlocks.__init__, "__kwdefaults__", {"block_bytes": 1000})
    lines = [b'{"auction": %d, "channel": "%s"}' % (i, b"x" * (10_000 if i == 5 else 10)) for i in range(20)]
    (tmp_path / "bids.jsonl").write_bytes(b"\n".join(lines))
    source = FilesSource(tmp_path / "bids.jsonl", schema=BID)
    (split,) = source.list_splits(None)
    assert auctions(source, split, None, 8)[0] == list(range(20))


TEXT = st.lists(
    st.sampled_from(
        [b"\n", b"\n\n", b"\r\n", b'"', b"\\", b"a" * 60, b"bc", b"\x01", b"\r", "ü".encode(), b"\xff", b" "]
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(TEXT)
def test_lines_and_quotes_are_found_where_they_are(parts: list[bytes]) -> None:
    text = b"".join(parts) + b"\n"
    lines = Lines.within(bytes(PAD) + text + bytes(PAD), PAD, PAD + len(text))
    want = text.split(b"\n")[:-1]
    assert lines.texts(pc.sort_indices(pa.array(lines.starts)).to_numpy()) == [one.removesuffix(b"\r") for one in want]
    assert lines.records(len(want)) == [one + b"\n" for one in want]
    for i, line in enumerate(want):
        body = line.removesuffix(b"\r")
        is_odd = b"\\" in body or any(byte < 0x20 for byte in body) or b"\xff" in body
        assert (lines.odd is not None and bool(lines.odd[i])) == is_odd
    quotes = Quotes(lines.data)
    assert quotes.total == text.count(b'"')
    places = pa.array(range(PAD, PAD + len(text)), pa.int64()).to_numpy()
    found = [text.find(b'"', place - PAD) for place in places]
    for wide in (False, True):
        mine = [place - PAD for place in quotes.next(places, wide)[0].tolist()]
        assert [place if place < len(text) else -1 for place in mine] == found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 599), st.integers(1, 600), st.lists(st.integers(0, 599), max_size=3))
def test_parts_of_lines_are_decoded_like_the_whole(first: int, count: int, odd: list[int]) -> None:
    texts = [bid(i) for i in range(600)]
    for row in odd:
        texts[row] = texts[row][:-1] + b"\\"
    last = min(600, first + count)
    lines = Lines.of(list(texts))
    assert lines is not None
    part = lines.part(first, last)
    assert part.texts(pa.array(range(last - first)).to_numpy()) == texts[first:last]
    decoder = JsonDecoder(BID, json_factory())
    got, want = decoder.decode_lines(part), decoder.decode(list(texts[first:last]))
    assert got.batch.equals(want.batch)
    assert list(got.bad) == list(want.bad)


def json_factory() -> Any:
    from lakeward.connectors.formats.json_columns import ColumnFactory

    return ColumnFactory("text")
