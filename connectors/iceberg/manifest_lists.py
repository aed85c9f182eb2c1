"""Snapshots' manifest lists, kept in memory.

A manifest list is never changed once it is written, and its name is never used again: what was read, or written, is
good for as long as somebody asks for it.
"""

from __future__ import annotations

from collections import OrderedDict

from pyiceberg.io import FileIO
from pyiceberg.manifest import ManifestFile
from pyiceberg.table.snapshots import Snapshot

REMEMBERED_MAX = 20_000
"""Entries of manifest lists, all together, that are kept in memory: of thirty snapshots about a thousand."""


class ManifestLists:
    """The manifest lists that were asked for last.

    Args:
        remembered_max: Entries to keep, all lists together; the list that was asked for longest ago goes first.
    """

    def __init__(self, remembered_max: int = REMEMBERED_MAX) -> None:
        self._remembered_max = remembered_max
        self._lists: OrderedDict[str, tuple[ManifestFile, ...]] = OrderedDict()
        self._size = 0

    def read(self, snapshot: Snapshot, io: FileIO) -> tuple[ManifestFile, ...]:
        """The manifests of a snapshot."""
        known = self._lists.get(snapshot.manifest_list)
        if known is None:
            known = tuple(snapshot.manifests(io))
            self.remember(snapshot.manifest_list, known)
        else:
            self._lists.move_to_end(snapshot.manifest_list)
        return known

    def remember(self, manifest_list: str, manifests: tuple[ManifestFile, ...]) -> None:
        """Keep a manifest list that was just written, exactly as a reader would find it."""
        self.forget(manifest_list)
        self._lists[manifest_list] = manifests
        self._size += len(manifests)
        while self._size > self._remembered_max:
            self.forget(next(iter(self._lists)))

    def forget(self, manifest_list: str) -> None:
        """Drop a list that is gone from storage."""
        self._size -= len(self._lists.pop(manifest_list, ()))
