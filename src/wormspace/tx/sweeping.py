"""The sweep: what is stuck is looked for, and resolved.

Each resource manager is swept by a task of its own: a database that is silent or slow delays the
sweep of no other, nor the time limits of the transactions here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from wormspace.errors import Trimmed, UsageError, WormError
from wormspace.runtime.tasks import Tasks
from wormspace.tx.box import Box
from wormspace.tx.deadlines import within
from wormspace.tx.identity import Identities
from wormspace.tx.keeping import KeptBranches
from wormspace.tx.managers import ResourceManager
from wormspace.tx.matters import Matter, Matters
from wormspace.tx.names import Gid
from wormspace.tx.remote import RemoteStore
from wormspace.tx.resolver import OVER, Resolution, Resolver
from wormspace.tx.trimming import Finished

log = logging.getLogger("wormspace.tx")

ASK_S = 15.0
"""How long a manager may take to say what it holds prepared; more than its own time limit."""

FIND_S = 5.0


class SweptSite(Protocol):
    """A site, as its sweep sees it; see `site.Site`."""

    initiator: str
    patience: float
    idle: float
    tasks: Tasks
    matters: Matters
    box: Box
    resolver: Resolver
    kept: KeptBranches
    identities: Identities
    finished: Finished
    figures: Counter[str]

    @property
    def managers(self) -> Mapping[str, ResourceManager]: ...
    def now(self) -> float: ...


class _Swept:
    """What is known of one manager.

    Attributes:
        seen: what of ours it held prepared at the last sweep, and since when that was seen.
        others: the same of what is not ours.
        told: those of the others that were logged.
        task: sweeps it again and again.
    """

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.seen: dict[Gid, float] = {}
        self.others: dict[Gid, float] = {}
        self.told: set[Gid] = set()
        self.task = task


class Sweeper:
    """The sweep of one site."""

    def __init__(self, site: SweptSite) -> None:
        self._site = site
        self._swept: dict[str, _Swept] = {}
        site.tasks.spawn(self._for_ever(self._sweep_here))

    def watch(self, manager: ResourceManager) -> None:
        """Sweep this manager too, from now on."""

        async def sweep(patience: float) -> None:
            await self._sweep_manager(manager, patience)

        self._swept[manager.name] = _Swept(self._site.tasks.spawn(self._for_ever(sweep)))

    def unwatch(self, manager: str) -> None:
        """Sweep it no longer."""
        self._swept.pop(manager).task.cancel()

    async def _for_ever(self, sweep: Callable[[float], Awaitable[None]]) -> None:
        patience = self._site.patience
        while True:
            await asyncio.sleep(patience / 2)
            try:
                await sweep(patience)
            except WormError as e:
                log.warning("tx: the sweep goes on later: %s", e)
            except Exception:
                log.exception("tx: the sweep goes on later")

    async def sweep(self, patience: float) -> list[Resolution]:
        """Sweep all, now."""
        await self._sweep_here(patience, trim=False)
        managers = list(self._site.managers.values())
        results = await asyncio.gather(
            *(self._sweep_manager(m, patience) for m in managers), return_exceptions=True
        )
        await self._site.finished.trim()
        found: list[Resolution] = []
        for some in results:  # one that is the wrong database keeps nobody from the others
            if isinstance(some, BaseException):
                raise some
            found += some
        return found

    # ------------------------------------------------------------ transactions here

    async def _sweep_here(self, patience: float, *, trim: bool = True) -> None:
        site, now = self._site, self._site.now()
        for matter in list(site.matters.open.values()):
            # Until its time limit, a transaction that is run here is its initiator's own.
            is_own = now < matter.deadline < float("inf")
            if matter.decision is None and not is_own and now - matter.since >= patience:
                await self._resolve_matter(matter)
        await self._roll_back_idle(now)
        if trim:
            await site.finished.trim()

    async def _resolve_matter(self, matter: Matter) -> None:
        resolver = self._site.resolver
        try:
            matter.decide(await resolver.settle(matter.id, matter.participants, matter.votes))
        except Trimmed:
            if matter.parts:
                matter.decide(OVER)
        except WormError as e:
            log.warning("tx: %s cannot be resolved now: %s", matter.id, e)

    async def _roll_back_idle(self, now: float) -> None:
        """Free what a client that died left behind before it was asked to vote."""
        site = self._site
        for (txid, manager), used in site.kept.used():
            if now - used >= site.idle and txid.initiator != site.initiator:
                branch = site.kept.take(txid, manager)
                if branch is not None:
                    site.figures["sessions_expired"] += 1
                    await branch.rollback()

    # ------------------------------------------------------------ managers

    async def _sweep_manager(self, manager: ResourceManager, patience: float) -> list[Resolution]:
        site = self._site
        home = await site.box.find(within(FIND_S))
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
            (manager, gid) for gid in old if gid.id not in site.matters.open
        )
        site.figures["resolved"] += sum(not r.problem for r in results)
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

    def _tell_of_others(self, manager: str, swept: _Swept, now: float) -> None:
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
