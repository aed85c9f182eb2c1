"""Top-N: the first rows of each key in an order, kept up to date or once a window is over."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from lakeward.engine.api.changelog import append_only, is_updating, updating
from lakeward.engine.api.operator import Operator, OperatorFactory
from lakeward.engine.core.errors import SchemaError
from lakeward.operators.ranking.best_row import BestRowConfig, BestRowOperator
from lakeward.operators.ranking.changes import narrowed_schema, with_rank
from lakeward.operators.ranking.order import check_order
from lakeward.operators.ranking.places import ROW_NUMBER
from lakeward.operators.ranking.top_n import TopNConfig, TopNOperator
from lakeward.operators.ranking.window_top_n import WindowTopNConfig, WindowTopNOperator
from lakeward.operators.windows.timed import WINDOW_END, check_time_column, key_types


@dataclass(frozen=True, slots=True)
class TopN(OperatorFactory):
    """The first N rows of each key, kept up to date: an updating stream. Null is a key like any other.

    With rank numbers of the method row_number each place is updated: -U and +U of (key, rank), +I of a new place, -D of
    one that is lost. Otherwise rows come (+I) and go (-D), and change their rank (-U, +U). At most one pair a place or
    row is sent for a batch, and nothing where nothing changed.

    Rows that fall out of the ranking are forgotten, unless the input takes rows back: then any row may enter again, and
    all are kept.

    Args:
        config: What is ranked, and how far.

    Raises:
        SchemaError: A column is missing, has no order, or has the name of the rank column.

    Guarantee: what has been sent, applied in order, is the answer over all rows received, at any parallelism and over
    any number of restores. Among rows that the order does not tell apart the one that came first is first.
    """

    config: TopNConfig

    def __post_init__(self) -> None:
        config = self.config
        key_types(config.schema, config.keys)
        check_order(config.schema, config.order)
        check_rank_column(config.schema, config.rank_column)

    @property
    def output_schema(self) -> pa.Schema:
        """The input's columns, the rank, and row kinds; or some of them."""
        schema = updating(with_rank(append_only(self.config.schema), self.config.rank_column))
        return schema if self.config.columns is None else narrowed_schema(schema, self.config.columns)

    @property
    def upsert_key(self) -> tuple[str, ...] | None:
        """The columns that tell the rows of the result apart."""
        config = self.config
        if config.by_place:
            return config.keys if config.n == 1 or config.rank_column is None else (*config.keys, config.rank_column)
        return config.upsert_key

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        config = self.config
        if config.n > 1 or config.method != ROW_NUMBER or is_updating(config.schema):
            return TopNOperator(config)
        how = (config.rank_column, config.update_before, config.columns)
        return BestRowOperator(BestRowConfig(config.schema, config.keys, config.order, False, *how))

    def required_columns(self, sent: frozenset[str], inputs: Sequence[pa.Schema]) -> Sequence[frozenset[str]]:
        """Those that are sent, keys, and what rows are ranked by."""
        return [frozenset(self._needed(sent).names)]

    def narrowed(self, columns: Sequence[str]) -> TopN:
        """The same ranking, which keeps and sends fewer columns."""
        return TopN(replace(self.config, schema=self._needed(columns), columns=tuple(columns)))

    def _needed(self, sent: Collection[str]) -> pa.Schema:
        config = self.config
        if is_updating(config.schema) and config.upsert_key is None:
            return config.schema  # rows are told apart by all that they have
        order = [one.column for one in config.order]
        return narrowed_schema(config.schema, sent, config.keys, order, config.upsert_key)

    @property
    def description(self) -> str:
        """For `explain()`: "top 10 by auction in order of price desc, keeping all rows"."""
        config = self.config
        order = ", ".join(one.description for one in config.order)
        all_rows = ", keeping all rows" if is_updating(config.schema) else ""
        method = "" if config.method == ROW_NUMBER else f" by {config.method}"
        return f"top {config.n}{method} of {', '.join(config.keys)} in order of {order}{all_rows}"

    @property
    def stateful(self) -> bool:
        """It keeps rows."""
        return True


@dataclass(frozen=True, slots=True)
class WindowTopN(OperatorFactory):
    """The first N rows of each window (and key), once the window is over: an append-only stream.

    Args:
        config: What is ranked, and how far.

    Raises:
        SchemaError: The input takes rows back, a column is missing, has no order, or has the name of the rank column.

    Guarantee: each window's answer is sent once, when the watermark passes its end; rows that come later are counted
    (`late_rows`) and dropped. Among rows that the order does not tell apart the one that came first is first.
    """

    config: WindowTopNConfig

    def __post_init__(self) -> None:
        config = self.config
        if is_updating(config.schema):
            raise SchemaError(
                "window_top_n cannot take a stream that takes rows back",
                hint='rank it as it changes: .key_by("window_end").top_n(...) takes updates',
            )
        check_time_column(config.schema, WINDOW_END)
        key_types(config.schema, config.keys)
        check_order(config.schema, config.order)
        check_rank_column(config.schema, config.rank_column)

    @property
    def output_schema(self) -> pa.Schema:
        """The input's columns, and the rank."""
        return with_rank(self.config.schema, self.config.rank_column)

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return WindowTopNOperator(self.config)

    @property
    def description(self) -> str:
        """For `explain()`: "top 1 by rank of window_end in order of num desc, when the window is over"."""
        config = self.config
        order = ", ".join(one.description for one in config.order)
        method = "" if config.method == ROW_NUMBER else f" by {config.method}"
        return f"top {config.n}{method} of {', '.join(config.keys)} in order of {order}, when the window is over"

    @property
    def stateful(self) -> bool:
        """It keeps rows."""
        return True


def check_rank_column(schema: pa.Schema, rank_column: str | None) -> None:
    """Refuse a rank column with a name that is taken.

    Raises:
        SchemaError: Names it.
    """
    if rank_column is not None and rank_column in schema.names:
        raise SchemaError(f"there is a column '{rank_column}' already", hint="give the rank column another name")
