"""Ready-made strings that rows are put together from; made once a seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from lakeward.connectors.nexmark.law import CHANNELS, FIRST_NAMES, HOT_CHANNELS, LAST_NAMES, Use
from lakeward.connectors.nexmark.randomness import Draws, Letters


@dataclass(frozen=True)
class Pools:
    """Strings that rows are put together from; made once a seed."""

    letters: Letters
    names: pa.StringArray
    four_digits: pa.StringArray
    channels: pa.StringArray
    urls: pa.StringArray


@lru_cache(maxsize=8)
def pools_of(seed: int) -> Pools:
    """The strings of a seed."""
    letters = Letters(seed)
    return Pools(
        letters,
        names=pa.array([f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]),
        four_digits=pa.array([f"{i:04d}" for i in range(10_000)]),
        channels=pa.array([f"channel-{i}" for i in range(CHANNELS)] + list(HOT_CHANNELS)),
        urls=pa.array(_urls(seed, letters)),
    )


def _urls(seed: int, letters: Letters) -> list[str]:
    """A URL for every channel; nine in ten of the cold ones name it, bits reversed."""
    count = CHANNELS + len(HOT_CHANNELS)
    draws = Draws(seed, np.arange(count * 3))
    paths = text_up_to(draws, letters, Use.URL_LENGTH, Use.URL_TEXT, 5).to_pylist()
    named = (Draws(seed, np.arange(count)).below(Use.URL_CHANNEL, 10) > 0).tolist()
    return [
        f"https://www.nexmark.com/{'/'.join(paths[3 * i : 3 * i + 3])}/item.htm?query=1"
        + (f"&channel_id={int(f'{i:032b}'[::-1], 2) & 0x7FFFFFFF}" if named[i] and i < CHANNELS else "")
        for i in range(count)
    ]


def text_up_to(draws: Draws, letters: Letters, length: Use, text: Use, longest: int) -> pa.StringArray:
    """Random strings of 3 to `longest` - 1 letters."""
    return letters.strings(draws.word(text) >> np.uint64(32), 3 + draws.below(length, longest - 3))
