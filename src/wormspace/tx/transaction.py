"""Transactions as users write them.

    async with worm.transaction([orders, billing]) as tx:
        await tx[orders].execute("...")       # each participant's own session
        await tx[billing].execute("...")
    print(tx.decision)                        # committed, or the block raised why not

Leaving the block commits: all or nothing, on every participant, whatever crashes.  An exception in
the block rolls everything back.  What the block raises is the truth:

* `Aborted`: nothing took effect; its `decision` says who said no, and why;
* `OutcomeUnknown`: it is decided or will be, and cannot be read now; the message says how to;
* nothing: it is committed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from wormspace.errors import UsageError, WormError
from wormspace.tx import committing
from wormspace.tx.deciding import ALL_YES, Decision
from wormspace.tx.errors import Aborted, Conflict
from wormspace.tx.managers import Branch, ResourceManager
from wormspace.tx.messages import Plan
from wormspace.tx.names import Gid
from wormspace.tx.remote import RemoteSession, RemoteStore
from wormspace.tx.site import Site
from wormspace.tx.variants import DEFAULT, find

T = TypeVar("T")

TIMEOUT_S = 5.0
RESTART_MIN_S = 0.001
RESTART_MAX_S = 0.1


class Transaction:
    """One transaction; get it from `worm.transaction` or `Site.transaction`.

    Attributes:
        id: its name.
        decision: its outcome, once it is known.
    """

    def __init__(
        self,
        site: Site,
        participants: Sequence[ResourceManager],
        *,
        variant: str = DEFAULT,
        timeout: float = TIMEOUT_S,
        tm: str = "",
    ) -> None:
        by_name = {m.name: m for m in participants}
        if not by_name or len(by_name) != len(participants):
            raise UsageError("a transaction needs participants, each once and by a name of its own")
        if timeout <= 0:
            raise UsageError(f"a timeout is a positive number of seconds, not {timeout}")
        self.id = site.new_id()
        self.decision: Decision | None = None
        self._site = site
        self._variant = find(variant)
        self._timeout = timeout
        self._tm = tm
        self._participants = by_name
        self._branches: dict[str, Branch] = {}
        self._remote: dict[str, RemoteSession] = {}
        self._asked: frozenset[str] = frozenset()
        self._plan: Plan | None = None

    async def __aenter__(self) -> Self:
        site = self._site
        local: list[str] = []
        for name, manager in self._participants.items():
            if isinstance(manager, RemoteStore):
                self._remote[name] = manager.session(site, self.id, self)
            else:
                site.attach(manager)
                local.append(name)
        # In one order, so that no two transactions wait for each other's connections.
        local.sort()
        try:
            for name in local:
                gid = Gid(site.space, name, self.id)
                self._branches[name] = await self._participants[name].begin(gid)
        except BaseException:
            await self.rollback()
            raise
        return self

    def __getitem__(self, participant: ResourceManager) -> Any:
        """The participant's own session in this transaction."""
        name = participant.name
        branch = self._branches.get(name)
        if branch is not None:
            return branch.session
        if name not in self._remote:
            raise UsageError(f"{name!r} takes no part in this transaction")
        return self._remote[name]

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            await self.rollback()
        else:
            await self.commit()

    async def rollback(self) -> None:
        """Undo all work; stores that were told to vote already learn that it is aborted."""
        for branch in self._branches.values():
            try:
                await branch.rollback()
            except WormError:
                pass  # a database that cannot be reached rolls back by itself
        for session in self._remote.values():
            session.rollback()
        if self._plan is None:
            self._site.finished.add(self.id)
        else:
            self._site.spawn(self._call_off(self._plan))

    async def _call_off(self, plan: Plan) -> None:
        """Decide what some stores have voted on already."""
        await self._site.settle(plan.id, plan.participants)
        self._site.finished.add(plan.id, plan)

    async def commit(self) -> Decision:
        """Vote, decide, and wait until the resource managers here have acted.

        Raises:
            Aborted, OutcomeUnknown.
        """
        plan = self._plan or self._fix_plan()
        if not plan.participants:
            self.decision = ALL_YES
            self._site.finished.add(self.id)
            return self.decision
        site = self._site
        decision, pending = await committing.run(site, plan, self._branches, self._asked)
        site.finished.add(plan.id, plan)
        site.figures[decision.outcome] += 1
        if pending:
            decision = Decision(
                decision.outcome, decision.culprit, decision.by, decision.reason,
                decision.conflict, pending,
            )  # fmt: skip
        self.decision = decision
        if not decision.committed:
            who = decision.culprit
            if decision.by not in ("", decision.culprit):
                who += f" (said by {decision.by})"
            raise Aborted(f"transaction {plan.id} was aborted: {who}: {decision.reason}", decision)
        return decision

    def plan_now(self, manager: str) -> Plan:
        """See `remote.Planner`."""
        if not self._variant.spontaneous:
            raise UsageError(
                "last=True lets a store vote unasked, and only variant F2 does that, not "
                f"{self._variant.name}: use variant='F2', or leave last=True out"
            )
        if self._plan is None:
            self._plan = self._fix_plan(everybody=True)
        self._asked |= {manager}
        return self._plan

    def _fix_plan(self, *, everybody: bool = False) -> Plan:
        """Number the transaction; stores elsewhere that were not used take no part in it."""
        if not self._remote:
            here = ("",) * len(self._participants)
            everyone = tuple(self._participants)
            return Plan(self.id, everyone, here, self._variant.name, "", self._timeout)
        names = [n for n in self._participants if everybody or self._takes_part(n)]
        addresses = [getattr(self._participants[n], "address", "") for n in names]
        serving_at = self._site.address
        driven = self._variant.driven and any(addresses)
        if driven and not all(addresses) and not serving_at:
            raise UsageError(
                f"in variant {self._variant.name} a TM calls the resource managers, but some of "
                "them are in this process, which does not serve: start its site"
            )
        if driven:
            addresses = [a or serving_at for a in addresses]
        return Plan(
            self.id,
            tuple(names),
            tuple(addresses),
            self._variant.name,
            self._tm or next((a for a in addresses if a), ""),
            self._timeout,
        )

    def _takes_part(self, name: str) -> bool:
        return name in self._branches or self._remote[name].used


async def run_transaction(
    begin: Callable[[], Transaction],
    work: Callable[[Transaction], Awaitable[T]],
    *,
    attempts: int = 20,
    rng: random.Random | None = None,
) -> T:
    """Run `work` in a transaction, and again from the start when it meets another one's lock.

    Args:
        begin: makes a fresh transaction.
        work: what to do in it; it may run several times, of which at most one takes effect.

    Raises:
        Aborted, Conflict: every attempt met a lock, or it was aborted for another reason.
        OutcomeUnknown: it may have taken effect, so it is not run again.
    """
    rng = rng or random.SystemRandom()
    pause = RESTART_MIN_S
    for attempt in range(attempts):
        try:
            async with begin() as tx:
                result = await work(tx)
        except (Conflict, Aborted) as e:
            again = isinstance(e, Conflict) or e.conflict
            if not again or attempt + 1 == attempts:
                raise
        else:
            return result
        await asyncio.sleep(rng.uniform(0, pause))
        pause = min(RESTART_MAX_S, 2 * pause)
    raise UsageError("attempts is at least 1")
