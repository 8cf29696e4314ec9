"""A transaction space: what all of its processes must agree on, decided once, in one register.

The metadata of segment 0 of the address space of that name says it: the space's identity, a random
number that nobody else has, and how many registers a vote segment has.  Whoever needs it first
allocates that segment; of those who race for it one wins, and the others read what it wrote.

The identity is in the identifier of every prepared branch.  A process resolves only those of its
own transaction space: of any other it cannot read the votes, and so knows nothing.
"""

from __future__ import annotations

import msgspec

from wormspace.errors import NotAllocated, ProtocolViolation, Trimmed, Unavailable
from wormspace.knobs import KNOBS
from wormspace.malformed import MALFORMED
from wormspace.runtime.deadlines import LEAST_S, left
from wormspace.space import Client, Segment, require_stamp, stamp
from wormspace.tx.names import Gid, TxId, vote_space

KIND = "tx"
FORMAT = 1
TRY_S = 1.0
"""After which it is looked whether somebody else has made it meanwhile; twice that the next time,
for where the servers are far it takes longer."""


class _Says(msgspec.Struct, frozen=True, array_like=True):
    """The payload of segment 0's stamp."""

    identity: str
    segment_size: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Says).decode


class TransactionSpace(msgspec.Struct, frozen=True):
    """A transaction space that exists.

    Attributes:
        name: as its users call it.
        identity: 16 hexadecimal digits that no other transaction space has.
        segment_size: registers per vote segment.
    """

    name: str
    identity: str
    segment_size: int

    def gid(self, manager: str, txid: TxId) -> Gid:
        """The name of a manager's branch."""
        return Gid(self.identity, self.name, manager, txid)

    def owns(self, gid: Gid) -> bool:
        """Whether a branch belongs to a transaction of this space."""
        return gid.identity == self.identity and gid.space == self.name

    def vote_space(self, manager: str, initiator: str) -> str:
        """Where a manager's votes for an initiator are."""
        return vote_space(self.name, manager, initiator)

    @property
    def stamp(self) -> bytes:
        """The metadata of its vote segments."""
        return stamp(KIND, FORMAT, self.identity.encode())

    def check(self, segment: Segment) -> Segment:
        """`segment`, if it is a vote segment of this space.

        Raises:
            WrongKind: the space is something else.
            NewerFormat: a newer wormspace made it.
            ProtocolViolation: it is another transaction space's.
        """
        _, payload = require_stamp(segment.metadata, KIND, FORMAT, segment.space.name)
        if payload != self.identity.encode() or segment.size != self.segment_size:
            raise ProtocolViolation(
                f"{segment} is no vote segment of transaction space {self.name!r}: those have "
                f"{self.segment_size} registers and name the identity {self.identity}"
            )
        return segment


async def find_space(client: Client, name: str, deadline: float) -> TransactionSpace | None:
    """The transaction space of that name; None if nobody has made it yet.

    Raises:
        WrongKind: the address space of that name is something else.
        NewerFormat: a newer wormspace made it.
        Trimmed: somebody trimmed it.
        Unavailable.
    """
    try:
        segment = await client.space(name).segment(0, timeout=left(deadline))
    except NotAllocated:
        return None
    except Trimmed as e:
        raise Trimmed(
            f"transaction space {name!r} was trimmed, and with it what tells its branches from "
            "those of others: choose another name; what is still prepared under the old one has "
            "to be finished by hand (docs/in-doubt.md)"
        ) from e
    _, payload = require_stamp(segment.metadata, KIND, FORMAT, name)
    try:
        says = _decode(payload)
    except MALFORMED as e:
        raise ProtocolViolation(f"what transaction space {name!r} says of itself: {e}") from e
    return TransactionSpace(name, says.identity, says.segment_size)


async def open_space(client: Client, name: str, deadline: float) -> TransactionSpace:
    """The transaction space of that name; it is made if there is none.

    Raises:
        WrongKind, NewerFormat, Trimmed, Unavailable: as `find_space`.
    """
    try_s = TRY_S
    while True:
        found = await find_space(client, name, deadline)
        if found is not None:
            return found
        says = _Says(f"{client.rng.getrandbits(64):016x}", KNOBS.tx_segment_size)
        try:
            await client.space(name).alloc(
                stamp(KIND, FORMAT, _encode(says)), timeout=min(try_s, left(deadline))
            )
        except Unavailable:
            if left(deadline) <= LEAST_S:
                raise
            try_s *= 2
