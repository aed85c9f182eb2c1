"""Reading lake tables in tests with engines that share no code with what wrote them.

DuckDB reads Iceberg through its own C++ implementation, so it notices what the writing library would overlook. Its
extensions come as packages (`duckdb-extension-iceberg`, `duckdb-extension-avro`) that fit one DuckDB version exactly;
where they are missing or do not fit, `read_independently` falls back to reading the table's Parquet files bare.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from lakeward.engine.core.expect import expect

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

_EXTENSIONS = ("avro", "iceberg")


class LocalLake:
    """An Iceberg catalog in SQLite and a warehouse, in a folder of a test's own.

    >>> import tempfile
    >>> import lakeward as lw
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lake, env = LocalLake(Path(folder)), lw.StreamExecutionEnvironment()
    ...     _ = env.from_collection([{"n": 1}]).sink_to(lw.IcebergSink("db.numbers", catalog=lake.catalog), uid="table")
    ...     _ = env.execute("numbers")
    ...     found = lake.rows("db.numbers")
    ...     lake.close()
    >>> found
    [{'n': 1}]

    Args:
        folder: Where; made if missing.
    """

    def __init__(self, folder: Path | str) -> None:
        expect(folder, (str, Path), "LocalLake: folder", 'give a path: LocalLake(tmp_path / "lake")')
        folder = Path(folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.catalog = {"type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": folder.as_uri()}
        """The catalog properties, for `IcebergSink(catalog=...)` and `load_catalog(**...)`."""
        self._open: Catalog | None = None

    def open_catalog(self) -> Catalog:
        """Pyiceberg's own catalog object, opened once."""
        if self._open is None:
            self._open = self._load_catalog()
        return self._open

    def _load_catalog(self) -> Catalog:
        """Opening makes the catalog's tables; a job that makes them at the same moment gets in the way, once."""
        from pyiceberg.catalog import load_catalog
        from sqlalchemy.exc import OperationalError

        try:
            return load_catalog(**self.catalog)
        except OperationalError:
            return load_catalog(**self.catalog)

    def load(self, name: str) -> Table:
        """A table as it is now."""
        return self.open_catalog().load_table(name)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """A table's rows as pyiceberg reads them; [] when it does not exist."""
        if not self.open_catalog().table_exists(name):
            return []
        rows: list[dict[str, Any]] = self.load(name).scan().to_arrow().to_pylist()
        return rows

    def data_files(self, name: str) -> list[Path]:
        """All Parquet files in the table's data folder, committed or not."""
        namespace, _, table = name.rpartition(".")
        return sorted((self.folder / namespace / table / "data").rglob("*.parquet"))

    def metadata_files(self, name: str) -> list[Path]:
        """All files in the table's metadata folder."""
        namespace, _, table = name.rpartition(".")
        return sorted((self.folder / namespace / table / "metadata").iterdir())

    def close(self) -> None:
        """Give back connections."""
        if self._open is not None:
            self._open.close()


@contextmanager
def intercept_commit(
    before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
) -> Iterator[None]:
    """Do something around the next commit that reaches any SQL catalog of this process, once.

    What `before` raises keeps the commit from happening; what `after` raises loses its answer. A commit made inside
    them (a rival's, that gets in between) is not intercepted.

    Args:
        before: Called when the commit is about to be applied.
        after: Called when it has been applied.

    Yields:
        Nothing; leaving the context takes the hook away.
    """
    from pyiceberg.catalog.sql import SqlCatalog

    original = SqlCatalog.commit_table

    def intercepted(self: Any, *args: Any, **kwargs: Any) -> Any:
        SqlCatalog.commit_table = original  # type: ignore[method-assign]
        if before is not None:
            before()
        answer = original(self, *args, **kwargs)
        if after is not None:
            after()
        return answer

    SqlCatalog.commit_table = intercepted  # type: ignore[method-assign]
    try:
        yield
    finally:
        SqlCatalog.commit_table = original  # type: ignore[method-assign]


@cache
def duckdb_reads_iceberg() -> bool:
    """Whether DuckDB and extension packages of its very version are installed."""
    try:
        _connect().close()
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def read_with_duckdb(table: Table) -> pa.Table:
    """All rows of an Iceberg table as DuckDB sees them.

    Args:
        table: The table, as loaded; DuckDB gets nothing of it but the location of its metadata file.

    Returns:
        The rows, in any order.

    Raises:
        RuntimeError: DuckDB cannot read Iceberg here; see `duckdb_reads_iceberg`.
    """
    with _connect() as connection:
        location = table.metadata_location.removeprefix("file://")
        return connection.execute("select * from iceberg_scan(?)", [location]).to_arrow_table()


