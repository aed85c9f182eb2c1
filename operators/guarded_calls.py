"""Calls of a user's function for the rows of a batch, of which those that fail are treated as a policy says.

A row that fails costs the others nothing: the function is called once for each of them, and not again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from lakeward.engine.core.errors import LakewardError, UserCodeError
from lakeward.engine.core.redaction import FailedRow
from lakeward.engine.core.user_frames import user_trace
from lakeward.operators.arguments import Calls, definition
from lakeward.operators.error_policy import FAILED, RowErrors
from lakeward.operators.rows import CHUNK_ROWS, RowWriter
from lakeward.operators.single_rows import SUSPECTS, is_single, single_error

Arrays = list[pa.Array]


class Chunk(NamedTuple):
    """The arguments for some rows of a batch.

    Args:
        first: The first of these rows in the batch.
        values: A list of values an argument.
        batch: The batch.
    """

    first: int
    values: list[Sequence[Any]]
    batch: pa.RecordBatch

    @property
    def rows(self) -> range:
        """The rows' places in the batch."""
        return range(self.first, self.first + len(self.values[0]))

    def of(self, row: int) -> list[Any]:
        """The arguments that the function was called with for a row of the batch; it may have changed them."""
        return [values[row - self.first] for values in self.values]


class Results(NamedTuple):
    """What a function returned for some rows.

    Args:
        values: The results, those of one row after those of another.
        rows: The rows' places in the batch.
        ends: Where each row's results end; None: each row has one.
    """

    values: list[Any]
    rows: Sequence[int]
    ends: list[int] | None = None

    def part(self, start: int, stop: int) -> Results:
        """The results of some of the rows."""
        if self.ends is None:
            return Results(self.values[start:stop], self.rows[start:stop])
        first = self.ends[start - 1] if start else 0
        ends = [end - first for end in self.ends[start:stop]]
        return Results(self.values[first : first + ends[-1]], self.rows[start:stop], ends)


