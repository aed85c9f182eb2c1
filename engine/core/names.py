"""Guess what a misspelt name was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], shown_max: int = 12) -> str:
    """A hint with the nearest known name, and the names there are.

    >>> did_you_mean("pric", ["auction", "price"])
    "did you mean 'price'? there are: auction, price"
    >>> did_you_mean("x", [])
    'there are none'

    Args:
        name: What was asked for.
        known: What there is.
        shown_max: How many names to list.
    """
    names = list(known)
    if not names:
        return "there are none"
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    listed = ", ".join(names[:shown_max]) + (", …" if len(names) > shown_max else "")
    guess = f"did you mean '{near[0]}'? " if near else ""
    return f"{guess}there are: {listed}"
