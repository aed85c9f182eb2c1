"""Rules of time zones: the same instant on another clock, and the instant that a clock's time means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as pt

from lakeward.dsl.expressions.compiled import Compiled, Kernel, apply, kernel, mismatch
from lakeward.dsl.expressions.nodes import Call, Function, Style
from lakeward.engine.core.errors import GraphError

_OFFSET = re.compile(r"[+-]\d{2}:\d{2}")
_CHOICES = ("raise", "earliest", "latest")


def checked_zone(zone: str) -> str:
    """The zone's name.

    Raises:
        GraphError: There is no such zone.
    """
    try:
        return zone if _OFFSET.fullmatch(zone) else ZoneInfo(zone).key
    except (ValueError, OSError, KeyError) as error:
        hint = 'write a name like "Europe/Berlin", or an offset like "+02:00"'
        raise GraphError(f"there is no time zone {zone!r}", hint=hint) from error


def zone_kernel(zone: str, ambiguous: str = "raise", nonexistent: str = "raise") -> Kernel:
    """The instants that a zone's clocks mean."""
    options = pc.AssumeTimezoneOptions(zone, ambiguous=ambiguous, nonexistent=nonexistent)
    return kernel("assume_timezone", options)


def _as_it_is(array: Any) -> Any:
    return array


def _times(call: Call, args: Sequence[Compiled]) -> Compiled:
    (arg,) = args
    if not pt.is_timestamp(arg.type):
        raise mismatch(call, args, f"{call.function.name}() takes times", f'cast first: {arg.node}.cast("timestamp")')
    return arg


def _convert(call: Call, args: Sequence[Compiled]) -> Compiled:
    arg = _times(call, args)
    if arg.type.tz is None:
        hint = f'say which zone the times are of: {arg.node}.dt.replace_time_zone("Europe/Berlin")'
        raise mismatch(call, args, "a time without a zone is no instant", hint)
    target = pa.timestamp(arg.type.unit, tz=checked_zone(call.params[0]))
    return apply(call, kernel("cast", pc.CastOptions(target)), [arg])


def _replace(call: Call, args: Sequence[Compiled]) -> Compiled:
    zone, *choices = call.params
    arg = _times(call, args)
    ambiguous, nonexistent = (choice or "raise" for choice in choices)
    for choice in (ambiguous, nonexistent):
        if choice not in _CHOICES:
            raise GraphError(f"replace_time_zone: no choice {choice!r}", hint='use "raise", "earliest" or "latest"')
    clock: Kernel = _as_it_is if arg.type.tz is None else kernel("local_timestamp")
    if zone is None:
        return apply(call, clock, [arg])
    zoned = zone_kernel(checked_zone(zone), ambiguous, nonexistent)
    return apply(call, lambda array: zoned(clock(array)), [arg])


CONVERT_ZONE = Function("dt.convert_time_zone", Style.METHOD, _convert)
REPLACE_ZONE = Function(
    "dt.replace_time_zone", Style.METHOD, _replace, keywords=("ambiguous", "nonexistent"), decodes=True
)
