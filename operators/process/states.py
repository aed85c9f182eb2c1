"""Keyed state as functions of users declare and use it: typed, without pickle.

A state is an attribute of a function's class: an annotation (`seen: ValueState[int]`) or a declaration (`seen =
ValueState(int, ttl="1h")`). While a row of some key is handled, the attribute holds the state of that key.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NoReturn, TypeVar

from lakeward.engine.core.durations import Duration, parse_duration_us
from lakeward.engine.core.errors import ConfigError, UserCodeError
from lakeward.engine.core.expect import expect, refusal

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")
Added = TypeVar("Added")
Out = TypeVar("Out")

OUTSIDE_HINT = (
    "state belongs to a key: declare it in the class (seen: lw.ValueState[int]), not in __init__ or open, and use it "
    "where a row or a timer is handled"
)


@dataclass(frozen=True, slots=True)
class StateTtl:
    """How long state lives after it was written (or read) last; what has expired is never returned.

    Expired state is removed in the background, whether its key comes again or not. With processing time the clock
    counts, so the time during which a job is down counts, too. With event time the watermark does: a value written
    while a row of time t was handled expires when the watermark passes t + duration, however long the job is down.

    >>> StateTtl("1h", refresh="read").duration_us
    3600000000

    Args:
        duration: For example "1h".
        refresh: What begins the time anew: "write" (creation and update) or "read" (these and reading).
        time: "processing" or "event".

    Raises:
        ConfigError: The duration is not positive, or an option is none of those above.
    """

    duration: Duration
    refresh: Literal["write", "read"] = "write"
    time: Literal["processing", "event"] = "processing"

    def __post_init__(self) -> None:
        if self.refresh not in ("write", "read"):
            raise ConfigError(f"a TTL's refresh is {self.refresh!r}", hint='choose "write" or "read"')
        if self.time not in ("processing", "event"):
            raise ConfigError(f"a TTL's time is {self.time!r}", hint='choose "processing" or "event"')
        if self.duration_us <= 0:
            raise ConfigError(f"a TTL of {self.duration!r} keeps nothing", hint='give for example "1h"')

    @property
    def duration_us(self) -> int:
        """The duration in microseconds."""
        return parse_duration_us(self.duration, "ttl")


OldNames = str | Sequence[str] | None
"""What a state or field was called: a name, several, or none."""


def old_names(given: OldNames, what: str) -> tuple[str, ...]:
    """The names that something had.

    >>> old_names("total", "renamed_from"), old_names(["gross", "total"], "renamed_from"), old_names(None, "...")
    (('total',), ('gross', 'total'), ())

    Args:
        given: What the user said.
        what: Where, for the error.

    Raises:
        ConfigError: It is no name, or one is said twice.
    """
    if given is None:
        return ()
    hint = 'give the old name, "total", or several: ("gross", "total")'
    names = (given,) if isinstance(given, str) else given
    expect(names, (list, tuple), what, hint)
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise refusal(given, what, hint)
    return tuple(names)


@dataclass(frozen=True, slots=True)
class RenamedFrom:
    """Says in an annotation what a field was called in older checkpoints and savepoints.

    With several names, versions may be skipped: each of them takes the values over. Only one of them may be there.

    >>> import dataclasses
    >>> from typing import Annotated
    >>> @dataclasses.dataclass
    ... class Stats:
    ...     orders: Annotated[int, RenamedFrom("count")]
    ...     revenue: Annotated[float, RenamedFrom(("sum", "total"))]

    Args:
        name: The old name, or several.

    Raises:
        ConfigError: It is no name.
    """

    name: str | Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", old_names(self.name, "RenamedFrom"))  # hashed, as annotations are


class State:
    """Base of all states: what may be said of each.

    Args:
        ttl: How long values live: a `StateTtl`, or a duration after the last write, by the clock; None: until cleared.
        renamed_from: The name that the attribute had when a checkpoint or savepoint was taken, to take its values over;
            or several, of which each had it in some version. Only one of them may be there.

    Attributes:
        renamed_from: The old names.
    """

    def __init__(self, *, ttl: StateTtl | Duration | None = None, renamed_from: OldNames = None) -> None:
        self.ttl = ttl if ttl is None or isinstance(ttl, StateTtl) else StateTtl(ttl)
        self.renamed_from = old_names(renamed_from, "renamed_from")

    @abstractmethod
    def clear(self) -> None:
        """Forget what is held for the current key."""


def unbound(state: State) -> NoReturn:
    """A state is used where there is no key.

    Raises:
        UserCodeError: Always.
    """
    raise UserCodeError(f"a {type(state).__name__} is used where no row is being handled", hint=OUTSIDE_HINT)


def no_column() -> NoReturn:
    """A state is used as a column in a function of rows, or where nothing is handled.

    Raises:
        UserCodeError: Always.
    """
    raise UserCodeError(
        "a ValueState is used as a column where no batch of keys is being handled",
        hint="columns are for process_batch and on_timers of an lw.KeyedBatchFunction; functions of rows use .value",
    )


class ValueState(State, Generic[T]):
    """One value a key.

    >>> import lakeward as lw
    >>> class Numbered(lw.KeyedProcessFunction):
    ...     seen: lw.ValueState[int] = lw.ValueState(default=0)
    ...
    ...     def process(self, row: dict, ctx: lw.KeyedContext):
    ...         self.seen.value += 1
    ...         yield {"shop": row["shop"], "order": self.seen.value}
    >>> orders = lw.StreamExecutionEnvironment().from_collection([{"shop": "a"}, {"shop": "b"}, {"shop": "a"}])
    >>> numbered = orders.key_by("shop").process(Numbered(), returns={"shop": str, "order": int})
    >>> numbered.execute_and_collect().to_pylist()
    [{'shop': 'a', 'order': 1}, {'shop': 'b', 'order': 1}, {'shop': 'a', 'order': 2}]

    A dataclass, NamedTuple or TypedDict is stored field by field, so that fields can be added, dropped, widened and
    renamed later. Changing a value in place (`self.stats.value.count += 1`) is an update.

    Args:
        type: The value's, if the annotation does not say it; None for what is not there, so annotate
            `ValueState[int | None]` where there is no default.
        default: What `value` is where nothing is held.
        ttl: As in `StateTtl`.
        renamed_from: The attribute's old name, or several.
    """

    def __init__(
        self,
        type: Any = None,
        *,
        default: T | None = None,
        ttl: StateTtl | Duration | None = None,
        renamed_from: OldNames = None,
    ) -> None:
        super().__init__(ttl=ttl, renamed_from=renamed_from)
        self.type = type
        self.default = default

    @property
    def value(self) -> T:
        """The current key's value; the default where there is none. Setting it to None clears it."""
        unbound(self)

    @value.setter
    def value(self, value: T) -> None:
        unbound(self)

    @property
    def exists(self) -> bool:
        """Whether the current key has a value."""
        unbound(self)

    @property
    def column(self) -> Any:
        """In a vectorised function: the values of all keys of the batch, an Arrow array in the order of `ctx.keys`.

        Set it to an array or a list to hold these values instead; null clears.
        """
        no_column()

    @column.setter
    def column(self, values: Any) -> None:
        no_column()

    def update(self, values: Any, where: Any = None) -> None:
        """In a vectorised function: hold these values for the keys of the batch; null clears.

        Args:
            values: One a key, in the order of `ctx.keys`.
            where: A mask that says which keys to change; None: all.
        """
        no_column()

    def clear(self) -> None:
        """Forget the current key's value."""
        unbound(self)


