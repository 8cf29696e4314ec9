"""Where snapshots are kept.

A store keeps the latest snapshot somewhere: `LocalSnapshots` in a directory of this machine;
anything with the same two methods (an object store, a shared file system) is "a place the user
gives".  To a store a snapshot is a series of pieces; what is in them is `snapshots`' affair.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, Protocol

from wormspace.knobs import KNOBS
from wormspace.smr.errors import BadSnapshot
from wormspace.space import Address

LONGEST = 200
"""Characters of a snapshot's file name; systems allow 255, with what a temporary one has more."""


class SnapshotStore(Protocol):
    """Where snapshots are kept: the latest of each name is enough."""

    async def save(self, name: str, position: Address, pieces: AsyncIterator[bytes]) -> None:
        """Keep a snapshot, durably, before returning; an older one may go then."""

    def load(self, name: str) -> AsyncIterator[bytes]:
        """The pieces of the latest snapshot; none if there is none."""


class LocalSnapshots:
    """Snapshots in a directory: one file per name, replaced by renaming when it is durable."""

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)

    def _path(self, name: str) -> Path:
        readable = name.encode().hex()
        if len(readable) > LONGEST:  # file names have a limit, and objects' names a larger one
            readable = "sha256-" + hashlib.sha256(name.encode()).hexdigest()
        return self._directory / (readable + ".snapshot")

    async def save(self, name: str, position: Address, pieces: AsyncIterator[bytes]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._path(name)
        partial = path.with_suffix(".partial")
        with partial.open("wb", buffering=0) as file:
            held: list[bytes] = []
            async for piece in pieces:
                held += (len(piece).to_bytes(4, "big"), piece)
                if len(held) >= 2 * KNOBS.smr_pieces_per_write:
                    held = await asyncio.to_thread(_write_all, file.fileno(), held)
            await asyncio.to_thread(_write_all, file.fileno(), held)
            await asyncio.to_thread(_put_in_place, file.fileno(), partial, path)

    async def load(self, name: str) -> AsyncIterator[bytes]:
        path = self._path(name)
        if not await asyncio.to_thread(path.exists):
            return
        with path.open("rb") as file:
            while pieces := await asyncio.to_thread(_read_some, file):
                for piece in pieces:
                    yield piece


def _read_some(file: BinaryIO) -> list[bytes]:
    """The next pieces, in a thread; none at the end.

    Raises:
        BadSnapshot: the file ends within a piece.
    """
    rest = os.fstat(file.fileno()).st_size - file.tell()
    pieces: list[bytes] = []
    while rest and len(pieces) < KNOBS.smr_pieces_per_write:
        size = int.from_bytes(file.read(4), "big")
        rest -= 4 + size
        if rest < 0:  # looked at first: the size of a damaged piece may be absurd
            raise BadSnapshot(f"{file.name} is cut short, or damaged")
        pieces.append(file.read(size))
    return pieces


def _write_all(fd: int, pieces: list[bytes]) -> list[bytes]:
    """Write in a thread: a disk that is busy may hold it up.  Returns what is left: nothing."""
    rest = memoryview(b"".join(pieces))
    while rest:
        rest = rest[os.write(fd, rest) :]
    return []


def _put_in_place(fd: int, partial: Path, path: Path) -> None:
    """Make a file durable, and then the one that counts.

    In a thread: the file system frees the blocks of the one before, 0.15 s for a gigabyte.
    """
    os.fsync(fd)
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class MemorySnapshots:
    """Snapshots in memory: for tests, and for several replicas in one process."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Address, list[bytes]]] = {}

    async def save(self, name: str, position: Address, pieces: AsyncIterator[bytes]) -> None:
        taken = [piece async for piece in pieces]
        held = self._kept.get(name)
        if held is None or held[0] < position:
            self._kept[name] = (position, taken)

    async def load(self, name: str) -> AsyncIterator[bytes]:
        for piece in self._kept.get(name, (None, []))[1]:
            yield piece
