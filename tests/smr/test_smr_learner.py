"""The learner: each register once, in the order of addresses, whoever brings it and when."""

import asyncio
import contextlib
import random
from types import SimpleNamespace

import pytest

from virtual import virtually
from wormspace.errors import (
    Closed,
    NewerFormat,
    NotAllocated,
    Trimmed,
    Unavailable,
    WrongIdentity,
    WrongKind,
)
from wormspace.runtime.retrying import FOLLOW_RETRY_S
from wormspace.smr.errors import OtherStrategy
from wormspace.smr.learner import Learner
from wormspace.smr.records import Member, SegmentMetadata, encode_segment_metadata
from wormspace.space import Address, Allocated, SegmentsTrimmed, Written, stamp

SIZES = (3, 1, 4, 2, 5)
SKIPS = b"skip"
"""The engine goes on in the next segment after this."""


def member(name):
    return Member(name, name.encode(), "host", 1)


def segment_metadata(leader="r1", strategy="sticky", owners=(), version=1):
    owners = [member(name) for name in owners]
    shape = {"count": "int"}
    return encode_segment_metadata(
        SegmentMetadata(member(leader), [], owners, strategy, "Thing", version, shape)
    )


class Engine:
    """Notes what it is given, and goes on."""

    def __init__(self, position=Address(0, 0)):  # noqa: B008 - it is frozen
        self.position = position
        self.identity = b""
        self.applied = []
        self.begun = []

    def begin(self, version, shape, what):
        self.begun.append((version, what))

    def apply(self, raw, size, turns):
        if raw == b"broken":
            raise ZeroDivisionError
        self.applied.append((self.position, raw, size, turns))
        number, offset = self.position
        ends = raw == SKIPS or offset + 1 == size
        self.position = Address(number + 1, 0) if ends else Address(number, offset + 1)
        return [raw], None


class Space:
    """Tells its listeners what it is told to.

    Attributes:
        told: what each listener hears: events, and an error to end with.
    """

    name = "thing"

    def __init__(self, *told):
        self.told = list(told)
        self.asked = []
        self.segments = {}

    async def segment(self, number):
        await asyncio.sleep(1)
        return self.segments[number]

    async def listen(self, start):
        self.asked.append((start, asyncio.get_running_loop().time()))
        for event in self.told.pop(0):
            if isinstance(event, Exception):
                raise event
            yield event
        await asyncio.Event().wait()


class Heard:
    """A learner, and what it says."""

    def __init__(self, *told, position=Address(0, 0)):  # noqa: B008 - it is frozen
        self.space, self.engine = Space(*told), Engine(position)
        self.applied, self.missing, self.failed = [], [], []
        self.learner = Learner(
            self.space,
            self.engine,
            "sticky",
            lambda applied, batch: self.applied.extend(applied),
            lambda: self.missing.append(self.learner.position),
            self.failed.append,
        )
        self.changes, self.leaders = [], []

    def watch(self):
        self.learner.on_change = lambda: self.changes.append(self.learner.position)
        self.learner.on_leader = lambda: self.leaders.append(self.learner.highest)
        return self


def registers():
    return [Address(n, i) for n, size in enumerate(SIZES) for i in range(size)]


def value(address):
    return b"%d/%d" % address


def test_each_register_is_applied_once_and_in_order_however_they_come():
    async def work(worm):
        for seed in range(25):
            rng, heard = random.Random(seed), Heard().watch()
            learner = heard.learner
            todo = [("learn", a) for a in registers() * 2] + [("allocated", n) for n in range(5)]
            rng.shuffle(todo)
            known, there, highest = set(), set(), -1
            for what, which in todo:
                calls = len(heard.changes)
                if what == "learn":
                    is_news = which >= learner.position
                    known.add(which)
                    learner.learn(which, value(which))
                    assert len(heard.changes) == calls + is_news
                else:
                    there.add(which)
                    learner.allocated(
                        which, SIZES[which], segment_metadata(f"r{which}", owners="ab"[:which])
                    )
                    assert len(heard.changes) == calls + 1
                    assert len(heard.leaders) == len(set(heard.leaders))
                    highest = max(highest, which)
                position = expected(known, there)
                assert learner.position == position
                assert learner.highest == highest
                for address in registers():
                    assert learner.holds(address) == (address in known)
                for n in range(5):
                    waits = {a.offset for a in known if a.segment == n and a >= position}
                    assert sorted(learner.ahead(n)) == sorted(waits)
                    is_kept = n in there and n >= min(position.segment, highest)
                    assert (learner.segment_metadata(n) is not None) == is_kept
                leader = None if highest < 0 else f"r{highest}"
                assert (learner.leader and learner.leader.name) == leader
            assert [a for a, *_ in heard.engine.applied] == registers()
            assert [raw for _, raw, *_ in heard.engine.applied] == heard.applied
            assert {(a.segment, size, turns) for a, _, size, turns in heard.engine.applied} == {
                (n, size, max(1, min(n, 2))) for n, size in enumerate(SIZES)
            }
            assert heard.leaders == sorted(set(heard.leaders))
            assert not heard.failed
            kept = set(learner._sizes), set(learner._segments_metadata), set(learner._pending)
            assert kept == ({4}, {4}, set()), "nothing of what is behind is kept"

    virtually(work)