class ListState(State, Generic[T]):
    """Any number of values a key, in the order in which they were added.

    >>> import lakeward as lw
    >>> def pairs(row: dict, held: lw.ListState[int]):
    ...     held.append(row["n"])
    ...     if len(held) == 2:
    ...         yield {"pair": list(held)}
    ...         held.clear()
    >>> rows = [{"k": 1, "n": n} for n in range(5)]
    >>> stream = lw.StreamExecutionEnvironment().from_collection(rows).key_by("k")
    >>> stream.process(pairs, returns={"pair": list[int]}).execute_and_collect()["pair"].to_pylist()
    [[0, 1], [2, 3]]

    Appending reads nothing. Reading brings the lists of all keys of a batch into memory, whole. Values are not to be
    changed in place: `replace` the list instead.

    Args:
        type: The values', if the annotation does not say it.
        ttl: As in `StateTtl`, for each value by itself; reading the list refreshes none.
        renamed_from: The attribute's old name, or several.
    """

    def __init__(
        self, type: Any = None, *, ttl: StateTtl | Duration | None = None, renamed_from: OldNames = None
    ) -> None:
        super().__init__(ttl=ttl, renamed_from=renamed_from)
        self.type = type

    def append(self, value: T) -> None:
        """Add a value to the current key's list."""
        unbound(self)

    def extend(self, values: Iterable[T]) -> None:
        """Add values to the current key's list."""
        for value in values:
            self.append(value)

    def replace(self, values: Iterable[T]) -> None:
        """Hold these values instead."""
        unbound(self)

    def clear(self) -> None:
        """Forget the current key's list."""
        unbound(self)

    def __iter__(self) -> Iterator[T]:
        unbound(self)

    def __len__(self) -> int:
        unbound(self)

    def __getitem__(self, index: int) -> T:
        return list(self)[index]


