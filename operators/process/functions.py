"""The classes that users derive their functions from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Self

import pyarrow as pa

from lakeward.engine.core.errors import UserCodeError
from lakeward.operators.process.contexts import FunctionContext, KeyedBatchContext, KeyedContext, ProcessContext
from lakeward.operators.process.declared import refuse_state_arguments

Rows = Iterable[Any] | None
"""What a function gives back: rows, yielded or in a list; None: none."""


class Function(ABC):  # noqa: B024 (nothing is abstract that all functions have)
    """Base of all functions. Each subtask works with a shallow copy of the object that the job was given."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse a dataclass that wants its states as arguments: Python would only say that one is missing."""
        refuse_state_arguments(cls)
        return super().__new__(cls)

    def open(self, ctx: FunctionContext) -> None:  # noqa: B027
        """Called in each subtask before its first row: open clients here. There is no key yet, and so no state."""

    def close(self) -> None:  # noqa: B027
        """Called when the subtask ends, after errors too; not when the process dies."""


class ProcessFunction(Function):
    """Any number of rows for each row, and side outputs; without keys, and so without state and timers.

    >>> import lakeward as lw
    >>> class Split(lw.ProcessFunction):
    ...     bad = lw.OutputTag("bad", {"text": str})
    ...
    ...     def process(self, row: dict, ctx: lw.ProcessContext):
    ...         if row["text"].isdigit():
    ...             yield {"n": int(row["text"])}
    ...         else:
    ...             ctx.output(self.bad, row)
    >>> texts = lw.StreamExecutionEnvironment().from_collection([{"text": "1"}, {"text": "x"}])
    >>> numbers = texts.process(Split(), returns={"n": int})
    >>> numbers.side_output(Split.bad).execute_and_collect().to_pylist()
    [{'text': 'x'}]
    """

    @abstractmethod
    def process(self, row: Any, ctx: Any) -> Rows:
        """Handle a row.

        Args:
            row: A dict, or as this parameter is annotated: a dataclass, NamedTuple, TypedDict or tuple.
            ctx: A `ProcessContext`.

        Returns:
            Rows, yielded or in a list: dicts, dataclasses, NamedTuples or tuples of the columns; None: none.
        """


class KeyedProcessFunction(Function):
    """Rows of a key, with state and timers of that key.

    >>> import datetime as dt
    >>> import lakeward as lw
    >>> class Silence(lw.KeyedProcessFunction):
    ...     last: lw.ValueState[dt.datetime]
    ...
    ...     def process(self, row: dict, ctx: lw.KeyedContext):
    ...         self.last.value = ctx.timestamp
    ...         ctx.timers.register_event_time(ctx.timestamp + dt.timedelta(minutes=1))
    ...
    ...     def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext):
    ...         if timestamp == self.last.value + dt.timedelta(minutes=1):
    ...             yield {"sensor": ctx.current_key, "silent_since": self.last.value}
    ...             self.last.clear()
    >>> noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
    >>> rows = [{"sensor": "a", "at": noon + dt.timedelta(seconds=s)} for s in (0, 30)]
    >>> beats = lw.StreamExecutionEnvironment().from_collection(rows, watermark=lw.WatermarkStrategy.monotonous("at"))
    >>> alerts = beats.key_by("sensor").process(Silence(), returns={"sensor": str, "silent_since": dt.datetime})
    >>> [row["silent_since"].second for row in alerts.execute_and_collect().to_pylist()]
    [30]
    """

    @abstractmethod
    def process(self, row: Any, ctx: Any) -> Rows:
        """Handle a row; as in `ProcessFunction.process`, with a `KeyedContext`."""

    def on_timer(self, timestamp: datetime, ctx: KeyedContext) -> Rows:
        """A timer of the current key has come.

        Args:
            timestamp: The time that it was set for, in UTC.
            ctx: The context; `ctx.time_domain` says whose time has come.

        Returns:
            Rows, as of `process`.
        """
        raise no_timers(self)


class CoProcessFunction(Function):
    """Rows of two streams with the same keys, with state and timers that they share.

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
    >>> both.process(Priced(), returns={"item": str, "price": float}).schema.names
    ['item', 'price']
    """

    @abstractmethod
    def process1(self, row: Any, ctx: Any) -> Rows:
        """Handle a row of the first stream; as in `KeyedProcessFunction.process`."""

    @abstractmethod
    def process2(self, row: Any, ctx: Any) -> Rows:
        """Handle a row of the second stream."""

    def on_timer(self, timestamp: datetime, ctx: KeyedContext) -> Rows:
        """A timer of the current key has come; as in `KeyedProcessFunction.on_timer`."""
        raise no_timers(self)


