"""What it takes for bytes to be on disk."""

from __future__ import annotations

import os
from pathlib import Path

sync_data = getattr(os, "fdatasync", os.fsync)
"""Wait until a file's content is on disk.  Not every system tells data from metadata."""


def sync_directory(path: Path) -> None:
    """Wait until the names of a directory are on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, parts: list[bytes], at: int) -> None:
    """Write the parts one after the other.

    Raises:
        OSError: not all of it could be written.
    """
    total = sum(map(len, parts))
    done = os.pwritev(fd, parts, at)
    while done < total:
        done += os.pwrite(fd, b"".join(parts)[done:], at + done)
