"""Log lines for people, on standard error."""

from __future__ import annotations

import logging


def configure_logging(*, verbose: bool) -> None:
    """Show warnings, and with `verbose` everything, of Lakeward's own logger."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("lakeward")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    # What librdkafka says of every connection attempt; what matters of it comes as an error with its place.
    logging.getLogger("lakeward.kafka").setLevel(logging.DEBUG if verbose else logging.CRITICAL)
