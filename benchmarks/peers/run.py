"""Lakeward beside Flink SQL, PyFlink, Bytewax and Quix on the same events: rows per CPU second, in one run.

    make bench-peers                        # makes the peers' environments, then runs this
    python benchmarks/peers/run.py [--events 1000000] [--rounds 1] [--queries q0,q2] [--engines flink,bytewax]

Lakeward and Flink SQL run all of Nexmark's queries but q6, which Flink's SQL cannot express, and two windows alone;
Bytewax and Quix run some of them, PyFlink a process function. JSON lines in, nothing out, one core, checkpoints every
10 s where the engine has them. A row is a line of the file that the query reads: of the bids (256 bytes each) where it
needs no others, which are 46 of 50 events, else of all events. CPU seconds are those of all processes of an engine
(user and system; a broker's are not counted). Each engine runs each query at two sizes, a quarter and all of the
events; the difference is free of start-up. So that no run takes too long and no difference is lost in noise, engines
that are slow at a query get a fourth or a tenth of the events, Lakeward four times as many, and so does Flink SQL where
it is not slow, which compiles while it runs. PyFlink runs its Python functions in processes of their own unless told
otherwise ("pyflink"), or in threads beside the JVM's ("threads").

Prints a table with ratios and, with --chart FILE, draws it. `check.py` compares Flink's answers with Lakeward's.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NEXMARK = tuple(f"q{number}" for number in range(24) if number != 6)
WHAT = {
    "q0": "pass through",
    "q1": "prices in euros",
    "q2": "filter",
    "q3": "join of auctions with sellers",
    "q4": "average closing price per category",
    "q5": "auctions with most bids in 10 s",
    "q7": "highest bids of each 10 s",
    "q8": "sellers new in the same 10 s",
    "q9": "winning bid of each auction",
    "q10": "day and minute as text",
    "q11": "sessions per bidder",
    "q12": "10 s of the clock per bidder",
    "q13": "join with a table of 10,000",
    "q14": "calculation",
    "q15": "distinct counts per day",
    "q16": "distinct counts per channel and day",
    "q17": "statistics per auction and day",
    "q18": "last bid per bidder and auction",
    "q19": "ten highest bids per auction",
    "q20": "join of bids with auctions",
    "q21": "regular expressions",
    "q22": "split a text",
    "q23": "join of bids, persons and auctions",
    "tumbling": "10 s maximum per auction",
    "sliding": "10 s count per auction, every 2 s",
    "process": "running count per auction in Python",
}
QUERIES = tuple(WHAT)
TENTH = 0.1
FLINK_SLOW = dict.fromkeys(("q4", "q11", "q13", "q16", "q19", "q20"), 1) | dict.fromkeys(("q7", "q9", "q23"), 0.25)
NOISE = 1.1  # four times the rows have to cost at least this much more


@dataclass(frozen=True)
class Job:
    """What an engine is asked to run.

    Args:
        query: Which.
        path: Bids or events as JSON lines.
        topic: The same in Kafka; empty without a broker.
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
        scale: How many times the events it gets.
        scales: How many times of some queries.
        broker: Whether it reads from Kafka.
    """

    name: str
    queries: tuple[str, ...]
    command: Callable[[Job], list[str]]
    scale: float = 1
    scales: Mapping[str, float] = field(default_factory=dict)
    broker: bool = False

    def sizes(self, query: str, events: int) -> tuple[int, int]:
        """Of how many events it reads, at first and then."""
        most = round(events * self.scales.get(query, self.scale))
        return most // 4, most


def engines(flink: str, python: str) -> list[Engine]:
    """All of them, given the interpreters of the peers' environments."""
    sql = [flink, str(HERE / "flink_sql.py")]
    datastream = [flink, str(HERE / "pyflink_datastream.py")]
    bytewax = [python, str(HERE / "bytewax_flow.py")]
    quix = [python, str(HERE / "quix_flow.py")]
    quick = ("q0", "q2", "q17", "q22", "tumbling", "sliding")
    return [
        Engine("lakeward", QUERIES, lakeward, scale=4),
        Engine(
            "flink",
            (*NEXMARK, "tumbling", "sliding"),
            lambda job: [*sql, job.query, job.path, job.directory],
            4,
            FLINK_SLOW,
        ),
        Engine("pyflink", ("process",), lambda job: [*datastream, "process", job.path, job.directory], TENTH),
        Engine("threads", ("process",), lambda job: [*datastream, "thread", job.path, job.directory], TENTH),
        Engine(
            "bytewax",
            (*quick, "q11", "q18"),
            lambda job: [*bytewax, job.query, job.path],
            scales=dict.fromkeys(("tumbling", "sliding", "q11"), TENTH),
        ),
        Engine(
            "quix",
            quick,
            lambda job: [*quix, job.query, job.bootstrap, job.topic, str(job.rows), job.directory],
            scale=TENTH,
            broker=True,
        ),
    ]