class DictState(State, MutableMapping[K, V]):
    """A state that is used as a dict: what `MapState` and `BroadcastState` have in common.

    Args:
        key: The keys' type, if the annotation does not say it.
        value: The values'.
        ttl: As in `StateTtl`, for each entry by itself.
        renamed_from: The attribute's old name, or several.
    """

    def __init__(
        self,
        key: Any = None,
        value: Any = None,
        *,
        ttl: StateTtl | Duration | None = None,
        renamed_from: OldNames = None,
    ) -> None:
        super().__init__(ttl=ttl, renamed_from=renamed_from)
        self.key = key
        self.value = value

    def __getitem__(self, key: K) -> V:
        unbound(self)

    def __setitem__(self, key: K, value: V) -> None:
        unbound(self)

    def __delitem__(self, key: K) -> None:
        unbound(self)

    def __iter__(self) -> Iterator[K]:
        unbound(self)

    def __len__(self) -> int:
        unbound(self)

    def setdefault(self, key: K, default: Any = None) -> Any:
        """An entry's value, which is set where there is none."""
        if key not in self:
            self[key] = default
        return self[key]  # not what was given: it may be another one when it is stored

    def clear(self) -> None:
        """Forget all entries."""
        unbound(self)


class MapState(DictState[K, V]):
    """A dict a key.

    >>> import lakeward as lw
    >>> def changes(row: dict, last: lw.MapState[str, float]):
    ...     before = last.get(row["item"])
    ...     if before is not None and before != row["price"]:
    ...         yield {"item": row["item"], "change": row["price"] - before}
    ...     last[row["item"]] = row["price"]
    >>> rows = [{"shop": 1, "item": "tea", "price": price} for price in (3.0, 3.0, 2.5)]
    >>> stream = lw.StreamExecutionEnvironment().from_collection(rows).key_by("shop")
    >>> stream.process(changes, returns={"item": str, "change": float}).execute_and_collect().to_pylist()
    [{'item': 'tea', 'change': -0.5}]

    The map of a key is brought into memory whole when it is touched; only entries that change are written. Values are
    not to be changed in place: assign them anew.

    Args:
        key: The keys' type, if the annotation does not say it.
        value: The values'.
        ttl: As in `StateTtl`, for each entry by itself; reading an entry refreshes it if `refresh="read"`.
        renamed_from: The attribute's old name, or several.
    """


class BroadcastState(DictState[K, V]):
    """A dict that every subtask of a `BroadcastProcessFunction` has a copy of; only `process_broadcast` may change it.

    >>> import lakeward as lw
    >>> class Rules(lw.BroadcastProcessFunction):
    ...     limits: lw.BroadcastState[str, float]
    ...
    ...     def process(self, row: dict, ctx: lw.ProcessContext):
    ...         if row["amount"] > self.limits.get(row["shop"], 100.0):
    ...             yield row
    ...
    ...     def process_broadcast(self, row: dict, ctx: lw.ProcessContext):
    ...         self.limits[row["shop"]] = row["limit"]
    >>> env = lw.StreamExecutionEnvironment()
    >>> orders = env.from_collection([{"shop": "a", "amount": 120.0}, {"shop": "a", "amount": 80.0}])
    >>> limits = env.from_collection([{"shop": "b", "limit": 10.0}]).broadcast()
    >>> orders.connect(limits).process(Rules(), returns=orders.schema).execute_and_collect()["amount"].to_pylist()
    [120.0]

    It lies in memory whole, in each subtask; a checkpoint holds it once. Values are not to be changed in place.

    Args:
        key: The keys' type, if the annotation does not say it; not nested.
        value: The values'.
        renamed_from: The attribute's old name, or several.
    """

    def __init__(self, key: Any = None, value: Any = None, *, renamed_from: OldNames = None) -> None:
        super().__init__(key, value, renamed_from=renamed_from)


