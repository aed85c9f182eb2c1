"""Ranking verbs: deduplication, top-N, and the orders they rank by; also `unnest`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import pyarrow as pa

from lakeward.dsl.expressions import Expr
from lakeward.dsl.stream import DataStream, EventTime
from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.core.errors import GraphError, LakewardError
from lakeward.engine.core.expect import expect, expect_choice, expect_whole
from lakeward.engine.graph.logical import Exchange
from lakeward.operators.deduplicate import Deduplicate
from lakeward.operators.ranking.order import SortColumn
from lakeward.operators.ranking.places import METHODS
from lakeward.operators.ranking.top_n import TopNConfig
from lakeward.operators.ranking.window_top_n import WindowTopNConfig
from lakeward.operators.top_n import TopN, WindowTopN
from lakeward.operators.unnest import Unnest
from lakeward.operators.windows.timed import WINDOW_END, WINDOW_START

if TYPE_CHECKING:
    from lakeward.dsl.keyed import KeyedStream

Method: TypeAlias = Literal["row_number", "rank", "dense_rank"]
"""How equal rows are numbered: 1 2 3 4, 1 2 2 4, or 1 2 2 3."""

_COMPUTED = "__by_"
_BY_HINT = 'give a column, an expression, lw.desc("price"), or a list of them'


@dataclass(frozen=True, slots=True)
class SortKey:
    """A column or expression to rank by, with its direction. Made by `asc` and `desc`.

    Args:
        input: A column's name or an expression.
        descending: Whether the greatest comes first.

    Raises:
        ConfigError: The input is neither.
    """

    input: str | Expr
    descending: bool = False

    def __post_init__(self) -> None:
        expect(self.input, (str, Expr), "what to order by", 'give a column\'s name or an expression: lw.desc("price")')


By: TypeAlias = str | Expr | SortKey
"""One part of an order; a name or an expression alone is ascending."""


def desc(x: str | Expr) -> SortKey:
    """The greatest first; nulls last, NaN before all numbers.

    >>> desc("price").descending
    True

    Args:
        x: A column's name or an expression.
    """
    return SortKey(x, descending=True)


def asc(x: str | Expr) -> SortKey:
    """The least first; nulls last, NaN after all numbers.

    >>> asc("price").descending
    False

    Args:
        x: A column's name or an expression.
    """
    return SortKey(x)


@dataclass(frozen=True, slots=True)
class _Ordered:
    """A stream with all columns that an order needs, and those that were added for it."""

    stream: DataStream
    order: tuple[SortColumn, ...]
    added: tuple[str, ...]

    def without_added(self, result: DataStream) -> DataStream:
        """The result of the operator for the user: without what was added for it."""
        return result.drop(*self.added) if self.added else result


def _ordered(stream: DataStream, by: By | Sequence[By]) -> _Ordered:
    """Compute the parts of an order that are no columns yet."""
    parts = [by] if isinstance(by, str | Expr | SortKey) else by
    expect(parts, (list, tuple), "what to order by", _BY_HINT)
    if not parts:
        raise stream._error(GraphError("there is nothing to order by", hint=_BY_HINT))
    order: list[SortColumn] = []
    computed: dict[str, Expr] = {}
    for part in parts:
        expect(part, (str, Expr, SortKey), "what to order by", _BY_HINT)
        key = part if isinstance(part, SortKey) else SortKey(part)
        if isinstance(key.input, str):
            stream._check_column(key.input)
            column: str | None = key.input
        else:
            column = stream._bind(key.input).reference
        if column is None:
            column = f"{_COMPUTED}{len(computed)}"
            assert isinstance(key.input, Expr), "columns are references"
            computed[column] = key.input
        order.append(SortColumn(column, key.descending))
    added = [expression.alias(name) for name, expression in computed.items()]
    return _Ordered(stream.with_columns(*added) if added else stream, tuple(order), tuple(computed))


Step: TypeAlias = tuple[str | None, int | None]
"""An operator's uid and parallelism, as the user gave them."""


def deduplicate(
    keyed: KeyedStream, keep: str, order_by: str | Expr | None, update_before: bool, step: Step
) -> DataStream:
    """`KeyedStream.deduplicate`."""
    expect_choice(keep, ("first", "last"), "deduplicate: keep")
    stream = keyed._stream
    hint = 'rank it: .key_by(...).top_n(1, by=lw.desc("column")) takes updates'
    stream._refuse_updates("deduplicate", hint)
    if order_by is None:
        return _deduplicated(stream, keyed.keys, (keep, None, update_before), step)
    expect(order_by, (str, Expr), "deduplicate: order_by", 'give a column\'s name, for example "ordered_at"')
    ordered = _ordered(stream, order_by)
    how = (keep, ordered.order[0].column, update_before)
    return ordered.without_added(_deduplicated(ordered.stream, keyed.keys, how, step))


