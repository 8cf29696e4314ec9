"""What a replica is made of: learner, proposer, service, and the way of a call through them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from wormspace.errors import Closed, Trimmed, UsageError, WormError
from wormspace.malformed import MALFORMED
from wormspace.runtime.endpoints import Endpoint
from wormspace.smr import serving, upgrading
from wormspace.smr.auditing import Audits
from wormspace.smr.consistency import Consistency, Eventual, Linearizable, Session
from wormspace.smr.declare import StateMachine
from wormspace.smr.durability import Durability
from wormspace.smr.engine import Applied, Engine
from wormspace.smr.errors import Behind, Diverged, Stopped
from wormspace.smr.events import Bells
from wormspace.smr.learner import Learner
from wormspace.smr.methods import Method
from wormspace.smr.records import (
    Batch,
    Member,
    Packet,
    Reply,
    decoder,
    encode,
)
from wormspace.smr.seat import Leadership, NotLeading, Seat, Tuning
from wormspace.smr.snapshots import Audit
from wormspace.smr.submit import Asker, PacketTooLarge, Submitter
from wormspace.smr.trying import Trying
from wormspace.smr.views import Status
from wormspace.space import Address, Client

log = logging.getLogger("wormspace.smr")

M = TypeVar("M", bound=StateMachine)

_decode_reply = decoder(Reply)


class Core(Generic[M]):
    """One replica, as its calls see it; `replicate` makes it, and `Replica` is what users hold."""

    def __init__(
        self,
        machine_type: type[M],
        worm: Client,
        name: str,
        *,
        replica: str,
        host: str,
        timeout_s: float,
        clock: Callable[[], float],
        rng: random.Random,
        leadership: Leadership,
        durability: Durability,
        tuning: Tuning,
    ) -> None:
        self.machine_type = machine_type
        self.name = name
        self.worm = worm
        self.loop = asyncio.get_running_loop()
        self.failed: Exception | None = None
        self._replica = replica
        self._host = host
        self.timeout_s = timeout_s
        self._clock = clock
        self.rng = rng
        self._leadership = leadership
        self._durability = durability
        self._tuning = tuning
        self._audits = Audits(self._on_differing)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._catching_up: asyncio.Task[None] | None = None
        self._forwarded: dict[asyncio.Timeout, None] = {}
        self.bells = Bells()
        self._closed = False
        declaration = machine_type.declaration
        self._submitter = Submitter(declaration, timeout_s, rng, self.carry)
        self._asker = Asker(declaration, timeout_s, self._carry_question)
        self.learner = Learner(
            worm.space(name),
            Engine(machine_type()),
            leadership.strategy,
            self._on_applied,
            self._on_missing,
            self._on_failed,
        )
        self.learner.on_leader = self._on_leader

    async def listen(self, port: int) -> None:
        """Be callable by others, and so have an identity.

        Raises:
            OSError: the port cannot be had.
        """
        identity = self.rng.getrandbits(64).to_bytes(8, "big")
        self.service = serving.service(self, identity)
        try:
            port = await self.service.start(self._host, port)
        except BaseException:
            await self.service.stop()
            raise
        member = Member(
            self._replica or str(Endpoint(self._host, port)), identity, self._host, port
        )
        space = self.worm.space(self.name)
        self.seat = Seat(
            f"smr/{self.name}", space, member, self.learner, self._clock, self.rng, self._tuning
        )
        self._submitter.largest, self._submitter.is_sure = self.seat.largest_packet, True
        self.proposer = self._leadership.take_seat(self.seat)

    async def start(self) -> None:
        """Restore, and take part."""
        await self.learner.require_strategy()
        store = self._durability.store
        if store is not None:
            await serving.restore_from(self, store)
        if await self.learner.space.head() > self.learner.position.segment:
            await serving.catch_up(self, store)
        self._spawn(self._guard(self.proposer.run))
        if self._tuning.upgrade_s > 0:
            self._spawn(self._guard(lambda: upgrading.run(self, self._tuning.upgrade_s)))
        self._spawn(self._guard(self.seat.watch_leases))
        all_lead = self.proposer.leads  # before anybody was elected: then none asks another
        self._spawn(self._guard(lambda: self.seat.keep_in_touch(greet_all=all_lead)))
        self._spawn(self._guard(lambda: self._durability.run(self.seat, self.proposer)))

    async def close(self) -> None:
        """Stop everything; who was cancelled here may call it again."""
        self._closed = True
        await self.service.stop()
        await self._submitter.close()
        await self._asker.close()
        self.learner.deafen()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self.seat.close()
        self.bells.ring()

    def status(self) -> Status:
        """See `Replica.status`."""
        return Status(
            self.seat.member,
            self.learner.position,
            self.proposer.leader,
            self.proposer.leads,
            "" if self.failed is None else str(self.failed),
            len(self.learner.engine.sessions),
        )

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        """A replica whose engine room fails must say so, not fall silent."""
        try:
            await work()
        except Closed:
            pass
        except Exception as e:  # noqa: BLE001 - reported by every call from now on
            self._on_failed(e)

    # ------------------------------------------------------------ what the learner says

    def _on_applied(self, applied: list[Applied], batch: Batch | None) -> None:
        waiting = self.seat.waiting
        if waiting:
            for one in applied:
                future = waiting.pop((one.client, one.number), None)
                if future is not None and not future.done():
                    future.set_result(one.outcome)
        if batch is not None:
            if batch.audit:
                self._spawn(self._audit(Audit(self.learner.engine)))
            if batch.audited is not None:
                self._audits.claim(batch.audited)
        self.bells.ring()

    async def _audit(self, audit: Audit) -> None:
        mark = await self._audits.take(audit)
        if self.proposer.leads:
            self.seat.audited = mark

    def _on_differing(self, position: Address) -> None:
        self._on_failed(
            Diverged(
                f"{self.name}: the state of {self.seat.member} at position {position} differs from "
                "the proposer's: a command is not the same everywhere"
            )
        )

    def _on_missing(self) -> None:
        if self._catching_up is None:
            self._catching_up = self._spawn(self._catch_up())

    async def _catch_up(self) -> None:
        try:
            await serving.catch_up(self, self._durability.store)
        except Exception as e:  # noqa: BLE001 - reported by every call from now on
            self._on_failed(e)
        finally:
            self._catching_up = None

    def _on_failed(self, error: Exception) -> None:
        if self.failed is not None or self._closed:
            return
        if not isinstance(error, WormError):
            cause, error = error, Stopped(self._why(error))
            error.__cause__ = cause
        self.failed = error
        log.critical("%s: replica %s has stopped: %s", self.name, self.seat.member, error)
        self.learner.deafen()
        self.seat.fail_waiting(NotLeading(f"the replica has stopped: {error}"))
        for task in self._tasks:
            task.cancel()

    def _why(self, error: Exception) -> str:
        said = f"{type(error).__name__}: {error}"
        if not isinstance(error, MemoryError):
            return said
        return (
            f"this process has run out of memory at position {self.learner.position} ({said}); "
            "the log has all that was said, so nothing is lost: start the replica again, with more "
            "memory. If every replica stops at this position, a command there asks for more than "
            "any of them has"
        )

    def require_sound(self) -> None:
        """Raise what stopped this replica, if something did."""
        if self._closed:
            raise Closed("the replica is closed")
        if self.failed is not None:
            raise self.failed

    # ------------------------------------------------------------ calls

    def command(
        self, method: Method, arguments: tuple[Any, ...], session: Session
    ) -> asyncio.Future[Any]:
        """See `views.Port`."""
        if self._closed or self.failed is not None:
            self.require_sound()
        return self._submitter.add(method, arguments, session)

    def query(
        self, method: Method, arguments: tuple[Any, ...], level: Consistency, session: Session
    ) -> asyncio.Future[Any]:
        """See `views.Port`."""
        self.require_sound()
        if isinstance(level, Linearizable):
            return self._asker.add(method, arguments, session)
        return self._spawn(self._query_here(method, arguments, level, session))

    async def _query_here(
        self, method: Method, arguments: tuple[Any, ...], level: Consistency, session: Session
    ) -> Any:
        if not isinstance(level, Eventual):
            try:
                await self.reach(session.seen)
            except asyncio.CancelledError:
                self.require_sound()  # the replica was closed, and nobody cancelled the caller
                raise
            session.saw(self.learner.position)
        return self.learner.engine.query(method, arguments)

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

    async def carry(self, packet: Packet, deadline: float) -> Reply:
        """Have a packet applied, by whoever leads."""
        return await self._until(
            deadline,
            lambda: self.propose(packet),
            lambda leader, timeout: self.seat.call(leader, "submit", encode(packet), timeout),
        )

    async def _carry_question(self, queries: bytes, session: Session, deadline: float) -> Reply:
        """Have queries answered by whoever leads."""
        ask = encode(serving.question(queries, session.seen))
        return await self._until(
            deadline,
            lambda: self.answer(queries, session.seen),
            lambda leader, timeout: self.seat.call(leader, "ask", ask, timeout),
        )

    async def _until(self, deadline: float, here: Any, there: Any) -> Reply:
        """Do it here if this replica leads, else at the leader; again until it is done."""
        trying = Trying(self.name, deadline, self.rng)
        while True:
            self.require_sound()
            remaining = trying.remaining()
            leader = self.proposer.leader
            try:
                if self.proposer.leads:
                    async with asyncio.timeout(remaining):
                        reply: Reply = await here()
                    return reply
                if leader is None:
                    trying.failed("", "nobody is known to lead")
                elif leader.id == self.seat.member.id:
                    trying.failed(leader, "this replica does not lead yet")
                else:
                    answer: Reply = _decode_reply(await self._forward(leader, there, trying))
                    if answer.body is not None:
                        return answer
                    if answer.too_large:
                        raise PacketTooLarge(answer.largest)
                    trying.failed(leader, "it does not lead")
            except (Trimmed, UsageError):
                raise
            except (WormError, TimeoutError, *MALFORMED) as e:
                trying.failed(leader or self.seat.member, e)
            await trying.pause()

    async def _forward(self, leader: Member, there: Any, trying: Trying) -> bytes:
        """Ask the leader, for as long as it is the leader."""
        async with asyncio.timeout(trying.remaining()) as timeout:
            self._forwarded[timeout] = None
            try:
                raw: bytes = await there(leader, trying.attempt_s())
                return raw
            finally:
                del self._forwarded[timeout]

    def _on_leader(self) -> None:
        """Somebody else leads: what was sent to the one before is sent again."""
        for timeout in self._forwarded:
            timeout.reschedule(self.loop.time())

    async def propose(self, packet: Packet) -> Reply:
        """Take a packet to a register; its outcome, once it is applied here.

        Raises:
            NotLeading.
            PacketTooLarge: nothing was done.
        """
        largest = self.seat.largest_packet
        if len(packet.commands) > largest:
            raise PacketTooLarge(largest)
        known = self.learner.engine.sessions.find(packet)
        if known is None:
            key = (packet.client, packet.number)
            waiting = self.seat.waiting
            future = waiting.get(key)
            if future is None:
                self.proposer.offer(packet)
                future = waiting[key] = self.loop.create_future()
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
        return Reply(serving.run_queries(self.learner.engine, queries), self.learner.position)
