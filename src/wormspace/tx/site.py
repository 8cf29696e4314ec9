"""A site: one process's part in transactions, with the resource managers it hosts.

Every process that runs transactions or hosts resource managers has one per transaction space.  Each
resource manager here goes through four steps (see `participant`): prepare, vote, learn the
decision, act on it.  `committing` says who sets that off, in six variants.  Beside them, the
recovery looks for whatever is stuck, here or left behind by others, and resolves it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from wormspace.errors import Closed, UsageError, WormError
from wormspace.rpc import Caller, Service
from wormspace.runtime.closing import Closing
from wormspace.runtime.deadlines import within
from wormspace.runtime.endpoints import Endpoint, as_listening
from wormspace.runtime.tasks import Tasks
from wormspace.space import Client
from wormspace.tx import committing
from wormspace.tx.checking import (
    check_call,
    check_client,
    check_manager,
    check_names,
    check_seconds,
)
from wormspace.tx.deciding import Decision
from wormspace.tx.identity import Identities
from wormspace.tx.in_flight import InFlight, InFlightTable
from wormspace.tx.keeping import KeptBranches
from wormspace.tx.managers import Branch, ResourceManager
from wormspace.tx.messages import SERVICE, Plan, ToSite, ToSpace, encode
from wormspace.tx.names import Gid, TxId, check_id, check_name
from wormspace.tx.participant import Participant
from wormspace.tx.recovery import Recovery
from wormspace.tx.resolver import Resolution, Resolver
from wormspace.tx.serving import Handlers
from wormspace.tx.space import TransactionSpace
from wormspace.tx.trimming import Finished
from wormspace.tx.vote_store import VoteStore

log = logging.getLogger("wormspace.tx")

PATIENCE_S = 10.0
"""More than a transaction's time limit, so that those that are only slow are left alone."""

CALL_TIMEOUT_S = 5.0
SESSION_IDLE_S = 30.0
TICK_S = 0.05

OnDecision = Callable[[TxId, str, Decision], None]


