"""An error in a few lines: what, where, what to do."""

from __future__ import annotations

import textwrap

import click

from lakeward.engine.core.errors import LakewardError
from lakeward.engine.core.user_frames import shown_path

LINES_MAX = 8
"""For an error without details; lines of the user's code and rows come to these."""
WIDTH = 110
_DETAIL_LINES_MAX = 4


def render_error(error: LakewardError) -> list[str]:
    """The error as lines: its text, the user's code and the rows, the hint, and the operator it happened in.

    >>> for line in render_error(LakewardError("no column 'pric'", hint="did you mean 'price'?", location="job.py:7")):
    ...     print(line)
    error: no column 'pric'
      hint: did you mean 'price'?
      at: job.py:7

    Returns:
        At most eight lines, and some for each detail.
    """
    details = [line for detail in error.details for line in _detail(detail)]
    tail = _wrap("hint: ", error.hint, 3) if error.hint else []
    location = shown_path(error.location)
    where = ", ".join(filter(None, [f"operator '{error.operator}'" if error.operator else "", location]))
    if where:
        tail += _wrap("at: ", where, 1)
    head = textwrap.wrap(f"error: {error.message}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return _cut(head, LINES_MAX - len(tail)) + details + tail


def show_error(error: LakewardError) -> None:
    """Print an error to standard error."""
    for line in render_error(error):
        click.echo(line, err=True)


def _detail(text: str) -> list[str]:
    """A line of code is cut, for the rest of it is in the file; a row is wrapped."""
    if text.startswith((">", "...")):
        return [f"  {text}" if len(text) <= WIDTH else f"  {text[: WIDTH - 1]}…"]
    return _wrap("", text, _DETAIL_LINES_MAX)


def _wrap(label: str, text: str, lines_max: int) -> list[str]:
    lines = textwrap.wrap(
        label + " ".join(text.split()), WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
    )
    return _cut(lines, lines_max)


def _cut(lines: list[str], lines_max: int) -> list[str]:
    if len(lines) <= lines_max:
        return lines
    return [*lines[: lines_max - 1], lines[lines_max - 1] + " …"]
