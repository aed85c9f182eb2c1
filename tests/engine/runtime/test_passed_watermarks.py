"""An operator that sends rows later than they are lets the watermark go on later too."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.engine.api.context import Output
from lakeward.engine.api.operator import Operator, OperatorFactory
from lakeward.engine.core.messages import WATERMARK_MAX_US
from lakeward.engine.graph.logical import Exchange

SCHEMA = pa.schema([("at", pa.timestamp("us"))])


@dataclass(frozen=True)
class Held(OperatorFactory):
    """Passes rows on, and watermarks later."""

    by_us: int
    seen: list[int] = field(default_factory=list)

    def create(self) -> Operator:
        return HeldOperator(self.by_us, self.seen)

    @property
    def description(self) -> str:
        return "hold"


class HeldOperator(Operator):
    def __init__(self, by_us: int, seen: list[int]) -> None:
        self._by_us, self._seen = by_us, seen

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        out.emit(batch)

    def on_watermark(self, timestamp_us: int, out: Output) -> None:
        self._seen.append(timestamp_us)

    def passed_watermark(self, timestamp_us: int) -> int:
        return timestamp_us if timestamp_us == WATERMARK_MAX_US else timestamp_us - self._by_us


@pytest.mark.parametrize("exchange", [Exchange.FORWARD, Exchange.HASH], ids=["in one task", "in the next task"])
def test_operators_behind_it_see_the_watermark_that_it_lets_go_on(exchange: Exchange) -> None:
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=1))
    table = pa.table({"at": pa.array([10, 20, 30], pa.int64()).cast(SCHEMA.field("at").type)})
    stream = env.from_collection(table, watermark=lw.WatermarkStrategy.monotonous("at"))
    first, second = Held(7), Held(0)
    held = stream._then("held", first, SCHEMA, None, None)
    keys = ("at",) if exchange is Exchange.HASH else ()
    node = stream._context.builder.add("seen", second, [held._edge(exchange, keys)], SCHEMA, None, None)
    lw.DataStream(stream._context, node, None).sink_to(lw.BlackholeSink())
    env.execute()
    assert second.seen == [time if time == WATERMARK_MAX_US else time - 7 for time in first.seen]
    assert len(second.seen) > 2
    assert second.seen[-1] == WATERMARK_MAX_US
