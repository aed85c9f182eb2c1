"""The ranking verbs of `KeyedStream` and `DataStream`: thin, so that their documentation can be long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lakeward.dsl.expressions import Expr
    from lakeward.dsl.keyed import KeyedStream
    from lakeward.dsl.over import OverStream
    from lakeward.dsl.ranking import By, Method
    from lakeward.dsl.stream import DataStream
    from lakeward.engine.core.durations import Duration


class KeyedRankingVerbs:
    """What can be said of the rows of each key in an order."""

    def _keyed(self) -> KeyedStream:
        """The keyed stream that these verbs belong to."""
        from lakeward.dsl.keyed import KeyedStream

        assert isinstance(self, KeyedStream), "only keyed streams are ranked"
        return self

    def deduplicate(
        self,
        keep: Literal["first", "last"] = "first",
        *,
        order_by: str | Expr | None = None,
        update_before: bool = True,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> DataStream:
        """One row a key: the first or the last.

        >>> from lakeward import StreamExecutionEnvironment
        >>> rows = [{"user": 1, "page": "a"}, {"user": 2, "page": "b"}, {"user": 1, "page": "c"}]
        >>> visits = StreamExecutionEnvironment().from_collection(rows)
        >>> visits.key_by("user").deduplicate().execute_and_collect().to_pylist()
        [{'user': 1, 'page': 'a'}, {'user': 2, 'page': 'b'}]
        >>> visits.key_by("user").deduplicate("last").collect_final().sort_by("user").to_pylist()
        [{'user': 1, 'page': 'c'}, {'user': 2, 'page': 'b'}]

        Args:
            keep: "first" or "last".
            order_by: The column (or expression) that says which row is first or last, mostly the event time; None: the
                order of arrival. Among equal rows the first keeps the one that came first, the last the one that came
                last. A row without a value loses against every other.
            update_before: Whether to send the row that is replaced, too (-U); not needed by sinks that go by the key.
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.

        Returns:
            For the first row by arrival an append-only stream, with its event time, whose state is the keys alone.
            Otherwise an updating stream with the keys as upsert key; it keeps one whole row a key.

        Raises:
            SchemaError: The stream takes rows back: use `top_n(1, ...)`.
        """
        from lakeward.dsl.ranking import deduplicate

        return deduplicate(self._keyed(), keep, order_by, update_before, (uid, parallelism))

    def top_n(
        self,
        n: int,
        by: By | Sequence[By],
        *,
        rank_column: str | None = None,
        method: Method = "row_number",
        update_before: bool = True,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> DataStream:
        """The first N rows of each key in an order, kept up to date.

        >>> import lakeward as lw
        >>> rows = [{"item": 1, "price": 5}, {"item": 1, "price": 9}, {"item": 1, "price": 7}, {"item": 2, "price": 1}]
        >>> bids = lw.StreamExecutionEnvironment().from_collection(rows)
        >>> best = bids.key_by("item").top_n(2, by=lw.desc("price"), rank_column="rank")
        >>> best.collect_final().sort_by([("item", "ascending"), ("rank", "ascending")]).to_pylist()
        [{'item': 1, 'price': 9, 'rank': 1}, {'item': 1, 'price': 7, 'rank': 2}, {'item': 2, 'price': 1, 'rank': 1}]

        Args:
            n: The highest rank that is kept, 1 or more.
            by: A column, an expression, `lw.desc(...)`, `lw.asc(...)`, or a list of them, the first being the most
                important. Nulls come last, NaN is the greatest number. Rows that it does not tell apart are ranked as
                they came.
            rank_column: A column to add with the rank, from 1. It costs updates: a row that enters moves all behind it.
            method: How equal rows are numbered: "row_number" 1 2 3 4, "rank" 1 2 2 4, "dense_rank" 1 2 2 3; the latter
                two keep all rows of the last rank.
            update_before: Whether to send -U rows; without them the result can only be told by its upsert key.
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.

        Returns:
            An updating stream. Its upsert key is the keys and the rank (with `rank_column` and "row_number"), the keys
            (with n=1), or the keys and the input's upsert key. It keeps the rows of the ranking; over an updating
            stream all rows, since any may move up when another is taken back.

        Raises:
            SchemaError: A column is missing or has no order, or `rank_column` is taken.
        """
        from lakeward.dsl.ranking import Ranking, top_n

        return top_n(self._keyed(), Ranking(n, by, rank_column, method), update_before, (uid, parallelism))

    def over(
        self, order_by: str | None = None, *, rows: int | None = None, range: Duration | None = None
    ) -> OverStream:
        """For each row, the rows of its key up to it in event time: for running totals and moving averages.

        >>> import datetime as dt
        >>> import lakeward as lw
        >>> noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
        >>> rows = [{"shop": "a", "amount": n * n, "at": noon + dt.timedelta(seconds=n)} for n in (1, 3, 2)]
        >>> env = lw.StreamExecutionEnvironment()
        >>> orders = env.from_collection(rows, watermark=lw.WatermarkStrategy.bounded_out_of_orderness("at", "9s"))
        >>> moving = orders.key_by("shop").over(rows=2).aggregate(usual=lw.mean("amount"))
        >>> moving.select("amount", "usual").execute_and_collect().to_pylist()
        [{'amount': 1, 'usual': 1.0}, {'amount': 4, 'usual': 2.5}, {'amount': 9, 'usual': 6.5}]

        Args:
            order_by: The event time column, which may be named for the reader.
            rows: How many rows to look at, the row itself being the last: SQL's `ROWS BETWEEN rows-1 PRECEDING AND
                CURRENT ROW`. Rows of one time are ordered as they came.
            range: How far to look back: rows from this long before the row's time up to its time, both included, with
                all rows of the same time: SQL's `RANGE BETWEEN INTERVAL ... PRECEDING AND CURRENT ROW`. With neither,
                all rows up to this one are looked at (`ROWS UNBOUNDED PRECEDING`).

        Raises:
            GraphError: The stream has no event time, or `order_by` is another column.
            SchemaError: The stream takes rows back.
        """
        from lakeward.dsl.over import over

        return over(self._keyed(), order_by, rows, range)


class RankingVerbs:
    """Ranking of windows' results, and lists to rows."""

    def _ranked(self) -> DataStream:
        """The stream that these verbs belong to."""
        from lakeward.dsl.stream import DataStream

        assert isinstance(self, DataStream), "only streams are ranked"
        return self

    def window_top_n(
        self,
        n: int,
        by: By | Sequence[By],
        *,
        partition_by: str | Sequence[str] = (),
        rank_column: str | None = None,
        method: Method = "row_number",
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> DataStream:
        """The first N results of each window, sent once, when the window is over.

        >>> import datetime as dt
        >>> import lakeward as lw
        >>> noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
        >>> rows = [{"item": item, "at": noon} for item in (1, 2, 2, 3, 3)]
        >>> env = lw.StreamExecutionEnvironment()
        >>> bids = env.from_collection(rows, watermark=lw.WatermarkStrategy.monotonous("at"))
        >>> counts = bids.key_by("item").window(lw.Tumbling("1m")).aggregate(bids=lw.count())
        >>> most = counts.window_top_n(1, by=lw.desc("bids"), method="rank")
        >>> most.select("item", "bids").execute_and_collect().sort_by("item").to_pylist()
        [{'item': 2, 'bids': 2}, {'item': 3, 'bids': 2}]

        Args:
            n: The highest rank that is sent, 1 or more.
            by: As for `top_n`.
            partition_by: Columns to rank within, besides the window: the best of each category.
            rank_column: A column to add with the rank, from 1.
            method: As for `top_n`; "rank" with n=1 sends all rows that have the greatest value.
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.

        Returns:
            An append-only stream with the event time of the windows. Results that come after their window was over
            (of windows with `allowed_lateness`) are counted as `late_rows` and dropped.

        Raises:
            GraphError: The stream's rows are no results of windows.
        """
        from lakeward.dsl.ranking import Ranking, window_top_n

        ranking = Ranking(n, by, rank_column, method)
        return window_top_n(self._ranked(), ranking, partition_by, (uid, parallelism))

    def unnest(
        self,
        column: str,
        as_: str | Sequence[str] | None = None,
        *,
        keep_empty: bool = False,
        ordinality: str | None = None,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> DataStream:
        """One row an element of a list or map, the other columns repeated.

        >>> from lakeward import StreamExecutionEnvironment
        >>> orders = StreamExecutionEnvironment().from_collection([{"id": 1, "items": ["pen", "ink"]}])
        >>> orders.unnest("items", as_="item", ordinality="line").execute_and_collect().to_pylist()
        [{'id': 1, 'item': 'pen', 'line': 1}, {'id': 1, 'item': 'ink', 'line': 2}]

        Args:
            column: A list or map; the elements take its place.
            as_: The new column, by default of the old name; a list of names for a map's key and value (by default
                "key" and "value"), or for the fields of a list of structs, in their order.
            keep_empty: Whether rows whose list is null or empty stay, with null for the element (SQL's `LEFT JOIN
                UNNEST`).
            ordinality: A column to add with each element's place, from 1.
            uid: The operator's name in checkpoints.
            parallelism: Its subtasks.

        Returns:
            Of an updating stream an updating one: what is taken back is taken back element by element. It then has no
            upsert key, as several rows come of one.

        Raises:
            SchemaError: The column is neither a list nor a map, or the names do not fit.
        """
        from lakeward.dsl.ranking import unnest

        return unnest(self._ranked(), column, as_, (keep_empty, ordinality), (uid, parallelism))
