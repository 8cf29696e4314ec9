"""A learner: counts what the servers of a partition say they accepted.

Servers push every write when they accept it, so a listener learns of a decision as early as the
writer does: when a majority accepted one register under one ballot.  A register that stays short
of a majority (its writer died, or an event was lost with a connection) is read after a moment,
which completes it.  Of two servers that accepted a decision, each may have done so while its own
stream was away, at different times.  So the listener says `Gap` whenever a stream is lost, and when
it is back: whatever is decided by then is met by a read, and what one of the majority that answered
that read accepted later is heard from it, as long as its stream stands.

Values: a majority of the servers sends them along, the others only tell that they accepted
something, and under which ballot.  Any two majorities share a server, so whichever servers are the
first to accept a register, one of them has sent its value: nobody waits for a server that is slow.

Order: a register is delivered when it stands at the *head* of a majority of the streams, that is,
when all that those servers accepted before it has been delivered.  If one write was done before
another began, the majorities that accepted the two share a server, whose stream has them in that
order; so they are delivered in that order, whichever of the servers is slow or was away.

The past has the order of addresses, and the consumer reads it while the present arrives; so a
register that it reads may be on its way as an event, too.  If it was written after the streams
stood, its event has its place among the others, and is waited for.  If not, it belongs to the past,
and must not wait: a server that was slow may report it long after what was written later was read.
A server reports what it accepts before it answers a read that shows it.  So a register that was
written after the streams stood was reported by a majority before a read shows it, and by nobody
before the reading began (`PartitionListener.is_coming`).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import takewhile
from typing import TypeAlias

from wormspace.addresses import SegmentName
from wormspace.errors import Refused, Trimmed, WormError
from wormspace.knobs import KNOBS
from wormspace.paxos.messages import Done
from wormspace.paxos.quorum import is_quorum, out_of_reach
from wormspace.registers.interface import Event, Gap, RegistersTrimmed, Wrote
from wormspace.registers.paxos.partition import Partition
from wormspace.registers.paxos.votes import (
    PROPOSAL_BYTES,
    Proposal,
    Undecided,
    Votes,
    numbers_within,
)
from wormspace.registers.spans import OffsetSet, SpanSet
from wormspace.runtime.tasks import Tasks
from wormspace.wire.messages import (
    ONE_WAY,
    Accepted,
    Failed,
    Lagging,
    Listen,
    ServerMessage,
    TrimNotice,
    Unlisten,
)

log = logging.getLogger("wormspace.listen")

LATE_S = 0.1
"""How long a register may stay short of a majority before it is read, and how long the listener
waits for a server that is slow to open its stream before it makes do with a majority."""

GAP_S = 2.0
"""How long after a `Gap` a listener that loses a stream says another, so that a connection that
comes and goes does not make it read all the time."""

ReadOne: TypeAlias = Callable[[SegmentName, int], Awaitable[bytes | None]]


class PartitionListener:
    """One partition's share of a `listen`."""

    def __init__(
        self,
        partition: Partition,
        space: str,
        first: int,
        stop: int,
        read_one: ReadOne,
        emit: Callable[[Event], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._partition = partition
        self._message = Listen(space, first, stop)
        self._bare = Listen(space, first, stop, values=False)
        self._read_one = read_one
        self._emit = emit
        self._fail = fail
        self._loop = asyncio.get_running_loop()
        self._id = partition.enter(self)
        self._streams = 0
        self._sources = 0
        self._refused = 0
        self._whole = False
        self._is_past_unread = False
        self._reads_past = False
        self._read_since = 0.0
        self._gap_at = 0.0
        self._is_gap_due = False
        self._votes = Undecided()
        self._queues: list[deque[tuple[int, int]]] = [deque() for _ in range(partition.size)]
        self._delivered: dict[int, OffsetSet] = {}
        self._left = SpanSet()
        self._readers = Tasks("reading what a listener lacks")
        self._timer = self._loop.call_later(LATE_S, self._look)
        self._over = False
        first = partition.pick()  # so that of many listeners each server has its share
        for n in range(partition.size):
            server = (first + n) % partition.size
            if partition.up >> server & 1:
                self.on_up(server)

    def close(self) -> None:
        """End the subscription."""
        if self._over:
            return
        self._over = True
        self._timer.cancel()
        self._readers.cancel()
        self._partition.leave(self._id)
        for server in range(self._partition.size):
            self._partition.tell(server, ONE_WAY, Unlisten(self._id))

    def on_reading(self) -> bool:
        """The consumer has taken a `Gap` and reads; returns whether it reads the past.

        That is so after the streams of a majority have come to stand: what was accepted before was
        reported by none of them.  After another `Gap` only a little may be missing, and all else
        has its place among the events.
        """
        self._reads_past, self._is_past_unread = self._is_past_unread, False
        self._read_since = self._loop.time()
        return self._reads_past

    def is_coming(self, number: int, offset: int) -> bool:
        """Whether a register that was just read is to be left to its event, not yet emitted."""
        votes = self._votes.get((number, offset))
        if votes is None or votes.empty_at:
            return False
        if not self._reads_past:
            return True
        return votes.since >= self._read_since and is_quorum(votes.voters, self._partition.size)

    # ------------------------------------------------------------ partition.Operation

    def on_up(self, server: int) -> None:
        if is_quorum(self._sources & ~(1 << server), self._partition.size):
            self._partition.tell(server, self._id, self._bare)
        else:
            self._sources |= 1 << server
            self._partition.tell(server, self._id, self._message)

    def on_down(self, server: int) -> None:
        self._is_gap_due = True
        self._streams &= ~(1 << server)
        self._lose_source(server)
        if not is_quorum(self._streams, self._partition.size):
            self._whole = False

    def _lose_source(self, lost: int) -> None:
        """If that server sent the values, another one shall."""
        if not self._sources >> lost & 1:
            return
        others = self._partition.up & ~self._sources & ~self._refused & ~(1 << lost)
        self._sources &= ~(1 << lost)
        for server in range(self._partition.size):
            if others >> server & 1:
                self.on_up(server)
                return

    def cancel(self, error: Exception) -> None:
        self.close()

    def on_message(self, server: int, message: ServerMessage) -> None:
        if isinstance(message, Accepted):
            self._on_accepted(server, message)
        elif isinstance(message, Done):
            self._refused &= ~(1 << server)
            is_back = not self._streams >> server & 1
            self._streams |= 1 << server
            if self._whole and is_back:
                self._say_gap()
            elif not self._partition.up & ~self._streams:
                self._become_whole()
        elif isinstance(message, TrimNotice):
            self._on_discarded(message)
        elif isinstance(message, Lagging):
            self.on_down(server)
            self.on_up(server)
        elif isinstance(message, Failed):
            self._on_failed(server, message)

    def _on_failed(self, server: int, failed: Failed) -> None:
        """A server does not take the subscription; without a majority nothing would ever come."""
        self._refused |= 1 << server
        self._lose_source(server)
        if out_of_reach(self._refused, self._partition.size):
            link = self._partition.links[server].name
            self._fail(
                Refused(f"listen on {self._message.space!r}: {link}: {failed.text}", failed.code)
            )

    # ------------------------------------------------------------ counting

    def _become_whole(self) -> None:
        """From here on events come, if a majority of the streams stands."""
        if not self._whole and is_quorum(self._streams, self._partition.size):
            self._whole = True
            self._is_past_unread = True
            self._say_gap()
            self._release()

    def _say_gap(self) -> None:
        self._gap_at = self._loop.time()
        self._is_gap_due = False
        self._emit(Gap())

    def _on_accepted(self, server: int, m: Accepted) -> None:
        is_left = m.segment in self._left
        delivered = self._delivered.get(m.segment, ())
        size, bit, queue = self._partition.size, 1 << server, self._queues[server]
        values: Sequence[bytes | None] = m.values or [None] * len(m.offsets)
        for offset, value in zip(m.offsets, values, strict=True):
            if offset in delivered:
                continue
            at = (m.segment, offset)
            votes = self._votes.get(at)
            if votes is None:
                if is_left:
                    continue
                votes = self._votes.open(at, self._loop.time())
            if not votes.voters & bit:
                votes.voters |= bit
                votes.empty_at = 0.0
                queue.append(at)
            proposal = votes.by_ballot.get(m.ballot)
            if proposal is None:
                proposal = votes.by_ballot[m.ballot] = Proposal()
                self._votes.grow(votes, PROPOSAL_BYTES)
            proposal.voters |= bit
            if value is not None and proposal.value is None:
                proposal.value = value
                self._votes.grow(votes, len(value))
            if votes.value is None and is_quorum(proposal.voters, size):
                votes.value = proposal.value
        self._release()
        if self._votes.is_too_much(sum(map(len, self._queues))):
            self._start_over()

    def _start_over(self) -> None:
        """Forget what nobody decides, or delivers; the consumer reads what is decided of it."""
        log.warning("listen on %r: too much is undecided; reading instead", self._message.space)
        self._votes = Undecided()
        for queue in self._queues:
            queue.clear()
        if self._whole:
            self._say_gap()

    def _release(self) -> None:
        """Deliver what is decided and stands at the head of enough streams.

        Nothing before the `Gap` that says so: what was written before has its place before it.
        """
        size = self._partition.size
        progress = self._whole
        while progress:
            progress = False
            for server, queue in enumerate(self._queues):
                while queue:
                    at = queue[0]
                    votes = self._votes.get(at)
                    if votes is not None:
                        votes.heads |= 1 << server
                        enough = is_quorum(votes.heads, size) or (
                            votes.read and votes.heads == votes.voters
                        )
                        if votes.value is None or not enough:
                            break
                        self._deliver(*at, votes.value)
                        progress = True
                    queue.popleft()
            if not progress:
                progress = self._break_tie()

    def _break_tie(self) -> bool:
        """Deliver one of the heads, if all of them are decided and none can become the majority's.

        Then the servers accepted them in different orders, so neither was done when another began.
        """
        heads: dict[tuple[int, int], Votes] = {}
        for server, queue in enumerate(self._queues):
            if queue:
                heads[queue[0]] = self._votes[queue[0]]
            elif self._streams >> server & 1:
                return False  # its head is still to come
        if not heads or any(votes.value is None for votes in heads.values()):
            return False
        at, votes = min(heads.items(), key=lambda item: item[1].since)
        if votes.value is not None:
            self._deliver(*at, votes.value)
        return True

    def _deliver(self, number: int, offset: int, value: bytes) -> None:
        self._emit(Wrote(self._message.space, number, offset, value))
        self._votes.drop((number, offset))
        if number not in self._left:
            self._delivered.setdefault(number, OffsetSet()).add(offset)

    def _on_discarded(self, m: TrimNotice) -> None:
        self._forget(m.segment, m.stop)
        self._votes.drop_segments(m.segment, m.stop)
        self._emit(RegistersTrimmed(m.space, m.segment, m.stop))
        self._release()

    def leave(self, first: int, stop: int) -> None:
        """The consumer has heard all that is of interest to it of segments [first, stop)."""
        self._left.add(first, stop)
        self._forget(first, stop)

    def _forget(self, first: int, stop: int) -> None:
        """What was delivered of segments [first, stop), of which nothing more is to be told."""
        for number in numbers_within(self._delivered, first, stop):
            del self._delivered[number]

    def _look(self) -> None:
        """Read what has been short of a majority, or of its value, for too long; deliver the rest.

        A decided register waits in vain where a server that has a stream never accepts what the
        others did, and behind what a server accepted and nobody decides.  It may go before whatever
        was empty still when it was itself reported.
        """
        self._timer = self._loop.call_later(LATE_S, self._look)
        self._become_whole()
        is_unheard = self._partition.up & ~self._streams  # it answers reads, and tells of nothing
        is_due = self._is_gap_due or is_unheard
        if self._whole and is_due and self._loop.time() >= self._gap_at + GAP_S:
            self._say_gap()
        before = self._loop.time() - LATE_S
        # In the order of arrival, so that what came lately costs nothing.
        late = list(takewhile(lambda item: item[1].since <= before, self._votes.items()))
        newest = max((votes.since for _, votes in late if votes.value is not None), default=0.0)
        undecided_until = math.inf
        for at, votes in late:
            if at not in self._votes:
                continue
            if votes.value is None:
                undecided_until = min(undecided_until, votes.empty_at)
                is_news = not votes.empty_at or votes.empty_at <= newest
                is_busy = len(self._readers) >= KNOBS.registers_reading_late
                if is_news and not votes.reading and not is_busy:
                    self._begin_to_read(at, votes)
            elif self._whole and votes.since < min(before - LATE_S, undecided_until):
                self._deliver(*at, votes.value)
                self._release()

    def _begin_to_read(self, at: tuple[int, int], votes: Votes) -> None:
        votes.reading = True
        self._readers.spawn(self._read_late(at, votes.voters))

    async def _read_late(self, at: tuple[int, int], voters: int) -> None:
        number, offset = at
        began = self._loop.time()
        value: bytes | None = None
        try:
            value = await self._read_one((self._message.space, number), offset)
        except Trimmed:
            self._votes.drop(at)
            self._release()
            return
        except WormError as e:
            log.info("listen: register %s/%s is undecided: %s", number, offset, e)
            began = 0.0
        votes = self._votes.get(at)
        if votes is None or self._over:
            return
        votes.reading = False
        if value is not None:
            votes.value = value
            votes.read = True
            self._votes.grow(votes, len(value))
            self._release()
        elif votes.voters == voters:
            votes.empty_at = began
