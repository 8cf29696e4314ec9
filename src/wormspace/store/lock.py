"""One process has a directory open."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from pathlib import Path

from wormspace.errors import StoreLocked
from wormspace.store.files import Files

NAME = "lock"


class DirectoryLock:
    """The lock on a directory; the operating system lets it go when the process dies.

    Both the directory and a file in it are locked: people delete files called `lock`, and some file
    systems (NFS) lock no directories.

    Attributes:
        fd: the file, which is empty.

    Raises:
        StoreLocked: another process has it, or this one has it already.
        UsageError: the system has no such locks.
        OSError: the directory cannot be used.
    """

    def __init__(self, files: Files, path: Path) -> None:
        with ExitStack() as undo:
            directory = files.open(path, os.O_RDONLY | os.O_DIRECTORY)
            undo.callback(files.close, directory)
            self.fd = files.open(path / NAME, os.O_RDWR | os.O_CREAT)
            undo.callback(files.close, self.fd)
            try:
                files.lock(self.fd)
                _lock_if_possible(files, directory)
            except BlockingIOError as e:
                raise StoreLocked(
                    f"{path} is open already, in another process or in this one; close it there "
                    "first, or run a server (`wormspace server`) to share it"
                ) from e
            self._held = undo.pop_all()

    def close(self) -> None:
        """Let it go."""
        self._held.close()


def _lock_if_possible(files: Files, directory: int) -> None:
    try:
        files.lock(directory)
    except OSError as e:
        if e.errno not in (errno.EBADF, errno.EOPNOTSUPP):  # NFS wants a file open for writing
            raise
