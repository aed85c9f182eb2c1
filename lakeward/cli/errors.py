"""An error in at most eight lines: what, where, what to do."""

from __future__ import annotations

import textwrap

import click

from lakeward.engine.core.errors import LakewardError

LINES_MAX = 8
WIDTH = 110


def render_error(error: LakewardError) -> list[str]:
    """The error as lines: its text first, then the hint, then where it happened.

    >>> for line in render_error(LakewardError("no column 'pric'", hint="did you mean 'price'?", location="job.py:7")):
    ...     print(line)
    error: no column 'pric'
      hint: did you mean 'price'?
      at: job.py:7

    Returns:
        At most eight lines.
    """
    tail = _wrap("hint: ", error.hint, 3) if error.hint else []
    where = ", ".join(filter(None, [f"operator '{error.operator}'" if error.operator else "", error.location]))
    if where:
        tail += _wrap("at: ", where, 1)
    head = textwrap.wrap(f"error: {error.message}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return _cut(head, LINES_MAX - len(tail)) + tail


def show_error(error: LakewardError) -> None:
    """Print an error to standard error."""
    for line in render_error(error):
        click.echo(line, err=True)


def _wrap(label: str, text: str, lines_max: int) -> list[str]:
    lines = textwrap.wrap(
        label + " ".join(text.split()), WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
    )
    return _cut(lines, lines_max)


def _cut(lines: list[str], lines_max: int) -> list[str]:
    if len(lines) <= lines_max:
        return lines
    return [*lines[: lines_max - 1], lines[lines_max - 1] + " …"]
