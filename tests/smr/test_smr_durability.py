"""When a replica keeps a snapshot, where, and what is trimmed then.  Time is virtual."""

import asyncio
import logging
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from wormspace.errors import UsageError
from wormspace.sim import World
from wormspace.smr import NeverTrim, StateMachine, TrimBehindSnapshots, TrimWhenApplied, command
from wormspace.smr.calls import encode_calls
from wormspace.smr.durability import PACE_S, _claim, gently, save, trim_behind
from wormspace.smr.engine import Engine
from wormspace.smr.records import Batch, Packet, encode
from wormspace.smr.snapshots import Snapshot, restore
from wormspace.smr.stores import LocalSnapshots, MemorySnapshots
from wormspace.space import Address

SIZE = 10


class Notes(StateMachine):
    seen: list[int] = []  # noqa: RUF012

    @command
    def note(self, n: int) -> None:
        self.seen.append(n)


class Space:
    name = "thing"

    def __init__(self):
        self.at, self.trims = 0, []

    async def head(self):
        return self.at

    async def trim_prefix(self, stop):
        self.trims.append((asyncio.get_running_loop().time(), stop))
        self.at = stop


class Kept(MemorySnapshots):
    """A place that all share; notes what is saved, and may refuse."""

    def __init__(self):
        super().__init__()
        self.saved, self.error = [], None

    async def save(self, name, position, pieces):
        if self.error is not None:
            raise self.error
        await super().save(name, position, pieces)
        self.saved.append((asyncio.get_running_loop().time(), name, position))


class OwnPlace(LocalSnapshots):
    """A directory, as far as a replica can tell."""

    def __init__(self):
        self.kept, self.claimed, self.closed, self.error = Kept(), False, 0, None

    @property
    def saved(self):
        return self.kept.saved

    def claim(self, name):
        if self.error is not None:
            raise self.error
        if self.claimed:
            return None
        self.claimed = name
        return self

    def close(self):
        self.claimed, self.closed = False, self.closed + 1

    async def save(self, name, position, pieces):
        await self.kept.save(name, position, pieces)

    def load(self, name):
        return self.kept.load(name)


def context():
    engine = Engine(Notes())
    return SimpleNamespace(
        member="r1",
        kept=Address(0, 0),
        space=Space(),
        learner=SimpleNamespace(position=engine.position, engine=engine, told=None),
        peers=SimpleNamespace(heard=list),
        tuning=SimpleNamespace(segment_size=SIZE),
        announced=SimpleNamespace(since=lambda time: []),
        fetches=SimpleNamespace(needed=None),
        loop=asyncio.get_running_loop(),
    )


def others(place, *positions):
    """What other replicas are said to have applied, and to keep."""
    heard = [SimpleNamespace(applied=one, kept=Address(one.segment, 1)) for one in positions]
    place.peers.heard = lambda: heard


def apply(place, count):
    engine = place.learner.engine
    for _ in range(count):
        number = len(engine.machine.seen) + 1
        raw = encode_calls([Notes.declaration.methods["note"]], [(number,)])
        engine.apply(encode(Batch(10**9, 7, [Packet(b"c", number, 1, raw)])), SIZE)
    place.learner.position = engine.position


LEADER, FOLLOWER = SimpleNamespace(leads=True), SimpleNamespace(leads=False)


def timely(work):
    def test(caplog):
        caplog.set_level(logging.INFO, "wormspace.smr")
        with World(0) as world:
            world.run(work(caplog), deadline_s=10_000)

    test.__name__ = work.__name__
    return test


# ---------------------------------------------------------------- what they are told


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TrimWhenApplied(0), "TrimWhenApplied.replicas is an int, 1 or more, not 0"),
        (lambda: TrimWhenApplied(1.5), "TrimWhenApplied.replicas is an int"),
        (lambda: TrimWhenApplied(1, every_s=0), "0"),
        (lambda: TrimBehindSnapshots(""), "a directory has a name"),
        (lambda: TrimBehindSnapshots(7), "a place for snapshots has a method 'save'"),
        (lambda: TrimBehindSnapshots(SimpleNamespace(save=print)), "has a method 'load'"),
        (lambda: TrimBehindSnapshots(Kept), "a place for snapshots is an object"),
        (lambda: TrimBehindSnapshots("x", registers=0), "registers is an int, 1 or more, not 0"),
        (lambda: TrimBehindSnapshots("x", copies=-1), "copies is an int, 0 or more, not -1"),
        (lambda: TrimBehindSnapshots("x", every_s=-1), "-1"),
    ],
)
def test_what_they_cannot_do_is_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_a_directory_is_one_however_it_is_said_and_another_place_is_used_as_it_is():
    for place in ("somewhere", Path("somewhere")):
        store = TrimBehindSnapshots(place, registers=1, copies=0).store
        assert type(store) is LocalSnapshots
        assert store._directory == Path("somewhere")
    kept = Kept()
    assert TrimBehindSnapshots(kept).store is kept
    assert (NeverTrim().store, TrimWhenApplied(1).store) == (None, None)


