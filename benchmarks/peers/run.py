"""Lakeward beside Flink SQL, PyFlink, Bytewax and Quix on the same bids: rows per CPU second, in one run.

    make bench-peers                        # makes the peers' environments, then runs this
    python benchmarks/peers/run.py [--rows 1000000] [--rounds 1] [--queries q0,q2] [--engines flink,bytewax]

JSON lines in (256 bytes a bid), nothing out, one core, checkpoints every 10 s where the engine has them. CPU seconds
are those of all processes of an engine (user and system; a broker's are not counted). Each engine runs each query at
two sizes, a quarter and all of the rows; the difference is free of start-up. Engines that are slow at a query get a
tenth of the rows, Lakeward four times as many, so that no run takes too long and no difference is lost in noise.
PyFlink runs its Python functions in processes of their own unless told otherwise ("pyflink"), or in threads beside the
JVM's ("threads"). Prints a table with ratios and, with --chart FILE, draws it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
QUERIES = ("q0", "q2", "q22", "tumbling", "sliding", "q11", "q17", "q18", "process")
WHAT = {
    "q0": "pass through",
    "q2": "filter",
    "q22": "split a text",
    "tumbling": "10 s maximum per auction",
    "sliding": "10 s count per auction, every 2 s",
    "q11": "sessions per bidder",
    "q17": "statistics per auction and day",
    "q18": "last bid per bidder and auction",
    "process": "running count per auction in Python",
}
EVENTS_PER_BID = 50 / 46
SLOW = 10
NOISE = 1.1  # four times the rows have to cost at least this much more


@dataclass(frozen=True)
class Job:
    """What an engine is asked to run.

    Args:
        query: Which.
        path: The bids as JSON lines.
        topic: The same bids in Kafka; empty without a broker.
        bootstrap: The broker.
        rows: How many.
        directory: For checkpoints and state.
    """

    query: str
    path: str
    topic: str
    bootstrap: str
    rows: int
    directory: str


@dataclass(frozen=True)
class Engine:
    """One that is measured.

    Args:
        name: For the table.
        queries: What it runs.
        command: How it is started.
        slow: Of these it gets a tenth of the rows.
        scale: How many times the rows it gets.
        broker: Whether it reads from Kafka.
    """

    name: str
    queries: tuple[str, ...]
    command: Callable[[Job], list[str]]
    slow: tuple[str, ...] = ()
    scale: int = 1
    broker: bool = False

    def sizes(self, query: str, rows: int) -> tuple[int, int]:
        """How many rows it reads, at first and then."""
        most = rows * self.scale // (SLOW if query in self.slow else 1)
        return most // 4, most


def engines(flink: str, python: str) -> list[Engine]:
    """All of them, given the interpreters of the peers' environments."""
    relational = QUERIES[:-1]
    own = [sys.executable, str(HERE / "lakeward_flow.py")]
    sql = [flink, str(HERE / "flink_sql.py")]
    datastream = [flink, str(HERE / "pyflink_datastream.py")]
    bytewax = [python, str(HERE / "bytewax_flow.py")]
    quix = [python, str(HERE / "quix_flow.py")]
    quick = tuple(query for query in relational if query not in ("q11", "q18"))
    return [
        Engine("lakeward", QUERIES, lambda job: [*own, job.query, job.path, job.directory], scale=4),
        Engine("flink", relational, lambda job: [*sql, job.query, job.path, job.directory]),
        Engine(
            "pyflink", ("process",), lambda job: [*datastream, "process", job.path, job.directory], slow=("process",)
        ),
        Engine(
            "threads", ("process",), lambda job: [*datastream, "thread", job.path, job.directory], slow=("process",)
        ),
        Engine("bytewax", relational, lambda job: [*bytewax, job.query, job.path], slow=("tumbling", "sliding", "q11")),
        Engine(
            "quix",
            quick,
            lambda job: [*quix, job.query, job.bootstrap, job.topic, str(job.rows), job.directory],
            slow=quick,
            broker=True,
        ),
    ]


