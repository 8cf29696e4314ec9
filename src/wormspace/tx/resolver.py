"""Anybody finishes what a crash left behind: read the votes, write "no" where there is none, obey.

A resolver may run anywhere, many at once, while slow participants are still preparing: the
registers hold one vote each, and all who read them come to the same decision.

**A trimmed vote segment means "not committed" to whoever still holds a branch prepared**: segments
are trimmed only when every resource manager has acted on every transaction in them that was
committed (see `trimming`).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable

import msgspec

from wormspace.errors import Trimmed, UsageError, WormError
from wormspace.knobs import KNOBS
from wormspace.runtime.deadlines import left, within
from wormspace.tx.deciding import ABORTED, Decision, Vote, judge, refusal
from wormspace.tx.managers import ResourceManager
from wormspace.tx.names import Gid, TxId
from wormspace.tx.vote_store import VoteStore

log = logging.getLogger("wormspace.tx")

GAVE_UP = "it had not voted when somebody stopped waiting for it"
OVER = Decision(ABORTED, reason="its vote segment is trimmed, so it was not committed")


class Resolution(msgspec.Struct, frozen=True):
    """What became of one prepared branch.

    Attributes:
        problem: why it could not be finished, "" if it was.
    """

    gid: Gid
    decision: Decision | None
    problem: str = ""


class Resolver:
    """Decides transactions from their votes, as `by`.

    Args:
        clock: seconds since 1970, for the votes that it writes.
        by: who writes no for those that have not voted.
        timeout: seconds that deciding one transaction may take, and then telling one manager.
    """

    def __init__(
        self, vote_store: VoteStore, by: str, clock: Callable[[], float], timeout: float
    ) -> None:
        self._vote_store = vote_store
        self.by = by
        self._clock = clock
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<Resolver {self.by!r}>"

    async def settle(
        self,
        txid: TxId,
        participants: tuple[str, ...],
        known: dict[str, Vote] | None = None,
        *,
        deadline: float | None = None,
    ) -> Decision:
        """The decision of a transaction; who has not voted until now votes no.

        Args:
            known: votes that stand, by manager.
            deadline: on the loop's clock; the resolver's time limit if it is not given.

        Raises:
            Trimmed: it is over; a committed one had been acted on everywhere.
            Unavailable.
        """
        if deadline is None:
            deadline = within(self._timeout)
        votes = dict(known or {})
        missing = [p for p in participants if p not in votes]
        read = await asyncio.gather(
            *(self._vote_store.read(p, txid, deadline=deadline) for p in missing)
        )
        votes.update({p: v for p, v in zip(missing, read, strict=True) if v is not None})
        while (decision := judge(participants, votes)) is None:
            manager = next(p for p in participants if p not in votes)
            votes[manager] = await self.refuse(manager, txid, participants, deadline)
        return decision

    async def decide(self, gid: Gid, deadline: float | None = None) -> Decision:
        """The decision of a transaction of which this branch is prepared.

        Args:
            deadline: as for `settle`.

        Raises:
            UsageError: the branch is another transaction space's, whose votes are not here.
            Unavailable.
        """
        if deadline is None:
            deadline = within(self._timeout)
        home = await self._vote_store.find(deadline)
        if home is None or not home.owns(gid):
            raise UsageError(
                f"{gid} belongs to no transaction of space {self._vote_store.space!r} here: its "
                "votes are in another address space, or it is of an older format; it is left alone"
            )
        try:
            own = await self._vote_store.read(gid.manager, gid.id, deadline=deadline)
            if own is None:
                own = await self.refuse(gid.manager, gid.id, (), deadline)
            if not own.yes:
                return refusal(gid.manager, own)
            known = {gid.manager: own}
            return await self.settle(gid.id, own.participants, known, deadline=deadline)
        except Trimmed:
            return OVER

    async def refuse(
        self, manager: str, txid: TxId, participants: tuple[str, ...], deadline: float
    ) -> Vote:
        """Write no for a manager that has not voted; the vote that stands.

        Raises:
            Trimmed, Unavailable.
        """
        home = await self._vote_store.open(deadline)
        gid = str(home.gid(manager, txid))
        vote = Vote(False, participants, gid, self._clock(), self.by, GAVE_UP)
        return await self._vote_store.refuse(manager, txid, vote, deadline=deadline)

    async def finish(
        self, manager: ResourceManager, gid: Gid, deadline: float = math.inf
    ) -> Resolution:
        """Decide a prepared branch and make the manager obey.

        Args:
            deadline: of whoever asks; the resolver's time limit holds as well.
        """
        try:
            decision = await self.decide(gid, min(deadline, within(self._timeout)))
            limit = min(left(deadline), self._timeout)
            async with asyncio.timeout(limit):
                if decision.committed:
                    await manager.commit(gid)
                else:
                    await manager.abort(gid)
        except TimeoutError:
            return Resolution(gid, None, f"{manager.name} did not obey within {limit:g} s")
        except WormError as e:
            return Resolution(gid, None, str(e))
        log.info("tx: %s at %s was %s", gid.id, gid.manager, decision.outcome)
        return Resolution(gid, decision)

    async def finish_all(
        self, branches: Iterable[tuple[ResourceManager, Gid]], deadline: float = math.inf
    ) -> list[Resolution]:
        """`finish` each of them, some at a time."""
        places = asyncio.Semaphore(KNOBS.tx_resolved_at_once)

        async def one(manager: ResourceManager, gid: Gid) -> Resolution:
            async with places:
                return await self.finish(manager, gid, deadline)

        return list(await asyncio.gather(*(one(manager, gid) for manager, gid in branches)))
