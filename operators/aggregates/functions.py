"""Which function keeps which aggregate."""

from __future__ import annotations

import pyarrow as pa

from lakeward.operators.aggregates.bound import BoundAggregate
from lakeward.operators.aggregates.collected import Collect
from lakeward.operators.aggregates.extremes import ExtremeOfNumbers, ExtremeOfObjects
from lakeward.operators.aggregates.first_last import FirstOrLast
from lakeward.operators.aggregates.function import AggregateFunction, Count
from lakeward.operators.aggregates.sets import SetOfValues
from lakeward.operators.aggregates.sums import (
    MeanDecimals,
    MeanFloats,
    MeanRetractableFloats,
    SumDecimals,
    SumFloats,
    SumIntegers,
    SumRetractableFloats,
)
from lakeward.operators.windows.columns import is_fixed


def aggregate_function(bound: BoundAggregate, updating: bool = False) -> AggregateFunction:
    """The function that keeps an aggregate of this kind and type.

    Args:
        bound: The aggregate.
        updating: Whether rows are also taken back; min, max, first and last cannot do that by themselves.
    """
    if bound.kind == "count":
        return Count(bound)
    if bound.kind == "count_distinct":
        return SetOfValues(bound)
    if bound.kind == "collect":
        return Collect(bound)
    if bound.kind in ("first", "last"):
        return FirstOrLast(bound)
    if bound.kind in ("min", "max"):
        decimals = pa.types.is_decimal(bound.output_type) and bound.output_type.precision <= 18
        return (ExtremeOfNumbers if decimals or is_fixed(bound.output_type) else ExtremeOfObjects)(bound)
    return _sum_or_mean(bound, updating)


def _sum_or_mean(bound: BoundAggregate, updating: bool) -> AggregateFunction:
    if pa.types.is_decimal(bound.output_type):
        return (SumDecimals if bound.kind == "sum" else MeanDecimals)(bound)
    if bound.kind == "mean":
        return (MeanRetractableFloats if updating else MeanFloats)(bound)
    if pa.types.is_floating(bound.output_type):
        return (SumRetractableFloats if updating else SumFloats)(bound)
    return SumIntegers(bound)
