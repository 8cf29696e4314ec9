"""Turns rotate: register `i` of a segment belongs to owner `i mod n` (Mencius, OSDI'08).

Each owner writes its own registers in one round trip and without a capture: nobody else ever
writes them unsafely.  So every replica commits what its own callers say, and the load of leading is
spread. The price is that a register is applied only when all before it are decided: an owner that
has nothing to say fills its turns as soon as it sees others go ahead.

The segment's metadata names the owners, by incarnation: one that was restarted owns nothing in
older segments, and so cannot write a register twice.  Whoever is not among the owners allocates a
segment that has it among them; the others *skip* all their later turns in the older one, and
follow.  For an owner that holds the others up for too long, whoever captures its next register
first writes the skip, and it is left out of later segments; if it was alive after all, its write
fails, and it comes back with a segment of its own.
"""

from __future__ import annotations

import asyncio
import logging
import math

import msgspec

from wormspace.errors import Closed, RaceLost, Trimmed, Unavailable
from wormspace.knobs import KNOBS
from wormspace.rpc import Patience
from wormspace.runtime.retrying import RETRY_S
from wormspace.runtime.tasks import Tasks
from wormspace.smr.leaderless import Equal
from wormspace.smr.peers import MOST
from wormspace.smr.records import NOOP, SKIP, Member, Packet
from wormspace.smr.replica_context import Proposer, ReplicaContext
from wormspace.space import Address, Segment
from wormspace.space.arguments import as_timeout

log = logging.getLogger("wormspace.smr")

PINGS_PER_TIMEOUT = 4


class Rotating(msgspec.Struct, frozen=True):
    """Every replica proposes in its turns, in one round trip and without captures.

    Attributes:
        timeout_s: how long an owner may hold the others up, where all are quick to answer.
    """

    timeout_s: float = 1.0

    def __post_init__(self) -> None:
        as_timeout(self.timeout_s)

    @property
    def strategy(self) -> str:
        return "rotating"

    def make_proposer(self, context: ReplicaContext) -> Proposer:
        return RotatingProposer(context, self.timeout_s)


class _Turns:
    """This replica's registers in one segment."""

    __slots__ = ("count", "next", "resting", "segment")

    def __init__(self, segment: Segment, first: int, count: int) -> None:
        self.segment = segment
        self.next = first
        self.count = count
        self.resting = False


class _Other:
    """How quick another replica is: some may be further than others.

    Attributes:
        is_left_out: whether this replica allocated a segment without it, for it gave no answer.
    """

    __slots__ = ("is_left_out", "patience")

    def __init__(self, timeout_s: float) -> None:
        self.patience = Patience(timeout_s, PINGS_PER_TIMEOUT)
        self.is_left_out = False


