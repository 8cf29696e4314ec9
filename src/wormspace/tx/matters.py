"""What one process knows of the transactions under way: votes as they are learned, and decisions.

A vote may be heard before the transaction is (its voter was quicker than whoever asks us); it is
kept for a while.  What is forgotten is read again by whoever needs it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from wormspace.tx.deciding import MISSING, NO, UNDECIDED, YES, Decision, Vote, outcome
from wormspace.tx.names import TxId
from wormspace.tx.resolver import decision_of

EARLY = 4096
"""Transactions of which votes are remembered although nobody here has asked about them yet."""


class Matter:
    """A transaction under way.

    Attributes:
        votes: what stands in the registers, as far as it is known here.
        decision: done when that is enough.
        since: when this process first dealt with it, on its loop's clock.
        parts: the tasks of the resource managers here, by name: prepare, vote, wait, act.
        users: how many pieces of work need it; see `Matters.join`.
    """

    __slots__ = ("_waiting", "decision", "id", "participants", "parts", "since", "users", "votes")

    def __init__(
        self, txid: TxId, participants: tuple[str, ...], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.id = txid
        self.participants = participants
        self.votes: dict[str, Vote] = {}
        self.decision: asyncio.Future[Decision] = loop.create_future()
        self.since = loop.time()
        self.parts: dict[str, asyncio.Task[bool]] = {}
        self.users = 0
        self._waiting: dict[str, list[asyncio.Future[Vote | None]]] = {}

    def learn(self, manager: str, vote: Vote) -> None:
        """A vote that stands."""
        self.votes[manager] = vote
        self.answer(manager, vote)
        if self.decision.done():
            return
        held = self.votes
        marks = [(YES if held[p].yes else NO) if p in held else MISSING for p in self.participants]
        if outcome(marks) != UNDECIDED:
            self.decide(decision_of(held))

    def answer(self, manager: str, vote: Vote | None) -> None:
        """Let go of those who wait for this vote; None: nobody here knows what it is."""
        for future in self._waiting.pop(manager, ()):
            if not future.done():
                future.set_result(vote)

    async def vote_of(self, manager: str) -> Vote | None:
        """The manager's vote, once it stands; None if that cannot be said here."""
        if manager in self.votes:
            return self.votes[manager]
        future: asyncio.Future[Vote | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(manager, []).append(future)
        return await future

    def decide(self, decision: Decision) -> None:
        """Somebody who has read the votes says so."""
        if not self.decision.done():
            self.decision.set_result(decision)


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
            matter = self.open[txid] = Matter(txid, participants, self._loop)
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
