"""A client of a replicated object that is no replica of it: it calls the replicas of others.

    kv = await worm.attach(KeyValue, "kv")
    await kv.put("colour", b"green")

`worm.attach` finds the replicas in the address space.  `smr.attach` is for a process that reaches
no servers: the address of one replica that runs is enough, and the others, and the leader, it
learns from that one.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from wormspace.errors import Closed, UsageError, WormError
from wormspace.malformed import MALFORMED
from wormspace.rpc import Caller, NoService
from wormspace.runtime.closing import Closing
from wormspace.runtime.deadlines import left
from wormspace.runtime.endpoints import Endpoint
from wormspace.runtime.retrying import FOLLOW_RETRY_S
from wormspace.runtime.tasks import Tasks
from wormspace.smr.arguments import as_addresses, as_client, as_level, as_machine
from wormspace.smr.consistency import Consistency, Eventual, Linearizable, Session
from wormspace.smr.declare import Declaration, StateMachine
from wormspace.smr.errors import EventsLost, NoLeader
from wormspace.smr.events import LISTEN_S, RemoteEvents, before
from wormspace.smr.methods import Method
from wormspace.smr.questions import HERE, question
from wormspace.smr.records import (
    Listen,
    Listened,
    Member,
    Packet,
    Question,
    Reply,
    decode_segment_metadata,
    decoder,
    encode,
)
from wormspace.smr.submit import Asker, Submitter
from wormspace.smr.trying import until_done
from wormspace.smr.views import View
from wormspace.space import Address, Client, Stream
from wormspace.space.arguments import as_name, as_rng, as_timeout

log = logging.getLogger("wormspace.smr")

M = TypeVar("M", bound=StateMachine)

LEARNED = 16
"""Addresses of replicas that are remembered besides those that were given."""

_decode_reply = decoder(Reply)
_decode_listened = decoder(Listened)


class Remote(Closing, View[M], Generic[M]):
    """A replicated object elsewhere; get it from `Worm.attach`, or from `smr.attach`."""

    def __init__(
        self, client: RemoteClient, level: Consistency, on_close: Callable[[Remote[M]], object]
    ) -> None:
        super().__init__(client.declaration, client, level, Session())
        self._client = client
        self._on_close = on_close

    def __repr__(self) -> str:
        return f"<Remote {self._declaration.owner.__name__} {self._client.name!r}>"

    def listen(self, start: int | None = None) -> Stream[tuple[int, Any]]:
        """The events that commands emit; goes on at another replica when one is lost.

        Commands that are called here from now on wait until a replica has said where that is, so
        nothing that they emit is missed.  Otherwise as `Replica.listen`.
        """
        return self._client.listen(start)

    async def close(self) -> None:
        """Hang up."""
        self._on_close(self)
        await self._client.close()


class RemoteClient:
    """The way of a call to whichever replica can answer it."""

    def __init__(
        self,
        declaration: Declaration,
        name: str,
        addresses: Sequence[tuple[str, int]],
        timeout_s: float,
        rng: random.Random,
    ) -> None:
        self.declaration = declaration
        self._service = f"smr/{name}"
        self.name = name
        self._addresses = list(addresses)
        self._given = len(self._addresses)
        self._leader = self._addresses[0]
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._callers: dict[tuple[str, int], Caller] = {}
        self._ids: dict[tuple[str, int], bytes] = {}  # of those that were not given, but learned
        self._closed = False
        self._beginning = Tasks(f"{self._service}: where events begin")
        self._closing = Tasks(f"{self._service}: hanging up")
        self._submitter = Submitter(declaration, timeout_s, rng, self._dispatch)
        self._asker = Asker(declaration, timeout_s, self._dispatch_query)
        self._near = {
            True: Asker(declaration, timeout_s, self._dispatch_anywhere),
            False: Asker(declaration, timeout_s, self._dispatch_unseen),
        }

    def command(
        self, method: Method, arguments: tuple[Any, ...], session: Session
    ) -> asyncio.Future[Any]:
        """See `views.Port`."""
        if self._closed:
            self._require_open()
        return self._submitter.add(method, arguments, session)

    def query(
        self, method: Method, arguments: tuple[Any, ...], level: Consistency, session: Session
    ) -> asyncio.Future[Any]:
        """See `views.Port`."""
        if self._closed:
            self._require_open()
        if isinstance(level, Linearizable):
            return self._asker.add(method, arguments, session)
        return self._near[not isinstance(level, Eventual)].add(method, arguments, session)

    async def close(self) -> None:
        """Hang up."""
        self._closed = True
        self._beginning.cancel()
        for gatherer in (self._submitter, self._asker, *self._near.values()):
            await gatherer.close()
        for caller in self._callers.values():
            await caller.close()

    def _require_open(self) -> None:
        if self._closed:
            raise Closed("hung up")

    # ------------------------------------------------------------ the ways

    async def _dispatch(self, packet: Packet, deadline: float) -> Reply:
        if self._beginning:
            await asyncio.wait(self._beginning, timeout=deadline - self._loop.time())
        return await self._until(deadline, "submit", packet)

    async def _dispatch_query(self, queries: bytes, session: Session, deadline: float) -> Reply:
        return await self._until(deadline, "ask", question(queries, session.seen))

    async def _dispatch_anywhere(self, queries: bytes, session: Session, deadline: float) -> Reply:
        return await self._until(deadline, "ask", question(queries, session.seen, HERE))

    async def _dispatch_unseen(self, queries: bytes, session: Session, deadline: float) -> Reply:
        return await self._until(deadline, "ask", question(queries, Address(0, 0), HERE))

    async def _until(self, deadline: float, what: str, message: Packet | Question) -> Reply:
        """Ask whoever is thought to lead; go where one is sent, or around."""
        body = encode(message)
        absent: dict[tuple[str, int], None] | None = {}

        async def attempt(here: Endpoint, timeout_s: float) -> Reply:
            nonlocal absent
            try:
                reply = _decode_reply(await self._call(here, what, body, timeout_s))
            except (WormError, *MALFORMED) as e:
                if absent is not None and isinstance(e, NoService):
                    absent[here] = None
                    self.require_present(absent)
                else:
                    absent = None  # somebody may have done it
                self._turn(here, None)
                raise
            absent = None
            if reply.largest:
                self._submitter.largest, self._submitter.is_sure = reply.largest, True
            if reply.body is None and not reply.too_large:
                self._turn(here, reply.leader)
            return reply

        return await until_done(self.name, deadline, self._rng, self._likely_leader, attempt)

    def _likely_leader(self) -> Endpoint:
        self._require_open()
        return Endpoint(*self._leader)

    def require_present(self, absent: Iterable[tuple[str, int]]) -> None:
        """Some have another object at these addresses; if all have, asking again does not help.

        Raises:
            UsageError.
        """
        if set(self._addresses) <= set(absent):
            places = ", ".join(str(Endpoint(*address)) for address in self._addresses)
            raise UsageError(
                f"there is no replica of {self.name!r} at {places}, but something else: check the "
                "name and the addresses (`worm.attach` finds them). Nothing was done"
            )

    async def _call(
        self, address: tuple[str, int], what: str, body: bytes, timeout: float
    ) -> bytes:
        self._require_open()
        caller = self._callers.get(address)
        if caller is None:
            caller = self._callers[address] = Caller(*address)
        # Who was given is asked whoever it is; who was learned of, only if it is still that one.
        identity = self._ids.get(address)
        own = "" if identity is None else f"{identity.hex()}/"
        return await caller.call(f"{self._service}/{own}{what}", body, timeout)

    def _turn(self, tried: tuple[str, int], leader: Member | None) -> None:
        """Try another one next: the leader that was named, or the next that is known."""
        if self._leader != tried:
            return  # another call has turned already
        known = self._addresses
        if leader is not None and (leader.host, leader.port) != tried:
            self._leader = (leader.host, leader.port)
            if self._leader not in known[: self._given]:
                self._ids[self._leader] = leader.id
            if self._leader not in known:
                known.append(self._leader)
            if len(known) > self._given + LEARNED:
                self._hang_up_on(known.pop(self._given))
        else:
            at = known.index(tried) if tried in known else -1
            self._leader = known[(at + 1) % len(known)]

    def _hang_up_on(self, address: tuple[str, int]) -> None:
        """A replica that was learned of long ago; it may be gone."""
        del self._ids[address]
        caller = self._callers.pop(address, None)
        if caller is not None:
            self._closing.spawn(caller.close())

    # ------------------------------------------------------------ events

    def listen(self, start: int | None) -> RemoteEvents:
        """See `Remote.listen`."""
        self._require_open()
        after = before(start)
        begun: asyncio.Future[int] = self._loop.create_future()
        if after is not None:
            begun.set_result(after)
        else:

            def on_found(done: asyncio.Task[int]) -> None:
                error = Closed("hung up") if done.cancelled() else done.exception()
                if begun.done():
                    return
                if error is None:
                    begun.set_result(done.result())
                else:
                    begun.set_exception(error)
                    begun.exception()  # whoever reads the stream is told

            beginning = self._beginning.spawn(self._find_beginning(), on_found)
            begun.add_done_callback(lambda done: done.cancelled() and beginning.cancel())
        return RemoteEvents(Listener(self).ask, begun, self.declaration.decode_event)

    async def _find_beginning(self) -> int:
        return (await Listener(self).ask(-1)).first - 1

    async def events_at(self, address: tuple[str, int], after: int) -> Listened:
        """Ask one replica for events.

        Raises:
            Closed, NoAnswer, Failure, MsgspecError.
        """
        raw = await self._call(address, "listen", encode(Listen(after)), 2 * LISTEN_S)
        return _decode_listened(raw)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Of the replicas that are known."""
        return self._addresses