def lakeward(job: Job) -> list[str]:
    """How Lakeward is started: Nexmark's queries are the examples, by the runner of their own benchmark."""
    if job.query in NEXMARK:
        return nexmark(job.query, job.path)
    return [sys.executable, str(HERE / "lakeward_flow.py"), job.query, job.path, job.directory]


def nexmark(query: str, path: str) -> list[str]:
    """How Lakeward is started for a query of Nexmark."""
    runner = [sys.executable, str(HERE.parent / "nexmark.py"), "--query", query]
    return [*runner, "--input", str(Path(path).parent), "--format", "jsonl"]


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


def file_of(query: str) -> str:
    """The file that a query reads: as `benchmarks/nexmark.py` chooses it."""
    from lakeward.examples import nexmark

    needed = nexmark.inputs(nexmark.query(query)) if query in NEXMARK else ("bids",)
    return "events.jsonl" if {"persons", "auctions"} & set(needed) else "bid.jsonl"


def write_data(folder: Path, events: int, rate: int = 10_000) -> Path:
    """Write the benchmark's first events as JSON lines, into a directory of their own."""
    directory = folder / str(events)
    writer = [sys.executable, str(HERE.parent / "nexmark_data.py"), str(directory), str(events), "--jsonl"]
    subprocess.run([*writer, "--rate", str(rate)], check=True, stdout=subprocess.DEVNULL)
    return directory


@contextmanager
def jobs_of(inputs: set[tuple[str, int]], topics: set[tuple[str, int]]) -> Iterator[dict[tuple[str, int], Job]]:
    """Each input, a file of so many events, as a file, and some also as topics of a broker."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        data = {events: write_data(Path(folder), events) for events in {events for _, events in inputs}}
        paths = {(file, events): data[events] / file for file, events in inputs}
        jobs = {name: Job("", str(path), "", "", lines_in(path), "") for name, path in paths.items()}
        if topics:
            from lakeward.testing.brokers import start_broker

            broker = stack.enter_context(start_broker(Path(folder)))
            for name in topics:
                topic = f"bids-{jobs[name].rows}"
                broker.create_topic(topic, 1)
                broker.produce(topic, paths[name].read_bytes().splitlines(), partition=0, keys=_auctions(paths[name]))
                jobs[name] = replace(jobs[name], topic=topic, bootstrap=broker.bootstrap)
        yield jobs


def lines_in(path: Path) -> int:
    """How many rows a file of JSON lines has."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


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
        both = [query for query in QUERIES if {(query, "lakeward"), (query, name)} <= results.keys()]
        ratios = [results[query, "lakeward"] / results[query, name] for query in both]
        if ratios:
            mean = math.exp(statistics.fmean(map(math.log, ratios)))
            print(f"geometric mean over {name}: {mean:.1f}, least {min(ratios):.1f}")


def chart(results: dict[tuple[str, str], float], names: Sequence[str], python: str, path: str) -> None:
    """Draw the bars, with the peers' interpreter, which has matplotlib."""
    queries = [query for query in QUERIES if (query, "lakeward") in results]
    if not queries:
        sys.exit(f"{path} is not drawn: no rate of Lakeward stands out of the noise, give more --events")
    data = {"queries": queries, "engines": list(names)}
    rates = {f"{query} {name}": value for (query, name), value in results.items()}
    subprocess.run([python, str(HERE / "chart.py"), json.dumps(data | {"rates": rates}), path], check=True)


def main() -> None:
    """Run all engines on all queries, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
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
    inputs = {
        (query, engine.name): [(file_of(query), events) for events in engine.sizes(query, arguments.events)]
        for query, engine in runs
    }
    topics = {one for query, engine in runs if engine.broker for one in inputs[query, engine.name]}
    with jobs_of(set(chain.from_iterable(inputs.values())), topics) as jobs:
        for query, engine in runs:
            name = query, engine.name
            found = rate(engine, query, [jobs[one] for one in inputs[name]], arguments.rounds)
            if found is not None:
                results[name] = found
            print(*name, f"{found:,.0f}" if found else "noise", file=sys.stderr)
    report(results, names)
    if arguments.chart:
        chart(results, names, arguments.peers_python, os.path.abspath(arguments.chart))


if __name__ == "__main__":
    main()
