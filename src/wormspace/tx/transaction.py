"""Transactions as users write them.

    async with worm.transaction([orders, billing]) as tx:
        await tx[orders].execute("...")       # each participant's own session
        await tx[billing].execute("...")
    print(tx.decision)                        # committed, or the block raised why not

Leaving the block commits: all or nothing, on every participant, whatever crashes.  An exception in
the block, a cancellation too, rolls everything back.  What the block raises is the truth:

* `Aborted`: nothing took effect; its `decision` says who said no, and why;
* `OutcomeUnknown`: it is decided or will be, and cannot be read now; the message says how to;
* nothing: it is committed.

A commit that has begun is not cancelled, for nobody could say what became of it: it ends within its
time limit, and the cancellation strikes after the block.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from wormspace.errors import Trimmed, UsageError, WormError
from wormspace.runtime.deadlines import left, within
from wormspace.runtime.retrying import Backoff
from wormspace.space.arguments import as_rng
from wormspace.tx import committing
from wormspace.tx.cancelling import to_the_end
from wormspace.tx.checking import check_call, check_manager, check_seconds
from wormspace.tx.deciding import ABORTED, ALL_YES, REASON_MAX, Decision, Vote, encode
from wormspace.tx.errors import (
    Aborted,
    Conflict,
    OutcomeUnknown,
    TimedOut,
    TooLate,
)
from wormspace.tx.managers import Branch, ResourceManager
from wormspace.tx.messages import Plan
from wormspace.tx.remote import RemoteSession, RemoteStore
from wormspace.tx.resolver import OVER
from wormspace.tx.site import Site
from wormspace.tx.trimming import UNUSED
from wormspace.tx.variants import DEFAULT, find

T = TypeVar("T")

TIMEOUT_S = 5.0
RUN_S = 30.0

VOTE_MAX, NAME_ROOM = 1024, 24
"""Bytes of a vote, generously: what it has in any case, and what each participant adds."""

ROLLED_BACK = Decision(ABORTED, reason="its user rolled it back")


class Transaction:
    """One transaction; get it from `Worm.transaction`.

    Args:
        participants: what takes part, each by a name of its own.
        timeout: seconds to begin at all of them, and again for the votes.

    Attributes:
        id: its name.
        decision: its outcome, once it is known.

    Raises:
        UsageError: one of these makes no sense.
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
        by_name = _by_name(participants)
        self._variant = find(variant)
        self._timeout = check_seconds("a timeout", timeout)
        if not isinstance(tm, str):
            raise UsageError(f"a TM is HOST:PORT, not {tm!r}")
        self.id = site.new_id()
        self.decision: Decision | None = None
        self._site = site
        self._tm = tm
        self._participants = by_name
        self._entered = False
        self._branches: dict[str, Branch] = {}
        self._remote: dict[str, RemoteSession] = {}
        self._asked: frozenset[str] = frozenset()
        self._plan: Plan | None = None

    def __repr__(self) -> str:
        state = self.decision.outcome if self.decision else "begun" if self._entered else "new"
        return f"<Transaction {self.id} over {', '.join(self._participants)}: {state}>"

    async def __aenter__(self) -> Self:
        if self._entered:
            raise UsageError(f"transaction {self.id} was begun before; make another one")
        self._entered = True
        deadline = within(self._timeout)
        try:
            await self._begin(deadline)
        except BaseException:
            await to_the_end(self._roll_back())
            raise
        return self

    async def _begin(self, deadline: float) -> None:
        site = self._site
        site.host.check_open()
        home = (
            site.host.vote_store.home
            if site.host.vote_store.is_open
            else await site.host.open(left(deadline))
        )
        self._check_votes_fit()
        local: list[str] = []
        for name, manager in self._participants.items():
            if isinstance(manager, RemoteStore):
                self._remote[name] = manager.session(site.host.peers, self.id, self)
            else:
                if not site.host.identities.has(manager):
                    await site.host.identities.check(manager, deadline, decide=True)
                site.attach(manager)
                local.append(name)
        # In one order, so that no two transactions wait for each other's connections.
        local.sort()
        for name in local:
            gid = home.gid(name, self.id)
            self._branches[name] = await self._participants[name].begin(gid, left(deadline))

    def _check_votes_fit(self) -> None:
        """Before harm: a vote that its register cannot take would leave branches in doubt."""
        names = tuple(self._participants)
        limit = self._site.client.registers.max_value
        if limit >= VOTE_MAX + NAME_ROOM * len(names):
            return
        longest = max(names, key=len)
        gid = str(self._site.host.gid(longest, self.id))
        vote = Vote(False, names, gid, 0.0, self._site.host.resolver.by, REASON_MAX * "x", True)
        if limit < (size := len(encode(vote))):
            raise UsageError(
                f"the servers take values of {limit} bytes, and a vote of these participants has "
                f"up to {size}: raise the servers' max_value, or let fewer take part"
            )

    def __getitem__(self, participant: ResourceManager) -> Any:
        """The participant's own session in this transaction."""
        name = getattr(participant, "name", None)
        if not isinstance(name, str) or self._participants.get(name) is not participant:
            raise UsageError(f"{name or participant!r} takes no part in this transaction")
        branch = self._branches.get(name)
        if branch is not None:
            return branch.session
        if name not in self._remote:
            raise UsageError(f"transaction {self.id} is not begun: use it with `async with`")
        return self._remote[name]

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.commit()
        elif self.decision is None:
            await self._roll_back_for(error)

    async def _roll_back_for(self, error: BaseException) -> None:
        """The block raised: undo all, and let the error say so, if that is true."""
        try:
            decision = await to_the_end(self._roll_back())
        except OutcomeUnknown as e:
            raise e from error
        if decision.committed:
            raise TooLate(
                f"transaction {self.id} was committed before the block raised "
                f"{type(error).__name__}: all of its stores had voted yes already (last=True)",
                decision,
            ) from error

    async def rollback(self) -> Decision:
        """Undo all work.  It ends in a bounded time, also if the caller is cancelled.

        Returns:
            What is true now: aborted; or committed, if it was too late to call off stores that
            were told with `last=True` to vote.

        Raises:
            OutcomeUnknown: such stores cannot be called off, for no majority answers.
        """
        if self.decision is None:
            return await to_the_end(self._roll_back())
        return self.decision

    async def _roll_back(self) -> Decision:
        branches = self._branches.values()
        results = await asyncio.gather(*(b.rollback() for b in branches), return_exceptions=True)
        for session in self._remote.values():
            session.rollback()
        site, plan, decision = self._site, self._plan, ROLLED_BACK
        if plan is None:
            site.finished.add(self.id)
        else:  # some stores have voted already
            try:
                decision = await site.host.resolver.settle(
                    plan.id, plan.participants, deadline=within(self._timeout)
                )
            except WormError as e:
                site.finished.leave_open(plan)
                raise committing.unknown(plan, e) from e
            site.finished.add(plan.id, plan)
        self.decision = decision
        for result in results:  # a database that cannot be reached rolls back by itself
            if isinstance(result, BaseException) and not isinstance(result, WormError):
                raise result
        return decision

    async def commit(self) -> Decision:
        """Vote, decide, and wait until the resource managers here have acted.

        It is not cancelled: it ends within its time limit, and the cancellation strikes then.

        Raises:
            Aborted, OutcomeUnknown.
            Closed: the site was closed before; nobody was asked to vote, and all is undone.
            UsageError: the variant needs more of these participants; all is undone.
        """
        if not self._entered:
            raise UsageError(f"transaction {self.id} is not begun: use it with `async with`")
        decision = self.decision or await self._commit()
        if not decision.committed:
            who = decision.culprit or "nobody voted"
            if decision.by not in ("", decision.culprit):
                who += f" (said by {decision.by})"
            raise Aborted(f"transaction {self.id} was aborted: {who}: {decision.reason}", decision)
        return decision

    async def _commit(self) -> Decision:
        site = self._site
        try:
            if not self._asked:
                site.host.check_open()
            plan = self._plan or self._fix_plan()
        except WormError:
            await to_the_end(self._roll_back())
            raise
        if not plan.participants:
            self.decision = ALL_YES
            site.finished.add(self.id)
            return self.decision
        try:
            decision, pending = await committing.run(site.host, plan, self._branches, self._asked)
        except BaseException as e:
            site.finished.leave_open(plan)
            if isinstance(e.__cause__, Trimmed):
                site.leave_segment(plan.id)
            raise
        site.finished.add(plan.id, plan)
        if decision.reason in (OVER.reason, UNUSED):
            site.leave_segment(plan.id)
        site.metrics[decision.outcome] += 1
        if pending:
            decision = Decision(
                decision.outcome, decision.culprit, decision.by, decision.reason,
                decision.conflict, pending,
            )  # fmt: skip
        self.decision = decision
        return decision

    def is_conflict(self, error: BaseException) -> bool:
        """Whether an error that the block raised means that another transaction was in the way."""
        if isinstance(error, Aborted):
            return error.conflict
        managers = self._participants.values()
        return isinstance(error, Conflict) or any(m.is_conflict(error) for m in managers)

    def plan_now(self, manager: str) -> Plan:
        """See `remote.Planner`."""
        if not self._variant.spontaneous:
            raise UsageError(
                "last=True lets a store vote unasked, and only variant F2 does that, not "
                f"{self._variant.name}: use variant='F2', or leave last=True out"
            )
        if self.decision is not None:
            raise UsageError(f"transaction {self.id} is over")
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
    timeout: float = RUN_S,
    rng: random.Random | None = None,
) -> T:
    """See `Worm.run_transaction`; `begin` makes a fresh transaction for each attempt."""
    deadline = within(check_seconds("a timeout", timeout))
    check_call("`work`", work)
    rng = as_rng(rng)
    backoff = Backoff(rng, deadline=deadline)
    while True:
        tx = begin()
        try:
            return await _attempt(tx, work, deadline, timeout)
        except Exception as e:
            if not tx.is_conflict(e) or backoff.left() < backoff.next_s:
                raise
        await backoff.pause()


async def _attempt(
    tx: Transaction, work: Callable[[Transaction], Awaitable[T]], deadline: float, timeout: float
) -> T:
    """One attempt, until the deadline, which was `timeout` seconds away at first.

    Raises:
        TimedOut: it was cut short, and rolled back.
    """
    scope = asyncio.timeout_at(deadline)
    try:
        async with scope, tx:
            return await work(tx)
    except TimeoutError as e:
        if scope.expired() and type(e) is TimeoutError:
            raise TimedOut(f"not done within {timeout:g} s, and rolled back") from e
        raise


def _by_name(participants: Sequence[ResourceManager]) -> dict[str, ResourceManager]:
    """The participants.

    Raises:
        UsageError: there are none, two have one name, or something is no resource manager.
    """
    if isinstance(participants, str | bytes) or not isinstance(participants, Sequence):
        raise UsageError(f"participants are a list of resource managers, not {participants!r}")
    found: dict[str, ResourceManager] = {}
    for manager in participants:
        check_manager(manager)
        found[manager.name] = manager
    if not found or len(found) != len(participants):
        raise UsageError("a transaction needs participants, each once and by a name of its own")
    return found
