"""The generator keeps Nexmark's law, and an event is the same event however it is read."""

from __future__ import annotations

import hashlib
import itertools
from datetime import UTC, datetime

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from lakeward.connectors.nexmark import NexmarkSource, bid_json_lines
from lakeward.connectors.nexmark.law import HOT_CHANNELS, shuffled
from lakeward.connectors.nexmark.randomness import prices
from lakeward.engine.api.source import SplitBatch
from lakeward.engine.core.clock import ManualClock
from lakeward.engine.core.errors import ConfigError, SourceError
from lakeward.testing.source_suite import check_source, read_splits, reader_context

BASE_US = 1_767_225_600_000_000
KINDS = ("bid", "auction", "person")


def read_all(source: NexmarkSource, batch_rows: int = 10_000) -> pa.Table:
    reader = source.open_reader(reader_context(batch_rows=batch_rows))
    for split in source.list_splits(None):
        reader.add_split(split, None)
    events = iter(reader.poll, None)
    return pa.Table.from_batches([e.batch for e in events if isinstance(e, SplitBatch)], source.schema)


def by_row(table: pa.Table) -> list[str]:
    return sorted(map(repr, table.to_pylist()))


@pytest.fixture(scope="module")
def bids() -> pa.Table:
    return read_all(NexmarkSource(200_000))


def share(condition: pa.ChunkedArray) -> float:
    return float(pc.mean(condition.cast(pa.float64())).as_py())


def test_of_fifty_events_one_is_a_person_three_are_auctions_and_the_rest_bids() -> None:
    rows = [read_all(NexmarkSource(5_000, kinds=kind)).num_rows for kind in KINDS]
    assert rows == [4_600, 300, 100]


