"""The system as the real store sees it, simulated: files, what of them is on disk, and what fails.

Everything but LMDB's file is in memory.  A file is a row of sectors; one that was written and not
synced has what was there before beside it, and a power cut leaves the one or the other, each sector
for itself.  LMDB is C: its file is a real one in a directory of its own (in memory, where the
machine has that), which is read when LMDB waits for the disk, so that the same can be done to it.

A process may die between any two calls of the system (`die_after`), also while the store is opened.
Any call may fail with EIO (`fail_after`), and what it was to do may have been done all the same.

What was synced may rot (`rot.py`), except where nobody could tell: docs/safety.md has that limit.
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol

import lmdb

from wormspace.runtime.disk import DSYNC, Buffer
from wormspace.sim.rot import SECTOR, JournalReader, rotten
from wormspace.store.files import SYSTEM
from wormspace.store.journal import NAMES

TABLES = "data.mdb"
MEMORY = Path("/dev/shm")
HISTORY = 64
"""Overwritten sectors that are remembered: a lost write brings one back."""


class Hardware(Protocol):
    """The disk that files are on: its faults, and how long it takes."""

    full: bool
    failing: bool

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    async def wait(self) -> None: ...
    def draw_commit_delay(self) -> float: ...


class Died(BaseException):
    """The process was killed within a call of the system; none of its code handles this."""


class _File:
    """One file: what the system shows, and beside it what the disk has where that differs."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.old: dict[int, bytes] = {}
        self.old_size = 0
        self.history: list[tuple[int, bytes]] = []

    def write(self, data: bytes, at: int, *, durably: bool) -> None:
        """Write; `durably`: as by a write that waits for the disk."""
        stop = at + len(data)
        if stop > len(self.content):
            self.content.extend(bytes(stop - len(self.content)))
        sectors = range(at // SECTOR, -(-stop // SECTOR))
        for n in sectors:
            held = bytes(self.content[n * SECTOR : (n + 1) * SECTOR])
            self.old.setdefault(n, held)
            self.history.append((n, held))
        del self.history[:-HISTORY]
        self.content[at:stop] = data
        if durably:
            for n in sectors:
                del self.old[n]
            self.old_size = max(self.old_size, stop)

    def sync(self) -> None:
        """All of it is on disk."""
        self.old.clear()
        self.old_size = len(self.content)

    def cut(self, random: Random) -> None:
        """The power fails: what was not synced is there or not, sector by sector."""
        likely = random.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for n, held in self.old.items():
            if random.random() >= likely:
                at = n * SECTOR
                part = self.content[at : at + SECTOR]
                self.content[at : at + len(part)] = held.ljust(len(part), b"\0")
        if random.random() < 0.5:
            del self.content[max(self.old_size, 0) :]
        self.sync()

    def certain(self) -> bytes:
        """What the disk has however a power cut would end; zeros where that is not known."""
        content = bytearray(self.content)
        for n, held in self.old.items():
            at = n * SECTOR
            now = self.content[at : at + SECTOR]
            then = held.ljust(len(now), b"\0")
            content[at : at + SECTOR] = bytes(x * (x == y) for x, y in zip(now, then, strict=False))
        return bytes(content)

    def rot(self, random: Random) -> tuple[int, bytes] | None:
        """Draw damage to a sector that was synced: where, and what is there then."""
        sectors = range(len(self.content) // SECTOR)
        written = [n for n in sectors if n not in self.old and any(self.sector(n))]
        if not written:
            return None
        n = random.choice(written)
        older = [held for m, held in self.history if m == n]
        return n * SECTOR, rotten(random, bytes(self.content), n, written, older)

    def sector(self, n: int) -> bytearray:
        """What the system shows of a sector."""
        return self.content[n * SECTOR : (n + 1) * SECTOR]


class _TablesFile:
    """LMDB's file, and what of it is on disk for certain."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.durable = b""

    def sync(self) -> None:
        """It is on disk as it is now."""
        self.durable = self.path.read_bytes()

    def cut(self, random: Random) -> None:
        """The power fails."""
        if not self.path.exists():
            return
        new, old = self.path.read_bytes(), self.durable
        size = random.choice((len(old), len(new))) if len(new) >= len(old) else len(new)
        likely = random.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        content = bytearray()
        for at in range(0, size, SECTOR):
            takes = new if random.random() < likely else old
            content += takes[at : at + SECTOR].ljust(min(SECTOR, size - at), b"\0")
        self.path.write_bytes(content)
        self.durable = bytes(content)


class _Environment:
    """LMDB's environment; whoever waits for the disk is seen to."""

    def __init__(self, environment: lmdb.Environment, files: SimFiles) -> None:
        self._environment = environment
        self._files = files

    def sync(self, force: bool = False) -> None:
        """fdatasync(2) of its file."""
        self._files.call()
        self._environment.sync(force)
        self._files.tables.sync()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)


class _Worker:
    """A thread, in virtual time: each piece of work takes as long as the disk does."""

    def __init__(self, files: SimFiles) -> None:
        self._files = files

    async def run(self, work: Callable[[], None]) -> None:
        """Run `work` when the disk comes to it."""
        files = self._files
        files.pending.append(work)
        try:
            await files.disk.wait()
            work()
        finally:
            if work in files.pending:
                files.pending.remove(work)

    def stop(self) -> None:
        """Nothing is under way."""


class SimFiles:
    """A `store.files.Files` for one disk of a simulated world.

    Attributes:
        die_after: calls of the system until the process dies in one; None: it does not.
        fail_after: calls of the system until one fails; None: none does.
        failed: whether one has, since this was last set to false.
        pending: work that waits for the disk.
    """

    def __init__(self, disk: Hardware, random: Random) -> None:
        self.disk = disk
        self.random_of = random
        self.die_after: int | None = None
        self.fail_after: int | None = None
        self.failed = False
        self.pending: list[Callable[[], None]] = []
        place = MEMORY if MEMORY.is_dir() else None
        self._root = Path(tempfile.mkdtemp(prefix="wormspace-sim-", dir=place))
        self.path = self._root / "store"
        self.tables = _TablesFile(self.path / TABLES)
        self._files: dict[Path, _File] = {}
        self._names: dict[Path, _File] = {}  # as the disk has them
        self._open: dict[int, Path] = {}
        self._locked: dict[Path, int] = {}
        self._environments: list[lmdb.Environment] = []
        self._journal = JournalReader()
        self._next = 1000
        self._spent_s = 0.0  # in calls that took no virtual time

    # ------------------------------------------------------------ the world's side

    def kill(self) -> None:
        """The process dies: what it had open is closed, what it wrote is with the system."""
        self.die_after = None
        self.pending.clear()
        for environment in self._environments:
            environment.close()
        self._environments.clear()
        for fd in list(self._open):
            self._close(fd)
        self._locked.clear()

    def die_within(self, work: Callable[[], None], calls: int) -> None:
        """Begin a piece of work, and die after so many calls of the system (or at its end)."""
        self.die_after = calls
        try:
            work()
        except (Died, OSError, lmdb.Error):
            pass
        except Exception:  # noqa: BLE001 - a dead process handles nothing
            pass
        self.die_after = None

    def cut(self) -> None:
        """The power fails; nobody has anything open any more."""
        if self.random_of.random() < 0.5:  # a directory's names reach the disk in their order
            self._files = dict(self._names)
        self._names = dict(self._files)
        for file in self._files.values():
            file.cut(self.random_of)
        self.tables.cut(self.random_of)

    def rot(self) -> str:
        """Damage something that was synced; returns what, in words; empty if there is nothing."""
        names = sorted(path for path, file in self._files.items() if file.content)
        path = self.random_of.choice(names) if names else None
        drawn = self._files[path].rot(self.random_of) if path is not None else None
        if path is None or drawn is None or self._passes_for_an_end(path, *drawn):
            return ""
        at, new = drawn
        self._files[path].content[at : at + len(new)] = new
        return f"{len(new)} bytes at {at} of {path.name}"

    def _passes_for_an_end(self, path: Path, at: int, new: bytes) -> bool:
        """Whether damage is the one that nobody can tell: of the last records of a journal."""
        names = [self.path / name for name in NAMES]
        before = [file.certain() if (file := self._files.get(name)) else b"" for name in names]
        after = [
            was[:at] + new + was[at + len(new) :] if name == path else was
            for name, was in zip(names, before, strict=True)
        ]
        for n in (0, 1):
            end = self._journal.end(before[n], before[1 - n])
            now = self._journal.end(after[n], after[1 - n])
            if now is not None and now != end:
                return True
        return False

    def remove(self) -> None:
        """The world ends."""
        self.kill()
        shutil.rmtree(self._root, ignore_errors=True)

    def call(self) -> None:
        """One call of the system begins.

        Raises:
            Died: and the process dies in it.
            OSError: the disk fails.
        """
        if self.die_after is not None:
            self.die_after -= 1
            if self.die_after < 0:
                self.die_after = None
                raise Died
        if self.disk.failing:
            raise OSError(errno.EIO, "the simulated disk fails")
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                self.fail_after = None
                self.failed = True
                raise OSError(errno.EIO, "an error of the simulated disk")

    # ------------------------------------------------------------ names

    def make_directory(self, path: Path) -> None:
        self.call()
        path.mkdir()

    def size_at(self, path: Path) -> int | None:
        if path.name == TABLES or path.is_dir():
            return SYSTEM.size_at(path)
        file = self._files.get(path)
        return None if file is None else len(file.content)

    def open(self, path: Path, flags: int) -> int:
        self.call()
        if path.name == TABLES:
            fd = SYSTEM.open(path, flags & ~getattr(os, "O_DIRECT", 0))
        else:
            self._next += 1
            fd = -self._next
            if not path.is_dir() and path not in self._files:
                if not flags & os.O_CREAT:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
                self._files[path] = _File()
        self._open[fd] = path
        return fd

    def rename(self, old: Path, new: Path) -> None:
        self.call()
        self._files[new] = self._files.pop(old)
        self._open.update({fd: new for fd, path in self._open.items() if path == old})

    def free_bytes(self, path: Path) -> int:
        return 0 if self.disk.full else 1 << 40

    def kind(self, path: Path) -> str:
        return "simulated"

    # ------------------------------------------------------------ descriptors

    def close(self, fd: int) -> None:
        self._close(fd)

    def _close(self, fd: int) -> None:
        path = self._open.pop(fd)
        if self._locked.get(path) == fd:
            del self._locked[path]
        if fd > 0:
            os.close(fd)

    def lock(self, fd: int) -> None:
        path = self._open[fd]
        if path in self._locked:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked")
        self._locked[path] = fd

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size if fd > 0 else len(self._files[self._open[fd]].content)

    def read(self, fd: int, size: int, at: int) -> bytes:
        self.call()
        if fd > 0:
            return SYSTEM.read(fd, size, at)
        return bytes(self._files[self._open[fd]].content[at : at + size])

    def write(self, fd: int, parts: Sequence[Buffer], at: int, flags: int = 0) -> int:
        try:
            self.call()
        except (Died, OSError):
            if fd < 0 and self.random_of.random() < 0.7:
                # The system has it, and the disk not yet.
                self._files[self._open[fd]].write(b"".join(parts), at, durably=False)
            raise
        self._spent_s += self.disk.draw_commit_delay()
        if fd > 0:
            done = SYSTEM.write(fd, parts, at)
            if flags & DSYNC:
                self.tables.sync()
            return done
        data = b"".join(parts)
        file = self._files[self._open[fd]]
        if self.disk.full and at + len(data) > len(file.content):
            raise OSError(errno.ENOSPC, "no room on the simulated disk")
        if len(data) > 1 and self.random_of.random() < 0.02:
            data = data[: self.random_of.randrange(1, len(data))]  # as the system may
        file.write(data, at, durably=bool(flags & DSYNC))
        return len(data)

    def sync(self, fd: int) -> None:
        self.call()
        if fd > 0:
            self.tables.sync()
        elif (file := self._files.get(self._open[fd])) is not None:
            file.sync()
        else:  # the directory
            self._names = dict(self._files)

    def sync_data(self, fd: int) -> None:
        self.sync(fd)

    def truncate(self, fd: int, size: int) -> None:
        self.call()
        if fd > 0:
            SYSTEM.truncate(fd, size)
            return
        content = self._files[self._open[fd]].content
        del content[size:]
        content.extend(bytes(size - len(content)))

    def reserve(self, fd: int, at: int, size: int) -> None:
        self.call()
        if self.disk.full:
            raise OSError(errno.ENOSPC, "no room on the simulated disk")
        if fd > 0:
            SYSTEM.reserve(fd, at, size)
            return
        content = self._files[self._open[fd]].content
        content.extend(bytes(max(0, at + size - len(content))))

    # ------------------------------------------------------------ memory, LMDB, the rest

    def buffer(self, size: int) -> mmap.mmap:
        return SYSTEM.buffer(size)

    def check_addresses(self, size: int) -> None:
        SYSTEM.check_addresses(size)

    def open_tables(self, path: Path, map_bytes: int, most: int) -> lmdb.Environment:
        self.call()
        environment = SYSTEM.open_tables(path, map_bytes, most)
        self._environments.append(environment)
        wrapped: Any = _Environment(environment, self)
        return wrapped  # type: ignore[no-any-return]

    def random(self, size: int) -> bytes:
        return self.random_of.randbytes(size)

    def now(self) -> float:
        return self.disk.loop.time() + self._spent_s

    def worker(self, name: str) -> _Worker:
        return _Worker(self)
