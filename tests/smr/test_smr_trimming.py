"""Which segments are trimmed: those that enough replicas are beyond, and that nobody needs."""

import asyncio
import random
from types import SimpleNamespace

import pytest

from wormspace.errors import Unavailable
from wormspace.smr.durability import trim_behind
from wormspace.smr.fetching import NEEDED_S, Announced
from wormspace.smr.peers import FORGET_S, MOST, Peers
from wormspace.smr.records import Member, Ping
from wormspace.space import Address

NOW = 1000.0


def member(name, incarnation=0):
    return Member(name, f"{name}/{incarnation}".encode(), "host", 1)


class Space:
    """Notes how far it is trimmed."""

    name = "thing"

    def __init__(self, head):
        self.at, self.trims, self.error = head, [], None

    async def head(self):
        if self.error is not None:
            raise self.error
        return self.at

    async def trim_prefix(self, stop):
        self.trims.append(stop)
        self.at = stop


def context(head=0, position=Address(9, 0), needed=None, announced=()):  # noqa: B008 - it is frozen
    heard = Announced()
    for age, need in announced:
        who = member(f"{age}/{need}")
        heard.note(Ping(who, Address(0, 0), Address(0, 0), 1, need, (-1, b"")), NOW - age)
    return SimpleNamespace(
        space=Space(head),
        learner=SimpleNamespace(told=None, position=position),
        announced=heard,
        fetches=SimpleNamespace(needed=needed),
        loop=SimpleNamespace(time=lambda: NOW),
    )


def trim(place, count, reached, leads=True):
    proposer = SimpleNamespace(leads=leads)
    asyncio.run(trim_behind(place, proposer, count, [Address(n, 3) for n in reached]))
    return place.space.trims


def test_what_so_many_have_reached_is_trimmed_and_nothing_above():
    rng = random.Random(1)
    for _ in range(200):
        reached = [rng.randrange(9) for _ in range(rng.randrange(5))]
        count, head = rng.randrange(1, 5), rng.randrange(4)
        stop = max([n for n in range(10) if sum(one >= n for one in reached) >= count], default=0)
        assert trim(context(head), count, reached) == ([stop] if stop > head else [])


def test_who_does_not_lead_trims_nothing_and_nobody_what_it_has_not_applied():
    assert trim(context(), 1, [5], leads=False) == []
    assert trim(context(position=Address(3, 1)), 1, [5]) == [3]
    assert trim(context(position=Address(0, 7)), 1, [5]) == []


@pytest.mark.parametrize(
    ("needed", "announced", "stop"),
    [
        (Address(2, 5), [], 2),
        (Address(0, 5), [], 0),
        (None, [(1, Address(3, 0)), (2, Address(4, 0)), (3, None)], 3),
        (Address(2, 5), [(NEEDED_S, Address(1, 0))], 1),
        (Address(8, 5), [(NEEDED_S + 0.1, Address(1, 0))], 5),
    ],
)
def test_what_a_replica_needs_that_comes_up_is_kept(needed, announced, stop):
    place = context(needed=needed, announced=announced)
    assert trim(place, 1, [5]) == ([stop] if stop else [])


def test_a_trim_that_cannot_be_has_to_wait():
    place = context()
    place.space.error = Unavailable("none")
    assert trim(place, 1, [5]) == []
    place.space.error = None
    assert trim(place, 1, [5]) == [5]


# ---------------------------------------------------------------- who is there


def test_the_others_are_known_for_as_long_as_they_are_heard_of():
    clock = SimpleNamespace(now=100.0)
    peers = Peers(member("me"), lambda: clock.now)
    peers.hear(member("me"), Address(1, 1))
    peers.introduce([member("me")])
    assert (peers.members(), peers.heard()) == ([], [])
    peers.hear(member("a"), Address(1, 0), Address(0, 5))
    peers.introduce([member("b")])
    assert [one.name for one in peers.members()] == ["a", "b"]
    assert [(one.member.name, one.applied, one.kept) for one in peers.heard()] == [
        ("a", Address(1, 0), Address(0, 5))
    ]
    clock.now += FORGET_S
    peers.hear(member("a"), Address(2, 0))
    assert peers.heard()[0].kept == Address(0, 5), "what was said of snapshots stands"
    assert [one.name for one in peers.members()] == ["a", "b"]
    peers.introduce([member("a"), member("b", 1)])
    assert peers.members() == [member("a"), member("b")], "one that was introduced is not replaced"
    clock.now += 0.1
    assert [one.name for one in peers.members()] == ["a"]
    peers.introduce([member("b", 1)])
    assert peers.members()[-1] == member("b", 1)
    peers.hear(member("a", 1), Address(0, 1))
    assert peers.heard()[0].kept == Address(0, 0), "another incarnation keeps nothing yet"
    clock.now += FORGET_S
    assert [one.member for one in peers.heard()] == [member("a", 1)]
    peers.introduce([member("a", 1)])
    clock.now += 0.1
    assert peers.heard() == [], "to be introduced is not to be heard"
    assert peers.members() == [member("a", 1)]


def test_an_introduced_one_that_was_forgotten_gives_way_to_a_newer_one():
    clock = SimpleNamespace(now=100.0)
    peers = Peers(member("me"), lambda: clock.now)
    peers.introduce([member("a")])
    clock.now += FORGET_S
    peers.introduce([member("a", 1)])
    assert peers.members() == [member("a")]
    clock.now += 0.1
    peers.introduce([member("a", 1)])
    assert peers.members() == [member("a", 1)]


def test_of_too_many_those_not_heard_for_longest_give_way_and_the_living_do_not():
    clock = SimpleNamespace(now=100.0)
    peers = Peers(member("me"), lambda: clock.now)
    peers.introduce(member(f"{n}") for n in range(MOST))
    for n in range(3):
        clock.now += 1
        peers.hear(member(f"{n}"), Address(0, 0))
    assert len(peers.members()) == MOST
    peers.hear(member("new"), Address(0, 0))
    names = [one.name for one in peers.members()]
    assert (len(names), "new" in names, "3" in names) == (MOST, True, False)
    peers.introduce([member("newer")])
    names = [one.name for one in peers.members()]
    assert ("newer" in names, "4" in names) == (True, False)
    for n in range(MOST):
        peers.hear(member(f"{n}"), Address(0, 0))
    peers.hear(member("late"), Address(0, 0))
    peers.introduce([member("later")])
    names = [one.name for one in peers.members()]
    assert not {"late", "later"} & set(names), "all of these are alive"
    peers.hear(member("5", 1), Address(7, 0))
    assert member("5", 1) in peers.members(), "one that is known needs no room"
