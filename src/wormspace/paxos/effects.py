"""What a proposer operation wants done: messages to send.  Its result is in its own state."""

from __future__ import annotations

import msgspec

from wormspace.paxos.messages import Request
from wormspace.paxos.quorum import everyone, members


class Send(msgspec.Struct, frozen=True):
    """Send `message` to server number `server` of the partition."""

    server: int
    message: Request


def to_all(servers: int, message: Request, but: int = 0) -> tuple[Send, ...]:
    """`message` to every server but those in the mask `but`."""
    return tuple(Send(i, message) for i in members(everyone(servers) & ~but))
