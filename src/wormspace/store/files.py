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
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import lmdb

from wormspace.runtime.committer import Committer
from wormspace.runtime.disk import Disk, SystemDisk

DIRECT: int = getattr(os, "O_DIRECT", 0)
"""Flag of `Files.open`: past the system's cache.  Zero where that cannot be had."""


class Worker(Protocol):
    """What does one piece of work after the other beside the event loop: as a rule, a thread."""

    async def run(self, work: Callable[[], None]) -> None:
        """Run `work`; raises what it raises.  A caller that is cancelled does not stop it."""

    def stop(self) -> None:
        """End; waits for what is under way."""


class Files(Disk, Protocol):
    """The system, as the store sees it."""

    # ------------------------------------------------------------ names

    def free_bytes(self, path: Path) -> int:
        """statvfs(2): the room that is left on the disk for us."""

    def kind(self, path: Path) -> str:
        """The type of the file system, as mount(8) has it; empty if that is not known."""

    # ------------------------------------------------------------ descriptors

    def size(self, fd: int) -> int:
        """fstat(2): the file's bytes."""

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


class SystemFiles(SystemDisk):
    """The real one."""

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

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

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
