"""Nexmark: one query over files, or the whole benchmark.

    python benchmarks/nexmark.py --query q5 --input DIRECTORY [--output DIRECTORY] [--format jsonl] [--parallelism 2]

runs q5 of `examples/nexmark/` over person.parquet, auction.parquet and bid.parquet of a directory (written by
`benchmarks/nexmark_data.py`), with checkpoints to a temporary directory, and writes the answer as q5.parquet: where the
query's stream is an updating one, the rows that are left at the end. With --format jsonl it reads bid.jsonl when the
query needs bids alone, else events.jsonl. Without --output the answer goes to a blackhole. With --work DIRECTORY the
checkpoints lie there instead, and the same command goes on from the newest one if the run before has died.

    python benchmarks/nexmark.py [--queries q0,q1] [--events 2000000] [--format jsonl] [--rounds 3]

measures rows per CPU second of the whole process: answers to a blackhole, start-up taken off (two sizes, the
difference). A row is a line or row of the files that the query reads.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import lakeward as lw  # isort: skip  # before pyarrow: it says how Arrow keeps memory
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lakeward import col
from lakeward.connectors.nexmark.law import AUCTION_SCHEMA, BID_SCHEMA, PERSON_SCHEMA
from lakeward.engine.api.changelog import SHORT_NAMES
from lakeward.examples.nexmark import CEP_NAMES, NAMES, inputs, query
from lakeward.operators.changelog import materialise

FILES = {"persons": "person", "auctions": "auction", "bids": "bid"}
"""The file of each stream; their order is that of the event types in events.jsonl."""
SCHEMAS = {"persons": PERSON_SCHEMA, "auctions": AUCTION_SCHEMA, "bids": BID_SCHEMA}
EVENTS_OF = {"persons": 1, "auctions": 3, "bids": 46}
"""How many of 50 events are of each stream."""
DELAY_MS = 4_000
"""How late rows may come, as in Nexmark's own table definitions; shuffled input is given more where it needs more."""
SIDE_KEYS = 10_000
SHUFFLE_FACTOR = 953


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one query.

    Args:
        query: "q0" to "q23", "cep_q0" to "cep_q3".
        input: The directory of the data set.
        output: Where to write the answer; None: nowhere.
        format: "parquet" or "jsonl".
        parallelism: Subtasks of each operator; files are read by one.
        checkpoint_interval: Time between checkpoints.
        batch_rows: Rows a batch of the sources.
        out_of_order: Shuffle the input within groups of this many events; 1: read it as it is.
        work: Directory of checkpoints and of what is written until the end, of this query alone, kept so that a run
            that has died is gone on with; None: a temporary one.
    """

    query: str
    input: str
    output: str | None = None
    format: str = "parquet"
    parallelism: int = 1
    checkpoint_interval: str = "10s"
    batch_rows: int = lw.EngineConfig().batch_rows
    out_of_order: int = 1
    work: str | None = None

    @property
    def files(self) -> list[str]:
        """The files that are read, in the order of the streams that need them."""
        needed = [name for name in inputs(query(self.query)) if name in FILES]
        if self.format == "parquet":
            return [f"{FILES[name]}.parquet" for name in needed]
        return ["bid.jsonl" if needed == ["bids"] else "events.jsonl"]


def run(options: Run) -> lw.JobResult | None:
    """Run a query to the end of its input, and write its answer if a directory for it was given."""
    with folder_of(options.work) as work:
        env = lw.StreamExecutionEnvironment(
            parallelism=options.parallelism,
            checkpoint_interval=options.checkpoint_interval,
            checkpoint_dir=f"{work}/checkpoints",
            config=lw.EngineConfig(batch_rows=options.batch_rows),
        )
        folder, delay_ms = options.input, DELAY_MS
        if options.out_of_order > 1:
            folder = f"{work}/shuffled"
            delay_ms = max(delay_ms, shuffle_input(options, Path(folder)))
        stream = query(options.query)(**streams(env, options, folder, delay_ms))
        if options.output is None:
            stream.sink_to(lw.BlackholeSink(), uid="answer")
            return env.execute(options.query)
        rows = stream.to_changelog().select(*stream.schema.names[:-1], "op") if stream.is_updating else stream
        rows.sink_to(lw.FilesSink(f"{work}/answer"), uid="answer")
        result = env.execute(options.query)
        write_answer(stream, Path(work, "answer"), Path(options.output, f"{options.query}.parquet"))
        return result


@contextmanager
def folder_of(given: str | None) -> Iterator[str]:
    """The directory that was given, which stays, or a temporary one."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="nexmark-") as folder:
        yield folder


