"""What one process knows of the transactions under way: votes as they are learned, and decisions.

A vote may be heard before the transaction is (its voter was quicker than whoever asks us); it is
kept for a while.  What is forgotten is read again by whoever needs it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol

from wormspace.errors import Unavailable, WormError
from wormspace.knobs import KNOBS
from wormspace.tx.deciding import Decision, Vote, judge
from wormspace.tx.names import TxId


class Participant(Protocol):
    """One resource manager's part, here; see `participant`."""

    manager: str
    acted: bool

    def cast(self, vote: Vote) -> None: ...
    def act(self) -> None: ...


class InFlight:
    """A transaction under way.

    Futures are made per waiter, and time limits are looked after by the site's clock work: a
    shield and a timer for each step would cost more than the step.

    Attributes:
        votes: what stands in the registers, as far as it is known here.
        decision: None until that is enough.
        since: when this process first dealt with it, on its loop's clock.
        deadline: when its initiator, if that is here, stops waiting for votes.
        local: the participants here, by their resource manager's name.
        users: how many pieces of work need it; see `InFlightTable.join`.
    """

    __slots__ = (
        "_acting",
        "_deciding",
        "_ending",
        "_promised",
        "_unknown",
        "_unpromised",
        "_voting",
        "deadline",
        "decision",
        "id",
        "local",
        "participants",
        "since",
        "users",
        "votes",
    )

    def __init__(self, txid: TxId, participants: tuple[str, ...], now: float) -> None:
        self.id = txid
        self.participants = participants
        self.votes: dict[str, Vote] = {}
        self.decision: Decision | None = None
        self.since = now
        self.deadline = float("inf")
        self.local: dict[str, Participant] = {}
        self.users = 0
        self._unknown: WormError | None = None
        self._unpromised = 0
        self._acting = 0
        self._promised: list[tuple[Participant, Vote]] = []
        self._voting: dict[str, list[asyncio.Future[Vote | None]]] | None = None
        self._deciding: tuple[asyncio.Future[None], ...] = ()
        self._ending: tuple[asyncio.Future[None], ...] = ()

    # ------------------------------------------------------------ votes

    def learn(self, manager: str, vote: Vote) -> None:
        """A vote that stands."""
        self.votes[manager] = vote
        if self._voting is not None:
            self._answer(manager, vote)
        if self.decision is None and (not vote.yes or len(self.votes) >= len(self.participants)):
            decision = judge(self.participants, self.votes)
            if decision is not None:
                self.decide(decision)

    async def vote_of(self, manager: str) -> Vote | None:
        """The manager's vote, once it stands; None if that cannot be said here."""
        if manager in self.votes:
            return self.votes[manager]
        future: asyncio.Future[Vote | None] = asyncio.get_running_loop().create_future()
        if self._voting is None:
            self._voting = {}
        self._voting.setdefault(manager, []).append(future)
        return await future

    def _answer(self, manager: str, vote: Vote | None) -> None:
        for future in (self._voting or {}).pop(manager, ()):
            if not future.done():
                future.set_result(vote)

    # ------------------------------------------------------------ the decision

    def decide(self, decision: Decision) -> None:
        """Somebody who has read the votes says so."""
        if self.decision is None:
            self.decision = decision
            for participant in self.local.values():
                participant.act()
            _let_go(self._deciding)
            if not self._acting:
                _let_go(self._ending)

    def give_up(self, error: WormError) -> None:
        """The votes could not be read in time: whoever waits here is told so."""
        self._unknown = error
        _let_go(self._deciding)
        _let_go(self._ending)

    async def decided(self) -> Decision:
        """The decision, once it is known.

        Raises:
            WormError: it could not be learned in time; it stands, or will, all the same.
        """
        if self.decision is None and self._unknown is None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._deciding += (future,)
            await future
        return self._known()

    async def ended(self) -> Decision:
        """The decision, once the managers here have acted on it, or nobody waits for them longer.

        Raises:
            WormError: it could not be learned in time; it stands, or will, all the same.
        """
        if self._unknown is None and (self._acting or self.decision is None):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._ending += (future,)
            await future
        return self._known()

    def _known(self) -> Decision:
        if self.decision is None:
            raise self._unknown or Unavailable(f"transaction {self.id} is not decided yet")
        return self.decision

    def stop_waiting(self) -> None:
        """Nobody waits any longer for those who have not acted."""
        _let_go(self._ending)

    # ------------------------------------------------------------ the managers here

    def add(self, participant: Participant) -> None:
        """A manager here takes part."""
        self.local[participant.manager] = participant
        self._unpromised += 1
        self._acting += 1

    def promised(self, participant: Participant, vote: Vote) -> None:
        """A manager here knows how it votes; a yes waits for the other managers here."""
        self._unpromised -= 1
        self._promised.append((participant, vote))
        if not self._unpromised or not vote.yes:
            promised, self._promised = self._promised, []
            for each, its in promised:
                each.cast(its)

    def on_participant_over(self, manager: str) -> None:
        """A manager here has acted, or leaves that to the recovery."""
        self._acting -= 1
        if self._voting is not None:
            self._answer(manager, None)
        if not self._acting and self.decision is not None:
            _let_go(self._ending)

    @property
    def pending(self) -> tuple[str, ...]:
        """The managers here that have not acted on the decision."""
        return tuple(
            sorted([name for name, participant in self.local.items() if not participant.acted])
        )


def _let_go(waiting: Iterable[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)


class InFlightTable:
    """All transactions that this process deals with."""

    def __init__(self) -> None:
        self.open: dict[TxId, InFlight] = {}
        self._early: OrderedDict[TxId, dict[str, Vote]] = OrderedDict()
        self._loop = asyncio.get_running_loop()

    def join(self, txid: TxId, participants: tuple[str, ...]) -> InFlight:
        """The in-flight transaction, new or not, with whatever was heard of it before; to be left
        again.
        """
        in_flight = self.open.get(txid)
        if in_flight is None:
            in_flight = self.open[txid] = InFlight(txid, participants, self._loop.time())
            for manager, vote in self._early.pop(txid, {}).items():
                in_flight.learn(manager, vote)
        in_flight.users += 1
        return in_flight

    def learn(self, txid: TxId, manager: str, vote: Vote) -> None:
        """A vote that stands, of whichever transaction."""
        in_flight = self.open.get(txid)
        if in_flight is not None:
            in_flight.learn(manager, vote)
            return
        self._early.setdefault(txid, {})[manager] = vote
        if len(self._early) > KNOBS.tx_early_votes:
            self._early.popitem(last=False)

    def leave(self, in_flight: InFlight) -> None:
        """One piece of work less; the last one forgets it."""
        in_flight.users -= 1
        if in_flight.users == 0:
            self.open.pop(in_flight.id, None)
