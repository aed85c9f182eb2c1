"""The death of a process, played within one."""

from __future__ import annotations


class SimulatedCrash(BaseException):
    """The process dies here, as of `kill -9`. No engine code may catch it: it derives from `BaseException`."""


class Life:
    """Whether a process of the test kit is still alive: what it asks of the outside once it is dead does not happen."""

    def __init__(self) -> None:
        self.dead = False
