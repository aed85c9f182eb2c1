"""How many seeds the simulator runs in a CPU second, and what they amount to.

    python benchmarks/simulation.py [--seeds 300] [--first 1]

Seeds are drawn as in the tests: every program, every fault. What is printed: seeds, scheduler steps and commits that
are compared with the oracle, each in a CPU second, and how long 3,000 and 20,000 seeds would take on one core.
"""

from __future__ import annotations

import argparse
import logging
import time

from lakeward.testing.simulation import simulate


def main() -> None:
    """Run seeds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--first", type=int, default=1)
    options = parser.parse_args()
    logging.getLogger("lakeward").setLevel(logging.CRITICAL)  # what goes wrong is meant to
    begun_s = time.process_time()
    reports = [simulate(seed) for seed in range(options.first, options.first + options.seeds)]
    cpu_s = time.process_time() - begun_s
    rate = len(reports) / cpu_s
    steps, commits = (sum(getattr(one, name) for one in reports) / cpu_s for name in ("steps", "commits"))
    print(f"{rate:.1f} seeds, {steps:,.0f} steps, {commits:,.0f} compared commits per CPU second")
    print(f"3,000 seeds: {3000 / rate / 60:.1f} CPU minutes; 20,000 seeds: {20000 / rate / 60:.0f}")


if __name__ == "__main__":
    main()