def test_half_of_the_bids_go_to_the_hot_auction(bids: pa.Table) -> None:
    # Beside the hot half, a cold choice may hit the hot auction, one in about 110 times.
    newest = np.arange(200_000) // 50 * 3 + 2
    hot = (newest // 100 * 100 + 1000)[np.arange(200_000) % 50 >= 4]
    assert share(pc.equal(bids["auction"], pa.array(hot))) == pytest.approx(0.505, abs=0.01)


def test_three_quarters_of_the_bids_come_from_the_hot_bidder(bids: pa.Table) -> None:
    newest = np.arange(200_000) // 50
    hot = (newest // 100 * 100 + 1 + 1000)[np.arange(200_000) % 50 >= 4]
    assert share(pc.equal(bids["bidder"], pa.array(hot))) == pytest.approx(0.75, abs=0.01)


def test_half_of_the_bids_come_through_four_hot_channels(bids: pa.Table) -> None:
    hot = pc.is_in(bids["channel"], pa.array(HOT_CHANNELS))
    assert share(hot) == pytest.approx(0.5, abs=0.01)
    assert 9_900 < pc.count_distinct(bids["channel"]).as_py() <= 10_004


def test_a_channel_always_has_the_same_url_and_nine_in_ten_name_it(bids: pa.Table) -> None:
    pairs = bids.select(["channel", "url"]).group_by(["channel", "url"]).aggregate([])
    assert pairs.num_rows == pc.count_distinct(bids["channel"]).as_py()
    assert share(pc.match_substring(pairs["url"], "channel_id=")) == pytest.approx(0.9, abs=0.02)


def test_prices_are_even_on_a_log_scale_from_1_to_1_000_000(bids: pa.Table) -> None:
    logs = np.log10(bids["price"].to_numpy() / 100)
    counts, _ = np.histogram(logs, bins=6, range=(0, 6))
    assert counts.sum() == bids.num_rows
    assert counts / bids.num_rows == pytest.approx([1 / 6] * 6, abs=0.005)


def test_the_extra_of_a_bid_has_54_to_81_letters_each_length_as_often(bids: pa.Table) -> None:
    lengths = pc.binary_length(bids["extra"]).to_numpy()
    counts = np.bincount(lengths, minlength=82)
    assert (int(lengths.min()), int(lengths.max())) == (54, 81)
    assert counts[54:] / bids.num_rows == pytest.approx([1 / 28] * 28, abs=0.004)
    assert pc.all(pc.match_substring_regex(bids["extra"], "^[a-z]+$")).as_py()
    assert pc.count_distinct(bids["extra"]).as_py() > bids.num_rows * 0.999


def test_event_time_advances_at_the_rate_from_the_base_time() -> None:
    base = datetime(2020, 5, 1, tzinfo=UTC)
    times = read_all(NexmarkSource(2_000, rate=100, base_time=base))["dateTime"].cast(pa.int64()).to_numpy()
    events = np.arange(2_000)[np.arange(2_000) % 50 >= 4]
    assert times.tolist() == (int(base.timestamp()) * 1_000_000 + events * 10_000).tolist()


def test_bids_refer_to_persons_and_auctions_that_exist_or_will_soon() -> None:
    made = {kind: read_all(NexmarkSource(100_000, kinds=kind)) for kind in KINDS}
    for column, kind in (("auction", "auction"), ("bidder", "person")):
        refers = made["bid"][column].to_numpy()
        ids = made[kind]["id"].to_numpy()
        assert refers.min() >= 1000
        assert refers.max() <= ids.max() + 10
        assert np.array_equal(ids, np.arange(1000, 1000 + len(ids)))


def test_auctions_follow_their_law() -> None:
    auctions = read_all(NexmarkSource(500_000, kinds="auction"))
    newest = auctions["id"].to_numpy() - 1000
    assert share(pc.equal(auctions["seller"], pa.array(newest // 3 // 100 * 100 + 1000))) == pytest.approx(
        0.75, abs=0.01
    )
    assert pc.all(pc.greater(auctions["reserve"], auctions["initialBid"])).as_py()
    assert pc.all(pc.greater(auctions["expires"], auctions["dateTime"])).as_py()
    assert set(auctions["category"].to_pylist()) == {10, 11, 12, 13, 14}
    lengths = {
        name: pc.min_max(pc.binary_length(auctions[name])).as_py() for name in ("itemName", "description", "extra")
    }
    assert lengths["itemName"] == {"min": 3, "max": 19}
    assert lengths["description"] == {"min": 3, "max": 99}
    assert lengths["extra"] == {"min": 312, "max": 467}


def test_persons_follow_their_law() -> None:
    persons = read_all(NexmarkSource(200_000, kinds="person"))
    assert pc.all(pc.match_substring_regex(persons["emailAddress"], r"^[a-z]{3,6}@[a-z]{3,4}\.com$")).as_py()
    assert pc.all(pc.match_substring_regex(persons["creditCard"], r"^\d{4} \d{4} \d{4} \d{4}$")).as_py()
    assert pc.count_distinct(persons["name"]).as_py() == 99
    assert pc.count_distinct(persons["city"]).as_py() == 10
    assert pc.count_distinct(persons["state"]).as_py() == 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_rows", [1, 7, 1_000])
def test_the_batch_size_changes_nothing(kind: str, batch_rows: int) -> None:
    events = 300 if batch_rows == 1 else 3_000
    source = NexmarkSource(events, kinds=kind)  # type: ignore[arg-type]
    assert read_all(source, batch_rows).equals(read_all(source, 100_000))


@pytest.mark.parametrize(("splits", "events"), [(2, 10_000), (3, 10_001), (7, 1_234), (64, 700)])
def test_the_number_of_splits_changes_nothing(splits: int, events: int) -> None:
    assert by_row(read_all(NexmarkSource(events, splits=splits))) == by_row(read_all(NexmarkSource(events)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_keeps_the_contract(kind: str) -> None:
    def make() -> NexmarkSource:
        return NexmarkSource(2_600, kinds=kind, splits=3, out_of_order=10)  # type: ignore[arg-type]

    check_source(make, read_all(make()), batch_rows=9)


def test_shuffling_moves_events_within_their_group_and_changes_none_of_them() -> None:
    plain, mixed = read_all(NexmarkSource(1_000)), read_all(NexmarkSource(1_000, out_of_order=100))
    assert plain["dateTime"].to_pylist() != mixed["dateTime"].to_pylist()
    assert by_row(plain) == by_row(mixed)
    order = shuffled(np.arange(1_000), 100)
    assert sorted(order.tolist()) == list(range(1_000))
    assert np.abs(order - np.arange(1_000)).max() < 100


def test_another_seed_is_another_stream_with_the_same_ids() -> None:
    one, other = (read_all(NexmarkSource(1_000, seed=seed, kinds="auction")) for seed in (1, 2))
    assert one["id"].equals(other["id"])
    assert not one["initialBid"].equals(other["initialBid"])


PINNED = {
    "bid": "299a3a2682e5aaa5",
    "auction": "37ee3f5fb4656d37",
    "person": "311293ce56cba4cb",
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_stream_of_a_seed_is_pinned(kind: str) -> None:
    # Checkpoints hold only a place in the stream: if the generator changed, a restored job would read other rows.
    rows = read_all(NexmarkSource(5_000, kinds=kind)).to_pylist()  # type: ignore[arg-type]
    assert hashlib.sha256(repr(rows).encode()).hexdigest()[:16] == PINNED[kind]


def test_prices_span_the_whole_law() -> None:
    bits = np.array([0, 2**30, 2**31, 3 * 2**30, 2**32 - 1], dtype=np.uint64)
    assert prices(bits).tolist() == [100, 3162, 100_000, 3_162_278, 100_000_000]


def test_a_position_of_another_stream_is_refused() -> None:
    split = NexmarkSource(1_000, seed=1).list_splits(None)[0]
    with pytest.raises(SourceError, match=r"checkpointed as seed=1.*now it is seed=2"):
        read_splits(NexmarkSource(1_000, seed=2), [(split, split.start)])


def test_a_stream_without_end_goes_on() -> None:
    source = NexmarkSource(None)
    assert not source.bounded
    reader = source.open_reader(reader_context(batch_rows=100))
    reader.add_split(source.list_splits(None)[0], None)
    polls = [reader.poll() for _ in range(20)]
    assert all(isinstance(event, SplitBatch) for event in polls)


def test_a_paced_stream_hands_out_no_more_than_is_due() -> None:
    clock = ManualClock()
    source = NexmarkSource(None, rate=1_000, kinds="bid", paced=True)
    reader = source.open_reader(reader_context(batch_rows=460, clock=clock))
    reader.add_split(source.list_splits(None)[0], None)
    assert reader.poll() is None
    clock.advance_ms(100)
    first = reader.poll()
    assert isinstance(first, SplitBatch)
    assert first.batch.num_rows == 92
    assert reader.poll() is None
    clock.advance_ms(10_000)
    rest = list(itertools.takewhile(lambda e: e is not None, iter(reader.poll, object())))
    assert sum(event.batch.num_rows for event in rest if isinstance(event, SplitBatch)) == 9_200


def test_json_messages_hold_the_same_bids() -> None:
    bids = read_all(NexmarkSource(1_000))
    messages = [orjson.loads(line) for line in bid_json_lines(1_000)]
    for column in ("auction", "bidder", "price", "channel", "url", "extra"):
        assert [m[column] for m in messages] == bids[column].to_pylist()
    assert messages[0]["dateTime"] == "2026-01-01 00:00:00.000"
    assert [datetime.fromisoformat(m["dateTime"]) for m in messages] == bids["dateTime"].to_pylist()


def test_json_messages_can_be_made_in_pieces() -> None:
    assert bid_json_lines(300) + bid_json_lines(700, first=300) == bid_json_lines(1_000)
    assert bid_json_lines(4) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rate": 0}, "rate cannot be 0"),
        ({"splits": 0}, "splits cannot be 0"),
        ({"kinds": "sale"}, "kinds cannot be 'sale'"),
        ({"out_of_order": 1906}, "multiple of 953"),
        ({"base_time": datetime(2026, 1, 1)}, "no zone"),  # noqa: DTZ001
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        NexmarkSource(10, **options)  # type: ignore[arg-type]
