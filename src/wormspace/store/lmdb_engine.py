"""The durable engine: tables in LMDB, and a journal of what they do not have on disk yet.

A batch is collected in memory, written to the journal while the event loop goes on (by the kernel;
where it cannot, by a thread that waits for the disk), and only then put into the tables, which is
where reads look; so nobody sees what is not durable yet, and a slow disk stops no read.  The tables
are one long transaction of LMDB: a page that changes again and again is written once.  When the
journal has grown, a *checkpoint* commits that transaction without waiting (the system's memory has
it then), another thread waits until the disk has it and saves the roots, and the journal begins
anew.

A store is opened at its last checkpoint, always, and reads the journal from there.  LMDB reuses no
page that its last two commits use.  So the checkpoint stays whole as long as there is only one
commit after it, and a second one waits until the first is the checkpoint (`_saving`).

One process has the store open (a lock on the directory), and one thread uses LMDB, so LMDB's own
lock is off.  Not with its writable map: with it a full disk is a SIGBUS, not an error.

In a store that has reached its limit, or on a full disk, only what makes no table of `growing`
larger is taken: of a server, trims, and the deletion of what they made garbage.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar, cast

import lmdb

from wormspace.errors import StoreError, StoreFull, StoreLocked
from wormspace.store.changes import Changes, decode, encode
from wormspace.store.changes import Tables as Changed
from wormspace.store.disk import FULL, make_directories
from wormspace.store.engine import Batch, Item, View
from wormspace.store.files import SYSTEM, Files
from wormspace.store.journal import NAMES, Journal
from wormspace.store.roots import NAME as ROOTS
from wormspace.store.roots import Roots

log = logging.getLogger("wormspace.store")

DEFAULT_MAX_BYTES = 1 << 40
CHECKPOINT_BYTES = 16 << 20
"""A journal of this size is worth a checkpoint: fewer ones cost less, larger ones hold up more."""

LARGE_BYTES = 2048
"""A value of about half a page has pages of its own."""

LARGE_WEIGHT = 8
"""Records of large values count so many times.

