"""A small Iceberg REST catalog on loopback, over pyiceberg's SQL catalog: as much of the protocol as jobs need."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
)
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import CommitTableRequest, Table

TOKEN = "a-secret-token"


class _Handler(BaseHTTPRequestHandler):
    catalog: SqlCatalog
    lock: threading.Lock

    def log_message(self, format: str, *args: Any) -> None:
        """Be silent."""

    def do_GET(self) -> None:
        parts = self._parts()
        if parts == ["config"]:
            return self._answer(200, {"defaults": {}, "overrides": {}})
        if len(parts) == 4:
            return self._table(parts)
        if not self.catalog.namespace_exists(parts[1]):
            return self._refuse(404, "NoSuchNamespaceException", NoSuchNamespaceError(parts[1]))
        return self._answer(200, {"namespace": parts[1:], "properties": {}})

    def do_HEAD(self) -> None:
        parts = self._parts()
        table = len(parts) == 4
        known = self.catalog.table_exists((parts[1], parts[3])) if table else self.catalog.namespace_exists(parts[1])
        self._answer(204 if known else 404, None)

    def do_POST(self) -> None:
        parts = self._parts()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.lock:
            if parts == ["namespaces"]:
                return self._create_namespace(json.loads(body))
            if len(parts) == 3:
                return self._create_table(parts[1], json.loads(body))
            return self._commit(CommitTableRequest.model_validate_json(body), (parts[1], parts[3]))

    def _parts(self) -> list[str]:
        assert self.headers["Authorization"] == f"Bearer {TOKEN}", "the secret was not resolved"
        return self.path.partition("?")[0].removeprefix("/v1/").split("/")

    def _create_namespace(self, body: dict[str, Any]) -> None:
        try:
            self.catalog.create_namespace(tuple(body["namespace"]))
        except NamespaceAlreadyExistsError as error:
            return self._refuse(409, "AlreadyExistsException", error)
        return self._answer(200, {"namespace": body["namespace"], "properties": {}})

    def _create_table(self, namespace: str, asked: dict[str, Any]) -> None:
        made = self.catalog.create_table(
            (namespace, asked["name"]),
            Schema.model_validate(asked["schema"]),
            partition_spec=PartitionSpec.model_validate(asked["partition-spec"]),
            properties=asked["properties"],
        )
        self._send_table(made)

    def _table(self, parts: list[str]) -> None:
        try:
            self._send_table(self.catalog.load_table((parts[1], parts[3])))
        except NoSuchTableError as error:
            self._refuse(404, "NoSuchTableException", error)

    def _commit(self, asked: CommitTableRequest, name: tuple[str, str]) -> None:
        table = self.catalog.load_table(name)
        try:
            done = self.catalog.commit_table(table, asked.requirements, asked.updates)
        except CommitFailedException as error:
            return self._refuse(409, "CommitFailedException", error)
        return self._answer(
            200, {"metadata-location": done.metadata_location, "metadata": json.loads(done.metadata.model_dump_json())}
        )

    def _send_table(self, table: Table) -> None:
        metadata = json.loads(table.metadata.model_dump_json())
        self._answer(200, {"metadata-location": table.metadata_location, "metadata": metadata, "config": {}})

    def _refuse(self, status: int, kind: str, error: Exception) -> None:
        self._answer(status, {"error": {"message": str(error), "type": kind, "code": status}})

    def _answer(self, status: int, body: dict[str, Any] | None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def rest_catalog(folder: Path) -> Iterator[str]:
    """Serve a catalog whose tables lie in a folder; yields its address."""
    folder.mkdir(parents=True, exist_ok=True)
    backend = SqlCatalog(
        "default", uri=f"sqlite:///{folder}/rest.db?check_same_thread=False", warehouse=folder.as_uri()
    )
    handler = type("Handler", (_Handler,), {"catalog": backend, "lock": threading.Lock()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        backend.close()
