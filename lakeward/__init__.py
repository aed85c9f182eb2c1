"""Lakeward: stream processing in Python, from Kafka to your lakehouse, exactly once.

The whole public API is here; names are loaded when they are first used, so that the command line starts quickly.

>>> import lakeward as lw
>>> from lakeward import col
>>> env = lw.StreamExecutionEnvironment()
>>> orders = env.from_collection([{"shop": "a", "amount": 3}, {"shop": "b", "amount": -1}])
>>> orders.filter(col("amount") > 0).execute_and_collect().to_pylist()
[{'shop': 'a', 'amount': 3}]
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Read by Arrow's allocator when pyarrow is loaded, which nothing above this line may do. Memory that a batch has freed
# is kept for the next one; else it goes back to the kernel after 10 ms, which zeroes every page when it comes again.
os.environ.setdefault("MIMALLOC_PURGE_DELAY", "-1")

if TYPE_CHECKING:
    from lakeward.connectors.blackhole import BlackholeSink
    from lakeward.connectors.collection import CollectionSource
    from lakeward.connectors.console import PrintSink
    from lakeward.connectors.files import FilesSink, FilesSource
    from lakeward.connectors.formats.json import Json
    from lakeward.connectors.iceberg import IcebergSink, bucket, day, hour, month, truncate, year
    from lakeward.connectors.kafka import KafkaSource
    from lakeward.connectors.memory import MemorySink
    from lakeward.connectors.nexmark import NexmarkSource
    from lakeward.dsl.aggregates import collect, count, count_distinct, first, last, max, mean, min, sum
    from lakeward.dsl.environment import StreamExecutionEnvironment
    from lakeward.dsl.expressions import (
        Expr,
        coalesce,
        col,
        concat_str,
        duration,
        from_epoch,
        greatest,
        least,
        lit,
        struct,
        udf,
        vectorised_udf,
        when,
    )
    from lakeward.dsl.expressions.pattern_rows import match_time, var
    from lakeward.dsl.joins import LookupCache
    from lakeward.dsl.keyed import KeyedStream, WindowedStream
    from lakeward.dsl.over import OverStream
    from lakeward.dsl.patterns import Pattern, pattern, to_first, to_last
    from lakeward.dsl.process import ConnectedStreams
    from lakeward.dsl.ranking import asc, desc
    from lakeward.dsl.savepoints import StateTable, read_state, savepoint, state_tables
    from lakeward.dsl.stream import DataStream
    from lakeward.dsl.windows import (
        CountWindow,
        Cumulative,
        GlobalWindow,
        SameWindow,
        Session,
        Sliding,
        Tumbling,
        every,
        every_rows,
    )
    from lakeward.engine.api.lookup import LookupReader, LookupSource
    from lakeward.engine.api.time import WatermarkStrategy
    from lakeward.engine.config import EngineConfig, RestartConfig
    from lakeward.engine.core.errors import LakewardError
    from lakeward.engine.execute import JobResult
    from lakeward.operators.async_options import AsyncFunction, AsyncRetry
    from lakeward.operators.error_policy import OnError
    from lakeward.operators.joins.lookup import FunctionLookup
    from lakeward.operators.process.contexts import FunctionContext, KeyedBatchContext, KeyedContext, ProcessContext
    from lakeward.operators.process.functions import (
        BroadcastProcessFunction,
        CoProcessFunction,
        KeyedBatchFunction,
        KeyedProcessFunction,
        ProcessFunction,
    )
    from lakeward.operators.process.states import (
        AggregatingState,
        BroadcastState,
        ListState,
        MapState,
        ReducingState,
        RenamedFrom,
        StateTtl,
        ValueState,
    )
    from lakeward.operators.process.tags import OutputTag
    from lakeward.operators.process.windows import ProcessWindowFunction, TimeWindow

__version__ = "0.1.0"

_HOMES = {
    "connectors.blackhole": ("BlackholeSink",),
    "connectors.collection": ("CollectionSource",),
    "connectors.console": ("PrintSink",),
    "connectors.files": ("FilesSink", "FilesSource"),
    "connectors.formats.json": ("Json",),
    "connectors.iceberg": ("IcebergSink", "bucket", "day", "hour", "month", "truncate", "year"),
    "connectors.kafka": ("KafkaSource",),
    "connectors.memory": ("MemorySink",),
    "connectors.nexmark": ("NexmarkSource",),
    "dsl.aggregates": ("collect", "count", "count_distinct", "first", "last", "max", "mean", "min", "sum"),
    "dsl.environment": ("StreamExecutionEnvironment",),
    "dsl.expressions": (
        "Expr",
        "coalesce",
        "col",
        "concat_str",
        "duration",
        "from_epoch",
        "greatest",
        "least",
        "lit",
        "struct",
        "udf",
        "vectorised_udf",
        "when",
    ),
    "dsl.expressions.pattern_rows": ("match_time", "var"),
    "dsl.joins": ("LookupCache",),
    "dsl.keyed": ("KeyedStream", "WindowedStream"),
    "dsl.over": ("OverStream",),
    "dsl.patterns": ("Pattern", "pattern", "to_first", "to_last"),
    "dsl.ranking": ("asc", "desc"),
    "dsl.process": ("ConnectedStreams",),
    "dsl.savepoints": ("StateTable", "read_state", "savepoint", "state_tables"),
    "dsl.stream": ("DataStream",),
    "dsl.windows": (
        "CountWindow",
        "Cumulative",
        "GlobalWindow",
        "SameWindow",
        "Session",
        "Sliding",
        "Tumbling",
        "every",
        "every_rows",
    ),
    "engine.api.lookup": ("LookupReader", "LookupSource"),
    "engine.api.time": ("WatermarkStrategy",),
    "engine.config": ("EngineConfig", "RestartConfig"),
    "engine.core.errors": ("LakewardError",),
    "engine.execute": ("JobResult",),
    "operators.error_policy": ("OnError",),
    "operators.async_options": ("AsyncFunction", "AsyncRetry"),
    "operators.joins.lookup": ("FunctionLookup",),
    "operators.process.contexts": ("FunctionContext", "KeyedBatchContext", "KeyedContext", "ProcessContext"),
    "operators.process.functions": (
        "BroadcastProcessFunction",
        "CoProcessFunction",
        "KeyedBatchFunction",
        "KeyedProcessFunction",
        "ProcessFunction",
    ),
    "operators.process.states": (
        "AggregatingState",
        "BroadcastState",
        "ListState",
        "MapState",
        "ReducingState",
        "RenamedFrom",
        "StateTtl",
        "ValueState",
    ),
    "operators.process.tags": ("OutputTag",),
    "operators.process.windows": ("ProcessWindowFunction", "TimeWindow"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AggregatingState",
    "AsyncFunction",
    "AsyncRetry",
    "BlackholeSink",
    "BroadcastProcessFunction",
    "BroadcastState",
    "CoProcessFunction",
    "CollectionSource",
    "ConnectedStreams",
    "CountWindow",
    "Cumulative",
    "DataStream",
    "EngineConfig",
    "Expr",
    "FilesSink",
    "FilesSource",
    "FunctionContext",
    "FunctionLookup",
    "GlobalWindow",
    "IcebergSink",
    "JobResult",
    "Json",
    "KafkaSource",
    "KeyedBatchContext",
    "KeyedBatchFunction",
    "KeyedContext",
    "KeyedProcessFunction",
    "KeyedStream",
    "LakewardError",
    "ListState",
    "LookupCache",
    "LookupReader",
    "LookupSource",
    "MapState",
    "MemorySink",
    "NexmarkSource",
    "OnError",
    "OutputTag",
    "OverStream",
    "Pattern",
    "PrintSink",
    "ProcessContext",
    "ProcessFunction",
    "ProcessWindowFunction",
    "ReducingState",
    "RenamedFrom",
    "RestartConfig",
    "SameWindow",
    "Session",
    "Sliding",
    "StateTable",
    "StateTtl",
    "StreamExecutionEnvironment",
    "TimeWindow",
    "Tumbling",
    "ValueState",
    "WatermarkStrategy",
    "WindowedStream",
    "asc",
    "bucket",
    "coalesce",
    "col",
    "collect",
    "concat_str",
    "count",
    "count_distinct",
    "day",
    "desc",
    "duration",
    "every",
    "every_rows",
    "first",
    "from_epoch",
    "greatest",
    "hour",
    "last",
    "least",
    "lit",
    "match_time",
    "max",
    "mean",
    "min",
    "month",
    "pattern",
    "read_state",
    "savepoint",
    "state_tables",
    "struct",
    "sum",
    "to_first",
    "to_last",
    "truncate",
    "udf",
    "var",
    "vectorised_udf",
    "when",
    "year",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'lakeward' has no attribute '{name}'")
    value = getattr(import_module(f"lakeward.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