class ReducingState(State, Generic[T]):
    """One value a key, into which others are folded.

    >>> import lakeward as lw
    >>> class Highest(lw.KeyedProcessFunction):
    ...     most = lw.ReducingState(int, max)
    ...
    ...     def process(self, row: dict, ctx: lw.KeyedContext):
    ...         self.most.add(row["n"])
    ...         yield {"most": self.most.value}
    >>> stream = lw.StreamExecutionEnvironment().from_collection([{"k": 1, "n": n} for n in (3, 1, 7)])
    >>> stream.key_by("k").process(Highest(), returns={"most": int}).execute_and_collect()["most"].to_pylist()
    [3, 3, 7]

    Args:
        type: The values' type.
        function: Takes what is held and a new value, and returns what is to be held.
        ttl: As in `StateTtl`.
        renamed_from: The attribute's old name, or several.
    """

    def __init__(
        self,
        type: Any,
        function: Callable[[T, T], T],
        *,
        ttl: StateTtl | Duration | None = None,
        renamed_from: OldNames = None,
    ) -> None:
        super().__init__(ttl=ttl, renamed_from=renamed_from)
        self.type = type
        self.function = function

    def add(self, value: T) -> None:
        """Fold a value into what is held; the first one is held as it is."""
        unbound(self)

    @property
    def value(self) -> T | None:
        """What is held; None: nothing was added yet."""
        unbound(self)

    def clear(self) -> None:
        """Forget what is held for the current key."""
        unbound(self)


class AggregatingState(State, Generic[Added, Out]):
    """An accumulator a key, of a type of its own.

    >>> import lakeward as lw
    >>> class Mean(lw.KeyedProcessFunction):
    ...     mean = lw.AggregatingState(
    ...         {"total": float, "count": int},
    ...         create=lambda: {"total": 0.0, "count": 0},
    ...         add=lambda acc, x: {"total": acc["total"] + x, "count": acc["count"] + 1},
    ...         result=lambda acc: acc["total"] / acc["count"],
    ...     )
    ...
    ...     def process(self, row: dict, ctx: lw.KeyedContext):
    ...         self.mean.add(row["n"])
    ...         yield {"mean": self.mean.value}
    >>> stream = lw.StreamExecutionEnvironment().from_collection([{"k": 1, "n": n} for n in (3, 1, 5)])
    >>> stream.key_by("k").process(Mean(), returns={"mean": float}).execute_and_collect()["mean"].to_pylist()
    [3.0, 2.0, 3.0]

    Args:
        accumulator: The accumulator's type.
        create: Makes an empty one.
        add: Takes an accumulator and a value, and returns the new accumulator.
        result: What an accumulator amounts to.
        ttl: As in `StateTtl`.
        renamed_from: The attribute's old name, or several.
    """

    def __init__(
        self,
        accumulator: Any,
        *,
        create: Callable[[], Any],
        add: Callable[[Any, Added], Any],
        result: Callable[[Any], Out],
        ttl: StateTtl | Duration | None = None,
        renamed_from: OldNames = None,
    ) -> None:
        super().__init__(ttl=ttl, renamed_from=renamed_from)
        self.accumulator = accumulator
        self.create = create
        self.fold = add
        self.result = result

    def add(self, value: Added) -> None:
        """Add a value to the current key's accumulator."""
        unbound(self)

    @property
    def value(self) -> Out | None:
        """The result of the current key's accumulator; None: nothing was added yet."""
        unbound(self)

    def clear(self) -> None:
        """Forget the current key's accumulator."""
        unbound(self)
