"""What it takes for bytes to be on disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from wormspace.store.files import DSYNC, Files

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when there is no room."""


def make_directories(files: Files, path: Path) -> None:
    """Make a directory, and those above it; the name of each new one is on disk.

    Raises:
        OSError: it cannot be made; those above it may be there.
    """
    if files.size_at(path) is not None:
        return
    make_directories(files, path.parent)
    try:
        files.make_directory(path)
    except FileExistsError:
        return
    sync_directory(files, path.parent)


def sync_directory(files: Files, path: Path) -> None:
    """Wait until the names of a directory are on disk."""
    fd = files.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        files.sync(fd)
    finally:
        files.close(fd)


def read_all(files: Files, fd: int, size: int, at: int) -> bytes:
    """Read `size` bytes, or what the file has of them."""
    content = files.read(fd, size, at)
    while len(content) < size:
        more = files.read(fd, size - len(content), at + len(content))
        if not more:
            break
        content += more
    return content


def write_all(files: Files, fd: int, parts: Sequence[bytes], at: int, flags: int = 0) -> None:
    """Write the parts one after the other.

    Raises:
        OSError: not all of it could be written.
    """
    total = sum(map(len, parts))
    done = files.write(fd, parts, at, flags)
    while done < total:
        more = files.write(fd, [b"".join(parts)[done:]], at + done, flags)
        if not more:
            raise OSError(errno.EIO, "the system writes nothing")
        done += more


def write_durably(files: Files, fd: int, parts: Sequence[bytes], at: int) -> None:
    """Write the parts, and wait until they are on disk.

    In one call of the system, where it has that: between two, a thread waits for the interpreter.

    Raises:
        OSError: what is on disk is not certain.
    """
    if DSYNC:
        write_all(files, fd, parts, at, DSYNC)
    else:
        write_all(files, fd, parts, at)
        files.sync_data(fd)
