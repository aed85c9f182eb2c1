"""The coordinator's process: the server of the API beside the care for the jobs. Loopback only."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from asyncio import TimerHandle, Transport
from collections.abc import Mapping
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from lakeward.cluster.api import make_app
from lakeward.cluster.coordinator import ClusterOptions, Coordinator
from lakeward.cluster.files import ClusterFiles, Endpoint
from lakeward.engine.core.clock import Clock
from lakeward.engine.core.errors import ConfigError

log = logging.getLogger("lakeward")

LOOPBACK = "127.0.0.1"
HEADERS_TIMEOUT_S = 10.0
HEADER_BYTES_MAX = 16 << 10
CONNECTIONS_MAX = 64
ORPHANED = 137
FAILED = 75
"""Exit status of a coordinator that wants to be started again."""


class PatientH11Protocol(H11Protocol):
    """Hangs up on callers who do not say soon what they want: uvicorn has no limit for that."""

    _limit: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """A caller is there."""
        super().connection_made(transport)
        self._limit = self.loop.call_later(HEADERS_TIMEOUT_S, self._hang_up_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        if self._limit is not None:
            self._limit.cancel()
        super().connection_lost(exc)

    def _hang_up_if_silent(self) -> None:
        if getattr(self, "cycle", None) is None:
            self.transport.abort()


def serve(files: ClusterFiles, options: ClusterOptions, port: int, clock: Clock, environment: Mapping[str, str]) -> int:
    """Be the coordinator until SIGTERM; returns the exit status.

    Args:
        files: The cluster's directory.
        options: What it was started with.
        port: To listen at; 0: any.
        clock: Time.
        environment: Of which jobs get a part.

    Raises:
        LakewardError: There is another coordinator, the port is taken, or a record cannot be read.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave_to_server)
    lock = files.lock()
    token = files.token()
    listener = _listen(port)
    bound = listener.getsockname()[1]
    coordinator = Coordinator(files, options, clock, environment, token)
    coordinator.start()
    _die_with_parent()
    hosts = frozenset({f"{LOOPBACK}:{bound}", f"localhost:{bound}"})
    config = configuration(make_app(coordinator, token, hosts))
    try:
        files.write_endpoint(Endpoint(f"http://{LOOPBACK}:{bound}", os.getpid()))
        log.info("the cluster in %s listens at http://%s:%d, with %d slots", files.root, LOOPBACK, bound, options.slots)
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        coordinator.close()
        listener.close()
        os.close(lock)
    return FAILED if coordinator.failure is not None else 0


def _leave_to_server(number: int, frame: FrameType | None) -> None:
    """Nothing: the server raises what it was ended with once more when it has ended."""


def configuration(app: ASGIApp) -> uvicorn.Config:
    """How the server is run: nothing that nobody needs, and limits for everything.

    Args:
        app: What it serves.
    """
    return uvicorn.Config(
        app,
        http=PatientH11Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=HEADER_BYTES_MAX,
    )


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"port {port} cannot be had: {error.strerror}", hint="give another --port, or 0") from error
    return listener


def _die_with_parent() -> None:
    """End at once when standard input ends: whoever has started this process holds the other end and is gone."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(ORPHANED)

    threading.Thread(target=wait, name="lakeward-parent", daemon=True).start()
