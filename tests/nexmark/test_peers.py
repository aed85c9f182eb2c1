"""The comparison with other engines asks all of them the same questions of the same rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from nexmark_answers import ROOT, load, nexmark

from lakeward.examples.nexmark import NAMES

peers = load("peers_runner", ROOT / "benchmarks" / "peers" / "run.py")
flink = load("peers_flink_queries", ROOT / "benchmarks" / "peers" / "flink_queries.py")


def engine(name: str) -> object:
    return next(one for one in peers.engines("flink-python", "peers-python") if one.name == name)


def test_flink_is_asked_every_query_of_nexmark_that_its_sql_can_express() -> None:
    asked = engine("flink").queries  # type: ignore[attr-defined]
    assert set(NAMES) - set(asked) == {"q6"}
    assert set(asked) == set(flink.QUERIES)


def test_lakeward_is_asked_whatever_any_other_engine_is() -> None:
    others = {query for one in peers.engines("f", "p") for query in one.queries}
    assert set(engine("lakeward").queries) == others == set(peers.QUERIES)  # type: ignore[attr-defined]


@pytest.mark.parametrize("query", peers.NEXMARK)
def test_every_engine_reads_the_file_that_lakewards_own_benchmark_reads(query: str) -> None:
    assert [peers.file_of(query)] == nexmark.Run(query, "", format="jsonl").files
    assert peers.file_of(query) in flink.TABLES


@pytest.mark.parametrize("query", peers.NEXMARK)
def test_lakeward_runs_the_examples_by_the_runner_of_their_own_benchmark(query: str) -> None:
    job = peers.Job(query, f"data/100/{peers.file_of(query)}", "", "", 100, "state")
    _, script, *arguments = engine("lakeward").command(job)  # type: ignore[attr-defined]
    assert Path(script) == ROOT / "benchmarks" / "nexmark.py"
    options = nexmark.parser().parse_args(arguments)
    assert (options.query, options.input, options.format, options.output) == (query, "data/100", "jsonl", None)


def test_a_slow_engine_reads_a_tenth_of_the_events_and_lakeward_four_times_as_many() -> None:
    quick, slow = peers.Engine("quick", (), list, scale=4), peers.Engine("slow", (), list, scales={"q7": 0.1})
    assert quick.sizes("q7", 1_000) == (1_000, 4_000)
    assert slow.sizes("q7", 1_000) == (25, 100)
    assert slow.sizes("q8", 1_000) == (250, 1_000)


@pytest.mark.parametrize("file", ["bid.jsonl", "events.jsonl"])
def test_an_inputs_rows_are_the_lines_of_its_file(file: str, tmp_path: Path) -> None:
    path = peers.write_data(tmp_path, 500) / file
    assert peers.lines_in(path) == {"bid.jsonl": 460, "events.jsonl": 500}[file]


def test_the_table_says_how_many_times_lakewards_rate_a_peers_is(capsys: pytest.CaptureFixture[str]) -> None:
    rates = {("q0", "lakeward"): 900e3, ("q0", "flink"): 300e3, ("q7", "lakeward"): 500e3, ("q7", "flink"): 5e3}
    peers.report(rates | {("q0", "bytewax"): 450e3}, ["lakeward", "flink", "bytewax"])
    _, q0, q7, flink_mean, bytewax_mean = capsys.readouterr().out.splitlines()
    assert q0.split()[-5:] == ["900", "300", "3.0", "450", "2.0"]
    assert q7.split()[-3:] == ["500", "5", "100.0"]
    assert flink_mean == "geometric mean over flink: 17.3, least 3.0"
    assert bytewax_mean == "geometric mean over bytewax: 2.0, least 2.0"


def test_a_rate_of_lakeward_that_is_lost_in_noise_costs_only_its_own_line(capsys: pytest.CaptureFixture[str]) -> None:
    rates = {("q0", "flink"): 300e3, ("q7", "lakeward"): 500e3, ("q7", "flink"): 5e3}
    peers.report(rates, ["lakeward", "flink"])
    _, q7, mean = capsys.readouterr().out.splitlines()
    assert q7.startswith("q7: ")
    assert mean == "geometric mean over flink: 100.0, least 100.0"
