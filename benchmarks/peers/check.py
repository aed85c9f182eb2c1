"""Whether Flink's SQL answers Nexmark's queries as Lakeward does, whose answers the tests compare with DuckDB's.

    python benchmarks/peers/check.py [--events 8000] [--queries q0,q9] [--flink-python .venv-flink/bin/python]

Both read the same JSON lines; of answers that change, what is left at the end is compared, row by row. q12 is not
compared but by its number of bids: its windows are of processing time, and Flink drops those that are open at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from run import HERE, NEXMARK, ROOT, file_of, nexmark, write_data

RATE = 200
"""Events per second of event time: a few windows of each kind in few events."""


def flink_rows(queries: Sequence[str], data: Path, python: str) -> dict[str, Counter[str]]:
    """Flink's answers."""
    with tempfile.TemporaryDirectory() as state, tempfile.TemporaryDirectory() as output:
        files = [f"{query}={data / file_of(query)}" for query in queries]
        run([python, str(HERE / "flink_answers.py"), state, output, *files])
        return {query: Counter(Path(output, f"{query}.jsonl").read_text().splitlines()) for query in queries}


def own_rows(query: str, data: Path) -> Counter[str]:
    """Lakeward's answer."""
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as directory:
        run([*nexmark(query, str(data / file_of(query))), "--output", directory])
        rows = pq.read_table(Path(directory, f"{query}.parquet")).to_pylist()
    return Counter(json.dumps(list(row.values()), default=str) for row in rows)


def run(command: Sequence[str]) -> None:
    """Run a command, and show what it printed if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def bids_counted(rows: Counter[str]) -> int:
    """How many bids the rows of q12 count."""
    return sum(json.loads(row)[1] * times for row, times in rows.items())


def compare(query: str, theirs: Counter[str], ours: Counter[str]) -> bool:
    """Print whether two answers are equal, and the first rows that only one of them has."""
    if query == "q12":
        print(query, f"{bids_counted(theirs)} of {bids_counted(ours)} bids counted", flush=True)
        return True
    print(query, f"{theirs.total()} rows,", "equal" if theirs == ours else "DIFFERENT", flush=True)
    if theirs != ours:
        print(f"  Flink alone {(theirs - ours).total()}:", *list(theirs - ours)[:2], sep="\n    ")
        print(f"  Lakeward alone {(ours - theirs).total()}:", *list(ours - theirs)[:2], sep="\n    ")
    return theirs == ours


def main() -> None:
    """Compare query by query; fails if any differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=8_000)
    parser.add_argument("--queries", default=",".join(NEXMARK))
    parser.add_argument("--flink-python", default=str(ROOT / ".venv-flink/bin/python"))
    arguments = parser.parse_args()
    queries = arguments.queries.split(",")
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder), arguments.events, RATE)
        theirs = flink_rows(queries, data, arguments.flink_python)
        wrong = [query for query in queries if not compare(query, theirs[query], own_rows(query, data))]
    if wrong:
        sys.exit(f"different: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
