"""Snapshots: an engine's state at a position, in pieces that are made while it goes on.

At the moment of the freeze only what is small is copied.  Tables and the dictionaries, lists and
sets of plain attributes are encoded piece by piece afterwards, as they were at that moment.  A
piece that is too large for one message is cut into parts.  The last piece carries the digest of all
before it: a snapshot that was cut short or damaged is not taken for a whole one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import chain
from typing import Any

import msgspec

from wormspace.errors import NewerFormat, WrongIdentity
from wormspace.knobs import KNOBS
from wormspace.malformed import MALFORMED
from wormspace.smr.canonical import encode_canonical
from wormspace.smr.declare import StateMachine
from wormspace.smr.engine import Engine
from wormspace.smr.errors import BadSnapshot, NothingKept
from wormspace.smr.images import Image
from wormspace.smr.records import encode
from wormspace.smr.sessions import Session, SessionTable
from wormspace.smr.shapes import Shape
from wormspace.smr.state import StateDict, StateList, StateSet, tracked
from wormspace.smr.table import FrozenTable
from wormspace.smr.versions import Lineage
from wormspace.space import Address

FORMAT = 2
"""Format 1 had no identity in its head, and is read as one that does not say its space."""


class Head(msgspec.Struct, frozen=True, array_like=True, tag="head"):
    """The first piece: of what, and where it stands.

    Attributes:
        machine: the class's name, for people.
        version, shape: what that class declares.
        batches: how many there were until then, as sessions count them.
        identity: of the space that the registers were from.
    """

    format: int
    machine: str
    version: int
    shape: Shape
    position: Address
    rests: list[int]
    emitted: int
    chain: bytes
    time_ns: int
    batches: int
    identity: bytes = b""


class Value(msgspec.Struct, frozen=True, array_like=True, tag="value"):
    """A plain attribute that is in one piece."""

    attribute: str
    value: bytes


class Chunk(msgspec.Struct, frozen=True, array_like=True, tag="chunk"):
    """Some of what there is much of, as an encoded array.

    Attributes:
        name: the attribute; "" for sessions, those that were silent longest first.
        items: rows of a table, pairs of a dictionary, items of a list or set, or sessions.
    """

    name: str
    items: bytes


class Part(msgspec.Struct, frozen=True, array_like=True, tag="part"):
    """Part of a piece that is too large to travel at once."""

    piece: bytes
    is_last: bool


class Tail(msgspec.Struct, frozen=True, array_like=True, tag="tail"):
    """The last piece: the digest of all others."""

    digest: bytes


_decode_piece = msgspec.msgpack.Decoder(Head | Value | Chunk | Part | Tail).decode
_decode_anything = msgspec.msgpack.Decoder().decode
_decode_sessions = msgspec.msgpack.Decoder(list[tuple[bytes, Session]]).decode


class _Frozen:
    """A state machine's state at one moment."""

    def __init__(self, machine: StateMachine) -> None:
        _refuse_undeclared(machine)
        declaration = machine.declaration
        self._image = Image(machine._journal.images)
        self._tables: dict[str, FrozenTable[Any, Any]] = {
            name: getattr(machine, name).freeze() for name in sorted(declaration.tables)
        }
        self._kinds = declaration.plain
        self._plain: dict[str, Any] = {name: vars(machine)[name] for name in declaration.plain}

    def close(self) -> None:
        """No more of it is wanted."""
        self._image.close()
        for table in self._tables.values():
            table.close()

    def values(self) -> Iterator[tuple[str, Any]]:
        """The attributes that are in one piece, as they were."""
        for name, value in self._plain.items():
            if self._kinds[name].container is None:
                yield name, self._as_it_was(value)

    def containers(self) -> Iterator[tuple[str, Any, Iterator[list[Any]]]]:
        """The others: name, container, and what was in it, some at a time."""
        for name, container in self._plain.items():
            if self._kinds[name].container is not None:
                yield name, container, self._items(container)

    def rows(self) -> Iterator[tuple[str, Iterator[list[Any]]]]:
        """The tables: name, and rows in the order of keys, some at a time."""
        for name, table in self._tables.items():
            yield name, iter(lambda table=table: table.take(KNOBS.smr_piece_rows), [])  # type: ignore[misc]

    def _items(self, container: Any) -> Iterator[list[Any]]:
        """In order, though the container changes meanwhile; pairs, if it is a dictionary."""
        image = self._image.of(container)
        while some := image.take(KNOBS.smr_piece_rows):
            yield [self._as_it_was(one) for one in some]

    def _as_it_was(self, value: Any) -> Any:
        """The value without what has changed in it since."""
        if type(value) is tuple:
            return tuple(self._as_it_was(one) for one in value)
        if type(value) not in _CONTAINERS:
            return value
        held = self._image.all_of(value)
        if type(value) is StateDict:
            return {key: self._as_it_was(one) for key, one in held}
        if type(value) is StateList:
            return [self._as_it_was(one) for one in held]
        return set(held)


