"""`python -m lakeward.testing.simulation SEED [COUNT]`: run one seed, or COUNT of them from SEED on."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter

from lakeward.testing.simulation.knobs import Fault
from lakeward.testing.simulation.runner import SimulationReport, SimulationViolation, simulate


def main(arguments: list[str]) -> int:
    """Run the seeds; 1 when one of them violates an invariant."""
    if not 1 <= len(arguments) <= 2 or not all(argument.isdecimal() for argument in arguments):
        sys.stderr.write(f"{__doc__}\n")
        return 2
    logging.getLogger("lakeward").setLevel(logging.ERROR)  # failed checkpoints are the daily bread here
    first, count = int(arguments[0]), int(arguments[1]) if len(arguments) == 2 else 1
    began = time.process_time()
    reports: list[SimulationReport] = []
    violated = 0
    for seed in range(first, first + count):
        try:
            reports.append(simulate(seed))
        except SimulationViolation as violation:
            violated += 1
            sys.stdout.write(f"{violation}\n\n")
    sys.stdout.write(_summary(reports, violated, time.process_time() - began))
    return 1 if violated else 0


def _summary(reports: list[SimulationReport], violated: int, seconds: float) -> str:
    faults: Counter[Fault] = Counter()
    for report in reports:
        faults.update(report.faults)
    count = len(reports) + violated
    lines = [
        f"{count} seeds, {violated} violations, {count / max(seconds, 0.001):.1f} seeds per CPU second",
        f"{sum(r.steps for r in reports)} steps, {sum(r.processes for r in reports)} starts of the job, "
        f"{sum(r.commits for r in reports)} commits compared, {sum(r.rows for r in reports)} rows",
        *(f"  {faults[fault]:>7} x {fault.name}: {fault.text}" for fault in Fault),
    ]
    if len(reports) == 1:
        lines.append(f"trace hash {reports[0].trace_hash}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
