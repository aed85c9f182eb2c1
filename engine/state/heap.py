"""Keeps the C library from giving memory back to the kernel between batches.

Every vectorised step allocates temporaries of a few hundred kilobytes. By default glibc returns such blocks to the
kernel at once and faults them in again, page by page, in the next step; measured on hashing and table look-ups that
costs two to three times the work itself. Freeing one large mapped block raises glibc's dynamic thresholds (see
`mallopt(3)`, M_MMAP_THRESHOLD) for the rest of the process; elsewhere it does nothing.
"""

from __future__ import annotations

import numpy as np

_DYNAMIC_THRESHOLD_MAX_BYTES = 32 << 20


def keep_freed_memory() -> None:
    """Call once when a process starts to work; costs microseconds and no memory (the block is never touched).

    >>> keep_freed_memory()
    """
    block = np.empty(_DYNAMIC_THRESHOLD_MAX_BYTES - (1 << 16), dtype=np.uint8)
    del block
