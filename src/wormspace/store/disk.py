"""What it takes for bytes to be on disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

sync_data = getattr(os, "fdatasync", os.fsync)
"""Wait until a file's content is on disk.  Not every system tells data from metadata."""

DSYNC: int = getattr(os, "RWF_DSYNC", 0)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when there is no room."""


def sync_directory(path: Path) -> None:
    """Wait until the names of a directory are on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, parts: list[bytes], at: int, flags: int = 0) -> None:
    """Write the parts one after the other.

    Raises:
        OSError: not all of it could be written.
    """
    total = sum(map(len, parts))
    done = os.pwritev(fd, parts, at, flags)
    while done < total:
        done += os.pwritev(fd, [b"".join(parts)[done:]], at + done, flags)


def write_durably(fd: int, parts: list[bytes], at: int) -> None:
    """Write the parts, and wait until they are on disk.

    In one call of the system, where it has that: between two, a thread waits for the interpreter.

    Raises:
        OSError: what is on disk is not certain.
    """
    if DSYNC:
        write_all(fd, parts, at, DSYNC)
    else:
        write_all(fd, parts, at)
        sync_data(fd)