def _deduplicated(
    stream: DataStream, keys: tuple[str, ...], how: tuple[str, str | None, bool], step: Step
) -> DataStream:
    try:
        factory = Deduplicate(stream.schema, keys, *how)
    except LakewardError as error:
        raise stream._error(error) from None
    made = keyed_step(stream, keys, "deduplicate", (factory, factory.output_schema), step)
    if factory.is_updating:
        made.upsert_key = keys
    else:
        made.event_time = stream.event_time
    return made


@dataclass(frozen=True, slots=True)
class Ranking:
    """What `top_n` and `window_top_n` have in common.

    Args:
        n: The highest rank that is sent.
        by: The order.
        rank_column: A column for the rank; None: none.
        method: How equal rows are numbered.
    """

    n: int
    by: By | Sequence[By]
    rank_column: str | None
    method: str

    def check(self, what: str) -> None:
        """Refuse arguments of wrong kinds."""
        expect_whole(self.n, f"{what}: n", least=1)
        expect_choice(self.method, METHODS, f"{what}: method")
        if self.rank_column is not None:
            expect(self.rank_column, str, f"{what}: rank_column", 'give a name for the column of ranks: "rank_number"')


def top_n(keyed: KeyedStream, ranking: Ranking, update_before: bool, step: Step) -> DataStream:
    """`KeyedStream.top_n`."""
    ranking.check("top_n")
    ordered = _ordered(keyed._stream, ranking.by)
    stream = ordered.stream
    config = TopNConfig(
        schema=stream.schema,
        keys=keyed.keys,
        n=ranking.n,
        order=ordered.order,
        method=ranking.method,
        rank_column=ranking.rank_column,
        # A row may move from one ranking to another, that is to another subtask: with the keys, each has its own there.
        upsert_key=None if stream.upsert_key is None else tuple(dict.fromkeys([*keyed.keys, *stream.upsert_key])),
        update_before=update_before,
    )
    try:
        factory = TopN(config)
    except LakewardError as error:
        raise stream._error(error) from None
    if not update_before and factory.upsert_key is None:
        raise stream._error(
            GraphError(
                "top_n without -U rows needs an upsert key, and this ranking has none",
                hint='leave update_before=False out, or number the rows: rank_column="rank_number"',
            )
        )
    made = keyed_step(stream, keyed.keys, "top_n", (factory, factory.output_schema), step)
    made.upsert_key = factory.upsert_key
    return ordered.without_added(made)


def window_top_n(stream: DataStream, ranking: Ranking, partition_by: str | Sequence[str], step: Step) -> DataStream:
    """`DataStream.window_top_n`."""
    ranking.check("window_top_n")
    if stream.event_time != EventTime(WINDOW_END, -1):
        raise stream._error(
            GraphError(
                "window_top_n ranks the results of windows, and this stream has none",
                hint="call it after .window(...).aggregate(...), with window_end kept, or use .key_by(...).top_n(...)",
            )
        )
    names = [partition_by] if isinstance(partition_by, str) else list(partition_by)
    for name in names:
        stream._check_column(name)
    window = [name for name in (WINDOW_START, WINDOW_END) if name in stream.schema.names]
    keys = tuple(dict.fromkeys([*window, *names]))
    ordered = _ordered(stream, ranking.by)
    config = WindowTopNConfig(
        ordered.stream.schema, keys, ranking.n, ordered.order, ranking.method, ranking.rank_column
    )
    try:
        factory = WindowTopN(config)
    except LakewardError as error:
        raise stream._error(error) from None
    made = keyed_step(ordered.stream, keys, "window_top_n", (factory, factory.output_schema), step)
    made.event_time = stream.event_time
    return ordered.without_added(made)


def unnest(
    stream: DataStream, column: str, as_: str | Sequence[str] | None, how: tuple[bool, str | None], step: Step
) -> DataStream:
    """`DataStream.unnest`."""
    stream._check_column(column)
    names = (column,) if as_ is None else (as_,) if isinstance(as_, str) else tuple(as_)
    for name in names:
        expect(name, str, "unnest: as_", 'give a name, or for maps and structs a list of names: ["key", "value"]')
    kind = stream.schema.field(column).type
    if as_ is None and pa.types.is_map(kind):
        names = ("key", "value")
    try:
        factory = Unnest(stream.schema, column, names, *how)
    except LakewardError as error:
        raise stream._error(error) from None
    made = stream._then("unnest", factory, factory.output_schema, *step)
    made.upsert_key = None
    return made


def keyed_step(
    stream: DataStream, keys: tuple[str, ...], kind: str, work: tuple[OperatorFactory, pa.Schema], step: Step
) -> DataStream:
    """An operator behind a hash exchange; its rows have no event time unless the caller says so."""
    factory, schema = work
    node = stream._context.builder.add(kind, factory, [stream._edge(Exchange.HASH, keys)], schema, *step)
    return DataStream(stream._context, node, None)