class Site(Closing):
    """This process's part in the transactions of one transaction space.

        site = Site(worm, managers=[store])
        await site.start("0.0.0.0", 7100)      # for those who run transactions elsewhere

    Args:
        client: the connection to the address space.
        space: the transaction space; all who share resource managers share it.
        managers: what it hosts; their prepared branches are looked after from now on.
        patience_s: after this time a transaction whose votes are not complete is resolved: who has
            not voted by then has voted no.
        idle_s: after this time work that somebody elsewhere began here, and neither goes on with
            nor commits, is rolled back: its user may be dead, and it holds locks.
        clock: seconds since 1970, for people who read votes.
        on_decision: told each decision that a resource manager here acts on, before it does.

    Attributes:
        initiator: the name under which this process starts transactions.
        closed: whether `close` was called.
        metrics: counts since the start; see `metrics`.
    """

    def __init__(
        self,
        client: Client,
        *,
        space: str = "tx",
        managers: Iterable[ResourceManager] = (),
        patience_s: float = PATIENCE_S,
        idle_s: float = SESSION_IDLE_S,
        clock: Callable[[], float] = time.time,
        on_decision: OnDecision | None = None,
    ) -> None:
        self.client = check_client(client)
        self.space = check_name(space)
        check_seconds("patience_s", patience_s)
        check_seconds("idle_s", idle_s)
        check_call("a clock", clock)
        if on_decision is not None:
            check_call("on_decision", on_decision)
        if isinstance(managers, str | bytes) or not isinstance(managers, Iterable):
            raise UsageError(f"managers are a list of resource managers, not {managers!r}")
        for manager in (managers := list(managers)):
            check_manager(manager)
        self.initiator = f"{client.rng.getrandbits(64):016x}"
        self.in_flights = InFlightTable()
        self.vote_store = VoteStore(client, space, self.in_flights.learn)
        self.clock = clock
        self.patience = patience_s
        self.idle = idle_s
        self.address = ""
        self.managers: dict[str, ResourceManager] = {}
        self.metrics: Counter[str] = Counter()
        self.resolver = Resolver(
            self.vote_store, f"resolver {self.initiator}", clock, CALL_TIMEOUT_S
        )
        self.identities = Identities(client, space)
        self.finished = Finished(self)
        self.on_decision = on_decision
        self.loop = asyncio.get_running_loop()
        self.kept = KeptBranches(self.loop.time)
        self.closed = False
        self._next = 0
        self._callers: dict[str, Caller] = {}
        self._service: Service | None = None
        self.tasks = Tasks(f"tx/{space}")
        self.recovery = Recovery(self)
        for manager in managers:
            self.attach(manager)
        self._clockwork = self.tasks.spawn(self._tick_for_ever())

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self.in_flights.open)} under way"
        return f"<Site of {self.space!r} as {self.initiator}, {state}>"

    async def open(self, timeout: float = CALL_TIMEOUT_S) -> TransactionSpace:
        """The transaction space; it is made if there is none.

        Raises:
            WrongKind: the address space of that name is something else.
            NewerFormat: a newer wormspace made it.
            Trimmed: somebody trimmed it.
            Unavailable.
        """
        self.check_open()
        return await self.vote_store.open(within(check_seconds("a timeout", timeout)))

    def check_open(self) -> None:
        """
        Raises:
            Closed: `close` was called.
        """
        if self.closed:
            raise Closed(
                f"this site of transaction space {self.space!r} is closed, and nothing was sent: "
                "make another one, or take `worm.transaction` of a connection that is open"
            )

    @property
    def is_open(self) -> bool:
        """Whether this process has dealt with the transaction space yet."""
        return self.vote_store.is_open

    @property
    def is_alive(self) -> bool:
        """Whether time limits are looked after, so that whoever waits here does not for ever."""
        return not (self.closed or self._clockwork.done() or self._clockwork.cancelling())

    def gid(self, manager: str, txid: TxId) -> Gid:
        """The name of a manager's branch; the transaction space is open."""
        return self.vote_store.home.gid(manager, txid)

    async def start(self, host: str, port: int = 0, *, address: str = "") -> str:
        """Serve the managers here to other processes; returns the address, HOST:PORT.

        Args:
            address: what others call it, if that differs from where it listens.

        Raises:
            UsageError: that is no host and port.
            WormError: nobody can listen there.
        """
        self.check_open()
        as_listening(host, port)
        if address != "":
            Endpoint.parse(address)
        self._service = Service({SERVICE: Handlers(self).on_request})
        chosen = await self._service.start(host, port)
        self.address = address or str(Endpoint(host, chosen))
        return self.address

    async def close(self) -> None:
        """End its part; what is undecided is resolved by others, or by its next life."""
        self.closed = True
        if self._service is not None:
            await self._service.stop()
        for caller in self._callers.values():
            await caller.close()
        await self.tasks.close()
        await self.vote_store.close()

    def attach(self, manager: ResourceManager) -> None:
        """Host a resource manager.

        Raises:
            UsageError: another one of that name is here.
        """
        self.check_open()
        check_manager(manager)
        if self.managers.get(manager.name) is manager:
            return
        name = check_name(manager.name)
        if self.managers.setdefault(name, manager) is not manager:
            raise UsageError(
                f"two resource managers are called {name!r}: make one, and use it for every "
                "transaction; or detach the first"
            )
        self.recovery.watch(manager)

    def detach(self, manager: ResourceManager) -> None:
        """Look after a resource manager no longer; nothing to do if it is not here."""
        check_manager(manager)
        if self.managers.get(manager.name) is manager:
            del self.managers[manager.name]
            self.recovery.unwatch(manager.name)

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

    # ------------------------------------------------------------ names and branches

    def now(self) -> float:
        """Seconds on the loop's clock."""
        return self.loop.time()

    def new_id(self) -> TxId:
        """The next transaction of this initiator."""
        self._next += 1
        return TxId(self.initiator, self._next - 1)

    def leave_segment(self, txid: TxId) -> None:
        """Somebody took this initiator for gone, and retired its votes: go on behind them."""
        number, size = txid.number, self.vote_store.home.segment_size
        self._next = max(self._next, (number // size + 1) * size)

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

    # ------------------------------------------------------------ other sites

    async def call(self, address: str, message: ToSite, timeout: float) -> bytes:
        """Say something to another site of this transaction space, which is open.

        Raises:
            NoAnswer, Failure.
        """
        caller = self._callers.get(address)
        if caller is None:
            caller = self._callers[address] = Caller(*Endpoint.parse(address))
        request = ToSpace(self.vote_store.home.identity, message)
        return await caller.call(SERVICE, encode(request), timeout)

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Do something that nobody waits for; a `WormError` of it is logged."""
        self.tasks.spawn(work, self._on_spawned_done)

    def _on_spawned_done(self, task: asyncio.Task[object]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, WormError):
            log.info("tx: %s", error)
        elif error is not None:
            self.loop.call_exception_handler({"message": "in a site", "exception": error})

    # ------------------------------------------------------------ time limits

    async def _tick_for_ever(self) -> None:
        """Look after the time limits of all transactions that are run or driven here."""
        while True:
            await asyncio.sleep(TICK_S)
            now = self.loop.time()
            for in_flight in list(self.in_flights.open.values()):
                if now >= in_flight.deadline:
                    if in_flight.decision is None:
                        in_flight.deadline = float("inf")
                        self.spawn(self._settle_overdue(in_flight))
                    elif now >= in_flight.deadline + committing.ACT_S:
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
            in_flight.deadline = self.loop.time()

    # ------------------------------------------------------------ resolving

    async def settle(
        self, txid: TxId, participants: Iterable[str], *, timeout: float = CALL_TIMEOUT_S
    ) -> Decision:
        """The decision of a transaction, now: who has not voted yet has voted no.

        Args:
            participants: the names of all of its resource managers.

        Raises:
            UsageError: no transaction has such an id or such participants.
            Trimmed: it is over, and what it was is forgotten.
            Unavailable.
        """
        self.check_open()
        deadline = within(check_seconds("a timeout", timeout))
        names = check_names("participants", participants)
        return await self.resolver.settle(check_id(txid), names, deadline=deadline)

    async def recover(self, patience_s: float | None = None) -> list[Resolution]:
        """Resolve whatever has been undecided, here or in a manager here, for `patience_s` seconds.

        A branch counts from when a recovery of this site first saw it; so one recovery without any
        patience resolves all that is prepared.  Branches of other spaces are left alone.
        """
        self.check_open()
        if patience_s is not None and patience_s != float("inf"):
            check_seconds("patience_s", patience_s, zero=True)
        return await self.recovery.recover(self.patience if patience_s is None else patience_s)

    def left_alone(self, patience_s: float | None = None) -> list[Gid]:
        """Branches here that have been prepared for longer than the patience by others.

        By programs of another transaction space, or in an older format: this site cannot read
        their votes, and so knows nothing of them.
        """
        if patience_s is not None:
            check_seconds("patience_s", patience_s, zero=True)
        return self.recovery.left_alone(self.patience if patience_s is None else patience_s)

    def gauges(self) -> dict[str, float]:
        """Metrics that rise and fall; see `metrics`."""
        return {"under_way": len(self.in_flights.open), **self.recovery.gauges()}
