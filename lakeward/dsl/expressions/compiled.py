"""A compiled part of an expression: its type and a closure over Arrow kernels, with errors that name the values.

A rule (one a function, in the sibling modules) checks its arguments' types and calls `apply` with a kernel. `apply`
learns the result's type by running the kernel over zero rows: the type that was promised and the type that comes are
the same by construction, whatever Arrow's own promotion does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakeward.dsl.expressions.nodes import Call, Column, Node, operand
from lakeward.dsl.expressions.types import adapt, common_of, plain
from lakeward.engine.api.expression import Frame
from lakeward.engine.core.errors import GraphError, LakewardError, RecordError, SchemaError, UserCodeError
from lakeward.engine.core.redaction import FailedRow

Kernel = Callable[..., Any]
Run = Callable[[Frame], Any]

FAILURES = (UserCodeError, RecordError)
"""What is raised for a row that cannot be computed."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What binding makes of a node.

    Args:
        node: Where it comes from, for errors.
        type: The type of what `run` returns.
        run: Computes the array of a frame's batch; for a constant the scalar, whatever the batch.
        constant: The value when it is the same for every row.
        weak: A constant that takes the type of what it meets.
        costly: Whether it is worth choosing the rows first (see `Function.costly`).
    """

    node: Node
    type: pa.DataType
    run: Run
    constant: pa.Scalar | None = None
    weak: bool = False
    costly: bool = False


def constant(node: Node, value: pa.Scalar, weak: bool) -> Compiled:
    """A part that is the same for every row."""
    return Compiled(node, value.type, lambda frame: value, value, weak)


def reference(node: Column, kind: pa.DataType) -> Compiled:
    """A column of the input."""
    name = node.name
    return Compiled(node, kind, lambda frame: frame.batch.column(name))


def shared(part: Compiled) -> Compiled:
    """The same part, computed once a frame however often it is asked for."""
    key, compute = object(), part.run

    def run(frame: Frame) -> Any:
        found = frame.shared.get(key)
        if found is None:
            found = frame.shared[key] = compute(frame)
        return found

    return replace(part, run=run, costly=False)


def kernel(name: str, options: Any = None) -> Kernel:
    """An Arrow function with its options, ready to call."""
    call = pc.get_function(name).call
    return lambda *arrays: call(list(arrays), options)


def apply(node: Node, function: Kernel, args: Sequence[Compiled], hint: str = "") -> Compiled:
    """The kernel's results over the arguments' results.

    Args:
        node: The call, for errors.
        function: Takes as many arrays (or scalars, for constants, but never only scalars) as there are arguments.
        args: The arguments, of types that the kernel takes.
        hint: What to do where the kernel does not take these types.

    Raises:
        SchemaError: The kernel has no rule for the types.
        GraphError: All arguments are constants, and computing the result fails.
    """
    if all(arg.constant is not None for arg in args):
        return _fold(node, function, args)
    try:
        kind = function(*(_empty(arg) for arg in args)).type
    except pa.ArrowException as error:
        raise mismatch(node, args, f"Arrow cannot compute this: {error}", hint) from error
    return Compiled(node, kind, _runner(node, function, args), costly=costly(node, args))


def costly(node: Node, args: Sequence[Compiled]) -> bool:
    """Whether a call is worth choosing its rows first: it is costly itself, or needs something that is."""
    return (isinstance(node, Call) and node.function.costly) or any(arg.costly for arg in args)


def _empty(arg: Compiled) -> Any:
    return pa.array([], arg.type) if arg.constant is None else arg.constant


def _fold(node: Node, function: Kernel, args: Sequence[Compiled]) -> Compiled:
    try:
        value = function(*(pa.repeat(arg.constant, 1) for arg in args))[0]
    except pa.ArrowNotImplementedError as error:
        raise mismatch(node, args, f"Arrow cannot compute this: {error}") from error
    except pa.ArrowException as error:
        raise GraphError(f"{node} cannot be computed: {error}") from error
    return constant(node, value, all(arg.weak for arg in args))


def _runner(node: Node, function: Kernel, args: Sequence[Compiled]) -> Run:
    if len(args) == 1:
        return _unary_runner(node, function, args)
    if len(args) == 2:
        return _binary_runner(node, function, args)
    runs = [arg.run for arg in args]

    def run(frame: Frame) -> Any:
        values = [each(frame) for each in runs]
        try:
            return function(*values)
        except pa.ArrowException as error:
            raise failure(node, function, args, values, error) from error

    return run


def _unary_runner(node: Node, function: Kernel, args: Sequence[Compiled]) -> Run:
    first = args[0].run

    def run(frame: Frame) -> Any:
        value = first(frame)
        try:
            return function(value)
        except pa.ArrowException as error:
            raise failure(node, function, args, [value], error) from error

    return run


def _binary_runner(node: Node, function: Kernel, args: Sequence[Compiled]) -> Run:
    left, right = args[0].run, args[1].run

    def run(frame: Frame) -> Any:
        x, y = left(frame), right(frame)
        try:
            return function(x, y)
        except pa.ArrowException as error:
            raise failure(node, function, args, [x, y], error) from error

    return run


def failure(
    node: Node, function: Kernel, args: Sequence[Compiled], values: Sequence[Any], error: pa.ArrowException
) -> LakewardError:
    """The error of a row that a kernel could not compute: finds the row by bisection and shows its values."""
    row = _first_failing_row(function, values)
    operands = {
        operand(arg.node): value[row].as_py()
        for arg, value in zip(args, values, strict=True)
        if isinstance(value, pa.Array)
    }
    reason, hint = _explain(str(error))
    kind = RecordError if isinstance(node, Call) and node.function.decodes else UserCodeError
    return kind(f"{node}: {reason}", hint=hint, rows=[FailedRow(operands, row, "for", operands=True)])


def _first_failing_row(function: Kernel, values: Sequence[Any]) -> int:
    low, high = 0, max(len(value) for value in values if isinstance(value, pa.Array))
    while high - low > 1:
        middle = (low + high) // 2
        part = [value.slice(low, middle - low) if isinstance(value, pa.Array) else value for value in values]
        try:
            function(*part)
            low = middle
        except pa.ArrowException:
            high = middle
    return low


def _explain(message: str) -> tuple[str, str]:
    """Arrow's message in plain words, and what helps."""
    lowered = message.lower()
    if "divide by zero" in lowered:
        return "division by zero", "turn zeros into null first: a // b.null_if(0), or choose rows with when(b != 0)"
    if lowered.startswith("overflow"):
        return "integer overflow", 'widen an operand first: .cast("int64"), .cast("double") or .cast("decimal(38, 0)")'
    if "parse" in lowered or "not in range" in lowered or "lose data" in lowered or "data loss" in lowered:
        return message, 'errors="null" turns such values into null'
    if "ambiguous in timezone" in lowered or "doesn't exist in timezone" in lowered:
        return message, 'clocks were changed then: say which is meant, ambiguous="earliest", nonexistent="latest"'
    return message, ""


