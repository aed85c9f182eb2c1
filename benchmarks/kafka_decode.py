"""How fast the Kafka source reads and decodes JSON, in rows per CPU second of this process (all its threads).

Nexmark bids (7 fields, some 200 bytes) from one topic, already written; the broker is another process and not counted.
The limit is what the client gives without any decoding: `consume()` and the payloads.

    python benchmarks/kafka_decode.py [rows] [partitions] [rounds]
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition

from lakeward.connectors.formats.json import Json, JsonDecoder
from lakeward.connectors.formats.json_columns import ColumnFactory
from lakeward.connectors.kafka import KafkaSource
from lakeward.connectors.kafka.config import FETCH_SETTINGS
from lakeward.engine.api.codec import Decoder
from lakeward.engine.api.source import Source, SplitBatch
from lakeward.testing.brokers import Broker, start_broker
from lakeward.testing.source_suite import reader_context

BID = Json(
    {
        "auction": pa.int64(),
        "bidder": pa.int64(),
        "price": pa.int64(),
        "channel": pa.string(),
        "url": pa.string(),
        "dateTime": pa.timestamp("us"),
        "extra": pa.string(),
    }
)
BATCH_ROWS = 32_768


def bids(count: int, seed: int) -> list[bytes]:
    """Bids as `YYYY-MM-DD HH:MM:SS.mmm` JSON records."""
    random = np.random.default_rng(seed)
    letters = ["".join(chr(97 + one) for one in row) for row in random.integers(0, 26, (1000, 24))]
    channels = ["Google", "Facebook", "Baidu", "Apple", "channel-1234"]
    at_ms = 1_767_225_600_000 + np.arange(count) // 10
    times = [str(at).replace("T", " ") for at in at_ms.astype("datetime64[ms]")]
    numbers = random.integers(0, [10_000, 10_000, 10_000_000, 5, 1000, 1000], (count, 6)).tolist()
    template = (
        '{"auction":%d,"bidder":%d,"price":%d,"channel":"%s",'
        '"url":"https://www.nexmark.com/%s/item.htm?query=1","dateTime":"%s","extra":"%s"}'
    )
    return [
        (template % (a, b, price, channels[c], letters[u][:15], at, letters[x])).encode()
        for (a, b, price, c, u, x), at in zip(numbers, times, strict=True)
    ]


def read_raw(broker: Broker, topic: str, rows: int, partitions: int) -> None:
    """The limit: take the payloads and drop them."""
    settings = {"bootstrap.servers": broker.bootstrap, "group.id": "limit", "enable.auto.commit": False}
    consumer = Consumer({**FETCH_SETTINGS, **settings})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    count = 0
    while count < rows:
        count += len([message.value() for message in consumer.consume(1000, timeout=0.1) if message.error() is None])
    consumer.close()


def read_source(source: Source, rows: int) -> None:
    """What a job's source task does: poll until all rows came."""
    reader = source.open_reader(reader_context(batch_rows=BATCH_ROWS, linger_ms=50))
    for split in source.list_splits(None):
        reader.add_split(split, None)
    count = 0
    while count < rows:
        event = reader.poll()
        if event is None:
            time.sleep(0.001)
        else:
            count += event.batch.num_rows if isinstance(event, SplitBatch) else 0
    reader.close()


def measure(name: str, rows: int, rounds: int, work: Callable[[], object], limit: float | None = None) -> float:
    """Run it several times; print and return the best rate per CPU second."""
    rates = []
    for _ in range(rounds):
        cpu, wall = time.process_time(), time.monotonic()
        work()
        rates.append((rows / (time.process_time() - cpu), rows / (time.monotonic() - wall)))
    best, wall_rate = max(rates)
    ratio = f"  {best / limit:5.2f} of the limit" if limit else ""
    print(f"{name:42} {best / 1000:8.0f} k rows/CPU s {wall_rate / 1000:8.0f} k rows/s{ratio}")
    return best


def main(arguments: Sequence[str]) -> None:
    """Run all measurements."""
    rows, partitions, rounds = (int(a) for a in (*arguments, *("1000000", "4", "3")[len(arguments) :]))
    values = bids(rows, seed=1)
    logging.getLogger("lakeward.kafka").setLevel(logging.ERROR)  # the bad records below are meant
    few = ["auction", "price", "dateTime"]
    spoilt = [b'{"auction":' if i % 100 == 0 else value for i, value in enumerate(values)]
    with tempfile.TemporaryDirectory() as directory, start_broker(directory) as broker:
        print(f"{broker!r}: {rows} rows of {sum(map(len, values)) / rows:.0f} bytes, {partitions} partitions")
        clean, dirty = broker.create_topic(partitions=partitions), broker.create_topic(partitions=partitions)
        for number in range(partitions):
            broker.produce(clean, values[number::partitions], partition=number)
            broker.produce(dirty, spoilt[number::partitions], partition=number)
        decoder, narrow = BID.decoder(), BID.decoder(few)
        limit = measure(
            "consume, no decoding (the limit)", rows, rounds, lambda: read_raw(broker, clean, rows, partitions)
        )
        measure("decode 7 fields, no Kafka", rows, rounds, lambda: _decode(decoder, values))
        measure("decode 3 fields, no Kafka", rows, rounds, lambda: _decode(narrow, values))
        measure("decode 7 fields, no Kafka, 1 % bad records", rows, rounds, lambda: _decode(decoder, spoilt))
        parser = JsonDecoder(BID.schema, ColumnFactory(), speculate=False)
        measure("decode 7 fields, no Kafka, parser alone", rows, rounds, lambda: _decode(parser, values))
        source = KafkaSource(broker.bootstrap, clean, format=BID)
        skipping = KafkaSource(broker.bootstrap, dirty, format=BID, on_error="skip")
        measure("source, 7 fields", rows, rounds, lambda: read_source(source, rows), limit)
        measure("source, 3 fields", rows, rounds, lambda: read_source(source.select(few), rows), limit)
        good = rows - len(range(0, rows, 100))
        measure("source, 7 fields, 1 % bad records", rows, rounds, lambda: read_source(skipping, good), limit)


def _decode(decoder: Decoder, values: list[bytes]) -> None:
    for start in range(0, len(values), BATCH_ROWS):
        decoder.decode(values[start : start + BATCH_ROWS])


if __name__ == "__main__":
    main(sys.argv[1:])
