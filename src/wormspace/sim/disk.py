"""The simulated disk: an ordered key-value store that outlives the process using it.

It honours the store's contract: a commit is all or nothing and takes time, and readers see the last
one that is done. A process that dies during a commit leaves all of it or nothing, by seed. Opened
with durability `sync`, what is committed stays; with `os`, a crash of the *host* may undo the last
commits (a suffix: the file system keeps their order); with `memory`, nothing outlives the process.

The disk belongs to a host and has its own faults: full, failing, slow, stalled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from sortedcontainers import SortedDict

from wormspace.errors import StoreError, StoreFull, StoreLocked
from wormspace.server.storage import AcceptorStore
from wormspace.sim._handles import OWNER, Owner
from wormspace.sim._loop import SimLoop
from wormspace.sim.files import Died, SimFiles
from wormspace.sim.latency import Latency, constant, skewed
from wormspace.store.changes import Changes
from wormspace.store.engine import Batch, Item, View
from wormspace.store.memory_engine import MemoryView

Tables = dict[str, "SortedDict[bytes, bytes]"]
Change = tuple[str, bytes, bytes | None]  # table, key, new value (None: deleted)

DURABILITIES = ("sync", "os", "memory")


@dataclass(frozen=True)
class DiskOptions:
    """commit_s: how long a commit takes; write_back_s: how long the OS may keep it in memory."""

    commit_s: Latency = field(default=skewed(0.0003, 0.0003))
    write_back_s: float = 5.0

    @classmethod
    def instant(cls) -> DiskOptions:
        """Commits take no time."""
        return cls(commit_s=constant(0.0))


class Disk:
    """One store of one host. `full`, `failing`, `slowness` and `stalled` are its faults.

    files: what the real store has on it, once that was opened; deaths: of processes that opened it;
    rotten: whether something on it was damaged.
    at_work: called once, when the next commit begins, for faults that strike just then.
    on_commit: for checkers: told the changes of each commit, just before they are applied.
    """

    def __init__(
        self, loop: SimLoop, random: Random, options: DiskOptions, note: Callable[[str], None]
    ) -> None:
        self.full = False
        self.failing = False
        self.slowness = 1.0
        self.commits = 0
        self.on_commit: Callable[[list[Change]], None] | None = None
        self.loop = loop
        self.random = random
        self._options = options
        self._note = note
        self._tables: Tables = {}
        self.files: SimFiles | None = None
        self.deaths = 0
        self.rotten = False
        self.at_work: Callable[[], None] | None = None
        self.stalled = False
        self._waiting: list[SimEngine] = []
        self._user: SimEngine | _Store | None = None
        # What the operating system still holds: when it was committed, and how to undo it.
        self._unsynced: deque[tuple[float, list[Change]]] = deque()

    def open(self, durability: str = "sync") -> SimEngine:
        """Open the store for the current process.

        Raises:
            StoreLocked: a process that still lives has it open.
            ValueError: no such durability.
        """
        if durability not in DURABILITIES:
            raise ValueError(f"durability is one of {', '.join(DURABILITIES)}, not {durability!r}")
        if self._user is not None:
            raise StoreLocked("the simulated disk is open in another process")
        tables = {} if durability == "memory" else self._tables
        self._user = SimEngine(self, tables, durability, OWNER.get())
        return self._user

    def open_store(self) -> AcceptorStore:
        """Open the real store for the current process, on simulated files.

        The process may be killed while it recovers, and the power fail, again and again; what this
        returns has lived through that.

        Raises:
            StoreError: see `AcceptorStore`.
        """
        if self._user is not None:
            raise StoreLocked("the simulated disk is open in another process")
        if self.files is None:
            self.files = SimFiles(self, self.random)
        files = self.files
        while True:
            files.die_after = self.random.randrange(120) if self.random.random() < 0.3 else None
            try:
                store = AcceptorStore(files.path, files=files)
            except Died:
                self.deaths += 1
                files.kill()
                if self.random.random() < 0.5:
                    files.cut()
                continue
            files.die_after = None
            break
        owner = OWNER.get()
        self._user = user = _Store(self, files, owner)
        if owner is not None:
            owner.resources[user] = None
        return store

    def words(self, error: StoreError) -> str:
        """An error of the store in words that are the same in every run."""
        return str(error) if self.files is None else str(error).replace(str(self.files.path), "")

    def begins(self) -> None:
        """Some work for the disk begins."""
        at_work, self.at_work = self.at_work, None
        if at_work is not None:
            at_work()

    def release(self) -> None:
        """The real store was closed in peace."""
        if isinstance(self._user, _Store):
            self._user.close()

    async def wait(self) -> None:
        """Wait as long as a commit takes."""
        self.begins()
        await asyncio.sleep(self.draw_commit_delay())
        while self.stalled:  # noqa: ASYNC110 - a stall ends at any time
            await asyncio.sleep(0.01)

    def err(self, calls: int | None) -> None:
        """Let one call of the system fail after so many; None: let none fail any more."""
        if self.files is not None:
            self.files.fail_after = calls

    def has_erred(self) -> bool:
        """Whether a call of the system has failed since this was asked last."""
        if self.files is None:
            return False
        failed, self.files.failed = self.files.failed, False
        return failed

    def rot(self) -> None:
        """Let something rot that was synced; the world must not expect this server to be right."""
        what = self.files.rot() if self.files is not None else ""
        if what:
            self.rotten = True
            self._note(f"disk rots: {what}")

    def stall(self, on: bool) -> None:
        """Let commits hang, or go on."""
        self.stalled = on
        self._note("disk stalls" if on else "disk goes on")
        if not on:
            waiting, self._waiting = self._waiting, []
            for engine in waiting:
                engine.go_on()

    def crash(self) -> None:
        """The host went down, after its processes: by seed, lose a suffix of unsynced commits."""
        if self.files is not None:
            self.files.cut()
        self._expire()
        lost = self.random.randint(0, len(self._unsynced))
        for _ in range(lost):
            _apply(self._tables, self._unsynced.pop()[1])
        self._unsynced.clear()
        self._waiting.clear()
        if lost:
            self._note(f"disk lost the last {lost} commits")

    def items(self, table: str, prefix: bytes = b"") -> list[Item]:
        """What a table holds under keys that begin so, for checkers."""
        rows = self._tables.get(table)
        if rows is None:
            return []
        return [(key, rows[key]) for key in rows.irange(prefix, prefix + b"\xff" * 16)]

    def _expire(self) -> None:
        horizon = self.loop.now - self._options.write_back_s
        while self._unsynced and self._unsynced[0][0] <= horizon:
            self._unsynced.popleft()

    # -- for the engine ----------------------------------------------------------------------------

    def draw_commit_delay(self) -> float:
        """How long the next commit takes, in seconds."""
        return self._options.commit_s(self.random) * self.slowness

    def wait_for_stall(self, engine: SimEngine) -> None:
        """Call `engine.go_on` when the stall is over."""
        self._waiting.append(engine)

    def error(self) -> StoreError | None:
        """Why a commit fails now, if it does."""
        if self.full:
            return StoreFull("no room on the simulated disk; nothing was changed")
        return StoreError("the simulated disk fails") if self.failing else None

    def store(self, tables: Tables, changes: list[Change], durability: str) -> None:
        """Apply a commit."""
        self.commits += 1
        if self.on_commit is not None:
            self.on_commit(changes)
        if durability == "sync":
            self._unsynced.clear()  # a sync takes everything before it along
            _apply(tables, changes)
        elif durability == "os":
            self._expire()
            undo = [(table, key, _get(tables, table, key)) for table, key, _ in changes]
            self._unsynced.append((self.loop.now, undo))
            _apply(tables, changes)
        else:
            _apply(tables, changes)

    def close(self, engine: SimEngine | _Store) -> None:
        """The engine lets go of the store."""
        if self._user is engine:
            self._user = None


class _Store:
    """That a process has the real store open."""

    def __init__(self, disk: Disk, files: SimFiles, owner: Owner | None) -> None:
        self._disk = disk
        self._files = files
        self._owner = owner

    def vanish(self, *, silence_s: float, clean: bool) -> None:
        """The process died: of the work under way, some calls of the system may be done."""
        random = self._disk.random
        for work in list(self._files.pending):
            if random.random() < 0.6:
                self._files.die_within(work, random.choice((0, 0, 1, 1, 2, 3, 1000)))
        self._files.kill()
        self._disk.close(self)

    def close(self) -> None:
        """The store was closed in peace."""
        if self._owner is not None:
            self._owner.resources.pop(self, None)
        self._files.kill()
        self._disk.close(self)


class SimEngine:
    """An open store, as the server sees it (`wormspace.store.engine.Engine`)."""

    def __init__(self, disk: Disk, tables: Tables, durability: str, owner: Owner | None) -> None:
        self._disk = disk
        self._tables = tables
        self._durability = durability
        self._owner = owner
        self._view = MemoryView(tables)
        self._batch: _Batch | None = None
        self._under_way: asyncio.Future[None] | None = None
        if owner is not None:
            owner.resources[self] = None

    @property
    def view(self) -> View:
        """The state as of the last commit that is done."""
        return self._view

    def begin(self) -> Batch:
        """Begin a batch. RuntimeError while another is open or being committed."""
        if self._batch is not None:
            raise RuntimeError("one batch at a time: commit or abort the other first")
        self._batch = _Batch(self._view, self._forget)
        return self._batch

    def _forget(self) -> None:
        self._batch = None

    async def commit(self, batch: Batch) -> None:
        """Make the batch durable.

        Raises:
            StoreFull: no room; nothing was changed.
            StoreError: the disk failed; nothing was changed.
        """
        if batch is not self._batch or self._under_way is not None:
            raise RuntimeError("this batch is not the one that was begun last")
        disk = self._disk
        disk.begins()
        self._under_way = disk.loop.create_future()
        disk.loop.call_later(disk.draw_commit_delay(), self.go_on)
        await self._under_way

    def go_on(self) -> None:
        """The time of the commit has passed, or the stall that held it is over."""
        disk, batch, done = self._disk, self._batch, self._under_way
        if batch is None or done is None:
            return
        if disk.stalled:
            disk.wait_for_stall(self)
            return
        self._batch = self._under_way = None
        error = disk.error()
        if error is None:
            disk.store(self._tables, batch.changes(), self._durability)
        if done.done():  # whoever waited was cancelled; the commit was in the disk's hands
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def vanish(self, *, silence_s: float, clean: bool) -> None:
        """The process died: a commit under way is done wholly or not at all."""
        batch, disk = self._batch, self._disk
        committing = batch is not None and self._under_way is not None and disk.error() is None
        if batch is not None and committing and disk.random.random() < 0.5:
            disk.store(self._tables, batch.changes(), self._durability)
        self._batch = self._under_way = None
        disk.close(self)

    def health(self) -> str:
        """What is wrong with the disk, if something is."""
        error = self._disk.error()
        return "" if error is None else str(error)

    def metrics(self) -> dict[str, int]:
        """Sizes and counts for the status message."""
        size = sum(len(k) + len(v) for table in self._tables.values() for k, v in table.items())
        return {"store_bytes": size, "store_commits": self._disk.commits}

    def close(self) -> None:
        """Close the store; nothing may be under way."""
        if self._owner is not None:
            self._owner.resources.pop(self, None)
        self._disk.close(self)


class _Batch(Changes):
    """Tells when it is dropped, and what it changes."""

    def __init__(self, below: MemoryView, on_abort: Callable[[], None]) -> None:
        super().__init__(below)
        self._on_abort = on_abort

    def abort(self) -> None:
        super().abort()
        self._on_abort()

    def changes(self) -> list[Change]:
        """What this batch changes."""
        return [
            (table, key, value)
            for table, rows in self.tables.items()
            for key, value in sorted(rows.items())
        ]


def _get(tables: Tables, table: str, key: bytes) -> bytes | None:
    found = tables.get(table)
    return None if found is None else found.get(key)


def _apply(tables: Tables, changes: list[Change]) -> None:
    for table, key, value in changes:
        rows = tables.get(table)
        if rows is None:
            rows = tables[table] = SortedDict()
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value
