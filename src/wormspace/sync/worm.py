"""Connecting without asyncio, with the applications at hand."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import wormspace.connecting as connecting
import wormspace.tx.transaction as transactions
import wormspace.worm as asynchronous
from wormspace.space.client import DEFAULT_TIMEOUT_S
from wormspace.sync.background import Background
from wormspace.sync.delegating import making
from wormspace.sync.log import Log
from wormspace.sync.smr import attaching, replicating
from wormspace.sync.space import Client
from wormspace.sync.tx import Site, Transaction
from wormspace.tx import ResourceManager
from wormspace.tx.checking import check_call
from wormspace.tx.transaction import RUN_S

T = TypeVar("T")


class Worm(Client):
    """A connection, and a way to each application that stands on it."""

    log = making(asynchronous.Worm.log, Log)
    replicate = replicating(asynchronous.Worm.replicate)
    transaction = making(asynchronous.Worm.transaction, Transaction)
    attach = attaching(asynchronous.Worm.attach)
    site = making(asynchronous.Worm.site, Site)

    def run_transaction(
        self,
        participants: Sequence[ResourceManager],
        work: Callable[[Transaction], T],
        *,
        variant: str = "E3",
        timeout: float = RUN_S,
        space: str = "tx",
        rng: random.Random | None = None,
    ) -> T:
        """Run `work` in a transaction, and again from the start when another is in the way.

        It runs in this thread, with plain calls.  A thread cannot be cancelled: when the time is
        over its transaction is rolled back at once, and the end of `work` is waited for.

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
        check_call("`work`", work)
        worm: asynchronous.Worm = self._twin

        def run(
            handing: Callable[[transactions.Transaction], Awaitable[T]],
        ) -> Coroutine[Any, Any, T]:
            return worm.run_transaction(
                participants, handing, variant=variant, timeout=timeout, space=space, rng=rng
            )

        return self._background.call_with(run, lambda tx: work(Transaction(self._background, tx)))


def connect(
    url: str, *, timeout: float = DEFAULT_TIMEOUT_S, rng: random.Random | None = None
) -> Worm:
    """Connect to an address space.

        with wormspace.sync.connect("file:./state") as worm:
            segment = worm.space("orders").alloc()

    Args:
        url: `memory:`, `file:PATH` or `worm://HOST:PORT,...`.
        timeout: the default deadline of every call on the client, and that of connecting, in
            seconds.
        rng: where proposer ids, nonces and back-off pauses come from; by default the system.

    Raises:
        BadUrl: the URL makes no sense.
        UsageError: the timeout is no positive number of seconds, or `rng` no `random.Random`.
        Unavailable: no majority of some partition could be reached in time.
        Refused: the servers do not want this client, or are not those that were named.
        StoreError: the directory cannot be used: it is open elsewhere, or not an embedded one.
    """

    async def opening() -> asynchronous.Worm:
        return await connecting.connect(url, timeout=timeout, rng=rng)

    background = Background.connect(opening)
    return Worm(background, background.client)
