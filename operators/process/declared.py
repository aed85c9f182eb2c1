"""What a function of the user's declares: its states, found in annotations, attributes and parameters."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_args, get_origin

from lakeward.engine.api.row_types import is_row_class, resolve_annotation
from lakeward.engine.core.errors import GraphError, LakewardError, SchemaError
from lakeward.engine.core.expect import user_location
from lakeward.operators.function_names import function_name, plain_function
from lakeward.operators.process.forms import ValueForm, unhashable
from lakeward.operators.process.states import (
    AggregatingState,
    BroadcastState,
    DictState,
    ListState,
    MapState,
    ReducingState,
    State,
    StateTtl,
    ValueState,
)
from lakeward.operators.signatures import scope_of

_TYPE_HINT = "say it in brackets: ValueState[int], ListState[float], MapState[str, int]; or as the first argument"


@dataclass(frozen=True, slots=True)
class Declared:
    """A state with its name and type.

    Args:
        name: The attribute or parameter.
        state: What was said of it.
        form: The values' type.
        key_form: The type of a map's keys; None for other states.
    """

    name: str
    state: State
    form: ValueForm
    key_form: ValueForm | None = None

    @property
    def ttl(self) -> StateTtl | None:
        """How long its values live."""
        return self.state.ttl

    @property
    def table(self) -> str:
        """The name of its table in checkpoints."""
        return self.name

    @property
    def old_tables(self) -> tuple[str, ...]:
        """Its names in older checkpoints."""
        return self.state.renamed_from


def states_of_class(function_class: type) -> dict[str, Declared]:
    """The states that a class declares, those of its bases too.

    >>> class Counts:
    ...     seen: ValueState[int]
    ...     texts = ListState(str, ttl="1h")
    >>> {name: one.form.description for name, one in states_of_class(Counts).items()}
    {'seen': 'int64', 'texts': 'string'}

    Raises:
        SchemaError: A state's type is not known, or has no Arrow type; names it.
    """
    found: dict[str, tuple[State | None, Any]] = {}
    for base in reversed(function_class.__mro__):
        hints = _hints(base)
        for name in {**hints, **{n: v for n, v in vars(base).items() if isinstance(v, State)}}:
            given = _given(base, name)
            if isinstance(given, State) or _state_class(hints.get(name)) is not None:
                found[name] = (given if isinstance(given, State) else None, hints.get(name))
            else:
                found.pop(name, None)
    return {name: declared(name, state, hint, function_class.__qualname__) for name, (state, hint) in found.items()}


def _given(base: type, name: str) -> Any:
    """What a class says of an attribute; a dataclass with slots says it of its field alone."""
    given = vars(base).get(name)
    field = vars(base).get("__dataclass_fields__", {}).get(name)
    return field.default if inspect.ismemberdescriptor(given) and field is not None else given


def refuse_state_arguments(function_class: type) -> None:
    """Refuse a dataclass of which a state is a field without a value: its constructor would want the state.

    Raises:
        GraphError: It is; says how to declare it.
    """
    if not dataclasses.is_dataclass(function_class):
        return
    wanted = inspect.signature(function_class.__init__).parameters
    hints = {name: hint for base in reversed(function_class.__mro__) for name, hint in _hints(base).items()}
    for field in dataclasses.fields(function_class):
        kind = _state_class(hints.get(field.name))
        given = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if kind is None or given or field.name not in wanted:
            continue
        raise GraphError(
            f"{function_class.__qualname__} is a dataclass, and so its constructor wants the state '{field.name}'",
            hint=f"declare it as none of its fields: {field.name} = lw.{kind.__name__}(...), "
            f"or {field.name}: ClassVar[lw.{kind.__name__}[...]]",
            location=user_location(),
        )


def states_of_function(function: Callable[..., Any], hints: Mapping[str, Any]) -> dict[str, Declared]:
    """The states that a plain function takes as parameters: annotated, perhaps with a declaration as the default.

    Args:
        function: The user's.
        hints: The resolved annotations of its parameters.

    Raises:
        SchemaError: A state's type is not known, or has no Arrow type; names it.
    """
    found: dict[str, Declared] = {}
    for name, parameter in inspect.signature(plain_function(function)).parameters.items():
        given = parameter.default if isinstance(parameter.default, State) else None
        if given is not None or _state_class(hints.get(name)) is not None:
            found[name] = declared(name, given, hints.get(name), function_name(function))
    return found


def declared(name: str, state: State | None, hint: Any, owner: str) -> Declared:
    """One state, from its annotation, its declaration, or both."""
    kind = _state_class(hint)
    if state is None:
        assert kind is not None, "one of them says that it is a state"
        if kind not in (ValueState, ListState, MapState, BroadcastState):
            said = "a function" if kind is ReducingState else "functions"
            raise GraphError(
                f"{owner}: state '{name}' is a {kind.__name__}, which needs {said}",
                hint=f"declare it: {name} = lw.{kind.__name__}(...)",
            )
        state = kind()
    elif kind is not None and not isinstance(state, kind):
        raise GraphError(f"{owner}: '{name}' is annotated {kind.__name__}, but is a {type(state).__name__}")
    what = f"state '{name}'"
    args = get_args(_bare(hint)) if kind is not None else ()
    try:
        types = _types(state, args)
        if any(one is None for one in types):
            raise SchemaError(f"the type of {what} is not known", hint=_TYPE_HINT)
        if isinstance(state, DictState):
            _check_hash(types[0], what)
        forms = [ValueForm(one, what, none) for one, none in zip(types, _none_is_a_value(state), strict=True)]
        if isinstance(state, ValueState) and state.default is not None:
            _check_default(forms[0], state.default, what)
    except LakewardError as error:
        raise SchemaError(f"{owner}: {error.message}", hint=error.hint or _TYPE_HINT) from None
    return Declared(name, state, forms[-1], forms[0] if len(forms) > 1 else None)


def _check_default(form: ValueForm, default: Any, what: str) -> None:
    try:
        form.arrays([default])
    except LakewardError as error:
        raise SchemaError(f"the default of {what} does not fit: {error.message}", hint=error.hint) from None


def _check_hash(hint: Any, what: str) -> None:
    wrong = unhashable(hint)
    if wrong is not None:
        shown = wrong.__qualname__ if is_row_class(wrong) else wrong
        raise SchemaError(
            f"keys of {what} cannot be keys of a dict: a {shown} has no hash in Python",
            hint="use a tuple[int, ...], a NamedTuple or a dataclass(frozen=True), with such fields alone",
        )


def _none_is_a_value(state: State) -> list[bool]:
    """Of a state's types: whether None is a value like others, and does not mean that nothing is held."""
    if isinstance(state, MapState):
        return [True, True]
    if isinstance(state, BroadcastState):  # rows are found by its keys, which may not be null
        return [False, True]
    return [isinstance(state, ListState)]


