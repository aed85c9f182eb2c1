"""Patterns: `pattern().start(...).next(...)`, and `keyed.match(...)`, which looks for one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lakeward.dsl.expressions import Expr, col
from lakeward.dsl.pattern_binding import Binder
from lakeward.dsl.stream import DataStream, EventTime
from lakeward.engine.core.durations import Duration, parse_duration_us
from lakeward.engine.core.errors import ConfigError, GraphError, LakewardError
from lakeward.engine.core.expect import expect, expect_whole, user_location
from lakeward.engine.core.names import did_you_mean
from lakeward.engine.graph.logical import Exchange, Node
from lakeward.operators.patterns import pattern as settled
from lakeward.operators.patterns.operator import Match, MatchConfig
from lakeward.operators.patterns.pattern import Gap, Skip, SkipTo
from lakeward.operators.process.tags import OutputTag

if TYPE_CHECKING:
    from lakeward.dsl.keyed import KeyedStream

_SKIPS = {one.value: one for one in (SkipTo.PAST_LAST_ROW, SkipTo.NEXT_ROW)}


@dataclass(frozen=True, slots=True)
class Variable:
    """One step of a pattern as it is written.

    Args:
        name: Of the variable.
        where: What holds for its rows; None: nothing needs to.
        gap: Which rows may come before.
        least: How many rows it has at least.
        most: And at most; None: any number.
        greedy: Whether it takes as many as it can.
        negated: Whether it says what must not come.
        quantified: Whether it was said how many rows it has.
    """

    name: str
    where: Expr | None
    gap: Gap = Gap.NONE
    least: int = 1
    most: int | None = 1
    greedy: bool = True
    negated: bool = False
    quantified: bool = False


@dataclass(frozen=True, slots=True)
class SkipTarget:
    """The row of a variable at which the search goes on after a match. Made by `to_first` and `to_last`."""

    to: SkipTo
    variable: str


def to_first(variable: str) -> SkipTarget:
    """Go on after a match at the first row of a variable: `pattern().start("a").next("b").skip(lw.to_first("b"))`.

    >>> to_first("b").variable
    'b'
    """
    expect(variable, str, "to_first", 'give a variable\'s name: lw.to_first("down")')
    return SkipTarget(SkipTo.FIRST, variable)


def to_last(variable: str) -> SkipTarget:
    """Go on after a match at the last row of a variable: SQL's `AFTER MATCH SKIP TO LAST`.

    >>> to_last("up").variable
    'up'
    """
    expect(variable, str, "to_last", 'give a variable\'s name: lw.to_last("up")')
    return SkipTarget(SkipTo.LAST, variable)


@dataclass(frozen=True, slots=True)
class Pattern:
    """What rows of one key that follow each other are to look like. Made by `pattern()`; every verb gives a new one.

    A pattern is a list of variables; each is mapped to one or more rows, which follow each other directly. Conditions
    are expressions over the row at hand (`col`) and the rows that are mapped so far (`var`); docs/patterns.md has more.

    >>> import lakeward as lw
    >>> fall = lw.col("price") < lw.var("start", "down").last("price", 1)
    >>> rise = lw.col("price") > lw.var("down").last("price")
    >>> print(lw.pattern().start("start").next("down", fall).one_or_more().next("up", rise).within("1h"))
    start down+ up within 3600 s

    Args:
        steps: The variables in order.
        within_us: How long a match may take; None: any time.
        after: Where the search goes on after a match.
    """

    steps: tuple[Variable, ...] = ()
    within_us: int | None = None
    after: SkipTo | SkipTarget = SkipTo.PAST_LAST_ROW

    def start(self, name: str, where: Expr | None = None) -> Pattern:
        """The first variable.

        >>> print(pattern().start("a"))
        a

        Args:
            name: A name of its own.
            where: What holds for its rows; without it, any row will do.
        """
        if self.steps:
            raise GraphError(
                f"start comes first, and this pattern begins with '{self.steps[0].name}'",
                hint="use next",
                location=user_location(),
            )
        return self._with(name, where, Gap.NONE)

    def next(self, name: str, where: Expr | None = None) -> Pattern:
        """A variable whose rows follow directly: SQL's `A B`.

        >>> print(pattern().start("a").next("b"))
        a b

        Args:
            name: A name of its own.
            where: What holds for its rows; without it, any row will do.
        """
        return self._behind("next")._with(name, where, Gap.NONE)

    def followed_by(self, name: str, where: Expr | None = None) -> Pattern:
        """A variable whose first row is the next one that fits: rows before it that do not fit are passed over.

        >>> print(pattern().start("a").followed_by("b"))
        a ... b

        Args:
            name: A name of its own.
            where: What holds for its rows; without it, any row will do.
        """
        return self._behind("followed_by")._with(name, where, Gap.UNFIT)

    def followed_by_any(self, name: str, where: Expr | None = None) -> Pattern:
        """As `followed_by`, but rows that fit may be passed over too, if what comes later fails with them.

        A start has one match all the same, with the first rows with which everything fits: not one for each row that
        fits, as in Flink's CEP library.

        >>> print(pattern().start("a").followed_by_any("b").next("c"))
        a .... b c

        Args:
            name: A name of its own.
            where: What holds for its rows; without it, any row will do.
        """
        return self._behind("followed_by_any")._with(name, where, Gap.ANY)

    def not_next(self, name: str, where: Expr) -> Pattern:
        """What must not hold for the row that follows directly; if there is none, it does not.

        >>> import lakeward as lw
        >>> print(pattern().start("a").not_next("b", lw.col("kind") == "b").followed_by("c"))
        a not_next(b) ... c

        Args:
            name: A name of its own, for the reader.
            where: What must not hold; `var` refers to the variables before.
        """
        return self._behind("not_next")._with(name, where, Gap.NONE, negated=True)

    def not_followed_by(self, name: str, where: Expr) -> Pattern:
        """What must not hold for any row up to the first row of the next variable, that row included.

        At the end of a pattern, with `within`: for no row as long as the match might go on.

        >>> import lakeward as lw
        >>> paid = lw.col("kind") == "payment"
        >>> print(pattern().start("order").not_followed_by("payment", paid).within("15m"))
        order not_followed_by(payment) within 900 s

        Args:
            name: A name of its own, for the reader.
            where: What must not hold; `var` refers to the variables before.
        """
        return self._behind("not_followed_by")._with(name, where, Gap.UNFIT, negated=True)

    def one_or_more(self) -> Pattern:
        """The variable before has one or more rows: SQL's `A+`.

        >>> print(pattern().start("a").one_or_more().next("b"))
        a+ b
        """
        return self._quantified(1, None)

    def zero_or_more(self) -> Pattern:
        """The variable before has any number of rows, perhaps none: SQL's `A*`.

        >>> print(pattern().start("a").next("b").zero_or_more().next("c"))
        a b* c
        """
        return self._quantified(0, None)

    def optional(self) -> Pattern:
        """The variable before may be missing: SQL's `A?`, and of a variable with a quantifier `A{0,n}`.

        >>> print(pattern().start("a").next("b").optional().next("c"))
        a b? c
        """
        last = self._last("optional")
        if last.least > 1:
            hint = f"give the least number as 0: .times(0, {last.most})"
            raise GraphError(f"'{last.name}' has {last.least} rows or more, or none: that is no range", hint=hint)
        return self._changed(least=0, quantified=True)

    def times(self, least: int, most: int | None = None) -> Pattern:
        """The variable before has so many rows: SQL's `A{n}`, `A{n,m}`.

        >>> print(pattern().start("a").times(3).next("b").times(0, 2))
        a{3} b{0,2}

        Args:
            least: How many at least, and if `most` is not given exactly.
            most: How many at most.

        Raises:
            ConfigError: They are no whole numbers, or no range with a row in it.
            GraphError: The variable has a quantifier already.
        """
        hint = (
            "times(3): three; times(2, 4): two to four; times(0, 4): up to four, or none; times_or_more(2): from two on"
        )
        for name, value in (("least", least), ("most", least if most is None else most)):
            expect(value, int, f"times: {name}", hint)
        most = least if most is None else most
        if least < 0 or most < 1 or most < least:
            given = f"{least}" if most == least else f"{least}, {most}"
            if most == 0:
                hint = 'what must not come is said by not_next("b", where) or not_followed_by("b", where)'
            raise ConfigError(f"times({given}) is no number of rows", hint=hint, location=user_location())
        return self._quantified(least, most)

    def times_or_more(self, least: int) -> Pattern:
        """The variable before has so many rows or more: SQL's `A{n,}`.

        >>> print(pattern().start("a").times_or_more(2).next("b"))
        a{2,} b
        """
        expect_whole(least, "times_or_more: least", least=0)
        return self._quantified(least, None)

    def reluctant(self) -> Pattern:
        """The variable before takes as few rows as it can, SQL's `A+?`; without this as many.

        >>> print(pattern().start("a").one_or_more().reluctant().next("b"))
        a+? b
        """
        self._last("reluctant")
        return self._changed(greedy=False)

    def within(self, duration: Duration) -> Pattern:
        """The last row of a match is less than this after the first one.

        >>> print(pattern().start("a").followed_by("b").within("5s"))
        a ... b within 5 s

        Args:
            duration: For example "5s". It bounds the state, and lets results have event time.
        """
        within_us = parse_duration_us(duration, "within")
        if within_us <= 0:
            raise ConfigError("within takes a time of more than 0", hint='for example "5s"')
        return replace(self, within_us=within_us)

    def skip(self, after: str | SkipTarget) -> Pattern:
        """Where the search goes on after a match: SQL's `AFTER MATCH SKIP`.

        >>> print(pattern().start("a").next("b").skip(to_last("b")))
        a b

        Args:
            after: "past_last_row" (as without this), "to_next_row" (the one behind the first), `to_first("x")` or
                `to_last("x")`.
        """
        if isinstance(after, SkipTarget):
            return replace(self, after=after)
        if not isinstance(after, str) or after not in _SKIPS:
            listed = ", ".join(f'"{one}"' for one in _SKIPS)
            raise ConfigError(
                f"skip takes {listed}, to_first(...) or to_last(...), not {after!r}", location=user_location()
            )
        return replace(self, after=_SKIPS[after])

    def __str__(self) -> str:
        parts = [_written(step) for step in self.steps]
        return " ".join(parts) + ("" if self.within_us is None else f" within {self.within_us / 1e6:g} s")

    def _behind(self, verb: str) -> Pattern:
        if not self.steps:
            raise GraphError(
                f"{verb} goes on with a pattern, and this one is empty",
                hint='begin with .start("a")',
                location=user_location(),
            )
        return self

    def _with(self, name: str, where: Expr | None, gap: Gap, negated: bool = False) -> Pattern:
        expect(name, str, "a variable of a pattern", 'give it a name: .next("down", where=...)')
        if where is not None or negated:
            expect(where, Expr, f"the condition of '{name}'", 'give an expression: lw.col("price") > 10')
        if any(step.name == name for step in self.steps):
            raise GraphError(
                f"there are two variables '{name}'",
                hint="give each a name of its own; var(...) takes both",
                location=user_location(),
            )
        return replace(self, steps=(*self.steps, Variable(name, where, gap, negated=negated)))

    def _last(self, verb: str) -> Variable:
        if not self.steps:
            raise GraphError(
                f"{verb} belongs behind a variable", hint='begin with .start("a")', location=user_location()
            )
        if self.steps[-1].negated:
            raise GraphError(f"{verb} says nothing of '{self.steps[-1].name}', which must not come at all")
        return self.steps[-1]

    def _quantified(self, least: int, most: int | None) -> Pattern:
        last = self._last("a quantifier")
        if last.quantified:
            hint = "a variable has one: one_or_more, zero_or_more, times or times_or_more, and optional behind it"
            raise GraphError(f"'{last.name}' has a quantifier already: {_written(last)}", hint=hint)
        return self._changed(least=least, most=most, quantified=True)

    def _changed(self, **changes: Any) -> Pattern:
        return replace(self, steps=(*self.steps[:-1], replace(self.steps[-1], **changes)))


def _written(step: Variable) -> str:
    if step.negated:
        return f"{'not_next' if step.gap is Gap.NONE else 'not_followed_by'}({step.name})"
    return settled.mark(settled.Stage(step.name, None, step.least, step.most, step.greedy, step.gap))


def pattern() -> Pattern:
    """Begin a pattern: `pattern().start("a").next("b", where=...)`, for `KeyedStream.match`.

    >>> import lakeward as lw
    >>> low = lw.var("a").mean("price") < 100
    >>> print(lw.pattern().start("a", low).one_or_more().next("b").skip("to_next_row"))
    a+ b
    """
    return Pattern()


class MatchResult(DataStream):
    """The matches of a pattern; also gives the stream of rows that were late."""

    def __init__(self, source: DataStream, node: Node, event_time: EventTime | None, late: str | None) -> None:
        super().__init__(source._context, node, event_time)
        self._source = source
        self._late = late

    def side_output(self, tag: OutputTag) -> DataStream:
        """The rows that were late, as they were.

        >>> import datetime as dt
        >>> import lakeward as lw
        >>> rows = [{"k": 1, "at": dt.datetime(2026, 1, 1)}]
        >>> env = lw.StreamExecutionEnvironment()
        >>> stream = env.from_collection(rows, watermark=lw.WatermarkStrategy.monotonous("at"))
        >>> late = lw.OutputTag("late")
        >>> found = stream.key_by("k").match(lw.pattern().start("a"), {"at": lw.match_time()}, late=late)
        >>> found.side_output(late).schema.names
        ['k', 'at']

        Raises:
            GraphError: The pattern was looked for without this tag.
        """
        expect(tag, OutputTag, "a side stream's tag", 'give an lw.OutputTag("late")')
        if tag.name != self._late:
            return super().side_output(tag)
        source = self._source
        return DataStream(self._context, replace(self._node, schema=source.schema), source.event_time, tag=tag.name)


@dataclass(frozen=True, slots=True)
class MatchOptions:
    """What else may be said of a search; as in `KeyedStream.match`."""

    late: OutputTag | None
    uid: str | None
    parallelism: int | None


def match(keyed: KeyedStream, looked_for: Pattern, measures: Mapping[str, Expr], options: MatchOptions) -> MatchResult:
    """`KeyedStream.match`."""
    stream = keyed._stream
    expect(looked_for, Pattern, "match", 'give a pattern: lw.pattern().start("a").next("b", where=...)')
    if options.late is not None:
        expect(options.late, OutputTag, "match: late", 'give an lw.OutputTag("late")')
    hint = 'give a dict: {"top": lw.var("up").last("price")}'
    expect(measures, Mapping, "match: measures", hint)
    for name in measures:
        expect(name, str, "the name of a measure", hint)
    stream._refuse_updates("match", "look for the pattern before the aggregation, or in the changes: .to_changelog()")
    try:
        return _matched(keyed, looked_for, measures, options)
    except LakewardError as error:
        raise stream._error(error) from None


def _matched(
    keyed: KeyedStream, looked_for: Pattern, measures: Mapping[str, Expr], options: MatchOptions
) -> MatchResult:
    stream, time = keyed._stream, keyed._stream.event_time
    if not measures:
        raise GraphError("match needs measures", hint='say what to send: {"at": lw.match_time()}')
    if options.late is not None and time is None:
        raise GraphError("no row is late without event time", hint="leave late= out")
    _check(looked_for)
    names = tuple(step.name for step in looked_for.steps if not step.negated)
    binder = Binder(stream.schema, names, None if time is None else time.column)
    bound = _settled(looked_for, binder, names)
    formulas = tuple((name, binder.measure(name, one)) for name, one in measures.items())
    times = [name for name, formula in formulas if time is not None and formula.expression.reference == time.column]
    held = bool(times) and looked_for.within_us is not None
    source = _with_inputs(keyed, binder, options)
    tag = None if options.late is None else options.late.name
    config = MatchConfig(
        schema=source.schema,
        keys=keyed.keys,
        time=None if time is None else (time.column, time.offset_us),
        inputs=tuple(binder.inputs),
        pattern=bound,
        measures=formulas,
        late_tag=tag,
        holds_time=held,
    )
    factory = Match(config)
    edge = source._edge(Exchange.HASH, keyed.keys)
    add = stream._context.builder.add
    node = add("match", factory, [edge], factory.output_schema, options.uid, options.parallelism)
    event_time = EventTime(times[0], time.offset_us) if held and time is not None else None
    return MatchResult(source, node, event_time, tag)


def _with_inputs(keyed: KeyedStream, binder: Binder, options: MatchOptions) -> DataStream:
    """The stream with what the pattern reads, and unless late rows are wanted nothing else."""
    stream, time = keyed._stream, keyed._stream.event_time
    names = [*keyed.keys, *(() if time is None else (time.column,))]
    if options.late is not None:
        names = stream.schema.names
    needed = {name: col(name) for name in names} | binder.inputs
    return stream if list(needed) == stream.schema.names else stream._columns("match-input", needed)


def _settled(looked_for: Pattern, binder: Binder, names: tuple[str, ...]) -> settled.Pattern:
    """The pattern with its conditions bound."""
    stages: list[settled.Stage] = []
    not_next: list[settled.Formula] = []
    without: list[settled.Formula] = []
    for step in looked_for.steps:
        condition = None if step.where is None else binder.condition(step.name, step.where)
        if step.negated:
            assert condition is not None, "what must not come has a condition"
            (not_next if step.gap is Gap.NONE else without).append(condition)
            continue
        counts = (step.least, step.most, step.greedy, step.gap)
        stages.append(settled.Stage(step.name, condition, *counts, tuple(not_next), tuple(without)))
        not_next, without = [], []
    after = looked_for.after
    skip = Skip(after.to, names.index(after.variable)) if isinstance(after, SkipTarget) else Skip(after)
    return settled.Pattern(tuple(stages), skip, looked_for.within_us, tuple(not_next), tuple(without))


def _check(looked_for: Pattern) -> None:
    """Refuse patterns that match nothing, everything or endlessly."""
    steps = looked_for.steps
    positive = [step for step in steps if not step.negated]
    if not any(step.least for step in positive):
        raise GraphError("the pattern may be empty", hint="let one variable have a row at least: .one_or_more()")
    if steps[-1].negated and steps[-1].gap is Gap.UNFIT and looked_for.within_us is None:
        hint = f"say how long to wait for '{steps[-1].name}': .within(\"15m\")"
        raise GraphError("a pattern that ends with not_followed_by needs within, or it would never end", hint=hint)
    _check_gaps(steps)
    after = looked_for.after
    if not isinstance(after, SkipTarget):
        return
    names = [step.name for step in positive]
    if after.variable not in names:
        raise GraphError(
            f"there is no variable '{after.variable}' to skip to", hint=did_you_mean(after.variable, names)
        )
    if after.to is SkipTo.FIRST and after.variable == names[0]:
        raise GraphError(
            f"a match begins with '{after.variable}': the search would go on where it began, and find it again",
            hint='skip to a variable behind it, or "to_next_row"',
        )


def _check_gaps(steps: tuple[Variable, ...]) -> None:
    begun = False
    refusing = False
    for step in steps:
        if not step.negated and step.gap is not Gap.NONE and not begun:
            hint = f"let a variable before '{step.name}' have a row at least"
            raise GraphError(f"'{step.name}' follows variables that may all be missing", hint=hint)
        if not step.negated and step.gap is Gap.NONE and refusing:
            hint = "use followed_by, or not_next"
            raise GraphError(f"'{step.name}' follows directly, so that nothing can come before it", hint=hint)
        refusing = step.negated and (refusing or step.gap is Gap.UNFIT)
        begun = begun or (not step.negated and step.least > 0)
