"""Log lines on standard error: for people, or JSON for machines."""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Literal

import orjson

from lakeward.engine.core.log_scope import log_fields

LogFormat = Literal["text", "json"]
FORMATS: tuple[LogFormat, ...] = ("text", "json")


class JsonFormatter(logging.Formatter):
    """A log line as a JSON object: when, how bad, what; and job, attempt, checkpoint and operator, where known."""

    def format(self, record: logging.LogRecord) -> str:
        """The object, on one line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **log_fields(),
        }
        operator = getattr(record, "operator", None)
        if operator is not None:
            line["operator"] = str(operator)
        if record.exc_info is not None:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return orjson.dumps(_plain(line), default=str).decode()


def _plain(line: dict[str, object]) -> dict[str, object]:
    """Texts with half a character in them, as names of files may have, are no JSON: they are escaped."""
    return {
        name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for name, value in line.items()
    }


def configure_logging(*, verbose: bool, log_format: LogFormat = "text") -> None:
    """Show warnings, and with `verbose` everything, of Lakeward's own logger."""
    show_log(logging.StreamHandler(sys.stderr), log_format)
    logging.getLogger("lakeward").setLevel(logging.DEBUG if verbose else logging.INFO)
    # What librdkafka says of every connection attempt; what matters of it comes as an error with its place.
    logging.getLogger("lakeward.kafka").setLevel(logging.DEBUG if verbose else logging.CRITICAL)


def show_log(handler: logging.Handler, log_format: LogFormat) -> None:
    """Let this handler alone write the log."""
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    logging.getLogger("lakeward").handlers[:] = [handler]
