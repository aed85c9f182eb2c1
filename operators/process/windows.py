"""Functions over all rows of a window: Flink's ProcessWindowFunction.

The window operator collects the rows of each key and window as a list. Behind it, in the same task, a keyed process
operator calls the function with each list: so windows of all kinds, late rows, early results, state and restores are
what they are elsewhere.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, islice, pairwise
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.engine.api.row_types import is_row_class
from lakeward.engine.core.errors import GraphError, SchemaError
from lakeward.operators.function_names import function_name
from lakeward.operators.process.calls import Callee, Reader, reader_of
from lakeward.operators.process.contexts import KeyedContext
from lakeward.operators.process.functions import Function, Rows, no_timers
from lakeward.operators.rows import column_to_list
from lakeward.operators.signatures import hints_of
from lakeward.operators.windows.columns import Rows as Sizes
from lakeward.operators.windows.timed import WINDOW_END, WINDOW_START

WINDOW_ROWS = "#rows"
"""The column of the windows' rows."""

FAILED_ROWS = "rows"
"""What it is called in a side output of failed windows."""

_CHUNK_ROWS = 4096  # windows together become Python objects up to this many rows


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """The bounds of a window.

    >>> import datetime as dt
    >>> noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
    >>> TimeWindow(noon, noon + dt.timedelta(minutes=1)).duration
    datetime.timedelta(seconds=60)

    Args:
        start: Its first moment: of a session the time of its first row.
        end: The first moment after it: of a session the time of its last row plus the gap.
    """

    start: datetime
    end: datetime

    @property
    def duration(self) -> timedelta:
        """How long it is."""
        return self.end - self.start


class ProcessWindowFunction(Function):
    """All rows of a key's window at once, with state of the key over all of its windows.

    >>> import datetime as dt
    >>> import lakeward as lw
    >>> class Median(lw.ProcessWindowFunction):
    ...     windows: lw.ValueState[int] = lw.ValueState(default=0)
    ...
    ...     def process(self, key: str, window: lw.TimeWindow, rows: list[dict], ctx: lw.KeyedContext):
    ...         self.windows.value += 1
    ...         prices = sorted(row["price"] for row in rows)
    ...         yield {"item": key, "number": self.windows.value, "median": prices[len(prices) // 2]}
    >>> noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
    >>> rows = [{"item": "tea", "price": n * n, "at": noon + dt.timedelta(seconds=20 * n)} for n in range(5)]
    >>> orders = lw.StreamExecutionEnvironment().from_collection(rows, watermark=lw.WatermarkStrategy.monotonous("at"))
    >>> windows = orders.key_by("item").window(lw.Tumbling("1m"))
    >>> medians = windows.process(Median(), returns={"item": str, "number": int, "median": int})
    >>> medians.execute_and_collect().to_pylist()
    [{'item': 'tea', 'number': 1, 'median': 1}, {'item': 'tea', 'number': 2, 'median': 16}]
    """

    @abstractmethod
    def process(self, key: Any, window: Any, rows: Any, ctx: Any) -> Rows:
        """Handle a window; windows without rows never come.

        Args:
            key: The key: a value, or a tuple of the values of several key columns; None for `window_all`.
            window: A `TimeWindow`; None for windows without bounds (count and global windows).
            rows: A list of dicts, or of what this parameter is annotated with (`rows: list[Order]`), in the order of
                event time; among equal times, and without event time, in the order of arrival.
            ctx: A `KeyedContext`; its `timestamp` is the last microsecond of the window, its `watermark` the one that
                made the window fire (None at the end of the input, where `input_has_ended`), as in Flink.

        Returns:
            Rows, yielded or in a list: dicts, dataclasses, NamedTuples or tuples of the columns; None: none.
        """

    def on_timer(self, timestamp: datetime, ctx: KeyedContext) -> Rows:
        """A timer of the current key has come; as in `KeyedProcessFunction.on_timer`."""
        raise no_timers(self)


