"""How the cost of a row grows with the length of the input and the number of keys, and what the keys cost in memory.

    python benchmarks/growth.py [--rows 16000000] [--rounds 3]

Tumbling windows and an updating aggregation (count, sum, max) over batches in memory, checkpoints every 5 s to local
disk. Each case is run at two sizes, and the difference counts: CPU microseconds a row, medians of the rounds. Beside
the cost stand its ratio to the first case and the peak memory of the process. Windows of 10 s have two million rows
each, so that with more keys they have more results: 0.05, 0.43 and 0.91 a row. In windows ten times as long, ten times
the keys have as many results a row as the first case.
"""

from __future__ import annotations

import argparse
import json
import tempfile

from measure import Measured, median, run_rounds
from pipeline import PoolSource

import lakeward as lw

CASES = {
    "10 s windows": {
        "100 k keys": (1, 100_000, 10),
        "10 x the input": (10, 100_000, 10),
        "10 x the keys, windows 10 x as long": (5, 1_000_000, 100),
        "10 x the keys": (1, 1_000_000, 10),
        "100 x the keys": (2, 10_000_000, 10),
    },
    "updating totals": {
        "100 k keys": (1, 100_000, 0),
        "10 x the input": (10, 100_000, 0),
        "10 x the keys": (1, 1_000_000, 0),
        "100 x the keys": (2, 10_000_000, 0),
    },
}
"""Of each job: how many times the rows, how many keys, and the windows' seconds (0: no windows)."""


def child(options: dict[str, int]) -> None:
    """The job that is measured."""
    with tempfile.TemporaryDirectory() as directory:
        env = lw.StreamExecutionEnvironment(checkpoint_interval="5s", checkpoint_dir=directory)
        watermark = lw.WatermarkStrategy.bounded_out_of_orderness("at", "2s")
        stream = env.from_source(PoolSource(options["rows"], options["keys"]), watermark=watermark, uid="pool")
        keyed = stream.key_by("key")
        aggregates = {"n": lw.count(), "total": lw.sum("value"), "top": lw.max("value")}
        result = (
            keyed.window(lw.Tumbling(f"{options['window_s']}s")).aggregate(**aggregates, uid="windows")
            if options["window_s"]
            else keyed.aggregate(aggregates, uid="totals")
        )
        result.sink_to(lw.BlackholeSink(), uid="out")
        env.execute("growth")


def cost_us(small: list[Measured], large: list[Measured]) -> float:
    """CPU microseconds a row, without start-up."""
    cpu_s = [median(one.cpu_s for one in runs) for runs in (small, large)]
    return (cpu_s[1] - cpu_s[0]) / (large[0].rows - small[0].rows) * 1e6


def main() -> None:
    """Run all cases of both jobs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=16_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", default=",".join(CASES))
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        child(json.loads(arguments.child))
        return
    print(f"{'':52} {'us a row':>9} {'to the base':>12} {'MB':>7}")
    for what, cases in CASES.items():
        if what not in arguments.jobs.split(","):
            continue
        options, rows = {}, {}
        for name, (factor, keys, window_s) in cases.items():
            for size in (arguments.rows * factor // 4, arguments.rows * factor):
                options[name, size] = {"rows": size, "keys": keys, "window_s": window_s}
                rows[name, size] = size
        runs = run_rounds(__file__, options, rows, arguments.rounds)
        base = None
        for name, (factor, _, _) in cases.items():
            small, large = (runs[name, size] for size in (arguments.rows * factor // 4, arguments.rows * factor))
            cost = cost_us(small, large)
            base = base or cost
            memory = max(one.memory_mb for one in large)
            print(f"{what + ', ' + name:52} {cost:>9.3f} {cost / base:>12.2f} {memory:>7.0f}")


if __name__ == "__main__":
    main()
