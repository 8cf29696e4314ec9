"""Recovery: what is stuck is looked for, and resolved.

Each resource manager is recovered by a task of its own: a database that is silent or slow delays
the recovery of no other, nor the time limits of the transactions here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from wormspace.errors import Trimmed, UsageError, WormError
from wormspace.runtime.deadlines import within
from wormspace.runtime.tasks import Tasks
from wormspace.tx.identity import Identities
from wormspace.tx.in_flight import InFlight, InFlightTable
from wormspace.tx.keeping import KeptBranches
from wormspace.tx.managers import ResourceManager
from wormspace.tx.names import Gid
from wormspace.tx.remote import RemoteStore
from wormspace.tx.resolver import OVER, Resolution, Resolver
from wormspace.tx.trimming import Finished
from wormspace.tx.vote_store import VoteStore

log = logging.getLogger("wormspace.tx")

ASK_S = 15.0
"""How long a manager may take to say what it holds prepared; more than its own time limit."""

FIND_S = 5.0


class RecoveringSite(Protocol):
    """A site, as its recovery sees it; see `site.Site`."""

    initiator: str
    patience: float
    idle: float
    tasks: Tasks
    in_flights: InFlightTable
    vote_store: VoteStore
    resolver: Resolver
    kept: KeptBranches
    identities: Identities
    finished: Finished
    metrics: Counter[str]

    @property
    def managers(self) -> Mapping[str, ResourceManager]: ...
    def now(self) -> float: ...


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
    """The recovery of one site."""

    def __init__(self, site: RecoveringSite) -> None:
        self._site = site
        self._swept: dict[str, _Recovered] = {}
        site.tasks.spawn(self._for_ever(self._recover_here))

    def watch(self, manager: ResourceManager) -> None:
        """Sweep this manager too, from now on."""

        async def recover(patience: float) -> None:
            await self._recover_manager(manager, patience)

        self._swept[manager.name] = _Recovered(self._site.tasks.spawn(self._for_ever(recover)))

    def unwatch(self, manager: str) -> None:
        """Sweep it no longer."""
        self._swept.pop(manager).task.cancel()

    async def _for_ever(self, recover: Callable[[float], Awaitable[None]]) -> None:
        patience = self._site.patience
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
        managers = list(self._site.managers.values())
        results = await asyncio.gather(
            *(self._recover_manager(m, patience) for m in managers), return_exceptions=True
        )
        await self._site.finished.trim()
        found: list[Resolution] = []
        for some in results:  # one that is the wrong database keeps nobody from the others
            if isinstance(some, BaseException):
                raise some
            found += some
        return found

    # ------------------------------------------------------------ transactions here

    async def _recover_here(self, patience: float, *, trim: bool = True) -> None:
        site, now = self._site, self._site.now()
        for in_flight in list(site.in_flights.open.values()):
            # Until its time limit, a transaction that is run here is its initiator's own.
            is_own = now < in_flight.deadline < float("inf")
            if in_flight.decision is None and not is_own and now - in_flight.since >= patience:
                await self._resolve_in_flight(in_flight)
        await self._roll_back_idle(now)
        if trim:
            await site.finished.trim()

    async def _resolve_in_flight(self, in_flight: InFlight) -> None:
        resolver = self._site.resolver
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
        site = self._site
        for (txid, manager), used in site.kept.used():
            if now - used >= site.idle and txid.initiator != site.initiator:
                branch = site.kept.take(txid, manager)
                if branch is not None:
                    site.metrics["sessions_expired"] += 1
                    await branch.rollback()

    # ------------------------------------------------------------ managers

    async def _recover_manager(self, manager: ResourceManager, patience: float) -> list[Resolution]:
        site = self._site
        home = await site.vote_store.find(within(FIND_S))
        swept = self._swept.get(manager.name)
        if isinstance(manager, RemoteStore):
            if home is None:
                return []  # nothing was ever prepared
            manager.belong_to(home)
        gids = await self._ask(manager, home is not None)
        if gids is None or swept is None:
            return []
        now = site.now()
        gids = [gid for gid in gids if gid.manager == manager.name]
        ours = [gid for gid in gids if home is not None and home.owns(gid)]
        swept.seen = {gid: swept.seen.get(gid, now) for gid in ours}
        others = set(gids).difference(ours)
        swept.others = {gid: swept.others.get(gid, now) for gid in others}
        self._tell_of_others(manager.name, swept, now)
        old = [gid for gid in ours if now - swept.seen[gid] >= patience]
        results = await site.resolver.finish_all(
            (manager, gid) for gid in old if gid.id not in site.in_flights.open
        )
        site.metrics["resolved"] += sum(not r.problem for r in results)
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
                    await self._site.identities.check(manager, within(ASK_S))
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
            if gid not in swept.told and now - since >= self._site.patience:
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
        since = self._site.now() - patience
        return [g for s in self._swept.values() for g, at in s.others.items() if at <= since]

    def gauges(self) -> dict[str, float]:
        """See `metrics`."""
        seen = [at for swept in self._swept.values() for at in swept.seen.values()]
        return {
            "prepared": len(seen),
            "prepared_left_alone": len(self.left_alone(self._site.patience)),
            "prepared_longest_seconds": self._site.now() - min(seen) if seen else 0.0,
        }
