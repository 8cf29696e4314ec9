"""What a leadership strategy has to work with, and what it must offer.

A *context* is one replica's place at the table: the space, who the replica is, its learner, its
clock and dice, and the packets whose outcome somebody here waits for.  A *proposer* is a leadership
strategy at work in one context: it takes packets to registers.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Protocol

import msgspec

from wormspace.errors import WormError
from wormspace.malformed import MALFORMED
from wormspace.rpc import Caller
from wormspace.smr.arguments import LAST_NS, as_count, as_number
from wormspace.smr.declare import StateMachine
from wormspace.smr.fetching import Announced, Fetches
from wormspace.smr.learner import Learner
from wormspace.smr.leases import IDLE_LOOK_S, LOOK_S, Stopwatches
from wormspace.smr.peers import Peers
from wormspace.smr.records import (
    Batch,
    Mark,
    Member,
    Packet,
    Ping,
    Pong,
    SegmentMetadata,
    Top,
    decoder,
    encode,
    encode_segment_metadata,
)
from wormspace.space import Address, Space
from wormspace.space.arguments import MAX_SEGMENT_SIZE

log = logging.getLogger("wormspace.smr")

_decode_pong = decoder(Pong)

SEED_BITS = 63

ROOM_BYTES = 1024
"""So much of a register is left for what travels beside the packets: times, marks, leases."""

LAPSES_TOLD = 8
"""Leases that one batch says have lapsed, at most."""

LAPSES_BYTES = 512
"""Their names may take so much of the room; what packets have left over is for longer ones."""

PACKET_BYTES, NAME_BYTES = 32, 5
"""What a packet and a lease's name take beside their bytes, at most."""

GREET_S = 1.0
"""How often replicas that have no leader greet each other."""

MEMBERS_NAMED = 16
"""Other replicas that a segment's metadata names, at most."""

SLOWER = 1 / 16
"""So much slower than real time commands' time goes while a clock that was ahead is made up for."""


class NotLeading(WormError):
    """This replica cannot propose, or cannot vouch for its state, now; another one may."""


class Tuning(msgspec.Struct, frozen=True):
    """Sizes that trade latency for throughput.

    Attributes:
        segment_size: registers per segment: what is captured, and trimmed, at once.
        batch_bytes: a register carries no more packets once it has so many bytes.
        pipeline: registers in flight at once.
        audit_s: seconds between hashes of the whole state; 0 for none.
        upgrade_s: a leader that has a newer class upgrades the object when, for so many seconds,
            nobody was heard of who has it not; 0 to upgrade only when `upgrade` is called.
    """

    segment_size: int = 1024
    batch_bytes: int = 64 * 1024
    pipeline: int = 4
    audit_s: float = 30.0
    upgrade_s: float = 10.0

    def __post_init__(self) -> None:
        as_count(self.segment_size, "Tuning.segment_size", 1, MAX_SEGMENT_SIZE)
        as_count(self.batch_bytes, "Tuning.batch_bytes", 1)
        as_count(self.pipeline, "Tuning.pipeline", 1)
        as_number(self.audit_s, "Tuning.audit_s", 0)
        as_number(self.upgrade_s, "Tuning.upgrade_s", 0)