_CONTAINERS = (StateDict, StateList, StateSet)


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
        self._sessions = engine.sessions.dump()
        self._head = encode(
            Head(
                FORMAT,
                type(machine).__name__,
                machine.declaration.version,
                machine.declaration.shape,
                engine.position,
                sorted(engine.rests),
                engine.emitted,
                engine.chain,
                engine.time_ns,
                self._sessions.batch,
                engine.identity,
            )
        )

    def pieces(self) -> Iterator[bytes]:
        """All pieces in order."""
        digest = hashlib.blake2b(digest_size=16)
        for whole in self._wholes():
            for piece in _parts(whole):
                digest.update(piece)
                yield piece
        yield encode(Tail(digest.digest()))

    def _wholes(self) -> Iterator[bytes]:
        yield self._head
        sessions = self._sessions.clients
        yield from _chunks("", ([one] for one in sessions))
        for name, value in self.values():
            yield encode(Value(name, encode(value)))
        for name, _, items in self.containers():
            yield from _chunks(name, items)
        for name, rows in self.rows():
            yield from _chunks(name, rows)


def _chunks(name: str, items: Iterable[list[Any]]) -> Iterator[bytes]:
    """Items, encoded, in pieces of about the size that is set."""
    held: list[msgspec.Raw] = []
    size = 0
    for one in chain.from_iterable(items):
        raw = encode(one)
        held.append(msgspec.Raw(raw))
        size += len(raw)
        if size >= KNOBS.smr_piece_bytes:
            yield encode(Chunk(name, encode(held)))
            held, size = [], 0
    if held:
        yield encode(Chunk(name, encode(held)))


def _parts(piece: bytes) -> Iterator[bytes]:
    """The piece, or parts of it if it is too large for one message."""
    limit = KNOBS.smr_part_bytes
    if len(piece) <= limit:
        yield piece
        return
    for start in range(0, len(piece), limit):
        yield encode(Part(piece[start : start + limit], start + limit >= len(piece)))


