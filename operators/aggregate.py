"""The aggregates, by the names that operators and the DSL use; how they work says `lakeward.operators.aggregates`."""

from lakeward.operators.aggregates.aggregation import Aggregation
from lakeward.operators.aggregates.bound import AGGREGATE_KINDS, ORDERED_KINDS, BoundAggregate, aggregate_type
from lakeward.operators.aggregates.functions import aggregate_function
from lakeward.operators.aggregates.lanes import ROWS, Fetch, Inputs

__all__ = [
    "AGGREGATE_KINDS",
    "ORDERED_KINDS",
    "ROWS",
    "Aggregation",
    "BoundAggregate",
    "Fetch",
    "Inputs",
    "aggregate_function",
    "aggregate_type",
]
