"""The conformance suites as test classes: a method a check, which pytest finds, and which fails for what it names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lakeward import CollectionSource
from lakeward.engine.api.source import ReaderContext, SourceReader, Split, SplitBatch, SplitFinished
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.state.memory import MemoryStoreFactory
from lakeward.testing import CheckpointStoreSuite, KeyValueStoreSuite, SinkSuite, SourceSuite
from lakeward.testing.sink_suite import SINK_CHECKS
from lakeward.testing.source_suite import SOURCE_CHECKS
from lakeward.testing.state_suite import KEY_VALUE_STORE_CHECKS
from lakeward.testing.store_suite import STORE_CHECKS

ROWS = [{"n": n} for n in range(40)]


class TestCollection(SourceSuite):
    def make_source(self) -> CollectionSource:
        return CollectionSource(ROWS)

    def expected_rows(self) -> Sequence[dict[str, Any]]:
        return ROWS


@pytest.mark.parametrize(
    ("suite", "checks"),
    [
        (SourceSuite, SOURCE_CHECKS),
        (SinkSuite, SINK_CHECKS),
        (KeyValueStoreSuite, KEY_VALUE_STORE_CHECKS),
        (CheckpointStoreSuite, STORE_CHECKS),
    ],
)
def test_a_suite_has_a_test_for_every_check(suite: type, checks: Sequence[Any]) -> None:
    tests = [name for name in vars(suite) if name.startswith("test_")]
    assert len(tests) == len(checks)
    assert all(getattr(suite, name).__doc__ for name in tests)


class Forgetful(CollectionSource):
    """Begins at its start, whatever position it is given."""

    def open_reader(self, context: ReaderContext) -> SourceReader:
        return ForgetfulReader(super().open_reader(context))


class ForgetfulReader(SourceReader):
    def __init__(self, inner: SourceReader) -> None:
        self._inner = inner

    def add_split(self, split: Split, position: JsonObject | None) -> None:
        self._inner.add_split(split, None)

    def poll(self) -> SplitBatch | SplitFinished | None:
        return self._inner.poll()


def test_a_source_that_forgets_positions_fails_where_it_resumes_and_nowhere_else() -> None:
    class Case(TestCollection):
        def make_source(self) -> CollectionSource:
            return Forgetful(ROWS)

    case: Any = Case()
    case.test_every_row_is_read_once()
    with pytest.raises(AssertionError, match="resumed at") as caught:
        case.test_resume_from_every_position()
    assert any(note.startswith("what is checked: ") for note in caught.value.__notes__)


class RacingStore(MemoryStore):
    def create_if_absent(self, path: str, data: bytes) -> bool:
        self.put(path, data)
        return True


def test_a_store_whose_creates_all_win_fails() -> None:
    class Case(CheckpointStoreSuite):
        def make_store(self) -> MemoryStore:
            return RacingStore()

    case: Any = Case()
    case.test_what_was_put_is_read_back()
    with pytest.raises(AssertionError):
        case.test_only_the_first_create_wins()


def test_each_check_of_a_key_value_store_has_a_folder_of_its_own() -> None:
    class Case(KeyValueStoreSuite):
        def make_factory(self) -> MemoryStoreFactory:
            return MemoryStoreFactory()

    case: Any = Case()
    case.test_an_empty_store_can_be_checkpointed()
    case.test_an_empty_store_can_be_checkpointed()
