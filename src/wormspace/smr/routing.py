"""The way of a call to whoever leads: this replica, or another one that it asks.

A packet of commands is proposed where the leader is, and has its outcome once it is applied there;
queries are answered there once the state is known to be the latest.  While nobody leads, or who
leads does not answer, the call is tried again until its deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from wormspace.smr.consistency import Session
from wormspace.smr.engine import Applied
from wormspace.smr.errors import Behind
from wormspace.smr.questions import question, run_queries
from wormspace.smr.records import Member, Packet, Question, Reply, decoder, encode
from wormspace.smr.replica_context import NotLeading, Proposer, ReplicaContext
from wormspace.smr.submit import PacketTooLarge
from wormspace.smr.trying import until_done
from wormspace.space import Address

_decode_reply = decoder(Reply)

_Here: TypeAlias = Callable[[], Awaitable[Reply]]


class Router:
    """The way of one replica's calls.

    Args:
        require_sound: raises what has stopped the replica, if something has.
        timeout_s: how long a query may wait for what it must see.
    """

    def __init__(
        self,
        context: ReplicaContext,
        proposer: Proposer,
        require_sound: Callable[[], None],
        timeout_s: float,
    ) -> None:
        self.context = context
        self.learner = context.learner
        self.proposer = proposer
        self.require_sound = require_sound
        self.timeout_s = timeout_s
        self._forwarded: dict[asyncio.Timeout, None] = {}

    # ------------------------------------------------------------ by whoever leads

    async def carry(self, packet: Packet, deadline: float) -> Reply:
        """Have a packet applied, by whoever leads."""
        return await self._until(deadline, lambda: self.propose(packet), "submit", packet)

    async def ask(self, queries: bytes, session: Session, deadline: float) -> Reply:
        """Have queries answered by whoever leads."""
        ask = question(queries, session.seen)
        return await self._until(deadline, lambda: self.answer(queries, session.seen), "ask", ask)

    async def _until(
        self, deadline: float, here: _Here, what: str, message: Packet | Question
    ) -> Reply:
        """Do it here if this replica leads, else at the leader; again until it is done."""

        async def attempt(leader: Member, timeout_s: float) -> Reply:
            async with asyncio.timeout_at(deadline):
                if self.proposer.leads:
                    return await here()
                if self.proposer.leader is None:
                    raise NotLeading("nobody is known to lead")
                if leader.id == self.context.member.id:
                    raise NotLeading("this replica does not lead yet")
                return await self._forward(leader, what, encode(message), timeout_s)

        name, rng = self.context.space.name, self.context.rng
        return await until_done(name, deadline, rng, self._leader, attempt)

    def _leader(self) -> Member:
        """Whoever leads; this replica, if nobody is known to."""
        self.require_sound()
        return self.proposer.leader or self.context.member

    async def _forward(self, leader: Member, what: str, body: bytes, timeout_s: float) -> Reply:
        """Ask the leader, for as long as it is the leader."""
        async with asyncio.timeout(None) as timeout:
            self._forwarded[timeout] = None
            try:
                return _decode_reply(await self.context.call(leader, what, body, timeout_s))
            finally:
                del self._forwarded[timeout]

    def on_leader(self) -> None:
        """Somebody else leads: what was sent to the one before is sent again."""
        for timeout in self._forwarded:
            if not timeout.expired():  # else it is on its way back already
                timeout.reschedule(self.context.loop.time())

    # ------------------------------------------------------------ here

    async def propose(self, packet: Packet) -> Reply:
        """Take a packet to a register; its outcome, once it is applied here.

        Raises:
            NotLeading.
            PacketTooLarge: nothing was done.
        """
        largest = self.context.largest_packet
        if len(packet.commands) > largest:
            raise PacketTooLarge(largest)
        known = self.learner.engine.sessions.find(packet)
        if known is None:
            key = (packet.client, packet.number)
            waiting = self.context.waiting
            future = waiting.get(key)
            if future is None:
                self.proposer.offer(packet)
                future = waiting[key] = self.context.loop.create_future()
                # Whoever sent the packet may have hung up: then its failure is no news.
                future.add_done_callback(lambda f: f.cancelled() or f.exception())
            known = await asyncio.shield(future)
        return Reply(known, self.learner.position, largest=largest)

    async def answer(self, queries: bytes, seen: Address) -> Reply:
        """Answer queries from the local state, once it is known to be the latest.

        Raises:
            NotLeading.
        """
        latest = await self.proposer.confirm()
        await self.reach(max(latest, seen))
        return Reply(run_queries(self.learner.engine, queries), self.learner.position)

    async def reach(self, position: Address) -> None:
        """Wait until this replica has applied everything before `position`.

        Raises:
            Behind: not in time.
        """
        if self.learner.position >= position:
            return
        try:
            async with asyncio.timeout(self.timeout_s):
                await self.learner.reached(position)
        except TimeoutError as e:
            raise Behind(f"this replica is at {self.learner.position}, not {position}") from e

    def on_applied(self, applied: Sequence[Applied]) -> None:
        """Packets were applied: whoever waits for them here has their outcomes."""
        waiting = self.context.waiting
        if waiting:
            for one in applied:
                future = waiting.pop((one.client, one.number), None)
                if future is not None and not future.done():
                    future.set_result(one.outcome)
