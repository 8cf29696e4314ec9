"""One resource manager's part in one transaction, at the site that hosts it: four steps.

1. *prepare*: its work is made durable, or cannot be; that is how it votes;
2. *vote*: a yes waits for the other managers here, for nothing is decided before they vote too, and
   votes that leave together share a message and a sync at every server;
3. *learn*: its vote stands, its own or what somebody else wrote there, and so does the decision;
4. *act*: commit or abort.

What comes in drives them, and only the vote is a task: thousands of participants are under way at
a time, and a task that sleeps through all four steps would cost more than the steps do.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from wormspace.errors import Trimmed, WormError
from wormspace.runtime.tasks import Tasks
from wormspace.tx.deciding import Decision, Vote, shortened
from wormspace.tx.errors import CannotPrepare, Conflict
from wormspace.tx.in_flight import InFlight, InFlightTable
from wormspace.tx.managers import Branch, ResourceManager
from wormspace.tx.messages import Plan
from wormspace.tx.names import Gid, TxId
from wormspace.tx.resolver import OVER
from wormspace.tx.variants import VARIANTS
from wormspace.tx.vote_store import VoteStore

log = logging.getLogger("wormspace.tx")


class HostingSite(Protocol):
    """A site, as its participants see it; see `hosting.Host`."""

    closed: bool
    tasks: Tasks
    in_flights: InFlightTable
    vote_store: VoteStore
    metrics: Counter[str]
    clock: Callable[[], float]
    on_decision: Callable[[TxId, str, Decision], None] | None

    def now(self) -> float: ...
    def gid(self, manager: str, txid: TxId) -> Gid: ...
    def manager(self, name: str) -> ResourceManager: ...


class Participant:
    """One resource manager's part in one transaction.

    Attributes:
        manager: the resource manager's name.
        acted: whether it has acted on the decision.
    """

    __slots__ = (
        "_branch",
        "_gid",
        "_in_flight",
        "_plan",
        "_site",
        "_stands",
        "acted",
        "manager",
    )

    def __init__(
        self,
        site: HostingSite,
        in_flight: InFlight,
        plan: Plan,
        manager: str,
        branch: Branch | None,
    ) -> None:
        self._site = site
        self._in_flight = in_flight
        self._plan = plan
        self._branch = branch
        self._gid = site.gid(manager, plan.id)
        self._stands = False
        self.manager = manager
        self.acted = False

    def prepare(self) -> None:
        """The first step.

        However long it takes: whoever does not wait so long writes "no" in its place.
        """
        branch, self._branch = self._branch, None
        if branch is None:
            self._promise(CannotPrepare("its work is not here (any more)"))
        else:
            self._do(branch.prepare(), self._on_prepared)

    def _on_prepared(self, done: asyncio.Future[None]) -> None:
        if done.cancelled() or self._site.closed:
            self._end()
        else:
            self._promise(done.exception())

    def _promise(self, error: BaseException | None) -> None:
        """It is prepared, or not; after an error, the recovery looks whether it is all the same."""
        site, plan = self._site, self._plan
        yes = error is None
        site.metrics["votes_yes" if yes else "votes_no"] += 1
        vote = Vote(
            yes,
            plan.participants,
            str(self._gid),
            site.clock(),
            self.manager,
            "" if error is None else shortened(str(error) or type(error).__name__),
            isinstance(error, Conflict),
        )
        self._in_flight.promised(self, vote)

    def cast(self, vote: Vote) -> None:
        """The second step."""
        site, plan = self._site, self._plan
        site.vote_store.cast(
            self.manager,
            plan.id,
            vote,
            self._on_stands,
            ahead=VARIANTS[plan.variant].ahead,
            deadline=site.now() + plan.timeout,
        )

    def _on_stands(self, vote: Vote | None, error: WormError | None) -> None:
        """The third step: it is known which vote stands."""
        if isinstance(error, Trimmed):
            # Nobody waited for this vote: it cannot have been committed.
            vote = Vote(False, self._plan.participants, "", 0.0, "", OVER.reason)
        if vote is None:
            self._fail(error)
            return
        self._stands = True
        self._in_flight.learn(self.manager, vote)
        self.act()

    def act(self) -> None:
        """The last two steps: once its vote stands and the decision is known."""
        decision = self._in_flight.decision
        if decision is None or not self._stands:
            return
        self._stands = False
        site, txid = self._site, self._plan.id
        if site.on_decision is not None:
            site.on_decision(txid, self.manager, decision)
        manager, gid = site.manager(self.manager), self._gid
        self._do(manager.commit(gid) if decision.committed else manager.abort(gid), self._on_acted)

    def _on_acted(self, done: asyncio.Future[None]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._fail(error)
        else:
            self.acted = not done.cancelled()
            self._end()

    def _do(self, work: Awaitable[None], then: Callable[[asyncio.Future[None]], None]) -> None:
        if not isinstance(work, asyncio.Future):
            work = self._site.tasks.begin(_coroutine(work))
        if work.done():
            then(work)
        else:
            work.add_done_callback(then)

    def _fail(self, error: BaseException | None) -> None:
        log.warning("tx: %s at %s is left to the recovery: %s", self._plan.id, self.manager, error)
        self._site.metrics["left_to_recover"] += 1
        self._end()

    def _end(self) -> None:
        self._in_flight.on_participant_over(self.manager)
        self._site.in_flights.leave(self._in_flight)


def _coroutine(work: Awaitable[None]) -> Coroutine[Any, Any, None]:
    async def wait() -> None:
        await work

    return work if asyncio.iscoroutine(work) else wait()
