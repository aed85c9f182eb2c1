"""Rules of text functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakeward.dsl.expressions.compiled import Compiled, Kernel, apply, kernel, mismatch, unify
from lakeward.dsl.expressions.nested import element
from lakeward.dsl.expressions.nodes import Call, Function, Style
from lakeward.dsl.expressions.text_kernels import Splits, ascii_or, character_places
from lakeward.dsl.expressions.text_rules import text_args, text_function
from lakeward.dsl.expressions.types import is_integer
from lakeward.engine.api.expression import Frame
from lakeward.engine.core.errors import GraphError


def _match(function: str) -> Callable[[str], Kernel]:
    return lambda pattern: kernel(function, pc.MatchSubstringOptions(pattern))


def _either(function: str) -> Callable[[], Kernel]:
    """A kernel that has a faster brother for ASCII."""
    return lambda: ascii_or(kernel(f"utf8_{function}"), kernel(f"ascii_{function}"))


def _length() -> Kernel:
    return ascii_or(_counted(kernel("utf8_length")), _counted(kernel("binary_length")))


def _counted(function: Kernel) -> Kernel:
    """Counts as int32, of large text too."""
    narrow = kernel("cast", pc.CastOptions(pa.int32()))

    def count(array: Any) -> Any:
        found = function(array)
        return found if pa.types.is_int32(found.type) else narrow(found)

    return count


def _find(text: str) -> Kernel:
    find = kernel("find_substring", pc.MatchSubstringOptions(text))

    def function(array: Any) -> pa.Array:
        places = find(array).cast(pa.int32())
        places = pc.if_else(pc.less(places, 0), pa.scalar(None, pa.int32()), places)
        return character_places(array, places)

    return function


def _slice(start: int, length: int | None) -> Kernel:
    if length is not None and length < 0:
        raise GraphError(f"str.slice: the length is negative: {length}")
    stop = None if length is None or (start < 0 and start + length >= 0) else start + length
    return kernel("utf8_slice_codeunits", pc.SliceOptions(start, stop))


def _pad(function: str) -> Callable[[int, str], Kernel]:
    def make(width: int, fill: str) -> Kernel:
        if len(fill) != 1:
            raise GraphError(f"the character to fill with is one, not {fill!r}")
        return kernel(function, pc.PadOptions(width, fill))

    return make


def _strip(function: str) -> Callable[[str | None], Kernel]:
    def make(characters: str | None) -> Kernel:
        if characters is None:
            return kernel(f"{function}_whitespace")
        return kernel(function, pc.TrimOptions(characters))

    return make


def _strip_affix(test: str) -> Callable[[str], Kernel]:
    def make(text: str) -> Kernel:
        has = kernel(test, pc.MatchSubstringOptions(text))
        first, stop = (len(text), None) if test == "starts_with" else (0, -len(text))
        rest = kernel("utf8_slice_codeunits", pc.SliceOptions(first, stop))
        return lambda array: pc.if_else(has(array), rest(array), array) if text else array

    return make


LOWER = text_function("lower", _either("lower"))
UPPER = text_function("upper", _either("upper"))
TITLE = text_function("title", _either("title"))
REVERSE = text_function("reverse", _either("reverse"))
LENGTH = text_function("length", _length)
BYTE_LENGTH = text_function("byte_length", lambda: _counted(kernel("binary_length")))
CONTAINS = text_function("contains", _match("match_substring"))
STARTS_WITH = text_function("starts_with", _match("starts_with"))
ENDS_WITH = text_function("ends_with", _match("ends_with"))
FIND = text_function("find", _find)
SLICE = text_function("slice", _slice)
PAD_START = text_function("pad_start", _pad("utf8_lpad"))
PAD_END = text_function("pad_end", _pad("utf8_rpad"))
STRIP = text_function("strip", _strip("utf8_trim"))
LSTRIP = text_function("lstrip", _strip("utf8_ltrim"))
RSTRIP = text_function("rstrip", _strip("utf8_rtrim"))
STRIP_PREFIX = text_function("strip_prefix", _strip_affix("starts_with"))
STRIP_SUFFIX = text_function("strip_suffix", _strip_affix("ends_with"))


def _split(separator: str) -> Kernel:
    if separator == "":
        raise GraphError("str.split: the separator may not be empty")
    return kernel("split_pattern", pc.SplitPatternOptions(separator))


SPLIT = text_function("split", _split)


def _split_part(call: Call, args: Sequence[Compiled]) -> Compiled:
    separator, part = call.params
    if part == 0 or separator == "":
        raise GraphError(
            "str.split_part counts parts from 1, and from the end with -1, -2, ...; the separator may not be empty",
            hint="str.split_part('/', 1) is the first part",
        )
    (text,) = text_args(call, args)
    if len(separator.encode()) == 1 and text.constant is None:
        return Compiled(call, text.type, _shared_split_part(text, separator, part), costly=text.costly)
    split = kernel("split_pattern", pc.SplitPatternOptions(separator, max_splits=part if part > 0 else None))
    return apply(call, lambda array: element(split(array), part - 1 if part > 0 else part), [text])


def _shared_split_part(text: Compiled, separator: str, part: int) -> Callable[[Frame], Any]:
    """Several parts of the same text look for the separators once."""
    texts, byte, key = text.run, ord(separator), ("splits", text.run, separator)

    def run(frame: Frame) -> pa.Array:
        splits = frame.shared.get(key)
        if splits is None:
            splits = frame.shared[key] = Splits.of(texts(frame), byte)
        return splits.part(part)

    return run


SPLIT_PART = Function("str.split_part", Style.METHOD, _split_part)


def _repeat(call: Call, args: Sequence[Compiled]) -> Compiled:
    (text,), times = text_args(call, args[:1]), args[1]
    if not is_integer(times.type):
        raise mismatch(call, args, "str.repeat() takes a whole number", f'cast first: {times.node}.cast("int64")')
    return apply(call, kernel("binary_repeat"), [text, times])


REPEAT = Function("str.repeat", Style.METHOD, _repeat)


def _concat_str(call: Call, args: Sequence[Compiled]) -> Compiled:
    separator, ignore_nulls = call.params
    parts = unify(call, text_args(call, args))
    join = kernel("binary_join_element_wise", pc.JoinOptions("skip" if ignore_nulls else "emit_null"))
    glue = pa.scalar(separator, parts[0].type)

    def function(*values: Any) -> Any:
        return join(*(_some_valid(values) if ignore_nulls else values), glue)

    return apply(call, function, parts)


def _some_valid(values: Sequence[Any]) -> Sequence[Any]:
    """The parts, the first one empty where all are null: Arrow's join leaves such rows out of its result."""
    nothing = reduce(pc.and_, (pc.is_null(value) for value in values))
    if isinstance(nothing, pa.Scalar) or not nothing.true_count:
        return values
    return [pc.if_else(nothing, pa.scalar("", values[0].type), values[0]), *values[1:]]


CONCAT_STR = Function("concat_str", Style.FUNCTION, _concat_str, keywords=("separator", "ignore_nulls"))
