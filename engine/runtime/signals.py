"""SIGINT and SIGTERM as a wish to stop."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger("lakeward")


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """While inside, SIGINT and SIGTERM ask the job to stop; a second SIGINT interrupts it hard.

    In a thread that is not the main one, signals are left alone.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not asked:
            asked = True
            log.warning("stopping after a last checkpoint; Ctrl-C again stops at once")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: asked
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
