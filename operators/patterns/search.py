"""The search for the preferred match of each start, all starts together.

A path through the pattern is told by the first row and the number of rows of each variable, since the rows of one
variable follow each other. So whatever a condition refers to lies in slices of the rows, and whether a row would fit
as the tenth of a variable can be asked before it is known whether the nine before it do: a variable is extended by
galloping (Bentley and Yao, "An almost optimal algorithm for unbounded searching", 1976), one row, then four, sixteen
and so on, all paths in one call, and ends at the first row that does not fit. A path of n rows takes log n calls, and
at most five times as many conditions as a row-wise matcher computes.

Alternatives are tried in the order of the standard (SQL:2016, ISO/IEC 19075-5, 4.12): those of the last variable first;
a greedy variable gives rows back one by one, a reluctant one takes one more. The first path that is whole is the match.
Where the next thing to look at is a row that may yet come, the start is open, and nothing is decided. Where it is a row
that cannot come any more, the start has failed: rows are given back for one that does not fit, not for want of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from lakeward.operators.patterns.pattern import Formula, Gap, Pattern
from lakeward.operators.patterns.rows import KeyRows, Span, Spans
from lakeward.operators.windows.columns import Mask, Rows

FAILED, MATCHED, OPEN = 0, 1, 2
"""What can be said of a start."""

_PIECE_ROWS = 1 << 19
_GROWTH = 4
"""How many times as many rows are looked at when all have fitted; with 2 a call looks at too few to be worth it."""
_MANY = np.int64(2**62)

_Step = Callable[[int, Rows], None]


class Search:
    """One search; make it, then `run` it.

    Args:
        pattern: What is looked for.
        rows: The rows.
        starts: Where matches may begin.
    """

    def __init__(self, pattern: Pattern, rows: KeyRows, starts: Rows) -> None:
        self._pattern = pattern
        self._stages = pattern.stages
        self._rows = rows
        self._starts = starts
        self._limits = rows.limits[starts]
        self._closed: Mask = rows.closed[starts]
        self.begins = [np.zeros(len(starts), np.int64) for _ in pattern.stages]
        self.counts = [np.zeros(len(starts), np.int64) for _ in pattern.stages]
        self.states = np.zeros(len(starts), np.int8)
        self.looked_at = 0
        self._goals = [np.zeros(len(starts), np.int64) for _ in pattern.stages]
        self._at = starts.copy()
        self._widths = np.ones(len(starts), np.int64)
        self._queue: dict[tuple[int, str], list[Rows]] = {}
        self._steps: Mapping[str, _Step] = {
            "enter": self._enter,
            "seek": self._seek,
            "extend": self._extend,
            "give": self._give,
            "back": self._back,
        }

    def run(self) -> None:
        """Decide what can be decided: `states`, and of those that match `begins` and `counts`."""
        self._put("enter", 0, np.arange(len(self._starts)))
        while self._queue:
            # The first variables first: their paths then go through the later ones together.
            key = min(self._queue)
            some = self._queue.pop(key)
            self._steps[key[1]](key[0], some[0] if len(some) == 1 else np.concatenate(some))

    def ends(self, who: Rows) -> Rows:
        """The row behind the match."""
        return self._end(len(self._stages) - 1, who)

    def _put(self, step: str, stage: int, who: Rows) -> None:
        if len(who) and stage >= 0:
            self._queue.setdefault((stage, step), []).append(who)

    def _end(self, stage: int, who: Rows) -> Rows:
        """The row behind those of a variable and all before it."""
        return self._starts[who] if stage < 0 else self.begins[stage][who] + self.counts[stage][who]

    # -- steps: each takes the paths that have come to it, and puts them where they go on

    def _enter(self, number: int, who: Rows) -> None:
        """Begin a variable behind the one before."""
        if number == len(self._stages):
            self._finish(who)
            return
        stage = self._stages[number]
        who = self._unrefused(stage.not_next, number, who)
        at = self._end(number - 1, who)
        self.begins[number][who], self.counts[number][who] = at, 0
        if not stage.greedy and not stage.least:
            self._put("enter", number + 1, who)
        elif stage.gap is not Gap.NONE:
            self._look(number, who, at)
        else:
            self._goals[number][who] = stage.least
            self._take(number, who)

    def _look(self, number: int, who: Rows, at: Rows) -> None:
        """Look for the first row of a variable from here on, at more and more rows at once."""
        self._at[who], self._widths[who] = at, 1
        self._look_on(number, who)

    def _take(self, number: int, who: Rows) -> None:
        """Take rows that fit, more and more at once."""
        self._widths[who] = 1
        self._put("extend", number, who)

    def _unrefused(self, refusals: Sequence[Formula], number: int, who: Rows) -> Rows:
        """The paths whose next row is not one that must not follow."""
        if not refusals or not len(who):
            return who
        at = self._end(number - 1, who)
        here = at < self._limits[who]
        self.states[who[~here & ~self._closed[who]]] = OPEN
        refused = np.zeros(len(who), np.bool_)
        rows = at[here]
        for one in refusals:
            refused[here] |= self._rows.holds(one, rows, self._spans(who[here], number - 1))
        self._put("back", number - 1, who[refused])
        return who[~refused & (here | self._closed[who])]

    def _seek(self, number: int, who: Rows) -> None:
        """Look for the first row of a variable that need not follow directly."""
        after = number == len(self._stages)
        condition = None if after else self._stages[number].condition
        without = self._pattern.without if after else self._stages[number].without
        widths = np.minimum(self._widths[who], self._limits[who] - self._at[who])
        for piece in _pieces(widths):
            some, sizes = who[piece], widths[piece]
            paths, rows = _expanded(some, self._at[some], sizes)
            self.looked_at += len(paths)
            before = self._spans(paths, number - 1)
            refused = np.zeros(len(rows), np.bool_)
            for one in without:
                refused |= self._rows.holds(one, rows, before)
            fits = refused
            if not after:
                own = {number: (rows, np.ones(len(rows), np.int64))}
                fits = refused | self._rows.holds(condition, rows, self._spans(paths, number, own))
            offsets = _first_true(fits, sizes)
            found = offsets < sizes
            hits = some[found]
            bad = refused[(np.cumsum(sizes) - sizes + offsets)[found]]
            self._seek_failed(number, hits[bad])
            self._begin(number, hits[~bad], (self._at[some] + offsets)[found][~bad])
            self._at[some] += sizes
            self._widths[some[~found]] *= _GROWTH
            self._look_on(number, some[~found])

    def _look_on(self, number: int, who: Rows) -> None:
        """Go on looking behind rows that were no good."""
        more = self._at[who] < self._limits[who]
        self._put("seek", number, who[more])
        ended = who[~more]
        closed = self._closed[ended]
        self.states[ended[~closed]] = OPEN
        if number == len(self._stages):
            self.states[ended[closed]] = MATCHED
        elif self._may_miss(number):
            self._leave_out(number, ended[closed])

    def _seek_failed(self, number: int, who: Rows) -> None:
        if self._may_miss(number):
            self._leave_out(number, who)
        else:
            self._put("back", number - 1, who)

    def _may_miss(self, number: int) -> bool:
        """Whether a variable may be left out when it is not found."""
        return number < len(self._stages) and self._stages[number].greedy and not self._stages[number].least

    def _leave_out(self, number: int, who: Rows) -> None:
        """The last alternative of a variable that may be missing."""
        self.begins[number][who], self.counts[number][who] = self._end(number - 1, who), 0
        self._put("enter", number + 1, who)

    def _begin(self, number: int, who: Rows, rows: Rows) -> None:
        """The first row of a variable was found."""
        if not len(who):
            return
        self.begins[number][who], self.counts[number][who] = rows, 1
        self._goals[number][who] = max(self._stages[number].least, 1)
        self._take(number, who)

    def _extend(self, number: int, who: Rows) -> None:
        """Take the next rows as long as they fit, up to the goal."""
        stage = self._stages[number]
        begins, counts = self.begins[number], self.counts[number]
        room = np.minimum(self._goal(number, who) - counts[who], self._limits[who] - begins[who] - counts[who])
        condition = stage.condition
        if condition is None or self._rows.mask(condition) is not None:
            fitting = room
            if condition is not None:
                ends = begins[who] + counts[who]
                fitting = np.minimum(room, self._rows.next_row(condition, value=False)[ends] - ends)
            counts[who] += fitting
            self._extended(number, who)
            return
        self._extended(number, who[room == 0])
        who, room = who[room > 0], room[room > 0]
        widths = np.minimum(self._widths[who], room)
        for piece in _pieces(widths):
            some, sizes = who[piece], widths[piece]
            paths, rows = _expanded(some, begins[some] + counts[some], sizes)
            self.looked_at += len(paths)
            own = {number: (begins[paths], rows - begins[paths] + 1)}
            fits = self._rows.holds(condition, rows, self._spans(paths, number, own))
            taken = _first_true(~fits, sizes)
            counts[some] += taken
            self._widths[some] *= _GROWTH
            more = (taken == sizes) & (sizes < room[piece])
            self._put("extend", number, some[more])
            self._extended(number, some[~more])

    def _goal(self, number: int, who: Rows) -> Rows:
        """How many rows a variable takes if they fit."""
        stage = self._stages[number]
        if not stage.greedy:
            return self._goals[number][who]
        return np.full(len(who), _MANY if stage.most is None else stage.most, np.int64)

    def _extended(self, number: int, who: Rows) -> None:
        """A variable has all rows that fit."""
        stage = self._stages[number]
        reached = self.counts[number][who] >= self._goal(number, who)
        unfit = ~reached & (self._end(number, who) < self._limits[who])
        closed = self._closed[who]
        self.states[who[~reached & ~unfit & ~closed]] = OPEN
        enough = reached
        if stage.greedy:
            enough = reached | ((unfit | closed) & (self.counts[number][who] >= stage.least))
        self._put("enter", number + 1, who[enough])
        self._exhausted(number, who[unfit & ~enough])

    def _exhausted(self, number: int, who: Rows) -> None:
        """With the rows before it where they are, a variable that begins here has no alternative left."""
        stage = self._stages[number]
        if stage.gap is Gap.ANY:
            self._look(number, who, self.begins[number][who] + 1)
        elif stage.gap is Gap.UNFIT:
            self._seek_failed(number, who)
        else:
            self._put("back", number - 1, who)

    def _back(self, number: int, who: Rows) -> None:
        """What follows a variable has failed: take its next alternative."""
        stage, counts = self._stages[number], self.counts[number][who]
        if stage.gap is not Gap.NONE:
            empty = counts == 0
            if stage.greedy:
                self._put("back", number - 1, who[empty])
            else:
                self._look(number, who[empty], self.begins[number][who[empty]])
            who, counts = who[~empty], counts[~empty]
        least = max(stage.least, int(stage.gap is not Gap.NONE))
        if stage.greedy:
            more = counts > least
            self._widths[who] = 1
            self._put("give", number, who[more])
        else:
            more = counts < (_MANY if stage.most is None else stage.most)
            self._goals[number][who] = counts + 1
            self._take(number, who[more])
        self._exhausted(number, who[~more])

    def _give(self, number: int, who: Rows) -> None:
        """Give rows back, as many at once as the next variable could not begin with."""
        stage = self._stages[number]
        following = self._stages[number + 1] if number + 1 < len(self._stages) else None
        begins, counts = self.begins[number], self.counts[number]
        if following is None or following.gap is not Gap.NONE or not following.least or following.not_next:
            counts[who] -= 1
            self._put("enter", number + 1, who)
            return
        least = max(stage.least, int(stage.gap is not Gap.NONE))
        widths = np.minimum(self._widths[who], counts[who] - least)
        for piece in _pieces(widths):
            some, sizes = who[piece], widths[piece]
            paths, backwards = _expanded(some, np.zeros(len(some), np.int64), sizes)
            self.looked_at += len(paths)
            left = counts[paths] - 1 - backwards
            rows = begins[paths] + left
            spans = {number: (begins[paths], left), number + 1: (rows, np.ones(len(rows), np.int64))}
            fits = self._rows.holds(following.condition, rows, self._spans(paths, number + 1, spans))
            given = _first_true(fits, sizes)
            found = given < sizes
            counts[some] -= np.minimum(given + 1, sizes)
            self._widths[some] *= _GROWTH
            self._put("enter", number + 1, some[found])
            rest = some[~found]
            more = counts[rest] > least
            self._put("give", number, rest[more])
            self._exhausted(number, rest[~more])

    def _finish(self, who: Rows) -> None:
        """All variables have their rows; what must not follow may still come."""
        last = len(self._stages)
        who = self._unrefused(self._pattern.not_next, last, who)
        if not self._pattern.without:
            self.states[who] = MATCHED
            return
        self._look(last, who, self._end(last - 1, who))

    def _spans(self, who: Rows, upto: int, own: Mapping[int, Span] | None = None) -> Spans:
        """The rows of paths by variable: as they are, but for some; variables that come later have none."""

        def spans(number: int) -> Span:
            if own is not None and number in own:
                return own[number]
            if number > upto:
                nothing = np.zeros(len(who), np.int64)
                return nothing, nothing
            return self.begins[number][who], self.counts[number][who]

        return spans


def _pieces(sizes: Rows) -> Iterator[slice]:
    """Cut paths into pieces that do not look at too many rows at once."""
    if not len(sizes):
        return
    totals = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = int(totals[start - 1]) if start else 0
        end = max(int(np.searchsorted(totals, before + _PIECE_ROWS, side="right")), start + 1)
        yield slice(start, end)
        start = end


def _expanded(who: Rows, at: Rows, sizes: Rows) -> tuple[Rows, Rows]:
    """Each path as often as it has rows to look at, with these rows."""
    if len(sizes) and sizes.max() == 1 == sizes.min():
        return who, at
    offsets = np.cumsum(sizes) - sizes
    return np.repeat(who, sizes), np.repeat(at - offsets, sizes) + np.arange(int(sizes.sum()))


def _first_true(mask: Mask, sizes: Rows) -> Rows:
    """How many of the values of each path come before the first that is true: all of them if none is."""
    if len(mask) == len(sizes) and (not len(sizes) or sizes.min() == 1):
        return (~mask).astype(np.int64)
    offsets = np.cumsum(sizes) - sizes
    true = np.append(np.flatnonzero(mask), len(mask) + int(sizes.max(initial=0)))
    counts: Rows = np.minimum(true[np.searchsorted(true, offsets)] - offsets, sizes)
    return counts