def expected(known, there):
    """Where a learner stands that knows these registers and segments."""
    for address in registers():
        if address not in known or address.segment not in there:
            return address
    return Address(len(SIZES), 0)


def test_what_is_told_twice_changes_nothing_and_when_something_came_is_noted():
    async def work(worm):
        heard = Heard().watch()
        learner, loop = heard.learner, asyncio.get_running_loop()
        assert (learner.heard_at, learner.highest, learner.leader) == (0.0, -1, None)
        learner.allocated(0, 4, segment_metadata())
        assert (heard.changes, heard.leaders) == ([Address(0, 0)], [0])
        await asyncio.sleep(1)
        learner.allocated(0, 4, segment_metadata())
        assert len(heard.changes) == len(heard.leaders) == 1
        assert learner.heard_at == loop.time() - 1
        learner.learn(Address(0, 2), b"c")
        assert learner.heard_at == loop.time()
        learner.learn(Address(0, 0), b"a")
        learner.learn(Address(0, 1), b"b")
        await asyncio.sleep(1)
        learner.learn(Address(0, 1), b"again")
        assert learner.heard_at == loop.time() - 1, "no news"
        assert heard.applied == [b"a", b"b", b"c"]
        learner.learn(Address(0, 3), SKIPS)
        await asyncio.sleep(1)
        learner.allocated(1, 4, segment_metadata("r2"))
        assert learner.heard_at == loop.time()
        assert heard.leaders == [0, 1]
        assert learner.segment_metadata(0) is None, "what is behind is forgotten"
        assert heard.engine.begun == [(1, "'thing' (a Thing)")]

    virtually(work)


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        (segment_metadata(strategy="rotating"), OtherStrategy),
        (segment_metadata(strategy="voting"), OtherStrategy),
        (stamp("log", 1), WrongKind),
        (stamp("smr", 3), NewerFormat),
    ],
)
def test_nothing_of_another_object_is_applied(metadata, error):
    async def work(worm):
        heard = Heard().watch()
        heard.learner.learn(Address(0, 0), b"a")
        heard.learner.allocated(0, 4, metadata)
        assert [type(one) for one in heard.failed] == [error]
        heard.learner.allocated(0, 4, segment_metadata())
        assert heard.learner.leader is not None
        assert not heard.applied, "it has failed"

    virtually(work)


class Begun:
    """A space from segment `first` on; what is asked for first is trimmed meanwhile, if told so."""

    name = "thing"

    def __init__(self, first, *metadata, trims=0):
        self.first, self.metadata, self.trims, self.checked = first, metadata, trims, []

    async def head(self):
        return self.first

    async def tail(self):
        return self.first + len(self.metadata)

    async def check(self, number):
        self.checked.append(number)
        if self.trims:
            self.trims -= 1
            raise Trimmed("meanwhile")
        if not self.first <= number < self.first + len(self.metadata):
            raise NotAllocated("not yet")
        return self.metadata[number - self.first]


