"""The join verbs of streams: what they are given is checked here, and becomes one node of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

import pyarrow as pa

from lakeward.dsl.expressions import Expr, as_column, col
from lakeward.dsl.expressions.types import common_type, is_float, is_integer
from lakeward.dsl.stream import DataStream, EventTime
from lakeward.dsl.windows import WindowSpec
from lakeward.engine.api.expression import BoundExpression
from lakeward.engine.api.lookup import LookupSource
from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.core.durations import Duration, parse_duration_us
from lakeward.engine.core.errors import ConfigError, GraphError, LakewardError, SchemaError
from lakeward.engine.core.expect import expect, expect_choice, expect_whole
from lakeward.engine.core.names import did_you_mean
from lakeward.engine.graph.logical import Edge, Exchange, Node, SourceSpec
from lakeward.operators.joins.broadcast import BroadcastJoin
from lakeward.operators.joins.factory import JoinInput
from lakeward.operators.joins.interval import Bounds, IntervalJoin, IntervalOptions
from lakeward.operators.joins.layout import HOWS, LEFT, RIGHT, How, JoinLayout
from lakeward.operators.joins.lookup import LookupJoin, LookupOptions
from lakeward.operators.joins.regular import RegularJoin
from lakeward.operators.joins.temporal import TemporalJoin
from lakeward.operators.joins.times import TimeColumn
from lakeward.operators.joins.window import WindowJoin
from lakeward.operators.process.tags import OutputTag
from lakeward.operators.windows.assigners import CarriedAssigner, GlobalAssigner, PaneAssigner
from lakeward.operators.windows.counts import CountAssigner
from lakeward.operators.windows.session_operator import SessionAssigner
from lakeward.operators.windows.timed import WINDOW_END, WINDOW_START

Keys = str | Expr | Sequence[str | Expr]
"""Key columns as users give them: a name, an expression, or several."""

Validate = Literal["m:m", "m:1", "1:m", "1:1"]
"""How many rows of each side may have one key, as Polars writes it."""

VALIDATES = ("m:m", "m:1", "1:m", "1:1")
ONE_SIDED: tuple[How, ...] = ("inner", "left", "semi", "anti")
_SUFFIX = "_right"


@dataclass(frozen=True, slots=True)
class JoinKeys:
    """What rows are joined on, as it was given.

    Args:
        on: Columns that both sides have.
        left: Columns of the left, instead.
        right: Columns of the right, as many.
    """

    on: Keys | None = None
    left: Keys | None = None
    right: Keys | None = None


@dataclass(frozen=True, slots=True)
class JoinStyle:
    """What all joins are told besides.

    Args:
        how: What is sent.
        where: A further condition over the joined columns.
        suffix: What is appended to right names that the left has too.
        validate: How many rows may have one key.
        uid: The operator's name in checkpoints.
        parallelism: Its subtasks.
    """

    how: How = "inner"
    where: Expr | None = None
    suffix: str = _SUFFIX
    validate: Validate = "m:m"
    uid: str | None = None
    parallelism: int | None = None


class JoinResult(DataStream):
    """The rows of a join; also gives the streams of rows that came too late for it.

    Args:
        stream: The left input.
        node: The join.
        event_time: The result's.
        late: The inputs by the tag of their late rows.
        upsert_key: The result's.
    """

    def __init__(
        self,
        stream: DataStream,
        node: Node,
        event_time: EventTime | None,
        late: Mapping[str, DataStream] | None = None,
        upsert_key: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(stream._context, node, event_time, upsert_key=upsert_key)
        self._late = late or {}

    def side_output(self, tag: OutputTag) -> DataStream:
        """The rows of one side that came too late, as they were.

        >>> import datetime as dt
        >>> from lakeward import StreamExecutionEnvironment, WatermarkStrategy
        >>> env, mark = StreamExecutionEnvironment(), WatermarkStrategy.monotonous("at")
        >>> row = {"k": 1, "at": dt.datetime(2026, 1, 1)}
        >>> left, right = (env.from_collection([row], watermark=mark) for _ in range(2))
        >>> joined = left.interval_join(right, on="k", lower="0s", upper="1s", late_left=OutputTag("late"))
        >>> joined.side_output(OutputTag("late")).schema.names
        ['k', 'at']

        Raises:
            GraphError: The join was made without this tag.
        """
        expect(tag, OutputTag, "a side stream's tag", 'give an lw.OutputTag("late")')
        side = self._late.get(tag.name)
        if side is None:
            return super().side_output(tag)
        # Late rows have the schema of their input, not of the join's result.
        return DataStream(self._context, replace(self._node, schema=side.schema), side.event_time, tag=tag.name)


class _Join:
    """A join in the making: two streams with keys of the same types, and the layout of their joined rows."""

    def __init__(self, kind: str, left: DataStream, right: DataStream, keys: JoinKeys, style: JoinStyle) -> None:
        self.kind, self.style = kind, style
        self.left, self.right = left, right
        self._check_style(kind)
        self._find_keys(keys)
        self._check_types()
        self.layout = self._layout()
        self.where = self._condition()

    def _check_style(self, kind: str) -> None:
        style = self.style
        expect(self.right, DataStream, f"{kind}'s right side", "give a stream: left.join(right, on=...)")
        expect_choice(style.how, HOWS, f"{kind}: how")
        expect_choice(style.validate, VALIDATES, f"{kind}: validate")
        expect(style.suffix, str, f"{kind}: suffix", 'give for example "_right"')
        if self.left._context.builder is not self.right._context.builder:
            raise self.error(GraphError("a join of streams of two environments", hint="make both from one"))

    def _find_keys(self, keys: JoinKeys) -> None:
        self.left, self.left_keys, self.right, self.right_keys = _keyed(self, keys)

    def error(self, error: LakewardError) -> LakewardError:
        """Name the user's line."""
        return self.left._error(error)

    def _check_types(self) -> None:
        """Bring the keys of both sides to one type."""
        for ours, theirs in zip(self.left_keys, self.right_keys, strict=True):
            kinds = self.left.schema.field(ours).type, self.right.schema.field(theirs).type
            common = common_type(*kinds)
            if common is None:
                raise self.error(
                    SchemaError(
                        f"the {self.kind}'s keys '{ours}: {kinds[0]}' and '{theirs}: {kinds[1]}' have no common type",
                        hint=f'cast one of them: left_on=col("{ours}").cast("string").alias("{ours}_text"), ...',
                    )
                )
            self.left = _cast_key(self.left, ours, common)
            self.right = _cast_key(self.right, theirs, common)

    def _layout(self) -> JoinLayout:
        pairs = list(zip(self.left_keys, self.right_keys, strict=True))
        try:
            return JoinLayout.of(self.left.schema, self.right.schema, pairs, self.style.how, self.style.suffix)
        except LakewardError as error:
            raise self.error(error) from None

    def _condition(self) -> BoundExpression | None:
        where = self.style.where
        if where is None:
            return None
        expect(where, Expr, f"{self.kind}: where", 'give a condition: col("price") > col("limit")')
        bound = self.bind(where, self.layout.schema)
        if not pa.types.is_boolean(bound.type):
            problem = f"{self.kind}: where needs a boolean, but {bound.description} is {bound.type}"
            raise self.error(SchemaError(problem))
        return bound

    def bind(self, expression: Expr, schema: pa.Schema) -> BoundExpression:
        """Bind an expression to a schema."""
        try:
            return expression.bind(schema)
        except LakewardError as error:
            raise self.error(error) from None

    def narrow_right(self, further: Sequence[str] = ()) -> None:
        """Semi and anti joins send nothing of the right: leave out what no condition needs."""
        if self.style.how not in ("semi", "anti"):
            return
        asked = self.layout.sources(RIGHT, sorted(self.where.columns)) if self.where is not None else []
        needed = {*self.right_keys, *further, *asked}
        names = [name for name in self.layout.sources(RIGHT) if name in needed]
        names = [name for name in self.right.schema.names if name in needed or name in names]
        if len(names) < len(self.right.schema.names) - self.right.is_updating:
            self.right = self.right._columns("join-input", {name: col(name) for name in names})
            columns = tuple(c for c in self.layout.columns if c.side == LEFT or c.source in names)
            self.layout = JoinLayout(columns, pa.schema([self.layout.schema.field(c.name) for c in columns]))

    def inputs(self, *, timed: bool = False) -> tuple[JoinInput, JoinInput]:
        """Both sides as the operators want them."""
        unique = (self.style.validate in ("1:m", "1:1"), self.style.validate in ("m:1", "1:1"))
        times = (self.time(LEFT), self.time(RIGHT)) if timed else (None, None)
        sides = ((self.left, self.left_keys), (self.right, self.right_keys))
        left, right = (
            JoinInput(stream.schema, keys, _identity(stream, keys), unique[index], times[index])
            for index, (stream, keys) in enumerate(sides)
        )
        return left, right

    def time(self, side: int) -> TimeColumn:
        """A side's event time.

        Raises:
            GraphError: It has none.
        """
        stream = (self.left, self.right)[side]
        if stream.event_time is None:
            name = ("left", "right")[side]
            raise self.error(
                GraphError(
                    f"the {self.kind} needs event time, and its {name} stream '{stream.uid}' has none",
                    hint='give the source watermark=WatermarkStrategy.bounded_out_of_orderness("column", "5s"), and '
                    "keep that column unchanged up to the join",
                )
            )
        return TimeColumn(stream.event_time.column, stream.event_time.offset_us)

    def upsert_key(self) -> tuple[str, ...] | None:
        """What tells rows of an updating result apart; None: only they themselves.

        The join's key is always part of it: all changes of rows that share it come from one subtask, in order, even
        when the key of an input's row changes.
        """
        ours, theirs = (_row_key(self, side) for side in (LEFT, RIGHT))
        if ours is None:
            return None
        if self.style.how in ("semi", "anti"):
            return _distinct([*ours, *self.left_keys])
        both_keys = [*self.left_keys, *self._named_right(self.right_keys)]
        keys = both_keys if self.style.how in ("right", "full") else list(self.left_keys)
        if self.style.validate in ("m:1", "1:1"):
            return _distinct([*ours, *keys])
        return None if theirs is None else _distinct([*ours, *keys, *self._named_right(theirs)])

    def _named_right(self, columns: Sequence[str]) -> list[str]:
        """Names of right columns in the result; merged keys have the left's."""
        names = {column.source: column.name for column in self.layout.columns if column.side == RIGHT}
        return [names.get(column, column) for column in columns]

    def add(self, kind: str, factory: OperatorFactory, schema: pa.Schema) -> Node:
        """Add the node, both sides partitioned by key."""
        edges = [
            self.left._edge(Exchange.HASH, self.left_keys),
            self.right._edge(Exchange.HASH, self.right_keys),
        ]
        return self.add_with(kind, factory, schema, edges)

    def add_with(self, kind: str, factory: OperatorFactory, schema: pa.Schema, edges: Sequence[Edge]) -> Node:
        """Add the node, with these inputs."""
        builder = self.left._context.builder
        return builder.add(kind, factory, edges, schema, self.style.uid, self.style.parallelism)


