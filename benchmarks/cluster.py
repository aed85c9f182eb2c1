"""A session cluster with ten jobs: how soon they run, and the CPU of those that have nothing to do.

    python benchmarks/cluster.py [--jobs 10] [--seconds 20]

Each job waits for a row now and then (one a second), with a checkpoint every ten seconds, as jobs at night do. CPU
seconds are those of a job's process, and of the coordinator, by /proc, over some seconds after all have started.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from lakeward.cluster import Client
from lakeward.cluster.files import ClusterFiles
from lakeward.engine.core.errors import LakewardError

JOB = """
import lakeward as lw

def waiting():
    env = lw.StreamExecutionEnvironment(checkpoint_interval="10s")
    rows = env.from_source(lw.NexmarkSource(None, paced=True, rate=1), uid="slow")
    rows.key_by("auction").aggregate(n=lw.count(), uid="counts").to_changelog().sink_to(lw.BlackholeSink(), uid="out")
    env.execute("waiting")
"""
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def children(pid: int) -> list[int]:
    """What a process has started."""
    return [int(one) for task in Path(f"/proc/{pid}/task").iterdir() for one in (task / "children").read_text().split()]


def client_of(directory: Path) -> Client:
    """A client, as soon as the cluster answers."""
    while True:
        with suppress(LakewardError):
            client = Client(directory)
            client.cluster()
            return client
        time.sleep(0.05)


def measure(jobs: int, seconds: float) -> None:
    """Start a cluster and its jobs, and look at them."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "waiting_job.py").write_text(JOB)
        root = Path(folder) / "cluster"
        command = [sys.executable, "-m", "lakeward", "cluster", "start", "--dir", str(root), "--allow", folder]
        process = subprocess.Popen([*command, "--slots", str(jobs)], stderr=subprocess.DEVNULL)
        try:
            client = client_of(root)
            began = time.monotonic()
            for number in range(jobs):
                client.submit("waiting_job:waiting", name=f"job-{number}")
            while any(info.status.get("state") != "RUNNING" for info in client.list()):
                time.sleep(0.1)
            print(f"{jobs} jobs run after {time.monotonic() - began:.1f} s")
            coordinator = ClusterFiles(root).endpoint().pid
            pids = [coordinator, *children(coordinator)]
            before, since = [cpu_s(pid) for pid in pids], time.monotonic()
            time.sleep(seconds)
            passed = time.monotonic() - since
            shares = [(cpu_s(pid) - old) / passed * 100 for pid, old in zip(pids, before, strict=True)]
            idle = sorted(shares[1:])
            print(f"CPU of a waiting job: median {idle[len(idle) // 2]:.2f} %, most {idle[-1]:.2f} % of a core")
            print(f"CPU of the coordinator: {shares[0]:.2f} % of a core")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    measure(arguments.jobs, arguments.seconds)


if __name__ == "__main__":
    main()
