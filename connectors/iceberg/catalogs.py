"""Opening Iceberg catalogs: the embedded one, pyiceberg's own configuration by name, or explicit properties."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.catalog.sql import SqlCatalog
from sqlalchemy.exc import DBAPIError

from lakeward.connectors.iceberg.pyiceberg_internals import remember_metadata
from lakeward.engine.api.secrets import Secret, redact, redact_text, resolve_all
from lakeward.engine.core.clock import Clock, SystemClock
from lakeward.engine.core.errors import ConfigError, LakewardError, SinkError

CatalogSpec = str | Mapping[str, str | Secret] | None
"""None: the embedded catalog; a name in pyiceberg's configuration; or catalog properties."""

WAREHOUSE_VARIABLE = "LAKEWARD_WAREHOUSE"
EMBEDDED_WAREHOUSE = "lakeward-warehouse"
CATALOG_NAME = "default"
"""SQL catalogs keep tables by catalog name; this is the one pyiceberg takes when none is given."""

_SQLITE_BUSY_TIMEOUT_S = 10
_OPEN_ATTEMPTS = 8
_OPEN_PATIENCE_MS = 5_000
_OPEN_BACKOFF_MS = 25


def describe_catalog(spec: CatalogSpec) -> str:
    """The catalog in a few words without any secret.

    >>> describe_catalog({"type": "rest", "uri": "http://localhost:8181", "token": "${env:TOKEN}"})
    'rest catalog http://localhost:8181'
    """
    if spec is None:
        return f"embedded catalog {embedded_warehouse()}"
    if isinstance(spec, str):
        return f"catalog '{spec}'"
    return f"{spec.get('type', 'configured')} catalog {_without_password(str(spec.get('uri', '')))}".rstrip()


def catalog_fingerprint(spec: CatalogSpec) -> str:
    """The same text for the same catalog, as far as that can be told without opening it; reveals no secret.

    >>> catalog_fingerprint("prod") == catalog_fingerprint("prod") != catalog_fingerprint("test")
    True
    """
    if spec is None:
        return describe_catalog(None)
    parts = [spec] if isinstance(spec, str) else sorted(f"{key}={value!r}" for key, value in redact(spec).items())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def embedded_warehouse() -> Path:
    """The folder of the embedded catalog and its tables: $LAKEWARD_WAREHOUSE, else ./lakeward-warehouse."""
    return Path(os.environ.get(WAREHOUSE_VARIABLE) or EMBEDDED_WAREHOUSE).expanduser().absolute()


def open_catalog(spec: CatalogSpec, clock: Clock | None = None) -> Catalog:
    """Open a catalog; make the embedded one if it does not exist.

    Args:
        spec: Which.
        clock: For the waits between tries, when several processes set up one SQLite catalog at the same time.

    Returns:
        The catalog. One object a thread.

    Raises:
        ConfigError: The name or a property is unknown.
        SinkError: It cannot be reached (may be tried again).
    """
    clock = clock or SystemClock()
    patience_ends_ms = clock.monotonic_ms() + _OPEN_PATIENCE_MS
    for attempt in range(_OPEN_ATTEMPTS):
        try:
            return _open(spec)
        except (DBAPIError, sqlite3.Error) as error:  # two first starts race for `create table`, or it is locked
            if attempt == _OPEN_ATTEMPTS - 1 or clock.monotonic_ms() > patience_ends_ms:
                raise unreachable(spec, error) from error
            clock.sleep_ms(_OPEN_BACKOFF_MS * 2**attempt)
        except LakewardError:
            raise
        except OSError as error:
            raise unreachable(spec, error) from error
        except Exception as error:  # pyiceberg raises bare ValueErrors for what its configuration lacks
            raise ConfigError(
                f"cannot open the Iceberg {describe_catalog(spec)}: {_brief(error)}",
                hint='give catalog={"type": "sql" or "rest", "uri": ...}, a name from .pyiceberg.yaml, or nothing for'
                " an embedded catalog",
            ) from error
    raise AssertionError("unreachable")


def unreachable(spec: CatalogSpec, error: BaseException) -> SinkError:
    """The error of a catalog that does not answer."""
    return SinkError(
        f"the Iceberg {describe_catalog(spec)} cannot be reached or is locked: {_brief(error)}",
        hint="check that it runs and that its address and credentials are right; the job tries again",
    )


def _open(spec: CatalogSpec) -> Catalog:
    if spec is None:
        catalog: Catalog = SqlCatalog(CATALOG_NAME, **_embedded_properties())
    elif isinstance(spec, str):
        catalog = load_catalog(spec)
    else:
        properties = catalog_properties(spec)
        catalog = load_catalog(properties.pop("name", CATALOG_NAME), **properties)
    if isinstance(catalog, SqlCatalog):
        _use_write_ahead_log(catalog)
    return remember_metadata(catalog)


def _embedded_properties() -> dict[str, str]:
    warehouse = embedded_warehouse()
    warehouse.mkdir(parents=True, exist_ok=True)
    return _with_busy_timeout(
        {"type": "sql", "uri": f"sqlite:///{warehouse}/catalog.db", "warehouse": warehouse.as_uri()}
    )


def catalog_properties(spec: Mapping[str, str | Secret]) -> dict[str, str]:
    """What pyiceberg is given: secrets resolved, and what a SQL catalog needs to be shared."""
    properties = _with_busy_timeout(resolve_all(spec))
    if "uri" in properties:
        properties["uri"] = _with_driver(properties["uri"])
    return properties


def _with_driver(uri: str) -> str:
    """A Postgres URI with the driver that is installed: which one is meant by none depends on SQLAlchemy's version.

    Raises:
        ConfigError: None is.
    """
    scheme, separator, rest = uri.partition("://")
    if scheme not in ("postgresql", "postgres"):
        return uri
    driver = next((name for name in ("psycopg", "psycopg2") if importlib.util.find_spec(name)), None)
    if driver is None:
        raise ConfigError(
            "a catalog in Postgres needs a driver, and none is installed", hint='pip install "lakeward[postgres]"'
        )
    return f"postgresql+{driver}{separator}{rest}"


def _with_busy_timeout(properties: dict[str, str]) -> dict[str, str]:
    """A second writer or reader of a SQLite file waits its turn instead of failing with "database is locked"."""
    uri = properties.get("uri", "")
    if uri.startswith("sqlite") and "memory" not in uri and "timeout=" not in uri:
        properties["uri"] = f"{uri}{'&' if '?' in uri else '?'}timeout={_SQLITE_BUSY_TIMEOUT_S}"
    return properties


def _use_write_ahead_log(catalog: SqlCatalog) -> None:
    """With a write-ahead log, readers of a SQLite catalog never wait for a commit, nor a commit for readers."""
    if catalog.engine.dialect.name != "sqlite":
        return
    with catalog.engine.connect() as connection:
        if connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")


def _without_password(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _brief(error: BaseException) -> str:
    """The driver's own words; SQLAlchemy adds the statement and a link."""
    original = getattr(error, "orig", None) or error
    return redact_text(f"{type(original).__name__}: {original}".splitlines()[0])
