"""What the key-value store needs from a disk, and LMDB as one.

A commit is all or nothing and done only when it is durable; readers see the last one that is done.
The event loop makes the changes, in memory; a thread commits them, which waits for the disk.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol, cast

import lmdb

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


class _Committer:
    """The thread that waits for the disk; an executor would do, at three times the CPU."""

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Callable[[], None], asyncio.Future[None]] | None] = (
            SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name="wormspace-kv", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], None]) -> None:
        """Run `work` in the thread; raises what it raises."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._work.put((work, done))
        await done

    def stop(self) -> None:
        """End the thread; nothing may be under way."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            work, done = item
            error: BaseException | None = None
            try:
                work()
            except BaseException as e:  # noqa: BLE001 - it is the waiting task's to handle
                error = e
            done.get_loop().call_soon_threadsafe(_finish, done, error)


def _finish(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


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
        self._committer = _Committer()
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
