"""A job that cannot read the state of its checkpoint says so at once: starting it over and over would not help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import lakeward as lw
from lakeward.engine.core.errors import StateMigrationError
from lakeward.testing import EOF, CollectSink, JobHarness, ScriptedSource

Version = Callable[[lw.DataStream], lw.DataStream]
RESULT = {"k": str, "seen": int}


def counted(state: lw.ValueState[Any], kind: type = int, key: str = "k") -> Version:
    class Count(lw.KeyedProcessFunction):
        seen = state

        def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
            self.seen.value = kind(row["n"])
            yield {"k": row["k"], "seen": row["n"]}

    return lambda rows: rows.key_by(key).process(Count(), returns=RESULT, uid="count")


def listed(rows: lw.DataStream) -> lw.DataStream:
    class Listed(lw.KeyedProcessFunction):
        seen: lw.ListState[int]

        def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
            self.seen.append(row["n"])
            yield {"k": row["k"], "seen": row["n"]}

    return rows.key_by("k").process(Listed(), returns=RESULT, uid="count")


def renamed(rows: lw.DataStream) -> lw.DataStream:
    class Renamed(lw.KeyedProcessFunction):
        last = lw.ValueState(int, renamed_from="sene")

        def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
            self.last.value = row["n"]

    return rows.key_by("k").process(Renamed(), returns=RESULT, uid="count")


def listed_by_another(rows: lw.DataStream) -> lw.DataStream:
    class Listed(lw.KeyedProcessFunction):
        seen: lw.ListState[int]

        def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
            self.seen.append(row["n"])

    return rows.rename({"k": "key"}).key_by("key").process(Listed(), returns=RESULT, uid="count")


CHANGES: dict[str, tuple[Version, str]] = {
    "type": (counted(lw.ValueState(str), str), "'seen': column 'value' was stored as int64 and is now string"),
    "kind": (listed, "'seen' was stored as a table of another kind"),
    "key": (counted(lw.ValueState(int), key="n"), "'seen': key column 'n' was stored as string and is now int64"),
    "rename": (renamed, "'last' is said to have been 'sene'"),
}


class Restarted:
    """A job that was stopped with its state in a checkpoint, and has other code now."""

    def __init__(self, second: Version, first: Version | None = None) -> None:
        self.version = first or counted(lw.ValueState(int))
        script = [[{"k": "a", "n": 1}], EOF, [{"k": "a", "n": 2}]]
        self.source = ScriptedSource({"k": str, "n": int}, script)
        self.harness = JobHarness(self.job)
        assert self.harness.run().stopped
        self.version = second

    def job(self, env: lw.StreamExecutionEnvironment) -> None:
        self.version(env.from_source(self.source, uid="rows")).sink_to(CollectSink(), uid="out")


@pytest.mark.parametrize("change", CHANGES)
def test_state_that_the_new_code_cannot_read_ends_the_job_at_once(change: str) -> None:
    version, expected = CHANGES[change]
    with pytest.raises(StateMigrationError, match=r"operator 'count'.*state table") as caught:
        Restarted(version).harness.run()
    assert expected in str(caught.value)
    assert caught.value.hint


def test_after_a_refusal_the_job_as_it_was_goes_on() -> None:
    restarted = Restarted(listed)
    with pytest.raises(StateMigrationError):
        restarted.harness.run()
    restarted.version = counted(lw.ValueState(int))
    assert restarted.harness.run().ended
    assert [row["seen"] for row in restarted.harness.rows()] == [1, 2]


def test_a_key_column_of_another_name_is_called_as_the_user_calls_it() -> None:
    with pytest.raises(
        StateMigrationError, match="'seen' was stored by 'k' without a TTL, and is now by 'key' without"
    ):
        Restarted(listed_by_another, listed).harness.run()
