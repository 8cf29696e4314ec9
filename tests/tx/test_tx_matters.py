"""What one process knows of a transaction."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from wormspace.errors import Unavailable
from wormspace.knobs import turned
from wormspace.tx import deciding
from wormspace.tx.deciding import ABORTED, ALL_YES, Vote
from wormspace.tx.matters import Matter, Matters
from wormspace.tx.names import TxId

A = TxId("a", 1)


def yes(manager: str) -> Vote:
    return Vote(True, ("a", "b"), f"gid {manager}", 1.0, manager)


def no(manager: str, conflict: bool = False) -> Vote:
    return Vote(False, ("a", "b"), f"gid {manager}", 2.0, f"by {manager}", "full", conflict)


class Part:
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
    matter, part = Matter(A, ("a", "b"), 5.0), Part("a")
    assert (matter.since, matter.deadline) == (5.0, float("inf"))
    matter.add(part)
    waiting = [asyncio.ensure_future(matter.decided()) for _ in range(2)]
    ends = asyncio.ensure_future(matter.ended())
    asked = [asyncio.ensure_future(matter.vote_of("a")) for _ in range(2)]
    other = asyncio.ensure_future(matter.vote_of("b"))
    await turn()
    asked[0].cancel()
    waiting[0].cancel()
    await turn()
    matter.learn("a", yes("a"))
    await turn()
    assert await asked[1] == yes("a")
    assert not other.done()
    assert not waiting[1].done()
    assert matter.decision is None
    matter.learn("b", no("b"))
    assert await other == no("b")
    assert await waiting[1] == matter.decision == deciding.refusal("b", no("b"))
    assert await matter.decided() is matter.decision
    assert (part.acts, ends.done(), matter.pending) == (1, False, ("a",))
    matter.decide(ALL_YES)
    matter.learn("a", yes("a"))
    assert (matter.decision.outcome, part.acts) == (ABORTED, 1)
    part.acted = True
    matter.on_part_over("a")
    assert await ends is await matter.ended() is matter.decision
    assert matter.pending == ()


async def test_a_no_of_nobody_who_takes_part_decides_nothing() -> None:
    matter, part = Matter(A, ("a", "b"), 0.0), Part("a")
    matter.add(part)
    waiting = asyncio.ensure_future(matter.decided())
    await turn()
    matter.learn("c", no("c"))
    matter.learn("a", yes("a"))
    await turn()
    assert (matter.decision, part.acts, waiting.done()) == (None, 0, False)
    matter.learn("b", yes("b"))
    assert await waiting == matter.decision == ALL_YES


async def test_who_waits_for_what_cannot_be_learned_is_told() -> None:
    matter = Matter(A, ("a",), 0.0)
    with pytest.raises(Unavailable, match="a-1 is not decided yet"):
        matter._known()
    waiting = [asyncio.ensure_future(wait()) for wait in (matter.decided, matter.ended)]
    await turn()
    matter.give_up(Unavailable("no servers"))
    for one in waiting:
        with pytest.raises(Unavailable, match="no servers"):
            await one
    for late in (matter.decided, matter.ended):
        with pytest.raises(Unavailable, match="no servers"):
            await asyncio.wait_for(late(), 5)
    matter.decide(ALL_YES)
    assert await matter.decided() == ALL_YES


async def test_nobody_waits_longer_than_is_said() -> None:
    matter = Matter(A, ("a",), 0.0)
    matter.add(Part("a"))
    matter.decide(ALL_YES)
    waiting = asyncio.ensure_future(matter.ended())
    await turn()
    assert not waiting.done()
    matter.stop_waiting()
    assert await waiting == ALL_YES


async def test_that_no_part_is_left_ends_nothing_before_the_decision() -> None:
    matter = Matter(A, ("a", "b"), 0.0)
    for name in "ab":
        matter.add(Part(name))
    waiting = asyncio.ensure_future(matter.ended())
    unsaid = asyncio.ensure_future(matter.vote_of("a"))
    other = asyncio.ensure_future(matter.vote_of("b"))
    await turn()
    matter.on_part_over("a")
    assert await unsaid is None  # it will not be said here
    await turn()
    assert not other.done()
    matter.on_part_over("b")
    await turn()
    assert not waiting.done()
    matter.decide(ALL_YES)
    assert await waiting == ALL_YES


async def test_a_yes_waits_for_the_other_managers_here_and_a_no_does_not() -> None:
    for last, first in itertools.product((yes, no), repeat=2):
        matter, a, b, c = Matter(A, ("a", "b", "c"), 0.0), Part("a"), Part("b"), Part("c")
        for part in (a, b, c):
            matter.add(part)
        matter.promised(a, first("a"))
        assert a.casts == ([] if first is yes else [no("a")])
        matter.promised(b, yes("b"))
        assert b.casts == []
        matter.promised(c, last("c"))
        assert [part.casts for part in (a, b, c)] == [[first("a")], [yes("b")], [last("c")]]


async def test_votes_that_are_heard_early_are_kept_for_a_while() -> None:
    with turned(tx_early_votes=2):
        matters = Matters()
        ids = [TxId("j", n) for n in range(3)]
        matters.learn(ids[0], "a", yes("a"))
        matters.learn(ids[1], "a", yes("a"))
        matters.learn(ids[1], "b", yes("b"))
        assert len(matters._early) == 2
        matters.learn(ids[2], "a", yes("a"))
        forgotten, kept, third = (matters.join(txid, ("a", "b")) for txid in ids)
    assert (forgotten.votes, third.votes) == ({}, {"a": yes("a")})
    assert kept.decision == ALL_YES
    assert (kept.id, kept.participants) == (ids[1], ("a", "b"))
    assert len(matters._early) == 0
    matters.learn(ids[0], "a", no("a"))
    assert forgotten.decision == deciding.refusal("a", no("a"))
    assert matters.join(ids[0], ("a", "b")) is forgotten
    matters.leave(forgotten)
    assert matters.open[ids[0]] is forgotten
    matters.leave(forgotten)
    assert list(matters.open) == ids[1:]


async def test_a_matter_is_as_old_as_the_loop_says() -> None:
    now = asyncio.get_running_loop().time()
    assert now <= Matters().join(A, ("a",)).since <= asyncio.get_running_loop().time()
