"""Durable writes past the system's cache: none of its pages is filled, or written back later."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from wormspace.runtime.disk import DSYNC, read_all
from wormspace.store.files import DIRECT, Files

BLOCK = 4096
"""What a disk writes at once is no larger, and divides this."""


class Unsupported(Exception):
    """The system, or this file system, does not offer it."""


class BlockWriter:
    """Writes of any bytes at any place of a file, in whole blocks, as a disk takes them.

    What the first block holds before the place stays as it was; what the last one has behind the
    end becomes zeros.

    Args:
        fd: the same file, to read from.

    Raises:
        Unsupported: not on this system, or not on this file system.
        OSError: there is no memory, or no descriptor.
    """

    def __init__(self, files: Files, path: Path, fd: int) -> None:
        if not (DIRECT and DSYNC):
            raise Unsupported
        self._files = files
        self._read_fd = fd
        self._buffer = files.buffer(64 * BLOCK)
        self._held = -1
        try:
            self._fd = files.open(path, os.O_WRONLY | DIRECT)
        except OSError as e:
            if e.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                raise Unsupported from e
            raise
        try:
            # What is there already, to see whether it goes.
            self.write([read_all(files, fd, BLOCK, 0)], 0)
        except OSError as e:
            files.close(self._fd)
            if e.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                raise Unsupported from e
            raise

    def write(self, parts: Sequence[bytes], at: int) -> None:
        """Write the parts one after the other, and wait until they are on disk.

        Raises:
            OSError: what is on disk is not certain.
        """
        begin, size = self._fill(parts, at)
        with memoryview(self._buffer) as view:
            done = 0
            while done < size:
                with view[done:size] as rest:
                    more = self._files.write(self._fd, [rest], begin + done, DSYNC)
                if not more:
                    raise OSError(errno.EIO, "the system writes nothing")
                done += more
        self._keep(parts, at)

    def _fill(self, parts: Sequence[bytes], at: int) -> tuple[int, int]:
        """Put into the buffer what the blocks will hold; where they begin, and their bytes."""
        head = at % BLOCK
        length = head + sum(map(len, parts))
        size = -(-length // BLOCK) * BLOCK
        if size > len(self._buffer):
            self._buffer = self._files.buffer(2 * size)
            self._held = -1
        if head and self._held != at:
            self._buffer[:head] = read_all(self._files, self._read_fd, head, at - head)
        self._held = -1
        self._buffer.seek(head)
        for part in parts:
            self._buffer.write(part)
        self._buffer.write(bytes(size - length))
        return at - head, size

    def _keep(self, parts: Sequence[bytes], at: int) -> None:
        """Keep the last block's beginning: what is written next will most likely follow it."""
        length = at % BLOCK + sum(map(len, parts))
        last = length % BLOCK
        self._buffer[:last] = self._buffer[length - last : length]
        self._held = at - at % BLOCK + length

    def close(self) -> None:
        """Close it; the other descriptor is the caller's."""
        self._files.close(self._fd)
