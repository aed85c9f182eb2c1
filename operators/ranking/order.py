"""The order in which rows are ranked: sort codes of columns, integers that compare as the values do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.engine.core.errors import SchemaError
from lakeward.engine.core.names import did_you_mean
from lakeward.operators.windows.columns import Mask, Rows, is_fixed, to_numpy, valid_mask

Codes = list[npt.NDArray[np.int64]]
"""Sort codes of rows, most significant first; lower ranks first."""

CODE_MAX = 2**63 - 1
_SIGN = np.int64(-(2**63))


@dataclass(frozen=True, slots=True)
class SortColumn:
    """One column of an order.

    Args:
        column: Its name.
        descending: Whether the greatest value comes first. Null comes last either way; NaN is the greatest number.
    """

    column: str
    descending: bool = False

    @property
    def description(self) -> str:
        """For `explain()`: "price desc"."""
        return f"{self.column} desc" if self.descending else self.column


Order = tuple[SortColumn, ...]
"""What rows are compared by; empty: by arrival alone."""


def check_order(schema: pa.Schema, order: Order) -> None:
    """Refuse columns that are not there or cannot be compared.

    Raises:
        SchemaError: Names the column.
    """
    for one in order:
        if one.column not in schema.names:
            hint = did_you_mean(one.column, schema.names)
            raise SchemaError(f"there is no column '{one.column}' to order by", hint=hint)
        kind = schema.field(one.column).type
        if pa.types.is_nested(kind) or pa.types.is_null(kind):
            raise SchemaError(f"rows cannot be ordered by '{one.column}': {kind} has no order", hint="order by a part")


def sort_codes(columns: Sequence[pa.Array], order: Order) -> Codes:
    """Codes of rows; those of one call can be compared with each other, of two calls only where the type is fixed.

    >>> sort_codes([pa.array([5, None, 7])], (SortColumn("price", descending=True),))
    [array([0, 1, 0]), array([-6,  0, -8])]

    Args:
        columns: The columns of the order.
        order: How to compare them.
    """
    codes: Codes = []
    for array, one in zip(columns, order, strict=True):
        valid = valid_mask(array)
        code = _code(array)
        code = ~code if one.descending else code
        if valid is not None:
            codes.append((~valid).astype(np.int64))
            code = np.where(valid, code, 0)
        codes.append(code)
    return codes


def leading_code(array: pa.Array, one: SortColumn) -> npt.NDArray[np.int64]:
    """One number a row that never contradicts the order by this column, also over batches; its type is fixed.

    Null is `CODE_MAX`, which one value of the type may be as well: where it turns up, equality says nothing.
    """
    code = _code(array)
    code = ~code if one.descending else code
    valid = valid_mask(array)
    return code if valid is None else np.where(valid, code, CODE_MAX)


def has_leading_code(schema: pa.Schema, order: Order) -> bool:
    """Whether rows have a `leading_code`."""
    return bool(order) and is_fixed(schema.field(order[0].column).type)


def is_exact(schema: pa.Schema, order: Order) -> bool:
    """Whether the leading code is all there is to compare, but for `CODE_MAX`."""
    return len(order) == 1 and has_leading_code(schema, order)


def precedes(first: Codes, second: Codes) -> tuple[Mask, Mask]:
    """Row by row: whether the first comes before the second, and whether they are equal."""
    size = len(first[0]) if first else 0
    before: Mask = np.zeros(size, np.bool_)
    equal: Mask = np.ones(size, np.bool_)
    for one, other in zip(first, second, strict=True):
        before |= equal & (one < other)
        equal &= one == other
    return before, equal


def sorted_rows(groups: Rows, codes: Codes) -> Rows:
    """Row numbers by group, then by codes, then as they came.

    >>> sorted_rows(np.array([1, 0, 1]), [np.array([5, 9, 3])]).tolist()
    [1, 2, 0]

    Args:
        groups: The group of each row, from 0.
        codes: What rows of a group are sorted by.
    """
    packed = _packed(groups, codes)
    if packed is None:
        return np.lexsort((*reversed(codes), groups))
    keys, place_bits = packed
    keys.sort()
    return keys & ((1 << place_bits) - 1)


def _packed(groups: Rows, codes: Codes) -> tuple[Rows, int] | None:
    """Group, codes and row number as one number, which is many times faster to sort by; None: they have no room."""
    if not len(groups):
        return None
    place_bits = int(len(groups) - 1).bit_length()
    keys, width = groups, int(groups.max()) + 1
    for code in codes:
        least, most = int(code.min()), int(code.max())
        width *= most - least + 1
        if width >= 1 << (63 - place_bits):
            return None
        keys = keys * (most - least + 1) + (code - least)
    if width >= 1 << (63 - place_bits):
        return None
    return (keys << place_bits) | np.arange(len(groups)), place_bits


def _code(array: pa.Array) -> npt.NDArray[np.int64]:
    """Ascending codes; what stands in null places is undefined."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if not is_fixed(kind):
        ranks: Rows = pc.rank(array, "ascending", tiebreaker="dense").to_numpy().astype(np.int64)
        return ranks
    values = to_numpy(array)
    if pa.types.is_floating(kind):
        return _float_code(values.astype(np.float64))
    if pa.types.is_uint64(kind):
        return values.view(np.int64) ^ _SIGN
    return values.astype(np.int64)


def _float_code(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The bits of a float, of which negative ones run the other way; one zero, and one NaN above all."""
    bits = (values + 0.0).view(np.int64)
    code = bits ^ ((bits >> 63) & np.int64(CODE_MAX))
    code[np.isnan(values)] = CODE_MAX
    return code
