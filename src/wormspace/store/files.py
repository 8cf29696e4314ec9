"""Every call of the system that the store makes, in one place.

The store is given a `Files` and makes no call past it, so that something else can stand there: an
injector that lets any one call fail (`tests/store/injecting.py`), a recorder that knows what a
power cut would leave, a simulated disk.  `tests/store/test_census.py` fails when a module of the
store or the server makes a call of its own.

The methods are the system's calls: they may write or read less than they were told, and raise
`OSError` and nothing else.  A path is opened when the store is opened, never later; what runs then
works on descriptors that are there already.

**LMDB is C and makes its own calls**, all of them on `data.mdb`: it writes at a commit, waits for
the disk in `sync`, and reads through a map of the file.  Its environment comes from `open_tables`,
so whoever stands in for the system can wrap `begin`, `Transaction.commit`, `sync` and
`set_mapsize`, and let them fail as LMDB reports a failure.  What it writes is found in the file,
which therefore must be a real one, though it may be in memory (tmpfs): between two calls of `sync`
the file's blocks may be on disk in their old or new state, each for itself.  A stand-in that keeps
the other files in memory passes the calls for `data.mdb` on to the system.  The calls that LMDB
makes inside are made to fail from without, by strace (`tests/store/test_inject_calls.py`).
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeAlias

import lmdb

from wormspace.runtime.committer import Committer

Buffer: TypeAlias = bytes | memoryview

DIRECT: int = getattr(os, "O_DIRECT", 0)
"""Flag of `Files.open`: past the system's cache.  Zero where that cannot be had."""

DSYNC: int = getattr(os, "RWF_DSYNC", 0)
"""Flag of `Files.write`: on disk when the call returns.  Zero where that cannot be had."""


class Worker(Protocol):
    """What does one piece of work after the other beside the event loop: as a rule, a thread."""

    async def run(self, work: Callable[[], None]) -> None:
        """Run `work`; raises what it raises.  A caller that is cancelled does not stop it."""

    def stop(self) -> None:
        """End; waits for what is under way."""


class Files(Protocol):
    """The system, as the store sees it."""

    # ------------------------------------------------------------ names

    def make_directory(self, path: Path) -> None:
        """mkdir(2).  FileExistsError if the name is taken."""

    def size_at(self, path: Path) -> int | None:
        """stat(2): the bytes of the file; None if there is nothing of that name."""

    def open(self, path: Path, flags: int) -> int:
        """open(2), for this process alone (O_CLOEXEC)."""

    def rename(self, old: Path, new: Path) -> None:
        """rename(2): both in one directory; a file that has the new name already is replaced."""

    def free_bytes(self, path: Path) -> int:
        """statvfs(2): the room that is left on the disk for us."""

    def kind(self, path: Path) -> str:
        """The type of the file system, as mount(8) has it; empty if that is not known."""

    # ------------------------------------------------------------ descriptors

    def close(self, fd: int) -> None:
        """close(2).  Raises nothing: what was to be durable has been waited for."""

    def lock(self, fd: int) -> None:
        """flock(2), for this process alone.  BlockingIOError if another one has the lock."""

    def size(self, fd: int) -> int:
        """fstat(2): the file's bytes."""

    def read(self, fd: int, size: int, at: int) -> bytes:
        """pread(2)"""

    def write(self, fd: int, parts: Sequence[Buffer], at: int, flags: int = 0) -> int:
        """pwritev2(2): how many bytes were written."""

    def sync(self, fd: int) -> None:
        """fsync(2)"""

    def sync_data(self, fd: int) -> None:
        """fdatasync(2)"""

    def truncate(self, fd: int, size: int) -> None:
        """ftruncate(2)"""

    def reserve(self, fd: int, at: int, size: int) -> None:
        """fallocate(2): have the room for these bytes."""

    # ------------------------------------------------------------ memory, LMDB, the rest

    def buffer(self, size: int) -> mmap.mmap:
        """mmap(2): memory that begins at a page, as O_DIRECT wants it."""

    def check_addresses(self, size: int) -> None:
        """mmap(2): whether the process has so many addresses left.  OSError if not."""

    def open_tables(self, path: Path, map_bytes: int, most: int) -> lmdb.Environment:
        """LMDB's environment for `path`/data.mdb, with up to `most` tables; also lmdb.Error."""

    def random(self, size: int) -> bytes:
        """getrandom(2)"""

    def now(self) -> float:
        """clock_gettime(2): seconds that only grow."""

    def worker(self, name: str) -> Worker:
        """clone(2): begin a thread."""


_locks: set[int] = set()
"""The descriptors that hold locks, as the process that took them has them."""


def _let_go_in_child() -> None:
    """A fork's copy of a lock's descriptor would hold the lock after its parent has ended."""
    while _locks:
        os.close(_locks.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


class SystemFiles:
    """The real one."""

    def make_directory(self, path: Path) -> None:
        path.mkdir()

    def size_at(self, path: Path) -> int | None:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return None

    def open(self, path: Path, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, 0o644)

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def free_bytes(self, path: Path) -> int:
        disk = os.statvfs(path)
        return disk.f_bavail * disk.f_frsize

    def kind(self, path: Path) -> str:
        try:
            lines = Path("/proc/self/mounts").read_text().splitlines()
        except OSError:
            return ""
        mounts = [line.split()[1:3] for line in lines]
        full = path.resolve()
        found = [(len(where), kind) for where, kind in mounts if full.is_relative_to(where)]
        return max(found, default=(0, ""))[1]

    def close(self, fd: int) -> None:
        _locks.discard(fd)
        with suppress(OSError):
            os.close(fd)

    def lock(self, fd: int) -> None:
        import fcntl  # only here: clients import this module on systems that do not have it

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _locks.add(fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def read(self, fd: int, size: int, at: int) -> bytes:
        return os.pread(fd, size, at)

    def write(self, fd: int, parts: Sequence[Buffer], at: int, flags: int = 0) -> int:
        return os.pwritev(fd, parts, at, flags)

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def sync_data(self, fd: int) -> None:
        getattr(os, "fdatasync", os.fsync)(fd)  # not every system tells data from metadata

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def reserve(self, fd: int, at: int, size: int) -> None:
        os.posix_fallocate(fd, at, size)

    def buffer(self, size: int) -> mmap.mmap:
        return mmap.mmap(-1, size)

    def check_addresses(self, size: int) -> None:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0).close()

    def open_tables(self, path: Path, map_bytes: int, most: int) -> lmdb.Environment:
        return lmdb.open(
            str(path),
            map_size=map_bytes,
            max_dbs=most,
            create=False,
            sync=False,
            lock=False,
            readahead=False,
        )

    def random(self, size: int) -> bytes:
        return os.urandom(size)

    def now(self) -> float:
        return time.monotonic()

    def worker(self, name: str) -> Worker:
        return Committer(name)


SYSTEM: Files = SystemFiles()
