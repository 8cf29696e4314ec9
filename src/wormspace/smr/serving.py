"""What a replica does for others: the leader for its followers, all of them for clients.

Services, by the name that follows `smr/NAME/`: `submit` a packet, `ask` a question, `listen` for
events, `ping` whoever is there.  Replicas ask one another by `smr/NAME/ID/`, for what one replica
was asked must not be answered by another that has its address now: the same, and `fetch` a snapshot
piece by piece.  Everything that must not be lost is in registers: an answer that does not come
means only that one must ask again, or ask somebody else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from wormspace.errors import UsageError
from wormspace.malformed import MALFORMED
from wormspace.smr.calls import Malformed
from wormspace.smr.errors import EventsLost, UpdateNeeded
from wormspace.smr.events import Followed, next_events
from wormspace.smr.peers import FORGET_S
from wormspace.smr.questions import HERE, run_queries
from wormspace.smr.records import (
    Fetch,
    Listen,
    Listened,
    Packet,
    Ping,
    Pong,
    Question,
    Reply,
    decoder,
    encode,
)
from wormspace.smr.replica_context import NotLeading
from wormspace.smr.routing import Router
from wormspace.smr.submit import PacketTooLarge
from wormspace.smr.versions import UPGRADE, decode_upgrade

Handler: TypeAlias = Callable[[bytes], Awaitable[bytes]]

CLIENT_BYTES = 8
MEMBERS_TOLD = 16
"""Other replicas that one answer to a sign of life names; the next one names others."""

_decode_packet = decoder(Packet)
_decode_ask = decoder(Question)
_decode_ping = decoder(Ping)
_decode_fetch = decoder(Fetch)
_decode_listen = decoder(Listen)


def handlers(router: Router, followed: Followed) -> dict[str, Handler]:
    """What one replica does for others, by the name of each service."""
    desk = _Desk(router, followed)
    prefix = router.context.service + "/"
    own = f"{prefix}{router.context.member.id.hex()}/"
    return {
        prefix + "submit": desk.submit,
        prefix + "ask": desk.ask,
        prefix + "listen": desk.listen,
        prefix + "ping": desk.ping,
        own + "submit": desk.submit,
        own + "ask": desk.ask,
        own + "listen": desk.listen,
        own + "fetch": desk.fetch,
    }


class _Desk:
    """The handlers."""

    def __init__(self, router: Router, followed: Followed) -> None:
        self._router = router
        self._context = router.context
        self._learner = router.learner
        self._proposer = router.proposer
        self._followed = followed

    async def submit(self, body: bytes) -> bytes:
        packet = self._decode(_decode_packet, body)
        self._check(packet)
        try:
            return encode(await self._router.propose(packet))
        except NotLeading:
            return self._elsewhere()
        except PacketTooLarge as e:
            position = self._learner.position
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
        context, name, lineage = (
            self._context,
            self._context.space.name,
            self._learner.engine.lineage,
        )
        own = lineage.newest.declaration.version
        heard = context.announced.since(context.loop.time() - FORGET_S)
        if upgrade.version > max([own, *(ping.newest for ping in heard)]):
            raise UpdateNeeded(
                f"{name!r} cannot become version {upgrade.version}: no replica has that class"
            )
        if upgrade.version <= own:
            what = f"{name!r}, once it was upgraded,"
            lineage.at(upgrade.version, upgrade.shape, what)

    async def ask(self, body: bytes) -> bytes:
        ask = self._decode(_decode_ask, body)
        if ask.level == HERE:
            await self._router.reach(ask.seen)
            engine = self._learner.engine
            return encode(Reply(run_queries(engine, ask.queries), engine.position))
        try:
            return encode(await self._router.answer(ask.queries, ask.seen))
        except NotLeading:
            return self._elsewhere()

    def _elsewhere(self) -> bytes:
        return encode(Reply(None, self._learner.position, self._proposer.leader))

    async def ping(self, body: bytes) -> bytes:
        ping = self._decode(_decode_ping, body)
        context = self._context
        ours = context.is_ours(ping.top)
        if ours is False:
            raise UsageError(
                f"{context.member} is a replica of another object named {context.space.name!r}"
            )
        if ours:
            context.announced.note(ping, context.loop.time())
            context.peers.hear(ping.member, ping.applied, ping.kept)
        others = [one.member for one in context.peers.heard()]
        if len(others) > MEMBERS_TOLD:
            others = context.rng.sample(others, MEMBERS_TOLD)
        position = self._learner.position
        return encode(Pong(context.member, self._proposer.age(), position, others, context.top()))

    async def fetch(self, body: bytes) -> bytes:
        fetch = self._decode(_decode_fetch, body)
        return encode(self._context.fetches.next(self._learner.engine, fetch))

    async def listen(self, body: bytes) -> bytes:
        after = self._decode(_decode_listen, body).after
        try:
            return encode(await next_events(self._followed, after))
        except EventsLost as e:
            return encode(Listened(e.first, [], lost=True))

    def _decode(self, decode: Any, body: bytes) -> Any:
        self._followed.require_sound()
        try:
            return decode(body)
        except MALFORMED as e:
            raise UsageError(f"a malformed request: {e}") from e
