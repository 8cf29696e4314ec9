"""Tell every server something that needs no vote, until a majority has it durably.

Used for trim: by then the trim register is decided, so nothing can go wrong with it any more.
"""

from __future__ import annotations

import msgspec

from wormspace.paxos.effects import Send, to_all
from wormspace.paxos.messages import Request
from wormspace.paxos.quorum import is_quorum


class Broadcast(msgspec.Struct, frozen=True):
    """`message` for everybody; `heard` is the mask of servers that carried it out."""

    servers: int
    message: Request
    heard: int = 0


def begin(t: Broadcast) -> tuple[Send, ...]:
    """Send it, or send it again, to every server that has not answered."""
    return to_all(t.servers, t.message, but=t.heard)


def on_done(t: Broadcast, server: int) -> Broadcast:
    """A server carried it out; a second answer of the same server changes nothing."""
    return msgspec.structs.replace(t, heard=t.heard | 1 << server)


def finished(t: Broadcast) -> bool:
    """Whether a majority has it."""
    return is_quorum(t.heard, t.servers)
