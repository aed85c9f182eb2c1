"""Process functions in the graph: one stream, two keyed alike, or one with a broadcast one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from lakeward.dsl.aggregates import collect, count
from lakeward.dsl.expressions import col, lit
from lakeward.dsl.keyed import KeyedStream, WindowedStream, WindowResult
from lakeward.dsl.stream import DataStream
from lakeward.engine.core.errors import GraphError, LakewardError, SchemaError
from lakeward.engine.core.expect import expect
from lakeward.engine.graph.logical import Edge, Exchange, Node, SourceSpec
from lakeward.operators.error_policy import FAIL, OnError, failed_rows_schema
from lakeward.operators.process.calls import Callee
from lakeward.operators.process.contexts import WATERMARK_HINT
from lakeward.operators.process.functions import (
    BroadcastProcessFunction,
    CoProcessFunction,
    Function,
    KeyedBatchFunction,
    KeyedProcessFunction,
    ProcessFunction,
)
from lakeward.operators.process.operator import Process, ProcessInput
from lakeward.operators.process.tags import OutputTag
from lakeward.operators.process.windows import WINDOW_ROWS, ProcessWindowFunction, WindowCallee
from lakeward.operators.signatures import output_schema_of
from lakeward.operators.windows.assigners import CarriedAssigner
from lakeward.operators.windows.timed import WINDOW_END

_COUNT = "#count"
_ALL = "#all"  # the key of windows over a stream without keys: null


@dataclass(frozen=True, slots=True)
class Options:
    """What may be said of every process function."""

    returns: Any = None
    on_error: OnError = FAIL
    uid: str | None = None
    parallelism: int | None = None


class ProcessResult(DataStream):
    """The rows of a process function; also gives the streams of rows that it sends aside."""

    def __init__(self, stream: DataStream, node: Node) -> None:
        super().__init__(stream._context, node, stream._event_time_in(node.schema))
        self._input = stream

    def side_output(self, tag: OutputTag) -> DataStream:
        """The rows that the function sends to a tag.

        >>> import lakeward as lw
        >>> loud = lw.OutputTag("loud", {"text": str})
        >>> def shout(row: dict, ctx: lw.ProcessContext):
        ...     ctx.output(loud, {"text": row["text"].upper()})
        >>> texts = lw.StreamExecutionEnvironment().from_collection([{"text": "a"}])
        >>> texts.process(shout, returns=texts.schema).side_output(loud).execute_and_collect().to_pylist()
        [{'text': 'A'}]

        Args:
            tag: Made with the type of its rows: `lw.OutputTag("loud", {"text": str})`.

        Raises:
            GraphError: The tag does not say what its rows are, or was read as rows of another type before.
        """
        expect(tag, OutputTag, "a side stream's tag", 'give an lw.OutputTag("alerts", Alert)')
        if self._failed is not None and self._failed._tag == tag.name:
            return self._failed
        schema = self._work(lambda: tag.schema)
        work = self._node.work
        assert isinstance(work, Process), "made by a process verb"
        self._work(lambda: self._context.builder.note_side_stream(tag.name, schema))
        work.side[tag.name] = schema
        time = self._input._event_time_in(schema)
        return DataStream(self._context, replace(self._node, schema=schema), time, tag=tag.name)


class WindowProcessResult(ProcessResult):
    """The rows that a function makes of windows; also gives the rows that came too late for their windows."""

    def __init__(self, stream: DataStream, made: ProcessResult, windows: WindowResult) -> None:
        super().__init__(stream, made._node)
        self._failed = made._failed
        self._windows = windows

    def side_output(self, tag: OutputTag) -> DataStream:
        """The rows that the function sends to a tag; or those that came too late, for the tag that was said before.

        >>> import datetime as dt
        >>> import lakeward as lw
        >>> rows = [{"at": dt.datetime(2026, 1, 1, 12), "shop": "a"}]
        >>> env, time = lw.StreamExecutionEnvironment(), lw.WatermarkStrategy.monotonous("at")
        >>> windows = env.from_collection(rows, watermark=time).key_by("shop").window(lw.Tumbling("1m"))
        >>> late, busy = lw.OutputTag("late"), lw.OutputTag("busy", {"shop": str})
        >>> def sizes(key, window, rows, ctx):
        ...     ctx.output(busy, {"shop": key})
        ...     return [{"rows": len(rows)}]
        >>> result = windows.side_output_late_data(late).process(sizes, returns={"rows": int})
        >>> result.side_output(late).schema.names, result.side_output(busy).execute_and_collect()["shop"].to_pylist()
        (['at', 'shop'], ['a'])
        """
        return self._windows.side_output(tag) if tag == self._windows._late_tag else super().side_output(tag)


class BroadcastStream:
    """A stream whose rows come to every subtask. Made by `DataStream.broadcast`."""

    def __init__(self, stream: DataStream) -> None:
        self._stream = stream


class ConnectedStreams:
    """Two streams that one function handles. Made by `connect`.

    >>> import lakeward as lw
    >>> class Priced(lw.CoProcessFunction):
    ...     price: lw.ValueState[float | None]
    ...
    ...     def process1(self, row: dict, ctx: lw.KeyedContext):
    ...         yield {"item": row["item"], "price": self.price.value}
    ...
    ...     def process2(self, row: dict, ctx: lw.KeyedContext):
    ...         self.price.value = row["price"]
    >>> env = lw.StreamExecutionEnvironment()
    >>> orders, prices = env.from_collection([{"item": "tea"}]), env.from_collection([{"item": "tea", "price": 2.5}])
    >>> both = orders.key_by("item").connect(prices.key_by("item"))
    >>> both.process(Priced(), returns={"item": str, "price": float}).execute_and_collect()["item"].to_pylist()
    ['tea']
    """

    def __init__(self, first: DataStream, keys: tuple[str, ...], second: DataStream, others: tuple[str, ...]) -> None:
        self._streams = (first, second)
        self._keys = (keys, others)
        self._broadcast = False

    @classmethod
    def _with_broadcast(cls, stream: DataStream, keys: tuple[str, ...], other: BroadcastStream) -> ConnectedStreams:
        connected = cls(stream, keys, other._stream, ())
        connected._broadcast = True
        return connected

    def process(
        self,
        function: Any,
        *,
        returns: Any = None,
        on_error: OnError = FAIL,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> ProcessResult:
        """The rows of both through one function.

        >>> import lakeward as lw
        >>> class Both(lw.CoProcessFunction):
        ...     def process1(self, row: dict, ctx: lw.KeyedContext):
        ...         yield {"k": row["k"], "from": 1}
        ...
        ...     def process2(self, row: dict, ctx: lw.KeyedContext):
        ...         yield {"k": row["k"], "from": 2}
        >>> env = lw.StreamExecutionEnvironment()
        >>> one, two = (env.from_collection([{"k": 7}]).key_by("k") for _ in range(2))
        >>> both = one.connect(two).process(Both(), returns={"k": int, "from": int})
        >>> sorted(both.execute_and_collect()["from"].to_pylist())
        [1, 2]

        Args:
            function: A `CoProcessFunction`; with a broadcast stream a `BroadcastProcessFunction`.
            returns: The rows' type, if the return annotation of its first method does not say it.
            on_error: What becomes of rows on which the function fails, as for `KeyedStream.process`.
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.

        Raises:
            GraphError: It is no such function, takes other arguments, or the type of its rows is not known.
            SchemaError: Its rows or states do not fit; a stream is an updating one.
        """
        wanted = BroadcastProcessFunction if self._broadcast else CoProcessFunction
        methods = ("process", "process_broadcast") if self._broadcast else ("process1", "process2")
        first, second = self._streams
        if not isinstance(function, wanted):
            raise first._error(
                GraphError(f"{_shown(function)} is no lw.{wanted.__name__}", hint=_instance_hint(function))
            )
        for stream in self._streams:
            stream._refuse_updates("process", "use .to_changelog() before it")
        inputs = [_input(stream, keys) for stream, keys in zip(self._streams, self._keys, strict=True)]
        exchange = Exchange.BROADCAST if self._broadcast else Exchange.HASH
        edges = [_edge(first, self._keys[0]), second._edge(exchange, self._keys[1])]
        options = Options(returns, on_error, uid, parallelism)
        return _node(first, Callee(function, methods), inputs, edges, options)


def process_keyed(keyed: KeyedStream, function: Any, options: Options) -> ProcessResult:
    """A function over a keyed stream."""
    stream = keyed._stream
    _check(stream, function, KeyedProcessFunction, KeyedBatchFunction)
    inputs, edges = [_input(stream, keyed.keys)], [_edge(stream, keyed.keys)]
    methods = ("process_batch",) if isinstance(function, KeyedBatchFunction) else ("process",)
    return _node(stream, Callee(function, methods), inputs, edges, options)


def process_plain(stream: DataStream, function: Any, options: Options) -> ProcessResult:
    """A function over a stream without keys."""
    _check(stream, function, ProcessFunction)
    return _node(stream, Callee(function), [_input(stream, ())], [stream._edge()], options)


def process_windows(windowed: WindowedStream, function: Any, options: Options) -> ProcessResult:
    """A function over all rows of windows: they are collected, and handed to it in the same task."""
    stream, keys = windowed._stream, windowed._keys
    _check(stream, function, ProcessWindowFunction)
    callee = WindowCallee(function, keys=keys)
    stream._work(lambda: callee.check(timers=True))
    late = windowed._options.late_tag
    if late is not None and isinstance(options.on_error, OnError) and late.name == options.on_error.tag:
        problem = f"late rows and windows that fail are both sent to the side stream '{late.name}'"
        raise stream._error(GraphError(problem, hint="they have other columns: give one of them a tag of another name"))
    rows = {WINDOW_ROWS: collect().of_rows(stream.schema)}
    trigger = windowed._options.trigger
    if trigger is not None and not trigger.discarding:  # the number of rows says whether there are new ones
        rows[_COUNT] = count()
        windowed = windowed._with(trigger=replace(trigger, unkept=(WINDOW_ROWS,)))
    uid = None if options.uid is None else f"{options.uid}-windows"
    collected = windowed.aggregate(uid=uid, parallelism=options.parallelism, **rows)
    windows = collected._additions()
    if not keys:  # state and timers need a key: one for all
        nothing = lit(None).cast("int8")
        windows = windows._columns("window-key", {_ALL: nothing} | {name: col(name) for name in windows.schema.names})
    bounded = WINDOW_END in windows.schema.names
    given = ProcessInput(windows.schema, keys or (_ALL,), WINDOW_END if bounded else None, -1)
    moves = isinstance(windowed._layout, CarriedAssigner)  # their windows of one key are in several subtasks
    edge = windows._edge(Exchange.HASH, given.keys) if moves else windows._edge()
    options = options if keys else replace(options, parallelism=1)
    return WindowProcessResult(windows, _node(windows, callee, [given], [edge], options), collected)


def connect_keyed(keyed: KeyedStream, other: KeyedStream | BroadcastStream) -> ConnectedStreams:
    """Two keyed streams, or one with a broadcast one."""
    stream = keyed._stream
    hint = "give another stream, keyed alike, or .broadcast()"
    expect(other, (KeyedStream, BroadcastStream), "the stream to connect with", hint)
    if isinstance(other, BroadcastStream):
        return ConnectedStreams._with_broadcast(stream, keyed.keys, other)
    second = other._stream
    kinds, others = (
        [one.schema.field(key).type for key in keys] for one, keys in ((stream, keyed.keys), (second, other.keys))
    )
    if kinds != others:
        text = " and ".join(", ".join(map(str, some)) for some in (kinds, others))
        raise stream._error(SchemaError(f"the keys of connected streams differ: {text}", hint="cast one of them"))
    return ConnectedStreams(stream, keyed.keys, second, other.keys)


def connect_plain(stream: DataStream, other: BroadcastStream) -> ConnectedStreams:
    """A stream without keys with a broadcast one."""
    expect(other, BroadcastStream, "the stream to connect with", "give other.broadcast(), or key both: .key_by(...)")
    return ConnectedStreams._with_broadcast(stream, (), other)


def _check(stream: DataStream, function: Any, *wanted: type[Function]) -> None:
    stream._refuse_updates("process", "use .to_changelog() before it")
    if isinstance(function, wanted) or (callable(function) and not isinstance(function, Function | type)):
        return
    raise stream._error(
        GraphError(
            f"{_shown(function)} is neither an lw.{wanted[0].__name__} nor a function", hint=_instance_hint(function)
        )
    )


def _shown(function: Any) -> str:
    return f"the {type(function).__name__}" if isinstance(function, Function) else repr(function)


def _instance_hint(function: Any) -> str:
    if isinstance(function, type):
        return f"make one: {function.__name__}()"
    kinds = "key_by(...).process: KeyedProcessFunction; process: ProcessFunction; of windows: ProcessWindowFunction"
    return f"{kinds}; keyed connect: CoProcessFunction; with a broadcast stream: BroadcastProcessFunction"


def _input(stream: DataStream, keys: tuple[str, ...]) -> ProcessInput:
    time = stream.event_time
    return ProcessInput(stream.schema, keys, time.column if time else None, time.offset_us if time else 0)


def _edge(stream: DataStream, keys: tuple[str, ...]) -> Edge:
    return stream._edge(Exchange.HASH, keys) if keys else stream._edge()


def _check_event_time(stream: DataStream, callee: Callee, edges: Sequence[Edge]) -> str:
    """Why event time does not advance for a function; empty if it does.

    Raises:
        GraphError: A state's TTL goes by it all the same.
    """
    graph = stream._context.builder.graph([edge.upstream for edge in edges])
    sources = [(node.uid, node.work) for node in graph if isinstance(node.work, SourceSpec)]
    untimed = next((uid for uid, work in sources if work.watermarks is None and not work.source.bounded), None)
    if all(work.watermarks is None for _, work in sources):
        problem = "the stream has no event time"
    elif untimed is not None:
        problem = f"the source '{untimed}' has no event time, and holds back that of the others for as long as it runs"
    else:
        return ""
    for name, one in callee.states.items():
        if one.ttl is not None and one.ttl.time == "event":
            hint = f'{WATERMARK_HINT}; or let the clock count: lw.StateTtl(..., time="processing")'
            raise GraphError(f"the TTL of state '{name}' goes by event time, and {problem}", hint=hint)
    return problem


def _node(
    stream: DataStream,
    callee: Callee,
    inputs: Sequence[ProcessInput],
    edges: Sequence[Edge],
    options: Options,
) -> ProcessResult:
    expect(options.on_error, OnError, "on_error", "give lw.OnError.skip(), for example")
    try:
        schema: pa.Schema = output_schema_of(callee.entry(0), options.returns)
        work = Process(callee, tuple(inputs), schema, options.returns, on_error=options.on_error)
        work = replace(work, timeless=_check_event_time(stream, callee, edges))
    except LakewardError as error:
        raise stream._error(error) from None
    node = stream._context.builder.add("process", work, edges, schema, options.uid, options.parallelism)
    result, tag = ProcessResult(stream, node), options.on_error.tag
    if tag is not None:
        failed = replace(node, schema=failed_rows_schema(work.failing_schema))
        result._failed = DataStream(stream._context, failed, stream._event_time_in(failed.schema), tag=tag)
    return result
