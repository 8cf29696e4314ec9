"""What `connect` returns: a client of the address space, with the applications at hand."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from wormspace.log import Log, SequencerChoice
from wormspace.registers.interface import Registers
from wormspace.space import Client
from wormspace.tx import ResourceManager, Site, Transaction
from wormspace.tx.names import check_name
from wormspace.tx.transaction import RUN_S, TIMEOUT_S, run_transaction

if TYPE_CHECKING:
    from wormspace.smr import (
        Consistency,
        Durability,
        Leadership,
        Remote,
        Replica,
        StateMachine,
        Tuning,
    )

M = TypeVar("M", bound="StateMachine")
T = TypeVar("T")


class Worm(Client):
    """A connection, and a way to each application that stands on it.

    Attributes:
        embedded: whether the address space is inside this process, so that nobody else can use it.
    """

    def __init__(
        self,
        registers: Registers,
        rng: random.Random,
        timeout: float,
        *,
        url: str = "",
        embedded: bool = False,
    ) -> None:
        super().__init__(registers, rng, timeout)
        self.embedded = embedded
        self._url = url
        self._logs: dict[Log, None] = {}
        self._objects: dict[Replica[Any] | Remote[Any], None] = {}
        self._sites: dict[str, Site] = {}

    def __repr__(self) -> str:
        return f"<Worm {self._url!r}{', closed' if self._closed else ''}>"

    async def log(
        self,
        name: str,
        *,
        sequencer: SequencerChoice = "auto",
        capture_ahead: bool = True,
        segment_size: int | None = None,
        patience_s: float = 0.5,
        host: str = "127.0.0.1",
        port: int = 0,
        timeout: float | None = None,
    ) -> Log:
        """The log of that name; it is made if there is none.

        Args:
            sequencer: who hands out positions. "auto": the log's sequencer, wherever it is, and
                if there is none, this process becomes it; "elsewhere": the same, but this process
                never does; "none": appenders capture for themselves, which is good for one
                appender at a time.
            capture_ahead: whether a sequencer here captures segments before they are needed, or
                leaves them to the unsafe write.
            segment_size: registers per segment, fixed when the log is made (default 1024).
            patience_s: seconds that a register may stay empty before a reader makes it a hole.
            host: where a sequencer in this process can be reached by the others.
            port: the same; the system chooses one if it is 0.

        Raises:
            UsageError: the log was made with another segment size, or no log can have this name.
            WrongKind: something else has this name; nothing was written.
            NewerFormat: a newer wormspace made it.
            Unavailable: not in time.
        """
        log = await Log.open(
            self,
            name,
            sequencer=sequencer,
            sole=self.embedded,
            beside=lambda: next((log for log in self._logs if log.name == name), None),
            capture_ahead=capture_ahead,
            segment_size=segment_size,
            patience_s=patience_s,
            host=host,
            port=port,
            timeout=timeout,
            on_close=lambda log: self._logs.pop(log, None),
        )
        self._logs[log] = None
        return log

    async def replicate(
        self,
        machine_type: type[M],
        name: str,
        *,
        replica: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
        leadership: Leadership | None = None,
        durability: Durability | None = None,
        consistency: Consistency | None = None,
        tuning: Tuning | None = None,
        timeout: float = 10.0,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> Replica[M]:
        """Take part in the replicated object `name`: a replica of it in this process.

        Args:
            machine_type: the state machine; every replica names the same one.
            name: the object's commands are registers of the space of this name.
            replica: this replica's name, unlike any other's; by default its host and port.
            host: where the other replicas reach this one.
            port: the same; the system chooses one if it is 0.
            leadership: `Sticky()` by default; the same on every replica (time-outs may differ).
            durability: `NeverTrim()` by default; the same on every replica.
            consistency: of queries, unless a call says otherwise; `Linearizable()` by default.
            tuning: sizes of segments and batches.
            timeout: how long a command or query may take, in seconds, before it is `NoLeader`.
            clock: where the commands' time comes from: seconds since the epoch.
            rng: where ids, seeds and time-outs come from; by default the system.

        Raises:
            UsageError: an argument is not what is said here.
            OtherStrategy: the object was begun with another leadership.
            NoSnapshot: the space's beginning was trimmed, and nobody who answers has the state.
            WormError: nobody can listen at the host and port.
            BadSnapshot, Unavailable.
        """
        from wormspace.smr import Replica  # when it is first used: registers need none of it

        made = await Replica.open(
            self,
            machine_type,
            name,
            replica=replica,
            host=host,
            port=port,
            leadership=leadership,
            durability=durability,
            consistency=consistency,
            tuning=tuning,
            timeout=timeout,
            clock=clock,
            rng=rng,
            on_close=lambda replica: self._objects.pop(replica, None),
        )
        self._objects[made] = None
        return made

    async def attach(
        self,
        machine_type: type[M],
        name: str,
        *,
        consistency: Consistency | None = None,
        timeout: float = 10.0,
        rng: random.Random | None = None,
    ) -> Remote[M]:
        """Use the replicated object `name` without being a replica of it.

        The address space tells where its replicas are.  A process that reaches them and no servers
        uses `smr.attach`.

        Args:
            consistency: of queries, unless a call says otherwise; `Linearizable()` by default.
            timeout: how long finding the replicas, and then each call, may take, in seconds.
            rng: where ids and pauses come from; by default the system.

        Raises:
            UsageError: an argument is not what is said here.
            NoLeader: nobody has ever replicated an object of that name.
            WrongKind: something else has this name.
            Unavailable: too few servers answered in time.
        """
        from wormspace.smr.remote import attach_in  # as above

        def on_close(remote: Remote[M]) -> None:
            self._objects.pop(remote, None)

        made = await attach_in(self, machine_type, name, consistency, timeout, rng, on_close)
        self._objects[made] = None
        return made

    def transaction(
        self,
        participants: Sequence[ResourceManager],
        *,
        variant: str = "E3",
        timeout: float = TIMEOUT_S,
        space: str = "tx",
    ) -> Transaction:
        """A transaction over several resource managers: all of it takes effect, or nothing.

            async with worm.transaction([orders, billing]) as tx:
                await tx[orders].execute("...")

        Leaving the block commits and raises `tx.Aborted` or `tx.OutcomeUnknown` if that did not
        work; an exception in the block rolls everything back.  See `wormspace.tx`.

        Args:
            variant: how the commit runs, A8 to F2; see `wormspace.tx.VARIANTS`.
            timeout: seconds for the votes; who has not voted by then has voted no.
            space: the transaction space; all who share a resource manager share it.
        """
        return Transaction(self.site(space), participants, variant=variant, timeout=timeout)

    async def run_transaction(
        self,
        participants: Sequence[ResourceManager],
        work: Callable[[Transaction], Awaitable[T]],
        *,
        variant: str = "E3",
        timeout: float = RUN_S,
        space: str = "tx",
        rng: random.Random | None = None,
    ) -> T:
        """Run `work` in a transaction, and again from the start when another is in the way.

        That is: a lock of the built-in store, a deadlock, a failed serialization, or a lock of a
        database that was not to be had in time; when a statement says so, and when a vote does.

        Args:
            participants: as for `transaction`, and so are `variant` and `space`.
            work: what to do in it; it may run several times, of which at most one takes effect.
            timeout: seconds for all of it together.
            rng: where the pauses between attempts come from; by default the system.

        Raises:
            Aborted, Conflict, the database's own error: the last attempt's, when the time is over;
                or of another kind, which is not tried again.
            TimedOut: the time was over in the middle of `work`, which was rolled back.
            OutcomeUnknown: it may have taken effect, so it is not run again.
        """

        def begin() -> Transaction:
            return self.transaction(participants, variant=variant, space=space)

        return await run_transaction(begin, work, timeout=timeout, rng=rng)

    def site(self, space: str = "tx") -> Site:
        """This connection's part in the transactions of a transaction space.

        It looks after the resource managers that transactions here have used: what a crash left
        prepared in them is resolved in the background.
        """
        site = self._sites.get(check_name(space))
        if site is None:
            site = self._sites[space] = Site(self, space=space)
        return site

    async def close(self) -> None:
        """Close what was opened here, give up what is under way (`Closed`), and disconnect."""
        sites, self._sites = self._sites, {}
        for site in sites.values():
            await site.close()
        for log in list(self._logs):
            await log.close()
        for held in list(self._objects):
            await held.close()
        await super().close()
