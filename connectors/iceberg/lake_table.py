"""One Iceberg table through its catalog: opening, creating, loading, with every failure told in our own errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.partitioning import PARTITION_FIELD_ID_START, PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.transforms import parse_transform

from lakeward.connectors.iceberg.catalogs import CatalogSpec, describe_catalog, open_catalog, unreachable
from lakeward.connectors.iceberg.options import TABLE_PROPERTIES
from lakeward.connectors.iceberg.schemas import to_iceberg
from lakeward.connectors.iceberg.transforms import PartitionTransform
from lakeward.engine.core.errors import ConfigError, SchemaError, SinkStateError


@dataclass(frozen=True, slots=True)
class TableSpec:
    """Which table, and how it is made if it is missing.

    Args:
        name: "namespace.table"; the namespace may have several levels.
        catalog: Which catalog.
        partition_by: Partitioning of a new table; an existing one must agree with it unless it is empty.
        create: Whether a missing table is created.
        properties: Table properties of a new table, over our defaults.
    """

    name: str
    catalog: CatalogSpec = None
    partition_by: tuple[PartitionTransform, ...] = ()
    create: bool = True
    properties: dict[str, str] = field(default_factory=dict)


class LakeTable:
    """A table by name. Not safe for several threads: each writer and committer opens its own."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self._catalog: Catalog | None = None

    def find(self) -> Table | None:
        """The table as it is now; None if it does not exist.

        Raises:
            SinkError: The catalog cannot be reached.
        """
        try:
            return self._open().load_table(self.spec.name)
        except (NoSuchTableError, NoSuchNamespaceError):
            return None
        except (ConfigError, SinkStateError):
            raise
        except Exception as error:
            raise unreachable(self.spec.catalog, error) from error

    def load(self) -> Table:
        """The table as it is now.

        Raises:
            SinkStateError: It does not exist any more.
            SinkError: The catalog cannot be reached.
        """
        table = self.find()
        if table is None:
            raise SinkStateError(
                f"the Iceberg table {self.spec.name} is gone from the {describe_catalog(self.spec.catalog)}",
                hint="restore the table; or start without a checkpoint to have it made anew",
            )
        return table

    def ensure(self, schema: pa.Schema) -> Table:
        """The table; made if it is missing. Several processes may try at the same time.

        Args:
            schema: Schema of a new table.

        Returns:
            The table.

        Raises:
            ConfigError: It is missing and must not be created.
            SchemaError: The schema has no Iceberg form.
            SinkError: The catalog cannot be reached.
        """
        table = self.find()
        if table is not None:
            return table
        self.check_may_create()
        ice_schema = to_iceberg(schema)
        spec = partition_spec(self.spec.partition_by, ice_schema, self.spec.name)
        try:
            return self._create(ice_schema, spec)
        except TableAlreadyExistsError:
            return self.load()  # another writer of this or any job was first
        except Exception as error:
            raise unreachable(self.spec.catalog, error) from error

    def check_may_create(self) -> None:
        """Refuse if the table is to exist beforehand."""
        if not self.spec.create:
            raise ConfigError(
                f"the Iceberg table {self.spec.name} does not exist in the {describe_catalog(self.spec.catalog)}",
                hint="create it, or set create='if_not_exists'",
            )

    def close(self) -> None:
        """Give back connections."""
        if self._catalog is not None:
            self._catalog.close()
            self._catalog = None

    def _create(self, schema: Schema, spec: PartitionSpec) -> Table:
        catalog = self._open()
        self._create_namespace(catalog)
        return catalog.create_table(
            self.spec.name,
            schema=schema,
            partition_spec=spec,
            properties={**TABLE_PROPERTIES, **self.spec.properties},
        )

    def _create_namespace(self, catalog: Catalog) -> None:
        namespace = Catalog.namespace_from(self.spec.name)
        if catalog.namespace_exists(namespace):
            return
        try:
            catalog.create_namespace(namespace)
        except NamespaceAlreadyExistsError:
            return
        except Exception:  # SQLite's catalog lets a race for the same namespace show as a broken constraint
            if not catalog.namespace_exists(namespace):
                raise

    def _open(self) -> Catalog:
        if self._catalog is None:
            self._catalog = open_catalog(self.spec.catalog)
        return self._catalog


def partition_spec(partition_by: Sequence[PartitionTransform], schema: Schema, table: str) -> PartitionSpec:
    """Iceberg's partition spec for the user's `partition_by`.

    Raises:
        SchemaError: A column is missing, or its type cannot be transformed that way.
    """
    fields = []
    for number, item in enumerate(partition_by):
        try:
            source = schema.find_field(item.column)
        except ValueError as error:
            raise SchemaError(
                f"{table} is to be partitioned by {item}, but the rows have no column '{item.column}'",
                hint=f"columns are: {', '.join(schema.column_names)}",
            ) from error
        transform = parse_transform(item.transform)
        if not transform.can_transform(source.field_type):
            raise SchemaError(
                f"{table} cannot be partitioned by {item}: column '{item.column}' is {source.field_type}",
                hint="year, month, day and hour need a timestamp (the first three also take a date); truncate needs a"
                " string or a whole number",
            )
        fields.append(PartitionField(source.field_id, PARTITION_FIELD_ID_START + number, transform, item.field_name))
    return PartitionSpec(*fields)


def check_partitioning(table: Table, partition_by: Sequence[PartitionTransform]) -> None:
    """Refuse a table that is partitioned in another way than the sink asks for. Asking for nothing accepts any.

    Raises:
        SchemaError: They differ; names both.
    """
    schema = table.schema()
    actual = [
        PartitionTransform(schema.find_column_name(f.source_id) or "?", str(f.transform))
        for f in table.spec().fields
        if str(f.transform) != "void"
    ]
    if partition_by and list(partition_by) != actual:
        raise SchemaError(
            f"the Iceberg table {'.'.join(table.name())} is partitioned by {_listed(actual)}, but the sink asks for"
            f" partition_by={_listed(partition_by)}",
            hint="leave partition_by out to take the table's own partitioning, or change the table (update_spec in"
            " pyiceberg)",
        )


def _listed(transforms: Sequence[PartitionTransform]) -> str:
    return "[" + ", ".join(map(str, transforms)) + "]"
