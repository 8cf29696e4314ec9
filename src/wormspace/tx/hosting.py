"""What a site hosts: resource managers, work that is kept for them, and their part in transactions.

The parts of a site stand on this; it knows none of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping

from wormspace.errors import Closed, UsageError, WormError
from wormspace.runtime.deadlines import within
from wormspace.runtime.tasks import Tasks
from wormspace.tx.checking import check_manager
from wormspace.tx.deciding import Decision
from wormspace.tx.identity import Identities
from wormspace.tx.in_flight import InFlight, InFlightTable
from wormspace.tx.keeping import KeptBranches
from wormspace.tx.managers import Branch, ResourceManager
from wormspace.tx.messages import Plan
from wormspace.tx.names import Gid, TxId, check_name
from wormspace.tx.participant import Participant
from wormspace.tx.peers import Peers
from wormspace.tx.resolver import Resolver
from wormspace.tx.space import TransactionSpace

CALL_TIMEOUT_S = 5.0
TICK_S = 0.05

ACT_S = 5.0
"""How long after its time limit a transaction waits for the managers here to act on it."""

OnDecision = Callable[[TxId, str, Decision], None]


class Host:
    """The resource managers of one site, and what they need to take part in transactions.

    Args:
        tasks: where work that nobody waits for runs until the site is closed.
        clock: see `Site`, as for `on_decision`.
    """

    def __init__(
        self,
        peers: Peers,
        in_flights: InFlightTable,
        identities: Identities,
        tasks: Tasks,
        clock: Callable[[], float],
        on_decision: OnDecision | None,
    ) -> None:
        self.closed = False
        self.peers = peers
        self.in_flights = in_flights
        self.identities = identities
        self.tasks = tasks
        self.clock = clock
        self.on_decision = on_decision
        self.vote_store = peers.vote_store
        self.resolver = Resolver(
            self.vote_store, f"resolver {peers.initiator}", clock, CALL_TIMEOUT_S
        )
        self.managers: dict[str, ResourceManager] = {}
        self.kept = KeptBranches(self.now)
        self.metrics: Counter[str] = Counter()
        self._clockwork = tasks.spawn(self._tick_for_ever())

    def check_open(self) -> None:
        """
        Raises:
            Closed: the site's `close` was called.
        """
        if self.closed:
            raise Closed(
                f"this site of transaction space {self.vote_store.space!r} is closed, and nothing "
                "was sent: make another one, or take `worm.transaction` of a connection that is "
                "open"
            )

    async def open(self, timeout: float) -> TransactionSpace:
        """Open the transaction space, as `Site.open` does."""
        self.check_open()
        return await self.vote_store.open(within(timeout))

    @property
    def is_alive(self) -> bool:
        """Whether time limits are looked after, so that whoever waits here does not for ever."""
        return not (self.closed or self._clockwork.done() or self._clockwork.cancelling())

    def now(self) -> float:
        """Seconds on the loop's clock."""
        return asyncio.get_running_loop().time()

    def gid(self, manager: str, txid: TxId) -> Gid:
        """The name of a manager's branch; the transaction space is open."""
        return self.vote_store.home.gid(manager, txid)

    # ------------------------------------------------------------ resource managers

    def attach(self, manager: ResourceManager) -> bool:
        """Host a resource manager; returns whether it was not here."""
        check_manager(manager)
        if self.managers.get(manager.name) is manager:
            return False
        name = check_name(manager.name)
        if self.managers.setdefault(name, manager) is not manager:
            raise UsageError(
                f"two resource managers are called {name!r}: make one, and use it for every "
                "transaction; or detach the first"
            )
        return True

    def detach(self, manager: ResourceManager) -> bool:
        """Host a resource manager no longer; returns whether it was here."""
        check_manager(manager)
        if self.managers.get(manager.name) is not manager:
            return False
        del self.managers[manager.name]
        return True

    def manager(self, name: str) -> ResourceManager:
        """The resource manager of that name here.

        Raises:
            UsageError: there is none.
        """
        manager = self.managers.get(check_name(name))
        if manager is None:
            raise UsageError(f"no resource manager {name!r} at this site")
        return manager

    async def recognise(self, name: str, *, decide: bool = False) -> ResourceManager:
        """The resource manager of that name here, which is the database that the name means.

        Args:
            decide: see `Identities.check`.

        Raises:
            UsageError: there is none.
            WrongManager: it is another database.
            Unavailable, ManagerDown: nobody knows.
        """
        manager = self.manager(name)
        await self.identities.check(manager, within(CALL_TIMEOUT_S), decide=decide)
        return manager

    # ------------------------------------------------------------ their part in transactions

    def take_part(self, plan: Plan, branches: Mapping[str, Branch | None]) -> None:
        """Let resource managers here prepare, vote, learn and act; once per transaction.

        Args:
            branches: their work, by name; None where it is kept here, or is not here at all.
        """
        in_flight = self.in_flights.join(plan.id, plan.participants)
        local = [
            Participant(self, in_flight, plan, name, branch or self.kept.take(plan.id, name))
            for name, branch in branches.items()
            if name not in in_flight.local
        ]
        for participant in local:
            in_flight.add(participant)
            in_flight.users += 1
        for participant in local:
            participant.prepare()
        self.in_flights.leave(in_flight)

    async def _tick_for_ever(self) -> None:
        """Look after the time limits of all transactions that are run or driven here."""
        while True:
            await asyncio.sleep(TICK_S)
            now = self.now()
            for in_flight in list(self.in_flights.open.values()):
                if now >= in_flight.deadline:
                    if in_flight.decision is None:
                        in_flight.deadline = float("inf")
                        self.peers.spawn(self._settle_overdue(in_flight))
                    elif now >= in_flight.deadline + ACT_S:
                        in_flight.stop_waiting()

    async def _settle_overdue(self, in_flight: InFlight) -> None:
        try:
            decision = await self.resolver.settle(
                in_flight.id, in_flight.participants, in_flight.votes
            )
        except WormError as e:
            in_flight.give_up(e)
        else:
            in_flight.decide(decision)
            in_flight.deadline = self.now()
