"""What a client has written, by segment and ballot: bounded, and it knows what it has forgotten.

Under one ballot a register gets one value (docs/safety.md, rule 4).  So a client remembers what it
issued.  It cannot do so for ever, and what it may forget follows from what it does afterwards:

* Writes whose outcome is known may be forgotten if it is known *that* they were: a later write
  under that ballot reads the register first, and meets what was decided.
* Writes in doubt may be forgotten only if every later write under that ballot is refused: a read
  may find the register empty although a server holds the first value.
* A write under way is never forgotten.

That something was forgotten is kept as one number per space (for unsafe writes) and one ballot per
proposer (for tokens): what is at or below it *may* have been forgotten.  It can only be too much.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from wormspace.addresses import SegmentName
from wormspace.errors import BadToken
from wormspace.knobs import KNOBS
from wormspace.paxos.ballot import BALLOT_BYTES, UNSAFE, proposer_of
from wormspace.registers.paxos.issued import Issued
from wormspace.registers.paxos.operations import Owner, WriteOperation
from wormspace.registers.paxos.partition import Partition
from wormspace.registers.token import Token
from wormspace.runtime.batching import EndOfTurn

SCAN = 8
"""How many of the oldest are looked at for one that can be forgotten: a bounded piece of work."""

Group = TypeVar("Group")
Rank = TypeVar("Rank", int, bytes)


def ballot_of(token: Token) -> bytes:
    """The ballot that the token's capture was granted under.

    Raises:
        BadToken: no capture of these registers can have been granted so.
    """
    if len(token.fence) != BALLOT_BYTES or token.fence == UNSAFE:
        raise BadToken(
            "the token is not of these registers: its capture was one of another implementation"
        )
    return token.fence


class BallotWrites:
    """The writes of one segment under one ballot: what was issued, and what is being gathered.

    Attributes:
        is_forgotten: whether this client may have written under the ballot before, and does not
            remember what; all of that is decided.
        is_refused: the same, and some of that may be in doubt.
        comparing: writes under way that read the register first.
    """

    __slots__ = (
        "ballot",
        "comparing",
        "end_of_turn",
        "gathering",
        "is_forgotten",
        "is_refused",
        "issued",
        "partition",
        "segment_name",
    )

    def __init__(self, partition: Partition, segment_name: SegmentName, ballot: bytes) -> None:
        self.partition = partition
        self.segment_name = segment_name
        self.ballot = ballot
        self.is_forgotten = False
        self.is_refused = False
        self.comparing = 0
        self.issued = Issued()
        self.gathering: WriteOperation | None = None
        self.end_of_turn = EndOfTurn(self.flush)

    @property
    def is_under_way(self) -> bool:
        """Whether somebody waits for a write."""
        return bool(self.issued.open or self.comparing or self.gathering)

    def gather(self, owner: Owner) -> WriteOperation:
        """A fresh operation for the writes to come, which begins when the turn is over."""
        self.end_of_turn.request()
        self.gathering = WriteOperation(
            self.partition, self.segment_name, self.ballot, self.issued, owner
        )
        return self.gathering

    def flush(self) -> None:
        """The turn of the loop is over: send what was gathered."""
        operation, self.gathering = self.gathering, None
        if operation is not None and not operation.over:
            operation.begin()

    def cancel(self, error: Exception) -> None:
        """Give up what was gathered and not sent yet."""
        if self.gathering is not None:
            self.gathering.cancel(error)


class _Forgotten(Generic[Group, Rank]):
    """Pairs of a group and a rank, kept as the highest rank per group: a set that holds too much.

    Of many groups, the ranks are joined to one that stands for any group.
    """

    def __init__(self) -> None:
        self._highest: dict[Group, Rank] = {}
        self._anywhere: Rank | None = None

    def add(self, group: Group, rank: Rank) -> None:
        """Put it into the set."""
        self._highest[group] = max(rank, self._highest.get(group, rank))
        if len(self._highest) > KNOBS.registers_groups:
            highest = max(self._highest.values())
            self._anywhere = max(highest, self._anywhere or highest)
            self._highest.clear()

    def has(self, group: Group, rank: Rank) -> bool:
        """Whether it may be in the set."""
        highest = self._highest.get(group)
        if highest is not None and rank <= highest:
            return True
        return self._anywhere is not None and rank <= self._anywhere


class _Past:
    """Which writes of segments under ballots were forgotten."""

    def __init__(self) -> None:
        self._tokens: _Forgotten[bytes, bytes] = _Forgotten()
        self._unsafe: _Forgotten[str, int] = _Forgotten()

    def add(self, segment_name: SegmentName, ballot: bytes) -> None:
        """They were."""
        if ballot == UNSAFE:
            self._unsafe.add(*segment_name)
        else:
            self._tokens.add(proposer_of(ballot), ballot)

    def has(self, segment_name: SegmentName, ballot: bytes) -> bool:
        """Whether they may have been."""
        if ballot == UNSAFE:
            return self._unsafe.has(*segment_name)
        return self._tokens.has(proposer_of(ballot), ballot)


class Memory:
    """All that a client has written and remembers; `writes` is by segment and ballot."""

    def __init__(self) -> None:
        self.writes: dict[tuple[SegmentName, bytes], BallotWrites] = {}
        self._decided = _Past()
        self._in_doubt = _Past()

    def open(self, partition: Partition, segment_name: SegmentName, ballot: bytes) -> BallotWrites:
        """Room for writes of the segment under the ballot, which are not in `writes`."""
        while len(self.writes) >= KNOBS.registers_memory and self._forget_one():
            pass
        fresh = BallotWrites(partition, segment_name, ballot)
        fresh.is_forgotten = self._decided.has(segment_name, ballot)
        fresh.is_refused = self._in_doubt.has(segment_name, ballot)
        self.writes[segment_name, ballot] = fresh
        return fresh

    def _forget_one(self) -> bool:
        """Forget the oldest that can be: decided ones first; false if there is none."""
        is_crowded = len(self.writes) >= 2 * KNOBS.registers_memory
        for _ in range(min(SCAN, len(self.writes))):
            key = next(iter(self.writes))
            oldest = self.writes.pop(key)
            if oldest.is_under_way or (oldest.issued.doubt and not is_crowded):
                self.writes[key] = oldest
                continue
            (self._in_doubt if oldest.issued.doubt else self._decided).add(*key)
            return True
        return False