def cpu_seconds(command: Sequence[str]) -> float:
    """CPU seconds of a command with all its descendants.

    Raises:
        RuntimeError: It failed.
    """
    run = subprocess.run([sys.executable, str(HERE / "tree.py"), *command], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return float(json.loads(run.stdout.splitlines()[-1])["cpu_s"])


def rate(engine: Engine, query: str, jobs: Sequence[Job], rounds: int) -> float | None:
    """Rows per CPU second between two sizes, the median of some rounds.

    None if the sizes cost nearly the same: then the difference is noise, and more rows are needed.
    """
    rates = []
    for _ in range(rounds):
        costs = []
        for job in jobs:
            with tempfile.TemporaryDirectory() as directory:
                costs.append(cpu_seconds(engine.command(replace(job, query=query, directory=directory))))
        rates.append((jobs[1].rows - jobs[0].rows) / (costs[1] - costs[0]) if costs[1] > costs[0] * NOISE else 0.0)
    middle = statistics.median(rates)
    return middle or None


def write_bids(directory: Path, rows: int) -> Path:
    """The first bids of the benchmark's stream as JSON lines."""
    from lakeward.connectors.nexmark import NexmarkSource, json_lines

    path = directory / f"bids-{rows}.jsonl"
    source = NexmarkSource(None)
    written = first = 0
    with path.open("wb") as file:
        while written < rows:
            lines = json_lines(source.read(0, first, 200_000))[: rows - written]
            file.write(b"".join(line + b"\n" for line in lines))
            written, first = written + len(lines), first + 200_000
    return path


@contextmanager
def jobs_of(sizes: set[int], topics: set[int]) -> Iterator[dict[int, Job]]:
    """The input at each size in files, at some sizes also in topics of a broker."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        jobs = {rows: Job("", str(write_bids(Path(folder), rows)), "", "", rows, "") for rows in sizes}
        if topics:
            from lakeward.testing.brokers import start_broker

            broker = stack.enter_context(start_broker(Path(folder)))
            for rows in topics:
                topic = f"bids-{rows}"
                broker.create_topic(topic, 1)
                path = Path(jobs[rows].path)
                broker.produce(topic, path.read_bytes().splitlines(), partition=0, keys=_auctions(path))
                jobs[rows] = replace(jobs[rows], topic=topic, bootstrap=broker.bootstrap)
        yield jobs


def _auctions(path: Path) -> list[bytes]:
    return [line[11 : line.index(b",")] for line in path.read_bytes().splitlines()]


def report(results: dict[tuple[str, str], float], names: Sequence[str]) -> None:
    """Print the table: thousand rows per CPU second, and how many times Lakeward's rate is a peer's."""
    peers = [name for name in names if name != "lakeward"]
    print(f"{'k rows per CPU second':44} {'lakeward':>9}" + "".join(f" {name:>9} {'ratio':>6}" for name in peers))
    for query in QUERIES:
        own = results.get((query, "lakeward"))
        if own is None:
            continue
        line = f"{query + ': ' + WHAT[query]:44} {own / 1e3:>9,.0f}"
        for name in peers:
            peer = results.get((query, name))
            line += f" {peer / 1e3:>9,.0f} {own / peer:>6.1f}" if peer else f" {'':>9} {'':>6}"
        print(line)
    for name in peers:
        ratios = [results[query, "lakeward"] / results[query, name] for query in QUERIES if (query, name) in results]
        if ratios:
            mean = math.exp(statistics.fmean(map(math.log, ratios)))
            print(f"geometric mean over {name}: {mean:.1f}, least {min(ratios):.1f}")


def chart(results: dict[tuple[str, str], float], names: Sequence[str], python: str, path: str) -> None:
    """Draw the bars, with the peers' interpreter, which has matplotlib."""
    data = {"queries": [q for q in QUERIES if (q, "lakeward") in results], "engines": list(names), "what": WHAT}
    rates = {f"{query} {name}": value for (query, name), value in results.items()}
    subprocess.run([python, str(HERE / "chart.py"), json.dumps(data | {"rates": rates}), path], check=True)


def main() -> None:
    """Run all engines on all queries, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--queries", default=",".join(QUERIES))
    parser.add_argument("--engines", default="lakeward,flink,pyflink,threads,bytewax,quix")
    parser.add_argument("--flink-python", default=str(ROOT / ".venv-flink/bin/python"))
    parser.add_argument("--peers-python", default=str(ROOT / ".venv-peers/bin/python"))
    parser.add_argument("--chart", help="where to put the picture")
    arguments = parser.parse_args()
    names = arguments.engines.split(",")
    chosen = [one for one in engines(arguments.flink_python, arguments.peers_python) if one.name in names]
    results: dict[tuple[str, str], float] = {}
    queries = arguments.queries.split(",")
    runs = [(query, engine) for query in queries for engine in chosen if query in engine.queries]
    sizes = {(query, engine.name): engine.sizes(query, arguments.rows) for query, engine in runs}
    topics = {rows for query, engine in runs if engine.broker for rows in sizes[query, engine.name]}
    with jobs_of(set(chain.from_iterable(sizes.values())), topics) as jobs:
        for query, engine in runs:
            name = query, engine.name
            found = rate(engine, query, [jobs[rows] for rows in sizes[name]], arguments.rounds)
            if found is not None:
                results[name] = found
            print(*name, f"{found:,.0f}" if found else "noise", file=sys.stderr)
    report(results, names)
    if arguments.chart:
        chart(results, names, arguments.peers_python, os.path.abspath(arguments.chart))


if __name__ == "__main__":
    main()
