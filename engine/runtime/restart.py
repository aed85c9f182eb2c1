"""When a failed job is started again. Pure."""

from __future__ import annotations

from lakeward.engine.config import RestartConfig


class RestartPolicy:
    """Exponential backoff; an attempt that made progress starts the count anew.

    >>> policy = RestartPolicy(RestartConfig(attempts_max=3, delay_min_ms=100))
    >>> [policy.next_delay_ms(progressed=False) for _ in range(4)]
    [100, 200, 400, None]

    Args:
        config: Limits.
    """

    def __init__(self, config: RestartConfig) -> None:
        self._config = config
        self._failures = 0
        self.restarts = 0

    def next_delay_ms(self, *, progressed: bool) -> int | None:
        """How long to wait after a failure; None: give up."""
        self._failures = 0 if progressed else self._failures
        if self._failures >= self._config.attempts_max:
            return None
        delay_ms = self._config.delay_min_ms * self._config.multiplier**self._failures
        self._failures += 1
        self.restarts += 1
        return int(min(delay_ms, self._config.delay_max_ms))
