"""Frames: whatever way the stream is cut, what was sent arrives; what is not ours is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.core.errors import WorkerLostError
from lakeward.engine.processes.frames import Frame, FrameReader, Kind, header

FRAMES = st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=200)), max_size=12)


def receiver(data: bytes, cuts: list[int]) -> Callable[[memoryview], int]:
    """Gives the data in pieces, then nothing for now."""
    rest, sizes = bytearray(data), list(cuts)

    def receive(into: memoryview) -> int:
        if not rest:
            raise BlockingIOError
        count = min(len(rest), len(into), sizes.pop(0) if sizes else len(rest))
        into[:count] = rest[:count]
        del rest[:count]
        return count

    return receive


def all_frames(reader: FrameReader, receive: Callable[[memoryview], int]) -> list[Frame]:
    frames: list[Frame] = []
    for _ in range(1000):
        frames += reader.read(receive)
    return frames


@given(FRAMES, st.lists(st.integers(1, 50), max_size=40))
@settings(max_examples=100, deadline=None)
def test_what_was_sent_arrives_however_the_stream_is_cut(
    frames: list[tuple[Kind, int, bytes]], cuts: list[int]
) -> None:
    data = b"".join(
        header(7, kind, channel, len(payload), number) + payload
        for number, (kind, channel, payload) in enumerate(frames)
    )
    found = all_frames(FrameReader(7, "a test"), receiver(data, cuts))
    assert [(frame.kind, frame.channel, frame.payload.to_pybytes()) for frame in found] == frames


def test_a_payload_that_is_longer_than_the_staging_buffer_arrives_and_is_aligned_for_arrow() -> None:
    payload = bytes(range(256)) * 5000
    data = header(1, Kind.BATCH, 3, len(payload)) + payload + header(1, Kind.END, 3, 0, 1)
    batch, end = all_frames(FrameReader(1, "a test"), receiver(data, [100]))
    assert batch.payload.to_pybytes() == payload
    assert batch.payload.address % 64 == 0
    assert end.kind is Kind.END


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (header(2, Kind.END, 0, 0), "attempt 2 to attempt 1"),
        (header(1, Kind.BATCH, 0, 2**31), "2147483648 bytes"),
        (b"\xff" * 16, "attempt 4294967295"),
        (header(1, Kind.END, 0, 0)[:8] + b"\x63" + bytes(7), "unknown kind 99"),
        (b"", "closed the connection"),
    ],
)
def test_what_is_not_a_frame_of_this_attempt_is_refused_before_memory_is_taken_for_it(
    data: bytes, problem: str
) -> None:
    rest = bytearray(data)

    def receive(into: memoryview) -> int:
        count = min(len(rest), len(into))
        into[:count] = rest[:count]
        del rest[:count]
        return count

    with pytest.raises(WorkerLostError, match=problem):
        FrameReader(1, "worker 3").read(receive)


@pytest.mark.parametrize("numbers", [(1,), (0, 0), (0, 2), (0, 1, 1), (0, 1, 3, 2), (0, 2**24 - 1)])
def test_a_frame_that_was_lost_doubled_or_overtaken_is_noticed(numbers: tuple[int, ...]) -> None:
    data = b"".join(header(1, Kind.END, 3, 0, number) for number in numbers)
    with pytest.raises(WorkerLostError, match=r"frame \d+ came from worker 3 where frame \d+ was due"):
        FrameReader(1, "worker 3").read(receiver(data, []))


def test_frames_are_numbered_over_and_over() -> None:
    reader = FrameReader(1, "worker 3")
    reader._number = 2**24 - 1
    data = b"".join(header(1, Kind.END, 3, 0, number) for number in (2**24 - 1, 2**24, 1))
    assert len(all_frames(reader, receiver(data, []))) == 3


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"{}", b'{"kind": 1}', b"\xff"])
def test_a_control_frame_without_a_message_is_refused(payload: bytes) -> None:
    (frame,) = all_frames(FrameReader(1, "a test"), receiver(header(1, Kind.CONTROL, 0, len(payload)) + payload, []))
    with pytest.raises(WorkerLostError, match="control"):
        frame.message()
