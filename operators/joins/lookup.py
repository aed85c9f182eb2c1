"""The lookup join with a connector: rows of another system, asked for by key as the stream goes, with a cache.

What is joined is what the system says when it is asked: a row that is handled again after a restore may meet another
answer (as with Flink's lookup joins). The cache is not part of checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import INSERT
from lakeward.engine.api.context import Counter, OperatorContext, Output
from lakeward.engine.api.lookup import LookupReader, LookupSource
from lakeward.engine.api.operator import Operator
from lakeward.engine.api.state import Matches
from lakeward.engine.core.clock import Clock
from lakeward.engine.core.errors import LakewardError, Retry, SourceError, UserCodeError
from lakeward.engine.core.redaction import FailedRow
from lakeward.operators.arguments import call_error
from lakeward.operators.faults import is_mistake
from lakeward.operators.grouping import row_codes
from lakeward.operators.joins.factory import JoinFactory
from lakeward.operators.joins.index import StaticIndex
from lakeward.operators.joins.layout import LEFT
from lakeward.operators.joins.rows import BatchRows, Condition, Pairs, Rows, Sender, key_arrays, null_keys

_CHUNKS_MAX = 64


@dataclass(frozen=True, slots=True)
class LookupOptions:
    """How a lookup source is asked.

    Args:
        cache_keys: Keys whose answers are kept, the least recently used ones being forgotten; 0: no cache.
        cache_ttl_us: How long an answer holds, in processing time; None: until it is forgotten.
        cache_missing: Whether it is also kept that a key has no rows.
        batch_keys: Keys asked for at once.
        retries: How often a look-up that failed is tried again; an error that is a mistake in its code never is.
    """

    cache_keys: int = 100_000
    cache_ttl_us: int | None = None
    cache_missing: bool = True
    batch_keys: int = 1_000
    retries: int = 3


@dataclass(frozen=True, slots=True)
class FunctionLookup(LookupSource):
    """Looks rows up by a Python function: the quickest way to join with a service or a database.

    >>> NAMES = pa.table({"id": [1, 2], "name": ["Ann", "Bob"]})
    >>> def names(keys: pa.Table) -> pa.Table:
    ...     return NAMES.join(keys, "id", join_type="inner")
    >>> FunctionLookup(names, NAMES.schema).description
    'function names'

    Args:
        function: Gets the keys as a table, and returns the rows that have them.
        schema: Of the rows it returns.
    """

    function: Callable[[pa.Table], pa.Table]
    schema: pa.Schema  # type: ignore[assignment, unused-ignore]

    @property
    def description(self) -> str:
        """The function's name."""
        return f"function {getattr(self.function, '__name__', type(self.function).__name__)}"

    def open_reader(self) -> LookupReader:
        """A reader that calls it."""
        return _FunctionReader(self.function)


class _FunctionReader(LookupReader):
    def __init__(self, function: Callable[[pa.Table], pa.Table]) -> None:
        self._function = function

    def lookup(self, keys: pa.Table) -> pa.Table:
        return self._function(keys)


@dataclass(frozen=True, slots=True)
class LookupJoin(JoinFactory):
    """Looks every row of a stream up in another system.

    Args:
        inputs: The stream, append-only, and the source's rows.
        how: "inner", "left", "semi" or "anti".
        source: What is asked.
        options: Cache, batches and retries.
    """

    source: LookupSource = field(kw_only=True)
    options: LookupOptions = LookupOptions()

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return _LookupJoin(self)

    @property
    def description(self) -> str:
        """What is joined by what."""
        return f"{self.described('lookup join')} in {self.source.description}"

    @property
    def stateful(self) -> bool:
        """It keeps nothing that is saved."""
        return False

    def required_columns(self, sent: frozenset[str], inputs: Sequence[pa.Schema]) -> Sequence[frozenset[str]]:
        """Those that are sent, and what rows are looked up by."""
        return JoinFactory.required_columns(self, sent, inputs)[:1]

    def narrowed(self, columns: Sequence[str]) -> LookupJoin:
        """The same join, which sends fewer columns; the source is asked for whole rows."""
        return replace(self, columns=tuple(columns))