def _refuse_updates(kind: str, *streams: DataStream) -> None:
    for stream in streams:
        if isinstance(stream, DataStream):  # anything else is refused with the other arguments
            stream._refuse_updates(f"the {kind}", "use .join(...), which takes them, or .to_changelog() before it")


def _keyed(join: _Join, keys: JoinKeys) -> tuple[DataStream, tuple[str, ...], DataStream, tuple[str, ...]]:
    """Both streams with their key columns, computed ones added."""
    if (keys.on is None) == (keys.left is None and keys.right is None) or (keys.left is None) != (keys.right is None):
        hint = 'give on="id", or left_on="seller", right_on="id"'
        raise join.error(GraphError(f"the {join.kind} needs either on, or left_on and right_on", hint=hint))
    given = [keys.left if keys.on is None else keys.on, keys.right if keys.on is None else keys.on]
    lists = [_listed(join, one) for one in given]
    if len(lists[LEFT]) != len(lists[RIGHT]):
        problem = f"the {join.kind} has {len(lists[LEFT])} left and {len(lists[RIGHT])} right keys"
        raise join.error(GraphError(problem, hint="give as many on both sides, in the same order"))
    left, right = join.left.key_by(*lists[LEFT]), join.right.key_by(*lists[RIGHT])
    return left._stream, left.keys, right._stream, right.keys