class GuardedCalls:
    """Calls a function for rows, and treats those that fail.

    Args:
        calls: Makes the calls.
        errors: Carries the policy out.
    """

    def __init__(self, calls: Calls, errors: RowErrors) -> None:
        self._calls = calls
        self._errors = errors

    def chunks(self, batch: pa.RecordBatch) -> Iterator[Chunk]:
        """The arguments for the rows of a batch, some hundred rows at a time; without rows that Python cannot hold."""
        done = 0
        while done < batch.num_rows:
            try:
                for values in self._calls.chunks(batch.slice(done)):
                    yield Chunk(done, values, batch)
                    done += len(values[0])
            except Exception:
                stop = min(done + CHUNK_ROWS, batch.num_rows)
                yield from self._one_by_one(batch, range(done, stop))
                done = stop

    def _one_by_one(self, batch: pa.RecordBatch, rows: range) -> Iterator[Chunk]:
        for row in rows:
            try:
                values = self._calls.read(batch, row)
            except LakewardError as error:
                found = self._errors.settle(error, lambda: self._calls.read(batch, row))  # noqa: B023 (called at once)
                if found is FAILED:
                    continue
                values = found
            yield Chunk(row, values, batch)

    def results(self, chunk: Chunk) -> Results:
        """A result for each row, but for those that have failed."""
        calls = [iter(values) for values in chunk.values]
        found: list[Any] = []
        failed: list[int] = []
        rows = chunk.rows
        while True:
            try:
                found.extend(map(self._calls.call, *calls))  # stops behind the row that fails, with all before it kept
                if len(found) + len(failed) == len(rows):
                    break
                raise StopIteration  # by the function: to `map` this exception is the end of its input
            except Exception as error:
                row = rows[len(found) + len(failed)]
                result = self.settle(error, chunk, row, self._calls.call)
                found += [] if result is FAILED else [result]
                failed += [row] if result is FAILED else []
        return Results(found, sorted(set(rows).difference(failed)) if failed else rows)

    def gathered(self, chunk: Chunk) -> Results:
        """Any number of results for each row: all of them, or none for a row that has failed."""
        call = self._calls.call
        results: list[Any] = []
        ends: list[int] = []
        calls = zip(*chunk.values, strict=True)
        found: Any = None
        while True:
            try:
                for values in calls:
                    found = call(*values)
                    if found is not None:
                        if isinstance(found, SUSPECTS) and is_single(found):
                            raise single_error(self._calls.name, found)
                        results.extend(found)
                    ends.append(len(results))
                return Results(results, chunk.rows, ends)
            except Exception as error:
                del results[ends[-1] if ends else 0 :]
                if isinstance(error, TypeError) and found is not None and is_single(found):
                    error = single_error(self._calls.name, found)  # what it returned cannot be iterated over
                found = None
                again = self.settle(error, chunk, chunk.first + len(ends), self._call_for_list)
                results.extend([] if again is FAILED else again)
                ends.append(len(results))

    def call_for_answer(self, *values: Any) -> bool:
        """One call of a function that says yes or no."""
        return bool(self._calls.call(*values))

    def _call_for_list(self, *values: Any) -> list[Any]:
        found = self._calls.call(*values)
        if found is None:
            return []
        if is_single(found):
            raise single_error(self._calls.name, found)
        return list(found)

    def settle(self, error: Exception, chunk: Chunk, row: int, call: Callable[..., Any]) -> Any:
        """What becomes of a row for which `call` raised: a result after all, or `FAILED`."""
        return self._errors.settle(self._failure(error, chunk, row), lambda: self._once(call, chunk, row))

    def written(self, writer: RowWriter, results: Results, chunk: Chunk) -> Iterator[Arrays]:
        """The columns of results, without those that do not fit."""
        try:
            yield writer.arrays(results.values)
        except UserCodeError as error:
            # Halved, until the row is found.
            count = len(results.rows)
            if count > 1:
                for part in (results.part(0, count // 2), results.part(count // 2, count)):
                    yield from self.written(writer, part, chunk)
                return
            row = results.rows[0]
            arrays = self._errors.settle(
                self._misfit(error, chunk, row), lambda: self._written_anew(writer, results, chunk)
            )
            if arrays is not FAILED:
                yield arrays

    def _written_anew(self, writer: RowWriter, results: Results, chunk: Chunk) -> Arrays:
        """The columns of what the function now returns for the only row of some results."""
        row = results.rows[0]
        call = self._calls.call if results.ends is None else self._call_for_list
        found = self._once(call, chunk, row)
        try:
            return writer.arrays([found] if results.ends is None else found)
        except UserCodeError as error:
            raise self._misfit(error, chunk, row) from error.__cause__

    def _once(self, call: Callable[..., Any], chunk: Chunk, row: int) -> Any:
        """Call again, with new objects: the call that failed may have changed those that it got."""
        values = self._read(chunk, row)
        try:
            return call(*values)
        except Exception as error:
            failure = self._failure(error, chunk, row)
            raise failure from failure.__cause__

    def _read(self, chunk: Chunk, row: int) -> list[Any]:
        return [values[0] for values in self._calls.read(chunk.batch, row)]

    def _as_it_came(self, chunk: Chunk, row: int) -> list[Any]:
        """What the function got for a row, for errors."""
        try:
            return self._read(chunk, row)
        except LakewardError:  # a class of the user's that makes the same row at one time and not at another
            return chunk.of(row)

    def _failure(self, error: Exception, chunk: Chunk, row: int) -> LakewardError:
        values = self._as_it_came(chunk, row)
        if isinstance(error, LakewardError):
            error.trace = error.trace or user_trace(error) or definition(self._calls.call)
            return error.about(FailedRow(self._calls.row(values), row))
        failure = self._calls.failure(error, values, row)
        failure.__cause__ = error
        return failure

    def _misfit(self, error: UserCodeError, chunk: Chunk, row: int) -> LakewardError:
        """The error of a result that does not fit, with the row that it was made of."""
        error.trace = error.trace or definition(self._calls.call)
        return error.about(FailedRow(self._calls.row(self._as_it_came(chunk, row)), row))
