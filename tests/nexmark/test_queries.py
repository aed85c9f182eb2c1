"""Every Nexmark query gives the right answer: run straight, with failures, restored at another parallelism."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nexmark_answers import EVENTS, STARTS, Data, check, make_data, nexmark

import lakeward as lw
from lakeward.examples.nexmark import CEP_NAMES, NAMES, inputs, query
from lakeward.testing import BARRIER, EOF, FAIL, CollectSink, Item, JobHarness, JobRun, ScriptedSource

QUERIES = (*NAMES, *CEP_NAMES)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Data]:
    return {seed: make_data(seed, tmp_path_factory.mktemp(f"nexmark-{seed}")) for seed in STARTS}


@pytest.fixture
def data(request: pytest.FixtureRequest, datasets: dict[int, Data]) -> Data:
    return datasets[request.param]


def seeds(*default: int) -> pytest.MarkDecorator:
    """Run over every data set; but for these in the long run only, `make queries`."""
    every = [pytest.param(one, marks=[] if one in default else [pytest.mark.soak], id=f"seed-{one}") for one in STARTS]
    return pytest.mark.parametrize("data", every, indirect=True)


def run(name: str, data: Data, target: Path, **options: Any) -> pa.Table:
    """What the benchmark's runner writes."""
    nexmark.run(nexmark.Run(name, str(data.folder), str(target), **options))
    return pq.read_table(target / f"{name}.parquet")


@seeds(1)
@pytest.mark.parametrize("name", QUERIES)
def test_a_query_over_parquet_gives_the_right_answer(name: str, data: Data, tmp_path: Path) -> None:
    check(name, run(name, data, tmp_path, batch_rows=2_000), data)


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_over_json_lines_answers_the_same(name: str, datasets: dict[int, Data], tmp_path: Path) -> None:
    check(name, run(name, datasets[2], tmp_path, format="jsonl"), datasets[2])


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_over_shuffled_input_answers_the_same(name: str, datasets: dict[int, Data], tmp_path: Path) -> None:
    found = run(name, datasets[3], tmp_path, out_of_order=1000, batch_rows=500)
    check(name, found, datasets[3], in_order=False)


# -- failures and restores: the same streams from scripts, with marks between the batches

FAILURES: dict[int, Item] = {2: BARRIER, 5: FAIL, 7: BARRIER, 8: FAIL}
STOPS: dict[int, Item] = {2: BARRIER, 6: EOF}
OTHERS: dict[int, Item] = {3: BARRIER, 9: BARRIER}
"""What happens before which batch: of a query's longest stream, and of its other streams."""
PARALLELISM = {1: (1, 3), 2: (3, 1), 3: (2, 3)}
"""Before and after the stop, by seed."""
BATCHES = 12


def script(data: Data, stream: str, marks: dict[int, Item]) -> list[Item]:
    """A stream's batches with marks between them."""
    items: list[Item] = []
    for number, batch in enumerate(data.batches(nexmark.FILES[stream], BATCHES)):
        items += [marks[number]] if number in marks else []
        items.append(batch)
    return items


class Scripted:
    """A query over scripted sources, run again and again until it ends."""

    def __init__(self, name: str, data: Data, marks: dict[int, Item]) -> None:
        self._name = name
        needed = [one for one in inputs(query(name)) if one in nexmark.FILES]
        longest = max(needed, key=nexmark.EVENTS_OF.get)
        self._scripts = {one: script(data, one, marks if one == longest else OTHERS) for one in needed}
        self._harness = JobHarness(self._write, state="rocksdb")
        self.results: list[JobRun] = []

    def run(self, parallelism: int) -> pa.Table:
        """Run until it ends or is stopped; returns what is left of all rows so far."""
        self.results.append(self._harness.run(parallelism=parallelism))
        return self._harness.table()

    def _write(self, env: lw.StreamExecutionEnvironment) -> None:
        streams = {
            one: env.from_source(
                ScriptedSource(nexmark.SCHEMAS[one], items), watermark=nexmark.watermark(), uid=one, parallelism=1
            )
            for one, items in self._scripts.items()
        }
        if "side_input" in inputs(query(self._name)):
            streams["side_input"] = nexmark.side_input(env)
        query(self._name)(**streams).sink_to(CollectSink(), uid="answer")


def final(name: str, found: pa.Table) -> pa.Table:
    return nexmark.summed_windows(found) if name == "q12" else found


@seeds(2)
@pytest.mark.parametrize("name", QUERIES)
def test_a_query_answers_the_same_when_it_fails_and_is_restarted(name: str, data: Data) -> None:
    job = Scripted(name, data, FAILURES)
    found = job.run(parallelism=1)
    assert job.results[-1].ended
    assert job.results[-1].restarts >= 1
    check(name, final(name, found), data)


@seeds(1, 2, 3)
@pytest.mark.parametrize("name", QUERIES)
def test_a_query_answers_the_same_when_it_is_stopped_and_restored_at_other_parallelism(name: str, data: Data) -> None:
    job = Scripted(name, data, STOPS)
    for parallelism in PARALLELISM[data.seed]:
        found = job.run(parallelism)
    assert [result.ended for result in job.results] == [False, True]
    assert job.results[-1].restored is not None, "the last run must have gone on from a checkpoint"
    check(name, final(name, found), data, in_order=False)


# -- the files themselves


def test_the_files_have_the_events_in_the_proportions_and_order_of_the_generator(datasets: dict[int, Data]) -> None:
    folder = datasets[1].folder
    rows = {kind: pq.read_table(folder / f"{kind}.parquet") for kind in ("person", "auction", "bid")}
    assert [table.num_rows for table in rows.values()] == [EVENTS // 50, EVENTS * 3 // 50, EVENTS * 46 // 50]
    assert {str(table.schema.field("dateTime").type) for table in rows.values()} == {"timestamp[ms]"}
    with duckdb.connect() as con:
        events = f"read_json('{folder}/events.jsonl', format = 'newline_delimited')"
        kinds = con.sql(f"select event_type, count(*), count(distinct dateTime) from {events} group by 1 order by 1")
        times = [len(set(table["dateTime"].to_pylist())) for table in rows.values()]
        assert kinds.fetchall() == [(n, len(t), times[n]) for n, t in enumerate(rows.values())]


def test_shuffled_input_is_given_the_watermark_delay_that_it_needs(datasets: dict[int, Data], tmp_path: Path) -> None:
    for format in ("parquet", "jsonl"):
        options = nexmark.Run("q4", str(datasets[1].folder), format=format, out_of_order=1000)
        (tmp_path / format).mkdir()
        assert 4_000 < nexmark.shuffle_input(options, tmp_path / format) < 5_000


def test_shuffling_keeps_rows_within_their_group_and_loses_none() -> None:
    order = nexmark.shuffle(np.arange(2_500), 920)
    assert sorted(order) == list(range(2_500))
    assert set(order[:920]) == set(range(920))
    assert list(order[:4]) != [0, 1, 2, 3]


def test_shuffling_keeps_rows_of_one_time_in_order() -> None:
    times = np.arange(2_500) // 10
    order = nexmark.shuffle(times, 920)
    assert list(order[:20]) != list(range(20))
    for time in range(250):
        places = order[times[order] == time]
        assert list(places) == sorted(places)
