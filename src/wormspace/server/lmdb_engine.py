"""The durable engine: LMDB.

The event loop's thread begins a batch, reads and writes in it (microseconds, no disk), and hands
the commit, which waits for the disk, to a thread; reads go on meanwhile from a snapshot that is
renewed when a commit is done, so that nobody ever sees what is not durable yet.

LMDB's own lock ties a transaction to a thread, so it is off, and its two rules are kept here: one
process has the store open (a lock on the directory), and no snapshot is older than the commit
before the one under way (there is one snapshot, renewed between a commit and the next begin).

Not with LMDB's writable map: with it a full disk is a SIGBUS, not an error.

LMDB changes nothing in place, so even deleting needs free pages.  Therefore the map is larger than
the limit told to users, and in a store that has reached its limit only what does not grow it is
committed: trims, and the deletion of what they made garbage.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import lmdb

from wormspace.committer import Committer
from wormspace.errors import StoreError, StoreFull, StoreLocked
from wormspace.server.engine import Batch, Item, View

TABLES = ("identity", "spaces", "rows", "promises", "decided", "trimmed", "garbage")
GROWING = ("spaces", "rows", "promises", "decided")
"""What may not grow in a full store; tombstones may, or a full store could never be trimmed."""

DEFAULT_MAX_BYTES = 1 << 40
RESERVE_BYTES = 1 << 20
SCARCE_BYTES = 64 << 20
PROBE_BYTES = 1 << 20
SYNC, OS = "sync", "os"


class LmdbEngine:
    """A store in a directory of its own.

    Args:
        path: the directory; made if it is not there.
        durability: `sync`: a commit is done when the disk has it; `os`: when the operating
            system has it, so that a crash of the *machine* may lose the last commits.
        max_bytes: the size above which the store is full.

    Raises:
        StoreLocked: another process has it open.
        StoreError: it cannot be opened.
    """

    def __init__(
        self, path: Path, *, durability: str = SYNC, max_bytes: int = DEFAULT_MAX_BYTES
    ) -> None:
        self._path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock_directory(path)
        except OSError as e:
            raise StoreError(f"{path} cannot be used as a data directory: {e.strerror}") from e
        try:
            self._env = lmdb.open(
                str(path),
                map_size=max_bytes + max_bytes // 8 + RESERVE_BYTES,
                max_dbs=len(TABLES),
                sync=durability == SYNC,
                metasync=durability == SYNC,
                lock=False,
                readahead=False,
                max_spare_txns=2,
            )
            self._dbs = {name: self._env.open_db(name.encode()) for name in TABLES}
        except (lmdb.Error, OSError) as e:
            os.close(self._lock)
            raise _explain(e, path) from e
        self._max_bytes = max_bytes
        self._page_bytes = int(self._env.stat()["psize"])
        self._committer = Committer("wormspace-commit")
        self._snapshot = _Txn(self._env.begin(), self._dbs)

    @property
    def view(self) -> View:
        return self._snapshot

    def begin(self) -> Batch:
        try:
            return _Txn(self._env.begin(write=True), self._dbs)
        except lmdb.Error as e:
            raise _explain(e, self._path) from e

    async def commit(self, batch: Batch) -> None:
        changes = cast(_Txn, batch)
        if self._file_bytes() >= self._max_bytes:
            self._check_room(changes)
        try:
            await self._committer.run(changes.txn.commit)
        except (lmdb.Error, OSError) as e:
            raise _explain(e, self._path) from e
        self._snapshot.renew(self._env)

    def _file_bytes(self) -> int:
        return int(self._env.info()["last_pgno"] + 1) * self._page_bytes

    def _check_room(self, changes: _Txn) -> None:
        """Refuse changes that make a full store fuller.

        Raises:
            StoreFull: and the changes are dropped.
        """
        before, after = self._snapshot.pages(), changes.pages()
        if sum(after.values()) * self._page_bytes <= self._max_bytes:
            return
        if any(after[table] > before[table] for table in GROWING) or any(
            changes.count(table) > self._snapshot.count(table) for table in GROWING
        ):
            changes.abort()
            raise StoreFull(
                f"{self._path}: the store has reached its limit of {self._max_bytes} bytes; raise "
                "it or trim segments"
            )

    def figures(self) -> dict[str, int]:
        return {
            "store_bytes": self._file_bytes(),
            "store_used_bytes": sum(self._snapshot.pages().values()) * self._page_bytes,
            "store_max_bytes": self._max_bytes,
            "store_commits": self._env.info()["last_txnid"],
        }

    def close(self) -> None:
        self._committer.stop()
        self._snapshot.abort()
        self._env.close()
        os.close(self._lock)


class _Txn:
    """A transaction as a view and, if it may write, as a batch."""

    def __init__(self, txn: lmdb.Transaction[bytes], dbs: dict[str, lmdb._Database]) -> None:
        self.txn = txn
        self._dbs = dbs

    def renew(self, env: lmdb.Environment) -> None:
        """Let go of this snapshot and take that of the last commit."""
        self.txn.abort()
        self.txn = env.begin()

    def pages(self) -> dict[str, int]:
        """How many pages each table takes."""
        stats = {name: self.txn.stat(db) for name, db in self._dbs.items()}
        return {
            name: stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            for name, stat in stats.items()
        }

    def count(self, table: str) -> int:
        """How many keys a table has."""
        return int(self.txn.stat(self._dbs[table])["entries"])

    def get(self, table: str, key: bytes) -> bytes | None:
        return self.txn.get(key, db=self._dbs[table])

    def get_many(self, table: str, keys: list[bytes]) -> list[bytes | None]:
        with self.txn.cursor(db=self._dbs[table]) as cursor:
            get = cursor.get
            return [get(key) for key in keys]

    def scan(self, table: str, lo: bytes, hi: bytes) -> Iterator[Item]:
        with self.txn.cursor(db=self._dbs[table]) as cursor:
            if not cursor.set_range(lo):
                return
            for key, value in cursor.iternext(keys=True, values=True):
                if key >= hi:
                    return
                yield key, value

    def floor(self, table: str, key: bytes) -> Item | None:
        with self.txn.cursor(db=self._dbs[table]) as cursor:
            if cursor.set_range(key):
                if cursor.key() == key:
                    return key, cursor.value()
                found = cursor.prev()
            else:
                found = cursor.last()
            return (cursor.key(), cursor.value()) if found else None

    def put(self, table: str, key: bytes, value: bytes) -> None:
        try:
            self.txn.put(key, value, db=self._dbs[table])
        except lmdb.Error as e:
            raise _explain(e, None) from e

    def put_many(self, table: str, items: Iterable[Item]) -> None:
        try:
            with self.txn.cursor(db=self._dbs[table]) as cursor:
                cursor.putmulti(items)
        except lmdb.Error as e:
            raise _explain(e, None) from e

    def delete(self, table: str, key: bytes) -> None:
        try:
            self.txn.delete(key, db=self._dbs[table])
        except lmdb.Error as e:
            raise _explain(e, None) from e

    def abort(self) -> None:
        self.txn.abort()


def _lock_directory(path: Path) -> int:
    """Lock the directory for this process; the operating system unlocks it when it dies."""
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        os.close(fd)
        raise StoreLocked(
            f"{path} is open in another process; close that one first, or run a server "
            "(`wormspace server`) to share it"
        ) from e
    return fd


def _explain(e: Exception, path: Path | None) -> StoreError:
    """LMDB's error as ours."""
    where = f"{path}: " if path else ""
    if isinstance(e, lmdb.MapFullError):
        return StoreFull(f"{where}the store has reached its size limit; raise it or trim segments")
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(e, lmdb.DiskError) or (isinstance(e, OSError) and e.errno in full):
        return StoreFull(f"{where}no room on the disk ({e}); make some")
    if isinstance(e, lmdb.Error) and any(os.strerror(n) in str(e) for n in full):
        return StoreFull(f"{where}no room on the disk ({e}); make some")
    if isinstance(e, lmdb.Error) and os.strerror(errno.EIO) in str(e) and _is_full(path, full):
        return StoreFull(f"{where}no room on the disk ({e}); make some")
    return StoreError(f"{where}{e}")


def _is_full(path: Path | None, full: tuple[int, ...]) -> bool:
    """Whether an input/output error is that of a disk (or quota) without room.

    LMDB reports a write that was cut short so.  It had not changed its root by then, so the last
    commit stands; had it been past that, it would refuse all that follows, whatever we think.
    """
    if path is None:
        return False
    disk = os.statvfs(path)
    if disk.f_bavail * disk.f_frsize < SCARCE_BYTES:
        return True
    probe = path / "probe"
    try:
        probe.write_bytes(bytes(PROBE_BYTES))
    except OSError as e:
        return e.errno in full
    finally:
        probe.unlink(missing_ok=True)
    return False
