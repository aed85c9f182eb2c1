"""What is lost and what is doubled between the rows that came and those that should have come."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeAlias

import pyarrow as pa

from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.expect import expect, user_location
from lakeward.engine.core.names import did_you_mean

Rows: TypeAlias = Sequence[Mapping[str, Any]] | pa.Table | pa.RecordBatch
"""Rows as dicts by column name, or an Arrow table or batch."""

Answer: TypeAlias = Rows | Mapping[str, Rows]
"""The rows of the only sink, or those of every sink by its uid."""

EXAMPLES_MAX = 3
FLOAT_DIGITS = 9
"""Digits in which floating-point numbers are compared: sums differ in the last ones with the order of their rows."""

_ONLY = ""


_HINT = 'give a list of rows, [{"n": 1}, ...], or an Arrow table; of several sinks by their uids, {"out": [...]}'


def check_answer(answer: object, what: str) -> None:
    """Refuse what holds no rows.

    >>> check_answer([{"n": 1}], "expected")

    Raises:
        ConfigError: It is neither rows nor rows by the uids of sinks.
    """
    if not isinstance(answer, Mapping):
        check_rows(answer, what)
        return
    for uid, rows in answer.items():
        expect(uid, str, f"{what}: the uid of a sink", _HINT)
        check_rows(rows, f"{what}: the rows of sink '{uid}'")


def check_rows(rows: object, what: str) -> None:
    """Refuse what holds no rows.

    Raises:
        ConfigError: It is neither a list of dicts nor an Arrow table or batch.
    """
    expect(rows, (list, tuple, pa.Table, pa.RecordBatch), what, _HINT)
    for number, row in enumerate(rows if isinstance(rows, list | tuple) else ()):
        expect(row, Mapping, f"{what}: row {number}", _HINT)


def check_sinks(expected: Answer, found: Answer) -> None:
    """Refuse an expected answer that is not about the sinks that there are.

    Raises:
        ConfigError: It names another sink, or none where there are several.
    """
    wanted, there = by_sink(expected).keys(), by_sink(found).keys()
    names = ", ".join(sorted(there)) if _ONLY not in there else "one without a name, of which read gives the rows"
    if _ONLY in wanted and len(there) > 1:
        raise ConfigError(
            f"expected does not say of which sink; there are: {names}",
            hint="give the rows of each by its uid: expected={"
            + ", ".join(f'"{uid}": [...]' for uid in sorted(there))
            + "}",
            location=user_location(),
        )
    other = next((uid for uid in wanted if uid not in there and uid != _ONLY), None)
    if other is not None:
        raise ConfigError(
            f"expected names the sink '{other}'; there are: {names}",
            hint=did_you_mean(other, sorted(there)) or "give the uid of one",
            location=user_location(),
        )


def by_sink(answer: Answer) -> dict[str, Rows]:
    """An answer by the uid of its sink; that of the only sink under an empty name."""
    return {str(uid): rows for uid, rows in answer.items()} if isinstance(answer, Mapping) else {_ONLY: answer}


def differences(found: Answer, expected: Answer) -> str:
    """What is lost, what came twice and what should not have come at all, in words; empty when there is nothing.

    Rows are compared as multisets, whatever their order; floating-point numbers in nine digits, times by the moment,
    whatever their time zone, decimals by their value.

    >>> differences([{"n": 1}, {"n": 2}, {"n": 2}], [{"n": 1}, {"n": 2}, {"n": 3}])
    '1 row lost: {n: 3}; 1 row doubled: {n: 2}'

    Args:
        found: What came.
        expected: What should have.
    """
    came, wanted = by_sink(found), by_sink(expected)
    if len(came) == 1 and _ONLY in wanted:
        came = {_ONLY: next(iter(came.values()))}
    problems = []
    for uid in sorted(came.keys() | wanted.keys()):
        problem = _difference(came.get(uid, ()), wanted.get(uid, ()))
        problems += [f"sink '{uid}': {problem}" if uid else problem] if problem else []
    return "; ".join(problems)


def _difference(found: Rows, expected: Rows) -> str:
    came, wanted = _multiset(found), _multiset(expected)
    lost, extra = wanted - came, came - wanted
    doubled = Counter({row: n for row, n in extra.items() if row in wanted})
    wrong = extra - doubled
    parts = ((lost, "lost"), (doubled, "doubled"), (wrong, "that should not be there"))
    return "; ".join(f"{_count(rows)} {what}: {_examples(rows)}" for rows, what in parts if rows)


def _multiset(rows: Rows) -> Counter[str]:
    listed: Sequence[Mapping[str, Any]] = rows.to_pylist() if isinstance(rows, pa.Table | pa.RecordBatch) else rows
    return Counter(_text(row) for row in listed)


def _count(rows: Counter[str]) -> str:
    return f"{rows.total()} row" if rows.total() == 1 else f"{rows.total()} rows"


def _examples(rows: Counter[str]) -> str:
    some = sorted(rows.elements())
    return ", ".join(some[:EXAMPLES_MAX]) + (", ..." if len(some) > EXAMPLES_MAX else "")


def _text(value: Any) -> str:
    """A text that is the same for equal values, whatever the order of columns."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_text(one)}" for name, one in sorted(value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, float):
        return "nan" if math.isnan(value) else f"{value + 0.0:.{FLOAT_DIGITS}g}"
    if isinstance(value, datetime) and value.tzinfo is not None:
        return str(value.astimezone(UTC))
    if isinstance(value, Decimal):
        digits = f"{value:f}"
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
    return repr(value)
