"""Durable writes past the system's cache: none of its pages is filled, or written back later."""

from __future__ import annotations

import mmap
import os
from contextlib import ExitStack
from pathlib import Path

from wormspace.store.aio import Aio, Unsupported
from wormspace.store.disk import DSYNC

DIRECT: int = getattr(os, "O_DIRECT", 0)
BLOCK = 4096
"""What a disk writes at once is no larger, and divides this."""


class BlockWriter:
    """Writes of any bytes at any place of a file, in whole blocks, as a disk takes them.

    What the first block holds before the place stays as it was; what the last one has behind the
    end becomes zeros.

    Args:
        fd: the same file, to read from.

    Raises:
        Unsupported: not on this system, or not on this file system.
    """

    def __init__(self, path: Path, fd: int) -> None:
        if not (DIRECT and DSYNC):
            raise Unsupported
        self._read_fd = fd
        self._buffer = mmap.mmap(-1, 64 * BLOCK)  # begins at a page, as such memory must
        self._held = -1
        try:
            self._fd = os.open(path, os.O_WRONLY | DIRECT | os.O_CLOEXEC)
        except OSError as e:
            raise Unsupported from e
        with ExitStack() as undo:
            undo.callback(os.close, self._fd)
            self._aio = Aio(self._fd, DSYNC)
            undo.callback(self._aio.close)
            try:
                # What is there already, to see whether it goes.
                self.write([os.pread(fd, BLOCK, 0)], 0)
                self._aio.try_out(self._buffer, BLOCK)
            except OSError as e:
                raise Unsupported from e
            undo.pop_all()

    def write(self, parts: list[bytes], at: int) -> None:
        """Write the parts one after the other, and wait until they are on disk.

        Raises:
            OSError: what is on disk is not certain.
        """
        begin, size = self._fill(parts, at)
        self._write(begin, size, 0)
        self._keep(parts, at)

    async def submit(self, parts: list[bytes], at: int) -> None:
        """The same, while the event loop goes on.

        Raises:
            OSError: what is on disk is not certain.
        """
        begin, size = self._fill(parts, at)
        done = await self._aio.write(self._buffer, size, begin)
        self._write(begin, size, done)  # no disk writes half of it, but a system might
        self._keep(parts, at)

    def _fill(self, parts: list[bytes], at: int) -> tuple[int, int]:
        """Put into the buffer what the blocks will hold; where they begin, and their bytes."""
        head = at % BLOCK
        length = head + sum(map(len, parts))
        size = -(-length // BLOCK) * BLOCK
        if size > len(self._buffer):
            self._buffer = mmap.mmap(-1, 2 * size)
            self._held = -1
        if head and self._held != at:
            self._buffer[:head] = os.pread(self._read_fd, head, at - head)
        self._held = -1
        self._buffer.seek(head)
        for part in parts:
            self._buffer.write(part)
        self._buffer.write(bytes(size - length))
        return at - head, size

    def _write(self, begin: int, size: int, done: int) -> None:
        with memoryview(self._buffer) as view:
            while done < size:
                with view[done:size] as rest:
                    done += os.pwritev(self._fd, [rest], begin + done, DSYNC)

    def _keep(self, parts: list[bytes], at: int) -> None:
        """Keep the last block's beginning: what is written next will most likely follow it."""
        length = at % BLOCK + sum(map(len, parts))
        last = length % BLOCK
        self._buffer[:last] = self._buffer[length - last : length]
        self._held = at - at % BLOCK + length

    def close(self) -> None:
        """Close it; the other descriptor is the caller's."""
        self._aio.close()
        os.close(self._fd)
