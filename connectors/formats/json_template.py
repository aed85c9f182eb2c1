"""What JSON texts have in common: the same keys in the same order, written with the same blanks.

Most producers write each record with the same code, so that all between two values - closing quote, comma, next key,
colon, opening quote - is the same text in every record. Such a text is a literal of the template here. The idea of
speculating on the structure of JSON is Mison's (Li et al., VLDB 2017).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import msgspec

Path: TypeAlias = tuple[str, ...]
"""The keys that lead to a value, from the outermost object on."""

_TOKEN = re.compile(rb'"([^"\\]*)"|(-?[0-9][0-9.eE+-]*)|(true|false|null)|([{}\[\]:,])| +')
_CONSTANTS = {b"true": True, b"false": False, b"null": None}
_MAX_BYTES = 16_384  # of a text: larger ones gain little and make chunks too large for the cache
_MAX_LEAVES = 200
_MAX_LITERAL = 192  # bytes, less than the padding of `Lines`


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value that differs from text to text.

    Args:
        path: Where it is.
        quoted: Whether it is text; otherwise it is a number.
    """

    path: Path
    quoted: bool


@dataclass(frozen=True)
class Template:
    """An object's keys and shape, and the text between its values.

    Args:
        leaves: The values that differ, in the order of the text.
        literals: The text before each value and after the last one, with the quotes around values.
        constants: Values that are part of a literal: null, true and false.
        objects: Where objects are; () is the whole.
    """

    leaves: tuple[Leaf, ...]
    literals: tuple[bytes, ...]
    constants: Mapping[Path, bool | None]
    objects: frozenset[Path]

    @cached_property
    def quotes(self) -> int:
        """How many quotes a text has."""
        return sum(one.count(b'"') for one in self.literals)

    @cached_property
    def closings(self) -> tuple[int, ...]:
        """For each literal where in it its first quote is: after a text at once, after a number behind the comma.

        The last literal may have none: that is where the text ends.
        """
        return tuple(one.find(b'"') for one in self.literals)

    def values_of(self, text: bytes) -> list[bytes]:
        """The values in the text that the template was learnt from."""
        values, end = [], 0
        for i, literal in enumerate(self.literals[:-1]):
            start = end + len(literal)
            closing = self.literals[i + 1]
            end = text.index(closing, start) if i + 2 < len(self.literals) else len(text) - len(closing)
            values.append(text[start:end])
        return values

    @cached_property
    def places(self) -> dict[Path, int]:
        """The leaves by their path."""
        return {leaf.path: i for i, leaf in enumerate(self.leaves)}


@dataclass
class _Draft:
    leaves: list[Leaf] = field(default_factory=list)
    literals: list[bytes] = field(default_factory=list)
    constants: dict[Path, bool | None] = field(default_factory=dict)
    objects: set[Path] = field(default_factory=set)
    literal_start: int = 0

    def add_leaf(self, text: bytes, path: Path, quoted: bool, start: int, end: int) -> None:
        self.leaves.append(Leaf(path, quoted))
        self.literals.append(text[self.literal_start : start])
        self.literal_start = end


def learn(text: bytes | None) -> Template | None:
    """The template of a JSON text; None when it has none: no object, arrays, escapes, repeated keys, line breaks.

    >>> learn(b'{"id": 7, "name": "x"}').literals
    (b'{"id": ', b', "name": "', b'"}')
    >>> learn(b'{"id": null, "at": {"x": 1}}').constants
    {('id',): None}
    >>> learn(b'{"ids": [1, 2]}') is None
    True
    """
    if text is None or len(text) > _MAX_BYTES:
        return None
    try:
        if not isinstance(msgspec.json.decode(text), dict):
            return None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    draft = _Draft()
    if not _walk(text, draft) or len(draft.leaves) > _MAX_LEAVES:
        return None
    draft.literals.append(text[draft.literal_start :])
    if max(map(len, draft.literals)) > _MAX_LITERAL:
        return None
    return Template(tuple(draft.leaves), tuple(draft.literals), draft.constants, frozenset(draft.objects))


def _walk(text: bytes, draft: _Draft) -> bool:
    """Find the parts of a text that is known to be JSON; whether it has only parts that a template may have."""
    path: list[str] = []
    seen: set[Path] = set()
    key: str | None = None
    for token in _tokens(text):
        if token is None or token[4] in (b"[", b"]"):
            return False
        if token[4] == b"{":
            draft.objects.add(_path(path, key))
            path, key = ([*path, key] if key is not None else path), None
        elif token[4] == b"}":
            path, key = path[:-1], None
        elif token[1] is not None and key is None:
            key = token[1].decode()
            if _path(path, key) in seen:
                return False
            seen.add(_path(path, key))
        elif token[1] is not None or token[2] is not None:
            group = 1 if token[1] is not None else 2
            draft.add_leaf(text, _path(path, key), group == 1, token.start(group), token.end(group))
            key = None
        elif token[3] is not None:
            draft.constants[_path(path, key)] = _CONSTANTS[token[3]]
            key = None
    return True


def _tokens(text: bytes) -> Iterator[re.Match[bytes] | None]:
    """The tokens of a text, then, if not all of it was read, None."""
    end = 0
    while end < len(text):
        token = _TOKEN.match(text, end)
        yield token
        if token is None:
            return
        end = token.end()


def _path(path: list[str], key: str | None) -> Path:
    return tuple(path) if key is None else (*path, key)
