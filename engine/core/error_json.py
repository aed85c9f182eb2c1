"""Errors on their way between processes: what they say, not the objects they hold."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

from lakeward.engine.core.errors import InternalError, LakewardError, UserCodeError
from lakeward.engine.core.json_types import Json, JsonObject
from lakeward.engine.core.user_frames import user_trace


def error_to_json(error: BaseException) -> JsonObject:
    """What an error says, with the trace if it is not Lakeward's; what must not be shown is hidden by then.

    >>> from lakeward.engine.core.errors import SinkError
    >>> print(error_from_json(error_to_json(SinkError("the disk is full", hint="make room", operator="lake"))))
    operator 'lake': the disk is full
      hint: make room
    """
    if not isinstance(error, Exception):
        error = _end_of_python(error)
    if not isinstance(error, LakewardError):
        lines = traceback.format_exception(error)
        said = InternalError(f"{type(error).__name__}: {error}", hint="this is a bug in Lakeward: please report it")
        said.details_elsewhere = tuple("".join(lines).splitlines())
        error = said
    return {
        "type": type(error).__name__,
        "message": _text(error.message),
        "hint": _text(error.hint),
        "operator": _text(error.operator),
        "location": _text(error.location),
        "details": [_text(line) for line in error.details],
    }


def _end_of_python(error: BaseException) -> UserCodeError:
    """`SystemExit`, an interrupt, a panic of a library in Rust: what nobody but a function of the user's raises."""
    said = "".join(traceback.format_exception_only(error)).strip()
    failure = UserCodeError(
        f"a function raised {said}, which would end Python; it ends the job",
        hint="raise an exception that is derived from Exception",
        trace=user_trace(error),
    )
    failure.raised = error
    return failure


def _text(text: str) -> str:
    """As it can be sent: names of files may have bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode()


def error_from_json(data: Json) -> LakewardError:
    """The error that `error_to_json` wrote; one of an unknown type becomes an `InternalError`."""
    fields = data if isinstance(data, dict) else {}
    kinds = {kind.__name__: kind for kind in _kinds(LakewardError)}
    kind = kinds.get(str(fields.get("type")), InternalError)
    error = kind.__new__(kind)
    LakewardError.__init__(
        error,
        str(fields.get("message", "an error that cannot be read")),
        hint=str(fields.get("hint", "")),
        operator=str(fields.get("operator", "")),
        location=str(fields.get("location", "")),
    )
    details = fields.get("details")
    error.details_elsewhere = tuple(str(line) for line in details) if isinstance(details, list) else ()
    return error


def _kinds(kind: type[LakewardError]) -> Iterator[type[LakewardError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _kinds(one)
