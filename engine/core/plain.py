"""Rows inside of rows, as Arrow takes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


def plain_value(value: Any) -> Any:
    """Dataclasses and NamedTuples, at any depth, as the dicts and lists that Arrow takes.

    >>> @dataclasses.dataclass
    ... class Point:
    ...     x: int
    >>> plain_value({"a": [Point(1), None]}), plain_value((1, 2))
    ({'a': [{'x': 1}, None]}, [1, 2])
    """
    if isinstance(value, Mapping):
        return {key: plain_value(part) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {key: plain_value(part) for key, part in zip(value._fields, value, strict=True)}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_value(part) for part in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_value(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value
