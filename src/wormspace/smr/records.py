"""What is written into registers, said between replicas, and kept in snapshots.

A caller's commands of one turn of its event loop are a *packet*: they are numbered, sent, retried
and applied together.  A leader puts the packets of one turn of its own into a *batch*: one
register. Packets stay encoded on the way, so that what a command costs between its caller and the
replicas' state machines does not grow with the number of hands it goes through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import msgspec

from wormspace.errors import ProtocolViolation
from wormspace.malformed import MALFORMED
from wormspace.runtime.endpoints import Endpoint
from wormspace.space import Address, require_stamp, stamp

# ------------------------------------------------------------------ in registers


class Packet(msgspec.Struct, frozen=True, array_like=True):
    """Commands of one client that travel together.

    Attributes:
        client: 8 random bytes, one per incarnation of a client.
        number: counts the client's packets, from 1.
        low: the client needs no outcome of the packets below this number any more.
        commands: encoded by `calls`.
        settled: the client has had an outcome before, so replicas must know it.
    """

    client: bytes
    number: int
    low: int
    commands: bytes
    settled: bool = False


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """A claim that whoever applied everything below `position` has this digest."""

    position: Address
    digest: bytes


class Batch(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Packets, and what the commands in them may know of the world.

    Attributes:
        time_ns: since the epoch, by the proposer's clock.
        seed: for dice.
        chain: the proposer's chain of outcomes at some position it has applied.
        audit: whether replicas take a digest of their whole state after this register.
        audited: the proposer's digest of an earlier audit.
        lapsed: leases that have run for their length, by the proposer's stopwatch.
    """

    time_ns: int
    seed: int
    packets: list[Packet]
    chain: Mark | None = None
    audit: bool = False
    audited: Mark | None = None
    lapsed: list[str] = []


