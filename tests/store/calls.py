"""A system with files in memory that writes and reads as little at a time as a test wants."""

from __future__ import annotations

import mmap
import os


class Calls:
    """Some of `Files`, on one file of descriptor 7 for each path.

    Args:
        most: bytes of one read or write at most.

    Attributes:
        content: what the file holds.
        made: the calls, each as (name, arguments that matter).
        failing: by name of a call, the errors that its next calls raise, None for one that works.
    """

    def __init__(self, content: bytes = b"", most: int = 1 << 30) -> None:
        self.content = bytearray(content)
        self.most = most
        self.made: list[tuple] = []
        self.failing: dict[str, list[int | None]] = {}

    def _step(self, name: str, *what: object) -> None:
        self.made.append((name, *what))
        waiting = self.failing.get(name)
        code = waiting.pop(0) if waiting else None
        if code is not None:
            raise OSError(code, os.strerror(code))

    def open(self, path, flags: int) -> int:
        self._step("open", path, flags)
        return 7 + sum(name == "open" for name, *_ in self.made[:-1])

    def close(self, fd: int) -> None:
        self._step("close", fd)

    def lock(self, fd: int) -> None:
        self._step("lock", fd)

    def size(self, fd: int) -> int:
        self._step("size", fd)
        return len(self.content)

    def read(self, fd: int, size: int, at: int) -> bytes:
        self._step("read", fd, size, at)
        return bytes(self.content[at : at + min(size, self.most)])

    def write(self, fd: int, parts, at: int, flags: int = 0) -> int:
        self._step("write", fd, at, sum(map(len, parts)), flags)
        data = b"".join(parts)[: self.most]
        self.content.extend(bytes(max(0, at + len(data) - len(self.content))))
        self.content[at : at + len(data)] = data
        return len(data)

    def truncate(self, fd: int, size: int) -> None:
        self._step("truncate", fd, size)
        del self.content[size:]

    def reserve(self, fd: int, at: int, size: int) -> None:
        self._step("reserve", fd, at, size)

    def sync(self, fd: int) -> None:
        self._step("sync", fd)

    def sync_data(self, fd: int) -> None:
        self._step("sync_data", fd)

    def buffer(self, size: int) -> mmap.mmap:
        self._step("buffer", size)
        return mmap.mmap(-1, size)

    def names(self) -> list[str]:
        """The names of the calls that were made, which are forgotten."""
        made, self.made = self.made, []
        return [name for name, *_ in made]
