"""Whether values have changed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.operators.row_values import is_list
from lakeward.operators.windows.columns import Mask, is_fixed, to_numpy, valid_mask


def differing(before: pa.Array, after: pa.Array) -> Mask:
    """Where two arrays of one type differ; null equals null, and NaN equals NaN.

    >>> differing(pa.array([1.0, None, float("nan")]), pa.array([1.5, None, float("nan")])).tolist()
    [True, False, False]
    """
    unequal = _unequal(before, after)
    ours, theirs = valid_mask(before), valid_mask(after)
    if ours is None and theirs is None:
        return unequal
    ours = np.ones(len(before), np.bool_) if ours is None else ours
    theirs = np.ones(len(after), np.bool_) if theirs is None else theirs
    changed: Mask = (unequal & ours & theirs) | (ours != theirs)
    return changed


def _unequal(before: pa.Array, after: pa.Array) -> Mask:
    """Where the values differ; anything where one of them is null."""
    unequal: Mask
    if is_fixed(before.type):
        one, other = to_numpy(before), to_numpy(after)
        unequal = one != other
        if one.dtype.kind == "f":
            unequal &= ~(np.isnan(one) & np.isnan(other))
        return unequal
    if is_list(before.type):
        return _unequal_lists(before, after)
    if pa.types.is_struct(before.type):
        unequal = np.zeros(len(before), np.bool_)
        for one, other in zip(before.flatten(), after.flatten(), strict=True):
            unequal |= differing(one, other)
        return unequal
    if pa.types.is_nested(before.type):
        return np.array([a != b for a, b in zip(before.to_pylist(), after.to_pylist(), strict=True)], dtype=np.bool_)
    unequal = pc.fill_null(pc.not_equal(before, after), False).to_numpy(zero_copy_only=False)
    return unequal


def _unequal_lists(before: pa.Array, after: pa.Array) -> Mask:
    """Lists differ in their lengths or in some element."""
    lengths, others = (pc.fill_null(pc.list_value_length(one), -1).to_numpy() for one in (before, after))
    unequal: Mask = lengths != others
    rows = np.flatnonzero(~unequal & (lengths > 0))
    picked = pa.array(rows)
    elements = differing(*(pc.list_flatten(one.take(picked)) for one in (before, after)))
    owners = np.repeat(rows, lengths[rows])
    unequal[owners[elements]] = True
    return unequal
