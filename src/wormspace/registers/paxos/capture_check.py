"""Does a capture still stand?  A majority's promises say so, without writing anything.

If another client's capture of the register had been granted before this question was asked, then
some server of every majority had promised it a higher ballot.  So a majority without any such
promise means: at the moment of asking, nobody else could write there.  This is what a leader asks
before it answers a read from its own state (cf. ReadIndex in Raft, section 6.4 of the thesis).
"""

from __future__ import annotations

from collections.abc import Iterable

from wormspace.addresses import SegmentName
from wormspace.paxos.effects import Send, to_all
from wormspace.paxos.messages import Read, Report, SegmentTrimmed
from wormspace.paxos.quorum import is_quorum, out_of_reach
from wormspace.paxos.ranges import ballot_at
from wormspace.registers.paxos.operations import Awaited, gone
from wormspace.registers.paxos.partition import Partition
from wormspace.wire.messages import ServerMessage


class CaptureCheckOperation(Awaited[bool]):
    """Asks every server what it has promised for one register, until a majority decides it."""

    def __init__(
        self,
        partition: Partition,
        segment_name: SegmentName,
        offset: int,
        ballot: bytes,
        deadline: float,
    ) -> None:
        super().__init__(
            partition,
            f"check of a capture of {segment_name[0]}/{segment_name[1]}/{offset}",
            deadline,
        )
        self.segment_name = segment_name
        self.offset = offset
        self.ballot = ballot
        self.standing = 0
        self.lost = 0

    def unanswered(self) -> Iterable[Send]:
        question = Read(*self.segment_name, [(self.offset, self.offset + 1)], detail=True)
        return to_all(self.partition.size, question, but=self.heard())

    def heard(self) -> int:
        return self.standing | self.lost

    def on_reply(self, server: int, message: ServerMessage) -> None:
        if isinstance(message, SegmentTrimmed):
            self.cancel(gone(self.segment_name))
            return
        if not isinstance(message, Report) or self.heard() >> server & 1:
            return
        if ballot_at(tuple(message.promises), self.offset) > self.ballot:
            self.lost |= 1 << server
        else:
            self.standing |= 1 << server
        if is_quorum(self.standing, self.partition.size):
            self.finish(True)
        elif out_of_reach(self.lost, self.partition.size):
            self.finish(False)
