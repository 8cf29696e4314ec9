"""The roots of the tables at the last checkpoint, kept outside of them.

LMDB never overwrites a page that its last two commits use, and says in its first two pages where
these begin.  Between checkpoints it writes without waiting for the disk, so after a power cut those
two pages may name others that were never written.  Therefore a store is always opened with the two
pages of the last checkpoint put back: whatever came later is not used, and the journal has it.

    file    two slots, a half each; the valid one with the higher number is the checkpoint
    slot    "WSROOTS1", number of the last record in the tables (8), bytes (4), CRC-32 (4), pages
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from wormspace.errors import StoreError
from wormspace.store.disk import sync_directory, write_all

NAME = "roots"
DATA = "data.mdb"
MAGIC = b"WSROOTS1"

_HEAD = struct.Struct(">8sQII")


class Roots:
    """The file of a directory.

    Attributes:
        number: the last record of the journal that the checkpoint has; None if there is none yet.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pages = b""
        self._slot = 0
        self.number: int | None = None
        path = directory / NAME
        if not path.exists():
            return
        content = path.read_bytes()
        for slot in (0, 1):
            found = _read(content[slot * (len(content) // 2) :])
            if found is not None and (self.number is None or found[0] > self.number):
                (self.number, self._pages), self._slot = found, slot
        if self.number is None:
            raise StoreError(f"{path} is damaged: the store cannot be opened without it")

    def restore(self) -> None:
        """Put the pages back into the tables' file.

        Raises:
            StoreError: that file is gone.
            OSError
        """
        path = self._directory / DATA
        if not path.exists() or path.stat().st_size < len(self._pages):
            raise StoreError(f"{path} is missing, or cut off: restore it")
        with path.open("r+b") as file:
            file.write(self._pages)

    def read(self, page_bytes: int) -> bytes:
        """The pages as they are now."""
        with (self._directory / DATA).open("rb") as file:
            return file.read(2 * page_bytes)

    def save(self, number: int, pages: bytes) -> None:
        """Make `pages` the checkpoint; what they name must be durable.  Waits for the disk.

        Raises:
            OSError: and the checkpoint before it stands.
        """
        slot = 1 - self._slot
        head = _HEAD.pack(MAGIC, number, len(pages), 0)[:-4]
        head += struct.pack(">I", zlib.crc32(head + pages))
        fd = os.open(self._directory / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            half = os.fstat(fd).st_size // 2
            if not half:
                half = len(head) + len(pages)
                write_all(fd, [bytes(2 * half)], 0)  # all the room it will ever need
                sync_directory(self._directory)
            write_all(fd, [head, pages], slot * half)
            os.fsync(fd)
        finally:
            os.close(fd)
        self._slot, self.number, self._pages = slot, number, pages


def _read(slot: bytes) -> tuple[int, bytes] | None:
    if len(slot) < _HEAD.size:
        return None
    magic, number, size, crc = _HEAD.unpack_from(slot)
    pages = slot[_HEAD.size : _HEAD.size + size]
    whole = magic == MAGIC and crc == zlib.crc32(slot[: _HEAD.size - 4] + pages)
    return (number, pages) if whole else None
