"""Workers that would run another job than the coordinator, or do not see its checkpoints, do not begin."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.core.clock import SystemClock
from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.ids import Generation
from lakeward.engine.graph.outline import outline
from lakeward.engine.graph.plan import Plan
from lakeward.engine.graph.prepare import prepare
from lakeward.engine.processes.agreement import check_agreement
from lakeward.engine.processes.launcher import WorkerSpec
from lakeward.engine.processes.settings import WorkerJob, WorkerPorts
from lakeward.engine.runtime.async_calls import ThreadedJobCalls
from lakeward.engine.runtime.io import ThreadIo
from lakeward.engine.state.memory import MemoryStoreFactory

SPEC = WorkerSpec(1, 2, 3, "tcp:127.0.0.1:1", "ab", "tcp:127.0.0.1:0", "tcp:127.0.0.1:0")


def plan(parallelism: int = 2, key: str = "shop", kind: pa.DataType | None = None, uid: str = "counts") -> Plan:
    env = lw.StreamExecutionEnvironment(parallelism=parallelism)
    schema = pa.schema([("shop", pa.string()), ("item", kind or pa.string())])
    orders = env.from_collection([{"shop": None, "item": None}], schema=schema, uid="orders")
    orders.key_by(key).aggregate(n=lw.count(), uid=uid).sink_to(lw.BlackholeSink(), uid="nowhere")
    return prepare(env.definition().graph, env.config)[1]


def check(theirs: Plan, store: MemoryStore | None = None) -> None:
    if store is None:
        store = MemoryStore()
        store.put(paths.generation(Generation(3)), b"{}")
    ports = WorkerPorts(SystemClock(), ThreadIo, ThreadedJobCalls, MemoryStoreFactory(), None)
    check_agreement(WorkerJob(plan(), "job", lw.EngineConfig(), store, ports), SPEC, outline(theirs))


def test_the_same_job_made_twice_is_the_same() -> None:
    check(plan())


@pytest.mark.parametrize(
    ("theirs", "differs"),
    [
        (plan(parallelism=3), "parallelism 3>"),
        (plan(key="item"), "Project, [item: string]>"),
        (plan(kind=pa.int64()), "item: int64"),
        (plan(uid="totals"), "'totals'"),
    ],
)
def test_a_worker_with_another_plan_is_refused_and_told_what_differs(theirs: Plan, differs: str) -> None:
    with pytest.raises(ConfigError, match=f"worker 1 on .* another plan.*coordinator has <.*{re.escape(differs)}"):
        check(theirs)


def test_keys_of_exchanges_are_part_of_the_plan() -> None:
    assert "task 'counts', input 0: hash by shop from 'aggregate-input-1'" in outline(plan())


def test_a_worker_that_does_not_see_the_coordinators_checkpoints_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"worker 1 on .* does not see the coordinator's checkpoint directory") as no:
        check(plan(), MemoryStore())
    assert "all hosts see" in no.value.hint
