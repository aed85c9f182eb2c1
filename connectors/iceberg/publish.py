"""One commit of a sink: a fenced compare-and-swap, tried again on fresh metadata until its outcome is known.

Every attempt loads the table, checks the sink's marker **in what it loaded**, and asks the catalog to apply the commit
only if the main branch is still exactly there. A rival of the same sink id that lands in between makes the attempt
fail, the next one sees the rival's marker, and gives up; a foreign writer in between only costs another attempt.
(Flink's `validateWith` in iceberg's commit, made the rule: apache/iceberg 14182.)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import SetPropertiesUpdate

from lakeward.connectors.iceberg.catalogs import describe_catalog
from lakeward.connectors.iceberg.committables import WrittenFile
from lakeward.connectors.iceberg.lake_table import LakeTable
from lakeward.connectors.iceberg.maintenance import plan_expiry
from lakeward.connectors.iceberg.manifest_lists import ManifestLists
from lakeward.connectors.iceberg.markers import (
    Marker,
    SinkHistory,
    encode_marker,
    property_key,
    read_history,
    summary_properties,
)
from lakeward.connectors.iceberg.options import (
    COMMIT_ATTEMPTS_MAX,
    COMMIT_BACKOFF_MAX_MS,
    COMMIT_BACKOFF_MIN_MS,
)
from lakeward.connectors.iceberg.pyiceberg_internals import StagedAppend, commit_once, stage_append
from lakeward.connectors.iceberg.recovery import Policy
from lakeward.engine.core.clock import Clock
from lakeward.engine.core.errors import LakewardError, SinkError, SinkStateError, StaleWriterError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Publisher:
    """Publishes a sink's commits.

    Args:
        lake: The table.
        table_uuid: The table's identity; another one means that it was dropped and made anew.
        policy: The sink id and what the user chose.
        snapshots_retained: See `plan_expiry`.
        clock: For the waits between attempts.
        lists: Manifest lists that were read or written before.
    """

    lake: LakeTable
    table_uuid: str
    policy: Policy
    snapshots_retained: int | None
    clock: Clock
    lists: ManifestLists = field(default_factory=ManifestLists)

    def load(self) -> Table:
        """The table as it is now.

        Raises:
            SinkStateError: It is gone, or another table has its name.
        """
        table = self.lake.load()
        check_same_table(table, self.table_uuid)
        return table

    def publish(self, files: Sequence[WrittenFile], target: Marker, expected: Marker | None) -> Marker:
        """Commit files and marker in one step, at most once.

        Args:
            files: What to add; may be empty.
            target: The commit's marker; where its snapshot lies is filled in here.
            expected: The sink's last commit as far as this writer knows; any other one belongs to a rival.

        Returns:
            The marker as it is on the table.

        Raises:
            StaleWriterError: Another run with this sink id has committed.
            SinkStateError: The table was replaced, rolled back, or cannot take the files any more.
            SinkError: It did not succeed, or it is unknown whether it did; may be tried again.
        """
        failure: BaseException | None = None
        for attempt in range(COMMIT_ATTEMPTS_MAX):
            if attempt:
                self.clock.sleep_ms(_backoff_ms(attempt, target))
            table = self.load()
            landed = self._landed_or_free(read_history(table.metadata, self.policy.sink_id), target, expected)
            if landed is not None:
                return landed
            check_takes(table.metadata, files, self.policy.table)
            done, failure = self._attempt(table, files, target)
            if done is not None:
                return done
        raise SinkError(
            f"checkpoint {target.position.checkpoint} could not be committed to the Iceberg table {self.policy.table}:"
            f" {COMMIT_ATTEMPTS_MAX} attempts met concurrent commits of other writers; the last: {failure}",
            hint="the files are kept and the job tries again; let other writers (compaction) commit less often",
        ) from failure

    def _attempt(
        self, table: Table, files: Sequence[WrittenFile], target: Marker
    ) -> tuple[Marker | None, BaseException | None]:
        """The landed marker, or the conflict that calls for another attempt."""
        staged = self._stage(table, files, target)
        marker = replace(target, snapshot_id=staged.snapshot_id, sequence_number=staged.sequence_number)
        expiry = plan_expiry(table.metadata, self.snapshots_retained)
        recorded = SetPropertiesUpdate(updates={property_key(self.policy.sink_id): encode_marker(marker)})
        try:
            commit_once(table, (*staged.updates, recorded, *expiry.updates), staged.requirements)
        except Exception as error:  # whatever it is: whether the commit was applied, only the table can tell
            return self._look_after(error, staged, marker)
        if staged.manifests is not None:
            self.lists.remember(staged.manifest_list, staged.manifests)
        expiry.delete_unreachable(table.io, self.lists)
        return marker, None

    def _stage(self, table: Table, files: Sequence[WrittenFile], target: Marker) -> StagedAppend:
        try:
            return stage_append(table, files, summary_properties(self.policy.sink_id, target), self.lists)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SinkError(
                f"the manifests of checkpoint {target.position.checkpoint} could not be written to the Iceberg table"
                f" {self.policy.table}: {type(error).__name__}: {error}",
                hint="check that the table's metadata folder is reachable and its files are readable",
            ) from error

    def _look_after(
        self, error: Exception, staged: StagedAppend, marker: Marker
    ) -> tuple[Marker | None, BaseException | None]:
        """The catalog said no, or said nothing: did it happen all the same?"""
        try:
            metadata = self.load().metadata
        except LakewardError as second:
            raise self._unknown(marker, error) from second
        recorded = read_history(metadata, self.policy.sink_id).recorded
        if marker.same_commit(recorded):
            _log.warning("the commit of %s landed although the catalog answered %r", marker, error)
            return recorded, None
        if isinstance(error, CommitFailedException):
            staged.discard()  # a conflict, and it is certain that this commit is not part of the table
            return None, error
        if isinstance(error, ValueError):
            return None, error  # pyiceberg's word for metadata that moved while the update was applied
        raise self._unknown(marker, error) from error

    def _unknown(self, marker: Marker, error: Exception) -> SinkError:
        where = describe_catalog(self.lake.spec.catalog)
        return SinkError(
            f"the commit of {marker} to the Iceberg table {self.policy.table} failed or its answer was lost"
            f" ({where}): {type(error).__name__}: {error}".splitlines()[0],
            hint="the job tries again, and first looks whether the commit has landed",
        )

    def _landed_or_free(self, history: SinkHistory, target: Marker, expected: Marker | None) -> Marker | None:
        """The target if the table has it already; None if the way is free."""
        recorded = history.recorded
        if recorded is not None and target.same_commit(recorded):
            return recorded
        if recorded is not None and not recorded.same_commit(expected):
            raise self._rival(recorded, target, expected)
        is_lost = history.rolled_back or (recorded is None and expected is not None)
        if is_lost and self.policy.on_rewind != "append":
            raise self._lost_rows(expected)
        return None

    def _rival(self, recorded: Marker, target: Marker, expected: Marker | None) -> SinkError:
        if expected is not None and recorded.position < expected.position:
            return self._lost_rows(expected)
        return StaleWriterError(
            f"the sink id '{self.policy.sink_id}' of the Iceberg table {self.policy.table} has been taken over: the"
            f" table holds {recorded}, this run has last seen {expected or 'no commit'} and wants to commit {target}",
            hint="this process must stop: a newer run of the job, or another job with the same sink id, owns the table;"
            " give each job a sink_id of its own",
        )

    def _lost_rows(self, expected: Marker | None) -> SinkStateError:
        return SinkStateError(
            f"the Iceberg table {self.policy.table} no longer holds {expected} of the sink id"
            f" '{self.policy.sink_id}': it was rolled back or replaced while the job ran",
            hint="restore the checkpoint that the table was rolled back to; or set on_rewind='append' to go on without"
            " the missing rows",
        )


def check_same_table(table: Table, table_uuid: str) -> None:
    """Refuse another table of the same name.

    Raises:
        SinkStateError: It was dropped and made anew.
    """
    if str(table.metadata.table_uuid) != table_uuid:
        raise SinkStateError(
            f"the Iceberg table {'.'.join(table.name())} was dropped and made anew since the checkpoint was taken: its"
            f" UUID is {table.metadata.table_uuid}, the checkpoint belongs to {table_uuid}",
            hint="start without a checkpoint (rows that were in the old table are read again if the source still has"
            " them), or give the new table another name",
        )


def check_takes(metadata: TableMetadata, files: Sequence[WrittenFile], table: str) -> None:
    """Refuse files that the table, changed since they were written, can no longer hold.

    Older partition specs and schemas are fine as long as the table still knows them, and as long as no column became
    required that the files lack.

    Raises:
        SinkStateError: Nothing is lost: the files stay where they are, and the checkpoint still names them.
    """
    specs, required = metadata.specs(), [field for field in metadata.schema().fields if field.required]
    for spec_id, schema_id in {(file.spec_id, file.schema_id) for file in files}:
        schema = metadata.schema_by_id(schema_id)
        if schema is None or spec_id not in specs:
            missing = f"schema {schema_id}" if schema is None else f"partition spec {spec_id}"
            raise _changed_too_far(table, f"the table no longer knows the {missing} that files were written under")
        written = {field.field_id for field in schema.fields}
        lacking = [f.name for f in required if f.field_id not in written and f.initial_default is None]
        if lacking:
            raise _changed_too_far(table, f"column '{lacking[0]}' became required, and files lack it")


def _changed_too_far(table: str, what: str) -> SinkStateError:
    return SinkStateError(
        f"files of a pending checkpoint cannot be committed to the Iceberg table {table}: {what}",
        hint="undo the change of the table and start the job again: the checkpoint still holds the files",
    )


def _backoff_ms(attempt: int, target: Marker) -> float:
    """Exponential, and spread by the commit's own token, so that rivals do not keep step."""
    spread = 0.5 + (hash_fraction(f"{target.token}{attempt}") / 2)
    return min(COMMIT_BACKOFF_MAX_MS, COMMIT_BACKOFF_MIN_MS * 2.0 ** (attempt - 1)) * spread


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return sum((i + 1) * byte for i, byte in enumerate(text.encode())) % 997 / 997
