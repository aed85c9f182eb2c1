"""Checks of what users hand in: an argument of a wrong kind is an error that says what, where, and how to write it.

One way for environments, streams, sources and sinks alike: without it the mistake would surface as an error of Python's
own, deep inside, or only when the job runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lakeward.engine.core.errors import ConfigError

_SHOWN_CHARS_MAX = 60
_PACKAGE = __name__.partition(".")[0]


def user_location() -> str:
    """`file:line` of the nearest caller outside Lakeward."""
    frame = sys._getframe(1)
    # By module, not by file: the constructors that `dataclass` generates have no file.
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def expect(value: object, kind: type | tuple[type, ...], what: str, hint: str, *, secret: bool = False) -> None:
    """Refuse an argument of a wrong type.

    >>> expect("10s", str, "size", "write a duration")
    >>> try:
    ...     expect(None, str, "IcebergSink: table", 'write "namespace.table"')
    ... except ConfigError as error:
    ...     print(error.message, error.hint, sep=" | ")
    IcebergSink: table cannot be None | write "namespace.table"

    Args:
        value: What was given.
        kind: The types it may have. True and False are no numbers here.
        what: Whose argument it is, and its name.
        hint: How to write it.
        secret: Whether the value may hold secrets; then only its type is shown.

    Raises:
        ConfigError: It is not of the kind; names the user's line.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise refusal(value, what, hint, secret=secret)


def expect_whole(value: object, what: str, least: int) -> None:
    """Refuse anything but a whole number from `least` on.

    >>> expect_whole(3, "NexmarkSource: splits", least=1)
    >>> try:
    ...     expect_whole("10", "NexmarkSource: events", least=0)
    ... except ConfigError as error:
    ...     print(error.message, error.hint, sep=" | ")
    NexmarkSource: events cannot be '10' | give a whole number, 0 or more

    Raises:
        ConfigError: It is no int, or too small; names the user's line.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise refusal(value, what, f"give a whole number, {least} or more")


def expect_choice(value: object, choices: Sequence[str], what: str) -> None:
    """Refuse a value that is none of the choices.

    >>> try:
    ...     expect_choice("keep", ("refuse", "append"), "MemorySink: on_existing")
    ... except ConfigError as error:
    ...     print(error.message, error.hint, sep=" | ")
    MemorySink: on_existing cannot be 'keep' | choose 'refuse' or 'append'

    Raises:
        ConfigError: It is none of them; names the user's line.
    """
    if not isinstance(value, str) or value not in choices:
        listed = [repr(choice) for choice in choices]
        raise refusal(value, what, f"choose {' or '.join(filter(None, [', '.join(listed[:-1]), listed[-1]]))}")


def refusal(value: object, what: str, hint: str, *, secret: bool = False) -> ConfigError:
    """The error for a value that cannot be; long ones and secrets are named by their type only."""
    try:
        shown = repr(value)
    except Exception:  # a broken __repr__ must not hide the mistake that is being reported
        shown = ""
    if secret or not 0 < len(shown) <= _SHOWN_CHARS_MAX:
        kind = type(value).__qualname__
        shown = f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"
    return ConfigError(f"{what} cannot be {shown}", hint=hint, location=user_location())
