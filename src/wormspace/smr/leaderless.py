"""Nobody leads: whoever has something to say captures the next register and writes it.

Two round trips per register and one register at a time, but no election, no time-out, nobody whose
loss is noticed.  Replicas that want the same register race for it, with random pauses.

Here, and wherever nobody leads, a linearizable read needs no leader either: if the next register to
apply is empty now, then nothing behind it was ever acknowledged, and the local state is the latest.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from wormspace.errors import Closed, NotAllocated, RaceLost, Trimmed, Unavailable
from wormspace.knobs import KNOBS
from wormspace.runtime.retrying import RETRY_S, Backoff
from wormspace.smr.records import Member, Packet
from wormspace.smr.replica_context import Proposer, ReplicaContext
from wormspace.smr.shared import Shared
from wormspace.space import Address, Segment
from wormspace.writer.segments import find_or_allocate

log = logging.getLogger("wormspace.smr")

RACE_PAUSE_S = (0.01, 0.32)
TICK_S = 0.1


class Leaderless(msgspec.Struct, frozen=True):
    """Every replica proposes, register by register, under a capture of its own."""

    @property
    def strategy(self) -> str:
        return "leaderless"

    def make_proposer(self, context: ReplicaContext) -> Proposer:
        return LeaderlessProposer(context)


class Equal:
    """What proposers without a leader have in common: a queue, and reading by emptiness."""

    def __init__(self, context: ReplicaContext) -> None:
        self.leads = True
        self._context = context
        self._queue: list[Packet] = []
        self._wake = asyncio.Event()
        self._confirmation = Shared(self._see_emptiness)

    @property
    def leader(self) -> Member | None:
        return None

    def age(self) -> float | None:
        return 0.0

    def offer(self, packet: Packet) -> None:
        self._queue.append(packet)
        self._wake.set()

    def end(self) -> None:
        """Take no further part."""
        self._confirmation.end()

    async def confirm(self) -> Address:
        return await self._confirmation.ask()

    async def _see_emptiness(self) -> Address:
        """The next register to apply, when it was empty at some moment after the call."""
        learner = self._context.learner
        while True:
            place = learner.position
            try:
                segment = await self._context.space.segment(place.segment)
                stop = min(segment.size, place.offset + KNOBS.smr_read_ahead)
                values = await segment.read_range(place.offset, stop)
            except NotAllocated:
                return place
            except Trimmed:
                await learner.reached(Address(place.segment + 1, 0))  # by a snapshot
                continue
            learner.allocated(segment.number, segment.size, segment.metadata)
            for offset, value in enumerate(values, place.offset):
                if value is not None:
                    learner.learn(Address(place.segment, offset), value)
            if values[0] is None:
                return place

    async def _segment(self, number: int, metadata: bytes) -> Segment:
        """A segment that is wanted; allocated now if it is not there."""
        context = self._context
        size = context.tuning.segment_size
        segment, _ = await find_or_allocate(context.space, number, metadata, size)
        context.learner.allocated(segment.number, segment.size, segment.metadata)
        return segment


class LeaderlessProposer(Equal):
    """One replica among equals."""

    async def run(self) -> None:
        context = self._context
        context.learner.listen()
        try:
            while True:
                try:
                    async with asyncio.timeout(TICK_S):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                self._wake.clear()
                while self._queue or context.is_due():
                    await self._write(context.batch(context.take(self._queue)))
        finally:
            self.end()

    async def _write(self, raw: bytes) -> None:
        """Get a batch into some register."""
        backoff = Backoff(self._context.rng, RACE_PAUSE_S)
        while True:
            try:
                if await self._attempt(raw):
                    return
            except (Unavailable, Trimmed) as e:
                log.info("%s: trying again: %s", self._context.member, e)
                await asyncio.sleep(RETRY_S)
            except Closed:
                return
            except RaceLost:
                # Half-written perhaps; the next attempt meets it, for it looks at this place again.
                await backoff.pause()

    async def _attempt(self, raw: bytes) -> bool:
        """Try the next register; false if it held something else."""
        learner = self._context.learner
        place = learner.position
        while learner.holds(place):
            place = Address(place.segment, place.offset + 1)
        segment = await self._segment(place.segment, self._context.segment_metadata())
        if place.offset >= segment.size:
            await learner.reached(Address(place.segment + 1, 0))
            return False
        captured = await segment.capture(place.offset)
        value = captured.written.get(place.offset)
        if value is None:
            await segment.write(place.offset, raw, captured.token)
            value = raw
        learner.learn(place, value)
        return value == raw
