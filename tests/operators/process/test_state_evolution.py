"""What becomes of state when a job's classes change between a checkpoint and the next start."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.engine.core.errors import CheckpointError, ConfigError, GraphError, LakewardError
from lakeward.operators.process.calls import Callee
from lakeward.operators.process.operator import Process, ProcessInput
from lakeward.testing import EOF, CollectSink, JobHarness, ScriptedSource
from lakeward.testing.harness import HarnessConfig, HarnessSnapshot, OperatorHarness

SCHEMA = pa.schema({"k": pa.string(), "n": pa.int64()})
RESULT = pa.schema({"k": pa.string(), "shown": pa.string()})
NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


@dataclasses.dataclass
class Old:
    count: Annotated[int, pa.int32()]
    name: str
    gone: float


@dataclasses.dataclass
class New:
    name: str
    orders: Annotated[int, lw.RenamedFrom("count")]
    since: dt.datetime = NOON
    tags: list[str] = dataclasses.field(default_factory=lambda: ["none"])
    rank: int | None = None


class OldItem(NamedTuple):
    price: Annotated[float, pa.float32()]
    label: str


class NewItem(NamedTuple):
    price: float
    title: Annotated[str | None, lw.RenamedFrom("label")]
    amount: int = 1


class Before(lw.KeyedProcessFunction):
    stats: lw.ValueState[Old]
    total: lw.ValueState[int]
    items: lw.ListState[OldItem]
    by_name: lw.MapState[str, OldItem]
    fewer: lw.ValueState[str]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        n = row["n"]
        self.stats.value = Old(n, f"name{n}", 0.5)
        self.total.value = n
        self.items.append(OldItem(n + 0.5, f"label{n}"))
        self.by_name[f"x{n}"] = OldItem(n, "m")
        self.fewer.value = "gone"


class After(lw.KeyedProcessFunction):
    stats: lw.ValueState[New]
    sum = lw.ValueState(int, renamed_from="total")
    items: lw.ListState[NewItem]
    named = lw.MapState(str, NewItem, renamed_from="by_name")
    more: lw.ValueState[int]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
        held = [self.stats.value, self.sum.value, list(self.items), dict(self.named), self.more.value]
        yield {"k": row["k"], "shown": repr(held)}


def harness(function: Any, restored: list[HarnessSnapshot], config: HarnessConfig) -> OperatorHarness:
    factory = Process(Callee(function), (ProcessInput(SCHEMA, ("k",)),), RESULT, RESULT)
    return OperatorHarness(factory, SCHEMA, config, restored)


def saved(function: Any, rows: int = 3, store: Any = "memory") -> HarnessSnapshot:
    with harness(function, [], HarnessConfig(store=store)) as one:
        for n in range(rows):
            one.send([{"k": f"k{n}", "n": n}])
        return one.snapshot()


def shown(restored: list[HarnessSnapshot], config: HarnessConfig, key: str = "k1") -> str:
    with harness(After(), restored, config) as one:
        one.send([{"k": key, "n": 0}])
        return str(one.take()[0]["shown"])


EXPECTED = repr(
    [New("name1", 1, NOON, ["none"], None), 1, [NewItem(1.5, "label1", 1)], {"x1": NewItem(1.0, "m", 1)}, None]
)


@pytest.mark.parametrize("store", ["memory", "rocksdb"])
def test_fields_and_states_are_added_dropped_widened_and_renamed(store: Any) -> None:
    assert shown([saved(Before(), store=store)], HarnessConfig(store=store)) == EXPECTED


def test_state_that_has_changed_moves_to_another_parallelism() -> None:
    config = HarnessConfig(subtask=0, parallelism=1)
    with harness(After(), [saved(Before())], config) as one:
        again = one.snapshot()
    for number in range(3):
        with harness(After(), [again], HarnessConfig(subtask=number, parallelism=3)) as one:
            one.send([{"k": "k1", "n": 0}])
            text = str(one.take()[0]["shown"])
            assert text in (EXPECTED, repr([None, None, [], {}, None]))
    assert sum(shown([saved(Before())], HarnessConfig(subtask=n, parallelism=3)) == EXPECTED for n in range(3)) == 1


def test_old_names_may_stay_when_there_is_nothing_under_them_any_more() -> None:
    with harness(After(), [saved(Before())], HarnessConfig()) as one:
        again = one.snapshot()
    assert shown([again], HarnessConfig()) == EXPECTED


def test_old_names_without_any_stored_state_are_no_mistake() -> None:
    assert shown([], HarnessConfig()) == repr([None, None, [], {}, None])


@dataclasses.dataclass
class Narrowed:
    count: Annotated[int, pa.int16()]
    name: str


class ScalarBecomesText(lw.KeyedProcessFunction):
    total: lw.ValueState[str]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...


class FieldNarrows(lw.KeyedProcessFunction):
    stats: lw.ValueState[Narrowed]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...


class ListBecomesValue(lw.KeyedProcessFunction):
    items: lw.ValueState[int]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...


class ItemRetyped(NamedTuple):
    price: str
    label: str


class ListedBecomesText(lw.KeyedProcessFunction):
    items: lw.ListState[ItemRetyped]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...


class LivesNowForAnHour(lw.KeyedProcessFunction):
    total = lw.ValueState(int, ttl="1h")

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...


class ListedForAnHour(lw.KeyedProcessFunction):
    items = lw.ListState(OldItem, ttl="1h")

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...


class NeverThere(lw.KeyedProcessFunction):
    fresh = lw.ValueState(int, renamed_from="totla")

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (ScalarBecomesText(), "'total': column 'value' was stored as int64 and is now string"),
        (FieldNarrows(), "'stats': column 'count' was stored as int32 and is now int16"),
        (ListedBecomesText(), "'items': column 'price' was stored as float and is now string"),
        (ListBecomesValue(), "'items' was stored as a table of another kind"),
        (LivesNowForAnHour(), "'total' was stored without '##touched_us'"),
        (ListedForAnHour(), "'items' was stored by 'k' without a TTL, and is now by 'k' with a TTL"),
        (NeverThere(), "'fresh' is said to have been 'totla', but the checkpoint has neither"),
    ],
    ids=["type", "narrower", "list", "kind", "ttl", "ttl of a list", "name"],
)
def test_a_change_that_stored_state_cannot_follow_is_refused_by_name(function: Any, said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        harness(function, [saved(Before())], HarnessConfig())
    assert said in str(caught.value)
    assert caught.value.hint


class OldRule(NamedTuple):
    limit: Annotated[int, pa.int32()]


class NewRule(NamedTuple):
    limit: int
    note: str = "none"


class OldRules(lw.BroadcastProcessFunction):
    rules: lw.BroadcastState[str, OldRule]

    def process(self, row: dict[str, Any], ctx: lw.ProcessContext) -> None: ...

    def process_broadcast(self, row: dict[str, Any], ctx: lw.ProcessContext) -> None:
        self.rules[row["k"]] = OldRule(row["n"])


class NewRules(lw.BroadcastProcessFunction):
    known = lw.BroadcastState(str, NewRule, renamed_from="rules")

    def process(self, row: dict[str, Any], ctx: lw.ProcessContext) -> Any:
        yield {"k": row["k"], "shown": repr(sorted(self.known.items()))}

    def process_broadcast(self, row: dict[str, Any], ctx: lw.ProcessContext) -> None:
        self.known[row["k"]] = NewRule(row["n"], "new")


def with_rules(function: Any, restored: list[HarnessSnapshot], config: HarnessConfig) -> OperatorHarness:
    callee = Callee(function, ("process", "process_broadcast"))
    factory = Process(callee, (ProcessInput(SCHEMA), ProcessInput(SCHEMA)), RESULT, RESULT)
    return OperatorHarness(factory, (SCHEMA, SCHEMA), config, restored)


def test_broadcast_state_is_renamed_and_its_values_evolve_at_any_parallelism() -> None:
    with with_rules(OldRules(), [], HarnessConfig()) as one:
        one.send([{"k": f"k{n}", "n": n} for n in range(3)], index=1)
        snapshots = [one.snapshot()]
    for parallelism in (2, 3):
        held = [
            with_rules(NewRules(), snapshots, HarnessConfig(subtask=number, parallelism=parallelism))
            for number in range(parallelism)
        ]
        wanted = [(f"k{n}", NewRule(n)) for n in range(3)]
        for one in held:
            one.send([{"k": "x", "n": 0}])
            assert one.take()[0]["shown"] == repr(wanted)
        snapshots = [one.snapshot() for one in held]
        for one in held:
            one.close()


@pytest.mark.parametrize("parallelism", [1, 2, 3])
def test_a_new_version_begins_from_a_savepoint_of_the_old_one_at_another_parallelism(parallelism: int) -> None:
    script = [
        [{"k": k, "n": n} for n, k in enumerate("abcdefgh", start=1)],
        EOF,
        [{"k": k, "n": 0} for k in "abcdefgh"],
    ]
    source, sink = ScriptedSource({"k": str, "n": int}, script), CollectSink()
    versions: list[type[lw.KeyedProcessFunction]] = [Before]

    def job(env: lw.StreamExecutionEnvironment) -> None:
        keyed = env.from_source(source, uid="in").key_by("k")
        keyed.process(versions[-1](), returns=RESULT, uid="function").sink_to(sink, uid="out")

    harness = JobHarness(job, state="rocksdb")
    assert harness.run(parallelism=2).stopped
    versions.append(After)
    assert harness.run(parallelism=parallelism, savepoint=harness.savepoint()).ended
    stats = "New(name='name3', orders=3, since=datetime.datetime(2026, 1, 1, 12, 0, tzinfo=datetime.timezone.utc), "
    shown = {row["k"]: row["shown"] for row in sink.rows()}
    assert len(shown) == 8
    assert stats + "tags=['none'], rank=None), 3, [NewItem(price=3.5, title='label3', amount=1)]" in shown["c"]


class Refused(Before):
    total: lw.ValueState[str]  # type: ignore[assignment]


def test_an_incompatible_version_is_refused_by_name_before_the_job_starts() -> None:
    source, sink = (
        ScriptedSource({"k": str, "n": int}, [[{"k": "a", "n": 1}], EOF, [{"k": "a", "n": 2}]]),
        CollectSink(),
    )
    versions: list[type[lw.KeyedProcessFunction]] = [Before]

    def job(env: lw.StreamExecutionEnvironment) -> None:
        keyed = env.from_source(source, uid="in").key_by("k")
        keyed.process(versions[-1](), returns=RESULT, uid="function").sink_to(sink, uid="out")

    harness = JobHarness(job, state="rocksdb")
    assert harness.run().stopped
    kept = harness.savepoint()
    versions.append(Refused)
    with pytest.raises(LakewardError, match=r"(?s)'function'.*total"):
        harness.run(savepoint=kept)
    versions.append(After)
    assert harness.run(savepoint=kept).ended


class Total(lw.KeyedProcessFunction):
    total: lw.ValueState[int]
    items: lw.ListState[OldItem]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.total.value = row["n"]
        self.items.append(OldItem(row["n"], "old"))


class NewUnderTheOldName(lw.KeyedProcessFunction):
    """Declares what bears the old name now before what bore it."""

    total = lw.ValueState(int)
    gross = lw.ValueState(int, renamed_from="total")
    items: lw.ListState[OldItem]
    things = lw.ListState(OldItem, renamed_from="items")

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
        held = [self.gross.value, self.total.value, len(self.things), len(self.items)]
        self.gross.value, self.total.value = row["n"], -row["n"]
        yield {"k": row["k"], "shown": repr(held)}


class Shifted(lw.KeyedProcessFunction):
    total = lw.ValueState(int)
    gross = lw.ValueState(int, renamed_from="total")
    whole = lw.ValueState(int, renamed_from="gross")

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
        yield {"k": row["k"], "shown": repr([self.whole.value, self.gross.value, self.total.value])}


def after(function: Any, restored: list[HarnessSnapshot], n: int) -> tuple[str, list[HarnessSnapshot]]:
    with harness(function, restored, HarnessConfig()) as one:
        one.send([{"k": "k1", "n": n}])
        return str(one.take()[0]["shown"]), [one.snapshot()]


def test_a_new_state_may_have_the_name_that_another_one_had() -> None:
    shown, again = after(NewUnderTheOldName(), [saved(Total())], 5)
    assert shown == "[1, None, 1, 0]"
    shown, again = after(NewUnderTheOldName(), again, 6)
    assert shown == "[5, -5, 1, 0]"
    assert after(Shifted(), again, 7)[0] == "[6, -6, None]"


class Renamed(lw.KeyedProcessFunction):
    gross = lw.ValueState(int, renamed_from="total")

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
        yield {"k": row["k"], "shown": repr(self.gross.value)}


class RenamedAgain(lw.KeyedProcessFunction):
    whole = lw.ValueState(int, renamed_from="gross")

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
        yield {"k": row["k"], "shown": repr(self.whole.value)}


def test_a_state_is_renamed_from_version_to_version_and_none_is_left_out() -> None:
    shown, again = after(Renamed(), [saved(Total())], 0)
    assert (shown, after(RenamedAgain(), again, 0)[0]) == ("1", "1")
    with pytest.raises(CheckpointError, match="'whole' is said to have been 'gross', but the checkpoint has neither"):
        after(RenamedAgain(), [saved(Total())], 0)


class FirstStats(NamedTuple):
    a: int
    x: str = "x"


class SecondStats(NamedTuple):
    b: Annotated[int, lw.RenamedFrom("a")]
    y: Annotated[str | None, lw.RenamedFrom("x")] = None


class ThirdStats(NamedTuple):
    c: Annotated[int, lw.RenamedFrom(["b", "a"])]
    z: Annotated[str, lw.RenamedFrom("y"), lw.RenamedFrom("x")] | None = None


class First(lw.KeyedProcessFunction):
    value1: lw.ValueState[FirstStats]
    listed1: lw.ListState[FirstStats]
    mapped1: lw.MapState[str, FirstStats]
    most1 = lw.ReducingState(int, max)
    same: lw.ValueState[FirstStats]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        stats = FirstStats(row["n"])
        self.value1.value = self.same.value = stats
        self.listed1.append(stats)
        self.mapped1["m"] = stats
        self.most1.add(row["n"])


class Second(lw.KeyedProcessFunction):
    value2 = lw.ValueState(SecondStats, renamed_from="value1")
    listed2 = lw.ListState(SecondStats, renamed_from="listed1")
    mapped2 = lw.MapState(str, SecondStats, renamed_from="mapped1")
    most2 = lw.ReducingState(int, max, renamed_from="most1")
    same: lw.ValueState[SecondStats]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        pass


class Third(lw.KeyedProcessFunction):
    value3 = lw.ValueState(ThirdStats, renamed_from=("value2", "value1"))
    listed3 = lw.ListState(ThirdStats, renamed_from=["value2", "listed2", "listed1"][1:])
    mapped3 = lw.MapState(str, ThirdStats, renamed_from=("mapped2", "mapped1"))
    most3 = lw.ReducingState(int, max, renamed_from=("most2", "most1"))
    same: lw.ValueState[ThirdStats]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
        held = [self.value3.value, *self.listed3, *self.mapped3.values(), self.same.value, self.most3.value]
        yield {"k": row["k"], "shown": repr(held)}


@pytest.mark.parametrize("store", ["memory", "rocksdb"])
@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("versions", [[], [Second], [Second, Second], [Third], [Second, Third]])
def test_a_version_may_be_skipped_where_older_names_are_said_too(store: Any, parallelism: int, versions: Any) -> None:
    keys = [f"k{n}" for n in range(6)]
    with harness(First(), [], HarnessConfig(store=store)) as one:
        one.send([{"k": key, "n": 7} for key in keys])
        snapshots = [one.snapshot()]
    for version in versions:
        between = []
        for number in range(parallelism):
            with harness(version(), snapshots, HarnessConfig(number, parallelism, store=store)) as one:
                between.append(one.snapshot())
        snapshots = between
    with harness(Third(), snapshots, HarnessConfig(store=store)) as one:
        one.send([{"k": key, "n": 0} for key in keys])
        assert {row["shown"] for row in one.take()} == {repr([ThirdStats(7, "x")] * 4 + [7])}


class RulesThen(lw.BroadcastProcessFunction):
    older = lw.BroadcastState(str, OldRule, renamed_from="rules")

    def process(self, row: dict[str, Any], ctx: lw.ProcessContext) -> None: ...

    def process_broadcast(self, row: dict[str, Any], ctx: lw.ProcessContext) -> None: ...


class RulesNow(NewRules):
    known = lw.BroadcastState(str, NewRule, renamed_from=("older", "rules"))


@pytest.mark.parametrize("skipped", [True, False])
def test_a_version_may_be_skipped_of_broadcast_state_too(skipped: bool) -> None:
    with with_rules(OldRules(), [], HarnessConfig()) as one:
        one.send([{"k": f"k{n}", "n": n} for n in range(3)], index=1)
        snapshots = [one.snapshot()]
    if not skipped:
        with with_rules(RulesThen(), snapshots, HarnessConfig()) as one:
            snapshots = [one.snapshot()]
    for number in range(2):
        with with_rules(RulesNow(), snapshots, HarnessConfig(subtask=number, parallelism=2)) as one:
            one.send([{"k": "x", "n": 0}])
            assert one.take()[0]["shown"] == repr([(f"k{n}", NewRule(n)) for n in range(3)])


class Both(lw.KeyedProcessFunction):
    one: lw.ValueState[int]
    two: lw.ValueState[int]
    first: lw.ListState[OldItem]
    second: lw.ListState[OldItem]
    stats: lw.ValueState[FirstStats]
    items: lw.ListState[FirstStats]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.one.value = self.two.value = row["n"]
        self.stats.value = FirstStats(row["n"])
        self.items.append(FirstStats(row["n"]))
        self.first.append(OldItem(1.0, "a"))
        self.second.append(OldItem(1.0, "b"))


class Together(NamedTuple):
    all: Annotated[str | None, lw.RenamedFrom(("a", "x"))] = None


def only(**states: Any) -> lw.KeyedProcessFunction:
    def process(self: Any, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...

    kind = type("Only", (lw.KeyedProcessFunction,), {**states, "process": process})
    return kind()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ({"now": lw.ValueState(int, renamed_from=("two", "one"))}, "'now' is said to have been 'two' and 'one'"),
        ({"now": lw.ListState(OldItem, renamed_from=("first", "second"))}, "been 'first' and 'second', and the chec"),
        ({"stats": lw.ValueState(Together)}, "table 'stats': column 'all' is said to have been 'a' and 'x'"),
        ({"items": lw.ListState(Together)}, "table 'items': column 'all' is said to have been 'a' and 'x'"),
        ({"now": lw.ValueState(int, renamed_from=("three", "four"))}, "been 'three' or 'four', but the checkpoint"),
    ],
    ids=["values", "lists", "field", "field of a list", "none"],
)
def test_old_names_of_which_several_or_none_are_there_are_refused(states: Any, said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        harness(only(**states), [saved(Both())], HarnessConfig())
    assert said in str(caught.value)
    assert caught.value.hint


class FieldsMoveUp(NamedTuple):
    x: Annotated[int, lw.RenamedFrom("a")]
    was_x: Annotated[str, lw.RenamedFrom("x")]


def test_fields_move_up_by_one_name_in_whichever_order_they_are_declared() -> None:
    class MovedUp(lw.KeyedProcessFunction):
        stats: lw.ValueState[FieldsMoveUp]
        items: lw.ListState[FieldsMoveUp]

        def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
            yield {"k": row["k"], "shown": repr([self.stats.value, *self.items])}

    snapshots = [saved(Both())]
    for _ in range(2):
        shown, snapshots = after(MovedUp(), snapshots, 0)
        assert shown == repr([FieldsMoveUp(1, "x")] * 2)


class FieldsExchanged(NamedTuple):
    a: Annotated[str, lw.RenamedFrom("x")]
    x: Annotated[str, lw.RenamedFrom("a")]


@pytest.mark.parametrize("wrong", ["", (), ("a", "a"), ("a", 3), 7])
def test_old_names_that_are_none_are_refused_where_they_are_written(wrong: Any) -> None:
    for make in (lambda: lw.ValueState(int, renamed_from=wrong), lambda: lw.RenamedFrom(wrong)):
        with pytest.raises(ConfigError, match="cannot be"):
            make()


class Exchanged(lw.KeyedProcessFunction):
    one = lw.ValueState(int, renamed_from="other")
    other = lw.ValueState(int, renamed_from="one")

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...


class Twice(lw.KeyedProcessFunction):
    one = lw.ValueState(int, renamed_from="total")
    other = lw.ValueState(int, renamed_from="total")

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (Exchanged(), "the states 'one', 'other' have exchanged their names"),
        (Twice(), "the states 'one' and 'other' are both said to have been 'total'"),
        (only(a=lw.ValueState(int, renamed_from=("b", "a"))), "of the states 'a' is said to have been 'a'"),
        (only(stats=lw.ValueState(FieldsExchanged)), "the fields of FieldsExchanged 'a', 'x' have exchanged"),
    ],
    ids=["exchanged", "twice", "itself", "fields"],
)
def test_old_names_that_do_not_tell_states_apart_are_refused(function: Any, said: str) -> None:
    with pytest.raises(GraphError, match=said):
        Process(Callee(function), (ProcessInput(SCHEMA, ("k",)),), RESULT, RESULT)


class ItemUnderTheOldName(NamedTuple):
    label: str = "new"
    title: Annotated[str, lw.RenamedFrom("label")] = "none"


class FieldUnderTheOldName(lw.KeyedProcessFunction):
    items: lw.ListState[ItemUnderTheOldName]
    by_name: lw.MapState[str, ItemUnderTheOldName]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
        yield {"k": row["k"], "shown": repr([list(self.items), dict(self.by_name)])}


def test_a_new_field_may_have_the_name_that_another_one_had() -> None:
    shown, again = after(FieldUnderTheOldName(), [saved(Before())], 0)
    assert shown == repr([[ItemUnderTheOldName("new", "label1")], {"x1": ItemUnderTheOldName("new", "m")}])
    assert after(FieldUnderTheOldName(), again, 0)[0] == shown


class WithAll(lw.KeyedProcessFunction):
    """A state of each kind, one of which lives for an hour."""

    value: lw.ValueState[int]
    aged = lw.ValueState(int, ttl="1h")
    listed: lw.ListState[OldItem]
    mapped: lw.MapState[str, int]
    most = lw.ReducingState(int, max)

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
        held = [self.value.value, self.aged.value, list(self.listed), dict(self.mapped), self.most.value]
        yield {"k": row["k"], "shown": repr(held)}
        self.value.value = self.aged.value = n = row["n"]
        self.listed.append(OldItem(n, "x"))
        self.mapped["m"] = n
        self.most.add(n)


class WithoutAny(lw.KeyedProcessFunction):
    other: lw.ValueState[int]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.other.value = row["n"]


@pytest.mark.parametrize("store", ["memory", "rocksdb"])
@pytest.mark.parametrize("parallelism", [1, 2])
def test_state_that_a_version_does_not_declare_is_found_again_by_the_version_that_does(
    store: Any, parallelism: int
) -> None:
    keys = [f"k{n}" for n in range(8)]
    with harness(WithAll(), [], HarnessConfig(store=store)) as one:
        one.send([{"k": key, "n": 5} for key in keys])
        snapshots = [one.snapshot()]
    for _ in range(2):  # two checkpoints of the version without
        between = []
        for number in range(parallelism):
            with harness(WithoutAny(), snapshots, HarnessConfig(number, parallelism, store=store)) as one:
                between.append(one.snapshot())
        snapshots = between
    with harness(WithAll(), snapshots, HarnessConfig(store=store)) as one:
        one.send([{"k": key, "n": 6} for key in keys])
        assert {row["shown"] for row in one.take()} == {repr([5, 5, [OldItem(5.0, "x")], {"m": 5}, 5])}


class ShowsRules(OldRules):
    def process(self, row: dict[str, Any], ctx: lw.ProcessContext) -> Any:
        yield {"k": row["k"], "shown": repr(sorted(self.rules.items()))}


class NoRules(lw.BroadcastProcessFunction):
    def process(self, row: dict[str, Any], ctx: lw.ProcessContext) -> None: ...

    def process_broadcast(self, row: dict[str, Any], ctx: lw.ProcessContext) -> None: ...


class OtherRules(NoRules):
    others: lw.BroadcastState[str, int]


NO_ENTRIES: list[tuple[str, OldRule]] = []


@pytest.mark.parametrize(
    ("without", "held"),
    [(OtherRules, [(f"k{n}", OldRule(n)) for n in range(3)]), (NoRules, NO_ENTRIES)],
    ids=["other state", "no state at all"],
)
def test_broadcast_state_that_is_not_declared_stays_while_the_function_has_state_at_all(
    without: Any, held: list[tuple[str, OldRule]]
) -> None:
    with with_rules(OldRules(), [], HarnessConfig()) as one:
        one.send([{"k": f"k{n}", "n": n} for n in range(3)], index=1)
        snapshots = [one.snapshot()]
    between = []
    for number in range(2):
        with with_rules(without(), snapshots, HarnessConfig(number, 2)) as one:
            between.append(one.snapshot())
    with with_rules(ShowsRules(), between, HarnessConfig()) as one:
        one.send([{"k": "x", "n": 0}])
        assert one.take()[0]["shown"] == repr(held)


class NoState(lw.KeyedProcessFunction):
    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...


def test_state_that_expires_while_no_version_declares_it_is_not_returned() -> None:
    with harness(WithAll(), [], HarnessConfig()) as one:
        one.send([{"k": "a", "n": 5}])
        saved = one.snapshot()
    with harness(NoState(), [saved], HarnessConfig()) as one:
        one.tick(30 * 60_000)
        saved = one.snapshot()
    for minutes, aged in ((59, 5), (61, None)):
        with harness(WithAll(), [saved], HarnessConfig()) as one:
            one.clock.advance_ms(minutes * 60_000)
            one.send([{"k": "a", "n": 6}])
            assert one.take()[0]["shown"].startswith(f"[5, {aged}, ")
