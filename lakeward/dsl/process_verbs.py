"""The verbs that take process functions: thin, so that their documentation can be long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lakeward.operators.error_policy import FAIL, OnError

if TYPE_CHECKING:
    from lakeward.dsl.keyed import KeyedStream
    from lakeward.dsl.process import BroadcastStream, ConnectedStreams, ProcessResult
    from lakeward.dsl.stream import DataStream


class KeyedProcessVerbs:
    """Functions with state and timers of a key."""

    def _to_process(self) -> KeyedStream:
        """The keyed stream that these verbs belong to."""
        from lakeward.dsl.keyed import KeyedStream

        assert isinstance(self, KeyedStream), "only keyed streams have keyed functions"
        return self

    def process(
        self,
        function: Any,
        *,
        returns: Any = None,
        on_error: OnError = FAIL,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> ProcessResult:
        """Rows of each key through a function with state, timers and side outputs.

        >>> import lakeward as lw
        >>> def numbered(row: dict, seen: lw.ValueState[int]):
        ...     seen.value = (seen.value or 0) + 1
        ...     yield {"shop": row["shop"], "order": seen.value}
        >>> orders = lw.StreamExecutionEnvironment().from_collection([{"shop": "a"}, {"shop": "b"}, {"shop": "a"}])
        >>> stream = orders.key_by("shop").process(numbered, returns={"shop": str, "order": int})
        >>> stream.execute_and_collect()["order"].to_pylist()
        [1, 1, 2]

        Args:
            function: A `KeyedProcessFunction`, or a plain function that gets the row, and by name the context (`ctx`)
                and states (parameters annotated so: `seen: lw.ValueState[int]`). It yields rows, returns them in a
                list, or returns None.
            returns: The rows' type: a schema, dataclass, TypedDict or {name: type}; not needed when the return
                annotation says it (`-> Iterator[Alert]`).
            on_error: What becomes of rows on which the function fails, or whose results do not fit: an `OnError`. Such
                a row changes no state and sends nothing; the function may be called twice for rows before it. What is
                wrong in `on_timer` ends the job, and so does a value that does not fit its state.
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.

        Returns:
            A stream of the rows that it makes; `side_output(tag)` gives those that it sends to side streams. It has the
            event time of this one if the rows keep that column.

        Raises:
            GraphError: The function takes other arguments, or the type of its rows is not known.
            SchemaError: Its rows or states do not fit; the stream is an updating one.
        """
        from lakeward.dsl.process import Options, process_keyed

        return process_keyed(self._to_process(), function, Options(returns, on_error, uid, parallelism))

    def connect(self, other: KeyedStream | BroadcastStream) -> ConnectedStreams:
        """Two streams for one function: keyed alike, or this one with a broadcast one.

        >>> import lakeward as lw
        >>> env = lw.StreamExecutionEnvironment()
        >>> orders, prices = (env.from_collection([{"item": "tea", "price": 2.5}]) for _ in range(2))
        >>> type(orders.key_by("item").connect(prices.key_by("item"))).__name__
        'ConnectedStreams'

        Args:
            other: A stream keyed by as many columns of the same types, or `stream.broadcast()`.

        Raises:
            SchemaError: The keys differ.
        """
        from lakeward.dsl.process import connect_keyed

        return connect_keyed(self._to_process(), other)


class ProcessVerbs:
    """Functions with side outputs, and broadcast."""

    def _to_process(self) -> DataStream:
        """The stream that these verbs belong to."""
        from lakeward.dsl.stream import DataStream

        assert isinstance(self, DataStream), "only streams have functions"
        return self

    def process(
        self,
        function: Any,
        *,
        returns: Any = None,
        on_error: OnError = FAIL,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> ProcessResult:
        """Rows through a function with side outputs. For state and timers `key_by` before.

        >>> import lakeward as lw
        >>> odd = lw.OutputTag("odd", {"n": int})
        >>> def split(row: dict, ctx: lw.ProcessContext):
        ...     if row["n"] % 2:
        ...         ctx.output(odd, row)
        ...     else:
        ...         yield row
        >>> numbers = lw.StreamExecutionEnvironment().from_collection([{"n": 1}, {"n": 2}])
        >>> numbers.process(split, returns={"n": int}).side_output(odd).execute_and_collect().to_pylist()
        [{'n': 1}]

        Args:
            function: A `ProcessFunction`, or a plain function that gets the row, and the context if it has a parameter
                `ctx`. It yields rows, returns them in a list, or returns None.
            returns: The rows' type, as for `map`.
            on_error: What becomes of rows on which the function fails, as for `map`.
            uid: The operator's name in checkpoints.
            parallelism: Its subtasks.

        Raises:
            GraphError: The function takes other arguments, the type of its rows is not known, or it declares state.
            SchemaError: Its rows do not fit; the stream is an updating one.
        """
        from lakeward.dsl.process import Options, process_plain

        return process_plain(self._to_process(), function, Options(returns, on_error, uid, parallelism))

    def broadcast(self) -> BroadcastStream:
        """This stream for every subtask of a `BroadcastProcessFunction`: `orders.connect(rules.broadcast())`.

        >>> import lakeward as lw
        >>> rules = lw.StreamExecutionEnvironment().from_collection([{"shop": "a", "limit": 10.0}])
        >>> type(rules.broadcast()).__name__
        'BroadcastStream'
        """
        from lakeward.dsl.process import BroadcastStream

        return BroadcastStream(self._to_process())

    def connect(self, other: BroadcastStream) -> ConnectedStreams:
        """This stream with a broadcast one, for a `BroadcastProcessFunction`; for keyed ones see `KeyedStream.connect`.

        >>> import lakeward as lw
        >>> env = lw.StreamExecutionEnvironment()
        >>> orders, rules = env.from_collection([{"shop": "a"}]), env.from_collection([{"shop": "a"}])
        >>> type(orders.connect(rules.broadcast())).__name__
        'ConnectedStreams'
        """
        from lakeward.dsl.process import connect_plain

        return connect_plain(self._to_process(), other)
