"""What the key-value store needs from a disk, and LMDB as one.

A commit is all or nothing and done only when it is durable; readers see the last one that is done.
The event loop makes the changes, in memory; a thread commits them, which waits for the disk.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, cast

import lmdb

from wormspace.committer import Committer
from wormspace.errors import StoreError, StoreLocked

TABLES = ("data", "prepared", "identity")
MAX_BYTES = 1 << 38


class View(Protocol):
    """The store as of its last commit."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of `key`, if any."""

    def scan(self, table: str, lo: bytes, hi: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The items with lo <= key < hi, in ascending order."""


class Batch(Protocol):
    """Changes to be committed together."""

    def put_many(self, table: str, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Set many keys, in the order given."""

    def delete(self, table: str, key: bytes) -> None:
        """Forget `key`, if it is there."""


class Engine(Protocol):
    """An open store; at most one batch at a time is begun and not yet committed."""

    @property
    def view(self) -> View:
        """The state as of the last commit that is done."""

    def begin(self) -> Batch:
        """Begin a batch."""

    async def commit(self, batch: Batch) -> None:
        """Make a batch durable.

        Raises:
            StoreError: nothing was changed.
        """

    def close(self) -> None:
        """Close the store; nothing may be under way."""


class _Changes:
    """A batch: LMDB's write transaction."""

    def __init__(self, txn: lmdb.Transaction[bytes], dbs: dict[str, lmdb._Database]) -> None:
        self.txn = txn
        self._dbs = dbs

    def put_many(self, table: str, items: Iterable[tuple[bytes, bytes]]) -> None:
        try:
            with self.txn.cursor(db=self._dbs[table]) as cursor:
                cursor.putmulti(items)
        except lmdb.Error as e:
            self.txn.abort()
            raise StoreError(str(e)) from e

    def delete(self, table: str, key: bytes) -> None:
        try:
            self.txn.delete(key, db=self._dbs[table])
        except lmdb.Error as e:
            self.txn.abort()
            raise StoreError(str(e)) from e


class LmdbStore:
    """A durable store in a directory of its own, for one process.

    LMDB's own lock ties a write transaction to a thread, so it is off, and its two rules are kept
    here: one process has the store open, and the one snapshot is renewed between a commit and the
    next batch.

    Raises:
        StoreLocked: another process has it open.
        StoreError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(path / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._env = lmdb.open(
                str(path), map_size=MAX_BYTES, max_dbs=len(TABLES), readahead=False, lock=False
            )
            self._dbs = {name: self._env.open_db(name.encode()) for name in TABLES}
        except BlockingIOError as e:
            os.close(self._lock)
            raise StoreLocked(f"{path} is open in another process") from e
        except lmdb.Error as e:
            os.close(self._lock)
            raise StoreError(f"{path}: {e}") from e
        self._committer = Committer("wormspace-kv")
        self._snapshot = self._env.begin()

    @property
    def view(self) -> View:
        return self

    def get(self, table: str, key: bytes) -> bytes | None:
        """See View."""
        return self._snapshot.get(key, db=self._dbs[table])

    def scan(self, table: str, lo: bytes, hi: bytes) -> Iterator[tuple[bytes, bytes]]:
        """See View."""
        with self._snapshot.cursor(db=self._dbs[table]) as cursor:
            if not cursor.set_range(lo):
                return
            for key, value in cursor.iternext():
                if key >= hi:
                    return
                yield key, value

    def begin(self) -> Batch:
        try:
            return _Changes(self._env.begin(write=True), self._dbs)
        except lmdb.Error as e:
            raise StoreError(str(e)) from e

    async def commit(self, batch: Batch) -> None:
        try:
            await self._committer.run(cast(_Changes, batch).txn.commit)
        except (lmdb.Error, OSError) as e:
            raise StoreError(str(e)) from e
        self._snapshot.abort()
        self._snapshot = self._env.begin()

    def close(self) -> None:
        self._committer.stop()
        self._snapshot.abort()
        self._env.close()
        os.close(self._lock)
