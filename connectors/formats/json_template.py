"""What the messages of a topic have in common: the same keys in the same order, written with the same blanks.

Most producers write each record with the same code, so that all between two values - closing quote, comma, next key,
colon, opening quote - is the same text in every message. Such a text is a literal of the template here. The idea of
speculating on the structure of JSON is Mison's (Li et al., VLDB 2017).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
import pyarrow as pa

_FIELD = re.compile(rb'( *,? *)"([^"\\:][^"\\]*|)": *(?:"[^"\\]*"|-?[0-9][0-9.eE+-]*)')
_OPENING = re.compile(rb" *{")
_CLOSING = re.compile(rb" *} *")
_VALUE = re.compile(rb'": *("?)')
_TEXT, _NUMBER = rb'[^"\\]*', rb"-?[0-9][0-9.eE+-]*"
_MAX_BYTES = 16_384  # of a message: larger ones gain little and make chunks too large for the cache
_MAX_FIELDS = 200


@dataclass(frozen=True)
class Template:
    """An object's keys, and the text before each value and after the last one.

    Args:
        keys: The keys in order, none twice.
        quoted: For each key whether its value is text; otherwise it is a number.
        literals: The text before each value, from the value before on, with the quotes around values.
        tail: The text after the last value.
    """

    keys: tuple[str, ...]
    quoted: tuple[bool, ...]
    literals: tuple[bytes, ...]
    tail: bytes

    @cached_property
    def quotes(self) -> int:
        """How many quotes a message has."""
        return sum(one.count(b'"') for one in (*self.literals, self.tail))

    @cached_property
    def anchors(self) -> tuple[int, ...]:
        """For each literal where in it the key ends: the place of the only quote that a colon follows."""
        return tuple(one.index(b'":') for one in self.literals)

    def fits(self, message: bytes | None) -> bool:
        """Whether a message looks as the template says; numbers may still be none."""
        return message is not None and self._pattern.fullmatch(message) is not None

    @cached_property
    def _pattern(self) -> re.Pattern[bytes]:
        parts = [
            re.escape(literal) + (_TEXT if quoted else _NUMBER)
            for literal, quoted in zip(self.literals, self.quoted, strict=True)
        ]
        return re.compile(b"".join(parts) + re.escape(self.tail))

    def inner(self, rows: int) -> pa.Array:
        """The segments of that many messages from the first value to the last one, null where any text may be.

        What lies between two messages' values, one tail and the first literal of the next, is one segment.
        """
        between = (*self.literals[1:], self.tail + self.literals[0])
        return _repeated([part for one in between for part in (None, one)], rows)

    def whole(self, rows: int) -> pa.Array:
        """The segments of that many messages that need not be neighbours, null where any text may be.

        These are each literal and value, the tail, and what lies before the next message.
        """
        return _repeated([*(part for one in self.literals for part in (one, None)), self.tail, None], rows)


def _repeated(parts: list[bytes | None], rows: int) -> pa.Array:
    offsets = np.zeros(rows * len(parts) + 1, np.int32)
    np.cumsum(np.tile(np.array([len(one or b"") for one in parts], np.int32), rows), out=offsets[1:])
    valid = np.packbits(np.tile([one is not None for one in parts], rows), bitorder="little")
    buffers = [valid, offsets, b"".join(one or b"" for one in parts) * rows]
    return pa.Array.from_buffers(pa.string(), rows * len(parts), [pa.py_buffer(one) for one in buffers])


def learn(message: bytes | None) -> Template | None:
    """The template of a message; None when it has none: nested, escaped, null or repeated things, line breaks.

    >>> learn(b'{"id": 7, "name": "x"}').literals
    (b'{"id": ', b', "name": "')
    >>> learn(b'{"id": null}') is None
    True
    """
    if message is None or len(message) > _MAX_BYTES or (opening := _OPENING.match(message)) is None:
        return None
    fields: list[re.Match[bytes]] = []
    end = opening.end()
    while (field := _FIELD.match(message, end)) is not None and len(fields) <= _MAX_FIELDS:
        fields.append(field)
        end = field.end()
    if _CLOSING.fullmatch(message, end) is None or not 0 < len(fields) <= _MAX_FIELDS:
        return None
    try:
        keys = tuple(field[2].decode() for field in fields)
        whole = msgspec.json.decode(message)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return _cut(message, fields, keys) if tuple(whole) == keys else None


def _cut(message: bytes, fields: list[re.Match[bytes]], keys: tuple[str, ...]) -> Template:
    literals, quoted = [], []
    end = 0
    for field in fields:
        value = _VALUE.match(message, field.end(2))
        assert value is not None  # `_FIELD` has the same text there
        literals.append(message[end : value.end()])
        quoted.append(bool(value[1]))
        end = field.end() - quoted[-1]
    return Template(keys, tuple(quoted), tuple(literals), message[end:])