def _listed(join: _Join, keys: Keys | None) -> list[str | Expr]:
    listed = [keys] if isinstance(keys, str | Expr) else list(keys or ())
    if not listed or not all(isinstance(key, str | Expr) for key in listed):
        raise join.error(GraphError(f"the {join.kind}'s keys are no columns: {keys!r}", hint='for example on="id"'))
    return listed


def _cast_key(stream: DataStream, name: str, kind: pa.DataType) -> DataStream:
    """The stream with a key column of this type; its upsert key stays unless the cast may merge values."""
    found = stream.schema.field(name).type
    if found == kind:
        return stream
    cast = stream.with_columns(col(name).cast(kind).alias(name))
    if common_type(found, kind) == kind and not (is_integer(found) and is_float(kind)):
        cast.upsert_key = stream.upsert_key
    return cast


def _identity(stream: DataStream, keys: Sequence[str]) -> tuple[str, ...] | None:
    if not stream.is_updating or stream.upsert_key is None:
        return None
    return _distinct([*stream.upsert_key, *keys])


def _row_key(join: _Join, side: int) -> tuple[str, ...] | None:
    stream = (join.left, join.right)[side]
    unique = join.style.validate in (("1:m", "1:1"), ("m:1", "1:1"))[side]
    if unique:
        return (join.left_keys, join.right_keys)[side]
    return stream.upsert_key if stream.is_updating else None


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def join(
    left: DataStream, right: DataStream, keys: JoinKeys, style: JoinStyle, state_ttl: Duration | None = None
) -> DataStream:
    """The regular join; see `DataStream.join`."""
    made = _Join("join", left, right, keys, style)
    ttl_us = None if state_ttl is None else parse_duration_us(state_ttl, "join: state_ttl")
    if ttl_us is not None and ttl_us < 1:
        raise made.error(ConfigError("join: state_ttl is zero", hint='write for example "1h"'))
    times = [made.time(RIGHT).name] if ttl_us is not None else []
    made.narrow_right(times)
    inputs = made.inputs(timed=ttl_us is not None)
    factory = RegularJoin(inputs, made.layout, style.how, made.where, ttl_us)
    node = made.add("join", factory, factory.schema)
    return JoinResult(made.left, node, None, upsert_key=made.upsert_key() if factory.updating else None)