def read_files_bare(table: Table) -> pa.Table:
    """All rows of the table's data files by pyarrow alone, columns by field id; wrong for tables with deletes."""
    schema = table.schema().as_arrow()
    paths = [task.file.file_path.removeprefix("file://") for task in table.scan().plan_files()]
    return pa.concat_tables([schema.empty_table(), *(_read_by_field_id(path, table) for path in paths)])


def _read_by_field_id(path: str, table: Table) -> pa.Table:
    stored = pq.read_table(path, partitioning=None)
    by_id = {int(field.metadata[b"PARQUET:field_id"]): field.name for field in stored.schema}
    schema = table.schema().as_arrow()
    columns = [
        stored[by_id[field.field_id]].cast(wanted.type)
        if field.field_id in by_id
        else pa.chunked_array([pa.nulls(stored.num_rows, wanted.type)])
        for field, wanted in zip(table.schema().fields, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def read_independently(table: Table) -> pa.Table:
    """All rows by DuckDB if it can, else from the bare files."""
    return read_with_duckdb(table) if duckdb_reads_iceberg() else read_files_bare(table)


def check_readers_agree(table: Table, sort_by: str | Sequence[str]) -> pa.Table:
    """Read with pyiceberg and independently, and compare every value.

    Args:
        table: The table, as loaded.
        sort_by: Columns that order the rows completely.

    Returns:
        The rows, sorted.

    Raises:
        AssertionError: The readers disagree.
    """
    keys = [(name, "ascending") for name in ([sort_by] if isinstance(sort_by, str) else sort_by)]
    ours = table.scan().to_arrow().sort_by(keys)
    theirs = read_independently(table).select(ours.column_names).sort_by(keys)
    assert theirs.num_rows == ours.num_rows, f"pyiceberg reads {ours.num_rows} rows, DuckDB {theirs.num_rows}"
    for name in ours.column_names:
        left, right = ours[name].to_pylist(), theirs[name].to_pylist()
        assert left == right, f"column {name}: {_first_difference(left, right)}"
    return ours


def check_every_table(folder: Path) -> int:
    """Have DuckDB read every table below a folder, to its last row, and count them as pyiceberg does.

    A table is found by a SQLite catalog that lists it, as it stands there; or else (another kind of catalog, a table
    that was dropped) by its metadata folder, as its newest metadata file has it.

    Args:
        folder: Where to look: a test's own folder.

    Returns:
        How many tables there are.

    Raises:
        AssertionError: The readers count differently.
    """
    from pyiceberg.table import StaticTable

    listed = _listed_tables(folder)
    locations = listed | _unlisted_tables(folder, listed)
    for location in sorted(locations):
        table = StaticTable.from_metadata(location)
        ours, theirs = table.scan().count(), read_independently(table).num_rows
        assert ours == theirs, f"pyiceberg counts {ours} rows in {table.location()}, DuckDB reads {theirs}"
    return len(locations)


def _listed_tables(folder: Path) -> set[str]:
    """The metadata files that the SQLite catalogs below a folder point to."""
    locations: set[str] = set()
    for file in folder.rglob("*.db"):
        with closing(sqlite3.connect(file)) as catalog:
            if catalog.execute("select 1 from sqlite_master where name = 'iceberg_tables'").fetchone():
                found = catalog.execute("select metadata_location from iceberg_tables")
                locations |= {location for (location,) in found if location is not None}
    return locations


def _unlisted_tables(folder: Path, listed: set[str]) -> set[str]:
    """The newest metadata files of the other tables below a folder."""
    known = {Path(location.removeprefix("file://")).parent for location in listed}
    newest: dict[Path, Path] = {}
    for file in sorted(folder.rglob("metadata/*.metadata.json")):  # their names begin with their number
        if file.parent not in known:
            newest[file.parent] = file
    return {file.as_uri() for file in newest.values()}


def _first_difference(left: list[Any], right: list[Any]) -> str:
    row = next(i for i, (a, b) in enumerate(zip(left, right, strict=True)) if a != b)
    return f"row {row}: {left[row]!r} by pyiceberg, {right[row]!r} independently"


def _connect() -> Any:
    import duckdb

    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    try:
        for name in _EXTENSIONS:
            connection.load_extension(str(_extension_file(name, duckdb.__version__)))
    except duckdb.Error as error:
        connection.close()
        raise RuntimeError(f"DuckDB {duckdb.__version__} cannot load its Iceberg extension: {error}") from error
    connection.execute("set TimeZone = 'UTC'")
    return connection


def _extension_file(name: str, version: str) -> Path:
    spec = find_spec(f"duckdb_extension_{name}")
    if spec is None or spec.origin is None:
        raise ImportError(f"the package duckdb-extension-{name} is not installed")
    file = Path(spec.origin).parent / "extensions" / f"v{version}" / f"{name}.duckdb_extension"
    if not file.exists():
        raise RuntimeError(f"duckdb-extension-{name} is not for DuckDB {version}")
    return file
