"""A replica that is behind gets a later state: from a kept snapshot, or from another replica."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator

from wormspace.errors import WormError, WrongIdentity
from wormspace.malformed import MALFORMED
from wormspace.rpc import Failure, NoAnswer
from wormspace.smr.errors import (
    BadSnapshot,
    NoSnapshot,
    NothingKept,
    ShapeChanged,
    UpdateNeeded,
    VersionForgotten,
)
from wormspace.smr.records import Fetch, Fetched, Member, decode_segment_metadata, decoder, encode
from wormspace.smr.replica_context import ReplicaContext
from wormspace.smr.snapshots import require_same, restore
from wormspace.smr.stores import SnapshotStore
from wormspace.space import Address

log = logging.getLogger("wormspace.smr")

FETCH_TIMEOUT_S = 2.0
CATCH_UP_S = 10.0
CATCH_UP_PAUSE_S = 0.25

_decode_fetched = decoder(Fetched)


async def restore_from(context: ReplicaContext, store: SnapshotStore) -> Exception | None:
    """Begin with the snapshot that the store has, if it has one that leads further.

    One that is damaged is passed over, as if there were none: whatever it led to is in the space,
    or with other replicas, or else `catch_up` says that nobody has it.

    Returns:
        What is wrong with it, if it is of no use.

    Raises:
        WrongIdentity: it is of another space, or leads further than this one does.
    """
    try:
        return await _restore_from(context, store)
    except WrongIdentity as e:
        raise WrongIdentity(f"{context.space.name}: {e}") from None


async def _restore_from(context: ReplicaContext, store: SnapshotStore) -> Exception | None:
    learner, name = context.learner, context.space.name
    identity = await learner.identify()
    try:
        engine = await restore(learner.engine.lineage.newest, store.load(name), identity)
    except NothingKept:
        return None
    except Exception as e:
        if isinstance(e, WormError) and not isinstance(e, BadSnapshot | VersionForgotten):
            raise
        log.error(  # whatever a user's place may raise
            "%s: the snapshot that is kept is of no use: %r; the state is read from the space, or "
            "another replica gives it, and the next snapshot replaces one that is damaged",
            name,
            e,
        )
        return e
    if engine.position > learner.position:
        tail = await context.space.tail()
        if engine.position > Address(tail, 0):
            raise WrongIdentity(
                f"the snapshot that is kept leads to {engine.position}, and this space has {tail} "
                "segments: it is of another deployment, or the space has lost what it had. "
                "Give each deployment a place for snapshots of its own"
            )
        if identity := await learner.identify():  # the space may have begun meanwhile
            require_same(engine.identity, identity)
        learner.install(engine)
        context.kept = engine.position
        log.info("%s: restored a snapshot at %s", name, engine.position)
    return None


async def catch_up(context: ReplicaContext, store: SnapshotStore | None) -> None:
    """The space was trimmed beyond this replica: get a later state from a store or another replica.

    Raises:
        NoSnapshot: nobody who can be reached has one.
    """
    learner, space = context.learner, context.space
    deadline = context.loop.time() + CATCH_UP_S
    trouble: dict[str, Exception] = {}
    while True:
        head = await space.head()
        if head <= learner.position.segment:
            return
        if store is not None and (error := await restore_from(context, store)):
            trouble["the snapshot that is kept"] = error
        for member in await _known(context):
            if learner.position.segment >= head:
                return
            try:
                identity = await learner.identify()
                newest = learner.engine.lineage.newest
                engine = await restore(newest, _fetch(context, member), identity)
            except (UpdateNeeded, ShapeChanged) as e:
                if not isinstance(e, VersionForgotten):
                    raise
                trouble[str(member)] = e  # it is far behind; another one may not be
                continue
            except (NoAnswer, Failure, WormError, *MALFORMED) as e:
                trouble[str(member)] = e
                continue
            if engine.position > learner.position:
                learner.install(engine)
                log.info("%s: got a snapshot at %s from %s", space.name, engine.position, member)
        if learner.position.segment >= await space.head():
            return
        if context.loop.time() > deadline:
            found = "; ".join(f"{who}: {error}" for who, error in trouble.items())
            raise NoSnapshot(
                f"{space.name}: the segments below {head} are trimmed, and no replica that runs "
                f"has the state they led to ({found or 'none is known'})"
            )
        await asyncio.sleep(CATCH_UP_PAUSE_S)


async def _known(context: ReplicaContext) -> list[Member]:
    """The replicas that the newest segment names, and those that were heard of."""
    space = context.space
    found = {member.id: member for member in context.peers.members()}
    tail = await space.tail()
    if tail:
        try:
            segment_metadata = decode_segment_metadata(await space.check(tail - 1), space.name)
        except WormError as e:
            log.info("%s: the newest segment cannot be read: %s", space.name, e)
        else:
            for member in (
                segment_metadata.leader,
                *segment_metadata.members,
                *segment_metadata.owners,
            ):
                found.setdefault(member.id, member)
            # Since then they may have started again, under other ids.
            top = (tail - 1, segment_metadata.leader.id)
            knocks = [context.knock(member, FETCH_TIMEOUT_S) for member in found.values()]
            for pong in await asyncio.gather(*knocks):
                if pong is not None and pong.top == top:
                    found.setdefault(pong.member.id, pong.member)
    return [member for member in found.values() if member.id != context.member.id]


async def _fetch(context: ReplicaContext, member: Member) -> AsyncIterator[bytes]:
    """The pieces of a snapshot that another replica takes."""
    ticket = 0
    for index in itertools.count():
        body = encode(Fetch(ticket, index))
        answer = _decode_fetched(await context.call(member, "fetch", body, FETCH_TIMEOUT_S))
        ticket = answer.ticket
        if not answer.piece:
            return
        yield answer.piece
