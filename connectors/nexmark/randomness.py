"""Randomness by counter: what event n contains depends on the seed and on n, never on what was generated before it.

A sequential generator would have to be replayed from the start to resume in the middle. Here each random word is
splitmix64 (Steele, Lea and Flood, 2014) of the event's number, xored with a key made of the seed and the use it is put
to, in the manner of counter-based generators (Salmon et al., 2011): any event, in any order, in any batch.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakeward.engine.core.hashing import UInt64Array, splitmix64

Int64Array = npt.NDArray[np.int64]

_LOW32 = np.uint64(0xFFFFFFFF)
_S32 = np.uint64(32)


class Draws:
    """The random words of a batch of events.

    >>> both, second = Draws(7, np.array([5, 6])), Draws(7, np.array([6]))
    >>> bool(both.word(1)[1] == second.word(1)[0])
    True

    Args:
        seed: The stream's seed.
        events: The events' numbers.
    """

    def __init__(self, seed: int, events: Int64Array) -> None:
        self._seed = seed
        self._events = events.astype(np.uint64)

    def word(self, use: int) -> UInt64Array:
        """64 random bits an event; independent between uses."""
        return splitmix64(self._events ^ _key(self._seed, use))

    def halves(self, use: int) -> tuple[UInt64Array, UInt64Array]:
        """Two times 32 random bits an event."""
        word = self.word(use)
        return word >> _S32, word & _LOW32

    def below(self, use: int, limit: int | Int64Array) -> Int64Array:
        """A number from 0 to `limit` - 1 an event; limits stay under 2**31."""
        return below(self.word(use) >> _S32, limit)


@cache
def _key(seed: int, use: int) -> np.uint64:
    mixed = splitmix64(np.array([seed & (2**64 - 1)], dtype=np.uint64)) + np.uint64(use)
    return np.uint64(splitmix64(mixed)[0])


def below(bits32: UInt64Array, limit: int | Int64Array) -> Int64Array:
    """Scale 32 random bits to 0 .. limit - 1 by multiply and shift (Lemire, 2019): no division, no floats.

    >>> below(np.array([0, 2**31, 2**32 - 1], dtype=np.uint64), 10).tolist()
    [0, 5, 9]
    """
    factor = np.uint64(limit) if isinstance(limit, int) else limit.view(np.uint64)
    return ((bits32 * factor) >> _S32).view(np.int64)


@cache
def _price_tables() -> tuple[npt.NDArray[np.float64], ...]:
    # Powers by exact decimal steps, and their products by plain multiplication: libraries' pow and exp differ in the
    # last bit between machines, and an event replayed on another machine must be the same event.
    def powers(step: Decimal, count: int, scale: int) -> npt.NDArray[np.float64]:
        ratio, value, out = Decimal(10) ** (6 * step), Decimal(scale), []
        for _ in range(count):
            out.append(float(value))
            value *= ratio
        return np.array(out)

    with localcontext() as context:
        context.prec = 40
        return (
            powers(Decimal(1) / 2**12, 2**12, 100),
            powers(Decimal(1) / 2**24, 2**12, 1),
            powers(Decimal(1) / 2**32, 2**8, 1),
        )


def prices(bits32: UInt64Array) -> Int64Array:
    """Nexmark's price law, round(100 * 10 ** (6 * u)) for u evenly in [0, 1): 100 to 100,000,000 on a log scale.

    >>> prices(np.array([0, 2**31, 2**32 - 1], dtype=np.uint64)).tolist()
    [100, 100000, 100000000]
    """
    coarse, fine, finest = _price_tables()
    bits = bits32.view(np.int64)
    value = coarse.take(bits >> 20)
    value *= fine.take((bits >> 8) & 0xFFF)
    value *= finest.take(bits & 0xFF)
    return np.rint(value).astype(np.int64)


class Letters:
    """Random lower-case strings, put together from ready-made pieces: a copy of 32 letters costs as much as one letter.

    Args:
        seed: The stream's seed.
    """

    def __init__(self, seed: int) -> None:
        # The pool: whole pieces first, then as many tails of each length from 0 to 31.
        tails = np.repeat(np.arange(_PIECE_LETTERS), _TAILS)
        lengths = np.concatenate([np.full(_PIECES, _PIECE_LETTERS), tails])
        offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
        np.cumsum(lengths, out=offsets[1:])
        words = Draws(seed, np.arange(int(offsets[-1]) // 4 + 1)).word(0)
        shorts = words.view(np.uint16).astype(np.uint32)
        letters = (97 + ((shorts * 26) >> 16)).astype(np.uint8)
        self._pool = pa.StringArray.from_buffers(len(lengths), pa.py_buffer(offsets), pa.py_buffer(letters))

    def strings(self, bits32: UInt64Array, lengths: Int64Array) -> pa.StringArray:
        """One string of each length; which one, the random bits say.

        >>> Letters(7).strings(np.array([1, 2], dtype=np.uint64), np.array([3, 40])).to_pylist()
        ['...', '...']
        """
        ends = np.cumsum(lengths // _PIECE_LETTERS + 1)
        row = np.repeat(np.arange(len(lengths)), lengths // _PIECE_LETTERS + 1)
        bits = splitmix64(bits32[row] + (np.arange(len(row), dtype=np.uint64) - _starts(ends)[row] << _S32))
        piece = (bits % np.uint64(_PIECES)).view(np.int64)
        tail = _PIECES + lengths % _PIECE_LETTERS * _TAILS
        piece[ends - 1] = tail + piece[ends - 1] % _TAILS
        # Taken in row order the pieces already lie side by side: leaving out the offsets between them joins them.
        taken = self._pool.take(pa.array(piece))
        offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
        np.take(np.frombuffer(taken.buffers()[1], dtype=np.int32), ends, out=offsets[1:])
        return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(offsets), taken.buffers()[2])


_PIECE_LETTERS = 32
_PIECES = 1 << 14
_TAILS = 1 << 11


def _starts(ends: Int64Array) -> UInt64Array:
    starts = np.zeros(len(ends), dtype=np.uint64)
    starts[1:] = ends[:-1]
    return starts