class Audit(_Frozen):
    """A state machine's state at one moment, to be hashed: equal for equal states.

    Attributes:
        position: the first register that is not in it.

    Dictionaries and sets are equal whatever their order.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.machine)
        self.position = engine.position
        self._digest = hashlib.blake2b(digest_size=16)
        self._digest.update(encode(engine.machine.declaration.version))

    def steps(self) -> Iterator[None]:
        """Hash piece by piece; whoever iterates lets others run in between."""
        update = self._digest.update
        for name, value in self.values():
            update(encode_canonical((name, value)))
        for name, container, items in self.containers():
            update(encode((name, len(self._image.of(container)))))
            if type(container) is StateList:
                for some in items:
                    update(encode_canonical(some))
                    yield
                continue
            total = 0
            for some in items:
                total += sum(map(_number, some))
                yield
            update((total % _MODULUS).to_bytes(16, "big"))
        for name, rows in self.rows():
            update(encode(name))
            for some in rows:
                update(b"".join(map(encode, some)))
                yield

    def digest(self) -> bytes:
        """The hash, once the steps are done."""
        return self._digest.digest()


_MODULUS = 1 << 128


def _number(item: Any) -> int:
    """A hash to be added up: a sum has no order."""
    return int.from_bytes(hashlib.blake2b(encode_canonical(item), digest_size=16).digest(), "big")


def _refuse_undeclared(machine: StateMachine) -> None:
    known = machine.declaration.defaults
    for name in vars(machine):
        if name not in known and not name.startswith("_"):
            raise BadSnapshot(
                f"{type(machine).__name__}.{name} was set but is not declared in the class: it "
                "would be lost; annotate it, or begin its name with an underscore"
            )


# ------------------------------------------------------------------ the way back


def require_same(kept: bytes, identity: bytes) -> None:
    """Refuse a snapshot whose head says `kept`, where the space is another one.

    Raises:
        WrongIdentity.
    """
    if kept == identity:
        return
    said = f"is of another space ({kept.hex()})" if kept else "does not say of which space it is"
    raise WrongIdentity(
        f"the snapshot {said}, and this space is {identity.hex() or 'unknown'}: it is of another "
        "deployment, or this space was made anew and has lost what it had; nothing was done to it. "
        "Give each deployment a place for snapshots of its own; if this one is of no use any "
        "more, move it away"
    )


async def identity_kept(pieces: AsyncIterator[bytes]) -> bytes | None:
    """What a snapshot's head says of its space; None if there is none, or no whole head.

    Raises:
        NewerFormat: a newer wormspace made it.
    """
    parts: list[bytes] = []
    try:
        async for raw in pieces:
            if not parts:
                _require_format(raw)
            piece = _decode_piece(raw)
            if isinstance(piece, Part):
                parts.append(piece.piece)
                if not piece.is_last:
                    continue
                piece = _decode_piece(b"".join(parts))
            return piece.identity if isinstance(piece, Head) else None
    except (BadSnapshot, UnicodeError, *MALFORMED):
        pass
    return None


async def restore(
    machine_type: type[StateMachine], pieces: AsyncIterator[bytes], identity: bytes = b""
) -> Engine:
    """The engine that a snapshot was taken of.

    Args:
        machine_type: the newest class that this replica knows.
        identity: of the space that it must be of; b"" for any.

    Raises:
        NothingKept: there are no pieces.
        WrongIdentity: it is of another space.
        BadSnapshot: damaged or cut short.
        NewerFormat: a newer wormspace made it.
        UpdateNeeded, ShapeChanged: it is of another class.
    """
    restoring = _Restoring(machine_type, identity)
    async for raw in pieces:
        try:
            if restoring.take(raw):
                return restoring.engine
        except (UnicodeError, KeyError, AttributeError, *MALFORMED) as e:
            raise BadSnapshot(f"the snapshot is damaged: {type(e).__name__}: {e}") from e
        await asyncio.sleep(0)
    if not restoring.begun:
        raise NothingKept("there is no snapshot")
    raise BadSnapshot("the snapshot is cut short")


class _Restoring:
    """An engine of which not all pieces are there yet."""

    engine: Engine

    def __init__(self, machine_type: type[StateMachine], identity: bytes) -> None:
        self._newest = machine_type
        self._identity = identity
        self._digest = hashlib.blake2b(digest_size=16)
        self._parts: list[bytes] = []
        self.begun = False

    def take(self, raw: bytes) -> bool:
        """One more piece; whether it was the last."""
        if not self.begun and not self._parts:
            _require_format(raw)
        piece = _decode_piece(raw)
        if isinstance(piece, Tail):
            if not self.begun or self._parts or piece.digest != self._digest.digest():
                raise BadSnapshot("the snapshot is damaged: its digest is another")
            return True
        self._digest.update(raw)
        if isinstance(piece, Part):
            self._parts.append(piece.piece)
            if not piece.is_last:
                return False
            piece = _decode_piece(b"".join(self._parts))
            self._parts.clear()
        if isinstance(piece, Head):
            self._begin(piece)
            self.begun = True
        elif isinstance(piece, Value):
            machine = self.engine.machine
            kind = machine.declaration.plain[piece.attribute]
            value = tracked(kind.decode(piece.value), kind, machine._journal)
            vars(machine)[piece.attribute] = value
        elif isinstance(piece, Chunk):
            self._fill(piece.name, piece.items)
        return False

    def _begin(self, head: Head) -> None:
        if self.begun:
            raise BadSnapshot("the snapshot is damaged: it begins twice")
        if self._identity:
            require_same(head.identity, self._identity)
        what = f"the snapshot of a {head.machine}"
        machine = Lineage(self._newest).at(head.version, head.shape, what)()
        self.engine = engine = Engine(machine, self._newest)
        for name, kind in machine.declaration.plain.items():
            if kind.container is not None:
                vars(machine)[name] = tracked(kind.container(), kind, machine._journal)
        engine.position = head.position
        engine.identity = head.identity
        engine.rests = set(head.rests)
        engine.emitted = head.emitted
        engine.chain = head.chain
        engine.time_ns = head.time_ns
        engine.chains[head.position] = head.chain
        engine.sessions.load(SessionTable(head.batches, []))

    def _fill(self, name: str, items: bytes) -> None:
        machine = self.engine.machine
        declaration = machine.declaration
        if not name:
            self.engine.sessions.add(_decode_sessions(items))
        elif name in declaration.tables:
            table = vars(machine)[name]
            table.fill(declaration.decode_rows[name](items))
        else:
            kind = declaration.plain[name]
            container = vars(machine)[name]
            if kind.container is None:
                raise BadSnapshot(f"the snapshot is damaged: {name!r} is in pieces")
            container.fill(kind.decode_items(items))


def _require_format(raw: bytes) -> None:
    """Refuse what a newer wormspace made, before anything else of it is read."""
    head = _decode_anything(raw)
    if not isinstance(head, list) or head[:1] not in (["head"], ["part"]):
        raise BadSnapshot("this is no snapshot, or its beginning is missing")
    made = head[1] if head[0] == "head" and len(head) > 1 else None
    if isinstance(made, int) and made > FORMAT:
        raise NewerFormat.of("a snapshot", made, FORMAT)
