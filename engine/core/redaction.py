"""What no error and no log line may show: values of fields, by the names of the fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

HIDDEN = "***"
"""What is shown in place of a value."""

_SECRET_NAME = re.compile(
    r"pass(word|phrase|wd)?$|password|secret|token|credential|jaas|authorization|api[._-]?key|access[._-]?key"
    r"|private[._-]?key|(ssl|sasl)\.key(?!.*location)|basic\.auth\.user\.info|\.pem$",
    re.IGNORECASE,
)
_QUOTED = re.compile(r'"([^"]*)"')
_JSON_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:\s*')
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*(?:"|$)|[\[{\]},]|[^\[{\]},"]+')
_VALUE_CHARS_MAX = 80
_ROW_CHARS_MAX = 400
_ITEMS_MAX = 20
_DEPTH_MAX = 6
_PLAIN = frozenset({str, int, float, bool, bytes, type(None), datetime, date, Decimal})
_HIDDEN_CHARS_MIN = 4  # shorter texts are everywhere: hiding them would hide too much


def is_secret_name(name: str) -> bool:
    """Whether what is called so is secret wherever it stands.

    >>> [name for name in ("sasl.password", "api_key", "Authorization", "key", "shop") if is_secret_name(name)]
    ['sasl.password', 'api_key', 'Authorization']
    """
    return _SECRET_NAME.search(name) is not None


@dataclass(frozen=True, slots=True)
class Redaction:
    """Says which fields are hidden, and hides them. Fields whose names sound like secrets always are.

    >>> redaction = Redaction(("email", "card_*"))
    >>> redaction.show({"shop": "a", "email": "ada@example.org", "buyer": {"card_number": 4111, "name": "Ada"}})
    "{'shop': 'a', 'email': ***, 'buyer': {'card_number': ***, 'name': 'Ada'}}"

    Args:
        columns: Names of columns, and of fields inside of them, whose values are hidden; with the wildcards `*`, `?`
            and `[...]`, upper and lower case alike. "buyer.name" names the field of one column only.
    """

    columns: tuple[str, ...] = ()

    def hides(self, name: str, path: str = "") -> bool:
        """Whether the field's value is hidden.

        Args:
            name: The field; or what an expression's operand is called, with column names in double quotes.
            path: The names on the way to it, with dots between.
        """
        return _hides(self.columns, name) or bool(path and _hides(self.columns, f"{path}.{name}"))

    def show(self, row: Any) -> str:
        """A row as Python writes it, with long values and long rows cut."""
        return _cut(self._shown(row, "", 0), _ROW_CHARS_MAX)

    def show_operands(self, operands: Mapping[str, Any]) -> str:
        """The values of an expression's operands, by their texts.

        >>> Redaction(("email",)).show_operands({'col("a") + 1': 7, 'col("email")': "ada@example.org"})
        'col("a") + 1 = 7, col("email") = ***'
        """
        shown = (f"{name} = {self._field(name, value, '', 0)}" for name, value in operands.items())
        return _cut(", ".join(shown), _ROW_CHARS_MAX)

    def text(self, text: str, row: Any) -> str:
        """A text about a row, such as an exception's, without the values that the row hides.

        >>> Redaction(("email",)).text("no account of 'ada@example.org'", {"email": "ada@example.org"})
        "no account of '***'"
        """
        found = {form for value in self._hidden(row, "", 0) for form in _written(value)}
        for value in sorted(found, key=len, reverse=True):
            text = text.replace(value, HIDDEN)
        return text

    def json(self, text: str) -> str:
        """A JSON text, or its beginning, without hidden values; it need not be valid.

        >>> Redaction(("card",)).json('{"id": 7, "card": {"number": [4, 1]}, "password": "x, y", "n')
        '{"id": 7, "card": ***, "password": ***, "n'
        """
        parts, end = [], 0
        for match in _JSON_NAME.finditer(text):
            if match.start() >= end and self.hides(match[1]):
                parts += [text[end : match.end()], HIDDEN]
                end = _json_value_end(text, match.end())
        return "".join(parts) + text[end:]

    def reason(self, text: str) -> str:
        """Why a record cannot be decoded, without the value of a hidden field that is named before it.

        >>> Redaction(("card",)).reason("card: Failed to parse string: '4111' as a scalar of type date32[day]")
        'card: ***'
        """
        parts = text.split(": ")
        hidden = next((i for i in range(1, len(parts)) if self.hides(parts[i - 1])), None)
        return text if hidden is None else ": ".join([*parts[:hidden], HIDDEN])

    def _shown(self, value: Any, path: str, depth: int) -> str:
        if depth > _DEPTH_MAX:
            return "…"
        if isinstance(value, Mapping):
            return f"{{{', '.join(f'{n!r}: {self._field(n, v, path, depth)}' for n, v in value.items())}}}"
        named = _named_fields(value)
        if named is not None:
            shown = (f"{name}={self._field(name, each, path, depth)}" for name, each in named.items())
            return f"{type(value).__name__}({', '.join(shown)})"
        if type(value) in (list, tuple):
            items = [self._shown(each, path, depth + 1) for each in value[:_ITEMS_MAX]]
            items += ["…"] if len(value) > _ITEMS_MAX else []
            return f"[{', '.join(items)}]" if isinstance(value, list) else f"({', '.join(items)})"
        return short(value)

    def _field(self, name: Any, value: Any, path: str, depth: int) -> str:
        if self.hides(str(name), path):
            return HIDDEN
        return self._shown(value, f"{path}.{name}" if path else str(name), depth + 1)

    def _hidden(self, value: Any, path: str, depth: int) -> Iterator[Any]:
        """The values in a row that are hidden."""
        if type(value) in _PLAIN or depth > _DEPTH_MAX:
            return
        named = value if isinstance(value, Mapping) else _named_fields(value)
        if named is not None:
            for name, each in named.items():
                if self.hides(str(name), path):
                    yield from _leaves(each, depth)
                elif type(each) not in _PLAIN:
                    yield from self._hidden(each, f"{path}.{name}" if path else str(name), depth + 1)
        elif isinstance(value, list | tuple):
            for each in value:
                yield from self._hidden(each, path, depth + 1)


SECRETS_ONLY = Redaction()
"""Where no columns are named."""


def short(value: Any) -> str:
    """A value as Python writes it, but for times, cut to 80 characters."""
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, str | bytes):
        value = value[: 2 * _VALUE_CHARS_MAX]  # a book need not be written out to be cut
    try:
        text = repr(value)
    except Exception as error:  # a broken __repr__ must not hide the error that is being reported
        text = f"<{type(value).__name__}, whose repr fails: {error}>"
    return _cut(text, _VALUE_CHARS_MAX)


def text_of(error: BaseException) -> str:
    r"""An exception's text; one that cannot say it must not hide what happened.

    Half a character, as in a name of a file that is no UTF-8, becomes an escape: logs and columns hold UTF-8.

    >>> text_of(ValueError("no")), text_of(ValueError("caf\udce9"))
    ('no', 'caf\\udce9')
    """
    try:
        return str(error).encode("utf-8", "backslashreplace").decode()
    except Exception as failure:
        return f"<whose text fails: {type(failure).__name__}>"


def texts_of(error: BaseException) -> list[str]:
    """All texts that Python prints of an exception: its own, its notes', and those of exceptions that belong to it.

    >>> texts_of(ExceptionGroup("two", [ValueError("a"), ValueError("b")]))
    ['two (2 sub-exceptions)', 'a', 'b']
    """
    texts: list[str] = []
    seen: set[int] = set()
    left = [error]
    while left:
        one = left.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            texts += [text_of(one), *(str(note) for note in getattr(one, "__notes__", ()))]
            left += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
            left += [other for other in (one.__cause__, one.__context__) if other is not None]
    return texts


def _cut(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


@lru_cache(4096)
def _hides(columns: tuple[str, ...], name: str) -> bool:
    names = [name.lower(), *_QUOTED.findall(name.lower())]
    patterns = [pattern.lower() for pattern in columns]
    return any(is_secret_name(one) or any(fnmatchcase(one, pattern) for pattern in patterns) for one in names)


def _named_fields(value: Any) -> Mapping[str, Any] | None:
    """The fields of a dataclass's or NamedTuple's instance; None for other values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=False))
    return None


