"""A site: one process's part in transactions, with the resource managers it hosts.

Every process that runs transactions or hosts resource managers has one per transaction space.  Each
resource manager here goes through four steps (see `participant`): prepare, vote, learn the
decision, act on it.  `committing` says who sets that off, in six variants.  Beside them, the
recovery looks for whatever is stuck, here or left behind by others, and resolves it.  All of these
stand on a `Host`, which knows the managers here and the other sites, and calls none of them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

from wormspace.errors import UsageError
from wormspace.runtime.closing import Closing
from wormspace.runtime.deadlines import within
from wormspace.runtime.tasks import Tasks
from wormspace.space import Client
from wormspace.tx.checking import (
    check_call,
    check_client,
    check_manager,
    check_names,
    check_seconds,
)
from wormspace.tx.deciding import Decision
from wormspace.tx.hosting import CALL_TIMEOUT_S, Host, OnDecision
from wormspace.tx.identity import Identities
from wormspace.tx.in_flight import InFlightTable
from wormspace.tx.managers import ResourceManager
from wormspace.tx.names import Gid, TxId, check_id, check_name
from wormspace.tx.peers import Peers
from wormspace.tx.recovery import Recovery
from wormspace.tx.resolver import Resolution
from wormspace.tx.serving import Handlers
from wormspace.tx.space import TransactionSpace
from wormspace.tx.trimming import Finished
from wormspace.tx.vote_store import VoteStore

PATIENCE_S = 10.0
"""More than a transaction's time limit, so that those that are only slow are left alone."""

SESSION_IDLE_S = 30.0


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
        in_flights, tasks = InFlightTable(), Tasks(f"tx/{space}")
        vote_store = VoteStore(client, space, in_flights.learn)
        peers = Peers(f"{client.rng.getrandbits(64):016x}", vote_store, tasks)
        identities = Identities(client, space)
        self.host = Host(peers, in_flights, identities, tasks, clock, on_decision)
        self.finished = Finished(self.host, client, patience_s)
        self.recovery = Recovery(self.host, self.finished, patience_s, idle_s)
        self._patience = patience_s
        self._next = 0
        for manager in managers:
            self.attach(manager)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self.host.in_flights.open)} under way"
        return f"<Site of {self.space!r} as {self.initiator}, {state}>"

    @property
    def initiator(self) -> str:
        """The name under which this process starts transactions."""
        return self.host.peers.initiator

    @property
    def address(self) -> str:
        """Where others reach it, HOST:PORT; empty before `start`."""
        return self.host.peers.address

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self.host.closed

    @property
    def metrics(self) -> Counter[str]:
        """Counts since the start; see `wormspace.tx.metrics`."""
        return self.host.metrics

    async def open(self, timeout: float = CALL_TIMEOUT_S) -> TransactionSpace:
        """The transaction space; it is made if there is none.

        Raises:
            WrongKind: the address space of that name is something else.
            NewerFormat: a newer wormspace made it.
            Trimmed: somebody trimmed it.
            Unavailable.
        """
        return await self.host.open(check_seconds("a timeout", timeout))

    async def start(self, host: str, port: int = 0, *, address: str = "") -> str:
        """Serve the managers here to other processes; returns the address, HOST:PORT.

        Args:
            address: what others call it, if that differs from where it listens.

        Raises:
            UsageError: that is no host and port.
            WormError: nobody can listen there.
        """
        self.host.check_open()
        answer = Handlers(self.host).on_request
        return await self.host.peers.start(answer, host, port, address)

    async def close(self) -> None:
        """End its part; what is undecided is resolved by others, or by its next life."""
        self.host.closed = True
        await self.host.peers.close()
        await self.host.tasks.close()
        await self.host.vote_store.close()

    def attach(self, manager: ResourceManager) -> None:
        """Host a resource manager.

        Raises:
            UsageError: another one of that name is here.
        """
        self.host.check_open()
        if self.host.attach(manager):
            self.recovery.watch(manager)

    def detach(self, manager: ResourceManager) -> None:
        """Look after a resource manager no longer; nothing to do if it is not here."""
        if self.host.detach(manager):
            self.recovery.unwatch(manager.name)

    def new_id(self) -> TxId:
        """The next transaction of this initiator."""
        self._next += 1
        return TxId(self.initiator, self._next - 1)

    def leave_segment(self, txid: TxId) -> None:
        """Somebody took this initiator for gone, and retired its votes: go on behind them."""
        number, size = txid.number, self.host.vote_store.home.segment_size
        self._next = max(self._next, (number // size + 1) * size)

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
        self.host.check_open()
        deadline = within(check_seconds("a timeout", timeout))
        names = check_names("participants", participants)
        return await self.host.resolver.settle(check_id(txid), names, deadline=deadline)

    async def recover(self, patience_s: float | None = None) -> list[Resolution]:
        """Resolve whatever has been undecided, here or in a manager here, for `patience_s` seconds.

        A branch counts from when a recovery of this site first saw it; so one recovery without any
        patience resolves all that is prepared.  Branches of other spaces are left alone.
        """
        self.host.check_open()
        if patience_s is not None and patience_s != float("inf"):
            check_seconds("patience_s", patience_s, zero=True)
        return await self.recovery.recover(self._patience if patience_s is None else patience_s)

    def left_alone(self, patience_s: float | None = None) -> list[Gid]:
        """Branches here that have been prepared for longer than the patience by others.

        By programs of another transaction space, or in an older format: this site cannot read
        their votes, and so knows nothing of them.
        """
        if patience_s is not None:
            check_seconds("patience_s", patience_s, zero=True)
        return self.recovery.left_alone(self._patience if patience_s is None else patience_s)

    def gauges(self) -> dict[str, float]:
        """Metrics that rise and fall; see `metrics`."""
        return {"under_way": len(self.host.in_flights.open), **self.recovery.gauges()}