class RotatingProposer(Equal):
    """One replica among those whose turns rotate."""

    def __init__(self, context: ReplicaContext, timeout_s: float) -> None:
        super().__init__(context)
        self._timeout_s = timeout_s
        self._others_seen: dict[str, _Other] = {}  # by name: they come back with another identity
        self._turns: dict[int, _Turns] = {}
        self._examined = -1
        self._written: dict[Address, list[Packet]] = {}
        self._writes = Tasks(f"{context.member}: a write")
        self._alive: dict[bytes, float] = {}  # when each owner that was greeted answered last
        self._stuck_at = Address(0, 0)
        self._stuck_since = context.loop.time()

    async def run(self) -> None:
        context = self._context
        context.learner.on_change = self._wake.set
        context.learner.listen()
        pinging = Tasks(f"{context.member}: pinging")
        pinging.spawn(self._ping_all())
        try:
            while True:
                try:
                    async with asyncio.timeout(self._timeout_s / PINGS_PER_TIMEOUT):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                self._wake.clear()
                try:
                    await self._turn()
                except (Unavailable, Trimmed, RaceLost) as e:
                    log.info("%s: trying again: %s", context.member, e)
                    await asyncio.sleep(RETRY_S)
        finally:
            self.end()
            pinging.cancel()
            self._writes.cancel()

    async def _turn(self) -> None:
        """Look at what has changed, and do what is this replica's to do."""
        self._collect()
        await self._examine()
        mine = self._turns.get(self._context.learner.highest)
        if mine is None or mine.resting or mine.next >= mine.segment.size:
            await self._allocate()
            mine = self._turns.get(self._context.learner.highest)
        for number, turns in list(self._turns.items()):
            if turns is not mine:
                self._rest(number, turns)
        if mine is not None:
            self._pass_on(mine)
            self._speak(mine)
        await self._unblock()

    # ------------------------------------------------------------ segments

    async def _examine(self) -> None:
        """Find this replica's turns in segments that are new."""
        context, learner = self._context, self._context.learner
        first = max(self._examined + 1, learner.position.segment)
        for number in range(first, learner.highest + 1):
            segment_metadata = learner.segment_metadata(number)
            if segment_metadata is None:
                continue
            self._examined = number
            allocator = self._other(segment_metadata.leader.name)
            if allocator.is_left_out:
                # It is alive, and answers later than it was waited for.
                allocator.is_left_out = False
                allocator.patience.ran_out()
            ids = [owner.id for owner in segment_metadata.owners]
            if context.member.id in ids:
                segment = await context.space.segment(number)
                self._turns[number] = _Turns(segment, ids.index(context.member.id), len(ids))
        for number in [n for n in self._turns if n < learner.position.segment]:
            del self._turns[number]

    async def _allocate(self) -> None:
        """A segment in which this replica has turns, with all owners who are alive."""
        context, learner = self._context, self._context.learner
        highest = learner.highest
        if await context.space.tail() > highest + 1:
            await asyncio.sleep(RETRY_S)
            return  # there are segments that this replica has not learned of yet
        others = self._others(highest)
        # Those who were not greeted yet may be alive: left out, they would allocate, in turn.
        unknown = [owner for owner in others if owner.id not in self._alive]
        await self._greet_all(unknown)
        alive = [owner for owner in others if self._is_alive(owner)]
        for owner in others:
            self._other(owner.name).is_left_out = owner not in alive
        owners = sorted([context.member, *alive], key=lambda owner: owner.id)
        segment = await context.space.alloc(
            context.segment_metadata(owners), context.tuning.segment_size
        )
        learner.allocated(segment.number, segment.size, segment.metadata)
        await self._examine()

    # ------------------------------------------------------------ turns

    def _speak(self, turns: _Turns) -> None:
        """Write what is queued, in this replica's next turns."""
        context = self._context
        while self._queue and len(self._writes) < context.tuning.pipeline:
            if turns.next >= turns.segment.size:
                self._wake.set()
                return
            packets = context.take(self._queue)
            place = self._write(turns, context.batch(packets))
            self._written[place] = packets
        idle = not self._queue and not self._writes
        if idle and turns.next < turns.segment.size and context.is_due():
            self._write(turns, context.batch([]))

    def _pass_on(self, turns: _Turns) -> None:
        """Fill this replica's turns before what others have said (Mencius: skip)."""
        ahead = self._context.learner.ahead(turns.segment.number)
        furthest = max(ahead, default=-1)
        while turns.next < min(furthest, turns.segment.size):
            if len(self._writes) >= KNOBS.smr_registers_in_flight:
                return  # goes on when one is written
            if self._queue:
                packets = self._context.take(self._queue)
                self._written[self._write(turns, self._context.batch(packets))] = packets
            else:
                self._write(turns, NOOP)

    def _rest(self, number: int, turns: _Turns) -> None:
        """Say nothing more in a segment that others have left."""
        if not turns.resting and turns.next < turns.segment.size:
            self._write(turns, SKIP)
        turns.resting = True

    def _write(self, turns: _Turns, raw: bytes) -> Address:
        place = Address(turns.segment.number, turns.next)
        turns.next += turns.count
        self._writes.spawn(self._insist(turns, place, raw), self._on_written)
        return place

    def _on_written(self, task: asyncio.Task[None]) -> None:
        self._wake.set()
        if not task.cancelled() and task.exception() is not None:
            log.warning("%s: a write failed: %s", self._context.member, task.exception())

    async def _insist(self, turns: _Turns, place: Address, raw: bytes) -> None:
        """Write one of this replica's registers; if it was taken away, find out what it holds."""
        while True:
            try:
                await turns.segment.unsafe_write(place.offset, raw)
            except Unavailable:
                await asyncio.sleep(RETRY_S)  # the same value: always safe
            except RaceLost:
                turns.resting = True
                await self._settle(turns.segment, place)
                return
            except (Trimmed, Closed):
                return
            else:
                self._context.learner.learn(place, raw)
                return

    async def _settle(self, segment: Segment, place: Address) -> None:
        """Decide a register; in an empty one, its owner skips."""
        while True:
            try:
                value = await segment.settle(place.offset, SKIP)
            except Unavailable:
                await asyncio.sleep(self._context.rng.uniform(0, RETRY_S))
            except (Trimmed, Closed):
                return
            else:
                self._context.learner.learn(place, value)
                return

    def _collect(self) -> None:
        """What was written and is behind: packets that were not applied are said again."""
        position = self._context.learner.position
        for place in [p for p in self._written if p < position]:
            for packet in self._written.pop(place):
                if (packet.client, packet.number) in self._context.waiting:
                    self._queue.append(packet)

    # ------------------------------------------------------------ others

    async def _unblock(self) -> None:
        """Skip the turns of an owner that has held everybody up for too long."""
        learner, loop = self._context.learner, self._context.loop
        position = learner.position
        now = loop.time()
        waited_for = (
            learner.ahead(position.segment)
            or position.segment < learner.highest
            or any(place > position for place in self._written)
        )
        if position != self._stuck_at or not waited_for:
            self._stuck_at, self._stuck_since = position, now
            return
        segment_metadata = learner.segment_metadata(position.segment)
        if segment_metadata is None:
            return
        owner = (
            segment_metadata.owners[position.offset % len(segment_metadata.owners)]
            if segment_metadata.owners
            else None
        )
        if owner is not None and owner.id == self._context.member.id:
            return  # this replica's own write is under way
        patience = self._other("" if owner is None else owner.name).patience
        if now - self._stuck_since < patience.seconds * self._context.rng.uniform(1, 1.25):
            return
        segment = await self._context.space.segment(position.segment)
        if position.offset < segment.size:
            log.info(
                "%s: the turns of %s are skipped from %s on", self._context.member, owner, position
            )
            patience.ran_out()
            if owner is not None:
                self._alive[owner.id] = -math.inf  # until it answers again
            await self._settle(segment, position)

    def _others(self, number: int) -> list[Member]:
        """The other owners of turns in a segment."""
        segment_metadata = self._context.learner.segment_metadata(number)
        owners = [] if segment_metadata is None else segment_metadata.owners
        return [owner for owner in owners if owner.id != self._context.member.id]

    def _other(self, name: str) -> _Other:
        """What is known of how quick a replica is."""
        other = self._others_seen.get(name)
        if other is None:
            if len(self._others_seen) >= MOST:
                del self._others_seen[next(iter(self._others_seen))]
            other = self._others_seen[name] = _Other(self._timeout_s)
        return other

    def _is_alive(self, owner: Member) -> bool:
        """Whether it has answered of late."""
        since = self._context.loop.time() - self._other(owner.name).patience.seconds
        return self._alive.get(owner.id, -math.inf) > since

    async def _ping_all(self) -> None:
        """See which owners are alive, for the next segment."""
        context = self._context
        while True:
            others = self._others(context.learner.highest)
            ids = {owner.id for owner in others}
            self._alive = {who: at for who, at in self._alive.items() if who in ids}
            await self._greet_all(others)
            await asyncio.sleep(self._timeout_s / PINGS_PER_TIMEOUT)

    async def _greet_all(self, owners: list[Member]) -> None:
        """Note which of them are alive now."""
        await asyncio.gather(*(self._greet(owner) for owner in owners))

    async def _greet(self, owner: Member) -> None:
        loop, other = self._context.loop, self._other(owner.name)
        asked = loop.time()
        if await self._context.greet(owner, other.patience.question_s) is not None:
            self._alive[owner.id] = loop.time()
            other.is_left_out = False
            other.patience.answered(loop.time() - asked)
        else:
            self._alive.setdefault(owner.id, -math.inf)