def _leaves(value: Any, depth: int) -> Iterator[Any]:
    """The values inside of a value."""
    named = value if isinstance(value, Mapping) else _named_fields(value)
    inside = named.values() if named is not None else value if isinstance(value, list | tuple) else None
    if inside is None:
        yield value
    elif depth <= _DEPTH_MAX:
        for each in inside:
            yield from _leaves(each, depth + 1)


def _written(value: Any) -> set[str]:
    """How a value may stand in a text, if it is long enough to be known again."""
    if value is None or isinstance(value, bool):
        return set()
    plain = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    forms = {plain, repr(plain)[1:-1], json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1]}
    return {form for form in forms if len(form) >= _HIDDEN_CHARS_MIN}


def _json_value_end(text: str, start: int) -> int:
    """Where a JSON value that begins at `start` ends; the end of the text where it does not."""
    depth, end = 0, start
    for token in _JSON_TOKEN.finditer(text, start):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
        if depth < 0 or (token[0] == "," and depth == 0):
            return end
        end = token.end()
        if depth == 0 and token[0] in "]}":
            return end
    return end


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row as an error shows it.

    Args:
        value: A mapping, dataclass, NamedTuple, or anything else.
        index: Its place in the batch that the operator got, when known.
        label: What it is called.
        operands: Whether it is a mapping of an expression's operands, by their texts.
    """

    value: Any
    index: int | None = None
    label: str = "row"
    operands: bool = False

    def show(self, redaction: Redaction) -> str:
        """The label and the row."""
        if self.operands:
            return f"{self.label}: {redaction.show_operands(self.value)}"
        return f"{self.label}: {redaction.show(self.value)}"
