"""Who proposes: one leader that stays until it falls, or one that is named.

A follower asks its leader for a sign of life; a leader that has not had a majority's word for some
time has none to give.  A follower that sees none for a randomised time-out allocates a segment in
its own name and takes over (`term`).  Two that do so at once are no danger: the higher segment
wins. The time-out and its randomisation are Raft's (section 5.2); the vote is the capture.  The
time-out doubles with every takeover that is seen, until a leader gives a sign of life: else those
who wait less than a takeover takes would cut off one another's for ever.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from wormspace.errors import Closed, Trimmed, UsageError, ValueTooLarge, WormError
from wormspace.rpc import Patience
from wormspace.smr.arguments import as_text
from wormspace.smr.records import Member, Packet
from wormspace.smr.replica_context import GREET_S, NotLeading, Proposer, ReplicaContext
from wormspace.smr.term import Term
from wormspace.space import Address
from wormspace.space.arguments import as_timeout

log = logging.getLogger("wormspace.smr")

PINGS_PER_TIMEOUT = 5
SPREAD = 0.25
"""A time-out is drawn from [1 - SPREAD, 1 + SPREAD] times the one that is set."""


class Sticky(msgspec.Struct, frozen=True):
    """One leader, until it falls: one round trip per command, many commands in flight.

    Attributes:
        timeout_s: how long a leader may show no sign of life.
    """

    timeout_s: float = 1.0

    def __post_init__(self) -> None:
        as_timeout(self.timeout_s)

    @property
    def strategy(self) -> str:
        return "sticky"

    def make_proposer(self, context: ReplicaContext) -> Proposer:
        return StickyProposer(context, self.timeout_s, may_lead=True)


class Fixed(msgspec.Struct, frozen=True):
    """The replica of this name leads, and nobody else ever does.

    Without it there is no service; but nothing is ever decided by a clock.
    """

    leader: str
    timeout_s: float = 1.0

    def __post_init__(self) -> None:
        if as_text(self.leader, "the leader's name") == "":
            raise UsageError(
                "Fixed names the leader: what is passed to `worm.replicate` as `replica`"
            )
        as_timeout(self.timeout_s)

    @property
    def strategy(self) -> str:
        return f"fixed: {self.leader}"

    def make_proposer(self, context: ReplicaContext) -> Proposer:
        return StickyProposer(context, self.timeout_s, may_lead=context.member.name == self.leader)


class StickyProposer:
    """One replica that follows, and leads when it must."""

    def __init__(self, context: ReplicaContext, timeout_s: float, *, may_lead: bool) -> None:
        self.leads = False
        self._context = context
        self._timeout_s = timeout_s
        self._may_lead = may_lead
        self._term: Term | None = None
        self._patience = Patience(timeout_s, PINGS_PER_TIMEOUT)
        self._followed: Member | None = None
        self._began_at = 0.0  # the last takeover

    @property
    def leader(self) -> Member | None:
        return self._context.learner.leader

    def age(self) -> float | None:
        if self._term is None or not self.leads:
            return None
        return self._context.loop.time() - self._term.confirmed_at

    def offer(self, packet: Packet) -> None:
        if self._term is None or not self.leads:
            raise NotLeading("this replica does not lead")
        self._term.offer(packet)

    async def confirm(self) -> Address:
        if self._term is None or not self.leads:
            raise NotLeading("this replica does not lead")
        return await self._term.confirm()

    async def run(self) -> None:
        context = self._context
        context.learner.listen()
        while True:
            await self._follow()
            try:
                await self._lead()
            except Closed:
                return
            except ValueTooLarge:
                raise  # the servers' limits leave no room: trying again does not help
            except WormError as e:
                log.info("%s does not lead any more: %s", context.member, e)
            finally:
                self._step_down()
            context.learner.listen()

    # ------------------------------------------------------------ leading

    async def _lead(self) -> None:
        context = self._context
        self._began_at = context.loop.time()
        segment = await context.space.alloc(context.segment_metadata(), context.tuning.segment_size)
        self._followed = context.member
        self._patience.ran_out()
        log.info("%s takes over with segment %d", context.member, segment.number)
        self._term = Term(context, segment)
        await self._term.rule(self._on_ready, self._timeout_s / PINGS_PER_TIMEOUT)

    def _on_ready(self) -> None:
        self._context.learner.stop_listening()
        self.leads = True
        took = self._context.loop.time() - self._began_at
        self._patience.answered(took / PINGS_PER_TIMEOUT)
        log.info("%s leads from %s on", self._context.member, self._context.learner.position)

    def _step_down(self) -> None:
        self.leads = False
        term, self._term = self._term, None
        if term is not None:
            term.end()
        self._context.fail_waiting(NotLeading("the leader has lost its place"))

    # ------------------------------------------------------------ following

    async def _follow(self) -> None:
        """Return when this replica should lead."""
        context, patience = self._context, self._patience
        loop, rng = context.loop, context.rng
        spread = rng.uniform(1 - SPREAD, 1 + SPREAD)
        # When the leader was confirmed last: not before the one, and not after the other.
        confirmed_at = confirmed_by = loop.time()
        while True:
            leader = self.leader
            if leader is None:
                # Nobody ever led here, or nobody knows who: the first to notice may.
                await asyncio.sleep(rng.uniform(0, patience.question_s / 4))
                if self._may_lead and await self._is_vacant():
                    return
                continue
            if leader != self._followed:
                if self._followed is not None:
                    patience.ran_out()
                self._followed = leader
                confirmed_at = confirmed_by = loop.time()
            waits_s = patience.seconds
            if leader.id == context.member.id:
                if await self._is_highest() and self.leader == leader:
                    # Nobody leads, and nobody takes over.
                    waits_s = self._timeout_s
            else:
                asked = loop.time()
                age = await self._ping(leader, patience.question_s)
                # It is news only if it cannot be the confirmation that was heard of before.
                if age is not None and asked - age > confirmed_by:
                    now = loop.time()
                    silence = now - confirmed_at
                    patience.answered(max(now - asked, silence / PINGS_PER_TIMEOUT))
                    confirmed_at, confirmed_by = asked - age, now - age
            seen_at = max(confirmed_at, context.learner.heard_at)
            if self._may_lead and loop.time() - seen_at > waits_s * spread:
                return
            pause = min(patience.question_s, GREET_S)
            await asyncio.sleep(pause * rng.uniform(0.75, 1))

    async def _is_highest(self) -> bool:
        """Whether there is no segment above those that were heard of."""
        try:
            return await self._context.space.tail() == self._context.learner.highest + 1
        except WormError:
            return False

    async def _is_vacant(self) -> bool:
        """Whether there is nobody who could lead, as far as anybody knows."""
        learner = self._context.learner
        if self.leader is not None or not await self._is_highest():
            return False
        if learner.highest < 0:
            return True
        try:
            await learner.recall()
        except Trimmed:
            return True
        except WormError:
            pass
        return False

    async def _ping(self, leader: Member, timeout: float) -> float | None:
        """How long ago the leader was confirmed; None if it does not lead or does not answer."""
        context = self._context
        pong = await context.greet(leader, timeout)
        if pong is None:
            return None
        age: float | None = pong.age_s
        return age
