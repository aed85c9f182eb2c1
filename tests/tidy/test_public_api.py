"""The public API is what is listed here: a name that comes or goes is a decision, and shows in the change."""

from __future__ import annotations

import inspect

import pytest

import lakeward
from lakeward.dsl.async_verbs import AsyncVerbs
from lakeward.dsl.expressions import Then, When, namespaces
from lakeward.dsl.expressions.number_methods import NumberMethods
from lakeward.dsl.expressions.operator_methods import OperatorMethods
from lakeward.dsl.expressions.pattern_rows import VariableRows
from lakeward.dsl.expressions.text_namespace import StringNamespace
from lakeward.dsl.expressions.time_namespace import TimeNamespace
from lakeward.dsl.join_verbs import JoinVerbs
from lakeward.dsl.joins import JoinResult
from lakeward.dsl.keyed import WindowResult
from lakeward.dsl.patterns import MatchResult
from lakeward.dsl.ranking_verbs import KeyedRankingVerbs, RankingVerbs

PUBLIC = """
    AggregatingState AsyncFunction AsyncRetry BlackholeSink BroadcastProcessFunction BroadcastState
    CoProcessFunction CollectionSource ConnectedStreams CountWindow Cumulative DataStream EngineConfig Expr
    FilesSink FilesSource FunctionContext FunctionLookup GlobalWindow IcebergSink JobResult Json KafkaSource
    KeyedBatchContext KeyedBatchFunction KeyedContext KeyedProcessFunction KeyedStream LakewardError ListState
    LookupCache LookupReader LookupSource MapState MemorySink NexmarkSource OnError OutputTag OverStream
    Pattern PrintSink ProcessContext ProcessFunction ProcessWindowFunction ReducingState RenamedFrom
    RestartConfig SameWindow Session Sliding StateTable StateTtl StreamExecutionEnvironment TimeWindow
    Tumbling ValueState WatermarkStrategy WindowedStream
    asc bucket coalesce col collect concat_str count count_distinct day desc duration every every_rows first
    from_epoch greatest hour last least lit match_time max mean min month pattern read_state savepoint
    state_tables struct sum to_first to_last truncate udf var vectorised_udf when year
"""

VERBS = [
    lakeward.DataStream,
    lakeward.Expr,
    lakeward.KeyedStream,
    lakeward.OverStream,
    lakeward.Pattern,
    lakeward.StreamExecutionEnvironment,
    lakeward.WatermarkStrategy,
    lakeward.WindowedStream,
    namespaces.JsonNamespace,
    namespaces.ListNamespace,
    namespaces.MapNamespace,
    namespaces.StructNamespace,
    NumberMethods,
    OperatorMethods,
    StringNamespace,
    Then,
    TimeNamespace,
    When,
    AsyncVerbs,
    JoinResult,
    JoinVerbs,
    KeyedRankingVerbs,
    MatchResult,
    RankingVerbs,
    VariableRows,
    WindowResult,
]
"""The classes whose methods are how a job is written."""

FOR_OTHER_MODULES = {(lakeward.Expr, "node")}


def methods() -> list[tuple[type, str]]:
    listed = [(kind, name) for kind in VERBS for name in vars(kind) if not name.startswith("_")]
    return [(kind, name) for kind, name in listed if is_code(kind, name) and (kind, name) not in FOR_OTHER_MODULES]


def is_code(kind: type, name: str) -> bool:
    """Whether it is a method or a property, not a field."""
    found = inspect.getattr_static(kind, name)
    return inspect.isfunction(found) or isinstance(found, property | classmethod | staticmethod)


def check_example(thing: object) -> None:
    text = inspect.getdoc(thing) or ""
    assert ">>> " in text
    assert "+SKIP" not in text


def test_the_public_api_is_what_is_listed() -> None:
    assert lakeward.__all__ == PUBLIC.split()


@pytest.mark.parametrize("name", PUBLIC.split())
def test_every_public_name_says_what_it_is_with_an_example_that_runs(name: str) -> None:
    check_example(getattr(lakeward, name))


@pytest.mark.parametrize(("kind", "name"), methods(), ids=lambda part: getattr(part, "__name__", part))
def test_every_verb_has_an_example_that_runs(kind: type, name: str) -> None:
    check_example(getattr(kind, name))
