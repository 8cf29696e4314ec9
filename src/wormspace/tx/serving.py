"""What a site does when another one asks: operations, votes, decisions, and driving a commit."""

from __future__ import annotations

import asyncio
from typing import Protocol

from wormspace.errors import UsageError, WormError
from wormspace.malformed import MALFORMED
from wormspace.tx import committing
from wormspace.tx.deciding import Vote
from wormspace.tx.errors import Conflict
from wormspace.tx.hosting import CALL_TIMEOUT_S, Host
from wormspace.tx.managers import Branch
from wormspace.tx.messages import (
    Ask,
    Begin,
    Finish,
    Identify,
    ListPrepared,
    Operate,
    Plan,
    Rollback,
    Said,
    Tell,
    decode_request,
    encode,
)
from wormspace.tx.names import Gid


class Servant(Protocol):
    """A session that takes operations as bytes, from other processes."""

    async def operate(self, body: bytes) -> bytes:
        """Do one operation; its result."""


class Handlers:
    """The service of one site."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def on_request(self, body: bytes) -> bytes:
        """Answer one request.

        Raises:
            WormError: it cannot be done; the caller is told.
        """
        try:
            request = decode_request(body)
        except MALFORMED as e:
            raise UsageError(f"not a request between sites: {e}") from e
        home = await self._host.open(CALL_TIMEOUT_S)
        if request.identity != home.identity:
            raise UsageError(
                f"nothing was done: this is a site of another transaction space (identity "
                f"{home.identity}, not {request.identity}); correct the store's address"
            )
        match m := request.message:
            case Operate():
                return encode(await self._on_operate(m))
            case Ask():
                return encode(await self._on_ask(m))
            case Begin():
                decision = await committing.drive(self._host, m.plan)
                return encode(decision) if decision is not None else b""
            case Tell():
                in_flight = self._host.in_flights.open.get(m.id)
                if in_flight is not None:
                    in_flight.decide(m.decision)
            case Finish():
                await self._on_finish(m)
            case ListPrepared():
                manager = await self._host.recognise(m.manager)
                return encode([str(gid) for gid in await manager.prepared()])
            case Identify():
                return (await self._host.manager(m.manager).identity()).encode()
            case Rollback():
                branch = self._host.kept.take(m.id, m.manager)
                if branch is not None:
                    await branch.rollback()
        return b""

    async def _on_operate(self, m: Operate) -> Said:
        host = self._host
        branch = host.kept.use(m.id, m.manager)
        if branch is None:
            manager = await host.recognise(m.manager, decide=True)
            branch = await manager.begin(host.gid(m.manager, m.id))
            host.kept.keep(m.id, m.manager, branch)
        said = await self._operate(branch, m.body)
        if m.last is not None:
            self._vote(m.last, (m.manager,))
        return said

    async def _operate(self, branch: Branch, body: bytes) -> Said:
        servant: Servant = branch.session
        try:
            return Said(await servant.operate(body))
        except Conflict as e:
            return Said(problem=str(e), conflict=True)
        except WormError as e:
            return Said(problem=str(e))

    def _vote(self, plan: Plan, managers: tuple[str, ...]) -> None:
        """Let managers here take part, and hear what they need to hear."""
        committing.listen(self._host, plan)
        for manager in managers:
            self._host.manager(manager)
        self._host.take_part(plan, dict.fromkeys(managers))

    async def _on_ask(self, m: Ask) -> list[Vote | None]:
        in_flights = self._host.in_flights
        in_flight = in_flights.join(m.plan.id, m.plan.participants)
        try:
            self._vote(m.plan, m.managers)
            return [await in_flight.vote_of(manager) for manager in m.managers]
        finally:
            in_flights.leave(in_flight)

    async def _on_finish(self, m: Finish) -> None:
        gid = Gid.parse(m.gid)
        if gid is None:
            raise UsageError(f"{m.gid!r} is no branch")
        manager = await self._host.recognise(gid.manager)
        await asyncio.shield(manager.commit(gid) if m.commit else manager.abort(gid))
