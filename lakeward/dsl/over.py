"""Over-aggregation: `keyed.over(...)`, and what is computed for each row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lakeward.dsl.aggregates import AggregateExpr, bind_aggregates
from lakeward.dsl.expressions import col
from lakeward.dsl.ranking import keyed_step
from lakeward.dsl.stream import DataStream, EventTime
from lakeward.engine.core.durations import Duration, parse_duration_us
from lakeward.engine.core.errors import ConfigError, GraphError, LakewardError
from lakeward.engine.core.expect import expect_whole
from lakeward.operators.over.memory import OverConfig
from lakeward.operators.over.operator import Over

if TYPE_CHECKING:
    from lakeward.dsl.keyed import KeyedStream


@dataclass(frozen=True, slots=True)
class Frame:
    """Which rows are looked at for each row.

    Args:
        rows: So many, the row itself being the last.
        range_us: Those of so much time before it.
    """

    rows: int | None
    range_us: int | None


def over(keyed: KeyedStream, order_by: str | None, rows: int | None, duration: Duration | None) -> OverStream:
    """`KeyedStream.over`."""
    stream = keyed._stream
    hint = 'keep the last rows: .key_by("k").top_n(11, by=lw.desc("at")), then .key_by("k").aggregate(...)'
    stream._refuse_updates("over", hint)
    time = stream.event_time
    if time is None:
        raise stream._error(
            GraphError(
                "over needs event time, and this stream has none",
                hint='give the source watermark=WatermarkStrategy.bounded_out_of_orderness("column", "5s"), and keep '
                "that column unchanged up to here",
            )
        )
    if order_by is not None and order_by != time.column:
        stream._check_column(order_by)
        hint = f"leave order_by out, or make '{order_by}' the source's event time"
        raise stream._error(GraphError(f"over goes by the event time '{time.column}', not by '{order_by}'", hint=hint))
    if rows is not None and duration is not None:
        raise stream._error(ConfigError("over takes rows or range, not both"))
    if rows is not None:
        expect_whole(rows, "over: rows", least=1)
    range_us = None if duration is None else parse_duration_us(duration, "over: range")
    return OverStream(stream, keyed.keys, time, Frame(rows, range_us))


class OverStream:
    """Rows of a keyed stream, each with those before it. Made by `KeyedStream.over`.

    >>> import datetime as dt
    >>> import lakeward as lw
    >>> noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
    >>> rows = [{"shop": "a", "amount": n, "at": noon + dt.timedelta(seconds=n)} for n in (1, 2, 3)]
    >>> env = lw.StreamExecutionEnvironment()
    >>> orders = env.from_collection(rows, watermark=lw.WatermarkStrategy.monotonous("at"))
    >>> totals = orders.key_by("shop").over().aggregate(revenue=lw.sum("amount"))
    >>> totals.select("amount", "revenue").execute_and_collect().to_pylist()
    [{'amount': 1, 'revenue': 1}, {'amount': 2, 'revenue': 3}, {'amount': 3, 'revenue': 6}]
    """

    def __init__(self, stream: DataStream, keys: tuple[str, ...], time: EventTime, frame: Frame) -> None:
        self._stream = stream
        self._keys = keys
        self._time = time
        self._frame = frame

    def aggregate(
        self,
        aggregates: Mapping[str, AggregateExpr] | None = None,
        /,
        *,
        uid: str | None = None,
        parallelism: int | None = None,
        **named: AggregateExpr,
    ) -> DataStream:
        """One row a row, with aggregates over the rows of its key up to it.

        >>> import datetime as dt
        >>> import lakeward as lw
        >>> noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
        >>> rows = [{"shop": "a", "amount": n, "at": noon + dt.timedelta(seconds=n)} for n in (1, 5, 9)]
        >>> env = lw.StreamExecutionEnvironment()
        >>> orders = env.from_collection(rows, watermark=lw.WatermarkStrategy.monotonous("at"))
        >>> recent = orders.key_by("shop").over(range="5s").aggregate(most=lw.max("amount"), n=lw.count())
        >>> recent.select("amount", "most", "n").execute_and_collect().to_pylist()
        [{'amount': 1, 'most': 1, 'n': 1}, {'amount': 5, 'most': 5, 'n': 2}, {'amount': 9, 'most': 9, 'n': 2}]

        Args:
            aggregates: By name of the result column.
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.
            named: More aggregates, as keywords: `usual=mean("amount")`.

        Returns:
            An append-only stream of the input's columns and the aggregates, in the order of event time, which it keeps.
            Rows are sent when the watermark has passed them; rows that come later are counted as `late_rows` and
            dropped.

        Raises:
            SchemaError: An aggregate does not fit its column, or a name is taken.
        """
        stream = self._stream
        every = {**(aggregates or {}), **named}
        if not every:
            raise stream._error(GraphError("aggregate needs at least one aggregate", hint="for example n=count()"))
        try:
            needs = bind_aggregates(every, stream.schema, stream.schema.names)
            computed = {name: one for name, one in needs.columns.items() if name not in stream.schema.names}
            everything = {name: col(name) for name in stream.schema.names} | computed
            source = stream._columns("over-input", everything) if computed else stream
            config = OverConfig(
                schema=source.schema,
                keys=self._keys,
                time_column=self._time.column,
                offset_us=self._time.offset_us,
                rows=self._frame.rows,
                range_us=self._frame.range_us,
                aggregates=needs.aggregates,
                columns=tuple(stream.schema.names),
            )
            factory = Over(config)
        except LakewardError as error:
            raise stream._error(error) from None
        made = keyed_step(source, self._keys, "over", (factory, factory.output_schema), (uid, parallelism))
        made.event_time = self._time
        return made
