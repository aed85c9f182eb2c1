"""What the control side of a job costs on clusters of many workers: a curve, from simulations.

    python benchmarks/scaling.py [--workers 10,50,100,200,400] [--state-gb 1] [--checkpoints 3]

Workers, network and object store are modelled, the rest runs as it is, and its CPU time is measured: see
`lakeward.testing.simulation.cluster`. What is printed for each number of workers, in virtual time: how long a
checkpoint takes from its start to its commit (the slowest of them, and when its last acknowledgement came), what the
coordinator's loop and the thread beside it spend on it, what share of a core the loop takes between checkpoints, the
sizes of the manifest and of what a restart sends, and how long after the loss of a host all tasks are open again, by
parts.
"""

from __future__ import annotations

import argparse
import gc
import statistics

from lakeward.testing.simulation.cluster import ClusterFigures, ClusterModel, simulate_cluster

COLUMNS = (
    "workers",
    "state GB",
    "checkpoint s",
    "last ack s",
    "loop CPU ms",
    "beside s",
    "idle CPU %",
    "manifest MB",
    "restart sends MB",
    "recovery s",
    "noticed s",
    "restored s",
)


def row(model: ClusterModel, seen: ClusterFigures) -> list[str]:
    """The figures of a cluster as a line of a table."""
    return [
        str(model.workers),
        f"{model.workers * model.state_mb / 1000:,.0f}",
        f"{max(seen.checkpoint_ms) / 1000:.1f}",
        f"{max(seen.slowest_ack_ms) / 1000:.2f}",
        f"{statistics.median(seen.cpu_ms):.0f}",
        f"{max(seen.io_ms) / 1000:.1f}",
        f"{100 * seen.idle_cpu:.1f}",
        f"{seen.manifest_bytes / 1e6:.1f}",
        f"{seen.start_bytes / 1e6:.1f}",
        f"{seen.recovery_ms / 1000:.1f}",
        f"{seen.recovery['noticed'] / 1000:.1f}",
        f"{seen.recovery['restored'] / 1000:.1f}",
    ]


def main() -> None:
    """Print the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="10,50,100,200,400")
    parser.add_argument("--state-gb", type=float, default=1.0, help="of each worker")
    parser.add_argument("--checkpoints", type=int, default=3, help="before the loss of a host")
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"|{'---|' * len(COLUMNS)}")
    for workers in map(int, options.workers.split(",")):
        gc.collect()
        model = ClusterModel(workers, state_mb=1000 * options.state_gb)
        print(f"| {' | '.join(row(model, simulate_cluster(model, options.checkpoints)))} |", flush=True)


if __name__ == "__main__":
    main()