class BroadcastProcessFunction(Function):
    """Rows of a stream, handled by what every subtask knows from another one: rules, settings, prices.

    The broadcast stream's rows come to every subtask, where they may change `BroadcastState`; the other's rows find it
    read-only. If that stream is keyed, there are also keyed state and timers.

    >>> import lakeward as lw
    >>> class Rules(lw.BroadcastProcessFunction):
    ...     limits: lw.BroadcastState[str, float]
    ...
    ...     def process(self, row: dict, ctx: lw.ProcessContext):
    ...         if row["amount"] > self.limits.get(row["shop"], 100.0):
    ...             yield row
    ...
    ...     def process_broadcast(self, row: dict, ctx: lw.ProcessContext):
    ...         self.limits[row["shop"]] = row["limit"]
    >>> env = lw.StreamExecutionEnvironment()
    >>> orders = env.from_collection([{"shop": "a", "amount": 120.0}])
    >>> limits = env.from_collection([{"shop": "b", "limit": 10.0}])
    >>> orders.connect(limits.broadcast()).process(Rules(), returns=orders.schema).execute_and_collect().to_pylist()
    [{'shop': 'a', 'amount': 120.0}]
    """

    @abstractmethod
    def process(self, row: Any, ctx: Any) -> Rows:
        """Handle a row; as in `ProcessFunction.process`, or `KeyedProcessFunction.process` on a keyed stream."""

    @abstractmethod
    def process_broadcast(self, row: Any, ctx: ProcessContext) -> Rows:
        """Handle a row of the broadcast stream, which comes to every subtask. There is no key, and so no keyed state.

        What it does to `BroadcastState` must depend on its rows alone, in whatever order they come, since every subtask
        has a copy, and a restore at another parallelism takes any of them. Rows that it yields are sent by every
        subtask.
        """

    def on_timer(self, timestamp: datetime, ctx: KeyedContext) -> Rows:
        """A timer of the current key has come; as in `KeyedProcessFunction.on_timer`."""
        raise no_timers(self)


class KeyedBatchFunction(Function):
    """The vectorised form of `KeyedProcessFunction`: a whole Arrow batch, with the state of its keys as columns.

    >>> import numpy as np
    >>> import pyarrow as pa
    >>> import lakeward as lw
    >>> class Totals(lw.KeyedBatchFunction):
    ...     total: lw.ValueState[int] = lw.ValueState(default=0)
    ...
    ...     def process_batch(self, batch: pa.RecordBatch, ctx: lw.KeyedBatchContext):
    ...         totals = self.total.column.to_numpy(zero_copy_only=False).copy()
    ...         np.add.at(totals, ctx.key_numbers, batch.column("amount").to_numpy())
    ...         self.total.column = totals
    ...         return ctx.keys.append_column("total", pa.array(totals))
    >>> rows = [{"shop": "a", "amount": 2}, {"shop": "b", "amount": 9}, {"shop": "a", "amount": 3}]
    >>> orders = lw.StreamExecutionEnvironment().from_collection(rows)
    >>> totals = orders.key_by("shop").process(Totals(), returns={"shop": str, "total": int})
    >>> totals.execute_and_collect().to_pylist()
    [{'shop': 'a', 'total': 5}, {'shop': 'b', 'total': 9}]

    States are `ValueState`s: `self.total.column` is one value a key, in the order of `ctx.keys`, and is set as a whole
    or by `self.total.update(values, where=mask)`. `ctx.key_numbers` says which key each row has. The engine decides
    where batches begin and end, so what is held for a key must not depend on it.
    """

    @abstractmethod
    def process_batch(self, batch: pa.RecordBatch, ctx: KeyedBatchContext) -> pa.RecordBatch | pa.Table | None:
        """Handle a batch.

        Args:
            batch: The rows, in the order in which they came.
            ctx: Keys, times, timers and side outputs.

        Returns:
            Rows of the declared schema; None: none.
        """

    def on_timers(self, timers: pa.RecordBatch, ctx: KeyedBatchContext) -> pa.RecordBatch | pa.Table | None:
        """Timers of many keys have come; each key comes once in a batch, so that its timers come in their order.

        Args:
            timers: The key columns, and the times that they were set for as the column `timestamp`.
            ctx: As in `process_batch`; `ctx.keys` are the key columns of `timers`.

        Returns:
            As `process_batch`.
        """
        raise UserCodeError(
            f"timers of {type(self).__qualname__} have come, which has no on_timers",
            hint="define on_timers(self, timers, ctx), or set none",
        )


def no_timers(function: Function) -> UserCodeError:
    """The error of a timer that nobody handles."""
    name = type(function).__qualname__
    return UserCodeError(
        f"a timer of {name} has come, which has no on_timer", hint="define on_timer(self, timestamp, ctx), or set none"
    )