class Listener:
    """Asks one replica after the other for events, until one answers."""

    def __init__(self, client: RemoteClient) -> None:
        self._client = client
        self._place = 0

    async def ask(self, after: int) -> Listened:
        """The events after a number; -1 asks which number is the last.

        Raises:
            EventsLost: no replica that answers holds the next one any more.
            Closed: the client was closed.
            UsageError: all addresses are those of other objects.
        """
        oldest: list[int] = []
        absent: dict[tuple[str, int], None] = {}
        tried = 0
        while True:
            addresses = self._client.addresses
            address = addresses[self._place % len(addresses)]
            try:
                page = await self._client.events_at(address, after)
            except Closed:
                raise
            except (WormError, *MALFORMED) as e:
                if isinstance(e, NoService):
                    absent[address] = None
                    self._client.require_present(absent)
                else:
                    absent.pop(address, None)
                log.info("listening at %s:%d: %s", *address, e)
                await asyncio.sleep(FOLLOW_RETRY_S)
            else:
                if not page.lost:
                    return page
                oldest.append(page.first)
            self._place += 1
            tried += 1
            if oldest and tried >= len(addresses):
                first = min(oldest)
                raise EventsLost(
                    f"event {after + 1} is held by no replica that answers: the oldest is {first}. "
                    f"Read the state, and go on with listen({first})",
                    first,
                )


