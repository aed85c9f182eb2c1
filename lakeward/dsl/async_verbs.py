"""The verb of `DataStream` for functions that wait for another system: `map_async`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lakeward.engine.core.durations import Duration, parse_duration_us
from lakeward.engine.core.errors import ConfigError, GraphError
from lakeward.engine.core.expect import expect, expect_choice, expect_whole
from lakeward.operators.async_map import AsyncMap
from lakeward.operators.async_options import AsyncFunction, AsyncOptions, AsyncRetry, OnTimeout
from lakeward.operators.async_target import invoked
from lakeward.operators.error_policy import FAIL, OnError
from lakeward.operators.signatures import output_schema_of

if TYPE_CHECKING:
    from lakeward.dsl.stream import DataStream

_RETRY = AsyncRetry()


class AsyncVerbs:
    """Asynchronous functions over rows."""

    def _called(self) -> DataStream:
        """The stream that these verbs belong to."""
        from lakeward.dsl.stream import DataStream

        assert isinstance(self, DataStream), "only streams are mapped"
        return self

    def map_async(
        self,
        function: Callable[..., Any] | AsyncFunction,
        *,
        returns: Any = None,
        ordered: bool = True,
        capacity: int = 100,
        timeout: Duration | None = "60s",
        on_timeout: OnTimeout = "fail",
        retries: AsyncRetry = _RETRY,
        batch_rows: int | None = None,
        columns: Sequence[str] | None = None,
        on_error: OnError = FAIL,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> DataStream:
        """Answer rows by a function that waits for another system, many at a time (Flink's Async I/O).

        >>> import lakeward as lw
        >>> orders = lw.StreamExecutionEnvironment().from_collection([{"id": 1, "user": 7}, {"id": 2, "user": 8}])
        >>> async def with_name(row):
        ...     name = {7: "Ann", 8: "Bob"}[row["user"]]  # where a real one awaits an answer
        ...     return {"id": row["id"], "name": name}
        >>> orders.map_async(with_name, returns={"id": int, "name": str}).execute_and_collect().to_pylist()
        [{'id': 1, 'name': 'Ann'}, {'id': 2, 'name': 'Bob'}]
        >>> async def double(ids: list[int]):
        ...     return [(each, 2 * each) for each in ids]
        >>> doubled = orders.map_async(double, columns=["id"], batch_rows=32, returns={"id": int, "double": int})
        >>> doubled.execute_and_collect()["double"].to_pylist()
        [2, 4]

        Rows in flight are part of checkpoints: after a failure the function is called again for those whose answer had
        not been sent, so that results are exactly once, but a call may be made twice. A checkpoint waits for no call.

        Args:
            function: An `async def`, which runs on the job's event loop; a plain function that blocks, which runs in a
                thread; or an `AsyncFunction`, which has a client to open and close. It gets what a function of `map`
                gets, and answers with one row, as in `map`; with a list, whose elements are rows; or with None for no
                row. The event time goes on if they keep its column.
            returns: The rows' type, as for `map`; not needed when the return annotation says it (a row class, or a
                list of it).
            ordered: Whether answers leave in the order of the rows. If not, they leave as they come, but none crosses a
                watermark, so that windows hold the same rows.
            capacity: Rows in flight in each subtask at most. Above it no input is read: that is back-pressure.
            timeout: How long a row may take, from its first call on, with all retries; None: as long as it wants.
            on_timeout: "fail" ends the job's attempt; "null" answers with null in all columns but those that the row
                has by the same name and type; a function answers instead of `function`, and gets what it would get; it
                may be async if `function` is. An `AsyncFunction` has its method `timeout` for that.
            retries: How often a call that failed is tried again, and when; `AsyncRetry(attempts=1)`: never.
            batch_rows: Let `function` get lists of up to so many rows (with `columns`, a list of values a column), and
                return a list with one answer for each, in their order: for model inference. A call is not held back to
                fill its list; rows gather while `capacity` is used up.
            columns: The columns whose values the function gets, as for `map`.
            on_error: What becomes of a row whose calls have failed, with all `retries`, or took too long where
                `on_timeout` is "fail", or whose answer does not fit: `OnError.fail()`, `.skip()` or
                `.side_output(tag)`. Of a call with `batch_rows` the rows at fault are found by calls for halves of it,
                each with tries and a timeout of its own.
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.

        Returns:
            A stream of the answers.

        Raises:
            GraphError: The type of the rows it returns is not known, or it cannot be called so.
            SchemaError: It has a parameter that is no column, or an annotation that does not fit its column; the stream
                takes rows back; or its failed rows would have two columns of one name.
            ConfigError: An option has a value that cannot work.
        """
        stream = self._called()
        _check(stream, function)
        stream._refuse_updates("map_async", "use .to_changelog() before it")
        options = stream._work(
            lambda: AsyncOptions(
                _flag(ordered, "map_async: ordered"),
                _count(capacity, "capacity"),
                None if batch_rows is None else _count(batch_rows, "batch_rows"),
                _timeout_ms(timeout),
                _on_timeout(on_timeout),
                _retry(retries),
                _on_error(on_error),
            )
        )
        chosen = stream._chosen(columns)
        schema = stream._work(lambda: output_schema_of(invoked(function), returns))
        work = stream._work(lambda: AsyncMap(function, stream.schema, schema, returns, chosen, options))
        return stream._then_guarded("map_async", work, schema, on_error, (uid, parallelism))


def _check(stream: DataStream, function: object) -> None:
    if isinstance(function, AsyncFunction):
        return
    if isinstance(function, type) and issubclass(function, AsyncFunction):
        name = function.__qualname__
        raise stream._error(GraphError(f"map_async got the class {name}", hint=f"give an instance: {name}()"))
    stream._check_function(function)


def _flag(value: bool, what: str) -> bool:
    expect(value, bool, what, "give True or False")
    return value


def _count(value: int, what: str) -> int:
    expect_whole(value, f"map_async: {what}", least=1)
    return value


def _timeout_ms(timeout: Duration | None) -> int | None:
    if timeout is None:
        return None
    timeout_ms = parse_duration_us(timeout, "map_async: timeout") // 1000
    if timeout_ms < 1:
        raise ConfigError(f"map_async: timeout cannot be {timeout!r}", hint='give a millisecond or more: "5s"; or None')
    return timeout_ms


def _on_timeout(on_timeout: OnTimeout) -> OnTimeout:
    if not callable(on_timeout):
        expect_choice(on_timeout, ("fail", "null"), "map_async: on_timeout")
    return on_timeout


def _on_error(on_error: OnError) -> OnError:
    expect(on_error, OnError, "map_async: on_error", "give lw.OnError.skip(), for example")
    return on_error


def _retry(retries: AsyncRetry) -> AsyncRetry:
    expect(retries, AsyncRetry, "map_async: retries", 'give lw.AsyncRetry(attempts=3, backoff="100ms")')
    return retries
