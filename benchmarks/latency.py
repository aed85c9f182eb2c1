"""How long a record takes from its producer through Kafka and a job to the sink, at half the peak rate.

    python benchmarks/latency.py [--seconds 20] [--share 0.5] [--broker noida]

A producer in a process of its own sends rows with their time, and the sink takes the time when a row arrives. The peak
is measured first: the producer sends as fast as it can, and what arrives at the sink meanwhile, by the wall clock, is
the most that this machine carries from end to end. Then it sends at a share of that. All of it runs on this machine's
cores, broker and producer too. What is sent in the first two seconds, in which the job starts, is left out.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

import lakeward as lw
from lakeward import col
from lakeward.engine.api.sink import Sink, SinkWriter, WriterContext
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.testing.brokers import Broker, start_broker

PARTITIONS = 4
PEAK_SECONDS = 8.0
PEAK_ASKED = 5_000_000.0
BURST_ROWS = 20_000
WAITING_ROWS = 400_000
TICK_S = 0.005
WARM_UP_S = 2.0
SCHEMA = pa.schema([("id", pa.int64()), ("sent_us", pa.int64()), ("extra", pa.string())])
EXTRA = "x" * 150


class LatencySink(Sink):
    """Notes how old each row is when it arrives; writes the percentiles to a file at the end."""

    def __init__(self, path: str) -> None:
        self._path = path

    @property
    def description(self) -> str:
        """What it is."""
        return "latency"

    def open_writer(self, context: WriterContext) -> SinkWriter:
        """The writer."""
        return _LatencyWriter(self._path)


class _LatencyWriter(SinkWriter):
    def __init__(self, path: str) -> None:
        self._path = path
        self._arrivals: list[tuple[float, pa.Array]] = []

    def write(self, batch: pa.RecordBatch) -> None:
        self._arrivals.append((time.time() * 1e6, batch.column("sent_us")))

    def prepare_commit(self, checkpoint: CheckpointId) -> Sequence[JsonObject]:
        return ()

    def close(self) -> None:
        if not self._arrivals:
            return
        sent = np.concatenate([column.to_numpy() for _, column in self._arrivals])
        ages = np.concatenate([now - column.to_numpy() for now, column in self._arrivals])
        ages = ages[sent >= sent.min() + WARM_UP_S * 1e6] / 1000
        start, end = sent.min() + WARM_UP_S * 1e6, sent.max()
        arrived = sum(len(column) for now, column in self._arrivals if start <= now <= end)
        result = {f"p{p}": float(np.percentile(ages, p)) for p in (50, 95, 99, 99.9)}
        result |= {"rows": len(ages), "rate": arrived / (end - start) * 1e6}
        Path(self._path).write_text(json.dumps(result))


def job(options: dict[str, str]) -> None:
    """Reads the topic until it is told to stop."""
    env = lw.StreamExecutionEnvironment(checkpoint_interval="5s", checkpoint_dir=options["directory"])
    source = lw.KafkaSource(options["bootstrap"], options["topic"], format=lw.Json(schema=SCHEMA))
    rows = env.from_source(source, uid="rows").filter(col("id") >= 0).with_columns(double=col("id") * 2)
    rows.sink_to(LatencySink(options["result"]), uid="out")
    env.execute("latency")


def produce(options: dict[str, str]) -> None:
    """Sends at a steady rate, in small bursts; prints how many were sent."""
    from confluent_kafka import Producer

    rate, seconds = float(options["rate"]), float(options["seconds"])
    limits = {"queue.buffering.max.messages": 0, "queue.buffering.max.kbytes": 1_000_000}
    producer = Producer({"bootstrap.servers": options["bootstrap"], "linger.ms": 2, "batch.size": 200_000} | limits)
    started, sent = time.time(), 0
    tail = b',"extra":"%s"}' % EXTRA.encode()
    while (elapsed := time.time() - started) < seconds:
        if len(producer) > WAITING_ROWS:
            producer.poll(TICK_S)
            continue
        due = min(int(elapsed * rate), sent + BURST_ROWS)
        # All rows of a burst are one text: making each by itself would cost this process more than sending it.
        row = {"value": b'{"id":%d,"sent_us":%d' % (sent, int(time.time() * 1e6)) + tail}
        for partition in range(PARTITIONS):
            if burst := [row] * len(range(sent + partition, due, PARTITIONS)):
                producer.produce_batch(options["topic"], burst, partition=partition)
        sent = max(sent, due)
        producer.poll(0)
        time.sleep(TICK_S)
    producer.flush(30)
    print(sent)


def child(**options: str) -> subprocess.Popen[str]:
    """Start one of this script's processes."""
    command = [sys.executable, __file__, "--child", json.dumps(options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def measure(broker: Broker, directory: Path, topic: str, rate: float, seconds: float) -> dict[str, float]:
    """Percentiles of the latency at a rate, in milliseconds, and the rate at which rows arrived."""
    broker.create_topic(topic, PARTITIONS)
    result = directory / topic
    options = {"kind": "job", "directory": f"{result}-checkpoints", "result": str(result)}
    running = child(bootstrap=broker.bootstrap, topic=topic, **options)
    time.sleep(3)  # the job starts; what it measures begins two seconds after its first record
    sender = child(
        bootstrap=broker.bootstrap, topic=topic, kind="produce", rate=str(rate), seconds=str(seconds + WARM_UP_S)
    )
    sent, _ = sender.communicate()
    if sender.returncode != 0:
        raise RuntimeError("the producer failed")
    time.sleep(1)
    running.send_signal(signal.SIGTERM)
    running.wait(60)
    percentiles: dict[str, float] = json.loads(result.read_text())
    return percentiles | {"sent": float(sent)}


def main() -> None:
    """Measure the peak, then the latency at a share of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--broker", choices=["kafka", "noida", "external"])
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        options = json.loads(arguments.child)
        produce(options) if options["kind"] == "produce" else job(options)
        return
    with tempfile.TemporaryDirectory() as folder, start_broker(Path(folder), kind=arguments.broker) as broker:
        highest = measure(broker, Path(folder), "peak", PEAK_ASKED, PEAK_SECONDS)["rate"]
        rate = highest * arguments.share
        found = measure(broker, Path(folder), "paced", rate, arguments.seconds)
        print(f"peak {highest:,.0f} rows a second; sent {rate:,.0f} a second for {arguments.seconds:.0f} s")
        print(", ".join(f"{name} {value:,.1f} ms" for name, value in found.items() if name.startswith("p")))
        print(f"{found['rows']:,.0f} rows measured of {found['sent']:,.0f} sent")
        if found["sent"] < 0.95 * rate * (arguments.seconds + WARM_UP_S):
            print("the producer could not keep that rate: this machine is too small or too busy for the measurement")


if __name__ == "__main__":
    main()
