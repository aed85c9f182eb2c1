"""A pattern with everything settled: variables, conditions, and where the next match is looked for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lakeward.engine.api.expression import BoundExpression
from lakeward.operators.aggregate import BoundAggregate


class Gap(Enum):
    """Which rows may lie before the rows of a variable."""

    NONE = "next"
    UNFIT = "followed_by"
    """Rows that do not fit the variable."""
    ANY = "followed_by_any"
    """Any rows; as few as possible."""


class SkipTo(Enum):
    """Where the search goes on after a match."""

    NEXT_ROW = "to_next_row"
    PAST_LAST_ROW = "past_last_row"
    FIRST = "to_first"
    LAST = "to_last"


@dataclass(frozen=True, slots=True)
class Skip:
    """Where the search goes on after a match.

    Args:
        to: The place.
        stage: The number of the variable whose first or last row it is.
    """

    to: SkipTo
    stage: int = 0


@dataclass(frozen=True, slots=True)
class Reference:
    """A value of the rows that are mapped to some variables.

    Args:
        stages: The numbers of the variables, rising.
        column: The column whose value is taken; None: there is an aggregate.
        from_end: Whether rows are counted from the last one.
        offset: Which row, from 0.
        aggregate: What is computed over all rows of the variables.
    """

    stages: tuple[int, ...]
    column: str | None = None
    from_end: bool = False
    offset: int = 0
    aggregate: BoundAggregate | None = None


@dataclass(frozen=True, slots=True)
class Formula:
    """An expression over a row, and over rows that are mapped to variables.

    Args:
        expression: Bound to the columns of the row and those that stand for references.
        references: By the name of the column that stands for it.
    """

    expression: BoundExpression
    references: tuple[tuple[str, Reference], ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """A variable: some rows that follow each other directly.

    Args:
        name: The variable.
        condition: What holds for each of its rows; None: nothing needs to.
        least: How many rows it has at least.
        most: And at most; None: any number.
        greedy: Whether it takes as many as it can, or as few.
        gap: What may lie before its rows.
        not_next: What must not hold for the row that follows the variable before.
        without: What must not hold for any row from there up to the first row of this one.
    """

    name: str
    condition: Formula | None
    least: int = 1
    most: int | None = 1
    greedy: bool = True
    gap: Gap = Gap.NONE
    not_next: tuple[Formula, ...] = ()
    without: tuple[Formula, ...] = ()


@dataclass(frozen=True, slots=True)
class Pattern:
    """What is looked for.

    Args:
        stages: The variables in order.
        skip: Where the search goes on after a match.
        within_us: From the first row's time to the last row's it must be less than this; None: any time.
        not_next: What must not hold for the row that follows the match.
        without: What must not hold for any row that follows, as long as it might belong to the match.
    """

    stages: tuple[Stage, ...]
    skip: Skip = Skip(SkipTo.PAST_LAST_ROW)
    within_us: int | None = None
    not_next: tuple[Formula, ...] = ()
    without: tuple[Formula, ...] = ()

    @property
    def formulas(self) -> list[Formula]:
        """All conditions."""
        found = [*self.not_next, *self.without]
        for stage in self.stages:
            found += [*stage.not_next, *stage.without, *(() if stage.condition is None else (stage.condition,))]
        return found

    @property
    def description(self) -> str:
        """For `explain()`: "start down+ up"."""
        parts = [mark(stage) for stage in self.stages]
        within = "" if self.within_us is None else f" within {self.within_us / 1e6:g} s"
        return " ".join(parts) + within


def mark(stage: Stage) -> str:
    """A variable as one would write it: "down+"; dots stand for rows that are passed over."""
    gap = {Gap.NONE: "", Gap.UNFIT: "... ", Gap.ANY: ".... "}[stage.gap]
    counts = {(1, 1): "", (0, 1): "?", (0, None): "*", (1, None): "+"}.get((stage.least, stage.most))
    if counts is None:
        most = "" if stage.most is None else stage.most
        counts = f"{{{stage.least}}}" if stage.least == stage.most else f"{{{stage.least},{most}}}"
    return f"{gap}{stage.name}{counts}{'' if stage.greedy else '?'}"
