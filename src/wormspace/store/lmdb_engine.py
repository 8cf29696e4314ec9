"""The durable engine: tables in LMDB, and a journal of what they do not have on disk yet.

A batch is collected in memory, written to the journal, and only then put into the tables, which is
where reads look; so nobody sees what is not durable yet.  As a rule a thread waits for the disk, so
that a slow disk stops no read (`pace.py` has the exception).  The tables are one long transaction
of LMDB: a page that changes again and again is written once.  When the journal has grown, a
*checkpoint* commits that transaction without waiting (the system's memory has it then), another
thread waits until the disk has it and saves the roots, and the journal goes on in its other file.

A store is opened at its last checkpoint, always, and reads the journal from there.  LMDB reuses no
page that its last two commits use.  So the checkpoint stays whole as long as there is only one
commit after it, and a second one waits until the first is the checkpoint (`_saving`).

After an error that is not "no room, nothing was changed" the store fails for good (`trust.py`).

One process has the store open (a lock on the directory), and one thread uses LMDB, so LMDB's own
lock is off.  Not with its writable map: with it a full disk is a SIGBUS, not an error.

In a store that has reached its limit, or on a full disk, only what makes no table of `growing`
larger is taken, and what `frees`: of a server, trims, and the deletion of what they made garbage.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import ClassVar, cast

import lmdb

from wormspace.errors import StoreDamaged, StoreError, StoreFull, UsageError
from wormspace.knobs import KNOBS
from wormspace.runtime.disk import make_directories, sync_directory
from wormspace.runtime.tasks import Tasks
from wormspace.store.changes import Changes, decode, encode, puts
from wormspace.store.changes import Tables as Changed
from wormspace.store.engine import Batch, View
from wormspace.store.files import SYSTEM, Files
from wormspace.store.journal import Journal
from wormspace.store.lmdb_tables import Tables
from wormspace.store.lock import DirectoryLock
from wormspace.store.pace import Pace
from wormspace.store.room import Room
from wormspace.store.roots import NAME as ROOTS
from wormspace.store.roots import Checkpoint, Roots
from wormspace.store.scrub import Scrub
from wormspace.store.trust import ADVICE, Trust

log = logging.getLogger("wormspace.store")

DEFAULT_MAX_BYTES = 1 << 40
MAX_KEY_BYTES = 510
"""LMDB takes 511, and the table of checksums puts one before it."""

SCRUB_PAUSE_S = 1.0
"""Between two steps of the scrub."""

SYNC, OS = "sync", "os"


class LmdbEngine:
    """A store in a directory of its own; which tables it has, a subclass says.

    Args:
        path: the directory; made if it is not there.
        durability: `sync`: a commit is done when the disk has it; `os`: when the operating
            system has it, so that a crash of the *machine* may lose the last commits.
        max_bytes: the size above which the store is full.
        files: what stands for the system.

    Raises:
        StoreLocked: another process has it open.
        StoreDamaged: what was durable is not whole any more.
        StoreError: it cannot be opened.
        NewerFormat: a newer wormspace wrote it.
    """

    tables: ClassVar[tuple[str, ...]]
    growing: ClassVar[tuple[str, ...]]
    """Those that may not grow in a full store."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: str = SYNC,
        max_bytes: int = DEFAULT_MAX_BYTES,
        files: Files = SYSTEM,
    ) -> None:
        if not isinstance(path, str | os.PathLike):
            raise UsageError(f"a directory is a path, not {path!r}")
        self._path = path = Path(path)
        self._max_bytes = max_bytes
        self._files = files
        self._sync = durability == SYNC
        self._trust = Trust(path)
        self._crowded: StoreFull | None = None
        self._saving: asyncio.Task[None] | None = None
        self._scrubbing: asyncio.TimerHandle | None = None
        try:
            make_directories(files, path)
            self._lock = DirectoryLock(files, path)
        except OSError as e:
            raise StoreError(f"{path} cannot be used as a data directory: {e.strerror}") from e
        with ExitStack() as undo:
            undo.callback(self._lock.close)
            self._room = Room(files, path, self._lock.fd)
            try:
                self._open(undo)
            except (lmdb.Error, OSError, RuntimeError) as e:
                raise self._room.explain(e) from e
            undo.pop_all()
        with suppress(RuntimeError):  # there is no loop yet: the first commit begins it
            self._scrub_later()

    # ------------------------------------------------------------ opening and closing

    def _open(self, undo: ExitStack) -> None:
        """Open what the directory holds, at its last checkpoint, and read the journal."""
        files, path = self._files, self._path
        if self._sync:
            self._room.warn_of_memory()
        self._roots = Roots(path, files)
        undo.callback(self._roots.close)
        self._journal = Journal(path, sync=self._sync, files=files)
        undo.callback(self._journal.close)
        sync_directory(files, path)
        saved = self._roots.saved
        if saved is not None:
            self._journal.check(saved.number, saved.salt)
            self._roots.restore(saved)
            self._roots.check_pages(saved)
        elif not self._journal.is_unused:
            raise StoreDamaged(f"{path / ROOTS} is missing. {ADVICE}")
        else:
            self._roots.create()
            self._journal.create()
        size = saved.data_bytes if saved is not None else 0
        self._tables = Tables(files, path, self.tables, size)
        undo.callback(self._tables.close)
        self._committer = files.worker("wormspace-commit")
        undo.callback(self._committer.stop)
        self._saver = files.worker("wormspace-checkpoint")
        undo.callback(self._saver.stop)
        self._scrub = Scrub(self._tables, self.tables)
        if saved is None:
            self._checkpoint_now()
        else:
            self._check_state(saved)
            self._recover(saved)
        self._journal.prepare()
        self._pace = Pace(files)
        self._grown = self._journal.size
        self._enough = self._draw_enough()

    def _check_state(self, saved: Checkpoint) -> None:
        """Check that the tables are those of the checkpoint."""
        found = self._tables.committed
        if found is None or (found.number, found.salt) != (saved.number, saved.salt):
            raise StoreDamaged(
                f"{self._path}: data.mdb and {ROOTS} are not of the same moment. {ADVICE}"
            )

    def _recover(self, saved: Checkpoint) -> None:
        """Put what the journal has into the tables, which are as of the last checkpoint."""
        journal = self._journal
        self._replay(lambda: journal.recover(saved.number, saved.salt, saved.first))
        if journal.goes_on:
            self._checkpoint_now()  # the first of the two files must become free
        if journal.lost:
            log.warning("%s", journal.lost)
            journal.prepare()
            journal.skip()  # perhaps nothing is left of what follows the last checkpoint
            self._checkpoint_now()  # what follows the gap is left behind for good

    def close(self) -> None:
        """Close the store, if it is open; nothing may be under way."""
        if self._trust.closed:
            return
        with ExitStack() as closing:
            closing.callback(setattr, self._trust, "closed", True)
            closing.callback(self._lock.close)
            closing.callback(self._roots.close)
            closing.callback(self._journal.close)
            closing.callback(self._tables.close)
            if self._scrubbing is not None:
                self._scrubbing.cancel()
            self._committer.stop()
            self._saver.stop()
            if self._saving is not None and not self._saving.get_loop().is_closed():
                self._saving.cancel()  # what it waits for has been done, or will never be
            self._roots.condemn()
            self._finish()

    def _finish(self) -> None:
        """A last checkpoint, so that the next start has nothing to read; not needed for safety."""
        saved = self._roots.saved
        if self._trust.failed or saved is None or self._journal.last == saved.number:
            return
        try:
            with self._trust:
                if saved.salt == self._journal.place[0] and not self._journal.is_prepared:
                    self._journal.release()
                    self._journal.prepare()
                self._checkpoint_now()
        except StoreError as e:
            log.warning("%s: closed without a checkpoint: %s", self._path, e)

    # ------------------------------------------------------------ batches

    @property
    def view(self) -> View:
        return self._tables

    def begin(self) -> Batch:
        if self._trust.closed:
            self._trust.check()
        return Changes(self._tables)

    async def commit(self, batch: Batch) -> None:
        changes = cast(Changes, batch).tables
        self._trust.check()
        if not any(changes.values()):
            return
        self._check_keys(changes)
        with self._trust:
            await self._commit(changes)

    def _check_keys(self, changes: Changed) -> None:
        """Refuse at the door what the tables would refuse after the journal has it."""
        for table, changed in changes.items():
            if table not in self.tables:
                raise UsageError(f"{self._path}: there is no table {table!r}")
            lengths = set(map(len, changed))
            if 0 in lengths or max(lengths, default=0) > MAX_KEY_BYTES:
                raise UsageError(f"{self._path}: a key has 1 to {MAX_KEY_BYTES} bytes")

    async def _commit(self, changes: Changed) -> None:
        """Journal, then tables.

        Raises:
            StoreFull: nothing was changed.
            Exception: any other means that the store has failed.
        """
        record = encode(changes)
        spare = 0
        if puts(changes, self.growing, self.frees):
            self._check_room(changes, len(record))
            spare = KNOBS.store_spare_bytes
        await self._append(record, spare)
        self._apply(changes, len(record))
        is_large = len(record) >= KNOBS.store_large_bytes * sum(map(len, changes.values()))
        self._grown += len(record) * (KNOBS.store_large_weight if is_large else 1)
        if self._grown >= self._enough or self._crowded is not None:
            self._checkpoint()
        if self._scrubbing is None:
            self._scrub_later()

    async def _append(self, record: bytes, spare: int) -> None:
        """Write a record of the journal.

        Raises:
            StoreFull: there was no room; nothing was changed.
            StoreError
        """
        append = self._pace.timed(lambda: self._journal.append(record, spare))
        try:
            is_settled = self._saving is None and self._journal.is_settled(len(record), spare)
            if is_settled and self._pace.allows(len(record)):
                append()
            else:
                await self._committer.run(append)
        except OSError as e:
            raise self._room.explain(e) from e

    def _apply(self, changes: Changed, size: int) -> None:
        """Put what the journal has into the tables.

        In this turn of the loop: nobody may read tables that have a half of it.
        """
        try:
            self._tables.apply(changes, size)
        except lmdb.MapFullError:
            self._tables.abort()
            self._extend()
            self._begin_again()

    def _begin_again(self) -> None:
        """The transaction is lost: make it again from what is committed and the journal."""
        self._tables.restart()
        committed = self._tables.committed
        number = committed.number if committed is not None else 0
        self._replay(lambda: self._journal.again(number))

    def _replay(self, records: Callable[[], Iterator[bytes]]) -> None:
        """Put records into the tables, with a larger map if they do not fit."""
        while True:
            try:
                for record in records():
                    self._tables.apply(decode(record), len(record))
                return
            except lmdb.MapFullError:
                self._tables.abort()
                self._extend()
                self._tables.restart()

    def _extend(self) -> None:
        """Map more of the file; there is no transaction.

        Raises:
            StoreError: the process has no addresses left.
        """
        try:
            self._tables.grow(self._file_bytes())
        except OSError as e:
            raise StoreError(
                f"{self._path}: the process has no addresses left for the tables ({e.strerror}): "
                "raise its limit (ulimit -v)"
            ) from e

    # ------------------------------------------------------------ checkpoints

    def _checkpoint(self) -> None:
        """Bring the tables to disk, in the background; one at a time."""
        journal, tables = self._journal, self._tables
        if self._saving is not None or not journal.is_prepared:
            return
        try:
            tables.commit(journal.last, journal.next_salt)
        except lmdb.MapFullError:
            self._extend()
            self._begin_again()
            return  # the next commit tries again
        except (lmdb.Error, OSError) as e:
            error = self._room.explain(e)
            self._begin_again()
            if not isinstance(error, StoreFull):
                raise error from e
            self._crowded = error
            return
        self._crowded = None
        journal.switch()
        if tables.needs_addresses(self._file_bytes()):
            self._extend()
        tables.begin()
        self._grown = 0
        self._enough = self._draw_enough()
        self._saving = Tasks("checkpoint").begin(self._save(self._describe()))

    def _describe(self) -> Checkpoint:
        """The checkpoint of what was committed last."""
        size, pages = self._roots.read(self._tables.page_bytes)
        return Checkpoint(self._journal.last, *self._journal.place, size, pages)

    async def _save(self, checkpoint: Checkpoint) -> None:
        try:
            await self._saver.run(lambda: self._bring_to_disk(checkpoint))
            self._journal.release()
            await self._committer.run(self._prepare)
        except StoreError:
            pass  # told by the trust, and raised by the next commit
        finally:
            self._saving = None

    def _bring_to_disk(self, checkpoint: Checkpoint) -> None:
        """Make what is committed the checkpoint.  Waits for the disk."""
        with self._trust:
            self._tables.sync()
            self._roots.save(checkpoint)

    def _prepare(self) -> None:
        with self._trust:
            self._journal.prepare()

    def _checkpoint_now(self) -> None:
        """Make what the tables have the checkpoint, and wait for the disk.

        Raises:
            lmdb.Error, OSError
        """
        journal = self._journal
        salt = journal.next_salt if journal.is_prepared else journal.place[0]
        while True:
            try:
                self._tables.commit(journal.last, salt)
                break
            except lmdb.MapFullError:
                self._extend()
                self._begin_again()
        if journal.is_prepared:
            journal.switch()
        checkpoint = self._describe()
        self._tables.sync()
        self._roots.save(checkpoint)
        journal.release()
        self._tables.begin()

    def _draw_enough(self) -> int:
        """How much the journal grows: another size each time.

        Servers that write the same would otherwise all be busy with a checkpoint at once.
        """
        most = KNOBS.store_checkpoint_bytes
        return most - most * self._files.random(1)[0] // 512

    # ------------------------------------------------------------ room

    @classmethod
    def frees(cls, table: str, key: bytes, value: bytes) -> bool:
        """Whether a full store takes this row too, since nothing could be deleted without it."""
        return False

    def _check_room(self, changes: Changed, size: int) -> None:
        """Refuse changes that make a full store fuller.

        Raises:
            StoreFull: and the changes are dropped.
        """
        if self._crowded is not None:
            if self._room.is_there():
                self._checkpoint()
            if self._crowded is not None:
                raise StoreFull(str(self._crowded))
        if self._file_bytes() + 4 * (self._journal.size + size) < self._max_bytes:
            return
        if (
            self._used_bytes() + size > self._max_bytes
            and self._tables.growth(self.growing, changes) > 0
        ):
            raise StoreFull(
                f"{self._path}: the store has reached its limit of {self._max_bytes} bytes; raise "
                "it or trim segments"
            )

    def _file_bytes(self) -> int:
        return self._tables.committed_pages * self._tables.page_bytes

    def _used_bytes(self) -> int:
        return self._tables.pages() * self._tables.page_bytes

    # ------------------------------------------------------------ what is known of it

    def _scrub_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._scrubbing = loop.call_later(SCRUB_PAUSE_S, self._scrub_some)

    def _scrub_some(self) -> None:
        self._scrubbing = None
        with suppress(StoreError), self._trust:  # told by the trust, and raised by the next commit
            self._journal.mark()
        self.scrub()
        if not self._trust.failed:
            self._scrub_later()

    def scrub(self) -> None:
        """Verify some more rows; `health` and `metrics` tell what was found."""
        if self._trust.failed:
            return
        try:
            with self._trust:
                self._scrub.step()
        except StoreError as e:
            self._tables.refuse(self._trust.failed)  # "nothing is here" would be believed
            if not isinstance(e.__cause__, StoreDamaged):
                return
            self._roots.lost = self._trust.failed  # the next process must not believe them either
            if self._saving is None:
                self._roots.condemn()
            else:
                self._saving.add_done_callback(lambda _: self._roots.condemn())

    def health(self) -> str:
        if self._trust.failed:
            return self._trust.failed
        if self._scrub.damaged or self._tables.damaged:
            return (
                f"{self._path}: rows are damaged ({len(self._scrub.damaged)} found by the scrub, "
                f"{self._tables.damaged} reads refused); the log names them"
            )
        return str(self._crowded) if self._crowded is not None else ""

    def metrics(self) -> dict[str, int]:
        used = self._used_bytes()
        return {
            "store_bytes": max(used, self._file_bytes()),
            "store_used_bytes": used,
            "store_max_bytes": self._max_bytes,
            "store_commits": self._journal.last,
            "store_failed": int(bool(self._trust.failed)),
            "store_damaged_rows": len(self._scrub.damaged),
            "store_damaged_reads": self._tables.damaged,
            "store_scrub_rounds": self._scrub.rounds,
            "store_scrub_rows": self._scrub.rows,
            "store_slow_writes": self._pace.slow,
            "journal_bytes": self._journal.disk_bytes,
        }
