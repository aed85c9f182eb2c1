"""Where in the user's own code an exception was raised: a traceback without the frames of Lakeward and of libraries."""

from __future__ import annotations

import linecache
import os
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from types import TracebackType

_PACKAGE = __name__.partition(".")[0]
_EXAMPLES = f"{_PACKAGE}.examples"
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
_INSTALLED = ("site-packages", "dist-packages")
_FRAMES_FIRST, _FRAMES_LAST = 1, 3


@dataclass(frozen=True, slots=True)
class UserFrame:
    """A line of the user's code that was being run.

    Args:
        file: Its file.
        line: Its number.
        function: The function it stands in.
    """

    file: str
    line: int
    function: str

    @property
    def place(self) -> str:
        """File and line; relative to the working directory if it lies inside."""
        return f"{shown_path(self.file)}:{self.line}"

    def __str__(self) -> str:
        linecache.checkcache(self.file)
        source = linecache.getline(self.file, self.line).strip()
        where = f"{self.place} in {self.function}"
        return f"{where}: {source}" if source else where


@dataclass(frozen=True, slots=True)
class FoldedFrames:
    """Frames that are not shown.

    Args:
        count: How many.
        owner: Whose they are.
    """

    count: int
    owner: str

    def __str__(self) -> str:
        return f"... {self.count} frame{'s' if self.count > 1 else ''} of {self.owner}"


TraceLine = UserFrame | FoldedFrames


def is_own(module: str) -> bool:
    """Whether a module is of Lakeward itself; its examples stand for users' code."""
    return module.partition(".")[0] == _PACKAGE and not module.startswith(_EXAMPLES)


@dataclass(frozen=True, slots=True)
class _Frame:
    frame: UserFrame
    module: str

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]

    def is_users(self, own: str) -> bool:
        """Whether it is of the user's code; `own` is a package that is, wherever it is installed."""
        if self.package == _PACKAGE:
            return not is_own(self.module)
        file = self.frame.file
        generated = file == "<string>" and self.frame.function.startswith("__")
        if file.startswith("<frozen ") or (generated and self.module != "__main__"):
            return False  # imports, and the methods that `dataclass` generates
        installed = any(f"/{folder}/" in file.replace("\\", "/") for folder in _INSTALLED)
        if self.package == own and installed:
            return True
        return not installed and not file.startswith(_LIBRARIES)


def user_trace(error: BaseException, function: object = None) -> tuple[TraceLine, ...]:
    """The lines of the user's code that led to an exception, outermost first; others are folded to their number.

    What comes before the first line of the user's is left out: it is how Lakeward calls functions.

    Args:
        error: The exception, caught.
        function: The function that was called: its package is the user's, even if it is an installed one.
    """
    own = str(getattr(function, "__module__", "") or "").partition(".")[0]
    frames = [(one, one.is_users(own)) for one in _frames(error.__traceback__)]
    first = next((i for i, (_, users) in enumerate(frames) if users), None)
    if first is None:
        frames = [(one, users) for one, users in frames if one.package != _PACKAGE]
    lines: list[TraceLine] = []
    for users, run in groupby(frames[first or 0 :], key=lambda pair: pair[1]):
        found = [one for one, _ in run]
        lines += _of_user([one.frame for one in found]) if users else [_folded(found)]
    return tuple(lines)


def innermost(trace: Sequence[object]) -> UserFrame | None:
    """The user's line that is nearest to where the exception was raised."""
    return next((line for line in reversed(trace) if isinstance(line, UserFrame)), None)


def shown_path(file: str) -> str:
    """A file's path, relative to the working directory if it lies inside."""
    try:
        inside = os.getcwd() + os.sep
    except OSError:  # the working directory is gone
        return file
    return file.removeprefix(inside)


def _frames(trace: TracebackType | None) -> list[_Frame]:
    frames = []
    while trace is not None:
        code = trace.tb_frame.f_code
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        frames.append(_Frame(UserFrame(code.co_filename, trace.tb_lineno, code.co_name), module))
        trace = trace.tb_next
    return frames


def _of_user(frames: list[UserFrame]) -> list[TraceLine]:
    """The first and the last few."""
    left_out = len(frames) - _FRAMES_FIRST - _FRAMES_LAST
    if left_out <= 0:
        return list(frames)
    return [*frames[:_FRAMES_FIRST], FoldedFrames(left_out, "your code"), *frames[-_FRAMES_LAST:]]


def _folded(frames: list[_Frame]) -> FoldedFrames:
    return FoldedFrames(len(frames), " and ".join(dict.fromkeys(one.package for one in frames)))
