"""What it takes for bytes to be on disk, and for a file to be one process's alone.

The functions are given the system's calls, so that something else can stand there: an injector that
lets any one call fail, a recorder, a simulated disk.  The calls may write or read less than they
were told, and raise `OSError` and nothing else.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeAlias

Buffer: TypeAlias = bytes | memoryview

DSYNC: int = getattr(os, "RWF_DSYNC", 0)
"""Flag of `Disk.write`: on disk when the call returns.  Zero where that cannot be had."""

DIRECTORY: int | None = getattr(os, "O_DIRECTORY", None)
"""Flag of `Disk.open`: a directory.  None where directories cannot be opened, which is on Windows:
its file systems keep a journal of the names, and nobody can wait for it."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when there is no room."""


class Disk(Protocol):
    """The system's calls that a file takes which is to be durable."""

    def make_directory(self, path: Path) -> None:
        """mkdir(2).  FileExistsError if the name is taken."""

    def size_at(self, path: Path) -> int | None:
        """stat(2): the bytes of the file; None if there is nothing of that name."""

    def open(self, path: Path, flags: int) -> int:
        """open(2), for this process alone (O_CLOEXEC)."""

    def rename(self, old: Path, new: Path) -> None:
        """rename(2): both in one directory; a file that has the new name already is replaced."""

    def close(self, fd: int) -> None:
        """close(2).  Raises nothing: what was to be durable has been waited for."""

    def lock(self, fd: int) -> None:
        """flock(2), for this process alone.  BlockingIOError if another one has the lock."""

    def read(self, fd: int, size: int, at: int) -> bytes:
        """pread(2)"""

    def write(self, fd: int, parts: Sequence[Buffer], at: int, flags: int = 0) -> int:
        """pwritev2(2): how many bytes were written."""

    def sync(self, fd: int) -> None:
        """fsync(2)"""

    def sync_data(self, fd: int) -> None:
        """fdatasync(2)"""


_locks: set[int] = set()
"""The descriptors that hold locks, as the process that took them has them."""


def _let_go_in_child() -> None:
    """A fork's copy of a lock's descriptor would hold the lock after its parent has ended."""
    while _locks:
        os.close(_locks.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


class SystemDisk:
    """The real one."""

    def make_directory(self, path: Path) -> None:
        path.mkdir()

    def size_at(self, path: Path) -> int | None:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return None

    def open(self, path: Path, flags: int) -> int:
        return os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o644)

    def rename(self, old: Path, new: Path) -> None:
        old.replace(new)

    def close(self, fd: int) -> None:
        _locks.discard(fd)
        with suppress(OSError):
            os.close(fd)

    def lock(self, fd: int, *, wait: bool = False) -> None:
        if sys.platform == "win32":
            import msvcrt

            try:
                msvcrt.locking(fd, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except PermissionError as e:
                raise BlockingIOError from e
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        _locks.add(fd)

    def read(self, fd: int, size: int, at: int) -> bytes:
        return os.pread(fd, size, at)

    def write(self, fd: int, parts: Sequence[Buffer], at: int, flags: int = 0) -> int:
        return os.pwritev(fd, parts, at, flags)

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def sync_data(self, fd: int) -> None:
        getattr(os, "fdatasync", os.fsync)(fd)  # not every system tells data from metadata


DISK = SystemDisk()


def make_directories(disk: Disk, path: Path) -> None:
    """Make a directory, and those above it; the name of each new one is on disk.

    Raises:
        OSError: it cannot be made; those above it may be there.
    """
    if disk.size_at(path) is not None:
        return
    make_directories(disk, path.parent)
    try:
        disk.make_directory(path)
    except FileExistsError:
        return
    sync_directory(disk, path.parent)


def sync_directory(disk: Disk, path: Path) -> None:
    """Wait until the names of a directory are on disk, where one can wait for that."""
    if DIRECTORY is None:
        return
    fd = disk.open(path, os.O_RDONLY | DIRECTORY)
    try:
        disk.sync(fd)
    finally:
        disk.close(fd)


def read_all(disk: Disk, fd: int, size: int, at: int) -> bytes:
    """Read `size` bytes, or what the file has of them."""
    content = disk.read(fd, size, at)
    while len(content) < size:
        more = disk.read(fd, size - len(content), at + len(content))
        if not more:
            break
        content += more
    return content


def write_all(disk: Disk, fd: int, parts: Sequence[bytes], at: int, flags: int = 0) -> None:
    """Write the parts one after the other.

    Raises:
        OSError: not all of it could be written.
    """
    total = sum(map(len, parts))
    done = disk.write(fd, parts, at, flags)
    while done < total:
        more = disk.write(fd, [b"".join(parts)[done:]], at + done, flags)
        if not more:
            raise OSError(errno.EIO, "the system writes nothing")
        done += more


def write_durably(disk: Disk, fd: int, parts: Sequence[bytes], at: int) -> None:
    """Write the parts, and wait until they are on disk.

    In one call of the system, where it has that: between two, a thread waits for the interpreter.

    Raises:
        OSError: what is on disk is not certain.
    """
    if DSYNC:
        write_all(disk, fd, parts, at, DSYNC)
    else:
        write_all(disk, fd, parts, at)
        disk.sync_data(fd)
