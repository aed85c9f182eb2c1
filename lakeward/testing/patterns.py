"""A pattern matcher that looks at one row after the other: what the operator's answers are compared with.

It tries the paths of each start one by one, in the order of SQL:2016, over a plain list of rows, and takes the first
that is whole; but none of those behind one that fails for want of rows. Conditions are Python functions, so that it
shares nothing with the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Row = Mapping[str, Any]
Mapped = Mapping[str, Sequence[Row]]
"""The rows of each variable that has some, in the order of the pattern."""

Condition = Callable[[Mapped, Row], bool | None]
"""Gets the rows that are mapped so far, the row at hand as the last one of its variable, and the row at hand."""


@dataclass(frozen=True, slots=True)
class RowVariable:
    """A variable, as in the DSL.

    Args:
        name: Its name.
        condition: What holds for its rows; None: nothing needs to.
        least: How many rows it has at least.
        most: And at most; None: any number.
        greedy: Whether it takes as many as it can.
        gap: What may lie before its rows.
        not_next: What must not hold for the row behind the variable before.
        without: What must not hold for any row from there up to its first row.
    """

    name: str
    condition: Condition | None = None
    least: int = 1
    most: int | None = 1
    greedy: bool = True
    gap: Literal["next", "followed_by", "followed_by_any"] = "next"
    not_next: Sequence[Condition] = ()
    without: Sequence[Condition] = ()


@dataclass(frozen=True, slots=True)
class RowPattern:
    """A pattern, as in the DSL.

    Args:
        variables: In order.
        skip: Where the search goes on after a match: "past_last_row", "to_next_row", "first" or "last".
        skip_to: Of "first" and "last" the variable.
        within_us: The last row is less than this after the first.
        not_next: What must not hold for the row behind the match.
        without: What must not hold for any row behind it that might belong to it.
        time: The column of times, in microseconds.
    """

    variables: Sequence[RowVariable]
    skip: Literal["past_last_row", "to_next_row", "first", "last"] = "past_last_row"
    skip_to: str = ""
    within_us: int | None = None
    not_next: Sequence[Condition] = ()
    without: Sequence[Condition] = field(default=())
    time: str = "at"


class Undecided(Exception):
    """The next row that would have to be looked at may yet come."""


class Ended(Exception):
    """A row is needed that cannot come any more."""


def matches(pattern: RowPattern, rows: Sequence[Row], known_us: int | None = None) -> list[Mapped]:
    """The matches among the rows of one key.

    >>> down = RowVariable("down", lambda mapped, row: row["price"] < mapped["start"][0]["price"], least=1, most=None)
    >>> rows = [{"at": at, "price": price} for at, price in enumerate([5, 3, 4, 6])]
    >>> [match] = matches(RowPattern([RowVariable("start"), down]), rows)
    >>> [row["price"] for row in match["down"]]
    [3, 4]

    Args:
        pattern: What is looked for.
        rows: In the order of time.
        known_us: All rows up to this time are known, later ones may come; None: these are all.

    Returns:
        The rows of each variable of each match, of those that are decided.

    Raises:
        ValueError: The search cannot go on after a match where the pattern says.
    """
    found: list[Mapped] = []
    start = 0
    while start < len(rows):
        try:
            match = _first_path(pattern, rows, start, known_us)
        except Undecided:
            if pattern.skip != "to_next_row":
                break
            match = None
        if match is None:
            start += 1
            continue
        found.append({name: [rows[number] for number in numbers] for name, numbers in match.items()})
        start = _next_start(pattern, match, start)
    return found


_Path = dict[str, list[int]]


def _next_start(pattern: RowPattern, match: _Path, start: int) -> int:
    if pattern.skip == "to_next_row":
        return start + 1
    if pattern.skip == "past_last_row":
        return max(number for numbers in match.values() for number in numbers) + 1
    if not match.get(pattern.skip_to):
        raise ValueError(f"'{pattern.skip_to}' has no row")
    target = match[pattern.skip_to][0 if pattern.skip == "first" else -1]
    if target == start:
        raise ValueError("the search would go on where it began")
    return target


def _first_path(pattern: RowPattern, rows: Sequence[Row], start: int, known_us: int | None) -> _Path | None:
    attempt = _Attempt(pattern, rows, start, known_us)
    try:
        return next(attempt.paths(0, start, {}), None)
    except Ended:
        return None


class _Attempt:
    """All paths from one start, in order of preference."""

    def __init__(self, pattern: RowPattern, rows: Sequence[Row], start: int, known_us: int | None) -> None:
        self._pattern = pattern
        self._rows = rows
        self._first_us = rows[start][pattern.time]
        self._known_us = known_us

    def _has(self, number: int) -> bool:
        """Whether there is such a row, and it is not too late for a match."""
        within_us = self._pattern.within_us
        if number < len(self._rows):
            return within_us is None or self._rows[number][self._pattern.time] - self._first_us < within_us
        if self._known_us is None or (within_us is not None and self._first_us + within_us - 1 <= self._known_us):
            return False
        raise Undecided

    def _holds(self, condition: Condition | None, path: _Path, number: int) -> bool:
        mapped = {name: [self._rows[one] for one in numbers] for name, numbers in path.items()}
        return condition is None or condition(mapped, self._rows[number]) is True

    def _any(self, conditions: Sequence[Condition], path: _Path, number: int) -> bool:
        return any(self._holds(one, path, number) for one in conditions)

    def paths(self, index: int, at: int, path: _Path) -> Iterator[_Path]:
        """The ways to go on with a variable at a row."""
        if index == len(self._pattern.variables):
            yield from self._endings(at, path)
            return
        variable = self._pattern.variables[index]
        if variable.not_next and self._has(at) and self._any(variable.not_next, path, at):
            return
        if variable.least == 0 and not variable.greedy:
            yield from self.paths(index + 1, at, path)
        if variable.gap == "next":
            yield from self._from_here(index, at, path)
        else:
            yield from self._after_a_gap(index, at, path)
        if variable.least == 0 and variable.greedy:
            yield from self.paths(index + 1, at, path)

    def _after_a_gap(self, index: int, at: int, path: _Path) -> Iterator[_Path]:
        variable = self._pattern.variables[index]
        while self._has(at) and not self._any(variable.without, path, at):
            if self._holds(variable.condition, path | {variable.name: [at]}, at):
                yield from self._from_here(index, at, path)
                if variable.gap == "followed_by":
                    return
            at += 1
        if not self._has(at) and not (variable.greedy and variable.least == 0):
            raise Ended

    def _from_here(self, index: int, at: int, path: _Path) -> Iterator[_Path]:
        """The variable has one row or more, the first of them here."""
        variable = self._pattern.variables[index]
        yield from self._with_rows(index, path | {variable.name: []}, at)

    def _with_rows(self, index: int, path: _Path, at: int) -> Iterator[_Path]:
        """Take another row, or go on to the next variable, in the order that the variable prefers."""
        variable = self._pattern.variables[index]
        taken = path[variable.name]
        enough = len(taken) >= max(variable.least, 1)
        if enough and not variable.greedy:
            yield from self.paths(index + 1, at, path)
        if variable.most is None or len(taken) < variable.most:
            if self._has(at):
                longer = path | {variable.name: [*taken, at]}
                if self._holds(variable.condition, longer, at):
                    yield from self._with_rows(index, longer, at + 1)
            elif not (variable.greedy and len(taken) >= variable.least):
                raise Ended
        if enough and variable.greedy:
            yield from self.paths(index + 1, at, path)

    def _endings(self, at: int, path: _Path) -> Iterator[_Path]:
        """The path itself, if nothing follows that must not."""
        pattern = self._pattern
        if pattern.not_next and self._has(at) and self._any(pattern.not_next, path, at):
            return
        while pattern.without and self._has(at):
            if self._any(pattern.without, path, at):
                return
            at += 1
        yield path
