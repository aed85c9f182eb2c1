"""Which table goes with which checkpoint: the decision, case by case."""

import pytest

from lakeward.connectors.iceberg.markers import Marker, Position, SinkHistory
from lakeward.connectors.iceberg.recovery import NO_COMMIT, Decision, Policy, Restored, Step, decide
from lakeward.engine.core.errors import SinkStateError

REFUSE = Policy("db.t", "job/sink")
APPEND = Policy("db.t", "job/sink", on_rewind="append", on_existing="append")
ROLLBACK = Policy("db.t", "job/sink", on_rewind="rollback")
NOTHING = SinkHistory(None, None, rolled_back=False)


def marker(checkpoint: int, token: str = "t", lineage: int = 1, base: Position | None = None) -> Marker:
    return Marker(Position(lineage, checkpoint), token, "job-1", snapshot_id=checkpoint, base=base)


def at(checkpoint: int, token: str = "t", lineage: int = 1) -> SinkHistory:
    found = marker(checkpoint, token, lineage)
    return SinkHistory(found, found, rolled_back=False)


def rolled_back(recorded: int, visible: int | None, *abandoned: int) -> SinkHistory:
    return SinkHistory(
        marker(recorded),
        None if visible is None else marker(visible),
        rolled_back=True,
        abandoned=tuple(Position(1, n) for n in abandoned),
    )


def restored(checkpoint: int, known: int | None = None, pending: str | None = None, lineage: int = 1) -> Restored:
    return Restored(Position(lineage, checkpoint), NO_COMMIT if known is None else Position(1, known), pending)


@pytest.mark.parametrize(
    ("history", "checkpoint", "step", "lineage"),
    [
        pytest.param(
            at(2), Restored(Position(1, 9), None, "t"), Step.COMMIT_PENDING, 1, id="the sink has an older sink id again"
        ),
        pytest.param(NOTHING, None, Step.GO_ON, 1, id="first run over a fresh table"),
        pytest.param(NOTHING, restored(3), Step.GO_ON, 1, id="only empty checkpoints so far"),
        pytest.param(NOTHING, restored(3, pending="t"), Step.COMMIT_PENDING, 1, id="the first rows are pending"),
        pytest.param(at(3), restored(3, known=2), Step.GO_ON, 1, id="committed and known"),
        pytest.param(at(3), restored(3, known=2, pending="t"), Step.GO_ON, 1, id="committed but not known"),
        pytest.param(at(2), restored(3, known=2, pending="t"), Step.COMMIT_PENDING, 1, id="not committed"),
        pytest.param(at(2), restored(9, known=2), Step.GO_ON, 1, id="the marker lags over empty checkpoints"),
        pytest.param(at(2), restored(9, known=2, pending="empty"), Step.GO_ON, 1, id="an empty one is pending"),
        pytest.param(at(2), restored(9, known=2, lineage=2), Step.GO_ON, 2, id="a new lineage without commits yet"),
        pytest.param(rolled_back(9, 5, 7, 9), restored(6, known=5), Step.ROLL_BACK, 2, id="rolled back by hand to it"),
        pytest.param(rolled_back(9, None, 9), restored(2), Step.ROLL_BACK, 2, id="emptied by hand to it"),
    ],
)
def test_what_belongs_together_goes_on(
    history: SinkHistory, checkpoint: Restored | None, step: Step, lineage: int
) -> None:
    decision = decide(history, checkpoint, REFUSE)
    assert (decision.step, decision.lineage) == (step, lineage)
    assert decision.to == (checkpoint.position if checkpoint is not None and step is Step.ROLL_BACK else None)


@pytest.mark.parametrize(
    ("history", "checkpoint", "word"),
    [
        pytest.param(at(3), None, "without a checkpoint", id="stateless restart"),
        pytest.param(at(4), restored(3), "would come twice", id="rewind"),
        pytest.param(at(4), restored(3, pending="t"), "would come twice", id="rewind with pending rows"),
        pytest.param(at(3, "other"), restored(3, pending="t"), "would come twice", id="fork: same id, other files"),
        pytest.param(at(3), restored(4, known=2, pending="t"), "would come twice", id="a zombie's commit in between"),
        pytest.param(at(3), restored(4, known=2), "would come twice", id="a zombie's commit after an empty one"),
        pytest.param(at(3), restored(4, pending="t"), "would come twice", id="a zombie's commit before any other"),
        pytest.param(at(1, lineage=2), restored(9), "would come twice", id="an abandoned lineage"),
        pytest.param(at(2), restored(9, known=5), "rolled back or", id="a known commit is missing"),
        pytest.param(NOTHING, restored(9, known=5), "rolled back or", id="all commits are missing"),
        pytest.param(rolled_back(9, 5, 9), restored(9), "rolled back or", id="rolled back under the job"),
        pytest.param(rolled_back(9, 4, 5, 9), restored(6, known=4), "rolled back or", id="rolled back too far, seen"),
        pytest.param(rolled_back(9, 4), restored(6, known=5), "rolled back or", id="rolled back too far, known"),
        pytest.param(rolled_back(9, 4), restored(6, pending="t"), "rolled back or", id="rolled back past pending rows"),
    ],
)
def test_what_does_not_belong_together_is_refused(history: SinkHistory, checkpoint: Restored | None, word: str) -> None:
    with pytest.raises(SinkStateError, match=word) as raised:
        decide(history, checkpoint, REFUSE)
    assert "db.t" in raised.value.message
    assert "append" in raised.value.hint


def test_append_starts_a_lineage_above_all_others() -> None:
    assert decide(at(57), None, APPEND) == Decision(Step.GO_ON, 2)
    assert decide(at(9), restored(6), APPEND) == Decision(Step.GO_ON, 2)
    assert decide(at(1, lineage=4), restored(9), APPEND) == Decision(Step.GO_ON, 5)
    assert decide(rolled_back(9, 4, 5), restored(9, known=9), APPEND) == Decision(Step.GO_ON, 2)


def test_a_commit_in_between_is_taken_away_before_the_pending_one() -> None:
    overtaken = restored(4, known=2, pending="t")
    assert decide(at(3), overtaken, ROLLBACK) == Decision(Step.ROLL_BACK_AND_COMMIT, 2, Position(1, 2))
    halfway = marker(2, "rollback", lineage=2, base=Position(1, 2))
    history = SinkHistory(halfway, halfway, rolled_back=False)
    assert decide(history, overtaken, REFUSE) == Decision(Step.COMMIT_PENDING, 2)
    assert decide(at(3), restored(4, known=2), ROLLBACK) == Decision(Step.ROLL_BACK, 2, Position(1, 2))
    assert decide(at(3), overtaken, APPEND) == Decision(Step.COMMIT_PENDING, 2)
    assert decide(at(3), restored(4, known=2), APPEND) == Decision(Step.GO_ON, 2)


def test_rollback_happens_once() -> None:
    assert decide(at(9), restored(6, known=5), ROLLBACK) == Decision(Step.ROLL_BACK, 2, Position(1, 6))
    done = marker(6, "rollback", lineage=2, base=Position(1, 6))
    assert decide(SinkHistory(done, done, rolled_back=False), restored(6), REFUSE) == Decision(Step.GO_ON, 2)
