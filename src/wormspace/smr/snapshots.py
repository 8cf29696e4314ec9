"""Snapshots: an engine's state at a position, in pieces that are made while it goes on.

The plain attributes, the sessions and the position are encoded at the moment of the freeze; tables
are frozen in no time and encoded piece by piece.  The last piece carries the digest of all before
it: a snapshot that was cut short is not taken for a whole one.

A store keeps the latest snapshot somewhere: `LocalSnapshots` in a directory of this machine;
anything with the same two methods (an object store, a shared file system) is "a place the user
gives".
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from wormspace.knobs import KNOBS
from wormspace.smr.canonical import encode_canonical
from wormspace.smr.declare import StateMachine
from wormspace.smr.engine import Engine
from wormspace.smr.errors import BadSnapshot
from wormspace.smr.records import encode
from wormspace.smr.sessions import SessionTable
from wormspace.smr.table import FrozenTable
from wormspace.space import Address

FORMAT = 1


class Head(msgspec.Struct, frozen=True, array_like=True, tag="head"):
    """The first piece: of what, and where it stands."""

    format: int
    machine: str
    position: Address
    rests: list[int]
    emitted: int
    chain: bytes
    time_ns: int
    sessions: SessionTable
    plain: bytes


class Rows(msgspec.Struct, frozen=True, array_like=True, tag="rows"):
    """Rows of one table, as an encoded array."""

    table: str
    rows: bytes


class Tail(msgspec.Struct, frozen=True, array_like=True, tag="tail"):
    """The last piece: the digest of all others."""

    digest: bytes


_decode_piece = msgspec.msgpack.Decoder(Head | Rows | Tail).decode


class _Frozen:
    """The tables of a state machine at one moment."""

    def __init__(self, machine: StateMachine) -> None:
        declaration = machine.declaration
        _refuse_undeclared(machine)
        self._tables: dict[str, FrozenTable[Any, Any]] = {
            name: getattr(machine, name).freeze() for name in sorted(declaration.tables)
        }

    def rows(self) -> Iterator[bytes]:
        """All rows as pieces, in the order of tables and keys."""
        for name, table in self._tables.items():
            held: list[msgspec.Raw] = []
            size = 0
            while taken := table.take(KNOBS.smr_piece_rows):
                for row in taken:
                    one = encode(row)
                    held.append(msgspec.Raw(one))
                    size += len(one)
                if size >= KNOBS.smr_piece_bytes:
                    yield encode(Rows(name, encode(held)))
                    held, size = [], 0
            if held:
                yield encode(Rows(name, encode(held)))

    def close(self) -> None:
        """No more of it is wanted."""
        for table in self._tables.values():
            table.close()


class Snapshot(_Frozen):
    """An engine's state at one moment; take its `pieces` at leisure, then `close` it.

    Attributes:
        position: the first register that is not in it.

    Dictionaries keep their order, for commands may depend on it.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.machine)
        machine = engine.machine
        self.position = engine.position
        self._head = encode(
            Head(
                FORMAT,
                type(machine).__name__,
                engine.position,
                sorted(engine.rests),
                engine.emitted,
                engine.chain,
                engine.time_ns,
                engine.sessions.dump(),
                encode({name: getattr(machine, name) for name in machine.declaration.plain}),
            )
        )

    def pieces(self) -> Iterator[bytes]:
        """All pieces in order."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(self._head)
        yield self._head
        for rows in self.rows():
            digest.update(rows)
            yield rows
        yield encode(Tail(digest.digest()))


class Audit(_Frozen):
    """A state machine's state at one moment, to be hashed: equal for equal states.

    Attributes:
        position: the first register that is not in it.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.machine)
        machine = engine.machine
        self.position = engine.position
        plain = {name: getattr(machine, name) for name in machine.declaration.plain}
        self._digest = hashlib.blake2b(encode_canonical(plain), digest_size=16)

    def steps(self) -> Iterator[None]:
        """Hash piece by piece; whoever iterates lets others run in between."""
        for rows in self.rows():
            self._digest.update(rows)
            yield

    def digest(self) -> bytes:
        """The hash, once the steps are done."""
        return self._digest.digest()


def state_digest(engine: Engine) -> bytes:
    """A hash of the state machine's whole state, at once: for tests and small states."""
    audit = Audit(engine)
    try:
        for _ in audit.steps():
            pass
        return audit.digest()
    finally:
        audit.close()


def _refuse_undeclared(machine: StateMachine) -> None:
    known = machine.declaration.defaults
    for name in vars(machine):
        if name not in known and not name.startswith("_"):
            raise BadSnapshot(
                f"{type(machine).__name__}.{name} was set but is not declared in the class: it "
                "would be lost; annotate it, or begin its name with an underscore"
            )


async def restore(machine_type: type[StateMachine], pieces: AsyncIterator[bytes]) -> Engine:
    """The engine that a snapshot was taken of.

    Raises:
        BadSnapshot: damaged, cut short, or of something else.
    """
    machine = machine_type()
    engine = Engine(machine)
    declaration = machine_type.declaration
    digest = hashlib.blake2b(digest_size=16)
    begun = False
    async for raw in pieces:
        try:
            piece = _decode_piece(raw)
            if isinstance(piece, Tail):
                if not begun or piece.digest != digest.digest():
                    raise BadSnapshot("the snapshot is damaged: its digest is another")
                return engine
            digest.update(raw)
            if isinstance(piece, Head):
                _begin(engine, piece)
                begun = True
            else:
                table = getattr(machine, piece.table)
                for key, value in declaration.decode_rows[piece.table](piece.rows):
                    table[key] = value
                table.settle()
        except (msgspec.MsgspecError, KeyError) as e:
            raise BadSnapshot(f"the snapshot does not fit {machine_type.__name__}: {e}") from e
        await asyncio.sleep(0)
    raise BadSnapshot("the snapshot is cut short")


def _begin(engine: Engine, head: Head) -> None:
    machine = engine.machine
    if head.format != FORMAT or head.machine != type(machine).__name__:
        raise BadSnapshot(f"a snapshot of {head.machine!r} in format {head.format}")
    state = machine.declaration.decode_plain(head.plain)
    for name in machine.declaration.plain:
        setattr(machine, name, getattr(state, name))
    engine.position = head.position
    engine.rests = set(head.rests)
    engine.emitted = head.emitted
    engine.chain = head.chain
    engine.time_ns = head.time_ns
    engine.sessions.load(head.sessions)
    engine.chains[head.position] = head.chain


# ------------------------------------------------------------------ stores


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
        return self._directory / (name.encode().hex() + ".snapshot")

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
        try:
            file = self._path(name).open("rb")
        except FileNotFoundError:
            return
        with file:
            while header := file.read(4):
                size = int.from_bytes(header, "big")
                piece = file.read(size)
                if len(header) < 4 or len(piece) < size:
                    raise BadSnapshot(f"{file.name} is cut short")
                yield piece


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