def _types(state: State, args: tuple[Any, ...]) -> list[Any]:
    """The types of a state's parts: as declared, else as annotated."""
    first = args[0] if args else None
    if isinstance(state, DictState):
        second = args[1] if len(args) > 1 else None
        return [_or(state.key, first), _or(state.value, second)]
    if isinstance(state, AggregatingState):
        return [state.accumulator]
    if isinstance(state, ValueState | ListState | ReducingState):
        return [_or(state.type, first)]
    raise SchemaError(f"there is no state of class {type(state).__name__}", hint=_TYPE_HINT)


def _or(given: Any, annotated: Any) -> Any:
    return annotated if given is None else given


def _state_class(hint: Any) -> type[State] | None:
    origin = get_origin(_bare(hint)) or _bare(hint)
    return origin if isinstance(origin, type) and issubclass(origin, State) else None


def _bare(hint: Any) -> Any:
    """An annotation without the `ClassVar` around it, which keeps it out of the fields of a dataclass."""
    return get_args(hint)[0] if get_origin(hint) is ClassVar else hint


def _hints(base: type) -> dict[str, Any]:
    """The resolved annotations of a class itself, as far as they may name a state.

    Raises:
        GraphError: One that looks like a state's cannot be resolved.
    """
    hints: dict[str, Any] = vars(base).get("__annotations__", {})
    scope: dict[str, Any] | None = None
    found: dict[str, Any] = {}
    for name, hint in hints.items():
        if isinstance(hint, str) and "State" in hint:
            scope = _scope(base) if scope is None else scope
            found[name] = resolve_annotation(hint, scope, f"{base.__qualname__}.{name}")
        else:
            found[name] = None if isinstance(hint, str) else hint
    return found


def _scope(base: type) -> dict[str, Any]:
    """The names that a class's annotations may use: its module's, and those that its methods can see."""
    names = dict(vars(sys.modules.get(base.__module__, sys.modules["builtins"])))
    for method in vars(base).values():
        if inspect.isfunction(method):
            names |= scope_of(method)
    return names