def mismatch(node: Node, args: Sequence[Compiled], problem: str, hint: str = "") -> SchemaError:
    """The error of operands whose types do not fit: names the expression, the operands and their types."""
    listed = ", ".join(f"{operand(arg.node)} is {arg.type}" for arg in args)
    return SchemaError(f"{node}: {problem} ({listed})", hint=hint)


def normal(arg: Compiled) -> Compiled:
    """An argument as kernels want it: dictionaries decoded, views and half floats widened."""
    return convert(arg, plain(arg.type))


def convert(arg: Compiled, kind: pa.DataType) -> Compiled:
    """The same values in another type that holds them (integers beyond 2^53 are rounded when they become floats)."""
    if arg.type.equals(kind):
        return arg
    options = pc.CastOptions(kind, allow_float_truncate=True)
    if arg.constant is not None:
        return constant(arg.node, pc.cast(arg.constant, options=options), arg.weak)
    return apply(arg.node, kernel("cast", options), [arg])


def unify(node: Node, args: Sequence[Compiled], hint: str = "") -> list[Compiled]:
    """All arguments in their common type; constants without a type of their own give way to the others.

    Raises:
        SchemaError: There is no common type.
    """
    strong = [arg.type for arg in args if not arg.weak]
    target = common_of(strong) if strong else None
    if strong and target is None:
        raise mismatch(node, args, "the operands have no common type", hint or cast_hint(args))
    adapted = [_adapted(arg, target) for arg in args]
    found = common_of([arg.type for arg in adapted])
    if found is None:
        raise mismatch(node, args, "the operands have no common type", hint or cast_hint(args))
    return [convert(arg, found) for arg in adapted]


def _adapted(arg: Compiled, target: pa.DataType | None) -> Compiled:
    if target is None or not arg.weak or arg.constant is None:
        return arg
    return constant(arg.node, adapt(arg.constant, target), True)


def cast_hint(args: Sequence[Compiled]) -> str:
    """Which operand to cast, to what."""
    columns = [arg for arg in args if arg.constant is None] or list(args)
    others = [arg for arg in args if arg is not columns[0]] or columns
    if len(columns) == 1:
        literal = others[0]
        return (
            f'cast the column: {operand(columns[0].node)}.cast("{literal.type}"), '
            f"or write the literal as {columns[0].type}"
        )
    return f'cast one side, for example {operand(others[0].node)}.cast("{columns[0].type}")'