Their pages change once, so waiting saves no writing; and LMDB hands many of them to the system in
one call, which takes several times as long from 4 MiB on (docs/performance.md).
"""

SLACK_BYTES = 1 << 30
"""Addresses for pages that are copied, beyond the limit: LMDB changes nothing in place."""

SPARE_BYTES = 64 << 10
"""What growing batches leave in the journal, so that trims find room on a full disk."""

SCARCE_BYTES = 64 << 20
PROBE_BYTES = 1 << 20
SYNC, OS = "sync", "os"


class LmdbEngine:
    """A store in a directory of its own; which tables it has, a subclass says.

    Args:
        path: the directory; made if it is not there.
        files: what stands for the system.
        durability: `sync`: a commit is done when the disk has it; `os`: when the operating
            system has it, so that a crash of the *machine* may lose the last commits.
        max_bytes: the size above which the store is full.

    Raises:
        StoreLocked: another process has it open.
        StoreError: it cannot be opened.
    """

    tables: ClassVar[tuple[str, ...]]
    growing: ClassVar[tuple[str, ...]]
    """Those that may not grow in a full store."""

    def __init__(
        self,
        path: Path,
        *,
        durability: str = SYNC,
        max_bytes: int = DEFAULT_MAX_BYTES,
        files: Files = SYSTEM,
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._files = files
        try:
            make_directories(files, path)
            self._lock = _lock_directory(files, path)
        except OSError as e:
            raise StoreError(f"{path} cannot be used as a data directory: {e.strerror}") from e
        with ExitStack() as undo:
            undo.callback(files.close, self._lock)
            try:
                self._roots = Roots(path, files)
                undo.callback(self._roots.close)
                self._env, self._dbs = self._open()
                undo.callback(self._env.close)
                self._journal = Journal(path, sync=durability == SYNC, files=files)
                undo.callback(self._journal.close)
                self._view = _Tables(self._env, self._dbs)
                undo.callback(self._view.abort)
                self._recover()
            except (lmdb.Error, OSError) as e:
                raise self._explain(e) from e
            undo.pop_all()
        self._page_bytes = int(self._env.stat()["psize"])
        self._committer = files.worker("wormspace-commit")
        self._saver = files.worker("wormspace-checkpoint")
        self._saving: asyncio.Task[None] | None = None
        self._crowded: StoreFull | None = None
        self._failed: StoreError | None = None
        self._grown = self._journal.size
        self._enough = self._draw_enough()

    def _open(self) -> tuple[lmdb.Environment, dict[str, lmdb._Database]]:
        """LMDB at the last checkpoint; a store without one gets its first."""
        if self._roots.number is not None:
            self._roots.restore()
        elif any(self._files.size_at(self._path / name) is not None for name in NAMES):
            raise StoreError(f"{self._path / ROOTS} is missing: restore it")
        env = self._files.open_tables(
            self._path, 2 * self._max_bytes + SLACK_BYTES, len(self.tables)
        )
        dbs = {name: env.open_db(name.encode()) for name in self.tables}
        if self._roots.number is None:
            env.sync(True)
            self._roots.save(0, self._roots.read(env.stat()["psize"]))
        return env, dbs

    def _recover(self) -> None:
        """Put what the journal has into the tables, which are as of the last checkpoint."""
        for record in self._journal.recover(self._roots.number or 0):
            self._view.apply(decode(record))

    @property
    def view(self) -> View:
        return self._view

    def begin(self) -> Batch:
        return Changes(self._view)

    async def commit(self, batch: Batch) -> None:
        changes = cast(Changes, batch).tables
        if self._failed is not None:
            raise self._failed
        if not any(changes.values()):
            return
        record = encode(changes)
        spare = 0
        if any(value is not None for t in self.growing for value in changes.get(t, {}).values()):
            self._check_room(changes, len(record))
            spare = SPARE_BYTES
        try:
            await self._committer.run(lambda: self._journal.append(record, spare))
        except OSError as e:
            raise self._explain(e) from e
        except StoreError as e:
            self._failed = e
            raise
        try:
            self._view.apply(changes)
        except lmdb.Error as e:
            # In this turn of the loop: nobody may read tables that have a half of it.
            self._take_back()
            raise self._explain(e) from e
        is_large = len(record) >= LARGE_BYTES * sum(map(len, changes.values()))
        self._grown += len(record) * (LARGE_WEIGHT if is_large else 1)
        if self._grown >= self._enough or self._crowded is not None:
            self._checkpoint()

    # ------------------------------------------------------------ checkpoints

    def _checkpoint(self) -> None:
        """Bring the tables to disk, in the background; one at a time."""
        if self._saving is not None:
            return
        try:
            self._view.commit()
        except (lmdb.Error, OSError) as e:
            error = self._explain(e)
            self._begin_again()
            if isinstance(error, StoreFull):
                self._crowded = error
            else:
                self._failed = error
            return
        self._crowded = None
        number, pages = self._journal.last, self._roots.read(self._page_bytes)
        self._journal.switch()
        self._grown = 0
        self._enough = self._draw_enough()
        self._saving = asyncio.get_running_loop().create_task(self._save(number, pages))

    async def _save(self, number: int, pages: bytes) -> None:
        try:
            await self._saver.run(lambda: self._bring_to_disk(number, pages))
        finally:
            self._saving = None

    def _bring_to_disk(self, number: int, pages: bytes) -> None:
        """Make what is committed the checkpoint.  Waits for the disk."""
        try:
            self._env.sync(True)
            self._roots.save(number, pages)
        except (lmdb.Error, OSError) as e:
            # The system may have dropped what it could not write: trying again proves nothing.
            self._failed = StoreError(f"{self._path}: the disk failed at a checkpoint: {e}")
            log.critical("%s", self._failed)

    def _take_back(self) -> None:
        """Undo the last record: a restart must not bring back what nobody was told of.

        Raises:
            StoreError: the disk failed.
        """
        try:
            self._journal.retract()
        except StoreError as e:
            self._failed = e
            raise
        self._begin_again()

    def _begin_again(self) -> None:
        """The transaction is lost: make it again from what is committed and the journal.

        Raises:
            StoreError: it cannot be made.
        """
        try:
            self._view.abort()
            self._view.begin()
            self._recover()
        except (lmdb.Error, OSError, StoreError) as e:
            self._failed = StoreError(f"{self._path}: the tables are lost until a restart: {e}")
            raise self._failed from e

    def _finish(self) -> None:
        """A last checkpoint, so that the next start has nothing to read; not needed for safety."""
        if self._journal.last == self._roots.number:
            return
        try:
            self._view.commit()
        except (lmdb.Error, OSError) as e:
            log.warning("%s: closed without a checkpoint: %s", self._path, e)
            return
        self._bring_to_disk(self._journal.last, self._roots.read(self._page_bytes))
        self._journal.switch()

    # ------------------------------------------------------------ room

    def _check_room(self, changes: Changed, size: int) -> None:
        """Refuse changes that make a full store fuller.

        Raises:
            StoreFull: and the changes are dropped.
        """
        if self._crowded is not None:
            if self._has_room():
                self._checkpoint()
            if self._crowded is not None:
                raise self._crowded
        if self._file_bytes() + 4 * (self._journal.size + size) < self._max_bytes:
            return
        if self._used_bytes() + size > self._max_bytes and self._growth(changes) > 0:
            raise StoreFull(
                f"{self._path}: the store has reached its limit of {self._max_bytes} bytes; raise "
                "it or trim segments"
            )

    def _growth(self, changes: Changed) -> int:
        """By how many bytes changes make the tables larger."""
        growth = 0
        for table in self.growing:
            for key, value in changes.get(table, {}).items():
                old = self._view.get(table, key)
                growth += len(key + value) if value is not None else 0
                growth -= len(key + old) if old is not None else 0
        return growth

    def _file_bytes(self) -> int:
        return self._view.committed_pages * self._page_bytes

    def _explain(self, e: Exception) -> StoreError:
        """An error of LMDB or the system as ours."""
        where = self._path
        if isinstance(e, lmdb.MapFullError):
            return StoreFull(f"{where}: the store has reached its size limit; raise it or trim")
        if isinstance(e, lmdb.DiskError) or (isinstance(e, OSError) and e.errno in FULL):
            return StoreFull(f"{where}: no room on the disk ({e}); make some")
        if isinstance(e, lmdb.Error) and any(os.strerror(n) in str(e) for n in FULL):
            return StoreFull(f"{where}: no room on the disk ({e}); make some")
        if isinstance(e, lmdb.Error) and os.strerror(errno.EIO) in str(e) and self._is_full():
            # LMDB reports a write that was cut short as an input/output error.
            return StoreFull(f"{where}: no room on the disk ({e}); make some")
        return StoreError(f"{where}: {e}")

    def _is_full(self) -> bool:
        """Whether the disk (or quota) has no room."""
        return self._files.free_bytes(self._path) < SCARCE_BYTES or not self._has_room()

    def _has_room(self) -> bool:
        """Whether the disk takes some more."""
        try:
            self._files.reserve(self._lock, 0, PROBE_BYTES)
        except OSError as e:
            return e.errno not in FULL
        finally:
            self._files.truncate(self._lock, 0)
        return True

    def _used_bytes(self) -> int:
        return self._view.pages() * self._page_bytes

    def figures(self) -> dict[str, int]:
        used = self._used_bytes()
        return {
            "store_bytes": max(used, self._file_bytes()),
            "store_used_bytes": used,
            "store_max_bytes": self._max_bytes,
            "store_commits": self._journal.last,
            "journal_bytes": self._journal.disk_bytes,
        }

    def close(self) -> None:
        self._committer.stop()
        self._saver.stop()
        if self._failed is None:
            self._finish()
        self._view.abort()
        self._env.close()
        self._journal.close()
        self._roots.close()
        self._files.close(self._lock)

    def _draw_enough(self) -> int:
        """How much the journal grows: another size each time.

        Servers that write the same would otherwise all be busy with a checkpoint at the same
        moment.
        """
        return CHECKPOINT_BYTES - CHECKPOINT_BYTES * self._files.random(1)[0] // 512


class _Tables:
    """What is durable: LMDB's transaction as a view.

    Attributes:
        committed_pages: the pages of the file as of the last commit.
    """

    def __init__(self, env: lmdb.Environment, dbs: dict[str, lmdb._Database]) -> None:
        self._env = env
        self._dbs = dbs
        self.begin()

    def begin(self) -> None:
        """Begin the next transaction."""
        self._txn = self._env.begin(write=True)
        self.committed_pages = int(self._env.info()["last_pgno"]) + 1

    def abort(self) -> None:
        """Drop what changed since the last commit."""
        self._txn.abort()

    def commit(self) -> None:
        """Hand what changed to the operating system, and begin the next transaction.

        Raises:
            lmdb.Error, OSError: what changed is dropped.
        """
        self._txn.commit()
        self.begin()

    def apply(self, changes: Changed) -> None:
        """Put and delete."""
        for table, changed in changes.items():
            with self._txn.cursor(db=self._dbs[table]) as cursor:
                if None not in changed.values():
                    cursor.putmulti(cast(Iterable[Item], changed.items()))
                    continue
                for key, value in changed.items():
                    if value is not None:
                        cursor.put(key, value)
                    elif cursor.set_key(key):
                        cursor.delete()

    def pages(self) -> int:
        """How many pages the tables take."""
        stats = [self._txn.stat(db) for db in self._dbs.values()]
        return sum(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for s in stats)

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._txn.get(key, db=self._dbs[table])

    def get_many(self, table: str, keys: list[bytes]) -> list[bytes | None]:
        with self._txn.cursor(db=self._dbs[table]) as cursor:
            if len(keys) > 1 and not (cursor.set_range(min(keys)) and cursor.key() <= max(keys)):
                return [None] * len(keys)  # new registers: as a rule there is nothing around them
            get = cursor.get
            return [get(key) for key in keys]

    def scan(self, table: str, lo: bytes, hi: bytes) -> Iterator[Item]:
        with self._txn.cursor(db=self._dbs[table]) as cursor:
            if not cursor.set_range(lo):
                return
            for key, value in cursor.iternext(keys=True, values=True):
                if key >= hi:
                    return
                yield key, value

    def descend(self, table: str, key: bytes) -> Iterator[Item]:
        """The items with keys up to `key`, in descending order."""
        with self._txn.cursor(db=self._dbs[table]) as cursor:
            found = _seek(cursor, key)
            while found:
                yield cursor.key(), cursor.value()
                found = cursor.prev()

    def floor(self, table: str, key: bytes) -> Item | None:
        with self._txn.cursor(db=self._dbs[table]) as cursor:
            return cursor.item() if _seek(cursor, key) else None


def _seek(cursor: lmdb.Cursor, key: bytes) -> bool:
    """Go to `key` or the last key before it; false if there is none."""
    if not cursor.set_range(key):
        return cursor.last()
    return cursor.key() == key or cursor.prev()


def _lock_directory(files: Files, path: Path) -> int:
    """Lock the directory for this process; the operating system unlocks it when it dies."""
    fd = files.open(path / "lock", os.O_RDWR | os.O_CREAT)
    try:
        files.lock(fd)
    except OSError as e:
        files.close(fd)
        raise StoreLocked(
            f"{path} is open in another process; close that one first, or run a server "
            "(`wormspace server`) to share it"
        ) from e
    return fd