class ReplicaContext:
    """One replica, as its proposer sees it.

    Attributes:
        member: who this replica is.
        peers: the other replicas that were heard of.
        kept: how far a snapshot goes that this replica keeps.
        fetches: the snapshots that others fetch from it; `announced`: what others have told.
        waiting: who waits for the outcome of which packet.
        lapsed: leases that have run for their length, which no batch has said yet.
    """

    def __init__(
        self,
        service: str,
        space: Space,
        member: Member,
        learner: Learner,
        clock: Callable[[], float],
        rng: random.Random,
        tuning: Tuning,
    ) -> None:
        self.service = service
        self.space = space
        self.member = member
        self.learner = learner
        self.clock = clock
        self.rng = rng
        self.tuning = tuning
        self.loop = asyncio.get_running_loop()
        self.peers = Peers(member, self.loop.time)
        self.kept = Address(0, 0)
        self.fetches = Fetches()
        self.announced = Announced()
        self.waiting: dict[tuple[bytes, int], asyncio.Future[bytes]] = {}
        self.audited: Mark | None = None
        self.lapsed: list[str] = []
        self._stopwatches = Stopwatches()
        self._endless: set[str] = set()  # leases that have lapsed, with names that do not fit
        self._told_ns = 0
        self._is_clock_sound = True
        self._told_at = self.loop.time()
        self._audit_at = 0.0
        self._callers: dict[tuple[str, int], Caller] = {}

    def segment_metadata(self, owners: list[Member] | None = None) -> bytes:
        """What to allocate a segment with, in this replica's name."""
        others = self.peers.members()[:MEMBERS_NAMED]
        declared = self.learner.engine.machine.declaration
        return encode_segment_metadata(
            SegmentMetadata(
                self.member,
                others,
                owners or [],
                self.learner.strategy,
                declared.owner.__name__,
                declared.version,
                declared.shape,
                self.learner.engine.identity,
            )
        )

    def ping(self) -> Ping:
        """What this replica tells of itself."""
        newest = self.learner.engine.lineage.newest.declaration.version
        needed = self.fetches.needed
        return Ping(self.member, self.learner.position, self.kept, newest, needed, self.top())

    def top(self) -> Top:
        """The newest segment that is known here, and who allocated it."""
        segment_metadata = self.learner.segment_metadata(self.learner.highest)
        return (
            (-1, b"")
            if segment_metadata is None
            else (self.learner.highest, segment_metadata.leader.id)
        )

    def is_ours(self, top: Top) -> bool | None:
        """Whether a replica that tells of such a segment takes part in this object.

        Where addresses are used again, two deployments may have an object of the same name.  None:
        that cannot be told yet; one that is so far behind that its segment is forgotten is ours.
        """
        number, allocator = top
        segment_metadata = self.learner.segment_metadata(number)
        if segment_metadata is not None:
            return segment_metadata.leader.id == allocator
        return True if 0 <= number < self.learner.highest else None

    def batch(self, packets: list[Packet]) -> bytes:
        """Packets as they are written, with the time, the dice and claims that can be compared."""
        now = self.loop.time()
        audit = 0 < self.tuning.audit_s <= now - self._audit_at
        if audit:
            self._audit_at = now
        audited, self.audited = self.audited, None
        lapsed = self._lapses_that_fit(packets)
        self.lapsed = self.lapsed[len(lapsed) :]
        return encode(
            Batch(
                self.now_ns(),
                self.rng.getrandbits(SEED_BITS),
                packets,
                self.learner.engine.mark(),
                audit,
                audited,
                lapsed,
            )
        )

    def _lapses_that_fit(self, packets: list[Packet]) -> list[str]:
        """The first leases that have lapsed whose names go into a register with these packets."""
        taken = sum(len(packet.commands) + PACKET_BYTES for packet in packets)
        rest = max(LAPSES_BYTES, self.largest_packet - taken)
        fit = []
        for name in self.lapsed[:LAPSES_TOLD]:
            rest -= len(name.encode()) + NAME_BYTES
            if rest < 0:
                break
            fit.append(name)
        return fit

    def now_ns(self) -> int:
        """The time that commands get, since the epoch: this machine's, unless that is behind.

        Where another proposer's clock was ahead, the time goes on from there, a little slower than
        it passes, until this machine's clock has caught up: it never stands still.
        """
        at = self.loop.time()
        passed_ns = int((at - self._told_at) * (1 - SLOWER) * 1e9)
        going_on = max(self._told_ns + passed_ns, self.learner.engine.time_ns)
        self._told_ns, self._told_at = max(going_on, self._clock_ns()), at
        return self._told_ns

    def _clock_ns(self) -> int:
        """What this machine's clock says; 0 while it says no time that commands can have."""
        try:
            said = self.clock() * 1e9
            if abs(said) < LAST_NS:
                self._is_clock_sound = True
                return int(said)
            trouble = f"it says {said / 1e9!r}"
        except Exception as e:  # noqa: BLE001 - the user's function; time goes on without it
            trouble = f"{type(e).__name__}: {e}"
        if self._is_clock_sound:
            self._is_clock_sound = False
            log.error(
                "%s: the clock says no time: %s; time goes on by itself", self.member, trouble
            )
        return 0

    @property
    def largest_packet(self) -> int:
        """The size of the largest packet that goes into a register, with what is beside it."""
        return self._largest_value - ROOM_BYTES

    @property
    def _largest_value(self) -> int:
        return self.space.client.registers.max_value

    async def watch_leases(self) -> None:
        """Note which leases have run for their length; see `leases`."""
        while True:
            machine = self.learner.engine.machine
            if type(machine).leases is StateMachine.leases:
                await asyncio.sleep(IDLE_LOOK_S)
                continue
            running = self.learner.engine.leases()
            self.lapsed = self._that_fit(self._stopwatches.look(self.loop.time(), running))
            await asyncio.sleep(LOOK_S)

    def _that_fit(self, lapsed: list[str]) -> list[str]:
        """The leases whose names go into a register at all: the others never end, and hold up none.

        Only a class of somebody's own can have such names; the log says so, once for each.
        """
        most = max(LAPSES_BYTES, self.largest_packet) - NAME_BYTES
        fit, before = [], self._endless
        self._endless = set()
        for name in lapsed:
            if len(name) <= most // 4 or len(name.encode()) <= most:
                fit.append(name)
                continue
            self._endless.add(name)
            if name not in before:
                log.error(
                    "%s: a lease does not end, for its name (%.50s...) does not go into a "
                    "register, which takes %d bytes of it: let leases() return shorter ones",
                    self.member,
                    name,
                    most,
                )
        return fit

    def take(self, queue: list[Packet]) -> list[Packet]:
        """Remove as many packets from the head of `queue` as go into one register."""
        most = min(self.tuning.batch_bytes, self.largest_packet)
        size = count = 0
        for packet in queue:
            size += len(packet.commands) + PACKET_BYTES
            if count and size > most:
                break
            count += 1
        taken = queue[:count]
        del queue[:count]
        return taken

    def is_due(self) -> bool:
        """Whether the state machine waits for a time that has come, or a lease to lapse."""
        due = self.learner.engine.due()
        return bool(self.lapsed) or (due is not None and due * 1e9 <= self.now_ns())

    def fail_waiting(self, error: WormError) -> None:
        """Nobody here can say any more what becomes of these packets."""
        waiting, self.waiting = self.waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(error)

    async def greet(self, member: Member, timeout: float) -> Pong | None:
        """Ask this replica for a sign of life, and give one; None if it gives none."""
        pong = await self.knock(member, timeout)
        return pong if pong is not None and pong.member.id == member.id else None

    async def knock(self, member: Member, timeout: float) -> Pong | None:
        """Greet whoever is at its address now; None if that is no replica of this object."""
        try:
            pong = _decode_pong(await self._call(member, "ping", encode(self.ping()), timeout))
        except (WormError, *MALFORMED):
            return None
        ours = self.is_ours(pong.top)
        if ours:
            self.peers.hear(pong.member, pong.applied)
            self.peers.introduce(pong.members)
        return None if ours is False else pong

    async def keep_in_touch(self, greet_all: bool) -> None:
        """Hang up on those who are gone; where nobody leads, greet those who are there."""
        seen = -1
        while True:
            await asyncio.sleep(GREET_S)
            segment_metadata = self.learner.segment_metadata(self.learner.highest)
            named = (
                []
                if segment_metadata is None
                else [segment_metadata.leader, *segment_metadata.owners]
            )
            if self.learner.highest != seen:
                seen = self.learner.highest
                self.peers.introduce(named)
            if greet_all:
                others = self.peers.members()
                await asyncio.gather(*(self.greet(one, GREET_S) for one in others))
            there = {(one.host, one.port) for one in [*named, *self.peers.members()]}
            for address in [one for one in self._callers if one not in there]:
                await self._callers.pop(address).close()

    async def call(self, member: Member, what: str, body: bytes, timeout: float) -> bytes:
        """Ask this very replica, and no other one that has its address now.

        Raises:
            NoAnswer, Failure.
        """
        return await self._call(member, f"{member.id.hex()}/{what}", body, timeout)

    async def _call(self, member: Member, what: str, body: bytes, timeout: float) -> bytes:
        address = (member.host, member.port)
        caller = self._callers.get(address)
        if caller is None:
            caller = self._callers[address] = Caller(*address)
        return await caller.call(f"{self.service}/{what}", body, timeout)

    async def close(self) -> None:
        """Hang up."""
        self.fetches.close()
        self.fail_waiting(NotLeading("the replica was closed"))
        for caller in self._callers.values():
            await caller.close()


class Proposer(Protocol):
    """A leadership strategy at work.

    Attributes:
        leads: whether packets can be offered here.
    """

    leads: bool

    @property
    def leader(self) -> Member | None:
        """Who leads, as far as is known; None if nobody does or all do."""

    async def run(self) -> None:
        """Take part until cancelled."""

    def offer(self, packet: Packet) -> None:
        """Take a packet to a register; its outcome comes when it is applied, or `NotLeading`."""

    async def confirm(self) -> Address:
        """A position before which lies all that was acknowledged before the call.

        The local state is the latest once it has reached it.  Writes nothing.

        Raises:
            NotLeading: another replica must be asked.
        """

    def age(self) -> float | None:
        """How long ago a majority confirmed that this replica leads; None if it does not lead."""


class Leadership(Protocol):
    """Who proposes, and when: a strategy that a user passes to `worm.replicate`."""

    @property
    def strategy(self) -> str:
        """What all replicas must have been told alike, in a word or two; it is in the metadata."""

    def make_proposer(self, context: ReplicaContext) -> Proposer:
        """Begin at this context; `run` is awaited afterwards."""
