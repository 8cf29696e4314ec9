"""When the space's beginning becomes garbage: strategy objects, passed to `worm.replicate`.

Every register is replicated and durable when its command is acknowledged.  What is chosen here is
only how long the registers are kept, and so what a replica that was away must read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import msgspec

from wormspace.errors import WormError
from wormspace.smr.arguments import as_choice, as_count, as_directory
from wormspace.smr.engine import Engine
from wormspace.smr.fetching import NEEDED_S
from wormspace.smr.replica_context import Proposer, ReplicaContext
from wormspace.smr.snapshots import Snapshot, identity_kept, require_same
from wormspace.smr.stores import LocalSnapshots, SnapshotStore
from wormspace.space import Address
from wormspace.space.arguments import as_timeout

PACE_S = 0.001
"""A piece of a snapshot takes about half of this to make."""

log = logging.getLogger("wormspace.smr")


class Durability(Protocol):
    """Keeps what must be kept, trims what need not be."""

    @property
    def store(self) -> SnapshotStore | None:
        """Where this replica looks for a snapshot when it starts."""

    async def run(self, context: ReplicaContext, proposer: Proposer) -> None:
        """Work until cancelled."""


class NeverTrim(msgspec.Struct, frozen=True):
    """Every command is kept for ever: the space is the full history."""

    @property
    def store(self) -> SnapshotStore | None:
        return None

    async def run(self, context: ReplicaContext, proposer: Proposer) -> None:
        """Nothing to do."""


class TrimWhenApplied(msgspec.Struct, frozen=True):
    """Segments are trimmed when `replicas` replicas have applied them.

    The state then lives in the replicas' memory: one that comes later gets it from one that runs,
    and when all of them are down at once, it is gone.
    """

    replicas: int
    every_s: float = 1.0

    def __post_init__(self) -> None:
        as_count(self.replicas, "TrimWhenApplied.replicas", 1)
        as_timeout(self.every_s)

    @property
    def store(self) -> SnapshotStore | None:
        return None

    async def run(self, context: ReplicaContext, proposer: Proposer) -> None:
        while True:
            await asyncio.sleep(self.every_s)
            applied = [one.applied for one in context.peers.heard()]
            await trim_behind(
                context, proposer, self.replicas, [context.learner.position, *applied]
            )


class TrimBehindSnapshots(msgspec.Struct, frozen=True):
    """Segments are trimmed when `copies` snapshots of what they led to are kept.

    Attributes:
        store: a directory of this machine: every replica keeps its own snapshots; or a place that
            all replicas share (anything with the methods of `SnapshotStore`): the leader keeps
            them, and `copies` is 1.
        registers: take a snapshot after so many registers.
        copies: by default 2 for directories: one machine's disk alone should not be trusted.
    """

    place: SnapshotStore | str | Path
    registers: int = 4096
    copies: int = 0
    every_s: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.place, str | Path):
            as_directory(self.place)
        else:
            as_choice(self.place, "a place for snapshots", "save", "load")
        as_count(self.registers, "TrimBehindSnapshots.registers", 1)
        as_count(self.copies, "TrimBehindSnapshots.copies", 0)
        as_timeout(self.every_s)

    @property
    def store(self) -> SnapshotStore | None:
        if isinstance(self.place, str | Path):
            return LocalSnapshots(self.place)
        return self.place

    async def run(self, context: ReplicaContext, proposer: Proposer) -> None:
        store = self.store
        assert store is not None
        is_local = isinstance(store, LocalSnapshots)
        copies = self.copies or (2 if is_local else 1)
        taken_at = context.kept
        with ExitStack() as claims:
            owns = _claim(store, context, claims)
            if not owns:
                log.warning(
                    "%s keeps no snapshots: another replica of %r keeps its own in this directory; "
                    "give each a directory of its own",
                    context.member,
                    context.space.name,
                )
            while True:
                if not owns:
                    context.kept = Address(0, 0)  # what is there is another replica's copy
                await asyncio.sleep(self.every_s)
                owns = owns or _claim(store, context, claims)
                position = context.learner.position
                is_due = self._distance(context, taken_at) >= self.registers
                if owns and is_due and (is_local or proposer.leads):
                    try:
                        context.kept = await save(store, context.space.name, context.learner.engine)
                        taken_at = position
                    except Exception as e:  # noqa: BLE001 - a user's place may raise anything
                        log.warning("%s: no snapshot was kept: %r", context.member, e)
                kept = [context.kept, *(one.kept for one in context.peers.heard())]
                await trim_behind(context, proposer, copies, kept)

    def _distance(self, context: ReplicaContext, since: Address) -> int:
        size = context.tuning.segment_size
        return context.learner.position.position(size) - since.position(size)


def _claim(store: SnapshotStore, context: ReplicaContext, claims: ExitStack) -> bool:
    """Whether this replica may keep its snapshots there, from now until `claims` are closed."""
    if not isinstance(store, LocalSnapshots):
        return True  # a place that all share
    try:
        claim = store.claim(context.space.name)
    except OSError as e:
        log.warning("%s: snapshots cannot be kept: %s", context.member, e)
        return False
    if claim is not None:
        claims.callback(claim.close)
    return claim is not None


async def save(store: SnapshotStore, name: str, engine: Engine) -> Address:
    """Take a snapshot and keep it, while the engine goes on; returns its position.

    Raises:
        WrongIdentity: one of another space is kept there, and stays.
        NewerFormat: one of a newer wormspace is, and stays.
    """
    kept = await identity_kept(store.load(name))
    if kept is not None:
        require_same(kept, engine.identity)
    snapshot = Snapshot(engine)
    try:
        await store.save(name, snapshot.position, gently(snapshot.pieces()))
    finally:
        snapshot.close()
    return snapshot.position


async def gently(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces, leaving most of the time to others."""
    for piece in pieces:
        yield piece
        await asyncio.sleep(PACE_S)


async def trim_behind(
    context: ReplicaContext, proposer: Proposer, count: int, reached: list[Address]
) -> None:
    """Trim the segments that `count` of the positions are beyond, and that nobody needs."""
    if not proposer.leads or len(reached) < count:
        return
    stop = sorted(reached, reverse=True)[count - 1].segment
    stop = min(stop, context.learner.position.segment)
    heard = context.announced.since(context.loop.time() - NEEDED_S)
    for needed in (context.fetches.needed, *(ping.needed for ping in heard)):
        if needed is not None:
            stop = min(stop, needed.segment)
    if context.learner.told is not None:  # a segment that tells the space's identity stays
        stop = min(stop, context.learner.told)
    if stop <= 0:
        return
    try:
        if await context.space.head() < stop:
            await context.space.trim_prefix(stop)
            log.info("%s: trimmed the segments below %d", context.space.name, stop)
    except WormError as e:
        log.info("%s: trimming has to wait: %s", context.space.name, e)
