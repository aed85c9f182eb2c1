"""An endless job for tests/recovery/test_signals.py: paced Nexmark bids into a memory-cheap sink."""

from __future__ import annotations

import sys
import time

import pyarrow as pa

import lakeward as lw


def stuck(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A function of the user's that takes far too long."""
    print("stuck", flush=True)
    time.sleep(300)
    return batch


def main() -> None:
    env = lw.StreamExecutionEnvironment(checkpoint_interval="1h", checkpoint_dir=sys.argv[1])
    bids = env.from_source(lw.NexmarkSource(None, paced=True, rate=20_000), uid="bids")
    if sys.argv[3:] == ["stuck"]:
        bids = bids.map_batches(stuck)
    bids.sink_to(lw.FilesSink(sys.argv[2]), uid="files")
    print("running", flush=True)
    result = env.execute("endless")
    assert result is not None
    print(f"stopped ended={result.ended} restored={result.restored} checkpoint={result.checkpoint}", flush=True)


if __name__ == "__main__":
    main()