async def attach(
    machine_type: type[M],
    name: str,
    addresses: Sequence[tuple[str, int]],
    *,
    consistency: Consistency | None = None,
    timeout: float = 10.0,
    rng: random.Random | None = None,
) -> Remote[M]:
    """Use the replicated object `name` by a replica's address, without the address space.

    Args:
        addresses: host and port of some of its replicas.
        consistency: of queries, unless a call says otherwise; `Linearizable()` by default.
        timeout: how long a call may take, in seconds, before it is `NoLeader`.

    Raises:
        UsageError: an argument is not what is said here.
    """
    level = Linearizable() if consistency is None else as_level(consistency)
    declaration = as_machine(machine_type).declaration
    places = as_addresses(addresses)
    client = RemoteClient(declaration, as_name(name), places, as_timeout(timeout), as_rng(rng))
    return Remote(client, level, lambda remote: None)


async def attach_in(
    worm: Client,
    machine_type: type[M],
    name: str,
    consistency: Consistency | None,
    timeout: float,
    rng: random.Random | None,
    on_close: Callable[[Remote[M]], object],
) -> Remote[M]:
    """See `Worm.attach`; `on_close` is called when it is closed."""
    level = Linearizable() if consistency is None else as_level(consistency)
    declaration = as_machine(machine_type).declaration
    timeout, rng = as_timeout(timeout), as_rng(rng)
    places = await addresses_of(worm, as_name(name), timeout=timeout)
    return Remote(RemoteClient(declaration, name, places, timeout, rng), level, on_close)


async def addresses_of(
    worm: Client, name: str, *, timeout: float | None = None
) -> list[tuple[str, int]]:
    """Where the replicas of `name` can be called, as its newest segment tells; the leader first.

    Args:
        timeout: in seconds, for all of it; by default the client's.

    Raises:
        UsageError: an argument is not what is said here.
        NoLeader: nobody has ever replicated an object of that name.
        Unavailable: too few servers answered in time.
    """
    space = as_client(worm).space(name)
    deadline = worm.deadline(timeout)
    tail = await space.tail(timeout=timeout)
    if tail == 0:
        raise NoLeader(f"there is no replicated object {name!r}: start a replica of it")
    raw = await space.check(tail - 1, timeout=left(deadline))
    segment_metadata = decode_segment_metadata(raw, name)
    members = [segment_metadata.leader, *segment_metadata.members, *segment_metadata.owners]
    return list(dict.fromkeys((member.host, member.port) for member in members))
