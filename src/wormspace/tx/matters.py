"""What one process knows of the transactions under way: votes as they are learned, and decisions.

A vote may be heard before the transaction is (its voter was quicker than whoever asks us); it is
kept for a while.  What is forgotten is read again by whoever needs it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from wormspace.errors import WormError
from wormspace.tx.deciding import Decision, Vote, judge
from wormspace.tx.names import TxId

EARLY = 4096
"""Transactions of which votes are remembered although nobody here has asked about them yet."""


class Matter:
    """A transaction under way.

    Futures are made per waiter, and time limits are looked after by the site's clock work: a
    shield and a timer for each step would cost more than the step.

    Attributes:
        votes: what stands in the registers, as far as it is known here.
        decision: None until that is enough.
        since: when this process first dealt with it, on its loop's clock.
        deadline: when its initiator, if that is here, stops waiting for votes.
        parts: the tasks of the resource managers here, by name: prepare, vote, learn, act.
        unpromised: the managers here that do not know yet how they vote.
        acting: the managers here that are still at it.
        pending: those of them, and those that failed, that have not acted on the decision.
        users: how many pieces of work need it; see `Matters.join`.
    """

    __slots__ = (
        "_acting",
        "_deciding",
        "_promising",
        "_voting",
        "acting",
        "deadline",
        "decision",
        "id",
        "participants",
        "parts",
        "pending",
        "since",
        "unknown",
        "unpromised",
        "users",
        "votes",
    )

    def __init__(self, txid: TxId, participants: tuple[str, ...], now: float) -> None:
        self.id = txid
        self.participants = participants
        self.votes: dict[str, Vote] = {}
        self.decision: Decision | None = None
        self.unknown: WormError | None = None
        self.since = now
        self.deadline = float("inf")
        self.parts: dict[str, asyncio.Task[None]] = {}
        self.unpromised: set[str] = set()
        self.acting: set[str] = set()
        self.pending: set[str] = set()
        self.users = 0
        self._deciding: list[asyncio.Future[Decision]] = []
        self._voting: dict[str, list[asyncio.Future[Vote | None]]] = {}
        self._promising: list[asyncio.Future[None]] = []
        self._acting: list[asyncio.Future[None]] = []

    def learn(self, manager: str, vote: Vote) -> None:
        """A vote that stands."""
        self.votes[manager] = vote
        if self._voting:
            self.answer(manager, vote)
        if self.decision is not None:
            return
        decision = judge(self.participants, self.votes)
        if decision is not None:
            self.decide(decision)

    def answer(self, manager: str, vote: Vote | None) -> None:
        """Let go of those who wait for this vote; None: nobody here knows what it is."""
        for future in self._voting.pop(manager, ()):
            if not future.done():
                future.set_result(vote)

    async def vote_of(self, manager: str) -> Vote | None:
        """The manager's vote, once it stands; None if that cannot be said here."""
        if manager in self.votes:
            return self.votes[manager]
        future: asyncio.Future[Vote | None] = asyncio.get_running_loop().create_future()
        self._voting.setdefault(manager, []).append(future)
        return await future

    def decide(self, decision: Decision) -> None:
        """Somebody who has read the votes says so."""
        if self.decision is None:
            self.decision = decision
            for future in self._deciding:
                if not future.done():
                    future.set_result(decision)

    def give_up(self, error: WormError) -> None:
        """The votes could not be read in time: whoever waits here is told so."""
        self.unknown = error
        for future in self._deciding:
            if not future.done():
                future.set_exception(error)

    async def decided(self) -> Decision:
        """The decision, once it is known.

        Raises:
            WormError: it could not be learned in time; it stands, or will, all the same.
        """
        if self.decision is not None:
            return self.decision
        if self.unknown is not None:
            raise self.unknown
        future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._deciding.append(future)
        return await future

    async def promised(self, manager: str, *, yes: bool) -> None:
        """A manager here knows how it votes; a yes waits for the other managers here.

        Nothing is decided before they vote too, and votes that leave together share a message and
        a sync at every server.
        """
        self.unpromised.discard(manager)
        if not self.unpromised or not yes:
            for future in self._promising:
                if not future.done():
                    future.set_result(None)
        else:
            future = asyncio.get_running_loop().create_future()
            self._promising.append(future)
            await future

    def on_part_done(self, manager: str, *, acted: bool) -> None:
        """A manager here has acted, or cannot for now."""
        self.acting.discard(manager)
        if acted:
            self.pending.discard(manager)
        if not self.acting:
            self.stop_waiting()

    def stop_waiting(self) -> None:
        """Nobody waits any longer for those who are pending."""
        for future in self._acting:
            if not future.done():
                future.set_result(None)

    async def acted(self) -> tuple[str, ...]:
        """Who has not acted by the time nobody is about to, or waiting is over."""
        if self.acting:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._acting.append(future)
            await future
        return tuple(sorted(self.pending))


class Matters:
    """All transactions that this process deals with."""

    def __init__(self) -> None:
        self.open: dict[TxId, Matter] = {}
        self._early: OrderedDict[TxId, dict[str, Vote]] = OrderedDict()
        self._loop = asyncio.get_running_loop()

    def join(self, txid: TxId, participants: tuple[str, ...]) -> Matter:
        """The matter, new or not, with whatever was heard of it before; to be left again."""
        matter = self.open.get(txid)
        if matter is None:
            matter = self.open[txid] = Matter(txid, participants, self._loop.time())
            for manager, vote in self._early.pop(txid, {}).items():
                matter.learn(manager, vote)
        matter.users += 1
        return matter

    def learn(self, txid: TxId, manager: str, vote: Vote) -> None:
        """A vote that stands, of whichever transaction."""
        matter = self.open.get(txid)
        if matter is not None:
            matter.learn(manager, vote)
            return
        self._early.setdefault(txid, {})[manager] = vote
        if len(self._early) > EARLY:
            self._early.popitem(last=False)

    def leave(self, matter: Matter) -> None:
        """One piece of work less; the last one forgets it."""
        matter.users -= 1
        if matter.users == 0:
            self.open.pop(matter.id, None)
