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
from typing import TYPE_CHECKING, Any

import msgspec

from wormspace.errors import NotAllocated, Trimmed, WormError
from wormspace.smr.errors import SessionExpired
from wormspace.smr.records import Outcome, Packet, decode_charter, decode_plain_outcome
from wormspace.smr.seat import GREET_S
from wormspace.smr.submit import as_exception
from wormspace.smr.versions import encode_upgrade

if TYPE_CHECKING:
    from wormspace.smr.core import Core

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


async def versions(core: Core[Any]) -> Versions:
    """See `Replica.versions`."""
    oldest = await _oldest(core)
    engine = core.learner.engine
    current = engine.machine.declaration.version
    newest = engine.lineage.newest.declaration.version
    return Versions(current if oldest is None else oldest, current, newest)


async def _oldest(core: Core[Any]) -> int | None:
    """The version that the log begins with; None before it has begun."""
    space = core.worm.space(core.name)
    deadline = core.loop.time() + core.timeout_s
    left = core.timeout_s
    while True:
        try:
            head = await space.head(timeout=left)
            left = max(0.001, deadline - core.loop.time())
            return decode_charter(await space.check(head, timeout=left), core.name).version
        except NotAllocated:
            return None
        except Trimmed:
            continue  # meanwhile it begins further on


async def upgrade(core: Core[Any]) -> int:
    """See `Replica.upgrade`."""
    outcome = await _proposed(core)
    if outcome.faults:
        raise as_exception(outcome.faults[0], core.machine_type.declaration)
    version: int = outcome.values[0]
    return version


async def _proposed(core: Core[Any]) -> Outcome:
    client = core.rng.getrandbits(64).to_bytes(8, "big")
    packet = Packet(client, 1, 1, encode_upgrade(core.machine_type))
    reply = await core.carry(packet, core.loop.time() + core.timeout_s)
    outcome = decode_plain_outcome(reply.body or b"")
    if outcome.refused:
        raise SessionExpired(f"nobody knows whether it was upgraded: {outcome.refused}")
    return outcome


async def run(core: Core[Any], patience_s: float) -> None:
    """While this replica leads: upgrade when all who are alive have what it has.

    Args:
        patience_s: who was not heard of for so long, and for `GREETINGS`, is not alive, nor is a
            leader sure before.
    """
    patience_s = max(patience_s, GREETINGS * GREET_S)
    own = core.machine_type.declaration.version
    began = None
    while True:
        await asyncio.sleep(patience_s / LOOKS)
        now = core.loop.time()
        if core.learner.engine.machine.declaration.version >= own or not core.proposer.leads:
            began = None
            continue
        if began is None:
            began = now
        heard = core.seat.announced.since(now - patience_s)
        if now - began < patience_s or any(ping.newest < own for ping in heard):
            continue
        try:
            outcome = await _proposed(core)
        except WormError as e:
            log.info("%s: the upgrade has to wait: %s", core.name, e)
            continue
        if outcome.faults:  # its migration's, which would come again and again
            fault = f"{outcome.faults[0].kind}: {outcome.faults[0].text}"
            log.error("%s: the upgrade to version %d has failed: %s", core.name, own, fault)
            return
