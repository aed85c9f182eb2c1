"""Keyed streams, and streams cut into windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakeward.dsl.aggregates import AggregateExpr, bind_aggregates, with_rows
from lakeward.dsl.expressions import col
from lakeward.dsl.process_verbs import KeyedProcessVerbs
from lakeward.dsl.ranking_verbs import KeyedRankingVerbs
from lakeward.dsl.stream import DataStream, EventTime
from lakeward.dsl.windows import Assigner, WindowSpec
from lakeward.engine.api.changelog import ROW_KIND, append_only
from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.core.durations import Duration, parse_duration_us
from lakeward.engine.core.errors import ConfigError, GraphError, LakewardError, SchemaError
from lakeward.engine.core.expect import expect
from lakeward.engine.core.hashing import is_binary_like
from lakeward.engine.graph.logical import Exchange, Node
from lakeward.operators.aggregate import ORDERED_KINDS, BoundAggregate
from lakeward.operators.error_policy import FAIL, OnError
from lakeward.operators.group_aggregate import GroupAggregate
from lakeward.operators.process.tags import OutputTag
from lakeward.operators.reduce import Reduce
from lakeward.operators.windows.assigners import CarriedAssigner, PaneAssigner
from lakeward.operators.windows.counts import CountAggregate, CountAssigner
from lakeward.operators.windows.early import Trigger
from lakeward.operators.windows.operator import WindowAggregate
from lakeward.operators.windows.reduced import WindowReduce
from lakeward.operators.windows.sessions import SessionAggregate, SessionAssigner
from lakeward.operators.windows.timed import WINDOW_END, WINDOW_START

if TYPE_CHECKING:
    from lakeward.dsl.expressions import Expr
    from lakeward.dsl.patterns import MatchResult, Pattern
    from lakeward.dsl.process import ProcessResult


class KeyedStream(KeyedRankingVerbs, KeyedProcessVerbs):
    """A stream whose rows are grouped by key columns. Made by `DataStream.key_by`.

    >>> from lakeward import StreamExecutionEnvironment
    >>> rows = [{"shop": "a", "most": 3}, {"shop": "b", "most": 1}, {"shop": "a", "most": 7}]
    >>> keyed = StreamExecutionEnvironment().from_collection(rows).key_by("shop")
    >>> keyed
    <KeyedStream by shop of <DataStream 'source-1': shop string, most int64>>
    >>> keyed.reduce(lambda a, b: a if a["most"] > b["most"] else b).execute_and_collect().to_pylist()
    [{'shop': 'a', 'most': 3}, {'shop': 'b', 'most': 1}, {'shop': 'a', 'most': 7}]
    """

    def __init__(self, stream: DataStream, keys: tuple[str, ...]) -> None:
        self._stream = stream
        self.keys = keys
        for key in keys:
            stream._check_column(key)
            kind = stream.schema.field(key).type
            if pa.types.is_nested(kind) or not (is_binary_like(kind) or pa.types.is_primitive(kind)):
                raise stream._error(SchemaError(f"'{key}' is {kind}, which cannot be a key", hint=_key_hint(key, kind)))
            if keys.count(key) > 1:
                raise stream._error(ConfigError(f"key_by names '{key}' twice", hint="leave one out"))

    def __repr__(self) -> str:
        return f"<KeyedStream by {', '.join(self.keys)} of {self._stream!r}>"

    def key_by(self, *keys: str | Expr) -> KeyedStream:
        """Group by other keys instead; as `DataStream.key_by`.

        >>> from lakeward import StreamExecutionEnvironment
        >>> orders = StreamExecutionEnvironment().from_collection([{"shop": "a", "buyer": "b"}])
        >>> orders.key_by("shop").key_by("buyer").keys
        ('buyer',)

        Args:
            keys: Column names, or expressions with an alias (they become columns).

        Raises:
            SchemaError: A column is unknown or has a type that cannot be a key.
        """
        return self._stream.key_by(*keys)

    def window(self, window: WindowSpec) -> WindowedStream:
        """Cut the stream of each key into windows.

        >>> from lakeward import StreamExecutionEnvironment, Tumbling, WatermarkStrategy, sum
        >>> import datetime as dt
        >>> at = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
        >>> rows = [{"shop": "a", "amount": 2, "at": at}, {"shop": "a", "amount": 3, "at": at}]
        >>> stream = StreamExecutionEnvironment().from_collection(rows, watermark=WatermarkStrategy.monotonous("at"))
        >>> result = stream.key_by("shop").window(Tumbling("1m")).aggregate(revenue=sum("amount"))
        >>> result.execute_and_collect().select(["shop", "revenue"]).to_pylist()
        [{'shop': 'a', 'revenue': 5}]

        Args:
            window: `Tumbling`, `Sliding`, `Cumulative`, `Session`, `CountWindow`, `GlobalWindow` or `SameWindow`.

        Raises:
            GraphError: The windows go by event time, and the stream has none.
            SchemaError: The stream is an updating one, or has not the columns that `SameWindow` goes by.
        """
        return WindowedStream(self._stream, self.keys, window)

    def reduce(
        self,
        function: Callable[[Any, Any], Any],
        *,
        on_error: OnError = FAIL,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> DataStream:
        """Combine the rows of each key, one by one; sends the combined row after every row (Flink's rolling reduce).

        >>> from lakeward import StreamExecutionEnvironment
        >>> stream = StreamExecutionEnvironment().from_collection([{"k": 1, "v": 2}, {"k": 1, "v": 3}])
        >>> total = stream.key_by("k").reduce(lambda a, b: {"k": a["k"], "v": a["v"] + b["v"]})
        >>> total.execute_and_collect()["v"].to_pylist()
        [2, 5]

        Args:
            function: Gets the combined row so far and the next row, returns the new combined row: dicts, or instances
                of the dataclass, NamedTuple or TypedDict that its first parameter is annotated with (with a field for
                every column).
            on_error: What becomes of rows on which the function fails, or whose combined row does not fit: an
                `OnError`. For such a row nothing is sent, and the combined row stays what it was.
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.
        """
        stream = self._stream
        stream._refuse_updates("reduce", "aggregate it, or use .to_changelog() before key_by")
        stream = _without_dictionaries(stream)
        stream._check_function(function)
        work = stream._guarded(on_error, lambda: Reduce(self.keys, stream.schema, function, on_error=on_error))
        node = _exchange(stream, self.keys, "reduce", work, stream.schema, uid, parallelism)
        return stream._with_failed(DataStream(stream._context, node, stream.event_time), on_error)

    def aggregate(
        self,
        aggregates: Mapping[str, AggregateExpr] | None = None,
        /,
        *,
        emit_interval: Duration | None = None,
        update_before: bool = True,
        uid: str | None = None,
        parallelism: int | None = None,
        **named: AggregateExpr,
    ) -> DataStream:
        """Aggregates over all rows of each key so far: an updating stream with one row a key, known by the key columns.

        A key's old row is taken back and its new one sent after each batch that changes it, once a batch. If this
        stream is an updating one, rows that it takes back leave the aggregates again.

        >>> from lakeward import StreamExecutionEnvironment, col, count, sum
        >>> rows = [{"shop": "a", "amount": 2}, {"shop": "b", "amount": 9}, {"shop": "a", "amount": 3}]
        >>> orders = StreamExecutionEnvironment().from_collection(rows)
        >>> totals = orders.key_by("shop").aggregate(revenue=sum("amount"), large=count().where(col("amount") > 5))
        >>> totals.collect_final().sort_by("shop").to_pylist()
        [{'shop': 'a', 'revenue': 5, 'large': 0}, {'shop': 'b', 'revenue': 9, 'large': 1}]

        Args:
            aggregates: Aggregates by name of the result column, as a mapping.
            emit_interval: Collect changes, and send them at most this often (by the clock); for example "1s". They
                are also sent at checkpoints and at the end. Without it, changes are sent after every batch.
            update_before: Whether the rows that are replaced are sent too (-U before +U); False makes half the rows,
                for sinks that go by the key.
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.
            named: More aggregates, as keywords: `revenue=sum("amount")`.

        Returns:
            An updating stream of the key columns and the aggregates, without event time.

        Raises:
            SchemaError: An aggregate does not fit its column, or a name is taken.
        """
        options = GroupOptions(emit_interval, update_before, uid, parallelism)
        return group_aggregate(self._stream, self.keys, {**(aggregates or {}), **named}, options)

    def match(
        self,
        pattern: Pattern,
        measures: Mapping[str, Expr],
        *,
        late: OutputTag | None = None,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> MatchResult:
        """Find a pattern in the rows of each key, in the order of time: SQL's MATCH_RECOGNIZE, ONE ROW PER MATCH.

        >>> import datetime as dt
        >>> import lakeward as lw
        >>> noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
        >>> prices = [20, 15, 11, 19, 23]
        >>> rows = [{"share": "a", "price": p, "at": noon + dt.timedelta(seconds=n)} for n, p in enumerate(prices)]
        >>> env = lw.StreamExecutionEnvironment()
        >>> ticks = env.from_collection(rows, watermark=lw.WatermarkStrategy.monotonous("at"))
        >>> fall = lw.col("price") < lw.var("start", "down").last("price", 1)
        >>> rise = lw.col("price") > lw.var("down").last("price")
        >>> valley = lw.pattern().start("start").next("down", fall).one_or_more().next("up", rise)
        >>> found = ticks.key_by("share").match(valley, {"bottom": lw.var("down").last("price"), "n": lw.var().count()})
        >>> found.execute_and_collect().to_pylist()
        [{'share': 'a', 'bottom': 11, 'n': 4}]

        Args:
            pattern: What to look for; begun by `lw.pattern()`.
            measures: What to send of each match, by name: expressions over the rows of variables (`lw.var`), the last
                row of the match (`lw.col`) and its time (`lw.match_time()`).
            late: Side stream of rows that the watermark had passed already: `result.side_output(tag)`.
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.

        Returns:
            An append-only stream of the keys and the measures, a row a match. With `within`, it has event time if a
            measure is `match_time()`, and its watermark is that much behind. Without event time rows are taken in the
            order in which they arrive, and times are those of the clock.

        Raises:
            GraphError: The pattern may be empty, or would never end; a variable does not exist.
            SchemaError: The stream takes rows back, or a condition or measure does not fit it.
        """
        from lakeward.dsl.patterns import MatchOptions, match

        return match(self, pattern, measures, MatchOptions(late, uid, parallelism))


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """What may be said of an aggregation without windows; as in `KeyedStream.aggregate`."""

    emit_interval: Duration | None
    update_before: bool
    uid: str | None
    parallelism: int | None


def group_aggregate(
    stream: DataStream, keys: tuple[str, ...], aggregates: Mapping[str, AggregateExpr], options: GroupOptions
) -> DataStream:
    """Aggregates over all rows so far, by key or (without keys) over the whole stream."""
    if not aggregates:
        raise stream._error(GraphError("aggregate needs at least one aggregate", hint="for example n=count()"))
    expect(options.update_before, bool, "update_before", "give True or False")
    _check_old_rows(stream)
    try:
        needs = bind_aggregates(aggregates, stream.schema, (*keys, ROW_KIND))
        interval = options.emit_interval
        interval_us = None if interval is None else parse_duration_us(interval, "emit interval")
        columns = {name: col(name) for name in keys} | needs.columns
        time = stream.event_time.column if stream.event_time else None
        timed = time is not None and any(one.kind in ORDERED_KINDS for one in needs.aggregates)
        if time is not None and timed:
            columns[time] = col(time)
        needed = stream
        if columns and [*columns] != append_only(stream.schema).names:
            needed = stream._columns("aggregate-input", columns)
        factory = GroupAggregate(
            needed.schema, keys, needs.aggregates, time if timed else None, interval_us, options.update_before
        )
    except LakewardError as error:
        raise stream._error(error) from None
    parallelism = options.parallelism if keys else 1
    node = _exchange(needed, keys, "aggregate", factory, factory.schema, options.uid, parallelism)
    return DataStream(stream._context, node, None, upsert_key=keys)


def _check_old_rows(stream: DataStream) -> None:
    """Refuse an updating stream that leaves out the rows that it replaces: they could not be taken out again.

    Raises:
        SchemaError: Names the operator that leaves them out.
    """
    graph = stream._context.builder.graph()
    waiting = [stream._node.uid] if stream.is_updating else []
    while waiting:
        node = graph.node(waiting.pop())
        if getattr(node.work, "update_before", True) is False:
            problem = f"aggregate needs the rows that '{node.uid}' replaces, and it was told not to send them"
            raise stream._error(SchemaError(problem, hint="leave out update_before=False there"))
        if not getattr(node.work, "stateful", False):  # what has state sends old rows of its own accord
            waiting += [edge.upstream for edge in node.inputs]


def _without_dictionaries(stream: DataStream) -> DataStream:
    """Dictionary-encoded columns as plain ones, for state that keeps values."""
    coded = [field for field in stream.schema if pa.types.is_dictionary(field.type)]
    return stream.with_columns(*(col(one.name).cast(one.type.value_type).alias(one.name) for one in coded))


def _key_hint(key: str, kind: pa.DataType) -> str:
    """How to make a key of a column that cannot be one."""
    if pa.types.is_struct(kind) and kind.num_fields:
        return f'give its fields: key_by(col("{key}").struct.field("{kind.field(0).name}").alias("{key}_key"))'
    if pa.types.is_decimal(kind):
        return f'cast it: key_by(col("{key}").cast("string").alias("{key}_key"))'
    if pa.types.is_fixed_size_binary(kind):
        return f'cast it: key_by(col("{key}").cast("binary").alias("{key}_key"))'
    if pa.types.is_dictionary(kind):
        return f"read '{key}' as {kind.value_type}: say so in the source's schema"
    return "a key is text, bytes, a boolean, a number or a time: make such a column of it, with map() if need be"


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """What may be said of a windowed stream before it is aggregated.

    Args:
        allowed_lateness_us: How long a window's state outlives its end.
        late_tag: Side stream for rows that come even later; None: they are only counted.
        trigger: When windows send results before their end; None: never.
    """

    allowed_lateness_us: int = 0
    late_tag: OutputTag | None = None
    trigger: Trigger | None = None


class WindowedStream:
    """A stream cut into windows. Made by `KeyedStream.window` or `DataStream.window_all`.

    >>> import datetime as dt
    >>> from lakeward import StreamExecutionEnvironment, Tumbling, WatermarkStrategy, count, sum
    >>> noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
    >>> rows = [{"shop": "a", "amount": n, "at": noon + dt.timedelta(seconds=20 * n)} for n in range(4)]
    >>> orders = StreamExecutionEnvironment().from_collection(rows, watermark=WatermarkStrategy.monotonous("at"))
    >>> windows = orders.key_by("shop").window(Tumbling("1m"))
    >>> result = windows.aggregate(orders=count(), revenue=sum("amount")).execute_and_collect()
    >>> result.select(["shop", "orders", "revenue"]).to_pylist()
    [{'shop': 'a', 'orders': 3, 'revenue': 3}, {'shop': 'a', 'orders': 1, 'revenue': 3}]
    """

    def __init__(
        self, stream: DataStream, keys: tuple[str, ...], window: WindowSpec, options: WindowOptions | None = None
    ) -> None:
        expect(window, WindowSpec, "a window", 'give for example lw.Tumbling("10s") or lw.Session("5m")')
        stream._refuse_updates(
            "windows", "aggregate it without windows: .key_by(...).aggregate(...), or use .to_changelog() before them"
        )
        self._stream = stream
        self._keys = keys
        self._window = window
        self._options = options or WindowOptions()
        self._layout = window.layout()
        self._check_time()

    def __repr__(self) -> str:
        keys = f" by {', '.join(self._keys)}" if self._keys else ""
        return f"<WindowedStream{keys} in {self._window} of {self._stream!r}>"

    def _check_time(self) -> None:
        """Refuse windows for which the stream has no time."""
        stream, layout = self._stream, self._layout
        if isinstance(layout, CarriedAssigner):
            for name in (WINDOW_START, WINDOW_END):
                if name not in stream.schema.names:
                    hint = "SameWindow() is for results of windows, with both columns kept"
                    raise stream._error(SchemaError(f"rows carry no window: there is no column '{name}'", hint=hint))
        if _by_event_time(layout) and stream.event_time is None:
            raise stream._error(
                GraphError(
                    "windows need event time, and this stream has none",
                    hint='give the source watermark=WatermarkStrategy.bounded_out_of_orderness("column", "5s"), and '
                    'keep that column unchanged up to the window; or give the window time="processing"',
                )
            )

    def _with(self, **changes: Any) -> WindowedStream:
        return WindowedStream(self._stream, self._keys, self._window, replace(self._options, **changes))

    def _refuse_lateness(self) -> None:
        if not _by_event_time(self._layout):
            raise self._stream._error(
                ConfigError(f"no row is late for windows that do not go by event time: {self._layout.description}")
            )

    def allowed_lateness(self, lateness: Duration) -> WindowedStream:
        """Keep windows this long after their end: a late row within it sends the window's corrected result again.

        >>> import datetime as dt
        >>> from lakeward import EngineConfig, StreamExecutionEnvironment, Tumbling, WatermarkStrategy, count
        >>> noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
        >>> rows = [{"at": noon + dt.timedelta(seconds=s)} for s in (0, 61, 1)]
        >>> env = StreamExecutionEnvironment(config=EngineConfig(batch_rows=1))
        >>> stream = env.from_collection(rows, watermark=WatermarkStrategy.monotonous("at"))
        >>> late = stream.window_all(Tumbling("1m")).allowed_lateness("1h").aggregate(n=count())
        >>> late.execute_and_collect()["n"].to_pylist()
        [1, 2, 1]

        Args:
            lateness: For example "1m". Without it, rows after the window's end are late at once.
        """
        self._refuse_lateness()
        return self._with(allowed_lateness_us=parse_duration_us(lateness, "allowed lateness"))

    def side_output_late_data(self, tag: OutputTag) -> WindowedStream:
        """Send rows that are too late for every window to a side stream: `result.side_output(tag)`.

        >>> import datetime as dt
        >>> from lakeward import EngineConfig, StreamExecutionEnvironment, Tumbling, WatermarkStrategy, count
        >>> noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
        >>> rows = [{"n": n, "at": noon + dt.timedelta(seconds=s)} for n, s in enumerate((0, 61, 1))]
        >>> env = StreamExecutionEnvironment(config=EngineConfig(batch_rows=1))
        >>> stream = env.from_collection(rows, watermark=WatermarkStrategy.monotonous("at"))
        >>> late = OutputTag("late")
        >>> result = stream.window_all(Tumbling("1m")).side_output_late_data(late).aggregate(n=count())
        >>> result.side_output(late).execute_and_collect()["n"].to_pylist()
        [2]
        """
        expect(tag, OutputTag, "a side stream's tag", 'give an lw.OutputTag("late")')
        self._refuse_lateness()
        return self._with(late_tag=tag)

    def trigger(self, trigger: Trigger, *, discarding: bool = False) -> WindowedStream:
        """Send results of windows before their end as well; at their end the final one.

        Results replace each other: the stream is an updating one, known by the keys and the window's bounds (of count
        windows: by the whole row), and only results that have changed are sent. With `discarding` they add up instead:
        each is of the rows since the last one, and the stream is append-only.

        >>> from lakeward import GlobalWindow, StreamExecutionEnvironment, count, every_rows
        >>> rows = [{"shop": "a"}, {"shop": "b"}, {"shop": "a"}]
        >>> shops = StreamExecutionEnvironment().from_collection(rows).key_by("shop")
        >>> so_far = shops.window(GlobalWindow()).trigger(every_rows(2)).aggregate(orders=count())
        >>> so_far.is_updating, so_far.collect_final().sort_by("shop").to_pylist()
        (True, [{'shop': 'a', 'orders': 2}, {'shop': 'b', 'orders': 1}])

        Args:
            trigger: `every("1s")` or `every_rows(1000)`.
            discarding: Whether what was sent is forgotten; for tumbling and global windows.

        Raises:
            ConfigError: These windows cannot discard.
        """
        expect(trigger, Trigger, "a trigger", 'give lw.every("1s") or lw.every_rows(1000)')
        expect(discarding, bool, "discarding", "give True or False")
        layout = self._layout
        if discarding and not (isinstance(layout, PaneAssigner) and layout.single_pane):
            why = "overlap" if isinstance(layout, PaneAssigner) else "have no bounds that stay"
            hint = "leave discarding out, or take tumbling or global windows"
            problem = f"windows that {why} cannot discard: {layout.description}"
            raise self._stream._error(ConfigError(problem, hint=hint))
        return self._with(trigger=replace(trigger, discarding=discarding))

    def aggregate(
        self, *, uid: str | None = None, parallelism: int | None = None, **aggregates: AggregateExpr
    ) -> WindowResult:
        """One row a key and window, when the watermark has passed the window's end.

        >>> import datetime as dt
        >>> from lakeward import StreamExecutionEnvironment, Tumbling, WatermarkStrategy, max, mean
        >>> noon = dt.datetime(2026, 1, 1, 12)
        >>> rows = [{"shop": "a", "amount": 3, "at": noon}, {"shop": "a", "amount": 6, "at": noon}]
        >>> stream = StreamExecutionEnvironment().from_collection(rows, watermark=WatermarkStrategy.monotonous("at"))
        >>> result = stream.key_by("shop").window(Tumbling("1h")).aggregate(most=max("amount"), usual=mean("amount"))
        >>> result.schema.names
        ['shop', 'window_start', 'window_end', 'most', 'usual']
        >>> result.select("most", "usual").execute_and_collect().to_pylist()
        [{'most': 6, 'usual': 4.5}]

        Args:
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.
            aggregates: For example `revenue=sum("amount")`, by name of the result column.

        Returns:
            A stream of the key columns, `window_start`, `window_end` (exclusive) and the aggregates.

        Raises:
            SchemaError: An aggregate does not fit its column, or a name is taken.
        """
        if not aggregates:
            raise self._stream._error(
                GraphError("aggregate needs at least one aggregate", hint="for example n=count()")
            )
        aggregates = with_rows(aggregates, self._stream.schema)
        firsts = any(isinstance(one, AggregateExpr) and one.kind in ORDERED_KINDS for one in aggregates.values())
        stream, time_column = self._with_time_column(firsts)
        keys = self._all_keys()
        bound, stream = self._bind_inputs(stream, keys, time_column, aggregates)
        try:
            factory = self._factory(stream, keys, time_column, tuple(bound))
        except LakewardError as error:
            raise stream._error(error) from None
        node = _exchange(stream, keys, "window", factory, factory.schema, uid, parallelism if keys else 1)
        return self._result(stream, node, EventTime(WINDOW_END, -1) if _by_event_time(self._layout) else None)

    def _all_keys(self) -> tuple[str, ...]:
        """The key columns; the start of a window that rows carry is one of them."""
        carried = isinstance(self._layout, CarriedAssigner) and WINDOW_START not in self._keys
        return (*self._keys, WINDOW_START) if carried else self._keys

    def _factory(
        self, stream: DataStream, keys: tuple[str, ...], time_column: str, aggregates: tuple[BoundAggregate, ...]
    ) -> WindowAggregate | SessionAggregate | CountAggregate:
        layout, options = self._layout, self._options
        tag = options.late_tag.name if options.late_tag else None
        lateness_us = options.allowed_lateness_us
        if isinstance(layout, CountAssigner):
            return CountAggregate(stream.schema, keys, time_column, layout, aggregates, options.trigger)
        if isinstance(layout, SessionAssigner):
            return SessionAggregate(
                stream.schema, keys, time_column, layout, aggregates, lateness_us, tag, options.trigger
            )
        return WindowAggregate(stream.schema, keys, time_column, layout, aggregates, lateness_us, tag, options.trigger)

    def reduce(
        self,
        function: Callable[[Any, Any], Any],
        *,
        on_error: OnError = FAIL,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> DataStream:
        """Combine the rows of each key and window by a Python function; one row a key and window.

        >>> from lakeward import StreamExecutionEnvironment, Tumbling, WatermarkStrategy
        >>> import datetime as dt
        >>> at = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
        >>> rows = [{"k": 1, "v": 2, "at": at}, {"k": 1, "v": 3, "at": at}]
        >>> stream = StreamExecutionEnvironment().from_collection(rows, watermark=WatermarkStrategy.monotonous("at"))
        >>> windows = stream.key_by("k").window(Tumbling("1m"))
        >>> windows.reduce(lambda a, b: {**a, "v": a["v"] + b["v"]}).execute_and_collect()["v"].to_pylist()
        [5]

        Args:
            function: Gets the combined row so far and the next row, as `KeyedStream.reduce` does. It must be
                associative, and commutative where rows come out of order: parts of a window are combined first.
            on_error: Refused: where parts of a window are combined, no row is at fault. Say it of functions that get
                whole windows: `.process(function, on_error=...)`.
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.

        Returns:
            A stream of the input's schema, with its event time, for windows of any kind. With a trigger, results have
            to tell windows apart: they have the key columns, `window_start` and `window_end` (of windows that have
            bounds), and the other columns.

        Raises:
            GraphError: The function does not take two rows, or there is a policy for its errors.
            SchemaError: There is a trigger, and rows have a column `window_start` or `window_end` of their own.
        """
        expect(on_error, OnError, "on_error", "leave it out")
        if on_error != FAIL:
            hint = f".process(function, on_error=...) gets all rows of a window, and takes '{on_error}'"
            raise self._stream._error(GraphError("reduce of windows takes no on_error=", hint=hint))
        stream, time_column = self._with_time_column(False)
        stream = _without_dictionaries(stream)
        keys, options = self._all_keys(), self._options
        stream._check_function(function)
        lateness_us, trigger = options.allowed_lateness_us, options.trigger
        tag = options.late_tag.name if options.late_tag else None
        columns = tuple(self._stream.schema.names)
        factory = stream._work(
            lambda: WindowReduce(
                keys, stream.schema, time_column, self._layout, function, lateness_us, tag, trigger, columns
            )
        )
        event_time = self._stream.event_time
        if trigger is not None:
            event_time = EventTime(WINDOW_END, -1) if _by_event_time(self._layout) else None
        node = _exchange(stream, keys, "window", factory, factory.schema, uid, parallelism if keys else 1)
        return self._result(stream, node, event_time)

    def process(
        self,
        function: Any,
        *,
        returns: Any = None,
        on_error: OnError = FAIL,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> ProcessResult:
        """All rows of each key and window through a Python function, when the window is complete.

        >>> import datetime as dt
        >>> import lakeward as lw
        >>> def busiest(key: str, window: lw.TimeWindow, rows: list[dict]):
        ...     most = max(rows, key=lambda row: row["amount"])
        ...     yield {"shop": key, "minute": window.start.minute, "orders": len(rows), "most": most["amount"]}
        >>> noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
        >>> rows = [{"shop": "a", "amount": n, "at": noon + dt.timedelta(seconds=20 * n)} for n in range(4)]
        >>> env, time = lw.StreamExecutionEnvironment(), lw.WatermarkStrategy.monotonous("at")
        >>> windows = env.from_collection(rows, watermark=time).key_by("shop").window(lw.Tumbling("1m"))
        >>> result = windows.process(busiest, returns={"shop": str, "minute": int, "orders": int, "most": int})
        >>> result.execute_and_collect().to_pylist()
        [{'shop': 'a', 'minute': 0, 'orders': 3, 'most': 2}, {'shop': 'a', 'minute': 1, 'orders': 1, 'most': 3}]

        The rows are in the order of event time; among equal times, and without event time, in the order of arrival. All
        are kept until the window ends: where an aggregate says it all, it is faster and smaller. With a trigger
        or an allowed lateness the function is called again with all rows of the window each time it has new ones (with
        a discarding trigger, with the new ones); what it sent before is not taken back.

        Args:
            function: A `ProcessWindowFunction`, or a plain function that gets key, window and rows, and by name the
                context (`ctx`) and states of the key over all of its windows (`seen: lw.ValueState[int]`). It yields
                rows, returns them in a list, or returns None.
            returns: The rows' type: a schema, dataclass, TypedDict or {name: type}; not needed when the return
                annotation says it (`-> Iterator[Visit]`).
            on_error: What becomes of windows on which the function fails: an `OnError`. Such a call leaves nothing
                behind, and counts as one failed row. A side output has a row a window: the key, the bounds of windows
                that have them, the window's rows in a column `rows`, and the error.
            uid: The function's name in checkpoints, and with "-windows" that of the windows; give one, since they have
                state.
            parallelism: Their subtasks.

        Returns:
            A stream of the rows that it makes; `side_output(tag)` gives those that it sends to side streams. It has
            event time, the last microsecond of the window, if they keep the window's end as `window_end`.

        Raises:
            GraphError: The function takes other arguments, or the type of its rows is not known.
            SchemaError: Its rows or states do not fit, or rows have a column of a type that cannot be kept.
        """
        from lakeward.dsl.process import Options, process_windows

        return process_windows(self, function, Options(returns, on_error, uid, parallelism))

    def _result(self, stream: DataStream, node: Node, event_time: EventTime | None) -> WindowResult:
        """What an operator makes of the windows of a stream."""
        result = WindowResult(stream, node, self._options.late_tag, self._stream.schema.names, event_time)
        if result.is_updating and not isinstance(self._layout, CountAssigner):
            result.upsert_key = (*self._keys, *_bounds(self._layout))
        return result

    def _with_time_column(self, wanted: bool) -> tuple[DataStream, str]:
        """The stream, with the column that the operator takes as time; empty for processing time.

        Windows without a time of their own take it only if it is `wanted`: their rows need have none.
        """
        if isinstance(self._layout, CarriedAssigner):
            return self._stream, WINDOW_END
        time = self._stream.event_time
        processing = not isinstance(self._layout, CountAssigner) and self._layout.processing
        if time is None or processing or not (wanted or _by_event_time(self._layout)):
            return self._stream, ""
        if time.offset_us == 0:
            return self._stream, time.column
        # The event time of a window's result is the last microsecond of the window, as in Flink.
        shifted = col(time.column).dt.offset(microseconds=time.offset_us)
        return self._stream.with_columns(window_time=shifted), "window_time"

    def _bind_inputs(
        self, stream: DataStream, keys: tuple[str, ...], time_column: str, aggregates: dict[str, AggregateExpr]
    ) -> tuple[list[BoundAggregate], DataStream]:
        """Compute the aggregates' inputs before the exchange, and send nothing else through it unless late rows do."""
        try:
            needs = bind_aggregates(aggregates, stream.schema, (*keys, WINDOW_START, WINDOW_END))
        except LakewardError as error:
            raise stream._error(error) from None
        bound, inputs = list(needs.aggregates), needs.columns
        if self._options.late_tag is not None:
            computed = {name: expr for name, expr in inputs.items() if name not in stream.schema.names}
            everything = {name: col(name) for name in stream.schema.names} | computed
            return bound, stream._columns("aggregate-input", everything) if computed else stream
        times = (time_column,) if time_column else ()
        needed = {name: col(name) for name in (*keys, *times)} | inputs
        if not needed or list(needed) == stream.schema.names:
            return bound, stream
        return bound, stream._columns("aggregate-input", needed)


