"""A checkpoint store in an object store: S3 and what speaks its protocol, Google Cloud Storage, Azure.

`create_if_absent` is a conditional put (`If-None-Match: *` on S3), through the `obstore` package: Arrow's own file
systems cannot do it. Credentials and endpoints come from the environment, as the cloud's own tools read them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lakeward.engine.checkpoint.store import checked_path, missing_file
from lakeward.engine.core.errors import CheckpointError, ConfigError

OBJECT_STORE_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
_PROBE = ".lakeward-probe"
_CHUNK_BYTES = 8 << 20

_used = False


def is_used() -> bool:
    """Whether this process has called an object store: it has threads then, which a process forked from it lacks."""
    return _used


class ObjectStore:
    """Checkpoints below a prefix of a bucket.

    Guarantees: those of the service: a finished put is durable and seen by everybody at once. A service that does not
    honour conditional puts is refused at the first call. Nobody is called before, so a process may be forked from one
    that has only opened a store.

    Args:
        location: "s3://bucket/prefix" and the like.

    Raises:
        ConfigError: `obstore` is not installed, or the location is none; at the first call, that it cannot be reached,
            or that the service would let two runs of a job create the same file.
    """

    def __init__(self, location: str) -> None:
        self._location = location
        self._api = _import_obstore(location)
        self._is_checked = False
        self._opened_by = os.getpid()
        try:
            self._unchecked: Any = importlib.import_module("obstore.store").from_url(location)
        except (ValueError, self._api.exceptions.BaseError) as error:
            raise self._unusable(error) from error

    def read(self, path: str) -> bytes | None:
        """The whole content; None if there is no such object."""
        checked_path(path)
        with self._explained("read", path):
            try:
                return bytes(self._api.get(self._store, path).bytes())
            except FileNotFoundError:
                return None

    def put(self, path: str, data: bytes) -> None:
        """Write, replacing what was there."""
        checked_path(path)
        with self._explained("write", path):
            self._api.put(self._store, path, data)

    def create_if_absent(self, path: str, data: bytes) -> bool:
        """Write unless the name is taken."""
        checked_path(path)
        with self._explained("create", path):
            try:
                self._api.put(self._store, path, data, mode="create")
            except self._api.exceptions.AlreadyExistsError:
                return False
            return True

    def put_file(self, path: str, local_path: str) -> None:
        """Copy a file of this machine into the store, in parts if it is large."""
        checked_path(path)
        with self._explained(f"copy {local_path} to", path):
            self._api.put(self._store, path, Path(local_path))

    def get_file(self, path: str, local_path: str) -> None:
        """Copy an object to this machine, piece by piece."""
        checked_path(path)
        with self._explained("copy", path):
            try:
                stream = self._api.get(self._store, path).stream(min_chunk_size=_CHUNK_BYTES)
            except FileNotFoundError:
                raise missing_file(path, self._location) from None
            with open(local_path, "wb") as target:
                for chunk in stream:
                    target.write(chunk)

    def size(self, path: str) -> int | None:
        """Length in bytes; None if there is no such object."""
        checked_path(path)
        with self._explained("look at", path):
            try:
                return int(self._api.head(self._store, path)["size"])
            except FileNotFoundError:
                return None

    def list(self, prefix: str) -> list[str]:
        """All paths that begin with `prefix`, sorted."""
        folder = prefix.rpartition("/")[0]
        with self._explained("list", prefix):
            found = [item["path"] for chunk in self._api.list(self._store, folder or None) for item in chunk]
        return sorted(path for path in found if path.startswith(prefix) and path != _PROBE)

    def delete(self, path: str) -> None:
        """Remove an object, if it is there."""
        checked_path(path)
        with self._explained("delete", path):
            try:
                self._api.delete(self._store, path)
            except FileNotFoundError:
                return

    def delete_many(self, paths: Sequence[str]) -> None:
        """Remove objects, a thousand with a call where the service can do that."""
        for path in paths:
            checked_path(path)
        with self._explained("delete", f"{len(paths)} files"):
            try:
                self._api.delete(self._store, list(paths))
            except FileNotFoundError:  # of a service that deletes one by one, and stops there
                for path in paths:
                    self.delete(path)

    @property
    def _store(self) -> Any:
        """What is called; looked at once, when it is first needed, and not by forked workers: who forked them has.

        There, a service that does not answer for a moment is no reason to end the job for good.
        """
        global _used
        _used = True
        if not self._is_checked and os.getpid() == self._opened_by:
            self._is_checked = True
            try:
                self._check_conditional_put()
            except CheckpointError as error:
                self._is_checked = False
                raise self._unusable(error) from error
        return self._unchecked

    def _unusable(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"the checkpoint directory {self._location} cannot be used: {error}",
            hint="check the bucket, and the credentials, region and endpoint in the environment "
            "(for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, AWS_ALLOW_HTTP)",
        )

    def _check_conditional_put(self) -> None:
        """The second of two creations must lose; the probe stays, so that opening at the same time is no trouble."""
        self.create_if_absent(_PROBE, b"")
        if self.create_if_absent(_PROBE, b""):
            raise ConfigError(
                f"{self._location} cannot hold checkpoints: the service ignores conditional puts, so two runs of a job "
                "could both believe to own it",
                hint="use a service with conditional writes (If-None-Match), or a folder",
            )

    @contextmanager
    def _explained(self, what: str, path: str) -> Iterator[None]:
        try:
            yield
        except (OSError, self._api.exceptions.BaseError) as error:
            raise CheckpointError(
                f"cannot {what} {path} in the checkpoint directory {self._location}: {error}",
                hint="check the network, the credentials and the bucket's rules",
            ) from error


def _import_obstore(location: str) -> Any:
    try:
        return importlib.import_module("obstore")
    except ImportError as error:
        raise ConfigError(
            f"{location} is in an object store, and the package that talks to those is not installed",
            hint="pip install 'lakeward[s3]'",
        ) from error
