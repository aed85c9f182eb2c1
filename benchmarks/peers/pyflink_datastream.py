"""Bids counted per auction in a Python function with state, by PyFlink's DataStream API: JSON lines in, nothing out.

Run by `run.py` with the interpreter of an environment that has apache-flink, and with the execution mode: "process",
PyFlink's own choice, or "thread".
"""

from __future__ import annotations

import json
import os
import sys

import pyflink
from pyflink.common import Configuration, Types, WatermarkStrategy
from pyflink.datastream import KeyedProcessFunction, RuntimeContext, StreamExecutionEnvironment
from pyflink.datastream.connectors.file_system import FileSource, StreamFormat
from pyflink.datastream.state import ValueStateDescriptor


class CountBids(KeyedProcessFunction):
    """A running count per key."""

    def open(self, context: RuntimeContext) -> None:
        """Declare the state."""
        self.count = context.get_state(ValueStateDescriptor("count", Types.LONG()))

    def process_element(self, value: tuple[int, int], ctx: KeyedProcessFunction.Context):  # type: ignore[no-untyped-def]  # noqa: D102
        n = (self.count.value() or 0) + 1
        self.count.update(n)
        yield value[0], n


def parse(line: str) -> tuple[int, int]:
    """The fields that are needed."""
    bid = json.loads(line)
    return bid["auction"], bid["price"]


def main(mode: str, path: str, directory: str) -> None:
    """Run to the end of the file."""
    os.environ["PYTHONPATH"] = os.path.dirname(os.path.dirname(pyflink.__file__))  # where the JVM looks for its bridge
    config = Configuration()
    for key, value in {
        "parallelism.default": "1",
        "python.execution-mode": mode,
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
        "state.backend.type": "rocksdb",
        "execution.checkpointing.interval": "10 s",
        "execution.checkpointing.dir": f"file://{directory}/checkpoints",
    }.items():
        config.set_string(key, value)
    env = StreamExecutionEnvironment.get_execution_environment(config)
    source = FileSource.for_record_stream_format(StreamFormat.text_line_format(), path).build()
    lines = env.from_source(source, WatermarkStrategy.no_watermarks(), "bids")
    pair = Types.TUPLE([Types.LONG(), Types.LONG()])
    bids = lines.map(parse, output_type=pair)
    counts = bids.key_by(lambda bid: bid[0], key_type=Types.LONG()).process(CountBids(), output_type=pair)
    counts.filter(lambda row: row[1] < 0).print()
    env.execute("count")


if __name__ == "__main__":
    main(*sys.argv[1:])
