"""What one process knows of a transaction."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from wormspace.errors import Unavailable
from wormspace.knobs import turned
from wormspace.tx import deciding
from wormspace.tx.deciding import ABORTED, ALL_YES, Vote
from wormspace.tx.in_flight import InFlight, InFlightTable
from wormspace.tx.names import TxId

A = TxId("a", 1)


def yes(manager: str) -> Vote:
    return Vote(True, ("a", "b"), f"gid {manager}", 1.0, manager)


def no(manager: str, conflict: bool = False) -> Vote:
    return Vote(False, ("a", "b"), f"gid {manager}", 2.0, f"by {manager}", "full", conflict)


class Participant:
    """A part that notes what it is told."""

    def __init__(self, manager: str, acted: bool = False) -> None:
        self.manager, self.acted = manager, acted
        self.acts, self.casts = 0, []

    def act(self) -> None:
        self.acts += 1

    def cast(self, vote: Vote) -> None:
        self.casts.append(vote)


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_decision_is_told_to_all_who_wait_and_once() -> None:
    in_flight, part = InFlight(A, ("a", "b"), 5.0), Participant("a")
    assert (in_flight.since, in_flight.deadline) == (5.0, float("inf"))
    in_flight.add(part)
    waiting = [asyncio.ensure_future(in_flight.decided()) for _ in range(2)]
    ends = asyncio.ensure_future(in_flight.ended())
    asked = [asyncio.ensure_future(in_flight.vote_of("a")) for _ in range(2)]
    other = asyncio.ensure_future(in_flight.vote_of("b"))
    await turn()
    asked[0].cancel()
    waiting[0].cancel()
    await turn()
    in_flight.learn("a", yes("a"))
    await turn()
    assert await asked[1] == yes("a")
    assert not other.done()
    assert not waiting[1].done()
    assert in_flight.decision is None
    in_flight.learn("b", no("b"))
    assert await other == no("b")
    assert await waiting[1] == in_flight.decision == deciding.refusal("b", no("b"))
    assert await in_flight.decided() is in_flight.decision
    assert (part.acts, ends.done(), in_flight.pending) == (1, False, ("a",))
    in_flight.decide(ALL_YES)
    in_flight.learn("a", yes("a"))
    assert (in_flight.decision.outcome, part.acts) == (ABORTED, 1)
    part.acted = True
    in_flight.on_participant_over("a")
    assert await ends is await in_flight.ended() is in_flight.decision
    assert in_flight.pending == ()


async def test_a_no_of_nobody_who_takes_part_decides_nothing() -> None:
    in_flight, part = InFlight(A, ("a", "b"), 0.0), Participant("a")
    in_flight.add(part)
    waiting = asyncio.ensure_future(in_flight.decided())
    await turn()
    in_flight.learn("c", no("c"))
    in_flight.learn("a", yes("a"))
    await turn()
    assert (in_flight.decision, part.acts, waiting.done()) == (None, 0, False)
    in_flight.learn("b", yes("b"))
    assert await waiting == in_flight.decision == ALL_YES


async def test_who_waits_for_what_cannot_be_learned_is_told() -> None:
    in_flight = InFlight(A, ("a",), 0.0)
    with pytest.raises(Unavailable, match="a-1 is not decided yet"):
        in_flight._known()
    waiting = [asyncio.ensure_future(wait()) for wait in (in_flight.decided, in_flight.ended)]
    await turn()
    in_flight.give_up(Unavailable("no servers"))
    for one in waiting:
        with pytest.raises(Unavailable, match="no servers"):
            await one
    for late in (in_flight.decided, in_flight.ended):
        with pytest.raises(Unavailable, match="no servers"):
            await asyncio.wait_for(late(), 5)
    in_flight.decide(ALL_YES)
    assert await in_flight.decided() == ALL_YES


async def test_nobody_waits_longer_than_is_said() -> None:
    in_flight = InFlight(A, ("a",), 0.0)
    in_flight.add(Participant("a"))
    in_flight.decide(ALL_YES)
    waiting = asyncio.ensure_future(in_flight.ended())
    await turn()
    assert not waiting.done()
    in_flight.stop_waiting()
    assert await waiting == ALL_YES


async def test_that_no_part_is_left_ends_nothing_before_the_decision() -> None:
    in_flight = InFlight(A, ("a", "b"), 0.0)
    for name in "ab":
        in_flight.add(Participant(name))
    waiting = asyncio.ensure_future(in_flight.ended())
    unsaid = asyncio.ensure_future(in_flight.vote_of("a"))
    other = asyncio.ensure_future(in_flight.vote_of("b"))
    await turn()
    in_flight.on_participant_over("a")
    assert await unsaid is None  # it will not be said here
    await turn()
    assert not other.done()
    in_flight.on_participant_over("b")
    await turn()
    assert not waiting.done()
    in_flight.decide(ALL_YES)
    assert await waiting == ALL_YES


async def test_a_yes_waits_for_the_other_managers_here_and_a_no_does_not() -> None:
    for last, first in itertools.product((yes, no), repeat=2):
        in_flight, a, b, c = (
            InFlight(A, ("a", "b", "c"), 0.0),
            Participant("a"),
            Participant("b"),
            Participant("c"),
        )
        for part in (a, b, c):
            in_flight.add(part)
        in_flight.promised(a, first("a"))
        assert a.casts == ([] if first is yes else [no("a")])
        in_flight.promised(b, yes("b"))
        assert b.casts == []
        in_flight.promised(c, last("c"))
        assert [part.casts for part in (a, b, c)] == [[first("a")], [yes("b")], [last("c")]]


async def test_votes_that_are_heard_early_are_kept_for_a_while() -> None:
    with turned(tx_early_votes=2):
        in_flights = InFlightTable()
        ids = [TxId("j", n) for n in range(3)]
        in_flights.learn(ids[0], "a", yes("a"))
        in_flights.learn(ids[1], "a", yes("a"))
        in_flights.learn(ids[1], "b", yes("b"))
        assert len(in_flights._early) == 2
        in_flights.learn(ids[2], "a", yes("a"))
        forgotten, kept, third = (in_flights.join(txid, ("a", "b")) for txid in ids)
    assert (forgotten.votes, third.votes) == ({}, {"a": yes("a")})
    assert kept.decision == ALL_YES
    assert (kept.id, kept.participants) == (ids[1], ("a", "b"))
    assert len(in_flights._early) == 0
    in_flights.learn(ids[0], "a", no("a"))
    assert forgotten.decision == deciding.refusal("a", no("a"))
    assert in_flights.join(ids[0], ("a", "b")) is forgotten
    in_flights.leave(forgotten)
    assert in_flights.open[ids[0]] is forgotten
    in_flights.leave(forgotten)
    assert list(in_flights.open) == ids[1:]


async def test_a_in_flight_is_as_old_as_the_loop_says() -> None:
    now = asyncio.get_running_loop().time()
    assert now <= InFlightTable().join(A, ("a",)).since <= asyncio.get_running_loop().time()