# -- the input


def streams(
    env: lw.StreamExecutionEnvironment, options: Run, folder: str, delay_ms: int = DELAY_MS
) -> dict[str, lw.DataStream]:
    """The streams that the query reads, by the names of its parameters."""
    needed = inputs(query(options.query))
    given = [name for name in needed if name in FILES]
    if options.format == "parquet":
        found = {name: from_file(env, f"{folder}/{FILES[name]}.parquet", None, name, delay_ms) for name in given}
    elif given == ["bids"]:
        found = {"bids": from_file(env, f"{folder}/bid.jsonl", BID_SCHEMA, "bids", delay_ms)}
    else:
        found = from_events(env, f"{folder}/events.jsonl", given, delay_ms)
    if "side_input" in needed:
        found["side_input"] = side_input(env)
    return found


def side_input(env: lw.StreamExecutionEnvironment) -> lw.DataStream:
    """The bounded table of keys and texts that q13 looks up in."""
    keys = np.arange(SIDE_KEYS)
    table = pa.table({"key": keys, "value": [f"side-{key}" for key in keys]})
    return env.from_collection(table, uid="side_input")


def watermark(delay_ms: int = DELAY_MS) -> lw.WatermarkStrategy:
    """Event time of all three streams."""
    return lw.WatermarkStrategy.bounded_out_of_orderness("dateTime", f"{delay_ms}ms")


def from_file(
    env: lw.StreamExecutionEnvironment, path: str, schema: pa.Schema | None, uid: str, delay_ms: int
) -> lw.DataStream:
    """A file with its event time; one reader, since a file is read from front to back."""
    source = lw.FilesSource(path, schema=schema)
    return env.from_source(source, watermark=watermark(delay_ms), uid=uid, parallelism=1)


def from_events(
    env: lw.StreamExecutionEnvironment, path: str, needed: Sequence[str], delay_ms: int
) -> dict[str, lw.DataStream]:
    """The streams of a file in which all kinds of events are mixed."""
    fields = {field.name: field for name in needed for field in SCHEMAS[name]}
    schema = pa.schema([pa.field("event_type", pa.int64()), *fields.values()])
    events = from_file(env, path, schema, "events", delay_ms)
    numbers = {name: number for number, name in enumerate(FILES)}
    return {name: events.filter(col("event_type") == numbers[name]).select(*SCHEMAS[name].names) for name in needed}


# -- out-of-order input


def shuffle_input(options: Run, folder: Path) -> int:
    """Copy the input, shuffled within groups of events as the writer of data sets does it; copies that are there stay.

    Returns:
        How late its rows come at most, in milliseconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    latest_ms = 0
    for name in options.files:
        source, target = Path(options.input, name), folder / name
        kind = next((stream for stream, file in FILES.items() if name.startswith(f"{file}.")), None)
        share = 1.0 if kind is None else EVENTS_OF[kind] / sum(EVENTS_OF.values())
        group = max(round(options.out_of_order * share), 1)
        if not target.exists():  # a checkpoint knows it: a file that was written again would be taken for another
            with written_whole(target) as unfinished:
                shuffle_file(source, unfinished, group)
        times = times_in(target)
        late = np.maximum.accumulate(times) - times
        latest_ms = max(latest_ms, int(late.max(initial=np.timedelta64(0, "ms")).astype(np.int64)))
    return latest_ms


def shuffle_file(source: Path, target: Path, group: int) -> None:
    """Copy a file, Parquet or JSON lines, shuffled."""
    order = shuffle(times_in(source), group)
    if source.suffix == ".parquet":
        pq.write_table(pq.read_table(source).take(pa.array(order)), target)
        return
    lines = np.array(source.read_bytes().splitlines(keepends=True), dtype=object)
    target.write_bytes(b"".join(lines[order]))


def times_in(file: Path) -> np.ndarray:
    """The event times of a file's rows."""
    if file.suffix == ".parquet":
        return pq.read_table(file, columns=["dateTime"])["dateTime"].to_numpy().astype("datetime64[ms]")
    lines = file.read_bytes().splitlines()
    return np.array([line.split(b'"dateTime":"', 1)[1][:23].decode() for line in lines], "datetime64[ms]")


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A place to write a file at; only then it gets its name, so that nobody ever finds half of it."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    yield unfinished
    os.replace(unfinished, target)


