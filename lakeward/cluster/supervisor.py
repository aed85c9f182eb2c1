"""Keeps a coordinator running: starts it, and starts it again when it dies."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from lakeward.cluster.serve import FAILED
from lakeward.engine.core.clock import Clock

log = logging.getLogger("lakeward")

BACKOFF_MIN_MS, BACKOFF_MAX_MS = 200, 10_000
CALM_MS = 60_000
"""A coordinator that has lived so long starts the backoff anew."""


class _Asked:
    """What signals have asked for."""

    def __init__(self) -> None:
        self.is_stopping = False
        self.child: subprocess.Popen[bytes] | None = None

    def stop(self, number: int, frame: FrameType | None) -> None:
        """End, and the coordinator first."""
        self.is_stopping = True
        self.pass_on()

    def pass_on(self) -> None:
        """Tell the coordinator, if there is something to be told."""
        if not self.is_stopping:
            return
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)


def supervise(arguments: Sequence[str], clock: Clock) -> int:
    """Run `python -m lakeward ARGUMENTS` until it ends by itself, or this process is asked to end.

    Args:
        arguments: Of the coordinator's command.
        clock: Time.

    Returns:
        The exit status to end with: that of a first coordinator that could not start, else 0.
    """
    asked = _Asked()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, asked.stop)
    delay_ms, first = BACKOFF_MIN_MS, True
    while not asked.is_stopping:
        began_ms = clock.monotonic_ms()
        child = asked.child = subprocess.Popen(
            [sys.executable, "-m", "lakeward", *arguments], stdin=subprocess.PIPE, start_new_session=True
        )
        asked.pass_on()  # a signal may have come between
        status = child.wait()
        if child.stdin is not None:
            child.stdin.close()
        if asked.is_stopping or status == 0:
            return 0
        if first and status in (1, 2):  # it has said why it cannot work; later, what is in its way may go away
            return status
        first = False
        delay_ms = BACKOFF_MIN_MS if clock.monotonic_ms() - began_ms > CALM_MS else min(delay_ms * 2, BACKOFF_MAX_MS)
        why = "could not go on" if status == FAILED else f"ended with status {status}"
        log.warning("the coordinator %s; it is started again in %.1f s", why, delay_ms / 1000)
        until_ms = clock.monotonic_ms() + delay_ms
        while not asked.is_stopping and clock.monotonic_ms() < until_ms:
            clock.sleep_ms(50)
    return 0