@dataclass(frozen=True, slots=True)
class Near:
    """How an interval join was told what near means.

    Args:
        lower: Least right time minus left time.
        upper: Greatest right time minus left time.
        within: Instead: first and last left time, of right columns.
        lookback: How far before the right row's own time the first one may lie.
    """

    lower: Duration | None = None
    upper: Duration | None = None
    within: tuple[str | Expr, str | Expr] | None = None
    lookback: Duration = 0


def interval_join(
    left: DataStream,
    right: DataStream,
    keys: JoinKeys,
    style: JoinStyle,
    near: Near,
    event_time: str | None = None,
    late: tuple[OutputTag | None, OutputTag | None] = (None, None),
) -> DataStream:
    """The interval join; see `DataStream.interval_join`."""
    _refuse_updates("interval join", left, right)
    made = _Join("interval join", left, right, keys, style)
    bounds = _bounds(made, near)
    bound_columns = sorted({name for bound in bounds.within or () for name in bound.columns})
    made.narrow_right([made.time(RIGHT).name, *bound_columns])
    options = IntervalOptions(event_time, (_tag_name(late[LEFT]), _tag_name(late[RIGHT])))
    factory = IntervalJoin(made.inputs(timed=True), made.layout, style.how, made.where, bounds=bounds, options=options)
    if event_time is not None:
        _check_event_time(made, factory, event_time)
    node = made.add("interval-join", factory, factory.schema)
    time = EventTime(event_time) if event_time is not None else _later_side(made, bounds)
    return JoinResult(made.left, node, time, _late_inputs(made, late))


def _bounds(made: _Join, near: Near) -> Bounds:
    if near.within is not None:
        if near.lower is not None or near.upper is not None:
            raise made.error(GraphError("an interval join takes either within, or lower and upper"))
        if isinstance(near.within, str | Expr) or len(near.within) != 2:
            raise made.error(GraphError("within is no pair", hint='within=("starts", "ends"), two right columns'))
        first, last = (_time_bound(made, as_column(bound)) for bound in near.within)
        return Bounds(0, parse_duration_us(near.lookback, "interval_join: lookback"), (first, last))
    if near.lower is None or near.upper is None:
        hint = 'for example lower="-5s", upper="5s": the right row\'s time is from 5 s before to 5 s after the left\'s'
        raise made.error(GraphError("an interval join needs lower and upper, or within", hint=hint))
    lower_us, upper_us = _signed_us(near.lower, "lower"), _signed_us(near.upper, "upper")
    if lower_us > upper_us:
        problem = f"interval_join: lower {near.lower!r} is above upper {near.upper!r}"
        raise made.error(ConfigError(problem, hint="exchange them"))
    return Bounds(lower_us, upper_us)


