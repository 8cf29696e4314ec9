"""What a replica is made of, how it begins and ends, and what stops it.

The learner applies what is in the log, the proposer writes to it; `routing` takes calls to whoever
leads, `serving` does for others what they ask, `catching_up` and `upgrading` what their names say.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from wormspace.errors import Closed, WormError
from wormspace.rpc import Service
from wormspace.runtime.endpoints import Endpoint
from wormspace.runtime.tasks import Tasks
from wormspace.smr import catching_up, serving
from wormspace.smr.auditing import Audits
from wormspace.smr.consistency import Consistency, Eventual, Linearizable, Session
from wormspace.smr.declare import StateMachine
from wormspace.smr.durability import Durability
from wormspace.smr.engine import Applied, Engine
from wormspace.smr.errors import Diverged, Stopped
from wormspace.smr.events import Bells
from wormspace.smr.learner import Learner
from wormspace.smr.methods import Method
from wormspace.smr.records import Batch, Member, Packet, Reply
from wormspace.smr.replica_context import Leadership, NotLeading, ReplicaContext, Tuning
from wormspace.smr.routing import Router
from wormspace.smr.snapshots import Audit
from wormspace.smr.submit import Asker, Submitter
from wormspace.smr.upgrading import Upgrades
from wormspace.smr.views import Status
from wormspace.space import Address, Space

log = logging.getLogger("wormspace.smr")


@dataclass(frozen=True)
class Settings:
    """What a user chose for a replica; see `Worm.replicate`."""

    replica: str
    host: str
    timeout_s: float
    clock: Callable[[], float]
    rng: random.Random
    leadership: Leadership
    durability: Durability
    tuning: Tuning


class Core:
    """One replica, put together, begun and ended; users hold a `Replica` of it.

    Args:
        service: listens at the port; it gets what this replica does for others.
    """

    def __init__(
        self,
        machine_type: type[StateMachine],
        space: Space,
        service: Service,
        port: int,
        settings: Settings,
    ) -> None:
        declaration, rng = machine_type.declaration, settings.rng
        timeout_s, host = settings.timeout_s, settings.host
        self.failed: Exception | None = None
        self.bells = Bells()
        self.service = service
        self._durability = settings.durability
        self._audits = Audits(self._on_differing)
        self._tasks = Tasks(f"smr/{space.name}")
        self._catching_up: asyncio.Task[None] | None = None
        self._closed = False
        self._submitter = Submitter(declaration, timeout_s, rng, self._dispatch)
        self._asker = Asker(declaration, timeout_s, self._ask)
        self.learner = Learner(
            space,
            Engine(machine_type()),
            settings.leadership.strategy,
            self._on_applied,
            self._on_missing,
            self._on_failed,
        )
        identity = rng.getrandbits(64).to_bytes(8, "big")
        called = settings.replica or str(Endpoint(host, port))
        member = Member(called, identity, host, port)
        self.context = ReplicaContext(
            f"smr/{space.name}", space, member, self.learner, settings.clock, rng, settings.tuning
        )
        self._submitter.largest, self._submitter.is_sure = self.context.largest_packet, True
        self.proposer = settings.leadership.make_proposer(self.context)
        self.router = Router(self.context, self.proposer, self.require_sound, timeout_s)
        self.upgrades = Upgrades(self.context, self.proposer, self.router.carry, timeout_s)
        self.learner.on_leader = self.router.on_leader
        service.handlers.update(serving.handlers(self.router, self))

    def _dispatch(self, packet: Packet, deadline: float) -> Awaitable[Reply]:
        return self.router.carry(packet, deadline)

    def _ask(self, queries: bytes, session: Session, deadline: float) -> Awaitable[Reply]:
        return self.router.ask(queries, session, deadline)

    async def start(self) -> None:
        """Restore, and take part."""
        await self.learner.require_strategy()
        store = self._durability.store
        if store is not None:
            await catching_up.restore_from(self.context, store)
        if await self.learner.space.head() > self.learner.position.segment:
            await catching_up.catch_up(self.context, store)
        self._tasks.spawn(self._guard(self.proposer.run))
        upgrade_s = self.context.tuning.upgrade_s
        if upgrade_s > 0:
            self._tasks.spawn(self._guard(lambda: self.upgrades.run(upgrade_s)))
        self._tasks.spawn(self._guard(self.context.watch_leases))
        all_lead = self.proposer.leads  # before anybody was elected: then none asks another
        self._tasks.spawn(self._guard(lambda: self.context.keep_in_touch(greet_all=all_lead)))
        self._tasks.spawn(self._guard(lambda: self._durability.run(self.context, self.proposer)))

    async def close(self) -> None:
        """Stop everything; who was cancelled here may call it again."""
        self._closed = True
        await self.service.stop()
        await self._submitter.close()
        await self._asker.close()
        self.learner.stop_listening()
        await self._tasks.close()
        await self.context.close()
        self.bells.ring()

    def status(self) -> Status:
        """See `Replica.status`."""
        return Status(
            self.context.member,
            self.learner.position,
            self.proposer.leader,
            self.proposer.leads,
            "" if self.failed is None else str(self.failed),
            len(self.learner.engine.sessions),
        )

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
        self.router.on_applied(applied)
        if batch is not None:
            if batch.audit:
                self._tasks.spawn(self._audit(Audit(self.learner.engine)))
            if batch.audited is not None:
                self._audits.claim(batch.audited)
        self.bells.ring()

    async def _audit(self, audit: Audit) -> None:
        mark = await self._audits.take(audit)
        if self.proposer.leads:
            self.context.audited = mark

    def _on_differing(self, position: Address) -> None:
        name = self.context.space.name
        self._on_failed(
            Diverged(
                f"{name}: the state of {self.context.member} at position {position} differs "
                "from the proposer's: a command is not the same everywhere"
            )
        )

    def _on_missing(self) -> None:
        if self._catching_up is None:
            self._catching_up = self._tasks.spawn(self._catch_up())

    async def _catch_up(self) -> None:
        try:
            await catching_up.catch_up(self.context, self._durability.store)
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
        name, member = self.context.space.name, self.context.member
        log.critical("%s: replica %s has stopped: %s", name, member, error)
        self.learner.stop_listening()
        self.context.fail_waiting(NotLeading(f"the replica has stopped: {error}"))
        self._tasks.cancel()

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
        return self._tasks.begin(self._query_here(method, arguments, level, session))

    async def _query_here(
        self, method: Method, arguments: tuple[Any, ...], level: Consistency, session: Session
    ) -> Any:
        if not isinstance(level, Eventual):
            try:
                await self.router.reach(session.seen)
            except asyncio.CancelledError:
                self.require_sound()  # the replica was closed, and nobody cancelled the caller
                raise
            session.saw(self.learner.position)
        return self.learner.engine.query(method, arguments)


async def listening(
    machine_type: type[StateMachine], space: Space, port: int, settings: Settings
) -> Core:
    """A replica that others can call, and that takes no part yet.

    Raises:
        WormError: nobody can listen there.
    """
    service = Service({})
    try:
        port = await service.start(settings.host, port)
        return Core(machine_type, space, service, port, settings)
    except BaseException:
        await service.stop()
        raise
