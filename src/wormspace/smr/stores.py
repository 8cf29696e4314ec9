"""Where snapshots are kept.

A store keeps the latest snapshot somewhere: `LocalSnapshots` in a directory of this machine;
anything with the same two methods (an object store, a shared file system) is "a place the user
gives".  To a store a snapshot is a series of pieces; what is in them is `snapshots`' affair.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, Protocol

from wormspace.knobs import KNOBS
from wormspace.smr.errors import BadSnapshot
from wormspace.space import Address

if sys.platform == "win32":
    import msvcrt

    def lock(fd: int) -> None:
        """Lock a file, or raise `BlockingIOError` if it is locked."""
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except PermissionError as e:
            raise BlockingIOError from e

else:
    import fcntl

    def lock(fd: int) -> None:
        """Lock a file, or raise `BlockingIOError` if it is locked."""
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


LONGEST = 200
"""Characters of a snapshot's file name; systems allow 255, with what a temporary one has more."""


class SnapshotStore(Protocol):
    """Where snapshots are kept: the latest of each name is enough."""

    async def save(self, name: str, position: Address, pieces: AsyncIterator[bytes]) -> None:
        """Keep a snapshot, durably, before returning; an older one may go then."""

    def load(self, name: str) -> AsyncIterator[bytes]:
        """The pieces of the latest snapshot; none if there is none."""


class LocalSnapshots:
    """Snapshots in a directory: one file per name, replaced by renaming when it is durable.

    One replica keeps a name's snapshots there: the one that has the claim.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)

    def claim(self, name: str) -> Claim | None:
        """The claim on a name's snapshots; None if somebody else has it.

        What saves that were cut short have left behind is removed.

        Raises:
            OSError: the directory cannot be used, or its file system has no locks.
        """
        _make_directory(self._directory)
        path = self._path(name)
        fd = os.open(path.with_suffix(".owner"), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lock(fd)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        for left in self._directory.glob(f"{path.stem}.*partial"):
            left.unlink(missing_ok=True)
        return Claim(fd)

    def _path(self, name: str) -> Path:
        readable = name.encode().hex()
        if len(readable) > LONGEST:  # file names have a limit, and objects' names a larger one
            readable = "sha256-" + hashlib.sha256(name.encode()).hexdigest()
        return self._directory / (readable + ".snapshot")

    async def save(self, name: str, position: Address, pieces: AsyncIterator[bytes]) -> None:
        await asyncio.to_thread(_make_directory, self._directory)
        path = self._path(name)
        partial = path.with_suffix(f".{os.urandom(8).hex()}.partial")
        try:
            with partial.open("xb", buffering=0) as file:
                held: list[bytes] = []
                async for piece in pieces:
                    held += (len(piece).to_bytes(4, "big"), piece)
                    if len(held) >= 2 * KNOBS.smr_pieces_per_write:
                        held = await asyncio.to_thread(_write_all, file.fileno(), held)
                await asyncio.to_thread(_write_all, file.fileno(), held)
                await asyncio.to_thread(_put_in_place, file.fileno(), partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    async def load(self, name: str) -> AsyncIterator[bytes]:
        path = self._path(name)
        if not await asyncio.to_thread(path.exists):
            return
        with path.open("rb") as file:
            while pieces := await asyncio.to_thread(_read_some, file):
                for piece in pieces:
                    yield piece


class Claim:
    """One replica's claim on a name's snapshots in a directory; it ends with the process.

    Two replicas that share a directory have one copy between them, not two.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        """Let others have it."""
        os.close(self._fd)


def _make_directory(path: Path) -> None:
    """Make a directory that is there after a crash of the machine, and its parents."""
    missing = [path, *path.parents]
    missing = missing[: next(i for i, one in enumerate(missing) if one.is_dir())]
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        _sync_directory(one.parent)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


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
    _sync_directory(path.parent)


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
