"""The join verbs of `DataStream`: thin, so that their documentation can be long; `joins.py` has the checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lakeward.dsl.expressions import Expr

if TYPE_CHECKING:
    from lakeward.dsl.joins import Keys, LookupCache, Validate
    from lakeward.dsl.stream import DataStream
    from lakeward.dsl.windows import WindowSpec
    from lakeward.engine.api.lookup import LookupSource
    from lakeward.engine.core.durations import Duration
    from lakeward.operators.joins.layout import How
    from lakeward.operators.process.tags import OutputTag


class JoinVerbs:
    """What a stream can be joined with, and how."""

    def _joined(self) -> DataStream:
        """The stream that these verbs belong to."""
        from lakeward.dsl.stream import DataStream

        assert isinstance(self, DataStream), "only streams are joined"
        return self

    def join(
        self,
        right: DataStream,
        on: Keys | None = None,
        *,
        left_on: Keys | None = None,
        right_on: Keys | None = None,
        how: How = "inner",
        where: Expr | None = None,
        suffix: str = "_right",
        validate: Validate = "m:m",
        state_ttl: Duration | None = None,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> DataStream:
        """Every row with every row of another stream that has its key, whichever comes first; null keys match nothing.

        >>> from lakeward import StreamExecutionEnvironment
        >>> env = StreamExecutionEnvironment()
        >>> orders = env.from_collection([{"user": 1, "amount": 5}, {"user": 2, "amount": 7}])
        >>> users = env.from_collection([{"user": 1, "name": "Ann"}])
        >>> orders.join(users, on="user", how="left").collect_final().sort_by("user").to_pylist()
        [{'user': 1, 'amount': 5, 'name': 'Ann'}, {'user': 2, 'amount': 7, 'name': None}]

        Both sides may be updating streams. The result is one too unless both are append-only and `how` is "inner" or
        "semi"; it has no event time. Both sides are kept as state, for ever unless `state_ttl` is given.

        Args:
            right: The other stream.
            on: Columns (or expressions with an alias) that both sides have; they are one column of the result.
            left_on: Key columns of this stream, where the names differ.
            right_on: As many of the other one.
            how: "inner", "left", "right", "full", "semi" (rows that have a partner, once) or "anti" (that have none).
            where: A further condition over the joined columns, under their names in the result.
            suffix: Appended to right names that the left has too.
            validate: "m:1" promises that each key has one right row, "1:m" one left row, "1:1" both. It is checked
                while rows are in state, and lets append-only rows be forgotten when they have met their only partner.
            state_ttl: Rows are forgotten when event time has passed theirs by so much ("1h"), or up to half of it more.
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.

        Raises:
            SchemaError: A key is unknown, keys have no common type, or two columns get one name.
        """
        from lakeward.dsl import joins

        style = joins.JoinStyle(how, where, suffix, validate, uid, parallelism)
        return joins.join(self._joined(), right, joins.JoinKeys(on, left_on, right_on), style, state_ttl)

    def interval_join(
        self,
        right: DataStream,
        on: Keys | None = None,
        *,
        left_on: Keys | None = None,
        right_on: Keys | None = None,
        lower: Duration | None = None,
        upper: Duration | None = None,
        within: tuple[str | Expr, str | Expr] | None = None,
        lookback: Duration = 0,
        how: How = "inner",
        where: Expr | None = None,
        suffix: str = "_right",
        validate: Validate = "m:m",
        event_time: str | None = None,
        late_left: OutputTag | None = None,
        late_right: OutputTag | None = None,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> DataStream:
        """Rows of equal keys whose event times are near each other; state is only what may still find a partner.

        >>> import datetime as dt
        >>> from lakeward import StreamExecutionEnvironment, WatermarkStrategy
        >>> env, mark = StreamExecutionEnvironment(), WatermarkStrategy.monotonous("at")
        >>> ads = env.from_collection([{"ad": 1, "at": dt.datetime(2026, 1, 1, 12, 0)}], watermark=mark)
        >>> clicks = env.from_collection([{"ad": 1, "at": dt.datetime(2026, 1, 1, 12, 3)}], watermark=mark)
        >>> ads.interval_join(clicks, on="ad", lower="0s", upper="5m").execute_and_collect().num_rows
        1

        The result is append-only; rows without a partner come when none can come any more. Its event time is the later
        one of both where the bounds say which that is (`lower` from 0 on: the right's; `upper` up to 0, or `within`:
        the left's), or the column `event_time` if asked for, else none. Rows at or before the watermark are late: they
        are counted, and left out.

        Args:
            right: The other stream.
            on: Key columns, as for `join`, with `left_on` and `right_on`.
            left_on: Key columns of this stream.
            right_on: As many of the other one.
            lower: The right row's event time less the left's is at least this ("-5s").
            upper: And at most this ("5s").
            within: Instead: the left row's event time lies between these two right columns, both included.
            lookback: How far before the right row's own event time its `within` may begin; left rows wait so long.
            how: As for `join`.
            where: As for `join`, with `suffix` and `validate`.
            suffix: Appended to right names that the left has too.
            validate: How many rows have one key.
            event_time: Adds a column of this name with the later event time of both (inner joins).
            late_left: Side stream of late left rows: `result.side_output(tag)`.
            late_right: Side stream of late right rows.
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.
        """
        from lakeward.dsl import joins

        style = joins.JoinStyle(how, where, suffix, validate, uid, parallelism)
        keys, near = joins.JoinKeys(on, left_on, right_on), joins.Near(lower, upper, within, lookback)
        return joins.interval_join(self._joined(), right, keys, style, near, event_time, (late_left, late_right))

    def window_join(
        self,
        right: DataStream,
        on: Keys | None = None,
        *,
        window: WindowSpec,
        left_on: Keys | None = None,
        right_on: Keys | None = None,
        how: How = "inner",
        where: Expr | None = None,
        suffix: str = "_right",
        late_left: OutputTag | None = None,
        late_right: OutputTag | None = None,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> DataStream:
        """Rows of equal keys in the same window of event time, sent when the watermark has passed the window's end.

        >>> import datetime as dt
        >>> from lakeward import StreamExecutionEnvironment, Tumbling, WatermarkStrategy
        >>> env, mark = StreamExecutionEnvironment(), WatermarkStrategy.monotonous("at")
        >>> views, sales = ([{"shop": 1, "at": dt.datetime(2026, 1, 1, 12, m)}] for m in (1, 4))
        >>> left, right = (env.from_collection(rows, watermark=mark) for rows in (views, sales))
        >>> joined = left.window_join(right, on="shop", window=Tumbling("5m"))
        >>> joined.schema.names
        ['shop', 'at', 'at_right', 'window_start', 'window_end']
        >>> joined.execute_and_collect().num_rows
        1

        Args:
            right: The other stream.
            on: Key columns, as for `join`, with `left_on` and `right_on`.
            window: `Tumbling`, `Sliding`, `Cumulative`, or `Session`: bursts of a key's rows, of both sides together.
            left_on: Key columns of this stream.
            right_on: As many of the other one.
            how: As for `join`, within each window.
            where: As for `join`, with `suffix`.
            suffix: Appended to right names that the left has too.
            late_left: Side stream of left rows whose windows have all passed: `result.side_output(tag)`.
            late_right: Side stream of late right rows.
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.
        """
        from lakeward.dsl import joins

        style = joins.JoinStyle(how, where, suffix, "m:m", uid, parallelism)
        keys = joins.JoinKeys(on, left_on, right_on)
        return joins.window_join(self._joined(), right, keys, style, window, (late_left, late_right))

    def temporal_join(
        self,
        right: DataStream,
        on: Keys | None = None,
        *,
        left_on: Keys | None = None,
        right_on: Keys | None = None,
        version: str | None = None,
        how: How = "inner",
        where: Expr | None = None,
        suffix: str = "_right",
        late_left: OutputTag | None = None,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> DataStream:
        """Each row with the version of the right row of its key that was valid at its event time ("as of").

        >>> import datetime as dt
        >>> from lakeward import StreamExecutionEnvironment, WatermarkStrategy
        >>> env, mark = StreamExecutionEnvironment(), WatermarkStrategy.monotonous("at")
        >>> rates = [{"of": "EUR", "rate": 1.0 + h / 10, "at": dt.datetime(2026, 1, 1, h)} for h in (8, 12)]
        >>> orders = [{"of": "EUR", "at": dt.datetime(2026, 1, 1, 11)}]
        >>> left, right = (env.from_collection(rows, watermark=mark) for rows in (orders, rates))
        >>> left.temporal_join(right, on="of").select("of", "rate").execute_and_collect().to_pylist()
        [{'of': 'EUR', 'rate': 1.8}]

        Rows come when the watermark of both streams has passed them, in the order of their event time, which the result
        keeps. Of each key the versions that may still be asked for are kept: the newest one passed, and later ones.

        Args:
            right: The versions: append-only, or an updating stream with one row a key, whose updates are new versions
                and whose deletions end the last one.
            on: Key columns, as for `join`, with `left_on` and `right_on`.
            left_on: Key columns of this stream.
            right_on: As many of the other one.
            version: A timestamp column: from when on a right row is valid; None: its event time.
            how: "inner", or "left": rows without a version come too.
            where: A further condition over the joined columns.
            suffix: Appended to right names that the left has too.
            late_left: Side stream of rows that the watermark had passed already: `result.side_output(tag)`.
            uid: The operator's name in checkpoints; give one, since it has state.
            parallelism: Its subtasks.
        """
        from lakeward.dsl import joins

        style = joins.JoinStyle(how, where, suffix, "m:m", uid, parallelism)
        return joins.temporal_join(
            self._joined(), right, joins.JoinKeys(on, left_on, right_on), style, version, late_left
        )

    def lookup_join(
        self,
        table: DataStream | LookupSource,
        on: Keys | None = None,
        *,
        left_on: Keys | None = None,
        right_on: Keys | None = None,
        how: How = "inner",
        where: Expr | None = None,
        suffix: str = "_right",
        validate: Validate = "m:m",
        cache: LookupCache | None = None,
        batch_keys: int = 1_000,
        retries: int = 3,
        uid: str | None = None,
        parallelism: int | None = None,
    ) -> DataStream:
        """Each row with the rows of its key in a table: a bounded stream that is read first, or another system.

        >>> from lakeward import StreamExecutionEnvironment
        >>> env = StreamExecutionEnvironment()
        >>> shops = env.from_collection([{"shop": "a", "city": "Rome"}])
        >>> sales = env.from_collection([{"shop": "a", "amount": 3}, {"shop": "b", "amount": 1}])
        >>> sales.lookup_join(shops, on="shop", how="left").execute_and_collect()["city"].to_pylist()
        ['Rome', None]

        A bounded stream is held whole by every subtask and written whole into every checkpoint: it should be small.
        This stream may be an updating one then. Another system is asked for the keys of each batch that the cache does
        not know; a row that is handled again after a failure may meet a newer answer.

        Args:
            table: A bounded, append-only stream, or a `LookupSource`.
            on: Key columns, as for `join`, with `left_on` and `right_on`.
            left_on: Key columns of this stream.
            right_on: As many of the table.
            how: "inner", "left", "semi" or "anti".
            where: As for `join`, with `suffix` and `validate` (checked for bounded streams).
            suffix: Appended to right names that the left has too.
            validate: How many rows have one key.
            cache: What is kept of a source's answers.
            batch_keys: Keys that a source is asked for at once.
            retries: How often a look-up that failed is tried again before the job fails; a mistake in the look-up's
                code (`KeyError`, `TypeError`, ...) fails it at once.
            uid: The operator's name in checkpoints.
            parallelism: Its subtasks.
        """
        from lakeward.dsl import joins

        style = joins.JoinStyle(how, where, suffix, validate, uid, parallelism)
        asking = joins.Asking(cache, batch_keys, retries)
        return joins.lookup_join(self._joined(), table, joins.JoinKeys(on, left_on, right_on), style, asking)