@pytest.mark.parametrize(
    ("metadata", "error", "checked"),
    [
        ([], None, [3]),
        ([segment_metadata()], None, [3, 3]),
        (
            [segment_metadata(), segment_metadata(version=7), segment_metadata(version=2)],
            None,
            [3, 5],
        ),
        ([segment_metadata(strategy="rotating"), segment_metadata()], OtherStrategy, [3]),
        ([segment_metadata(strategy="voting"), segment_metadata()], OtherStrategy, [3]),
        ([stamp("log", 1), segment_metadata()], WrongKind, [3]),
        ([segment_metadata(), stamp("log", 1)], WrongKind, [3, 4]),
    ],
)
@pytest.mark.parametrize("trims", [0, 2])
def test_it_takes_part_only_where_all_were_told_the_same(metadata, error, checked, trims):
    async def work(worm):
        heard, versions = Heard(), []
        heard.learner.space = space = Begun(3, *metadata, trims=trims)
        heard.engine.lineage = SimpleNamespace(
            at=lambda version, shape, what: versions.append((version, shape, what))
        )
        with pytest.raises(error) if error else contextlib.nullcontext():
            await heard.learner.require_strategy()
        assert space.checked == [3] * trims + checked
        newest = {"count": "int"}, "'thing' (a Thing)"
        ran = {1: 1, 3: 2}.get(len(metadata))
        assert versions == ([(ran, *newest)] if metadata and error is None else [])

    virtually(work)


def test_only_the_first_segment_says_how_the_object_began():
    async def work(worm):
        heard = Heard(position=Address(3, 1))
        heard.learner.allocated(
            4, 4, segment_metadata(strategy="another, of somebody who was refused")
        )
        heard.learner.allocated(0, 4, segment_metadata())
        assert not heard.failed
        assert not heard.engine.begun
        assert heard.learner.highest == 4

    virtually(work)


def told(leader, identity=b""):
    return encode_segment_metadata(
        SegmentMetadata(member(leader), strategy="sticky", space=identity)
    )


def test_who_allocated_the_first_segment_decides_the_identity_and_others_pass_it_on():
    async def work(worm):
        for first, found in ((told("r1"), b"r1"), (told("r1", b"lost"), b"lostr1")):
            heard = Heard()
            learner = heard.learner
            learner.allocated(1, 4, told("r2"))
            assert (heard.engine.identity, learner.told) == (b"", None), "it was not known to r2"
            learner.allocated(0, 4, first)
            assert (heard.engine.identity, learner.told) == (found, 0)
            for number, by in ((3, told("r2", found)), (2, told("r3", found)), (4, told("r3"))):
                learner.allocated(number, 4, by)
                assert (heard.engine.identity, learner.told) == (found, 3 if number > 1 else 0)
            assert not heard.failed

    virtually(work)


@pytest.mark.parametrize("again", [(0, told("r1", b"r1")), (3, told("r2", b"r2"))])
def test_a_space_that_was_made_anew_stops_who_has_applied_the_one_before(again):
    number, metadata = again

    async def work(worm):
        heard = Heard(position=Address(3, 0))
        heard.engine.identity = b"r1"
        heard.learner.learn(Address(3, 0), b"a")
        heard.learner.allocated(number, 4, metadata)
        assert [type(one) for one in heard.failed] == [WrongIdentity]
        assert "made anew" in str(heard.failed[0])
        assert not heard.applied

    virtually(work)


@pytest.mark.parametrize(
    ("first", "metadata", "found", "checked"),
    [
        (0, [told("r1"), told("r2", b"r1")], b"r1", [0]),
        (4, [told("r1"), told("r2", b"r3"), told("r2", b"r3")], b"r3", [4, 5]),
        (4, [told("r1"), told("r2")], b"", [4, 5]),
        (4, [], b"", []),
    ],
)
def test_the_identity_is_asked_of_the_space_until_it_is_known(first, metadata, found, checked):
    async def work(worm):
        heard = Heard()
        heard.learner.space = space = Begun(first, *metadata)
        assert await heard.learner.identify() == found
        assert space.checked == checked
        assert await heard.learner.identify() == found
        assert space.checked == (checked if found else checked * 2)
        space.trims, heard.engine.identity = 1, b""
        assert await heard.learner.identify() == found, "the next one tells it too"

    virtually(work)


def test_what_cannot_be_applied_ends_it():
    async def work(worm):
        heard = Heard()
        heard.learner.allocated(0, 9, segment_metadata())
        for offset, raw in enumerate([b"a", b"broken", b"c"]):
            heard.learner.learn(Address(0, offset), raw)
        assert [type(one) for one in heard.failed] == [ZeroDivisionError]
        heard.learner.learn(Address(0, 1), b"b")
        assert heard.applied == [b"a"]
        assert len(heard.failed) == 1

    virtually(work)


