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
from contextlib import ExitStack
from pathlib import Path

from wormspace.errors import StoreError
from wormspace.store.disk import read_all, sync_directory, write_all
from wormspace.store.files import SYSTEM, Files

NAME = "roots"
DATA = "data.mdb"
MAGIC = b"WSROOTS1"

_HEAD = struct.Struct(">8sQII")


class Roots:
    """The file of a directory, and the tables' file whose pages it keeps.

    Both are made here if they are not there, and stay open.

    Attributes:
        number: the last record of the journal that the checkpoint has; None if there is none yet.

    Raises:
        StoreError: the file is damaged.
        OSError: it cannot be opened.
    """

    def __init__(self, directory: Path, files: Files = SYSTEM) -> None:
        self._directory = directory
        self._files = files
        self._pages = b""
        self._slot = 0
        self.number: int | None = None
        path = directory / NAME
        content = self._content(path)
        for slot in (0, 1) if content else ():
            found = _read(content[slot * (len(content) // 2) :])
            if found is not None and (self.number is None or found[0] > self.number):
                (self.number, self._pages), self._slot = found, slot
        if content and self.number is None:
            raise StoreError(f"{path} is damaged: the store cannot be opened without it")
        tables = directory / DATA
        if self.number is not None and (files.size_at(tables) or 0) < len(self._pages):
            raise StoreError(f"{tables} is missing, or cut off: restore it")
        with ExitStack() as undo:
            self._fd = files.open(path, os.O_RDWR | os.O_CREAT)
            undo.callback(files.close, self._fd)
            self._tables = files.open(tables, os.O_RDWR | os.O_CREAT)
            undo.pop_all()

    def _content(self, path: Path) -> bytes:
        size = self._files.size_at(path)
        if not size:
            return b""
        fd = self._files.open(path, os.O_RDONLY)
        try:
            return read_all(self._files, fd, size, 0)
        finally:
            self._files.close(fd)

    def restore(self) -> None:
        """Put the pages back into the tables' file.

        Raises:
            OSError
        """
        write_all(self._files, self._tables, [self._pages], 0)

    def read(self, page_bytes: int) -> bytes:
        """The pages as they are now.

        Raises:
            OSError
        """
        return read_all(self._files, self._tables, 2 * page_bytes, 0)

    def save(self, number: int, pages: bytes) -> None:
        """Make `pages` the checkpoint; what they name must be durable.  Waits for the disk.

        Raises:
            OSError: and the checkpoint before it stands.
        """
        slot = 1 - self._slot
        head = _HEAD.pack(MAGIC, number, len(pages), 0)[:-4]
        head += struct.pack(">I", zlib.crc32(head + pages))
        half = self._files.size(self._fd) // 2
        if not half:
            half = len(head) + len(pages)
            # All the room it will ever need.
            write_all(self._files, self._fd, [bytes(2 * half)], 0)
            sync_directory(self._files, self._directory)
        write_all(self._files, self._fd, [head, pages], slot * half)
        self._files.sync(self._fd)
        self._slot, self.number, self._pages = slot, number, pages

    def close(self) -> None:
        """Close the files."""
        self._files.close(self._fd)
        self._files.close(self._tables)


def _read(slot: bytes) -> tuple[int, bytes] | None:
    if len(slot) < _HEAD.size:
        return None
    magic, number, size, crc = _HEAD.unpack_from(slot)
    pages = slot[_HEAD.size : _HEAD.size + size]
    whole = magic == MAGIC and crc == zlib.crc32(slot[: _HEAD.size - 4] + pages)
    return (number, pages) if whole else None
