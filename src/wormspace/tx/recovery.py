"""Recovery: what is stuck is looked for, and resolved.

Each resource manager is recovered by a task of its own: a database that is silent or slow delays
the recovery of no other, nor the time limits of the transactions here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from wormspace.errors import Trimmed, UsageError, WormError
from wormspace.runtime.deadlines import within
from wormspace.tx.hosting import Host
from wormspace.tx.in_flight import InFlight
from wormspace.tx.managers import ResourceManager
from wormspace.tx.names import Gid
from wormspace.tx.remote import RemoteStore
from wormspace.tx.resolver import OVER, Resolution
from wormspace.tx.trimming import Finished

log = logging.getLogger("wormspace.tx")

ASK_S = 15.0
"""How long a manager may take to say what it holds prepared; more than its own time limit."""

FIND_S = 5.0


class _Recovered:
    """What is known of one manager.

    Attributes:
        seen: what of ours it held prepared at the last recovery, and since when that was seen.
        others: the same of what is not ours.
        told: those of the others that were logged.
        task: recovers it again and again.
    """

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.seen: dict[Gid, float] = {}
        self.others: dict[Gid, float] = {}
        self.told: set[Gid] = set()
        self.task = task


class Recovery:
    """The recovery of one host."""

    def __init__(self, host: Host, finished: Finished, patience: float, idle: float) -> None:
        self._host = host
        self._finished = finished
        self._patience = patience
        self._idle = idle
        self._swept: dict[str, _Recovered] = {}
        host.tasks.spawn(self._for_ever(self._recover_here))

    def watch(self, manager: ResourceManager) -> None:
        """Sweep this manager too, from now on."""

        async def recover(patience: float) -> None:
            await self._recover_manager(manager, patience)

        self._swept[manager.name] = _Recovered(self._host.tasks.spawn(self._for_ever(recover)))

    def unwatch(self, manager: str) -> None:
        """Sweep it no longer."""
        self._swept.pop(manager).task.cancel()

    async def _for_ever(self, recover: Callable[[float], Awaitable[None]]) -> None:
        patience = self._patience
        while True:
            await asyncio.sleep(patience / 2)
            try:
                await recover(patience)
            except WormError as e:
                log.warning("tx: the recovery goes on later: %s", e)
            except Exception:
                log.exception("tx: the recovery goes on later")

    async def recover(self, patience: float) -> list[Resolution]:
        """Sweep all, now."""
        await self._recover_here(patience, trim=False)
        managers = list(self._host.managers.values())
        results = await asyncio.gather(
            *(self._recover_manager(m, patience) for m in managers), return_exceptions=True
        )
        await self._finished.trim()
        found: list[Resolution] = []
        for some in results:  # one that is the wrong database keeps nobody from the others
            if isinstance(some, BaseException):
                raise some
            found += some
        return found

    # ------------------------------------------------------------ transactions here

    async def _recover_here(self, patience: float, *, trim: bool = True) -> None:
        host, now = self._host, self._host.now()
        for in_flight in list(host.in_flights.open.values()):
            # Until its time limit, a transaction that is run here is its initiator's own.
            is_own = now < in_flight.deadline < float("inf")
            if in_flight.decision is None and not is_own and now - in_flight.since >= patience:
                await self._resolve_in_flight(in_flight)
        await self._roll_back_idle(now)
        if trim:
            await self._finished.trim()

    async def _resolve_in_flight(self, in_flight: InFlight) -> None:
        resolver = self._host.resolver
        try:
            in_flight.decide(
                await resolver.settle(in_flight.id, in_flight.participants, in_flight.votes)
            )
        except Trimmed:
            if in_flight.local:
                in_flight.decide(OVER)
        except WormError as e:
            log.warning("tx: %s cannot be resolved now: %s", in_flight.id, e)

    async def _roll_back_idle(self, now: float) -> None:
        """Free what a client that died left behind before it was asked to vote."""
        host = self._host
        for (txid, manager), used in host.kept.used():
            if now - used >= self._idle and txid.initiator != host.peers.initiator:
                branch = host.kept.take(txid, manager)
                if branch is not None:
                    host.metrics["sessions_expired"] += 1
                    await branch.rollback()

    # ------------------------------------------------------------ managers

    async def _recover_manager(self, manager: ResourceManager, patience: float) -> list[Resolution]:
        host = self._host
        home = await host.vote_store.find(within(FIND_S))
        swept = self._swept.get(manager.name)
        if isinstance(manager, RemoteStore):
            if home is None:
                return []  # nothing was ever prepared
            manager.belong_to(home)
        gids = await self._ask(manager, home is not None)
        if gids is None or swept is None:
            return []
        now = host.now()
        gids = [gid for gid in gids if gid.manager == manager.name]
        ours = [gid for gid in gids if home is not None and home.owns(gid)]
        swept.seen = {gid: swept.seen.get(gid, now) for gid in ours}
        others = set(gids).difference(ours)
        swept.others = {gid: swept.others.get(gid, now) for gid in others}
        self._tell_of_others(manager.name, swept, now)
        old = [gid for gid in ours if now - swept.seen[gid] >= patience]
        results = await host.resolver.finish_all(
            (manager, gid) for gid in old if gid.id not in host.in_flights.open
        )
        host.metrics["resolved"] += sum(not r.problem for r in results)
        return results

    async def _ask(self, manager: ResourceManager, is_used: bool) -> list[Gid] | None:
        """What a manager holds prepared; None if it does not say.

        Args:
            is_used: whether there is a transaction space, so that its name may mean a database.

        Raises:
            UsageError: it is another database than its name means, or does not say who it is.
        """
        try:
            async with asyncio.timeout(ASK_S):
                if is_used:
                    await self._host.identities.check(manager, within(ASK_S))
                return await manager.prepared()
        except UsageError:
            raise
        except (WormError, TimeoutError) as e:
            why = str(e) or f"no answer within {ASK_S:g} s"
            log.warning("tx: %s cannot be asked what it holds prepared: %s", manager.name, why)
            return None

    def _tell_of_others(self, manager: str, swept: _Recovered, now: float) -> None:
        swept.told &= swept.others.keys()
        for gid, since in swept.others.items():
            if gid not in swept.told and now - since >= self._patience:
                swept.told.add(gid)
                log.warning(
                    "tx: %s holds %s prepared, which is of another transaction space or of an "
                    "older format: it is left alone, see docs/in-doubt.md",
                    manager,
                    gid,
                )

    # ------------------------------------------------------------ for people

    def left_alone(self, patience: float) -> list[Gid]:
        """See `Site.left_alone`."""
        since = self._host.now() - patience
        return [g for s in self._swept.values() for g, at in s.others.items() if at <= since]

    def gauges(self) -> dict[str, float]:
        """See `metrics`."""
        seen = [at for swept in self._swept.values() for at in swept.seen.values()]
        return {
            "prepared": len(seen),
            "prepared_left_alone": len(self.left_alone(self._patience)),
            "prepared_longest_seconds": self._host.now() - min(seen) if seen else 0.0,
        }
