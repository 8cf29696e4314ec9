"""Where snapshots are kept.

A store keeps the latest snapshot somewhere: `LocalSnapshots` in a directory of this machine;
anything with the same two methods (an object store, a shared file system) is "a place the user
gives".  To a store a snapshot is a series of pieces; what is in them is `snapshots`' affair.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, ParamSpec, Protocol, TypeVar

from wormspace.errors import NewerFormat
from wormspace.knobs import KNOBS
from wormspace.runtime.disk import DISK, make_directories, sync_directory
from wormspace.runtime.tasks import Tasks
from wormspace.smr.arguments import as_directory
from wormspace.smr.errors import BadSnapshot
from wormspace.space import Address
from wormspace.space.arguments import as_name

_HEAD = b"wormspace snapshot\x01"
"""A file begins with a piece of its own: this, the format's number in the last byte, and how far
the snapshot goes, with a checksum.  No piece of a snapshot begins so."""

_POSITION = struct.Struct(">QQ")

LONGEST = 200
"""Characters of a snapshot's file name; systems allow 255, with what a temporary one has more."""


P = ParamSpec("P")
T = TypeVar("T")


class SnapshotStore(Protocol):
    """Where snapshots are kept: the latest of each name is enough."""

    async def save(self, name: str, position: Address, pieces: AsyncIterator[bytes]) -> None:
        """Keep a snapshot, durably, before returning; an older one may go then.

        A newer one, of somebody else, stays.
        """

    def load(self, name: str) -> AsyncIterator[bytes]:
        """The pieces of the latest snapshot; none if there is none."""


class LocalSnapshots:
    """Snapshots in a directory: one file per name, replaced by renaming when it is durable.

    A file is replaced only by one that goes as far or further, whoever saves.

    One replica keeps a name's snapshots there: the one that has the claim.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = as_directory(directory)

    def __repr__(self) -> str:
        return f"<LocalSnapshots in {self._directory}>"

    def claim(self, name: str) -> Claim | None:
        """The claim on a name's snapshots; None if somebody else has it.

        What saves that were cut short have left behind is removed.

        Raises:
            BadAddress: no object can have this name.
            OSError: the directory cannot be used, or its file system has no locks.
        """
        name = as_name(name)
        make_directories(DISK, self._directory)
        path = self._path(name)
        try:
            fd = _locked(path.with_suffix(".owner"), wait=False)
        except BlockingIOError:
            return None
        for left in self._directory.glob(f"{path.stem}.*partial"):
            left.unlink(missing_ok=True)
        return Claim(fd)

    def _path(self, name: str) -> Path:
        readable = name.encode().hex()
        if len(readable) > LONGEST:  # file names have a limit, and objects' names a larger one
            readable = "sha256-" + hashlib.sha256(name.encode()).hexdigest()
        return self._directory / (readable + ".snapshot")

    async def save(self, name: str, position: Address, pieces: AsyncIterator[bytes]) -> None:
        await asyncio.to_thread(make_directories, DISK, self._directory)
        path = self._path(name)
        partial = path.with_suffix(f".{os.urandom(8).hex()}.partial")
        try:
            with partial.open("xb", buffering=0) as file:
                head = _HEAD + _encode_position(position)
                held = [len(head).to_bytes(4, "big"), head]
                async for piece in pieces:
                    held += (len(piece).to_bytes(4, "big"), piece)
                    if len(held) >= 2 * KNOBS.smr_pieces_per_write:
                        held = await _to_its_end(_write_all, file.fileno(), held)
                await _to_its_end(_write_all, file.fileno(), held)
                await _to_its_end(_put_in_place, file.fileno(), partial, path, position)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    async def load(self, name: str) -> AsyncIterator[bytes]:
        path = self._path(name)
        if not await asyncio.to_thread(path.exists):
            return
        with path.open("rb") as file:
            first = await asyncio.to_thread(_read_some, file)
            for piece in _without_head(first, path):
                yield piece
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
        DISK.close(self._fd)


async def _to_its_end(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do something in a thread; who is cancelled meanwhile goes on when it is over.

    A descriptor that were closed before could be another file's by then.
    """
    working = Tasks("a snapshot's file").begin(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise


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


def _without_head(pieces: list[bytes], path: Path) -> list[bytes]:
    """A file's first pieces, without its own.

    Raises:
        NewerFormat.
    """
    if not pieces or not pieces[0].startswith(_HEAD[:-1]):
        return pieces  # from before files said how far they go
    if not pieces[0].startswith(_HEAD):
        raise NewerFormat(f"{path} was kept by a newer wormspace: update this one")
    return pieces[1:]


def _write_all(fd: int, pieces: list[bytes]) -> list[bytes]:
    """Write in a thread: a disk that is busy may hold it up.  Returns what is left: nothing."""
    rest = memoryview(b"".join(pieces))
    while rest:
        rest = rest[os.write(fd, rest) :]
    return []


def _put_in_place(fd: int, partial: Path, path: Path, position: Address) -> None:
    """Make a file durable, and then the one that counts; if that goes further, it stays.

    In a thread: the file system frees the blocks of the one before, 0.15 s for a gigabyte.
    """
    os.fsync(fd)
    turn = _locked(path.with_suffix(".turn"), wait=True)  # to look and to replace are one step
    try:
        if _reaches(path) > position:
            partial.unlink()
        else:
            DISK.rename(partial, path)
        sync_directory(DISK, path.parent)
    finally:
        DISK.close(turn)


def _locked(path: Path, *, wait: bool) -> int:
    """A descriptor that has a file locked, until it is closed.

    Raises:
        BlockingIOError: somebody else has it locked, and it was not to be waited for.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        DISK.lock(fd, wait=wait)
    except BaseException:
        DISK.close(fd)
        raise
    return fd


def _encode_position(position: Address) -> bytes:
    raw = _POSITION.pack(position.segment, position.offset)
    return raw + zlib.crc32(raw).to_bytes(4, "big")


def _reaches(path: Path) -> Address:
    """How far the snapshot in a file goes, as the file says.

    Of one that is damaged, not there, or from before files said it: nowhere.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(4 + len(_HEAD) + _POSITION.size + 4)[4:]
    except FileNotFoundError:
        return Address(0, 0)
    says, checksum = raw[len(_HEAD) : -4], raw[-4:]
    is_whole = raw.startswith(_HEAD) and len(says) == _POSITION.size
    if not is_whole or zlib.crc32(says).to_bytes(4, "big") != checksum:
        return Address(0, 0)
    return Address(*_POSITION.unpack(says))


class MemorySnapshots:
    """Snapshots in memory: for tests, and for several replicas in one process."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Address, list[bytes]]] = {}

    def __repr__(self) -> str:
        return f"<MemorySnapshots of {len(self._kept)} objects>"

    async def save(self, name: str, position: Address, pieces: AsyncIterator[bytes]) -> None:
        taken = [piece async for piece in pieces]
        held = self._kept.get(name)
        if held is None or held[0] < position:
            self._kept[name] = (position, taken)

    async def load(self, name: str) -> AsyncIterator[bytes]:
        for piece in self._kept.get(name, (None, []))[1]:
            yield piece
