"""The checkpoint store with faults: errors before and after the effect, deaths, damaged files."""

from __future__ import annotations

from pathlib import Path

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.core.errors import CheckpointError
from lakeward.engine.core.ids import CheckpointId
from lakeward.testing.simulation.faults import Faults
from lakeward.testing.simulation.knobs import Fault


class FaultyStore:
    """A `CheckpointStore` over a `MemoryStore`, which survives every simulated death.

    Args:
        inner: What is really stored; checks read it directly.
        faults: What goes wrong.
    """

    def __init__(self, inner: MemoryStore, faults: Faults) -> None:
        self.inner = inner
        self._faults = faults
        self._originals: dict[str, bytes] = {}
        self.was_damaged = False
        self.changes = 0
        self.committed: list[CheckpointId] = []

    # -- reading

    def read(self, path: str) -> bytes | None:
        """The whole content, or None."""
        self._before("read", path)
        return self.inner.read(path)

    def get_file(self, path: str, local_path: str) -> None:
        """Copy a stored file to this machine."""
        self._before("get_file", path)
        self.inner.get_file(path, local_path)

    def size(self, path: str) -> int | None:
        """Length in bytes, or None."""
        self._before("size", path)
        return self.inner.size(path)

    def list(self, prefix: str) -> list[str]:
        """All paths that begin with `prefix`."""
        self._before("list", prefix)
        return self.inner.list(prefix)

    # -- writing

    def put(self, path: str, data: bytes) -> None:
        """Write, replacing what was there."""
        self._before("put", path)
        self._write(path, data)
        self._after("put", path)

    def create_if_absent(self, path: str, data: bytes) -> bool:
        """Write unless the name is taken."""
        self._before("create", path)
        made = self.inner.create_if_absent(path, data)
        file = paths.parse_checkpoint_file(path)
        if made and file is not None and file.kind == "committed" and self._has_manifest(file.checkpoint):
            self.committed.append(file.checkpoint)
        self._after("create" if made else "create (taken)", path)
        return made

    def put_file(self, path: str, local_path: str) -> None:
        """Copy a file of this machine into the store."""
        self._before("put_file", path)
        self._write(path, Path(local_path).read_bytes())
        self._after("put_file", path)

    def delete(self, path: str) -> None:
        """Remove a file, if it is there."""
        self._before("delete", path)
        self.inner.delete(path)
        self._originals.pop(path, None)
        self._after("delete", path)

    def _has_manifest(self, checkpoint: CheckpointId) -> bool:
        """A stale process may mark a checkpoint that has been deleted since: that makes no checkpoint of it."""
        files = self.inner.list(paths.checkpoint_directory(checkpoint))
        return any("manifest" in path for path in files)

    # -- damage

    def rot(self) -> None:
        """Flip a bit of some state file or manifest at rest."""
        paths_ = self.inner.list(paths.FILES) + self.inner.list(paths.CHECKPOINTS)
        if paths_:
            path = paths_[self._faults.choose(len(paths_))]
            self._damage(path, _flipped(self.inner.read(path) or b"", self._faults))
            self._faults.note(f"BIT_ROT in {path}")

    def original(self, path: str) -> bytes | None:
        """What was written under a path, whatever has become of it since; None if there is nothing."""
        stored = self.inner.read(path)
        return None if stored is None else self._originals.get(path, stored)

    def repair(self) -> bool:
        """Bring back what was written; returns whether anything was damaged."""
        for path, data in sorted(self._originals.items()):
            self._faults.note(f"repaired {path}")
            self.inner.put(path, data)
        repaired = bool(self._originals)
        self._originals.clear()
        return repaired

    def forget_after(self, checkpoint: CheckpointId) -> None:
        """A user deletes the checkpoints after this one."""
        for path in self.inner.list(paths.CHECKPOINTS):
            file = paths.parse_checkpoint_file(path)
            if file is not None and file.checkpoint > checkpoint:
                self._faults.note(f"the user deletes {path}")
                self.inner.delete(path)
                self._originals.pop(path, None)
        self.committed = [one for one in self.committed if one <= checkpoint]

    def _write(self, path: str, data: bytes) -> None:
        self._originals.pop(path, None)
        self.inner.put(path, data)
        if self._faults.happens(Fault.TORN_FILE):
            self._damage(path, data[: self._faults.choose(len(data) or 1)])
            self._faults.crash(f"put {path}, which is cut short")
        if self._faults.happens(Fault.FLIPPED_FILE):
            self._damage(path, _flipped(data, self._faults))
            self._faults.crash(f"put {path}, of which a bit is flipped")

    def _damage(self, path: str, data: bytes) -> None:
        self._originals.setdefault(path, self.inner.read(path) or b"")
        self.was_damaged = True
        self.inner.put(path, data)

    def _before(self, call: str, path: str) -> None:
        self._faults.around(f"before {call} {path}")
        self._faults.fail(Fault.STORE_ERROR, f"{call} {path}", CheckpointError)

    def _after(self, call: str, path: str) -> None:
        self.changes += 1
        self._faults.note(f"{call} {path}")
        self._faults.fail(Fault.STORE_LOST, f"{call} {path}", CheckpointError)
        self._faults.around(f"after {call} {path}")


def _flipped(data: bytes, faults: Faults) -> bytes:
    if not data:
        return b"\x00"
    place = faults.choose(len(data))
    return data[:place] + bytes([data[place] ^ (1 << faults.choose(8))]) + data[place + 1 :]