def test_who_waits_is_woken_when_everything_before_was_applied():
    async def work(worm):
        heard, woken = Heard(), []
        heard.learner.allocated(0, 8, segment_metadata())

        async def wait(offset):
            await heard.learner.reached(Address(0, offset))
            woken.append(offset)

        rng = random.Random(1)
        offsets = [0, *rng.sample(range(8), 8), *rng.sample(range(8), 8)]
        tasks = [asyncio.ensure_future(wait(offset)) for offset in offsets]
        await asyncio.sleep(0)
        assert woken == [0, 0, 0]
        for offset in range(7):
            heard.learner.learn(Address(0, offset), b"x")
            await asyncio.sleep(0.1)
            assert sorted(woken) == sorted(o for o in offsets if o <= offset + 1)
        assert woken == sorted(woken)
        await asyncio.gather(*tasks)
        await asyncio.wait_for(heard.learner.reached(Address(0, 2)), 1)

    virtually(work)


def test_those_who_gave_up_waiting_are_forgotten_and_the_others_are_not():
    async def work(worm):
        heard = Heard()
        heard.learner.allocated(0, 200, segment_metadata())
        waiting = heard.learner._waiting
        waits = (heard.learner.reached(Address(0, offset)) for offset in range(1, 101))
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        await asyncio.sleep(0)
        most = 0
        for task in tasks[::-1][:90]:
            task.cancel()
            await asyncio.sleep(0)
            there = sum(not one.done() for one in tasks)
            most = max(most, len(heard.learner._waiting) - there)
            assert len(heard.learner._waiting) <= 2 * there + 2
        assert most > 0, "not each time: that would take time"
        assert waiting is not heard.learner._waiting
        for offset in range(10):
            heard.learner.learn(Address(0, offset), b"x")
        await asyncio.sleep(0)
        assert sum(one.done() and not one.cancelled() for one in tasks) == 10
        assert not [one for one in heard.learner._waiting if not one[2].done()]

    virtually(work)


def test_some_give_up_and_the_others_are_woken_in_their_turn():
    async def work(worm):
        for seed in range(4):
            rng, heard = random.Random(seed), Heard()
            heard.learner.allocated(0, 99, segment_metadata())
            waits = {n: heard.learner.reached(Address(0, n)) for n in rng.sample(range(1, 60), 59)}
            tasks = {n: asyncio.ensure_future(wait) for n, wait in waits.items()}
            await asyncio.sleep(0)
            rebuilt, before = 0, heard.learner._waiting
            for n in rng.sample(range(1, 60), 45):
                tasks[n].cancel()
                await asyncio.sleep(0)
                rebuilt += heard.learner._waiting is not before
                before = heard.learner._waiting
            assert 1 <= rebuilt <= 6, "so that each costs a constant"
            left = {n: task for n, task in tasks.items() if not task.cancelled()}
            for offset in range(30):
                heard.learner.learn(Address(0, offset), b"x")
                await asyncio.sleep(0)
                assert [n for n in left if left[n].done()] == [n for n in left if n <= offset + 1]
            heard.learner.install(Engine(Address(0, 57)))
            await asyncio.sleep(0)
            assert [n for n in left if left[n].done()] == [n for n in left if n <= 57]
            heard.learner.learn(Address(0, 57), SKIPS)
            await asyncio.gather(*left.values())

    virtually(work)


def test_it_goes_on_from_a_snapshot():
    async def work(worm):
        for position in registers():
            heard = Heard()
            for n, size in enumerate(SIZES):
                heard.learner.allocated(n, size, segment_metadata(f"r{n}"))
            for address in registers()[1:]:
                heard.learner.learn(address, value(address))
            assert not heard.applied
            heard.learner.install(Engine(position))
            later = [value(a) for a in registers() if a >= position > Address(0, 0)]
            assert heard.applied == later
            assert heard.learner.position == (Address(len(SIZES), 0) if later else position)
            assert all(heard.learner.holds(a) for a in registers() if any(a) or any(position))
            waiting = [heard.learner.ahead(n) for n in range(position.segment)]
            assert not any(waiting)
            assert heard.learner.leader == member("r4")

    virtually(work)


def test_a_part_of_what_waits_is_older_than_the_snapshot():
    async def work(worm):
        heard = Heard()
        for n in range(2):
            heard.learner.allocated(n, 8, segment_metadata())
            for offset in (1, 3, 4, 6):
                heard.learner.learn(Address(n, offset), b"x")
        heard.learner.install(Engine(Address(1, 2)))
        assert (heard.learner.ahead(0), heard.learner.ahead(1)) == ([], [3, 4, 6])
        assert heard.learner.segment_metadata(0) is None
        heard.learner.install(Engine(Address(1, 5)))
        assert heard.learner.ahead(1) == [6]

    virtually(work)