def _time_bound(made: _Join, bound: Expr) -> BoundExpression:
    expression = made.bind(bound, made.right.schema)
    if not pa.types.is_timestamp(expression.type):
        known = [field.name for field in made.right.schema if pa.types.is_timestamp(field.type)]
        problem = (
            f"interval_join: within needs timestamps of the right, but {expression.description} is {expression.type}"
        )
        raise made.error(SchemaError(problem, hint=did_you_mean(expression.description, known)))
    return expression


def _signed_us(value: Duration, name: str) -> int:
    """A duration that may be negative: "-5s"."""
    what = f"interval_join: {name}"
    if isinstance(value, str) and value.strip().startswith("-"):
        return -parse_duration_us(value.strip()[1:], what)
    if isinstance(value, timedelta):
        return value // timedelta(microseconds=1)
    if isinstance(value, int | float) and value < 0:
        return -parse_duration_us(-value, what)
    return parse_duration_us(value, what)


def _check_event_time(made: _Join, factory: IntervalJoin, name: str) -> None:
    expect(name, str, "interval_join: event_time", 'name a new column: event_time="at"')
    if made.style.how != "inner":
        hint = "rows without a partner are sent when their time is over; leave event_time out"
        raise made.error(GraphError(f"a result of a {made.style.how} interval join has no event time", hint=hint))
    if name in factory.sent.schema.names:
        raise made.error(SchemaError(f"the join has a column '{name}' already", hint='choose another event_time="..."'))


def _later_side(made: _Join, bounds: Bounds) -> EventTime | None:
    """The event time of a pair is the later of its rows' when the bounds say whose that always is."""
    left, right = made.left.event_time, made.right.event_time
    if left is None or right is None:
        return None
    if made.style.how not in ("inner", "semi"):
        return None
    if bounds.upper_us <= 0:
        return left
    if bounds.within is None and bounds.lower_us >= 0 and made.style.how == "inner":
        return EventTime(made._named_right([right.column])[0], right.offset_us)
    return None


def _tag_name(tag: OutputTag | None) -> str | None:
    if tag is None:
        return None
    expect(tag, OutputTag, "a side stream's tag", 'give an lw.OutputTag("late")')
    return tag.name


def _late_inputs(made: _Join, late: tuple[OutputTag | None, OutputTag | None]) -> dict[str, DataStream]:
    sides = zip(late, (made.left, made.right), strict=True)
    tags = [tag.name for tag in late if tag is not None]
    if len(set(tags)) < len(tags):
        raise made.error(GraphError(f"late_left and late_right are both '{tags[0]}'", hint="give them two names"))
    return {tag.name: stream for tag, stream in sides if tag is not None}


def window_join(
    left: DataStream,
    right: DataStream,
    keys: JoinKeys,
    style: JoinStyle,
    window: WindowSpec,
    late: tuple[OutputTag | None, OutputTag | None] = (None, None),
) -> DataStream:
    """The window join; see `DataStream.window_join`."""
    _refuse_updates("window join", left, right)
    made = _Join("window join", left, right, keys, style)
    expect(window, WindowSpec, "window_join: window", 'give for example lw.Tumbling("10s") or lw.Session("10s")')
    windows = _join_windows(made, window)
    made.narrow_right([made.time(RIGHT).name])
    tags = (_tag_name(late[LEFT]), _tag_name(late[RIGHT]))
    inputs = made.inputs(timed=True)
    factory = WindowJoin(inputs, made.layout, style.how, made.where, window=windows, late_tags=tags)
    for name in (WINDOW_START, WINDOW_END):
        if name in factory.sent.schema.names:
            problem = f"the window join adds a column '{name}', and its inputs have one already"
            hint = f"rename it, or, for results of windows, .join(..., on=[..., '{WINDOW_START}'])"
            raise made.error(SchemaError(problem, hint=hint))
    node = made.add("window-join", factory, factory.schema)
    return JoinResult(made.left, node, EventTime(WINDOW_END, -1), _late_inputs(made, late))


