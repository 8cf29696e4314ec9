"""The key-value store's tables on disk."""

from __future__ import annotations

from wormspace.store.lmdb_engine import LmdbEngine


class LmdbStore(LmdbEngine):
    """A durable store in a directory of its own, for one process.

    A full one refuses promises; outcomes need the room that their promises gave back.

    Raises:
        StoreLocked: another process has it open.
        StoreError: it cannot be opened.
    """

    tables = ("data", "prepared", "identity")
    growing = ("prepared",)

    def __repr__(self) -> str:
        return f"<LmdbStore in {self._path}>"