@pytest.mark.parametrize("at", [Address(0, 0), Address(3, 0), Address(3, 2)])
def test_a_position_tells_that_the_segments_before_it_are_there(at):
    """Of a snapshot that was taken at the end of one no event tells: yet it is the highest."""

    async def work(worm):
        begun, installed = Heard(position=at).learner, Heard().watch()
        assert (begun.highest, begun.leader) == (at.segment - 1, None)
        installed.learner.allocated(0, 2, segment_metadata("r0"))
        installed.leaders.clear()
        installed.learner.install(Engine(at))
        assert installed.learner.highest == max(0, at.segment - 1)
        is_beyond = at.segment > 1
        assert installed.leaders == ([2] if is_beyond else [])
        assert installed.learner.leader == (None if is_beyond else member("r0"))
        assert (installed.learner.segment_metadata(0) is None) == is_beyond
        installed.learner.install(Engine(at))
        assert len(installed.leaders) == is_beyond

    virtually(work)


def test_whose_the_segment_before_the_position_is_can_be_looked_up():
    async def work(worm):
        heard = Heard(position=Address(3, 0)).watch()
        heard.space.segments[2] = SimpleNamespace(size=4, metadata=segment_metadata("r2"))
        await heard.learner.recall()
        assert heard.learner.leader == member("r2")
        assert (heard.learner.highest, heard.leaders) == (2, [2])
        assert heard.learner.heard_at == asyncio.get_running_loop().time()
        assert heard.learner.position == Address(3, 0)
        await heard.learner.recall()
        assert heard.leaders == [2]

    virtually(work)


def test_who_is_told_of_a_later_segment_meanwhile_keeps_to_that():
    async def work(worm):
        heard = Heard(position=Address(3, 0)).watch()
        heard.space.segments[2] = SimpleNamespace(size=4, metadata=segment_metadata("r2"))
        recalling = asyncio.ensure_future(heard.learner.recall())
        await asyncio.sleep(0.5)
        heard.learner.allocated(3, 4, segment_metadata("r3"))
        await recalling
        assert (heard.learner.leader, heard.leaders) == (member("r3"), [3])
        assert heard.learner.segment_metadata(2) is None

    virtually(work)


def test_a_mistake_while_it_follows_stops_it_and_does_not_leave_it_deaf():
    async def work(worm):
        error = KeyError("whatever it is")
        heard = Heard([Allocated(0, 4, segment_metadata()), error])
        heard.learner.listen()
        await asyncio.sleep(1)
        assert heard.failed == [error]
        assert len(heard.space.asked) == 1

    virtually(work)


def test_it_follows_the_space_until_it_is_deafened():
    first = [
        Allocated(0, 4, segment_metadata()),
        Written(Address(0, 0), b"a"),
        Written(Address(0, 1), b"b"),
        SegmentsTrimmed(0, 0),
        Unavailable("for a moment"),
    ]
    second = [SegmentsTrimmed(0, 1), Written(Address(0, 2), b"c")]

    async def work(worm):
        heard = Heard(first, second, [SegmentsTrimmed(0, 3)], [Closed("over")])
        learner, loop, began = heard.learner, asyncio.get_running_loop(), 0.0
        began = loop.time()
        learner.stop_listening()
        learner.listen()
        learner.listen()
        await asyncio.sleep(FOLLOW_RETRY_S / 2)
        assert (heard.applied, heard.missing) == ([b"a", b"b"], [])
        await asyncio.sleep(FOLLOW_RETRY_S)
        assert heard.applied == [b"a", b"b", b"c"]
        assert heard.missing == [Address(0, 2)], "registers that were not applied are gone"
        assert heard.space.asked == [
            (Address(0, 0), began),
            (Address(0, 2), began + FOLLOW_RETRY_S),
        ]
        listening = learner._listening
        learner.install(Engine(Address(5, 0)))
        await asyncio.sleep(0.1)
        assert listening.cancelled()
        assert heard.space.asked[2][0] == Address(5, 0), "from there it listens again"
        assert len(heard.missing) == 1, "what is behind is not missed"
        learner.stop_listening()
        await asyncio.sleep(1)
        learner.install(Engine(Address(6, 0)))
        await asyncio.sleep(1)
        assert len(heard.space.asked) == 3, "who does not listen does not begin to"
        learner.listen()
        await asyncio.sleep(1)
        assert len(heard.space.asked) == 4, "a client that was closed tells nothing more"

    virtually(work)