class _LookupJoin(Operator):
    def __init__(self, config: LookupJoin) -> None:
        self._config = config
        self._condition = Condition(config.layout, config.where)
        self._sender = Sender(config.sent)
        self._answers: Answers | None = None

    def open(self, context: OperatorContext) -> None:
        self._answers = Answers(self._config, context.clock, context.counter("lookups"), context.counter("cache_hits"))

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        assert self._answers is not None, "opened first"
        rows, how = BatchRows(batch), self._config.how
        table, matches = self._answers.find(batch)
        pairs = self._condition.keep(Pairs.of(LEFT, rows, BatchRows(table), matches))
        counts = np.bincount(pairs.numbers[LEFT], minlength=batch.num_rows)
        if how in ("inner", "left"):
            self._sender.pairs(pairs, INSERT, out)
        if how != "inner":
            wanted = counts > 0 if how == "semi" else counts == 0
            self._sender.alone(LEFT, rows, np.flatnonzero(wanted), INSERT, out)

    def close(self) -> None:
        if self._answers is not None:
            self._answers.close()


@dataclass(slots=True)
class _Entry:
    """A key's answer: where its rows are in the store, and until when it holds."""

    rows: Rows
    expires_us: int


class Answers:
    """The rows of keys, from the cache or from the source.

    Args:
        config: The join.
        clock: For the answers' age.
        lookups: Counts the keys that the source is asked for.
        hits: Counts the keys that the cache knows.
    """

    def __init__(self, config: LookupJoin, clock: Clock, lookups: Counter, hits: Counter) -> None:
        self._config = config
        self._options = config.options
        self._clock = clock
        self._lookups, self._hits = lookups, hits
        self._reader = config.source.open_reader()
        self._keys = config.inputs[1].keys
        self._entries: dict[tuple[object, ...], _Entry] = {}
        self._chunks: list[pa.RecordBatch] = []
        self._stored = 0

    def find(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, Matches]:
        """Rows, and which row of the batch they go with."""
        keys = key_arrays(batch, self._config.inputs[LEFT].keys)
        nulls = null_keys(batch, self._config.inputs[LEFT].keys)
        wanted = np.arange(batch.num_rows) if nulls is None else np.flatnonzero(~nulls)
        present = [array.take(pa.array(wanted)) for array in keys]
        codes = row_codes(present)
        firsts = np.unique(codes, return_index=True)[1]
        distinct = [array.take(pa.array(firsts)) for array in present]
        entries = self._entries_of(distinct)
        lengths = np.array([len(entry.rows) for entry in entries], np.int64)
        positions = np.concatenate([np.zeros(0, np.int64), *(entry.rows for entry in entries)])
        starts = np.cumsum(lengths) - lengths
        counts = lengths[codes]
        steps = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        table = self._take(positions)
        matches = Matches(np.repeat(wanted, counts), np.repeat(starts[codes], counts) + steps)
        self._shrink()
        return table, matches

    def _entries_of(self, keys: list[pa.Array]) -> list[_Entry]:
        """The answers to distinct keys, in their order; the cache's order is that of use."""
        now_us = self._clock.wall_us()
        names = list(zip(*(array.to_pylist() for array in keys), strict=True))
        found: list[_Entry | None] = []
        for name in names:
            entry = self._entries.pop(name, None)
            if entry is not None and entry.expires_us > now_us:
                self._entries[name] = entry
                found.append(entry)
            else:
                found.append(None)
        missing = np.flatnonzero([entry is None for entry in found])
        self._hits.inc(len(names) - len(missing))
        for start in range(0, len(missing), self._options.batch_keys):
            asked = missing[start : start + self._options.batch_keys]
            for number, rows in zip(asked.tolist(), self._ask(keys, asked), strict=True):
                ttl_us = self._options.cache_ttl_us
                entry = _Entry(rows, 2**63 if ttl_us is None else now_us + ttl_us)
                found[number] = entry
                if len(rows) or self._options.cache_missing:
                    self._entries[names[number]] = entry
        return [entry for entry in found if entry is not None]

    def _ask(self, keys: list[pa.Array], asked: Rows) -> list[Rows]:
        """Where the rows of each key now are in the store."""
        self._lookups.inc(len(asked))
        schema = self._config.inputs[1].schema
        fields = [schema.field(name) for name in self._keys]
        wanted = [array.take(pa.array(asked)) for array in keys]
        answer = self._checked(self._retried(pa.Table.from_arrays(wanted, schema=pa.schema(fields))))
        first, self._stored = self._stored, self._stored + answer.num_rows
        self._chunks.append(answer)
        matches = StaticIndex(key_arrays(answer, self._keys)).find(wanted)
        return np.split(matches.ids + first, np.searchsorted(matches.rows, np.arange(1, len(asked))))

    def _retried(self, keys: pa.Table) -> pa.Table:
        tries = self._options.retries + 1
        for number in range(tries):
            try:
                return self._reader.lookup(keys)
            except Exception as error:
                self._refuse_mistake(error, keys)
                if number + 1 == tries:
                    raise SourceError(
                        f"looking {keys.num_rows} keys up in {self._config.source.description} failed {tries} times; "
                        f"the last time: {type(error).__name__}: {error}",
                        hint="the job goes on from its last checkpoint when the source answers again",
                        rows=[_shown(keys)],
                    ) from error
        raise AssertionError("there is at least one try")

    def _refuse_mistake(self, error: Exception, keys: pa.Table) -> None:
        """Fail at once where asking again, or starting the job again, would end in the same error."""
        if isinstance(error, LakewardError) and error.retry is Retry.NO:
            raise error
        if is_mistake(error):
            source = self._config.source
            asked = source.function if isinstance(source, FunctionLookup) else self._reader.lookup
            hint = "if trying again could help, raise an OSError such as ConnectionError instead; else "
            raise call_error(asked, error, f"{keys.num_rows} keys", hint, row=_shown(keys)) from error

    def _checked(self, answer: pa.Table) -> pa.RecordBatch:
        schema = self._config.inputs[1].schema
        name = self._config.source.description
        columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
        if not isinstance(answer, pa.Table):
            kind = type(answer).__name__
            raise UserCodeError(
                f"{name} answered with {kind}, which is no pyarrow.Table",
                hint=f"return one of {columns}; without rows if none match",
            )
        try:
            table = answer.select(schema.names).cast(schema).combine_chunks()
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise UserCodeError(
                f"{name} answered with other columns than it says: {error}", hint=f"it must return {columns}"
            ) from error
        batches = table.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=schema)

    def _take(self, positions: Rows) -> pa.RecordBatch:
        schema = self._config.inputs[1].schema
        table = pa.Table.from_batches(self._chunks, schema=schema).take(pa.array(positions)).combine_chunks()
        batches = table.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=schema)

    def _shrink(self) -> None:
        """Forget the answers used least recently, and now and then the rows that no answer has any more."""
        for name in list(self._entries)[: max(0, len(self._entries) - self._options.cache_keys)]:
            del self._entries[name]
        if len(self._chunks) > _CHUNKS_MAX or not self._entries:
            self._compact()

    def _compact(self) -> None:
        positions = np.concatenate([np.zeros(0, np.int64), *(entry.rows for entry in self._entries.values())])
        self._chunks = [self._take(positions)]
        self._stored = len(positions)
        first = 0
        for entry in self._entries.values():
            entry.rows = np.arange(first, first + len(entry.rows))
            first += len(entry.rows)

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()


def _shown(keys: pa.Table) -> FailedRow:
    """The keys that were asked for: an exception may name any of them."""
    return FailedRow(keys.to_pylist(), label="keys")
