"""What the servers reported of registers that are on their way to a listener."""

from __future__ import annotations

import msgspec

from wormspace.knobs import KNOBS

VOTES_BYTES = 600
"""What a register takes until it is delivered, beside the values reported for it."""

PROPOSAL_BYTES = 150
"""And each further ballot under which it was reported."""

QUEUED_BYTES = 80
"""And its place in the queue of each server that reported it, delivered or not."""


class Proposal(msgspec.Struct):
    """What was accepted under one ballot: by whom (a mask), and what, once one of them sent it."""

    voters: int = 0
    value: bytes | None = None


class Votes(msgspec.Struct):
    """A register on its way to delivery; the integers are masks of servers.

    Attributes:
        by_ballot: what was reported, by ballot.
        voters: who reported it, under any ballot.
        heads: those of them that reported nothing before it that is still to be delivered.
        value: its value, once it is known to be decided.
        read: whether that is known from reading it: too few reported it.
        empty_at: when a reading began that found it empty, if nobody reported it since; else 0.
        bytes: what it takes in memory.
    """

    since: float
    by_ballot: dict[bytes, Proposal]
    voters: int = 0
    heads: int = 0
    value: bytes | None = None
    reading: bool = False
    read: bool = False
    empty_at: float = 0.0
    bytes: int = VOTES_BYTES


class Undecided(dict[tuple[int, int], Votes]):
    """The registers on their way, in the order in which they were reported first.

    Attributes:
        bytes: what all of them take in memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def open(self, at: tuple[int, int], since: float) -> Votes:
        """A register is reported for the first time."""
        votes = self[at] = Votes(since, {})
        self.bytes += votes.bytes
        return votes

    def grow(self, votes: Votes, by: int) -> None:
        """A register on its way takes more."""
        votes.bytes += by
        self.bytes += by

    def drop(self, at: tuple[int, int]) -> None:
        """A register is delivered, or of no interest any more."""
        votes = self.pop(at, None)
        if votes is not None:
            self.bytes -= votes.bytes

    def is_too_much(self, queued: int) -> bool:
        """Whether they take too much, with so many places in queues."""
        return self.bytes + QUEUED_BYTES * queued > KNOBS.register_undecided_bytes