_NO_JOIN_WINDOWS: dict[type, str] = {
    CountAssigner: "two streams do not come in one order that could be counted",
    GlobalAssigner: "it has no end at which its pairs could be sent; .join(...) sends each when it is there",
    CarriedAssigner: f"join results of windows by .join(..., on=[..., '{WINDOW_START}', '{WINDOW_END}'])",
}


def _join_windows(made: _Join, window: WindowSpec) -> PaneAssigner | SessionAssigner:
    """The windows of a window join.

    Raises:
        ConfigError: They are none that can be joined in.
    """
    layout = window.layout()
    if isinstance(layout, CountAssigner | GlobalAssigner | CarriedAssigner):
        problem = f"a window join has tumbling, sliding, cumulative or session windows, not a {type(window).__name__}"
        raise made.error(ConfigError(problem, hint=_NO_JOIN_WINDOWS[type(layout)]))
    if layout.processing:
        raise made.error(ConfigError("a window join goes by event time", hint='leave time="processing" out'))
    return layout


def temporal_join(
    left: DataStream,
    right: DataStream,
    keys: JoinKeys,
    style: JoinStyle,
    version: str | None = None,
    late_left: OutputTag | None = None,
) -> DataStream:
    """The temporal join; see `DataStream.temporal_join`."""
    _refuse_updates("temporal join", left)
    made = _Join("temporal join", left, right, keys, style)
    _check_versions(made)
    if style.how not in ("inner", "left"):
        raise made.error(GraphError(f"a temporal join cannot be '{style.how}'", hint="choose 'inner' or 'left'"))
    if version is not None:
        made.right._check_column(version)
        known = made.right.event_time
        offset_us = known.offset_us if known is not None and known.column == version else 0
        times = TimeColumn(version, offset_us)
        try:
            times.check(made.right.schema)
        except LakewardError as error:
            raise made.error(error) from None
    elif made.right.event_time is None:
        problem = "the temporal join does not know from when on a right row is valid: its stream has no event time"
        raise made.error(GraphError(problem, hint='name the timestamp column: version="valid_from"'))
    else:
        times = made.time(RIGHT)
    plain_left, plain_right = made.inputs()
    inputs = (replace(plain_left, time=made.time(LEFT)), replace(plain_right, time=times))
    factory = TemporalJoin(inputs, made.layout, style.how, made.where, _tag_name(late_left))
    node = made.add("temporal-join", factory, factory.schema)
    return JoinResult(made.left, node, made.left.event_time, _late_inputs(made, (late_left, None)))


def _check_versions(made: _Join) -> None:
    """Versions that are updated must be those of the join's key: of each there is one at a time.

    Raises:
        GraphError: They are told apart by other columns, or by nothing.
    """
    known = made.right.upsert_key
    if made.right.is_updating and set(known or ()) != set(made.right_keys):
        rows = f"its rows are told apart by {', '.join(known)}" if known else "nothing tells its rows apart"
        hint = "give an append-only stream of versions, or one with one row a key, or use .join(...)"
        problem = f"the versions of a temporal join are one row a key ({', '.join(made.right_keys)}), but {rows}"
        raise made.error(GraphError(problem, hint=hint))


@dataclass(frozen=True, slots=True)
class LookupCache:
    """How the answers of a lookup source are kept.

    >>> LookupCache(size=10_000, ttl="5m").size
    10000

    Args:
        size: Keys whose answers are kept in each subtask, the least recently used ones being forgotten; 0: none.
        ttl: How long an answer holds, in processing time ("5m"); None: until it is forgotten.
        missing: Whether it is also kept that a key has no rows.
    """

    size: int = 100_000
    ttl: Duration | None = None
    missing: bool = True

    def __post_init__(self) -> None:
        expect_whole(self.size, "LookupCache: size", least=0)
        if self.ttl is not None:
            parse_duration_us(self.ttl, "LookupCache: ttl")

    @property
    def ttl_us(self) -> int | None:
        """How long an answer holds, in microseconds."""
        return None if self.ttl is None else parse_duration_us(self.ttl, "LookupCache: ttl")


