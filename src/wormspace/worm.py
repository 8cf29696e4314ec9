"""What `connect` returns: a client of the address space, with the applications at hand."""

from __future__ import annotations

import random
from collections.abc import Sequence

from wormspace.log import Log, SequencerChoice
from wormspace.registers.interface import Registers
from wormspace.space import Client
from wormspace.tx import ResourceManager, Site, Transaction
from wormspace.tx.names import check_name


class Worm(Client):
    """A connection, and a way to each application that stands on it.

    Attributes:
        embedded: whether the address space is inside this process, so that nobody else can use it.
    """

    def __init__(
        self, registers: Registers, rng: random.Random, timeout: float, *, embedded: bool = False
    ) -> None:
        super().__init__(registers, rng, timeout)
        self.embedded = embedded
        self._logs: dict[Log, None] = {}
        self._sites: dict[str, Site] = {}

    async def log(
        self,
        name: str,
        *,
        sequencer: SequencerChoice = "auto",
        capture_ahead: bool = True,
        segment_size: int | None = None,
        patience: float = 0.5,
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
            patience: seconds that a register may stay empty before a reader makes it a hole.
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
            patience=patience,
            host=host,
            port=port,
            timeout=timeout,
            on_close=self._forget,
        )
        self._logs[log] = None
        return log

    def _forget(self, log: Log) -> None:
        self._logs.pop(log, None)

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
        """Close logs and sites, give up what is under way (`Closed`) and disconnect."""
        sites, self._sites = self._sites, {}
        for site in sites.values():
            await site.close()
        for log in list(self._logs):
            await log.close()
        await super().close()
