"""How a process function is called: which parameters it has, and what rows it takes and makes."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, get_origin

import pyarrow as pa

from lakeward.engine.api.row_types import is_row_class
from lakeward.engine.core.errors import GraphError, UserCodeError
from lakeward.engine.core.redaction import short
from lakeward.operators.function_names import function_name
from lakeward.operators.process.contexts import FunctionContext
from lakeward.operators.process.declared import Declared, states_of_class, states_of_function
from lakeward.operators.process.functions import Function, KeyedBatchFunction
from lakeward.operators.process.renames import in_opening_order
from lakeward.operators.process.states import BroadcastState, ValueState
from lakeward.operators.rows import ColumnReader, RowReader
from lakeward.operators.signatures import hints_of

_CONTEXT = "ctx"


class TupleReader:
    """Makes plain tuples of batches' rows, in the order of the columns.

    >>> list(TupleReader(pa.schema({"a": pa.int64()})).chunks(pa.record_batch({"a": [1, 2]})))
    [[(1,), (2,)]]

    Args:
        schema: The batches' schema.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._reader = ColumnReader(schema.names)

    def chunks(self, batch: pa.RecordBatch) -> Iterator[list[Any]]:
        """The rows of a batch, some hundred at a time."""
        return (list(zip(*lists, strict=True)) for lists, _ in self._reader.chunks(batch))


class Reader(Protocol):
    """Makes of batches what a function is called with."""

    def chunks(self, batch: pa.RecordBatch) -> Iterator[list[Any]]:
        """The rows of a batch, some at a time."""


def reader_of(schema: pa.Schema, hint: Any) -> Reader:
    """Makes the rows that an annotation names; dicts if it names none.

    Raises:
        SchemaError: They do not fit the schema.
    """
    if hint is tuple or get_origin(hint) is tuple:
        return TupleReader(schema)
    return RowReader(schema, hint if is_row_class(hint) else None)


@dataclass(frozen=True, slots=True)
class Handler:
    """One way into a function.

    Args:
        function: The bound method, or the plain function with its states filled in.
        takes_context: Whether the context is its second argument.
    """

    function: Callable[..., Any]
    takes_context: bool


def method_of(function: Callable[..., Any], given: Sequence[str] = ("row",)) -> Handler:
    """A method that gets a row, what stands for one, or a time; and the context.

    Args:
        function: The method.
        given: What it gets before the context.

    Raises:
        GraphError: It takes other arguments.
    """
    _refuse_async(function)
    hint = f"it gets ({', '.join(['self', *given, _CONTEXT])})"
    _check_call(function, (None,) * (len(given) + 1), {}, hint)
    return Handler(function if len(given) == 1 else _of_one(function), takes_context=True)


def plain_of(
    function: Callable[..., Any], states: Mapping[str, Any], context: Any, given: Sequence[str] = ("row",)
) -> Handler:
    """A plain function that gets a row, or what stands for one, and by name its states and the context.

    Raises:
        GraphError: It takes other arguments.
    """
    _refuse_async(function)
    named = dict(states)
    if _CONTEXT in inspect.signature(function).parameters:
        named[_CONTEXT] = context
    hint = f"it gets ({', '.join(given)}); its other parameters are the context (ctx) and states (lw.ValueState[int])"
    _check_call(function, (None,) * len(given), named, hint)
    call = functools.partial(function, **named) if named else function
    return Handler(call if len(given) == 1 else _of_one(call), takes_context=False)


