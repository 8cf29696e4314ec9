"""What the servers reported of registers that are on their way to a listener."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from wormspace.knobs import KNOBS

VOTES_BYTES = 600
"""What a register takes until it is delivered, beside the values reported for it."""

PROPOSAL_BYTES = 150
"""And each further ballot under which it was reported."""

QUEUED_BYTES = 80
"""And its place in the queue of each server that reported it, delivered or not."""


def numbers_within(keys: Collection[int], first: int, stop: int) -> list[int]:
    """Which of some keys of a dictionary are in [first, stop): whichever of both is shorter."""
    if stop - first < len(keys):
        return [n for n in range(first, stop) if n in keys]
    return [n for n in keys if first <= n < stop]


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

    Each operation costs the same however many there are; dropping segments costs what is dropped.

    Attributes:
        bytes: what all of them take in memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._offsets: dict[int, set[int]] = {}

    def open(self, at: tuple[int, int], since: float) -> Votes:
        """A register is reported for the first time."""
        votes = self[at] = Votes(since, {})
        self.bytes += votes.bytes
        number, offset = at
        offsets = self._offsets.get(number)
        if offsets is None:
            self._offsets[number] = {offset}
        else:
            offsets.add(offset)
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
            number, offset = at
            offsets = self._offsets[number]
            offsets.discard(offset)
            if not offsets:
                del self._offsets[number]

    def drop_segments(self, first: int, stop: int) -> None:
        """All registers of segments [first, stop) are of no interest any more."""
        for number in numbers_within(self._offsets, first, stop):
            for offset in list(self._offsets[number]):
                self.drop((number, offset))

    def is_too_much(self, queued: int) -> bool:
        """Whether they take too much, with so many places in queues."""
        return self.bytes + QUEUED_BYTES * queued > KNOBS.registers_undecided_bytes
