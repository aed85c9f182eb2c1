"""A dead man's switch: an alert when a device has been silent for half a minute, and the all-clear when it is back.

    python examples/dead_mans_switch.py

It goes by event time, which advances as long as any device speaks. To notice that all have fallen silent, set
processing-time timers instead: `ctx.timers.register_processing_time(ctx.processing_time + SILENCE)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import lakeward as lw

SILENCE = timedelta(seconds=30)


@dataclass
class Beat:
    """A device is alive."""

    device: str
    at: datetime


@dataclass
class Notice:
    """A device has fallen silent, or is back."""

    device: str
    what: str
    at: datetime


class Switch(lw.KeyedProcessFunction):
    """Each sign of life sets a timer; the one that finds no newer sign of life raises the alarm, once."""

    last: lw.ValueState[datetime | None]
    silent: lw.ValueState[bool] = lw.ValueState(default=False)

    def process(self, beat: Beat, ctx: lw.KeyedContext) -> Iterator[Notice]:
        """Note a sign of life."""
        last = self.last.value
        if last is not None and beat.at <= last:
            return  # out of order: nothing new
        # The silence and its end may be in one batch. The timer then comes when the device is back already.
        if last is not None and beat.at > last + SILENCE and not self.silent.value:
            yield Notice(beat.device, "silent", last + SILENCE)
            self.silent.value = True
        if self.silent.value:
            yield Notice(beat.device, "back", beat.at)
            self.silent.value = False
        self.last.value = beat.at
        ctx.timers.register_event_time(beat.at + SILENCE)

    def on_timer(self, timestamp: datetime, ctx: lw.KeyedContext) -> Iterator[Notice]:
        """Half a minute after a sign of life: was it the last one?"""
        if ctx.input_has_ended:
            return  # all timers fire now; nobody is silent because the job has no more to read
        if timestamp - SILENCE == self.last.value:
            yield Notice(ctx.current_key, "silent", timestamp)
            self.silent.value = True


def notices(beats: lw.DataStream) -> lw.DataStream:
    """The job: from signs of life to notices."""
    return beats.key_by("device").process(Switch(), uid="switch")


def main() -> None:
    """Run it on a few devices."""
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    seconds = {"pump": (0, 20, 100, 120), "fan": (0, 25, 50, 75, 100, 125)}
    rows = [Beat(device, noon + timedelta(seconds=second)) for device, times in seconds.items() for second in times]
    rows.sort(key=lambda beat: beat.at)
    env = lw.StreamExecutionEnvironment()
    beats = env.from_collection(rows, watermark=lw.WatermarkStrategy.monotonous("at"), uid="beats")
    notices(beats).sink_to(lw.PrintSink(), uid="notices")
    env.execute("dead-mans-switch")


if __name__ == "__main__":
    main()
