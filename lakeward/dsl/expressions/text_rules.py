"""What the rules of all text functions have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from lakeward.dsl.expressions.compiled import Compiled, Kernel, apply, convert, mismatch
from lakeward.dsl.expressions.nodes import Call, Function, Style
from lakeward.dsl.expressions.types import is_text


def text_args(call: Call, args: Sequence[Compiled]) -> list[Compiled]:
    """The arguments, which must be text.

    Raises:
        SchemaError: One is something else.
    """
    sides = [convert(arg, pa.string()) if pa.types.is_null(arg.type) else arg for arg in args]
    for side in sides:
        if not is_text(side.type):
            raise mismatch(call, args, f"{call.function.name}() takes text", f'cast first: {side.node}.cast("string")')
    return sides


def text_function(
    name: str,
    make: Callable[..., Kernel],
    *,
    keywords: tuple[str, ...] = (),
    costly: bool = False,
    decodes: bool = False,
) -> Function:
    """A text function: `make` gets the fixed parameters and returns the kernel."""

    def rule(call: Call, args: Sequence[Compiled]) -> Compiled:
        return apply(call, make(*call.params), text_args(call, args))

    return Function(f"str.{name}", Style.METHOD, rule, keywords=keywords, costly=costly, decodes=decodes)
