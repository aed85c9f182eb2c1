"""Keyed streams, and streams cut into windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from lakeward.dsl.aggregates import AggregateExpr
from lakeward.dsl.expressions import Expr, col
from lakeward.dsl.stream import DataStream, EventTime, OutputTag
from lakeward.dsl.windows import WindowSpec
from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.core.durations import Duration, parse_duration_us
from lakeward.engine.core.errors import ConfigError, GraphError, LakewardError, SchemaError
from lakeward.engine.core.expect import expect
from lakeward.engine.core.hashing import is_binary_like
from lakeward.engine.graph.logical import Exchange, Node
from lakeward.operators.aggregate import BoundAggregate
from lakeward.operators.reduce import Reduce, WindowReduce
from lakeward.operators.windows.operator import WindowAggregate

_INPUT_PREFIX = "__in_"


class KeyedStream:
    """A stream whose rows are grouped by key columns. Made by `DataStream.key_by`.

    >>> from lakeward import StreamExecutionEnvironment
    >>> rows = [{"shop": "a", "most": 3}, {"shop": "b", "most": 1}, {"shop": "a", "most": 7}]
    >>> keyed = StreamExecutionEnvironment().from_collection(rows).key_by("shop")
    >>> keyed.keys
    ('shop',)
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

    def window(self, window: WindowSpec) -> WindowedStream:
        """Cut the stream of each key into windows of event time.

        >>> from lakeward import StreamExecutionEnvironment, Tumbling, WatermarkStrategy, sum
        >>> import datetime as dt
        >>> at = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
        >>> rows = [{"shop": "a", "amount": 2, "at": at}, {"shop": "a", "amount": 3, "at": at}]
        >>> stream = StreamExecutionEnvironment().from_collection(rows, watermark=WatermarkStrategy.monotonous("at"))
        >>> result = stream.key_by("shop").window(Tumbling("1m")).aggregate(revenue=sum("amount"))
        >>> result.execute_and_collect().select(["shop", "revenue"]).to_pylist()
        [{'shop': 'a', 'revenue': 5}]

        Args:
            window: `Tumbling` or `Sliding`.

        Raises:
            GraphError: The stream has no event time.
        """
        return WindowedStream(self._stream, self.keys, window)

    def reduce(
        self, function: Callable[[Any, Any], Any], *, uid: str | None = None, parallelism: int | None = None
    ) -> DataStream:
        """Combine the rows of each key, one by one; sends the combined row after every row (Flink's rolling reduce).

        >>> from lakeward import StreamExecutionEnvironment
        >>> stream = StreamExecutionEnvironment().from_collection([{"k": 1, "v": 2}, {"k": 1, "v": 3}])
        >>> total = stream.key_by("k").reduce(lambda a, b: {"k": a["k"], "v": a["v"] + b["v"]})
        >>> total.execute_and_collect()["v"].to_pylist()
        [2, 5]

        Args:
            function: Gets the combined row so far and the next row, both dicts; returns the new combined row.
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.
        """
        stream = self._stream
        node = _exchange(
            stream, self.keys, "reduce", Reduce(self.keys, stream.schema, function), stream.schema, uid, parallelism
        )
        return DataStream(stream._context, node, stream.event_time)


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
    """

    allowed_lateness_us: int = 0
    late_tag: OutputTag | None = None


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
        expect(window, WindowSpec, "a window", 'give lw.Tumbling("10s") or lw.Sliding("1m", "10s")')
        if stream.event_time is None:
            raise stream._error(
                GraphError(
                    "windows need event time, and this stream has none",
                    hint='give the source watermark=WatermarkStrategy.bounded_out_of_orderness("column", "5s"), and '
                    "keep that column unchanged up to the window",
                )
            )
        self._stream = stream
        self._keys = keys
        self._window = window
        self._options = options or WindowOptions()

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
        options = replace(self._options, allowed_lateness_us=parse_duration_us(lateness, "allowed lateness"))
        return WindowedStream(self._stream, self._keys, self._window, options)

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
        return WindowedStream(self._stream, self._keys, self._window, replace(self._options, late_tag=tag))

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
        stream, time_column = self._with_time_column()
        bound, stream = self._bind_inputs(stream, time_column, aggregates)
        factory = WindowAggregate(
            keys=self._keys,
            time_column=time_column,
            window=self._window.assigner(),
            aggregates=tuple(bound),
            allowed_lateness_us=self._options.allowed_lateness_us,
            late_tag=self._options.late_tag.name if self._options.late_tag else None,
            input_schema=stream.schema,
        )
        count = parallelism if self._keys else 1
        node = _exchange(stream, self._keys, "window", factory, factory.schema, uid, count)
        return WindowResult(
            stream, node, self._options.late_tag, self._stream.schema.names, EventTime("window_end", -1)
        )

    def reduce(
        self, function: Callable[[Any, Any], Any], *, uid: str | None = None, parallelism: int | None = None
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
            function: Gets the combined row so far and the next row, both dicts; returns the new combined row.
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.

        Returns:
            A stream of the input's schema, with its event time.
        """
        stream, time_column = self._with_time_column()
        tag = self._options.late_tag
        factory = WindowReduce(
            keys=self._keys,
            schema=stream.schema,
            time_column=time_column,
            window=self._window.assigner(),
            function=function,
            allowed_lateness_us=self._options.allowed_lateness_us,
            late_tag=tag.name if tag else None,
        )
        node = _exchange(stream, self._keys, "window", factory, stream.schema, uid, parallelism if self._keys else 1)
        return WindowResult(stream, node, tag, self._stream.schema.names, self._stream.event_time)

    def _with_time_column(self) -> tuple[DataStream, str]:
        time = self._stream.event_time
        assert time is not None, "checked when the windowed stream was made"
        if time.offset_us == 0:
            return self._stream, time.column
        # The event time of a window's result is the last microsecond of the window, as in Flink.
        shifted = col(time.column).dt.offset(microseconds=time.offset_us)
        return self._stream.with_columns(window_time=shifted), "window_time"

    def _bind_inputs(
        self, stream: DataStream, time_column: str, aggregates: dict[str, AggregateExpr]
    ) -> tuple[list[BoundAggregate], DataStream]:
        """Compute the aggregates' inputs before the exchange, and send nothing else through it unless late rows do."""
        bound: list[BoundAggregate] = []
        inputs: dict[str, Expr] = {}
        for name, aggregate in aggregates.items():
            expect(
                aggregate, AggregateExpr, f"the aggregate '{name}'", 'give for example lw.sum("amount") or lw.count()'
            )
            if name in self._keys or name in ("window_start", "window_end"):
                raise stream._error(SchemaError(f"the result already has a column '{name}'"))
            column, expression = aggregate.input_column(f"{_INPUT_PREFIX}{name}")
            if column is not None and expression is not None:
                inputs[column] = expression
            try:
                bound.append(aggregate.bind(stream.schema, name, column))
            except LakewardError as error:
                raise stream._error(error) from None
        if self._options.late_tag is not None:
            computed = {name: expr for name, expr in inputs.items() if name not in stream.schema.names}
            everything = {name: col(name) for name in stream.schema.names} | computed
            return bound, stream._columns("aggregate-input", everything) if computed else stream
        needed = {name: col(name) for name in (*self._keys, time_column)} | inputs
        if list(needed) == stream.schema.names:
            return bound, stream
        return bound, stream._columns("aggregate-input", needed)


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