class Noop(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Nothing: a gap was filled, or a turn was passed on."""


class Seal(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Nothing more comes in this segment; go on with the next one."""


class Skip(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The owner of this register passes on all its later turns in this segment."""


Record: TypeAlias = Batch | Noop | Seal | Skip

T = TypeVar("T")

encode = msgspec.msgpack.Encoder().encode
_decode_record: Callable[[bytes], Record] = msgspec.msgpack.Decoder(Record).decode

NOOP = encode(Noop())
SEAL = encode(Seal())
SKIP = encode(Skip())


def decode_record(raw: bytes, address: Address) -> Record:
    """The record in a register.

    Raises:
        ProtocolViolation: something else is there.
    """
    try:
        return _decode_record(raw)
    except MALFORMED as e:
        raise ProtocolViolation(f"register {address} holds no batch of commands: {e}") from e


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A replica: its name, this incarnation's id, and where it can be called."""

    name: str
    id: bytes
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.name} ({Endpoint(self.host, self.port)})"


class SegmentMetadata(msgspec.Struct, frozen=True, array_like=True):
    """A segment's metadata: who allocated it, and so leads; and whom it knows.

    Attributes:
        owners: where turns rotate, whose turn each register is, in order.
        strategy: how it is decided who proposes, as its allocator was told.
        machine, version, shape: of what class the object was for the allocator, then; that of the
            first segment is what the object begins as (see `versions`).
        space: the space's identity, for an allocator who knew it (see `identity_told`).
    """

    leader: Member
    members: list[Member] = []
    owners: list[Member] = []
    strategy: str = ""
    machine: str = ""
    version: int = 1
    shape: dict[str, str] = {}
    space: bytes = b""


_decode_segment_metadata = msgspec.msgpack.Decoder(SegmentMetadata).decode


KIND = "smr"
FORMAT = 2
"""Of metadata and registers; raised when either changes.  Metadata of format 1 tell no identity."""


def encode_segment_metadata(segment_metadata: SegmentMetadata) -> bytes:
    """A segment's metadata, stamped with what its space is."""
    return stamp(KIND, FORMAT, encode(segment_metadata))


def decode_segment_metadata(raw: bytes, space: str) -> SegmentMetadata:
    """A segment's metadata.

    Raises:
        WrongKind: the space belongs to something else.
        NewerFormat: a newer wormspace made it.
        ProtocolViolation: it is stamped, but damaged.
    """
    _, payload = require_stamp(raw, KIND, FORMAT, space)
    try:
        return _decode_segment_metadata(payload)
    except MALFORMED as e:
        raise ProtocolViolation(f"the metadata of a segment of {space!r} is damaged: {e}") from e


def identity_told(number: int, segment_metadata: SegmentMetadata) -> bytes:
    """The identity of the space that a segment is in; b"" if its metadata does not tell it.

    It is the random id of who allocated segment 0, which decides it once.  Who did so and knew a
    space already has seen that one lose everything: this is another.  Whoever learns it writes it
    into the segments that it allocates, for segment 0 is trimmed some day.
    """
    return (
        segment_metadata.space + segment_metadata.leader.id
        if number == 0
        else segment_metadata.space
    )


# ------------------------------------------------------------------ outcomes


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """An exception that a command raised."""

    kind: str
    text: str
    arguments: list[Any] | None = None


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What came of a packet: the results in order, and of those that failed, why.

    `refused` says that the packet as a whole was not applied.
    """

    values: list[Any]
    faults: dict[int, Fault] = {}
    refused: str = ""


class RawOutcome(msgspec.Struct, frozen=True, array_like=True):
    """The same with each result still encoded."""

    values: list[msgspec.Raw]
    faults: dict[int, Fault] = {}
    refused: str = ""


decode_outcome = msgspec.msgpack.Decoder(RawOutcome).decode
decode_plain_outcome = msgspec.msgpack.Decoder(Outcome).decode

# ------------------------------------------------------------------ between replicas


class Question(msgspec.Struct, frozen=True, array_like=True):
    """Encoded queries, to be answered once the leader's capture is known to stand.

    `level` names the consistency; `seen` is what the asker's session has seen.
    """

    queries: bytes
    level: str
    seen: Address


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """The answer to a packet or a question.

    Attributes:
        body: an encoded outcome; None if this replica cannot give one now.
        position: what the answer has seen.
        leader: who to turn to instead, if that is known.
        largest: the size of the largest packet that goes into a register; 0 if that is not said.
        too_large: the packet was larger, and was not applied.
    """

    body: bytes | None
    position: Address
    leader: Member | None = None
    largest: int = 0
    too_large: bool = False


Top: TypeAlias = tuple[int, bytes]
"""A segment's number, and the id of the replica that allocated it."""


class Ping(msgspec.Struct, frozen=True, array_like=True):
    """A follower to its leader: who it is, and how far it and its snapshots are.

    Attributes:
        newest: the newest version of the object that it has the class of.
        needed: from where on registers must be kept for whoever fetches a snapshot from it.
        top: the newest segment that it knows, by which a replica of another object is recognised.
    """

    member: Member
    applied: Address
    kept: Address
    newest: int = 1
    needed: Address | None = None
    top: Top = (-1, b"")


class Pong(msgspec.Struct, frozen=True, array_like=True):
    """The answer, and who gives it: it need not be the replica that was at this address before.

    Attributes:
        age_s: how long ago a majority of servers confirmed that it leads; None: it does not lead.
        top: as in `Ping`.
    """

    member: Member
    age_s: float | None
    applied: Address
    members: list[Member]
    top: Top = (-1, b"")


class Fetch(msgspec.Struct, frozen=True, array_like=True):
    """Ask for piece `index` of a snapshot; index 0 begins a new one, named by `ticket` then on."""

    ticket: int
    index: int


class Fetched(msgspec.Struct, frozen=True, array_like=True):
    """One piece of a snapshot, b"" after the last."""

    ticket: int
    piece: bytes


class Listen(msgspec.Struct, frozen=True, array_like=True):
    """Ask for the events after number `after`; waits for some, but not for ever."""

    after: int


class Listened(msgspec.Struct, frozen=True, array_like=True):
    """Encoded events, the first of which has number `first`.

    `lost`: what was asked for is not held here any more, and `first` is the oldest that is.
    """

    first: int
    events: list[msgspec.Raw]
    lost: bool = False


def decoder(kind: type[T]) -> Callable[[bytes], T]:
    """The decoding function for one kind of message."""
    return msgspec.msgpack.Decoder(kind).decode
