"""The decision: the AND of the votes.

This is all of atomic commit that is not in the registers (Gray and Lamport, "Consensus on
Transaction Commit", 2006: a transaction commits iff every resource manager's instance of consensus
chose "prepared").  A vote never changes once it stands, so an outcome, once it is not `UNDECIDED`,
never changes either, whoever computes it and whenever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from wormspace.errors import NewerFormat, ProtocolViolation
from wormspace.malformed import MALFORMED

YES, NO, MISSING = "yes", "no", "missing"
COMMITTED, ABORTED, UNDECIDED = "committed", "aborted", "undecided"


def after(so_far: str, vote: str) -> str:
    """The outcome when one more vote is looked at."""
    if so_far == ABORTED:
        return ABORTED
    if vote == NO:
        return ABORTED
    if vote == MISSING:
        return UNDECIDED
    return so_far


def outcome(votes: Iterable[str]) -> str:
    """COMMITTED iff all votes are YES, ABORTED iff one is NO, else UNDECIDED."""
    so_far = COMMITTED
    for vote in votes:
        so_far = after(so_far, vote)
    return so_far


class Vote(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a vote register holds.

    Attributes:
        yes: whether the resource manager is prepared, durably, and will obey.
        participants: all resource managers of the transaction; () where the voter, a resolver
            that found a branch and no vote, does not know them: it says no, so nobody asks.
        gid: the branch as the resource manager calls it.
        at: when it was written, in seconds since 1970 by the writer's clock; for people only.
        by: who wrote it: the resource manager itself, or whoever gave up waiting for it.
        reason: why it is no.
        conflict: whether a lock was the reason.
    """

    yes: bool
    participants: tuple[str, ...]
    gid: str
    at: float
    by: str
    reason: str = ""
    conflict: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Vote).decode

VOTE_FORMAT = 1
REASON_MAX = 200
_MARK = b"\xc1"
"""How a vote begins, and nothing that msgpack makes does; the format's version follows."""


def shortened(reason: str) -> str:
    """Why it is no, as a vote says it: it must fit into a register, whatever a database said."""
    text = reason.encode(errors="replace").decode()
    return text if len(text) <= REASON_MAX else f"{text[: REASON_MAX - 3]}..."


def encode(vote: Vote) -> bytes:
    """As it is written."""
    return _MARK + bytes([VOTE_FORMAT]) + _encode(vote)


def decode(raw: bytes) -> Vote:
    """As it was written.

    Raises:
        NewerFormat: a newer wormspace wrote it.
        ProtocolViolation: somebody wrote something else there.
    """
    if raw[:1] != _MARK or len(raw) < 2:
        raise ProtocolViolation("a vote register holds something else")
    if raw[1] > VOTE_FORMAT:
        raise NewerFormat.of("a vote", raw[1], VOTE_FORMAT)
    try:
        return _decode(raw[2:])
    except MALFORMED as e:
        raise ProtocolViolation(f"a vote register holds something else: {e}") from e


class Decision(msgspec.Struct, frozen=True, gc=False):
    """How a transaction ended.

    Attributes:
        outcome: COMMITTED or ABORTED.
        culprit: of an aborted one, the resource manager whose register says no.
        by: who wrote that no: the resource manager itself, or somebody who did not wait for it.
        reason: what the no says.
        conflict: whether a lock was the reason.
        pending: resource managers that have not acted on it yet, as far as the one who says this
            knows; the outcome stands, and they learn it when they can be reached.
    """

    outcome: str
    culprit: str = ""
    by: str = ""
    reason: str = ""
    conflict: bool = False
    pending: tuple[str, ...] = ()

    @property
    def committed(self) -> bool:
        """Whether it took effect."""
        return self.outcome == COMMITTED


ALL_YES = Decision(COMMITTED)


def refusal(manager: str, vote: Vote) -> Decision:
    """The abort that a no in the manager's register means."""
    return Decision(ABORTED, manager, vote.by, vote.reason, vote.conflict)


def said(vote: Vote | None) -> str:
    """What a register says: `MISSING` if it is empty."""
    if vote is None:
        return MISSING
    return YES if vote.yes else NO


def judge(participants: Iterable[str], votes: Mapping[str, Vote]) -> Decision | None:
    """The decision that standing votes mean; None while one is missing and none is no.

    Only the participants' registers count: `retire` writes no into those that nobody needed.
    """
    so_far = COMMITTED
    for manager in participants:
        vote = votes.get(manager)
        so_far = after(so_far, said(vote))
        if vote is not None and so_far == ABORTED:
            return refusal(manager, vote)
    return ALL_YES if so_far == COMMITTED else None
