"""How the cost of a row grows with the length of the input and the number of keys, and what the keys cost in memory.

    python benchmarks/growth.py [--rows 4000000] [--rounds 3]

Tumbling windows and an updating aggregation (count, sum, max) over batches in memory, checkpoints every 5 s to local
disk. Each case is run at two sizes, and the difference counts: CPU microseconds a row, medians of the rounds. Beside
the cost stand its ratio to the first case and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import json
import tempfile

from measure import Measured, median, run_rounds
from pipeline import PoolSource

import lakeward as lw

CASES = {
    "base": (1, 10_000),
    "10 x the input": (10, 10_000),
    "10 x the keys": (1, 100_000),
    "100 x the keys": (1, 1_000_000),
    "1000 x the keys": (4, 10_000_000),
}
"""How many times the rows, and how many keys."""


def child(options: dict[str, int]) -> None:
    """The job that is measured."""
    with tempfile.TemporaryDirectory() as directory:
        env = lw.StreamExecutionEnvironment(checkpoint_interval="5s", checkpoint_dir=directory)
        watermark = lw.WatermarkStrategy.bounded_out_of_orderness("at", "2s")
        stream = env.from_source(PoolSource(options["rows"], options["keys"]), watermark=watermark, uid="pool")
        keyed = stream.key_by("key")
        aggregates = {"n": lw.count(), "total": lw.sum("value"), "top": lw.max("value")}
        result = (
            keyed.window(lw.Tumbling("10s")).aggregate(**aggregates, uid="windows")
            if options["windows"]
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
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        child(json.loads(arguments.child))
        return
    print(f"{'':44} {'us a row':>9} {'to the base':>12} {'MB':>7}")
    for windows, what in ((1, "10 s windows"), (0, "updating totals")):
        cases, rows = {}, {}
        for name, (factor, keys) in CASES.items():
            for size in (arguments.rows * factor // 4, arguments.rows * factor):
                cases[name, size] = {"rows": size, "keys": keys, "windows": windows}
                rows[name, size] = size
        runs = run_rounds(__file__, cases, rows, arguments.rounds)
        base = None
        for name, (factor, _) in CASES.items():
            small, large = (runs[name, size] for size in (arguments.rows * factor // 4, arguments.rows * factor))
            cost = cost_us(small, large)
            base = base or cost
            memory = max(one.memory_mb for one in large)
            print(f"{what + ', ' + name:44} {cost:>9.3f} {cost / base:>12.2f} {memory:>7.0f}")


if __name__ == "__main__":
    main()
