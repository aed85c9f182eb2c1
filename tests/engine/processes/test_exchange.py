"""Channels between workers: all arrives in order, credits bound it, nobody is held up by another's queue."""

from __future__ import annotations

import random
from collections import deque

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.core.errors import WorkerLostError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.messages import Barrier, Batch, EndOfInput, Message, Watermark
from lakeward.engine.processes.exchange import Exchange
from lakeward.engine.processes.frames import Frame, Kind
from lakeward.engine.runtime.build import ChannelEnds

BATCHES = [
    pa.record_batch({"a": [1, 2, None], "b": ["x", None, "zz"]}),
    pa.record_batch({"a": [[{"x": 1}], None, []], "b": [b"", b"\0", None]}),
    pa.record_batch({"a": pa.array(["x", "y", "x"]).dictionary_encode()}),
    pa.record_batch({"a": pa.array([["x"], ["y"]], pa.list_(pa.dictionary(pa.int8(), pa.string())))}),
    pa.record_batch({"a": [1, 2, 3, 4]}).slice(1, 2),
    pa.record_batch({"a": [1]}, schema=pa.schema([pa.field("a", pa.int64(), metadata={b"k": b"v"})])),
    pa.record_batch({"a": pa.array([], pa.int64())}),
]
MESSAGES = st.one_of(
    st.sampled_from(BATCHES).map(Batch),
    st.builds(Watermark, st.integers(-(2**63), 2**63 - 1), st.booleans()),
    st.builds(Barrier, st.integers(0, 2**63 - 1).map(CheckpointId)),
    st.just(EndOfInput()),
)


class Wire:
    """Workers whose frames are delivered when the test says so."""

    def __init__(self, workers: int) -> None:
        self.lines: dict[tuple[int, int], deque[Frame]] = {}
        self.workers = [Exchange(number, workers, self._post(number)) for number in range(workers)]

    def connect(self, sender: int, receiver: int, batches_max: int) -> tuple[ChannelEnds, ChannelEnds]:
        """The sender's end and the receiver's."""
        ends = [worker.connect(0, sender, receiver, batches_max) for worker in self.workers]
        return ends[sender % len(ends)], ends[receiver % len(ends)]

    def deliver(self) -> bool:
        """Everything that is on its way; whether there was anything."""
        busy = False
        for (source, target), line in self.lines.items():
            while line:
                busy = True
                self.workers[target].on_frame(source, line.popleft())
        return busy

    def _post(self, source: int):  # type: ignore[no-untyped-def]
        def post(worker: int, kind: Kind, channel: int, payload: bytes | pa.Buffer) -> None:
            self.lines.setdefault((source, worker), deque()).append(Frame(kind, channel, pa.py_buffer(payload)))

        return post


def received(end: ChannelEnds) -> list[Message]:
    assert end.reader is not None
    return [end.reader.take() for _ in range(len(end.reader))]


@given(st.lists(MESSAGES, max_size=20))
@settings(max_examples=100, deadline=None)
def test_every_message_arrives_as_it_was_sent_and_in_order(messages: list[Message]) -> None:
    wire = Wire(2)
    source, target = wire.connect(0, 1, 1000)
    assert source.writer is not None
    for message in messages:
        source.writer.send(message)
    wire.deliver()
    found = received(target)
    assert found == messages
    for sent, came in zip(messages, found, strict=True):
        if isinstance(sent, Batch) and isinstance(came, Batch):
            assert came.data.schema.equals(sent.data.schema, check_metadata=True)
            came.data.validate(full=True)


@pytest.mark.parametrize("batches_max", [1, 2, 3, 8])
def test_a_sender_without_credit_is_held_until_the_receiver_takes_something(batches_max: int) -> None:
    wire = Wire(2)
    source, target = wire.connect(0, 1, batches_max)
    assert source.writer is not None
    assert target.reader is not None
    sent = 0
    while not source.writer.is_full:
        source.writer.send(Batch(BATCHES[0]))
        sent += 1
    wire.deliver()
    assert sent == batches_max == len(target.reader)
    for _ in range(100):  # and it never stalls
        while len(target.reader):
            target.reader.take()
        wire.deliver()
        assert not source.writer.is_full
        while not source.writer.is_full:
            source.writer.send(EndOfInput())
        wire.deliver()
        assert len(target.reader) <= batches_max


@pytest.mark.parametrize("seed", range(20))
def test_a_full_channel_holds_up_no_other(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    wire = Wire(3)
    stuck = wire.connect(0, 1, 2)
    others = [wire.connect(*rng.sample(range(3), 2), rng.randint(1, 4)) for _ in range(4)]
    assert stuck[0].writer is not None
    while not stuck[0].writer.is_full:
        stuck[0].writer.send(Batch(BATCHES[0]))
    counts = [0] * len(others)
    for _ in range(300):
        at = rng.randrange(len(others))
        writer, reader = others[at][0].writer, others[at][1].reader
        assert writer is not None
        assert reader is not None
        if not writer.is_full:
            writer.send(EndOfInput())
        if rng.random() < 0.8:
            wire.deliver()
        if len(reader):
            reader.take()
            counts[at] += 1
    assert min(counts) > 20
    assert stuck[0].writer.is_full


def test_subtasks_of_one_worker_share_a_queue_and_those_of_others_none() -> None:
    wire = Wire(2)
    here, there = (worker.connect(0, 1, 3, 4) for worker in wire.workers)
    assert (here.writer, here.reader) == (None, None)
    assert there.writer is there.reader is not None


@pytest.mark.parametrize(
    ("worker", "kind", "payload"),
    [
        (0, Kind.BATCH, b"no batch"),
        (0, Kind.SCHEMA, b"no schema"),
        (0, Kind.STREAM, b"no stream"),
        (0, Kind.WATERMARK, b"short"),
        (0, Kind.BARRIER, b""),
        (0, Kind.CREDIT, bytes(8)),
        (0, Kind.CONTROL, b"{}"),
        (2, Kind.END, b""),
    ],
)
def test_a_worker_that_sends_what_it_should_not_is_called_lost(worker: int, kind: Kind, payload: bytes) -> None:
    wire = Wire(3)
    _, target = wire.connect(0, 1, 8)
    assert target.reader is not None
    with pytest.raises(WorkerLostError, match=f"worker {worker}"):
        wire.workers[1].on_frame(worker, Frame(kind, 1, pa.py_buffer(payload)))
    with pytest.raises(WorkerLostError, match="not its own"):
        wire.workers[1].on_frame(worker, Frame(kind, 99, pa.py_buffer(payload)))
