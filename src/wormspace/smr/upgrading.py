"""When an object becomes a newer version: once every replica that is alive has the newer class.

Replicas are restarted with the newer class one after the other, in any order; meanwhile the object
stays what it is, and those with the newer class run the older one, which it names.  Each tells the
leader what it has.  When all who are alive have it, the leader proposes the upgrade; or somebody
calls `upgrade`, who knows that all have it.  A replica that has it not stops at that position.
Where nobody leads, each that has the newer class is such a leader.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from wormspace.errors import NotAllocated, Trimmed, WormError
from wormspace.runtime.deadlines import left, within
from wormspace.smr.declare import StateMachine
from wormspace.smr.errors import SessionExpired
from wormspace.smr.records import (
    Outcome,
    Packet,
    Reply,
    decode_plain_outcome,
    decode_segment_metadata,
)
from wormspace.smr.replica_context import GREET_S, Proposer, ReplicaContext
from wormspace.smr.submit import as_exception
from wormspace.smr.versions import encode_upgrade

log = logging.getLogger("wormspace.smr")

GREETINGS = 3
"""So many times replicas must have had the occasion to greet one another."""

LOOKS = 10
"""So often does a leader look, in the time that it waits, whether all have the newer class."""


class Versions(msgspec.Struct, frozen=True):
    """Of what versions an object is.

    Attributes:
        oldest: the log begins with it: the classes from here on must stay in the code.
        current: what the object is now.
        newest: what this replica has.
    """

    oldest: int
    current: int
    newest: int


class Upgrades:
    """The upgrades of one replica's object.

    Args:
        carry: has a packet applied, by whoever leads, before a deadline.
        timeout_s: how long a call may take.
    """

    def __init__(
        self,
        context: ReplicaContext,
        proposer: Proposer,
        carry: Callable[[Packet, float], Awaitable[Reply]],
        timeout_s: float,
    ) -> None:
        self._context = context
        self._proposer = proposer
        self._dispatch = carry
        self._timeout_s = timeout_s

    async def versions(self) -> Versions:
        """See `Replica.versions`."""
        oldest = await self._oldest()
        engine = self._context.learner.engine
        current = engine.machine.declaration.version
        newest = engine.lineage.newest.declaration.version
        return Versions(current if oldest is None else oldest, current, newest)

    async def _oldest(self) -> int | None:
        """The version that the log begins with; None before it has begun."""
        space, deadline = self._context.space, within(self._timeout_s)
        while True:
            try:
                head = await space.head(timeout=left(deadline))
                raw = await space.check(head, timeout=left(deadline))
                return decode_segment_metadata(raw, space.name).version
            except NotAllocated:
                return None
            except Trimmed:
                continue  # meanwhile it begins further on

    async def upgrade(self) -> int:
        """See `Replica.upgrade`."""
        outcome = await self._proposed()
        if outcome.faults:
            raise as_exception(outcome.faults[0], self._newest.declaration)
        version: int = outcome.values[0]
        return version

    @property
    def _newest(self) -> type[StateMachine]:
        return self._context.learner.engine.lineage.newest

    async def _proposed(self) -> Outcome:
        context = self._context
        client = context.rng.getrandbits(64).to_bytes(8, "big")
        packet = Packet(client, 1, 1, encode_upgrade(self._newest))
        reply = await self._dispatch(packet, context.loop.time() + self._timeout_s)
        outcome = decode_plain_outcome(reply.body or b"")
        if outcome.refused:
            raise SessionExpired(f"nobody knows whether it was upgraded: {outcome.refused}")
        return outcome

    async def run(self, patience_s: float) -> None:
        """While this replica leads: upgrade when all who are alive have what it has.

        Args:
            patience_s: who was not heard of for so long, and for `GREETINGS`, is not alive, nor is
                a leader sure before.
        """
        patience_s = max(patience_s, GREETINGS * GREET_S)
        context, own = self._context, self._newest.declaration.version
        name = context.space.name
        began = None
        while True:
            await asyncio.sleep(patience_s / LOOKS)
            now = context.loop.time()
            current = context.learner.engine.machine.declaration.version
            if current >= own or not self._proposer.leads:
                began = None
                continue
            if began is None:
                began = now
            heard = context.announced.since(now - patience_s)
            if now - began < patience_s or any(ping.newest < own for ping in heard):
                continue
            try:
                outcome = await self._proposed()
            except WormError as e:
                log.info("%s: the upgrade has to wait: %s", name, e)
                continue
            if outcome.faults:  # its migration's, which would come again and again
                fault = f"{outcome.faults[0].kind}: {outcome.faults[0].text}"
                log.error("%s: the upgrade to version %d has failed: %s", name, own, fault)
                return
