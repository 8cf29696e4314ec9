"""What a replica does for others: the leader for its followers, all of them for clients.

Services, by the name that follows `smr/NAME/`: `submit` a packet, `ask` a question, `watch` events,
`ping` whoever is there.  Replicas ask one another by `smr/NAME/ID/`, for what one replica was asked
must not be answered by another that has its address now: the same, and `fetch` a snapshot piece by
piece.  Everything that must not be lost is in
registers: an answer that does not come means only that one must ask again, or ask somebody else.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from wormspace.errors import UsageError, WormError, WrongIdentity
from wormspace.malformed import MALFORMED
from wormspace.rpc import Failure, NoAnswer, Service
from wormspace.smr import events
from wormspace.smr.calls import Malformed, encode_outcome
from wormspace.smr.engine import Engine
from wormspace.smr.errors import (
    BadSnapshot,
    EventsLost,
    NoSnapshot,
    NothingKept,
    ShapeChanged,
    UpdateNeeded,
    VersionForgotten,
)
from wormspace.smr.peers import FORGET_S
from wormspace.smr.records import (
    Ask,
    Fetch,
    Fetched,
    Member,
    Packet,
    Ping,
    Pong,
    Reply,
    Watch,
    Watched,
    decode_charter,
    decoder,
    encode,
)
from wormspace.smr.seat import NotLeading
from wormspace.smr.snapshots import require_same, restore
from wormspace.smr.stores import SnapshotStore
from wormspace.smr.submit import PacketTooLarge
from wormspace.smr.versions import UPGRADE, decode_upgrade
from wormspace.space import Address

if TYPE_CHECKING:
    from wormspace.smr.core import Core

log = logging.getLogger("wormspace.smr")

CLIENT_BYTES = 8
FETCH_TIMEOUT_S = 2.0
MEMBERS_TOLD = 16
"""Other replicas that one answer to a sign of life names; the next one names others."""

CATCH_UP_S = 10.0
CATCH_UP_PAUSE_S = 0.25
LINEARIZABLE, HERE = "linearizable", "here"

_decode_packet = decoder(Packet)
_decode_ask = decoder(Ask)
_decode_ping = decoder(Ping)
_decode_fetch = decoder(Fetch)
_decode_fetched = decoder(Fetched)
_decode_watch = decoder(Watch)


def question(queries: bytes, seen: Address, level: str = LINEARIZABLE) -> Ask:
    """Queries as they are sent."""
    return Ask(queries, level, seen)


def service(core: Core[Any], identity: bytes) -> Service:
    """All services of one replica, whose id is `identity`."""
    desk = _Desk(core)
    prefix = f"smr/{core.name}/"
    own = f"{prefix}{identity.hex()}/"
    return Service(
        {
            prefix + "submit": desk.submit,
            prefix + "ask": desk.ask,
            prefix + "watch": desk.watch,
            prefix + "ping": desk.ping,
            own + "submit": desk.submit,
            own + "ask": desk.ask,
            own + "watch": desk.watch,
            own + "fetch": desk.fetch,
        }
    )


class _Desk:
    """The handlers."""

    def __init__(self, core: Core[Any]) -> None:
        self._core = core

    async def submit(self, body: bytes) -> bytes:
        packet = self._decode(_decode_packet, body)
        self._check(packet)
        try:
            return encode(await self._core.propose(packet))
        except NotLeading:
            return self._elsewhere()
        except PacketTooLarge as e:
            position = self._core.learner.position
            return encode(Reply(None, position, largest=e.largest, too_large=True))

    def _check(self, packet: Packet) -> None:
        """Refuse what would stop all replicas, and not only fail, once it is in the log.

        An upgrade that some replica has not the class of stops that one, as its caller knows; one
        that nobody has is a mistake.

        Raises:
            UsageError, UpdateNeeded, ShapeChanged.
        """
        if len(packet.client) != CLIENT_BYTES:
            raise UsageError(f"a client's id has {CLIENT_BYTES} bytes, not {len(packet.client)}")
        if not packet.commands.startswith(UPGRADE):
            return
        try:
            upgrade = decode_upgrade(packet.commands)
        except Malformed as e:
            raise UsageError(f"a malformed upgrade: {e}") from e
        core = self._core
        own = core.machine_type.declaration.version
        heard = core.seat.announced.since(core.loop.time() - FORGET_S)
        if upgrade.version > max([own, *(ping.newest for ping in heard)]):
            raise UpdateNeeded(
                f"{core.name!r} cannot become version {upgrade.version}: no replica has that class"
            )
        if upgrade.version <= own:
            what = f"{core.name!r}, once it was upgraded,"
            core.learner.engine.lineage.at(upgrade.version, upgrade.shape, what)

    async def ask(self, body: bytes) -> bytes:
        core = self._core
        ask = self._decode(_decode_ask, body)
        if ask.level == HERE:
            await core.reach(ask.seen)
            engine = core.learner.engine
            return encode(Reply(run_queries(engine, ask.queries), engine.position))
        try:
            return encode(await core.answer(ask.queries, ask.seen))
        except NotLeading:
            return self._elsewhere()

    def _elsewhere(self) -> bytes:
        core = self._core
        return encode(Reply(None, core.learner.position, core.proposer.leader))

    async def ping(self, body: bytes) -> bytes:
        core = self._core
        ping = self._decode(_decode_ping, body)
        seat = core.seat
        ours = seat.is_ours(ping.top)
        if ours is False:
            raise UsageError(f"{seat.member} is a replica of another {core.name!r}")
        if ours:
            seat.announced.note(ping, core.loop.time())
            seat.peers.hear(ping.member, ping.applied, ping.kept)
        others = [one.member for one in seat.peers.heard()]
        if len(others) > MEMBERS_TOLD:
            others = seat.rng.sample(others, MEMBERS_TOLD)
        position = core.learner.position
        return encode(Pong(seat.member, core.proposer.age(), position, others, seat.top()))

    async def fetch(self, body: bytes) -> bytes:
        core = self._core
        fetch = self._decode(_decode_fetch, body)
        return encode(core.seat.fetches.next(core.learner.engine, fetch))

    async def watch(self, body: bytes) -> bytes:
        after = self._decode(_decode_watch, body).after
        try:
            return encode(await events.watched(self._core, after))
        except EventsLost as e:
            return encode(Watched(e.first, [], lost=True))

    def _decode(self, decode: Any, body: bytes) -> Any:
        self._core.require_sound()
        try:
            return decode(body)
        except MALFORMED as e:
            raise UsageError(f"a malformed request: {e}") from e


def run_queries(engine: Engine, raw: bytes) -> bytes:
    """Run encoded queries; their outcome, encoded."""
    machine = engine.machine
    try:
        values, faults = machine.declaration.queries.run(machine, raw)
    except Malformed as e:
        raise UsageError(f"{type(machine).__name__}: a malformed question: {e}") from e
    return encode_outcome(values, faults)


# ------------------------------------------------------------------ snapshots of others


async def restore_from(core: Core[Any], store: SnapshotStore) -> Exception | None:
    """Begin with the snapshot that the store has, if it has one that leads further.

    One that is damaged is passed over, as if there were none: whatever it led to is in the space,
    or with other replicas, or else `catch_up` says that nobody has it.

    Returns:
        What is wrong with it, if it is of no use.

    Raises:
        WrongIdentity: it is of another space, or leads further than this one does.
    """
    try:
        return await _restore_from(core, store)
    except WrongIdentity as e:
        raise WrongIdentity(f"{core.name}: {e}") from None


async def _restore_from(core: Core[Any], store: SnapshotStore) -> Exception | None:
    identity = await core.learner.identify()
    try:
        engine = await restore(core.machine_type, store.load(core.name), identity)
    except NothingKept:
        return None
    except Exception as e:
        if isinstance(e, WormError) and not isinstance(e, BadSnapshot | VersionForgotten):
            raise
        log.error(  # whatever a user's place may raise
            "%s: the snapshot that is kept is of no use: %r; the state is read from the space, or "
            "another replica gives it, and the next snapshot replaces one that is damaged",
            core.name,
            e,
        )
        return e
    if engine.position > core.learner.position:
        tail = await core.worm.space(core.name).tail()
        if engine.position > Address(tail, 0):
            raise WrongIdentity(
                f"the snapshot that is kept leads to {engine.position}, and this space has {tail} "
                "segments: it is of another deployment, or the space has lost what it had. "
                "Give each deployment a place for snapshots of its own"
            )
        if identity := await core.learner.identify():  # the space may have begun meanwhile
            require_same(engine.identity, identity)
        core.learner.install(engine)
        core.seat.kept = engine.position
        log.info("%s: restored a snapshot at %s", core.name, engine.position)
    return None


async def catch_up(core: Core[Any], store: SnapshotStore | None) -> None:
    """The space was trimmed beyond this replica: get a later state from a store or another replica.

    Raises:
        NoSnapshot: nobody who can be reached has one.
    """
    space = core.worm.space(core.name)
    deadline = core.loop.time() + CATCH_UP_S
    trouble: dict[str, Exception] = {}
    while True:
        head = await space.head()
        if head <= core.learner.position.segment:
            return
        if store is not None and (error := await restore_from(core, store)):
            trouble["the snapshot that is kept"] = error
        for member in await _known(core):
            if core.learner.position.segment >= head:
                return
            try:
                identity = await core.learner.identify()
                engine = await restore(core.machine_type, _fetch(core, member), identity)
            except (UpdateNeeded, ShapeChanged) as e:
                if not isinstance(e, VersionForgotten):
                    raise
                trouble[str(member)] = e  # it is far behind; another one may not be
                continue
            except (NoAnswer, Failure, WormError, *MALFORMED) as e:
                trouble[str(member)] = e
                continue
            if engine.position > core.learner.position:
                core.learner.install(engine)
                log.info("%s: got a snapshot at %s from %s", core.name, engine.position, member)
        if core.learner.position.segment >= await space.head():
            return
        if core.loop.time() > deadline:
            found = "; ".join(f"{who}: {error}" for who, error in trouble.items())
            raise NoSnapshot(
                f"{core.name}: the segments below {head} are trimmed, and no replica that runs "
                f"has the state they led to ({found or 'none is known'})"
            )
        await asyncio.sleep(CATCH_UP_PAUSE_S)


async def _known(core: Core[Any]) -> list[Member]:
    """The replicas that the newest segment names, and those that were heard of."""
    space = core.worm.space(core.name)
    found = {member.id: member for member in core.seat.peers.members()}
    tail = await space.tail()
    if tail:
        try:
            charter = decode_charter(await space.check(tail - 1), core.name)
        except WormError as e:
            log.info("%s: the newest segment cannot be read: %s", core.name, e)
        else:
            for member in (charter.leader, *charter.members, *charter.owners):
                found.setdefault(member.id, member)
            # Since then they may have started again, under other ids.
            seat, top = core.seat, (tail - 1, charter.leader.id)
            knocks = [seat.knock(member, FETCH_TIMEOUT_S) for member in found.values()]
            for pong in await asyncio.gather(*knocks):
                if pong is not None and pong.top == top:
                    found.setdefault(pong.member.id, pong.member)
    return [member for member in found.values() if member.id != core.seat.member.id]


async def _fetch(core: Core[Any], member: Member) -> AsyncIterator[bytes]:
    """The pieces of a snapshot that another replica takes."""
    ticket = 0
    for index in itertools.count():
        body = encode(Fetch(ticket, index))
        answer = _decode_fetched(await core.seat.call(member, "fetch", body, FETCH_TIMEOUT_S))
        ticket = answer.ticket
        if not answer.piece:
            return
        yield answer.piece
