"""Values and keys of state as they are when they have been stored and read again.

What a function reads must not depend on where a batch ends: a value that is stored as another one becomes that one
when it is set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, tzinfo
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
from pyarrow import types as pt

from lakeward.engine.core.errors import LakewardError
from lakeward.operators.process.forms import ValueForm

Zone = tuple[tzinfo | None, ...]
_UTC: Zone = (UTC, ZoneInfo("UTC"))  # the second one is that of times in lists and structs
_NO_ZONE: Zone = (None,)

Settle = Callable[[Any], Any]
"""Makes of a value the one that it is when it has been stored and read."""


def settled(form: ValueForm) -> Settle | None:
    """Makes of a value the one that it is when it has been stored and read; None: each is so as it comes.

    >>> settle = settled(ValueForm(datetime, "times"))
    >>> settle(datetime(2026, 1, 1)) if settle else ...
    datetime.datetime(2026, 1, 1, 0, 0, tzinfo=datetime.timezone.utc)

    Args:
        form: The type of the values.
    """
    kinds = [leaf for kind in form.schema.types for leaf in _leaves(kind)]
    zones = {kind.tz for kind in kinds if pt.is_timestamp(kind)}
    if any(pt.is_float32(kind) or pt.is_float16(kind) for kind in kinds):
        return partial(_stored, form)
    if not zones:
        return None
    if zones not in ({"UTC"}, {None}):
        return partial(_stored, form)
    as_read = _UTC if zones == {"UTC"} else _NO_ZONE

    def settle(value: Any) -> Any:
        return value if _in_zone(value, as_read) else _stored(form, value)

    return settle


def _leaves(kind: pa.DataType) -> Iterator[pa.DataType]:
    if not pt.is_nested(kind):
        yield kind
    for number in range(kind.num_fields):
        yield from _leaves(kind.field(number).type)


def _stored(form: ValueForm, value: Any) -> Any:
    """The value by way of its columns; one that does not fit as it is, since it is refused when it is written."""
    try:
        return form.values(form.arrays([value]))[0]
    except LakewardError:
        return value


def _in_zone(value: Any, zone: Zone) -> bool:
    """Whether all times in a value have this time zone."""
    if isinstance(value, datetime):
        return value.tzinfo in zone
    if isinstance(value, list | tuple | set | frozenset):
        return all(_in_zone(one, zone) for one in value)
    if isinstance(value, dict):
        return all(_in_zone(one, zone) for pair in value.items() for one in pair)
    fields = getattr(value, "__dataclass_fields__", ())
    return all(_in_zone(getattr(value, name), zone) for name in fields)


def canonical(form: ValueForm) -> Callable[[Any], Any] | None:
    """Makes of a key of a map the one that it is when it has been stored and read; None: each is so as it comes.

    A dict would hold both, and find neither by the other: times with a time zone and without, NaN and NaN.

    >>> name = canonical(ValueForm(datetime, "names"))
    >>> name(datetime(2026, 1, 1)) if name else ...
    datetime.datetime(2026, 1, 1, 0, 0, tzinfo=datetime.timezone.utc)

    Args:
        form: The type of the keys.
    """
    kind = form.schema.types[0]
    if form.rows or pt.is_nested(kind):
        return settled(form)
    if not (pt.is_timestamp(kind) or pt.is_floating(kind)):
        return None
    if pt.is_floating(kind):
        return partial(_number, kind.to_pandas_dtype())
    return _in_utc if kind.tz is not None else _without_zone


def _number(kind: type[np.floating[Any]], name: Any) -> Any:
    if not isinstance(name, float):
        return name
    with np.errstate(over="ignore"):
        stored = name if kind is np.float64 else float(kind(name))
    return math.nan if math.isnan(stored) else stored  # that very object: a dict finds it by its identity


def _in_utc(name: Any) -> Any:
    return name.replace(tzinfo=UTC) if isinstance(name, datetime) and name.tzinfo is None else name


def _without_zone(name: Any) -> Any:
    aware = isinstance(name, datetime) and name.tzinfo is not None
    return name.astimezone(UTC).replace(tzinfo=None) if aware else name
