"""Phase 2: write values under a ballot, one verdict per register.

An `Accept` is sent to every server and ends, register by register, when a majority accepted it
(`DECIDED`) or no majority can any more (`LOST`).  LOST is *not* "did not happen": the servers that
did accept may be met by a later captor, which then completes the write.

The same machine serves a client's own write, a captor's completion of what it met, a reader's help
(the very same ballot and value again) and the unsafe write.
"""

from __future__ import annotations

import msgspec

from wormspace.paxos.ballot import NOTHING
from wormspace.paxos.effects import Send, to_all
from wormspace.paxos.messages import RefusedWrite, Write
from wormspace.paxos.quorum import is_quorum, out_of_reach

OPEN, DECIDED, LOST = 0, 1, 2


class Tally(msgspec.Struct, frozen=True):
    """The servers that refused one register, and the highest ballot they gave as the reason."""

    offset: int
    by: int
    promised: bytes


class Accept(msgspec.Struct, frozen=True):
    """`values[i]` for `offsets[i]` under one ballot; offsets are distinct.

    `answered` is the mask of servers heard of.  Refusals are rare, so only they are kept register
    by register: a server that answered and did not refuse has accepted.
    """

    servers: int
    space: str
    segment: int
    ballot: bytes
    offsets: tuple[int, ...]
    values: tuple[bytes, ...]
    answered: int = 0
    refusals: tuple[Tally, ...] = ()


def message(w: Accept) -> Write:
    """The write as it goes to a server."""
    return Write(w.space, w.segment, w.ballot, list(w.offsets), list(w.values))


def begin(w: Accept) -> tuple[Send, ...]:
    """Send it, or send it again, to every server that has not answered."""
    return to_all(w.servers, message(w), but=w.answered)


def refuse_step(
    tallies: tuple[Tally, ...], offset: int, by: int, promised: bytes
) -> tuple[Tally, ...]:
    """Fold step: one server refuses one register."""
    out: tuple[Tally, ...] = ()
    new = Tally(offset, by, promised)
    for t in tallies:
        if t.offset == offset:
            new = Tally(
                offset, t.by | by, t.promised if t.promised > new.promised else new.promised
            )
        else:
            out = (*out, t)
    return (*out, new)


def on_written(w: Accept, server: int, refused: list[RefusedWrite]) -> Accept:
    """A server's answer; a second one from the same server changes nothing."""
    bit = 1 << server
    if w.answered & bit:
        return w
    tallies = w.refusals
    for r in refused:
        tallies = refuse_step(tallies, r.offset, bit, r.promised)
    return msgspec.structs.replace(w, answered=w.answered | bit, refusals=tallies)


def verdict(servers: int, answered: int, refused_by: int) -> int:
    """The fate of one register, from who answered and who of them refused it."""
    if is_quorum(answered & ~refused_by, servers):
        return DECIDED
    if out_of_reach(refused_by, servers):
        return LOST
    return OPEN


def finished(w: Accept) -> bool:
    """Whether every register has its verdict."""
    if not is_quorum(w.answered, w.servers):
        return False
    return all(verdict(w.servers, w.answered, t.by) != OPEN for t in w.refusals)


def lost(w: Accept) -> tuple[Tally, ...]:
    """The registers that are LOST, with the ballot that stands in the way."""
    return tuple(t for t in w.refusals if verdict(w.servers, w.answered, t.by) == LOST)


def contested(w: Accept) -> tuple[Tally, ...]:
    """The registers that some server refused and that are still OPEN.

    While the servers that could tip the balance are silent, their writer may as well take them for
    lost: somebody else has captured them, and their outcome is not known either way.
    """
    return tuple(t for t in w.refusals if verdict(w.servers, w.answered, t.by) == OPEN)


def obstacle(w: Accept) -> bytes:
    """The highest ballot that any server gave as its reason to refuse."""
    top = NOTHING
    for t in w.refusals:
        if t.promised > top:
            top = t.promised
    return top