def shuffle(times: np.ndarray, group: int) -> np.ndarray:
    """The row that comes at each place; rows stay in their group of `group` neighbours, those of one time in order."""
    place = np.arange(len(times))
    moments = np.rec.fromarrays([place // group, times])
    _, firsts, moment = np.unique(moments, return_index=True, return_inverse=True)
    within = (firsts[moment] % group) * SHUFFLE_FACTOR % group
    return np.lexsort((place, within, place // group))


# -- the answer


def write_answer(stream: lw.DataStream, folder: Path, target: Path) -> None:
    """Make one file of what the job has written: the rows themselves, or what a changelog leaves of them.

    The same file each time: a run that died on the way does it again.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    files = sorted(folder.glob("*.parquet"))
    with written_whole(target) as unfinished:
        if target.stem == "q12":
            counts = [stream.schema.empty_table(), *(pq.read_table(file).cast(stream.schema) for file in files)]
            pq.write_table(summed_windows(pa.concat_tables(counts)), unfinished)
        elif stream.is_updating:
            pq.write_table(materialise(changes(stream, files), stream.upsert_key), unfinished)
        else:
            copy_rows(files, unfinished, stream.schema)


def copy_rows(files: Sequence[Path], target: Path, schema: pa.Schema) -> None:
    """Make one Parquet file of several."""
    with pq.ParquetWriter(target, schema) as writer:
        for file in files:
            for batch in pq.ParquetFile(file).iter_batches():
                writer.write_batch(batch.cast(schema))


def changes(stream: lw.DataStream, files: Sequence[Path]) -> pa.Table:
    """The updating stream's rows again, from files of its changelog."""
    tables = []
    for file in files:
        table = pq.read_table(file)
        kinds = table["op"].combine_chunks().dictionary_encode()
        numbers = np.array([SHORT_NAMES.index(name) for name in kinds.dictionary.to_pylist()], np.int8)
        columns = [table[name] for name in stream.schema.names[:-1]]
        kind = pa.array(numbers[kinds.indices.to_numpy()], pa.int8())
        tables.append(pa.table([*columns, kind], schema=stream.schema))
    return pa.concat_tables(tables) if tables else stream.schema.empty_table()


def summed_windows(counts: pa.Table) -> pa.Table:
    """The counts of q12 added up: how they fall into windows of processing time depends on the machine."""
    summed = counts.group_by("bidder").aggregate([("bid_count", "sum")])
    return summed.rename_columns({"bid_count_sum": "bid_count"}).select(counts.schema.names).cast(counts.schema)


# -- the whole benchmark

TARGETS = {
    "jsonl": {
        **dict.fromkeys(("q0", "q1"), 0.9),
        **dict.fromkeys(("q14", "q21", "q22"), 0.8),
        **dict.fromkeys(("q2", "q17"), 1.5),
        **dict.fromkeys(("q5", "q11", "q12"), 1.2),
        **dict.fromkeys(("q7", "q15", "q16", "q18", "q19"), 0.5),
    },
    "parquet": {
        "q2": 20.0,
        **dict.fromkeys(("q0", "q1"), 6.0),
        **dict.fromkeys(("q5", "q11", "q12", "q17"), 4.0),
        **dict.fromkeys(("q3", "q7", "q8", "q13"), 3.0),
        **dict.fromkeys(("q4", "q9", "q15", "q16"), 1.0),
        **dict.fromkeys(("q18", "q19", "q20", "q23"), 0.7),
    },
}
"""Million rows per CPU second that each query should reach at least."""


def measure(names: Sequence[str], options: argparse.Namespace) -> None:
    """Run queries at two sizes, in rounds, and print a line for each."""
    from measure import median, run_rounds
    from nexmark_data import DataSet, write_files

    with folder_of(options.data) as folder:
        sizes = {"small": options.events // 4, "large": options.events}
        rows: dict[str, dict[str, int]] = {}
        for size, events in sizes.items():
            counts = Path(folder, f"{events}", "rows.json")
            if not counts.exists():
                data = DataSet(events, rate=options.rate, jsonl=options.format == "jsonl")
                counts.parent.mkdir(parents=True, exist_ok=True)
                counts.write_text(json.dumps(write_files(counts.parent, data)))
            rows[size] = json.loads(counts.read_text())
        print(f"{'query':8}{'M rows per CPU s':>18}{'with start-up':>15}{'at least':>10}{'MB':>8}")
        for name in names:
            cases = {size: case(name, options, f"{folder}/{events}") for size, events in sizes.items()}
            read = {size: rows_read(cases[size], rows[size]) for size in sizes}
            runs = run_rounds(__file__, {size: asdict(one) for size, one in cases.items()}, read, options.rounds)
            cpu_s = {size: median(one.cpu_s for one in runs[size]) for size in sizes}
            rate = (read["large"] - read["small"]) / max(cpu_s["large"] - cpu_s["small"], 1e-9) / 1e6
            whole, memory = read["large"] / cpu_s["large"] / 1e6, max(one.memory_mb for one in runs["large"])
            target = TARGETS[options.format].get(name)
            wanted = "" if target is None else f"{target:.1f}"
            print(f"{name:8}{rate:>18.2f}{whole:>15.2f}{wanted:>10}{memory:>8.0f}", flush=True)


def case(name: str, options: argparse.Namespace, folder: str) -> Run:
    """The run that is measured."""
    return Run(
        name,
        folder,
        format=options.format,
        parallelism=options.parallelism,
        checkpoint_interval=options.checkpoint_interval,
        batch_rows=options.batch_rows,
    )


def rows_read(one: Run, rows: Mapping[str, int]) -> int:
    """How many rows the run's files have."""
    if one.files == ["events.jsonl"]:
        return sum(rows.values())
    return sum(rows[name.split(".")[0]] for name in one.files)


def main(arguments: Sequence[str]) -> None:
    """Run one query, or measure."""
    options = parser().parse_args(arguments)
    if options.child:
        run(Run(**json.loads(options.child)))
    elif options.query is None:
        measure(options.queries.split(",") if options.queries else (*NAMES, *CEP_NAMES), options)
    elif options.input is None:
        files = Run(options.query, "", format=options.format).files
        sys.exit(f"give --input: the directory that holds {', '.join(files)}")
    else:
        names = Run.__dataclass_fields__
        run(Run(**{name: value for name, value in vars(options).items() if name in names}))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--query", choices=(*NAMES, *CEP_NAMES))
    made.add_argument("--input", help="directory of the data set")
    made.add_argument("--output", help="directory for the answer; without it, it is thrown away")
    made.add_argument("--format", choices=("parquet", "jsonl"), default="parquet")
    made.add_argument("--parallelism", type=int, default=1)
    made.add_argument("--checkpoint-interval", default="10s")
    made.add_argument("--batch-rows", type=int, default=lw.EngineConfig().batch_rows)
    made.add_argument("--out-of-order", type=int, default=1, help="shuffle the input within groups of so many events")
    made.add_argument("--work", help="directory to keep checkpoints in: go on from there if the run before has died")
    made.add_argument("--queries", help="what to measure, for example q0,q5; by default all")
    made.add_argument("--events", type=int, default=2_000_000, help="events of the larger size")
    made.add_argument("--rate", type=int, default=10_000, help="events per second of event time")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--data", default=os.environ.get("NEXMARK_DATA"), help="directory to keep data sets in")
    made.add_argument("--child", help=argparse.SUPPRESS)
    return made


if __name__ == "__main__":
    main(sys.argv[1:])