def _of_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, taking its arguments before the context as one tuple."""

    def call(given: tuple[Any, ...], *context: Any) -> Any:
        return function(*given, *context)

    call.__wrapped__ = function  # type: ignore[attr-defined]  # so that errors name the user's function
    return call


def _refuse_async(function: Callable[..., Any]) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise GraphError(f"{function_name(function)} is async", hint="a process function is a plain function")


def _check_call(function: Callable[..., Any], given: tuple[Any, ...], named: Mapping[str, Any], hint: str) -> None:
    try:
        inspect.signature(function).bind(*given, **named)
    except TypeError as error:
        raise GraphError(f"{function_name(function)} cannot be called: {error}", hint=hint) from error


@dataclass(frozen=True, slots=True)
class Callee:
    """A process function: an object of a class, or a plain function.

    Args:
        function: What the user gave.
        methods: The names of the methods that get rows, one an input; a plain function gets the rows of the only one.
    """

    function: Any
    methods: tuple[str, ...] = ("process",)

    @property
    def given(self) -> tuple[str, ...]:
        """What the function gets before the context."""
        return ("batch",) if self.vectorised else ("row",)

    @property
    def of_windows(self) -> bool:
        """Whether it gets windows, which come because of a watermark that follows them."""
        return False

    def failing_columns(self, schema: pa.Schema) -> dict[str, str]:
        """The input's columns that a side output of failed rows has, with their names there."""
        return {name: name for name in schema.names}

    @property
    def is_class(self) -> bool:
        """Whether it is an object with methods."""
        return isinstance(self.function, Function)

    @property
    def states(self) -> dict[str, Declared]:
        """The states that it declares.

        Raises:
            SchemaError: A state's type is not known, or has no Arrow type.
        """
        if self.is_class:
            return states_of_class(type(self.function))
        return states_of_function(self.function, hints_of(self.function))

    def check_states(self, keyed: bool) -> None:
        """Refuse states that cannot be stored, or that cannot be where they are.

        Raises:
            SchemaError: A state's type is not known, or has no Arrow type.
            GraphError: There is no key, or nothing is broadcast, or old names do not tell states apart.
        """
        states = self.states
        in_opening_order(states)
        for name, one in states.items():
            if self.vectorised and not isinstance(one.state, ValueState):
                kind = type(one.state).__name__
                hint = "use several ValueStates, or a KeyedProcessFunction"
                raise GraphError(
                    f"the state '{name}' is a {kind}; a vectorised function has ValueStates only", hint=hint
                )
            if isinstance(one.state, BroadcastState) and not self.broadcasts:
                hint = "connect with stream.broadcast(), for an lw.BroadcastProcessFunction"
                raise GraphError(f"the state '{name}' is a BroadcastState, but nothing is broadcast", hint=hint)
            if not isinstance(one.state, BroadcastState) and not keyed:
                hint = 'state belongs to a key: .key_by("shop").process(...)'
                raise GraphError(f"the state '{name}' needs a key, and the stream has none", hint=hint)

    @property
    def _timer_method(self) -> str:
        return "on_timers" if self.vectorised else "on_timer"

    @property
    def _timer_given(self) -> tuple[str, ...]:
        return ("timers",) if self.vectorised else ("timestamp",)

    @property
    def vectorised(self) -> bool:
        """Whether it takes whole batches."""
        return isinstance(self.function, KeyedBatchFunction)

    @property
    def broadcasts(self) -> bool:
        """Whether the second input is broadcast."""
        return "process_broadcast" in self.methods

    def entry(self, index: int) -> Callable[..., Any]:
        """What gets the rows of an input."""
        entry: Callable[..., Any] = getattr(self.function, self.methods[index]) if self.is_class else self.function
        return entry

    @property
    def timer_entry(self) -> Callable[..., Any]:
        """What gets timers; a plain function gets none."""
        entry: Callable[..., Any] = getattr(self.function, self._timer_method, self.function)
        return entry

    def readers(self, schemas: Sequence[pa.Schema]) -> Sequence[Reader]:
        """Makes the rows of each input."""
        hints = (next(iter(hints_of(self.entry(index)).values()), None) for index in range(len(schemas)))
        return [reader_of(schema, hint) for schema, hint in zip(schemas, hints, strict=True)]

    def check(self, timers: bool) -> None:
        """Refuse what cannot be called.

        Args:
            timers: Whether there may be timers.

        Raises:
            GraphError: A method or function takes other arguments than it gets.
        """
        if not self.is_class:
            plain_of(self.function, self.states, None, self.given)
            return
        for index in range(len(self.methods)):
            method_of(self.entry(index), self.given)
        if timers:
            method_of(getattr(self.function, self._timer_method), self._timer_given)

    def bound(self, states: Mapping[str, Any], context: FunctionContext) -> Bound:
        """A copy for one subtask, with its states."""
        if not self.is_class:
            return Bound(None, [plain_of(self.function, states, context, self.given)])
        function = copy.copy(self.function)
        for name, state in states.items():
            object.__setattr__(function, name, state)
        handlers = [method_of(getattr(function, name), self.given) for name in self.methods]
        on_timer = getattr(function, self._timer_method, None)
        timer = None if on_timer is None else method_of(on_timer, self._timer_given)
        return Bound(function, handlers, timer, dict(states))


@dataclass(frozen=True, slots=True)
class Bound:
    """A function in one subtask.

    Args:
        function: The copy of the user's object; None for a plain function.
        handlers: What gets the rows of each input.
        on_timer: What gets timers; None: nothing.
        states: The states that the object has, by name.
    """

    function: Function | None
    handlers: Sequence[Handler]
    on_timer: Handler | None = None
    states: Mapping[str, Any] = field(default_factory=dict)

    def open(self, context: FunctionContext) -> None:
        """Tell the function that rows will come."""
        if self.function is not None:
            self.function.open(context)

    def check_states(self) -> None:
        """Find out that the user's code has put something else in a state's place: it would be kept nowhere.

        Raises:
            UserCodeError: It has.
        """
        for name, state in self.states.items():
            found = getattr(self.function, name, None)
            if found is not state:
                how = f"self.{name}.value = ..." if isinstance(state, ValueState) else f"what self.{name} can do"
                raise UserCodeError(
                    f"{function_name(self.handlers[0].function)} has replaced its state '{name}' by {short(found)}",
                    hint=f"what is held is changed by {how}; the attribute itself stays",
                )

    def close(self) -> None:
        """Tell the function that none will come any more."""
        if self.function is not None:
            self.function.close()
