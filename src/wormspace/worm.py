"""What `connect` returns: a client of the address space, with the applications at hand."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from wormspace.log import Log, SequencerChoice
from wormspace.registers.interface import Registers
from wormspace.space import Client
from wormspace.tx import ResourceManager, Site, Transaction
from wormspace.tx.names import check_name

if TYPE_CHECKING:
    from wormspace.smr import Consistency, Durability, Leadership, Replica, StateMachine, Tuning

M = TypeVar("M", bound="StateMachine")


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
        self._replicas: dict[Replica[Any], None] = {}
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
            on_close=lambda replica: self._replicas.pop(replica, None),
        )
        self._replicas[made] = None
        return made

    def transaction(
        self,
        participants: Sequence[ResourceManager],
        *,
        variant: str = "E3",
        timeout: float = 5.0,
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
        for replica in list(self._replicas):
            await replica.close()
        await super().close()
