"""The Nexmark queries in the DSL: an auction house's persons, auctions and bids, asked 24 questions.

One file a query, `q0.py` to `q23.py`, and the four of Nexmark's set for pattern detection, `cep_q0.py` to `cep_q3.py`.
Each has a function of the same name: its parameters are the streams it reads (`persons`, `auctions`, `bids`, all with
event time in `dateTime`; q13 has a `side_input` too), and it returns the answer's stream. `benchmarks/nexmark.py` runs
them over files, docs/nexmark.md says more.

>>> query("q2").__name__
'q2'
>>> inputs(query("q3"))
('persons', 'auctions')
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module

import lakeward as lw

Query = Callable[..., lw.DataStream]

NAMES = tuple(f"q{number}" for number in range(24))
"""The queries, in order."""

CEP_NAMES = tuple(f"cep_q{number}" for number in range(4))
"""Those that look for patterns."""


def query(name: str) -> Query:
    """The function of a query.

    Args:
        name: "q0" to "q23", "cep_q0" to "cep_q3".

    Raises:
        ValueError: There is no such query.
    """
    if name not in (*NAMES, *CEP_NAMES):
        raise ValueError(f"there is no query {name!r}: give q0 to q{len(NAMES) - 1} or cep_q0 to cep_q3")
    found: Query = getattr(import_module(f"{__name__}.{name}"), name)
    return found


def inputs(query: Query) -> tuple[str, ...]:
    """The streams that a query reads, by the names of its parameters."""
    return tuple(inspect.signature(query).parameters)
