"""Faults at the ports: decides when something goes wrong, and carries it out at a port's call."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NoReturn, Protocol, TypeVar

from lakeward.engine.core.errors import LakewardError
from lakeward.testing.crash import SimulatedCrash
from lakeward.testing.simulation.knobs import LATER, Fault

T = TypeVar("T")


class ViolationFound(BaseException):
    """An invariant does not hold. Derives from `BaseException`, so that no engine code takes it for a failed call."""


class Stage(Protocol):
    """What a fault needs of the simulated world."""

    def note(self, text: str) -> None:
        """Add a line to the trace, in the name of the process that runs now."""
        ...

    def pause(self) -> None:
        """Let the process that runs now stand still here, start another one in its place, then go on."""
        ...


class Faults:
    """Draws faults.

    Args:
        rng: Where from.
        rates: The chance of each kind; those that are left out never happen.
        later: Where from for what was added later, so that seeds keep the rest of their meaning.
    """

    by_line = False
    """Whether `around` is asked between any two lines of a committer, too."""

    def __init__(self, rng: random.Random, rates: Mapping[Fault, float], later: random.Random | None = None) -> None:
        self._rng = rng
        self._later = later or rng
        self._rates = dict(rates)
        self.stage: Stage | None = None
        self.counts: Counter[Fault] = Counter()

    def heal(self) -> None:
        """From now on nothing goes wrong."""
        self._rates = {}

    def happens(self, fault: Fault) -> bool:
        """Whether it happens now."""
        rate = self._rates.get(fault)
        rng = self._later if fault in LATER else self._rng
        if rate is None or rng.random() >= rate or self.counts[fault] >= fault.times_max:
            return False
        self.counts[fault] += 1
        return True

    def choose(self, count: int) -> int:
        """A number below `count`."""
        return self._rng.randrange(count)

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        if self.stage is not None:
            self.stage.note(text)

    def crash(self, where: str) -> NoReturn:
        """The process dies here."""
        self.note(f"dies at {where}")
        raise SimulatedCrash(where)

    def around(self, where: str) -> None:
        """A place before or after an effect: the process may die or stand still here."""
        if not self._rates:
            return
        if self.happens(Fault.CRASH):
            self.crash(where)
        if self.stage is not None and self.happens(Fault.PAUSE):
            self.note(f"stands still at {where}")
            self.stage.pause()
            self.note(f"goes on at {where}")

    def fail(self, fault: Fault, where: str, error: Callable[[str], LakewardError]) -> None:
        """Raise an error if the fault happens."""
        if self._rates and self.happens(fault):
            self.note(f"{fault.name} at {where}")
            raise error(f"simulated: {where}: {fault.text}")
