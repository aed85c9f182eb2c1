"""The Iceberg sink keeps the contract of transactional sinks, with faults at the catalog."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import pytest
from pyiceberg.exceptions import CommitStateUnknownException

from lakeward.connectors.iceberg import IcebergSink, bucket
from lakeward.testing.lake import LocalLake, check_readers_agree, intercept_commit
from lakeward.testing.sink_suite import (
    SINK_CHECKS,
    FaultPoint,
    SinkCheck,
    SinkFeature,
    SinkHarness,
    SinkPolicy,
    run_check,
)

TABLE = "suite.rows"


class IcebergHarness(SinkHarness):
    features = frozenset(SinkFeature)

    def __init__(self, lake: LocalLake, partitioned: bool) -> None:
        self._lake = lake
        self._partition_by = [bucket("id", 2)] if partitioned else []

    def sink(self, policy: SinkPolicy) -> IcebergSink:
        return IcebergSink(
            TABLE,
            catalog=self._lake.catalog,
            partition_by=self._partition_by,
            sink_id=policy.sink_id,
            on_rewind=policy.on_rewind,
            on_existing=policy.on_existing,
        )

    def visible_rows(self) -> Sequence[tuple[int, str]]:
        return [(row["id"], row["name"]) for row in self._lake.rows(TABLE)]

    def fault(self, point: FaultPoint) -> AbstractContextManager[None]:
        def fail() -> None:
            raise CommitStateUnknownException("the test took the answer away")

        return intercept_commit(before=fail) if point is FaultPoint.NOT_APPLIED else intercept_commit(after=fail)

    def close(self) -> None:
        if self._lake.open_catalog().table_exists(TABLE):
            check_readers_agree(self._lake.load(TABLE), ["id"])


@pytest.mark.parametrize("check", SINK_CHECKS, ids=lambda check: check.__name__)
def test_the_iceberg_sink_keeps_the_contract(check: SinkCheck, lake: LocalLake) -> None:
    run_check(check, IcebergHarness(lake, partitioned="crash" in check.__name__))
