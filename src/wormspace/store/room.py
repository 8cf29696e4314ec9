"""Whether the disk has room, and what an error of the system or of LMDB means."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import lmdb

from wormspace.errors import StoreDamaged, StoreError, StoreFull
from wormspace.knobs import KNOBS
from wormspace.runtime.disk import FULL
from wormspace.store.files import Files
from wormspace.store.trust import ADVICE

SCARCE_BYTES = 64 << 20
"""With less than this free, an error of LMDB that may mean a full disk is looked into."""

log = logging.getLogger("wormspace.store")

_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
)


class Room:
    """Of the disk that has a directory.

    Args:
        fd: a file of ours that is open and empty, to try with.
    """

    def __init__(self, files: Files, path: Path, fd: int) -> None:
        self._files = files
        self._path = path
        self._fd = fd

    def warn_of_memory(self) -> None:
        """Tell if there is no disk."""
        kind = self._files.kind(self._path)
        if kind in ("tmpfs", "ramfs"):
            log.warning(
                "%s is in memory (%s): what is promised there does not outlive the machine, though "
                "durability is 'sync'",
                *(self._path, kind),
            )

    def is_there(self) -> bool:
        """Whether the disk takes some more.

        Raises:
            OSError: it cannot be told.
        """
        try:
            self._files.reserve(self._fd, 0, KNOBS.store_probe_bytes)
        except OSError as e:
            if e.errno in FULL:
                return False
            raise
        finally:
            self._files.truncate(self._fd, 0)
        return True

    def explain(self, e: Exception) -> StoreError:
        """An error as ours: `StoreFull` only if it says that nothing was changed."""
        if isinstance(e, StoreError):
            return e
        if isinstance(e, _DAMAGE):
            return StoreDamaged(f"{self._path}: the tables are damaged ({e}). {ADVICE}")
        if self._says_full(e):
            return StoreFull(f"{self._path}: no room on the disk ({e}); make some")
        if isinstance(e, OSError) and e.errno in (errno.EMFILE, errno.ENFILE):
            return StoreError(f"{self._path}: {e.strerror}: raise the limit (ulimit -n)")
        if isinstance(e, OSError) and e.errno == errno.EIO:
            return StoreError(f"{self._path}: the disk failed: {e.strerror}")
        return StoreError(f"{self._path}: {e}")

    def _says_full(self, e: Exception) -> bool:
        if isinstance(e, OSError):
            return e.errno in FULL
        if not isinstance(e, lmdb.Error):
            return False
        if isinstance(e, lmdb.DiskError) or any(os.strerror(n) in str(e) for n in FULL):
            return True
        # LMDB reports a write that was cut short as an input/output error.
        return os.strerror(errno.EIO) in str(e) and self._is_scarce()

    def _is_scarce(self) -> bool:
        """Whether the disk (or a quota) leaves no room."""
        try:
            return self._files.free_bytes(self._path) < SCARCE_BYTES or not self.is_there()
        except OSError:
            return False
