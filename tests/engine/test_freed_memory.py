"""Memory that batches have freed is used by the next ones, without a way through the kernel."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import lakeward
import resource, time
import numpy, pyarrow

def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def batch():
    numpy.frombuffer(pyarrow.allocate_buffer(32 << 20), "u1")[::4096] = 1
    end = time.monotonic() + 0.02  # the allocator looks at its clock when it is asked for memory again
    while time.monotonic() < end:
        pyarrow.allocate_buffer(1 << 16)

batch()
before = page_faults()
for _ in range(5):
    batch()
print(page_faults() - before)
"""


def page_faults(**environment: str) -> int:
    inherited = {name: value for name, value in os.environ.items() if name != "MIMALLOC_PURGE_DELAY"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=inherited | environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_memory_of_a_batch_is_kept_for_the_next_one() -> None:
    assert page_faults() < 20


def test_who_wants_freed_memory_back_gets_it() -> None:
    assert page_faults(MIMALLOC_PURGE_DELAY="0") >= 5 * 16  # sixteen pages of 2 MB, or more smaller ones
