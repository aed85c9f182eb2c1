"""Signs of life between a worker and the coordinator, on a connection of their own.

A thread of the worker sends one byte and waits for the answer, whatever the worker's tasks are doing. A worker whose
coordinator is silent for too long ends itself at once: its successors may be running by then. One that is stopped
(SIGSTOP) sends nothing, which the coordinator notices.
"""

from __future__ import annotations

import logging
import os
import socket
import threading

log = logging.getLogger("lakeward")

INTERVAL_S = 0.5
BEAT = b"\1"
ORPHANED = 70
"""A worker's exit status after it has lost its coordinator."""


def start_beating(connection: socket.socket, timeout_ms: int) -> None:
    """Keep in touch with the coordinator from now on; this process ends when it is lost.

    Args:
        connection: To the coordinator, after its handshake.
        timeout_ms: How long it may be silent.
    """
    connection.settimeout(timeout_ms / 1000)
    threading.Thread(target=_beat, args=(connection,), name="lakeward-heartbeat", daemon=True).start()


def _beat(connection: socket.socket) -> None:
    pause = threading.Event()
    try:
        while True:
            connection.sendall(BEAT)
            if not connection.recv(1):
                break
            pause.wait(INTERVAL_S)
    except OSError as error:
        log.warning("this worker has lost its coordinator (%s), and ends", error)
    os._exit(ORPHANED)


class BeatListener:
    """The coordinator's end of one worker's connection.

    Args:
        connection: After its handshake.
        now_ms: The time.
    """

    def __init__(self, connection: socket.socket, now_ms: int) -> None:
        connection.setblocking(False)
        self._connection = connection
        self.heard_ms = now_ms
        """When it last gave a sign of life."""

    def fileno(self) -> int:
        """For selectors."""
        return self._connection.fileno()

    def answer(self, now_ms: int) -> bool:
        """Answer the signs that have come; False when the worker has hung up."""
        try:
            beats = self._connection.recv(64)
            if not beats:
                return False
            self.heard_ms = now_ms
            self._connection.send(BEAT * len(beats))
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
