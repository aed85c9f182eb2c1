"""Key to key group to subtask: three pure functions, after Flink's KeyGroupRangeAssignment.

A key's group is fixed for the life of its state; only the mapping of groups to subtasks changes with parallelism.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lakeward.engine.core.hashing import UInt64Array, unmix64
from lakeward.engine.core.ids import KeyGroup, SubtaskIndex

MAX_PARALLELISM_DEFAULT = 128
"""Key groups of a job, and so the highest parallelism it can ever be rescaled to."""


def parallelism_hint(wanted: int) -> str:
    """What to do about a parallelism below 1 or above the number of key groups."""
    if wanted < 1:
        return "give 1 or more"
    return (
        f"lower it, or raise the number of key groups: config=lw.EngineConfig(max_parallelism={wanted}); state that is"
        " saved keeps the number it was made with, so that a job with checkpoints has to start without them"
    )


def key_groups(hashes: UInt64Array, max_parallelism: int) -> npt.NDArray[np.int64]:
    """The key group of each hashed key: the high bits of the hash, scaled to the number of groups.

    >>> key_groups(np.array([0, 2**63, 2**64 - 1], dtype=np.uint64), 128).tolist()
    [0, 64, 127]
    """
    high = hashes >> np.uint64(32)
    return ((high * np.uint64(max_parallelism)) >> np.uint64(32)).astype(np.int64)


def keys_in_groups(groups: npt.NDArray[np.int64], max_parallelism: int) -> npt.NDArray[np.int64]:
    """An integer key in each of some key groups: for rows that belong to a subtask, and to no key of the stream.

    >>> import pyarrow as pa
    >>> from lakeward.engine.core.hashing import hash_array
    >>> key_groups(hash_array(pa.array(keys_in_groups(np.array([0, 5, 127]), 128))), 128).tolist()
    [0, 5, 127]
    """
    firsts = -(-(groups << 32) // max_parallelism)
    return unmix64(firsts.astype(np.uint64) << np.uint64(32)).view(np.int64)


def key_group_range(subtask: SubtaskIndex, parallelism: int, max_parallelism: int) -> range:
    """The key groups that a subtask owns.

    >>> [key_group_range(SubtaskIndex(i), 3, 128) for i in range(3)]
    [range(0, 43), range(43, 86), range(86, 128)]
    """
    start = (subtask * max_parallelism + parallelism - 1) // parallelism
    end = ((subtask + 1) * max_parallelism + parallelism - 1) // parallelism
    return range(start, end)


def subtask_of(group: KeyGroup, parallelism: int, max_parallelism: int) -> SubtaskIndex:
    """The subtask that owns a key group; the inverse of `key_group_range`."""
    return SubtaskIndex(group * parallelism // max_parallelism)
