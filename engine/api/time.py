"""How event time advances: watermark strategies (after Flink's WatermarkStrategy)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lakeward.engine.core.durations import Duration, parse_duration_us


@dataclass(frozen=True, slots=True)
class WatermarkStrategy:
    """Which column is event time, how late rows may come, and when a silent split stops holding others back.

    Make one with `bounded_out_of_orderness` or `monotonous`. Watermarks are kept per split (per Kafka partition): a
    slow partition's rows are never late because another partition is ahead.

    >>> WatermarkStrategy.bounded_out_of_orderness("ordered_at", "5s").with_idleness("1m").idle_timeout_us
    60000000
    """

    column: str
    out_of_orderness_us: int = 0
    idle_timeout_us: int | None = None

    @classmethod
    def bounded_out_of_orderness(cls, column: str, delay: Duration) -> WatermarkStrategy:
        """Rows of one split come at most `delay` later than the newest event time seen before them.

        >>> WatermarkStrategy.bounded_out_of_orderness("ordered_at", "5s").out_of_orderness_us
        5000000

        Args:
            column: Name of the event-time column (a timestamp).
            delay: For example "5s".

        Returns:
            The strategy: its watermark trails the newest event time by `delay` and one microsecond.
        """
        return cls(column, parse_duration_us(delay, "out-of-orderness"))

    @classmethod
    def monotonous(cls, column: str) -> WatermarkStrategy:
        """Rows of one split come in the order of their event times.

        >>> WatermarkStrategy.monotonous("ts").out_of_orderness_us
        0
        """
        return cls(column)

    def with_idleness(self, timeout: Duration) -> WatermarkStrategy:
        """A split that sends nothing for `timeout` (processing time) no longer holds the watermark back.

        >>> WatermarkStrategy.monotonous("ordered_at").with_idleness("30s").idle_timeout_us
        30000000
        """
        return replace(self, idle_timeout_us=parse_duration_us(timeout, "idleness timeout"))
