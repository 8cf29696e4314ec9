"""A space says what it is: nobody takes part in a replicated object in a space of another kind."""

import pytest

import wormspace
from wormspace.errors import NewerFormat, WrongKind
from wormspace.smr import (
    Counter,
    Fixed,
    Leaderless,
    Rotating,
    Sticky,
)
from wormspace.smr.learner import Learner
from wormspace.smr.records import FORMAT, KIND
from wormspace.smr.remote import addresses_of
from wormspace.space import read_stamp, stamp

STRATEGIES = [Sticky(0.1), Fixed("one", 0.1), Rotating(0.1), Leaderless()]


async def contents(space):
    """All of a space, to see that nobody wrote into it."""
    found = []
    for number in range(await space.head(), await space.tail()):
        segment = await space.segment(number)
        found.append((segment.metadata, [await segment.read(n) for n in range(segment.size)]))
    return found


async def test_the_segments_of_an_object_say_so():
    async with wormspace.connect("memory:") as worm:
        async with await worm.replicate(Counter, "hits") as counter:
            await counter.add(1)
        kind, version, _ = read_stamp(await worm.space("hits").check(0))
        assert (kind, version) == (KIND, FORMAT)


@pytest.mark.parametrize("leadership", STRATEGIES, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        (stamp("log", 1), WrongKind),
        (b"the user's own", WrongKind),
        (stamp(KIND, FORMAT + 1), NewerFormat),
    ],
)
async def test_a_space_of_another_kind_is_refused_and_left_alone(leadership, metadata, error):
    async with wormspace.connect("memory:") as worm:
        space = worm.space("other")
        segment = await space.alloc(metadata, 8)
        await segment.unsafe_write(0, b"theirs")
        before = await contents(space)
        with pytest.raises(error):
            await worm.replicate(Counter, "other", replica="one", leadership=leadership)
        with pytest.raises(error):
            await addresses_of(worm, "other")
        assert await contents(space) == before


@pytest.mark.parametrize("leadership", STRATEGIES, ids=lambda one: type(one).__name__)
async def test_whoever_loses_the_race_for_a_name_harms_nothing(leadership, monkeypatch):
    """The other application allocates after this one's look, and before its first segment."""

    async def looks_too_early(learner):
        pass

    monkeypatch.setattr(Learner, "require_strategy", looks_too_early)
    async with wormspace.connect("memory:") as worm:
        theirs = await worm.space("raced").alloc(stamp("log", 1), 8)
        options = {"replica": "one", "leadership": leadership, "timeout": 1.0}
        async with await worm.replicate(Counter, "raced", **options) as replica:
            with pytest.raises(WrongKind):
                await replica.add(1)
        assert not any([await theirs.read(n) for n in range(theirs.size)])