# ---------------------------------------------------------------- trimmed when applied


@timely
async def test_what_so_many_replicas_have_applied_goes_and_it_is_looked_at_in_turn(caplog):
    place = context()
    work = asyncio.ensure_future(TrimWhenApplied(2, every_s=3.0).run(place, LEADER))
    apply(place, 4 * SIZE)
    await asyncio.sleep(4)
    assert place.space.trims == [], "one is not enough"
    others(place, Address(2, 5), Address(1, 0))
    await asyncio.sleep(3)
    assert place.space.trims == [(6.0, 2)]
    others(place, Address(3, 0), Address(5, 0))
    await asyncio.sleep(3)
    assert place.space.trims == [(6.0, 2), (9.0, 4)]
    assert caplog.messages[-1] == "thing: trimmed the segments below 4"
    work.cancel()


@timely
async def test_a_segment_that_tells_of_which_space_it_is_stays(caplog):
    place = context()
    apply(place, 4 * SIZE)
    for told in (0, 2, 3):
        place.learner.told = told
        await trim_behind(place, LEADER, 1, [Address(4, 0)])
    assert [stop for _, stop in place.space.trims] == [2, 3]


# ---------------------------------------------------------------- trimmed behind snapshots


@timely
async def test_a_leader_keeps_one_where_all_share_after_so_many_registers(caplog):
    place, kept = context(), Kept()
    work = asyncio.ensure_future(TrimBehindSnapshots(kept, registers=15).run(place, LEADER))
    apply(place, 14)
    await asyncio.sleep(1.5)
    assert (kept.saved, place.space.trims) == ([], [])
    apply(place, 1)
    await asyncio.sleep(1)
    assert [one[1:] for one in kept.saved] == [("thing", Address(1, 5))]
    assert place.kept == Address(1, 5)
    assert [stop for _, stop in place.space.trims] == [1], "one copy is enough where all share"
    again = await restore(Notes, kept.load("thing"))
    assert (again.position, again.machine.seen) == (Address(1, 5), list(range(1, 16)))
    apply(place, 14)
    await asyncio.sleep(2)
    assert len(kept.saved) == 1
    apply(place, 2)
    await asyncio.sleep(2)
    assert [one[2] for one in kept.saved] == [Address(1, 5), Address(3, 1)]
    assert [stop for _, stop in place.space.trims] == [1, 3]
    work.cancel()


@timely
async def test_who_follows_keeps_none_where_all_share_and_trims_nothing(caplog):
    place, kept = context(), Kept()
    work = asyncio.ensure_future(TrimBehindSnapshots(kept, registers=1).run(place, FOLLOWER))
    apply(place, 30)
    await asyncio.sleep(3)
    assert (kept.saved, place.space.trims) == ([], [])
    work.cancel()


@timely
async def test_each_keeps_its_own_in_a_directory_and_two_of_them_are_asked_for(caplog):
    place, own = context(), OwnPlace()
    work = asyncio.ensure_future(TrimBehindSnapshots(own, registers=5).run(place, FOLLOWER))
    apply(place, 25)
    await asyncio.sleep(1.5)
    assert [one[2] for one in own.saved] == [Address(2, 5)]
    assert own.claimed == "thing"
    work.cancel()
    await asyncio.sleep(0)
    assert own.closed == 1
    work = asyncio.ensure_future(TrimBehindSnapshots(own, registers=5).run(place, LEADER))
    await asyncio.sleep(1.5)
    assert len(own.saved) == 1, "it goes on from what is kept"
    assert place.space.trims == []
    others(place, Address(1, 9))
    await asyncio.sleep(1)
    assert [stop for _, stop in place.space.trims] == [1]
    work.cancel()
    others(place)
    one = TrimBehindSnapshots(own, registers=5, copies=1, every_s=2.0)
    work = asyncio.ensure_future(one.run(place, LEADER))
    await asyncio.sleep(2.5)
    assert [stop for _, stop in place.space.trims] == [1, 2]
    work.cancel()


