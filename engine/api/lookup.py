"""The lookup contract: a system that is asked for the rows of some keys (a database, a key-value store, a service)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyarrow as pa


class LookupReader(ABC):
    """One subtask's connection to a lookup source. Called by one thread at a time.

    >>> class Squares(LookupReader):
    ...     def lookup(self, keys: pa.Table) -> pa.Table:
    ...         return keys.append_column("square", pa.array([n * n for n in keys["n"].to_pylist()]))
    >>> Squares().lookup(pa.table({"n": [3]})).to_pylist()
    [{'n': 3, 'square': 9}]
    """

    @abstractmethod
    def lookup(self, keys: pa.Table) -> pa.Table:
        """The rows that have these keys.

        Args:
            keys: The key columns, under the source's own names; the keys are different, and none is null.

        Returns:
            Rows of the source's schema, in any order: none, one or several for each key.

        Raises:
            Exception: Of any kind; the look-up is tried again, then the job fails with a `SourceError`. A mistake in
                the code (`TypeError`, `KeyError`, `ValueError`, ...) fails the job at once; an `OSError` never is one.
        """

    def close(self) -> None:  # noqa: B027
        """Release the connection."""


class LookupSource(ABC):
    """Frozen description of a system to look rows up in; part of the logical graph.

    A look-up blocks the stream while it lasts: answer within milliseconds, or let the cache answer most rows. For what
    one function can do, `FunctionLookup` is shorter.

    >>> from lakeward.operators.joins.lookup import FunctionLookup
    >>> isinstance(FunctionLookup(lambda keys: keys, pa.schema({"n": pa.int64()})), LookupSource)
    True
    """

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """Schema of the rows, with their key columns."""

    @property
    @abstractmethod
    def description(self) -> str:
        """What is asked, in a few words, for `explain()` and errors."""

    @abstractmethod
    def open_reader(self) -> LookupReader:
        """Connect; called once a subtask."""
