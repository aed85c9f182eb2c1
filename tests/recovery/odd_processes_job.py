"""Jobs of two worker processes whose functions do what they should not, for tests/recovery/test_odd_processes.py."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

import lakeward as lw

Row = dict[str, Any]


def exits(row: Row) -> None:
    """Leave Python."""
    sys.exit(3)


def raises_much(row: Row) -> None:
    """Raise more than a socket holds."""
    raise lw.LakewardError("y" * 20_000_000)


def ends_a_program(row: Row) -> None:
    """Ask a program to end, as users do."""
    program = subprocess.Popen(["sleep", "60"])
    program.terminate()
    assert program.wait(20) == -15


ODD: dict[str, Callable[[Row], None]] = {"exits": exits, "raises_much": raises_much, "ends_a_program": ends_a_program}


def run(odd: Callable[[Row], None], rows: int = 500, batch_s: float = 0.0) -> int:
    """One job; how many rows it has brought."""

    def step(row: Row) -> Iterator[Row]:
        if row["n"] == 70:
            odd(row)
        yield row

    def slowly(batch: pa.RecordBatch) -> pa.RecordBatch:
        time.sleep(batch_s)
        return batch

    config = lw.EngineConfig(batch_rows=100, restart=lw.RestartConfig(delay_min_ms=10, attempts_max=3))
    env, sink = lw.StreamExecutionEnvironment(parallelism=2, config=config), lw.MemorySink()
    numbers = env.from_collection([{"n": n} for n in range(rows)], uid="numbers").map_batches(slowly, uid="slowly")
    numbers.key_by("n").process(step, returns={"n": int}, uid="step").sink_to(sink, uid="memory")
    env.execute("odd")
    return sink.table().num_rows


def side_by_side() -> None:
    """A short job ends while a longer one, which was forked later, goes on."""
    order: list[str] = []

    def job(name: str, rows: int) -> None:
        run(lambda row: None, rows, batch_s=0.1)
        order.append(name)

    threads = [threading.Thread(target=job, args=("short", 1000)), threading.Thread(target=job, args=("long", 4000))]
    for one in threads:
        one.start()
        time.sleep(0.3)
    for one in threads:
        one.join()
    print(",".join(order), file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1] == "side_by_side":
        side_by_side()
    else:
        print(run(ODD.get(sys.argv[1], lambda row: None)), file=sys.stderr)
        print("end", file=sys.stderr)