@timely
async def test_where_another_replica_keeps_its_own_none_is_kept_until_it_has_gone(caplog):
    place, own = context(), OwnPlace()
    own.claimed, place.kept = "another", Address(1, 0)
    work = asyncio.ensure_future(TrimBehindSnapshots(own, registers=5).run(place, FOLLOWER))
    apply(place, 25)
    await asyncio.sleep(2.5)
    assert (own.saved, place.kept) == ([], Address(0, 0)), "what is there is another's copy"
    assert caplog.messages == [
        "r1 keeps no snapshots: another replica of 'thing' keeps its own in this directory; "
        "give each a directory of its own"
    ]
    own.claimed = False
    await asyncio.sleep(1)
    assert place.kept == Address(2, 5)
    assert [one[2] for one in own.saved] == [Address(2, 5)]
    await asyncio.sleep(1)
    assert place.kept == Address(2, 5)
    work.cancel()


@timely
async def test_a_snapshot_that_cannot_be_kept_is_tried_again_and_all_else_goes_on(caplog):
    place, kept = context(), Kept()
    kept.error = ValueError("full")
    work = asyncio.ensure_future(TrimBehindSnapshots(kept, registers=5).run(place, LEADER))
    apply(place, 25)
    others(place, Address(1, 0))
    await asyncio.sleep(2.5)
    assert caplog.messages[0] == "r1: no snapshot was kept: ValueError('full')"
    assert sum("no snapshot was kept" in one for one in caplog.messages) == 2
    assert [stop for _, stop in place.space.trims] == [1], "another's copy counts"
    assert place.learner.engine.machine._journal.images == []
    kept.error = None
    await asyncio.sleep(1)
    assert place.kept == Address(2, 5)
    work.cancel()


@timely
async def test_a_directory_that_cannot_be_used_is_told_of_and_claims_end(caplog):
    place, own = context(), OwnPlace()
    with ExitStack() as claims:
        assert _claim(Kept(), place, claims), "a place that all share"
        own.error = OSError("no locks here")
        assert not _claim(own, place, claims)
        assert caplog.messages == ["r1: snapshots cannot be kept: no locks here"]
        own.error = None
        assert _claim(own, place, claims)
        assert not _claim(own, place, claims)
        assert own.closed == 0
    assert own.closed == 1


@timely
async def test_a_snapshot_is_of_the_moment_at_which_it_was_taken_and_leaves_nothing(caplog):
    place, kept = context(), Kept()
    apply(place, 3)
    engine = place.learner.engine
    saving = asyncio.ensure_future(save(kept, "thing", engine))
    await asyncio.sleep(0)
    assert len(engine.machine._journal.images) == 1
    apply(place, 4)
    assert await saving == Address(0, 3)
    assert engine.machine._journal.images == []
    assert (await restore(Notes, kept.load("thing"))).machine.seen == [1, 2, 3]


@timely
async def test_one_of_another_space_is_not_replaced(caplog):
    place, kept = context(), Kept()
    other = Engine(Notes())
    other.identity = b"other"
    await save(kept, "thing", other)
    apply(place, 25)
    for identity in (b"", b"mine"):
        place.learner.engine.identity = identity
        work = asyncio.ensure_future(TrimBehindSnapshots(kept, registers=5).run(place, LEADER))
        await asyncio.sleep(1.5)
        work.cancel()
    assert (len(kept.saved), place.kept, place.space.trims) == (1, Address(0, 0), [])
    assert [one for one in caplog.messages if "no snapshot was kept: WrongIdentity" in one][1:]
    place.learner.engine.identity = b"other"
    assert await save(kept, "thing", place.learner.engine) == Address(2, 5)
    assert len(kept.saved) == 2


@timely
async def test_between_two_pieces_there_is_time_for_others(caplog):
    loop = asyncio.get_running_loop()
    times = [(piece, loop.time()) async for piece in gently(iter([b"a", b"b", b"c"]))]
    assert [piece for piece, _ in times] == [b"a", b"b", b"c"]
    assert [at for _, at in times] == pytest.approx([0, PACE_S, 2 * PACE_S])
    assert len(list(Snapshot(Engine(Notes())).pieces())) > 1