def _by_event_time(layout: Assigner) -> bool:
    """Whether windows follow from the stream's event time."""
    if isinstance(layout, CountAssigner) or layout.processing:
        return False
    return isinstance(layout, SessionAssigner) or layout.event_timed


def _bounds(layout: Assigner) -> tuple[str, ...]:
    """The columns that tell the windows of a key apart."""
    if isinstance(layout, SessionAssigner):
        return WINDOW_START, WINDOW_END
    if not isinstance(layout, PaneAssigner) or not layout.event_timed:
        return ()
    return (WINDOW_START,) if layout.starts_apart else (WINDOW_START, WINDOW_END)


class WindowResult(DataStream):
    """The results of windows; also gives the stream of rows that were too late."""

    def __init__(
        self,
        stream: DataStream,
        node: Node,
        tag: OutputTag | None,
        late_columns: list[str],
        event_time: EventTime | None,
    ) -> None:
        super().__init__(stream._context, node, event_time)
        self._late_tag = tag
        self._late_columns = late_columns
        self._input = stream

    def side_output(self, tag: OutputTag) -> DataStream:
        """The rows that came too late for every window, as they were.

        >>> import datetime as dt
        >>> from lakeward import StreamExecutionEnvironment, Tumbling, WatermarkStrategy, count
        >>> rows = [{"at": dt.datetime(2026, 1, 1, 12), "shop": "a"}]
        >>> stream = StreamExecutionEnvironment().from_collection(rows, watermark=WatermarkStrategy.monotonous("at"))
        >>> late = OutputTag("late")
        >>> windows = stream.key_by("shop").window(Tumbling("1m")).side_output_late_data(late)
        >>> windows.aggregate(n=count()).side_output(late).schema.names
        ['at', 'shop']

        Raises:
            GraphError: The windows were made without `side_output_late_data(tag)`.
        """
        if self._late_tag != tag:
            return super().side_output(tag)
        # Late rows have the schema of the operator's input, not of its results.
        node = replace(self._node, schema=self._input.schema)
        late = DataStream(self._context, node, self._input.event_time, tag=tag.name)
        return late if late.schema.names == self._late_columns else late.select(*self._late_columns)


def _exchange(
    stream: DataStream,
    keys: tuple[str, ...],
    kind: str,
    factory: OperatorFactory,
    schema: pa.Schema,
    uid: str | None,
    parallelism: int | None,
) -> Node:
    edge = stream._edge(Exchange.HASH, keys) if keys else stream._edge()
    return stream._context.builder.add(kind, factory, [edge], schema, uid, parallelism)