@dataclass(frozen=True, slots=True)
class WindowCallee(Callee):
    """A function of windows: an object of a class, or a plain function.

    Args:
        keys: The key columns; empty: the function gets None.
    """

    keys: tuple[str, ...] = ()

    @property
    def given(self) -> tuple[str, ...]:
        """What the function gets before the context."""
        return "key", "window", "rows"

    @property
    def of_windows(self) -> bool:
        """Yes."""
        return True

    def failing_columns(self, schema: pa.Schema) -> dict[str, str]:
        """A row a window: its keys, its bounds and its rows.

        Raises:
            SchemaError: A key has the name of the column of rows.
        """
        if FAILED_ROWS in self.keys:
            raise SchemaError(
                f"the side output of failed windows adds a column '{FAILED_ROWS}', and a key is called so",
                hint=f'rename it before: .rename({{"{FAILED_ROWS}": "..."}})',
            )
        bounds = [name for name in (WINDOW_START, WINDOW_END) if name in schema.names]
        return {name: name for name in (*self.keys, *bounds)} | {WINDOW_ROWS: FAILED_ROWS}

    def readers(self, schemas: Sequence[pa.Schema]) -> Sequence[Reader]:
        """Makes the function's arguments of the window operator's results."""
        entry = self.entry(0)
        hint: Any = next(islice(hints_of(entry).values(), 2, None), None)
        if is_row_class(hint):
            problem = (
                f"'rows' of {function_name(entry)} is annotated {hint.__qualname__}, but all rows of a window come"
            )
            raise GraphError(problem, hint=f"annotate it list[{hint.__qualname__}]")
        return [WindowReader(schema, self.keys, next(iter(get_args(hint)), None)) for schema in schemas]


class WindowReader:
    """Makes key, window and rows of what the window operator collects.

    Args:
        schema: Of its results.
        keys: The key columns.
        hint: What the rows are annotated with.

    Raises:
        SchemaError: The rows do not fit it.
    """

    def __init__(self, schema: pa.Schema, keys: tuple[str, ...], hint: Any) -> None:
        self._keys = keys
        self._bounded = WINDOW_END in schema.names
        self._rows = reader_of(pa.schema(list(schema.field(WINDOW_ROWS).type.value_type)), hint)

    def chunks(self, batch: pa.RecordBatch) -> Iterator[list[Any]]:
        """The windows of a batch, as many at a time as have some thousand rows together."""
        sizes = pc.list_value_length(batch.column(WINDOW_ROWS)).to_numpy()
        numbers = np.concatenate([[0], np.cumsum(sizes)[:-1] // _CHUNK_ROWS])
        begins = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
        for begin, end in pairwise([*begins, batch.num_rows]):
            yield self._chunk(batch.slice(begin, end - begin), sizes[begin:end])

    def _chunk(self, batch: pa.RecordBatch, sizes: Sizes) -> list[Any]:
        structs = pc.list_flatten(batch.column(WINDOW_ROWS))
        rows = list(chain.from_iterable(self._rows.chunks(pa.RecordBatch.from_struct_array(structs))))
        ends = np.cumsum(sizes).tolist()
        lists = [rows[begin:end] for begin, end in pairwise([0, *ends])]
        return list(zip(self._keys_of(batch), self._windows_of(batch), lists, strict=True))

    def _keys_of(self, batch: pa.RecordBatch) -> list[Any]:
        lists = [column_to_list(batch.column(name)) for name in self._keys]
        if not lists:
            return [None] * batch.num_rows
        return lists[0] if len(lists) == 1 else list(zip(*lists, strict=True))

    def _windows_of(self, batch: pa.RecordBatch) -> list[TimeWindow | None]:
        if not self._bounded:
            return [None] * batch.num_rows
        return list(map(TimeWindow, *(column_to_list(batch.column(name)) for name in (WINDOW_START, WINDOW_END))))