@dataclass(frozen=True, slots=True)
class Asking:
    """How a lookup source is asked.

    Args:
        cache: What is kept of its answers.
        batch_keys: Keys asked for at once.
        retries: How often a look-up that failed is tried again, at once.
    """

    cache: LookupCache | None = None
    batch_keys: int = 1_000
    retries: int = 3


def lookup_join(
    left: DataStream, table: DataStream | LookupSource, keys: JoinKeys, style: JoinStyle, asking: Asking
) -> DataStream:
    """The lookup join; see `DataStream.lookup_join`."""
    hint = "give a bounded stream, or a lw.LookupSource such as lw.FunctionLookup(...)"
    expect(table, (DataStream, LookupSource), "lookup_join: table", hint)
    expect_choice(style.how, ONE_SIDED, "lookup_join: how")
    if isinstance(table, LookupSource):
        return _lookup_source(left, table, keys, style, asking)
    table._refuse_updates("the table of a lookup join", "use .join(...), which takes them")
    made = _Join("lookup join", left, table, keys, style)
    endless = _endless_source(table)
    if endless is not None:
        hint = "use .join(...) or .temporal_join(...), which do not wait for an end"
        raise made.error(GraphError(f"the table of a lookup join never ends: it is read from '{endless}'", hint=hint))
    made.narrow_right()
    factory = BroadcastJoin(made.inputs(), made.layout, style.how, made.where)
    edges = [made.left._edge(), made.right._edge(Exchange.BROADCAST)]
    node = made.add_with("lookup-join", factory, factory.schema, edges)
    # The table's own event time could carry the watermark past rows that wait for the table's end.
    time = made.left.event_time if table.event_time is None else None
    one = style.how in ("semi", "anti") or style.validate in ("m:1", "1:1")
    return JoinResult(made.left, node, time, upsert_key=made.left.upsert_key if one else None)


def _endless_source(stream: DataStream) -> str | None:
    """The uid of a source that the stream is made of and that does not end, if there is one."""
    for node in stream._context.builder.graph([stream._node.uid]):
        if isinstance(node.work, SourceSpec) and not node.work.source.bounded:
            return node.uid
    return None


def _lookup_source(
    left: DataStream, source: LookupSource, keys: JoinKeys, style: JoinStyle, asking: Asking
) -> DataStream:
    # Not a stream, but it has a schema, which is all that keys, names and conditions are checked against.
    rows = DataStream(left._context, replace(left._node, schema=source.schema), None)
    _refuse_updates("lookup join in another system", left)
    made = _SourceJoin("lookup join", left, rows, keys, style)
    cache = asking.cache or LookupCache()
    expect(cache, LookupCache, "lookup_join: cache", 'give lw.LookupCache(size=10_000, ttl="5m")')
    expect_whole(asking.batch_keys, "lookup_join: batch_keys", least=1)
    expect_whole(asking.retries, "lookup_join: retries", least=0)
    options = LookupOptions(cache.size, cache.ttl_us, cache.missing, asking.batch_keys, asking.retries)
    factory = LookupJoin(made.inputs(), made.layout, style.how, made.where, source=source, options=options)
    node = made.add_with("lookup-join", factory, factory.schema, [made.left._edge()])
    return JoinResult(made.left, node, made.left.event_time)


class _SourceJoin(_Join):
    """The right side is a lookup source: its keys are columns, and have the types that it says."""

    def _find_keys(self, keys: JoinKeys) -> None:
        given = keys.right if keys.on is None else keys.on
        if given is not None and not all(isinstance(key, str) for key in _listed(self, given)):
            raise self.error(
                GraphError("keys of a lookup source are its own columns", hint='for example right_on="id"')
            )
        super()._find_keys(keys)

    def _check_types(self) -> None:
        for ours, theirs in zip(self.left_keys, self.right_keys, strict=True):
            kinds = self.left.schema.field(ours).type, self.right.schema.field(theirs).type
            if common_type(*kinds) is None:
                problem = f"the keys '{ours}: {kinds[0]}' and '{theirs}: {kinds[1]}' have no common type"
                raise self.error(SchemaError(problem, hint="cast the left one to the source's type"))
            self.left = _cast_key(self.left, ours, kinds[1])
