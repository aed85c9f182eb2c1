"""Streams: immutable handles on the graph; each verb adds one node and returns a new handle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from lakeward.dsl.async_verbs import AsyncVerbs
from lakeward.dsl.expressions import Expr, as_column, bind_columns, col
from lakeward.dsl.graph_builder import GraphBuilder
from lakeward.dsl.join_verbs import JoinVerbs
from lakeward.dsl.process_verbs import ProcessVerbs
from lakeward.dsl.ranking_verbs import RankingVerbs
from lakeward.engine.api.changelog import ROW_KIND, append_only, is_updating, updating
from lakeward.engine.api.expression import BoundExpression
from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.api.sink import Sink
from lakeward.engine.core.errors import ConfigError, GraphError, LakewardError, SchemaError
from lakeward.engine.core.expect import expect, user_location
from lakeward.engine.core.ids import OperatorId
from lakeward.engine.core.names import did_you_mean
from lakeward.engine.graph.logical import Edge, Exchange, Node
from lakeward.operators.changelog import Additions, Inserts, ToChangelog, changelog_schema, materialise
from lakeward.operators.error_policy import FAIL, OnError, failed_rows_schema
from lakeward.operators.process.tags import OutputTag
from lakeward.operators.signatures import output_schema_of
from lakeward.operators.stateless import Filter, Project
from lakeward.operators.udf import FilterRows, FlatMapRows, MapBatches, MapRows
from lakeward.operators.union import Union, union_schema

if TYPE_CHECKING:
    from lakeward.dsl.aggregates import AggregateExpr
    from lakeward.dsl.environment import StreamExecutionEnvironment
    from lakeward.dsl.keyed import KeyedStream, WindowedStream
    from lakeward.dsl.windows import WindowSpec
    from lakeward.engine.core.durations import Duration

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EventTime:
    """Which column is a stream's event time.

    Args:
        column: Its name.
        offset_us: What to add to get the time (windows' results: their end, less one microsecond).
    """

    column: str
    offset_us: int = 0


@dataclass(frozen=True, slots=True)
class StreamContext:
    """What all streams of a job share."""

    environment: StreamExecutionEnvironment
    builder: GraphBuilder


class DataStream(AsyncVerbs, JoinVerbs, RankingVerbs, ProcessVerbs):
    """Rows of one schema, unbounded or bounded. Made by an environment, not by hand.

    Every verb gives a new stream and leaves this one as it is, so that several may begin here.

    >>> from lakeward import StreamExecutionEnvironment, col
    >>> rows = [{"shop": "a", "amount": 3}, {"shop": "b", "amount": -1}]
    >>> orders = StreamExecutionEnvironment().from_collection(rows)
    >>> paid = orders.filter(col("amount") > 0).with_columns(cents=col("amount") * 100)
    >>> paid
    <DataStream 'with_columns-1': shop string, amount int64, cents int64>
    >>> paid.execute_and_collect().to_pylist()
    [{'shop': 'a', 'amount': 3, 'cents': 300}]
    """

    def __init__(
        self,
        context: StreamContext,
        node: Node,
        event_time: EventTime | None,
        *,
        tag: str | None = None,
        upsert_key: tuple[str, ...] | None = None,
    ) -> None:
        self._context = context
        self._node = node
        self._tag = tag
        self.event_time = event_time
        self.upsert_key = upsert_key
        self._failed: DataStream | None = None

    def __repr__(self) -> str:
        columns = ", ".join(f"{field.name} {field.type}" for field in self.schema)
        return f"<{type(self).__name__} '{self.uid}': {columns}>"

    @property
    def uid(self) -> str:
        """The uid of the operator that sends these rows.

        >>> from lakeward import StreamExecutionEnvironment
        >>> StreamExecutionEnvironment().from_collection([{"a": 1}], uid="orders").uid
        'orders'
        """
        return self._node.uid

    @property
    def schema(self) -> pa.Schema:
        """The schema of the rows; known without running anything.

        >>> from lakeward import StreamExecutionEnvironment
        >>> StreamExecutionEnvironment().from_collection([{"a": 1}]).schema.field("a").type
        DataType(int64)
        """
        return self._node.schema

    @property
    def is_updating(self) -> bool:
        """Whether rows may be replaced and taken back; they then have a row kind, Flink's, as their last column.

        >>> from lakeward import StreamExecutionEnvironment
        >>> StreamExecutionEnvironment().from_collection([{"a": 1}]).is_updating
        False
        """
        return is_updating(self.schema)

    # -- columns and expressions: the fast road

    def filter(
        self,
        predicate: Expr | Callable[..., bool],
        *,
        columns: Sequence[str] | None = None,
        on_error: OnError = FAIL,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> DataStream:
        """Keep the rows for which a condition is true (null is not).

        >>> from lakeward import StreamExecutionEnvironment, col
        >>> stream = StreamExecutionEnvironment().from_collection([{"a": 1}, {"a": 5}])
        >>> stream.filter(col("a") > 2).execute_and_collect().to_pylist()
        [{'a': 5}]

        Args:
            predicate: A boolean expression, or (slower) a function of a row or of columns' values, as for `map`.
            columns: The columns whose values the function gets, as for `map`.
            on_error: What becomes of rows on which the function fails, as for `map`.
            uid: The operator's name in checkpoints.
            parallelism: Its subtasks.

        Returns:
            A stream of the same schema.

        Raises:
            SchemaError: The expression or function does not fit the schema, or the expression is not boolean.
        """
        chosen = self._chosen(columns)
        if not isinstance(predicate, Expr):
            self._check_function(predicate)
            self._refuse_updates(
                "a filter by a Python function", "give an expression, or use .to_changelog() before it"
            )
            work = self._guarded(
                on_error, lambda: FilterRows(predicate, self.schema, columns=chosen, on_error=on_error)
            )
            return self._then_guarded("filter", work, self.schema, on_error, (uid, parallelism))
        for name in [*(["columns"] if chosen is not None else []), *(["on_error"] if on_error != FAIL else [])]:
            raise self._error(GraphError(f"filter by an expression takes no {name}=", hint="leave it out"))
        bound = self._bind(predicate)
        if not pa.types.is_boolean(bound.type):
            raise self._error(SchemaError(f"filter needs a boolean, but {bound.description} is {bound.type}"))
        return self._then("filter", Filter(bound), self.schema, uid, parallelism)

    def select(self, *columns: str | Expr, uid: str | None = None, **named: str | Expr) -> DataStream:
        """Rows of these columns only.

        >>> from lakeward import StreamExecutionEnvironment, col
        >>> stream = StreamExecutionEnvironment().from_collection([{"a": 1, "b": 2}])
        >>> stream.select("b", double=col("a") * 2).execute_and_collect().to_pylist()
        [{'b': 2, 'double': 2}]

        Args:
            columns: Names, or expressions (a computed one has the name of its first column, unless `.alias(name)` is
                given).
            uid: The operator's name in checkpoints.
            named: Expressions by new name.

        Returns:
            A stream of just these columns, in this order.

        Raises:
            SchemaError: A column is unknown, a name is used twice, or an expression does not fit.
        """
        return self._project("select", self._named(columns, named), uid)

    def with_columns(self, *columns: Expr, uid: str | None = None, **named: Expr) -> DataStream:
        """Add columns, or replace those of the same name.

        >>> from lakeward import StreamExecutionEnvironment, col
        >>> stream = StreamExecutionEnvironment().from_collection([{"a": 1}])
        >>> stream.with_columns(b=col("a") + 1).execute_and_collect().to_pylist()
        [{'a': 1, 'b': 2}]

        Raises:
            SchemaError: An expression does not fit the schema.
        """
        added = dict(self._named(columns, named))
        kept = [(name, added.pop(name, col(name))) for name in self.schema.names]
        return self._project("with_columns", [*kept, *added.items()], uid)

    def _columns(self, kind: str, columns: dict[str, Expr]) -> DataStream:
        """Exactly these columns; for the verbs that compute some on the way."""
        return self._project(kind, list(columns.items()), None, self._node.parallelism)

    def drop(self, *columns: str, uid: str | None = None) -> DataStream:
        """Rows without these columns.

        >>> from lakeward import StreamExecutionEnvironment
        >>> StreamExecutionEnvironment().from_collection([{"a": 1, "b": 2}]).drop("a").schema.names
        ['b']

        Raises:
            SchemaError: A column is unknown.
        """
        for name in columns:
            self._check_column(name)
        return self._project("drop", [(n, col(n)) for n in self.schema.names if n not in columns], uid)

    def rename(self, names: dict[str, str], *, uid: str | None = None) -> DataStream:
        """Rows with other column names.

        >>> from lakeward import StreamExecutionEnvironment
        >>> StreamExecutionEnvironment().from_collection([{"a": 1, "b": 2}]).rename({"a": "x"}).schema.names
        ['x', 'b']

        Args:
            names: New name by old name.
            uid: The operator's name in checkpoints.

        Raises:
            SchemaError: A column is unknown, or two columns get the same name.
        """
        expect(names, Mapping, "rename's argument", 'give {"old": "new"}')
        for name, new in names.items():
            self._check_column(name)
            expect(new, str, "a new name", 'give {"old": "new"}')
        return self._project("rename", [(names.get(n, n), col(n)) for n in self.schema.names], uid)

    # -- Python functions: the slow road

    def map(
        self,
        function: Callable[..., Any],
        *,
        columns: Sequence[str] | None = None,
        returns: Any = None,
        on_error: OnError = FAIL,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> DataStream:
        """One row in, one row out, by a Python function.

        A function of one parameter gets the row: a dict, or an instance of the dataclass or NamedTuple that the
        parameter is annotated with. One of several parameters gets the values of the columns that they are named like,
        which is the fastest of these forms: no row is made, and other columns are not even read.

        >>> from lakeward import StreamExecutionEnvironment
        >>> stream = StreamExecutionEnvironment().from_collection([{"a": 1, "b": 5}])
        >>> stream.map(lambda row: {"c": row["a"] + 1}, returns={"c": int}).execute_and_collect().to_pylist()
        [{'c': 2}]
        >>> stream.map(lambda b, a: (a, b - a), returns={"a": int, "d": int}).execute_and_collect().to_pylist()
        [{'a': 1, 'd': 4}]
        >>> hexed = stream.map(lambda n: (n, hex(n)), columns=["b"], returns={"n": int, "hex": str})
        >>> hexed.execute_and_collect().to_pylist()
        [{'n': 5, 'hex': '0x5'}]

        Args:
            function: Called once a row; returns a row as a dict, dataclass, NamedTuple, or tuple in the order of
                the columns. Parameters with a default may be named like a column, but need not.
            columns: The columns whose values the function gets, one a parameter, whatever their names.
            returns: The rows' type: a schema, dataclass, TypedDict, or {name: type}; not needed when the function's
                return annotation says it.
            on_error: What becomes of rows on which the function fails, or whose results do not fit: an `OnError`.
            uid: The operator's name in checkpoints.
            parallelism: Its subtasks.

        Raises:
            GraphError: The type of the rows it returns is not known, or it takes another number of arguments.
            SchemaError: It has a parameter that is no column, or an annotation that does not fit its column.
        """
        self._check_function(function)
        self._refuse_updates("map", "use expressions in .with_columns(...), or .to_changelog() before it")
        chosen = self._chosen(columns)
        schema = self._work(lambda: output_schema_of(function, returns))
        work = self._guarded(
            on_error, lambda: MapRows(function, self.schema, schema, returns, columns=chosen, on_error=on_error)
        )
        return self._then_guarded("map", work, schema, on_error, (uid, parallelism))

    def flat_map(
        self,
        function: Callable[..., Iterable[Any]],
        *,
        columns: Sequence[str] | None = None,
        returns: Any = None,
        on_error: OnError = FAIL,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> DataStream:
        """One row in, any number of rows out, by a Python function.

        >>> from lakeward import StreamExecutionEnvironment
        >>> stream = StreamExecutionEnvironment().from_collection([{"text": "a b"}])
        >>> words = stream.flat_map(lambda r: [{"w": w} for w in r["text"].split()], returns={"w": str})
        >>> words.execute_and_collect().to_pylist()
        [{'w': 'a'}, {'w': 'b'}]

        Args:
            function: Called once a row, as for `map`; returns or yields rows.
            columns: The columns whose values the function gets, as for `map`.
            returns: As for `map`: the type of one row.
            on_error: As for `map`. Of a row that fails nothing is sent, also of what was yielded before.
            uid: The operator's name in checkpoints.
            parallelism: Its subtasks.

        Raises:
            GraphError: The type of the rows it returns is not known, or it takes another number of arguments.
            SchemaError: It has a parameter that is no column, or an annotation that does not fit its column.
        """
        self._check_function(function)
        self._refuse_updates("flat_map", "use .to_changelog() before it")
        chosen = self._chosen(columns)
        schema = self._work(lambda: output_schema_of(function, returns))
        work = self._guarded(
            on_error, lambda: FlatMapRows(function, self.schema, schema, returns, columns=chosen, on_error=on_error)
        )
        return self._then_guarded("flat_map", work, schema, on_error, (uid, parallelism))

    def map_batches(
        self,
        function: Callable[[pa.RecordBatch], pa.RecordBatch | pa.Table],
        *,
        returns: Any = None,
        on_error: OnError = FAIL,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> DataStream:
        """One Arrow batch in, one out: for what expressions cannot say, at nearly their speed.

        >>> from lakeward import StreamExecutionEnvironment
        >>> stream = StreamExecutionEnvironment().from_collection([{"a": 2}, {"a": 1}])
        >>> stream.map_batches(lambda batch: batch.sort_by("a")).execute_and_collect().to_pydict()
        {'a': [1, 2]}

        Args:
            function: Gets a `pyarrow.RecordBatch`; batch boundaries mean nothing.
            returns: The schema it returns; by default the one it gets.
            on_error: As for `map`. To find the rows that fail (`skip`, `side_output`) the function is called again for
                ever smaller parts of the batch.
            uid: The operator's name in checkpoints.
            parallelism: Its subtasks.
        """
        self._check_function(function)
        self._refuse_updates("map_batches", "use expressions in .with_columns(...), or .to_changelog() before it")
        schema = self.schema if returns is None else self._work(lambda: output_schema_of(function, returns))
        work = self._guarded(on_error, lambda: MapBatches(function, schema, on_error, self.schema))
        return self._then_guarded("map_batches", work, schema, on_error, (uid, parallelism))

    # -- shape

    def union(self, *others: DataStream, uid: str | None = None) -> DataStream:
        """The rows of several streams of one schema, as they come.

        >>> from lakeward import StreamExecutionEnvironment
        >>> env = StreamExecutionEnvironment()
        >>> both = env.from_collection([{"a": 1}]).union(env.from_collection([{"a": 2}]))
        >>> sorted(both.execute_and_collect()["a"].to_pylist())
        [1, 2]

        Args:
            others: Streams with the same columns; one that may be null in one of them may be in the result.
            uid: The operator's name in checkpoints.

        Returns:
            An updating stream if one of them is: the other rows are inserts. It has no upsert key, since two streams
            may hold the same key. The event time is kept where all streams have it in one column; `rename` it before
            where they have not.

        Raises:
            SchemaError: The schemas differ; names the first column that does.
        """
        for other in others:
            expect(other, DataStream, "a stream of a union", "give streams: one.union(two, three)")
            if other._context.builder is not self._context.builder:
                raise self._error(GraphError("a union of streams of two environments", hint="make both from one"))
        streams = [self, *others]
        if any(stream.is_updating for stream in streams):
            streams = [stream._as_updating() for stream in streams]
        schema = streams[0].schema
        for other in streams[1:]:
            schema = streams[0]._common_schema(schema, other)
        inputs = [stream._edge() for stream in streams]
        node = self._context.builder.add("union", Union(schema), inputs, schema, uid, None)
        same_time = all(other.event_time == self.event_time for other in others)
        return DataStream(self._context, node, self.event_time if same_time else None)

    def key_by(self, *keys: str | Expr) -> KeyedStream:
        """Rows of equal keys go to the same subtask, where windows and state are kept for each key.

        >>> from lakeward import StreamExecutionEnvironment, col
        >>> stream = StreamExecutionEnvironment().from_collection([{"shop": "A", "n": 1}, {"shop": "a", "n": 2}])
        >>> keyed = stream.key_by(col("shop").str.lower().alias("key"))
        >>> keyed.reduce(lambda a, b: {**b, "n": a["n"] + b["n"]}).execute_and_collect()["n"].to_pylist()
        [1, 3]

        Args:
            keys: Column names, or expressions with an alias (they become columns).

        Raises:
            SchemaError: A column is unknown or has a type that cannot be a key.
        """
        from lakeward.dsl.keyed import KeyedStream

        if not keys:
            raise self._error(GraphError("key_by needs at least one column"))
        computed = [as_column(key) for key in keys if not isinstance(key, str)]
        for key in computed:
            if key.source is None and key.name in self.schema.names:
                hint = f'name it: ({key}).alias("name")'
                raise self._error(GraphError(f"the key {key} would replace the column '{key.name}'", hint=hint))
        everything = {name: col(name) for name in self.schema.names} | {one.name: one for one in computed}
        stream = self._columns("with_columns", everything) if computed else self
        return KeyedStream(stream, tuple(key if isinstance(key, str) else key.name for key in keys))

    def window_all(self, window: WindowSpec) -> WindowedStream:
        """Windows over all rows, without a key; runs in one subtask.

        >>> from lakeward import StreamExecutionEnvironment, Tumbling, WatermarkStrategy, count
        >>> import datetime as dt
        >>> row = {"at": dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)}
        >>> stream = StreamExecutionEnvironment().from_collection([row], watermark=WatermarkStrategy.monotonous("at"))
        >>> stream.window_all(Tumbling("1m")).aggregate(n=count()).execute_and_collect()["n"].to_pylist()
        [1]
        """
        from lakeward.dsl.keyed import WindowedStream

        return WindowedStream(self, (), window)

    def aggregate(
        self,
        aggregates: Mapping[str, AggregateExpr] | None = None,
        /,
        *,
        emit_interval: Duration | None = None,
        update_before: bool = True,
        uid: str | None = None,
        **named: AggregateExpr,
    ) -> DataStream:
        """Aggregates over all rows so far: an updating stream of one row; runs in one subtask.

        >>> from lakeward import StreamExecutionEnvironment, count, max
        >>> stream = StreamExecutionEnvironment().from_collection([{"a": 1}, {"a": 5}])
        >>> stream.aggregate(rows=count(), most=max("a")).collect_final().to_pylist()
        [{'rows': 2, 'most': 5}]

        Args:
            aggregates: Aggregates by name of the result column, as a mapping.
            emit_interval: Send changes at most this often, as in `KeyedStream.aggregate`.
            update_before: Whether the row that is replaced is sent too.
            uid: The operator's name in checkpoints; give one, since it has state.
            named: More aggregates, as keywords: `revenue=sum("amount")`.

        Returns:
            An updating stream of the aggregates. Nothing is sent before the first row has come.

        Raises:
            SchemaError: An aggregate does not fit its column.
        """
        from lakeward.dsl.keyed import GroupOptions, group_aggregate

        options = GroupOptions(emit_interval, update_before, uid, 1)
        return group_aggregate(self, (), {**(aggregates or {}), **named}, options)

    def side_output(self, tag: OutputTag) -> DataStream:
        """A side stream of the operator that made this stream: late rows of a window, rows on which a function failed.

        >>> from lakeward import LakewardError, StreamExecutionEnvironment
        >>> try:
        ...     StreamExecutionEnvironment().from_collection([{"a": 1}], uid="rows").side_output(OutputTag("late"))
        ... except LakewardError as error:
        ...     print(error.message)
        'rows' has no side stream 'late'

        Raises:
            GraphError: The operator has no such side stream.
        """
        expect(tag, OutputTag, "a side stream's tag", 'give an lw.OutputTag("late")')
        if self._failed is not None and self._failed._tag == tag.name:
            return self._failed
        raise self._error(
            GraphError(
                f"'{self.uid}' has no side stream '{tag.name}'",
                hint="ask the stream that .map(..., on_error=lw.OnError.side_output(tag)) returned, or "
                ".window(...).side_output_late_data(tag).aggregate(...)",
            )
        )

    # -- the end of a stream

    def sink_to(self, sink: Sink, *, uid: str | None = None, parallelism: int | None = None) -> OperatorId:
        """Write the rows to a sink.

        >>> from lakeward import MemorySink, StreamExecutionEnvironment
        >>> env, sink = StreamExecutionEnvironment(), MemorySink()
        >>> env.from_collection([{"a": 1}]).sink_to(sink, uid="memory")
        'memory'
        >>> result = env.execute()
        >>> sink.table().to_pylist()
        [{'a': 1}]

        Args:
            sink: For example an `IcebergSink`.
            uid: The sink's name; part of its default sink id, so give one to every sink of a real table.
            parallelism: Number of writers.

        Returns:
            The sink's uid.
        """
        expect(sink, Sink, "a sink", "give for example lw.PrintSink()")
        if not sink.takes_updates:
            hint = "write .to_changelog(), whose rows say what they change, or windows' results, which do not change"
            self._refuse_updates(f"the sink {sink.description}", hint)
        node = self._context.builder.add("sink", sink, [self._edge()], self.schema, uid, parallelism)
        return node.uid

    def execute_and_collect(self) -> pa.Table:
        """Run what this stream needs, to the end of its input, and return its rows.

        For tests and notebooks: all rows are held in memory, and checkpoints are too.

        >>> from lakeward import StreamExecutionEnvironment
        >>> StreamExecutionEnvironment().from_collection([{"a": 1}, {"a": 2}]).execute_and_collect().to_pydict()
        {'a': [1, 2]}

        Returns:
            The rows, of this stream's schema.

        Raises:
            LakewardError: As by `StreamExecutionEnvironment.execute`.
        """
        return self._context.environment.collect(self)

    # -- updating streams

    def to_changelog(self, column: str = "op", *, uid: str | None = None) -> DataStream:
        """An updating stream as plain rows that any sink takes: what each row does becomes a text column, the first.

        >>> from lakeward import StreamExecutionEnvironment
        >>> StreamExecutionEnvironment().from_collection([{"a": 1}]).to_changelog().execute_and_collect().to_pylist()
        [{'op': '+I', 'a': 1}]

        Args:
            column: Its name; its values are "+I" (new), "-U" (replaced by the next), "+U" (replaces), "-D" (deleted).
            uid: The operator's name in checkpoints.

        Raises:
            SchemaError: There is a column of this name already.
        """
        expect(column, str, "to_changelog's column", 'give a name: "op"')
        plain = append_only(self.schema)
        if column in plain.names:
            raise self._error(SchemaError(f"there is a column '{column}' already", hint='.to_changelog("row_kind")'))
        schema = changelog_schema(plain, column)
        return self._then("changelog", ToChangelog(column), schema, uid, None)

    def collect_final(self) -> pa.Table:
        """Run what this stream needs, to the end of its input, and return the result that its changes leave.

        >>> from lakeward import StreamExecutionEnvironment
        >>> StreamExecutionEnvironment().from_collection([{"a": 1}]).collect_final().to_pylist()
        [{'a': 1}]

        Returns:
            The rows after every insert, update and delete, without row kinds; of an append-only stream, all rows.

        Raises:
            LakewardError: As by `StreamExecutionEnvironment.execute`.
        """
        return materialise(self.execute_and_collect(), self.upsert_key)

    # -- for the other modules of the DSL

    def _as_updating(self) -> DataStream:
        return self if self.is_updating else self._then("inserts", Inserts(), updating(self.schema), None, None)

    def _additions(self) -> DataStream:
        """This stream; of an updating one the rows that it adds, in the same subtasks."""
        if not self.is_updating:
            return self
        return self._then("additions", Additions(), append_only(self.schema), None, self._node.parallelism)

    def _refuse_updates(self, what: str, hint: str) -> None:
        if self.is_updating:
            problem = SchemaError(
                f"{what} cannot take the updating stream '{self.uid}', which takes rows back", hint=hint
            )
            raise self._error(problem)

    def _edge(self, exchange: Exchange = Exchange.FORWARD, keys: tuple[str, ...] = ()) -> Edge:
        if exchange is Exchange.FORWARD and self.is_updating:
            keys = self.upsert_key or ()
        return Edge(self._node.uid, exchange, keys, self._tag)

    def _then(
        self, kind: str, factory: OperatorFactory, schema: pa.Schema, uid: str | None, parallelism: int | None
    ) -> DataStream:
        node = self._context.builder.add(kind, factory, [self._edge()], schema, uid, parallelism)
        key = self.upsert_key if is_updating(schema) and set(self.upsert_key or ()) <= set(schema.names) else None
        return DataStream(self._context, node, self._event_time_in(schema), upsert_key=key)

    def _guarded(self, on_error: OnError, make: Callable[[], T]) -> T:
        """`_work` of an operator with a policy for errors."""
        expect(on_error, OnError, "on_error", "give lw.OnError.skip(), for example")
        return self._work(make)

    def _then_guarded(
        self,
        kind: str,
        factory: OperatorFactory,
        schema: pa.Schema,
        on_error: OnError,
        named: tuple[str | None, int | None],
    ) -> DataStream:
        """`_then` of an operator with a policy for errors; `named` are uid and parallelism."""
        return self._with_failed(self._then(kind, factory, schema, *named), on_error)

    def _with_failed(self, result: DataStream, on_error: OnError) -> DataStream:
        """The result of an operator on this stream; it also gives those of these rows that have failed."""
        if on_error.tag is not None:
            node = replace(result._node, schema=failed_rows_schema(self.schema))
            result._failed = DataStream(self._context, node, self.event_time, tag=on_error.tag)
        return result

    def _event_time_in(self, schema: pa.Schema) -> EventTime | None:
        """The event time survives a step that keeps the column, with its type."""
        column = self.event_time.column if self.event_time else None
        if column is None or column not in schema.names or schema.field(column).type != self.schema.field(column).type:
            return None
        return self.event_time

    def _bind(self, expression: Expr) -> BoundExpression:
        try:
            return expression.bind(self.schema)
        except LakewardError as error:
            raise self._error(error) from None

    def _error(self, error: LakewardError) -> LakewardError:
        return error.at("", user_location())

    def _named(self, columns: Iterable[str | Expr], named: Mapping[str, str | Expr]) -> list[tuple[str, Expr]]:
        listed = [as_column(one) for one in columns]
        return [*((expr.name, expr) for expr in listed), *((name, as_column(one)) for name, one in named.items())]

    def _project(
        self, kind: str, columns: list[tuple[str, Expr]], uid: str | None, parallelism: int | None = None
    ) -> DataStream:
        if self.is_updating:
            columns = [*(one for one in columns if one[0] != ROW_KIND), (ROW_KIND, col(ROW_KIND))]
        names = [name for name, _ in columns]
        if not set(names) - {ROW_KIND}:
            raise self._error(SchemaError(f"{kind} leaves no column", hint="keep one; rows are known by their columns"))
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise self._error(SchemaError(f"{kind} makes two columns named '{twice}'", hint="give one an .alias(name)"))
        try:
            bound, schema = bind_columns(dict(columns), self.schema)
        except LakewardError as error:
            raise self._error(error) from None
        stream = self._then(kind, Project(bound, schema), schema, uid, parallelism)
        # The event time survives only as the unchanged column, maybe under another name.
        renamed = {expr.reference: name for name, expr in bound if expr.reference is not None}
        before = self.event_time
        kept = before is not None and before.column in renamed
        stream.event_time = EventTime(renamed[before.column], before.offset_us) if before and kept else None
        keyed = self.upsert_key is not None and all(name in renamed for name in self.upsert_key)
        stream.upsert_key = tuple(renamed[name] for name in self.upsert_key or ()) if keyed else None
        return stream

    def _check_function(self, function: object) -> None:
        if not callable(function):
            hint = 'give a function of a row, or (for filter) an expression: col("amount") > 2'
            raise self._error(GraphError(f"{function!r} is no function", hint=hint))

    def _chosen(self, columns: Sequence[str] | None) -> tuple[str, ...] | None:
        """The columns that a function gets, if they were listed."""
        if columns is None:
            return None
        expect(columns, (list, tuple), "columns", 'list names: columns=["price", "amount"]')
        if not columns:
            raise self._error(ConfigError("columns is empty: the function would get nothing", hint="name one or more"))
        for name in columns:
            self._check_column(name)
        return tuple(columns)

    def _work(self, make: Callable[[], T]) -> T:
        """What is made of a function; if that does not fit, the error names the line that adds it."""
        try:
            return make()
        except LakewardError as error:
            raise self._error(error) from None

    def _check_column(self, name: str) -> None:
        expect(name, str, "a column", 'give its name: "amount"')
        if name not in self.schema.names:
            hint = did_you_mean(name, self.schema.names)
            raise self._error(SchemaError(f"there is no column '{name}'", hint=hint))

    def _common_schema(self, schema: pa.Schema, other: DataStream) -> pa.Schema:
        common = union_schema(schema, other.schema)
        if common is not None:
            return common
        pairs = zip(self.schema, other.schema, strict=False)
        texts = ((f"{one.name}: {one.type}", f"{two.name}: {two.type}") for one, two in pairs)
        first = next((f"'{one}' and '{two}'" for one, two in texts if one != two), "lengths")
        raise self._error(
            SchemaError(
                f"union needs streams of one schema; '{self.uid}' and '{other.uid}' differ in {first}",
                hint="bring them to one schema with .select(...) and .cast(...)",
            )
        )
