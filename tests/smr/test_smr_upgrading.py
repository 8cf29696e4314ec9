"""When an object is upgraded, and what is said of its versions, of replicas that are made up."""

import asyncio
import logging
from types import SimpleNamespace

import msgspec
import pytest

from virtual import virtually
from wormspace.errors import Unavailable
from wormspace.smr import (
    CommandFailed,
    NoLeader,
    SessionExpired,
    StateMachine,
    Table,
    UpdateNeeded,
)
from wormspace.smr.engine import Engine
from wormspace.smr.errors import ShapeChanged, VersionForgotten
from wormspace.smr.fetching import Announced
from wormspace.smr.records import (
    Fault,
    Member,
    Outcome,
    Ping,
    Reply,
    SegmentMetadata,
    encode,
    encode_segment_metadata,
)
from wormspace.smr.replica_context import GREET_S
from wormspace.smr.shapes import differences
from wormspace.smr.upgrading import GREETINGS, LOOKS, Upgrades, Versions
from wormspace.smr.versions import UPGRADE, Lineage, decode_upgrade, encode_upgrade, upgraded
from wormspace.space import Address

PATIENCE_S = 10.0
START = Address(0, 0)
BOB, CY = (Member(name, name.encode(), name, 1) for name in ("bob", "cy"))


class One(StateMachine):
    count: int = 0


class Two(One, version=2, replaces=One):
    count: int = 0


class Three(StateMachine, version=3, replaces=Two):
    total: int = 0


class Replica:
    """Stands for a replica's core; `outcomes` are what comes of its proposals, in turn."""

    def __init__(self, worm, of=One, newest=Three):
        self.worm, self.loop = worm, asyncio.get_running_loop()
        self.learner = SimpleNamespace(engine=Engine(of(), newest))
        self.proposer = SimpleNamespace(leads=True)
        self.context = SimpleNamespace(
            announced=Announced(),
            learner=self.learner,
            loop=self.loop,
            rng=SimpleNamespace(getrandbits=lambda bits: (1 << bits) - 1),
            space=worm.space("thing"),
        )
        self.upgrades = Upgrades(self.context, self.proposer, self.carry, 5.0)
        self.outcomes, self.carried = [], []

    async def carry(self, packet, deadline):
        self.carried.append((packet, deadline, self.loop.time()))
        outcome = self.outcomes.pop(0) if self.outcomes else Outcome([3])
        if isinstance(outcome, Exception):
            raise outcome
        return Reply(encode(outcome), START)

    def hears(self, member, newest):
        self.context.announced.note(Ping(member, START, START, newest), self.loop.time())

    @property
    def times(self):
        return [at for _, _, at in self.carried]


def replicas(work, **options):
    virtually(lambda worm: work(Replica(worm, **options)))


# ---------------------------------------------------------------- by a call


def test_the_versions_are_where_the_log_begins_what_is_in_force_and_what_is_known():
    async def work(core):
        assert await core.upgrades.versions() == Versions(1, 1, 3)
        space = core.worm.space("thing")
        for version in (1, 2, 3):
            await space.alloc(encode_segment_metadata(SegmentMetadata(BOB, version=version)), 4)
        core.learner.engine.machine = Three()
        assert await core.upgrades.versions() == Versions(1, 3, 3)
        await space.trim_prefix(1)
        assert await core.upgrades.versions() == Versions(2, 3, 3)
        core.learner.engine.machine = Two()
        assert await core.upgrades.versions() == Versions(2, 2, 3)

    replicas(work)


def test_the_versions_are_asked_for_again_where_the_beginning_was_trimmed_meanwhile():
    async def work(core):
        space = core.worm.space("thing")
        for version in (1, 2):
            await space.alloc(encode_segment_metadata(SegmentMetadata(BOB, version=version)), 4)
        kind, asked = type(space), []
        head, check = kind.head, kind.check

        async def slow_head(self, *, timeout=None):
            asked.append(timeout)
            found = await head(self, timeout=timeout)
            await asyncio.sleep(1)
            if len(asked) == 1:
                await self.trim_prefix(1)
            return found

        async def noted_check(self, number, *, timeout=None):
            asked.append((number, timeout))
            return await check(self, number, timeout=timeout)

        kind.head, kind.check = slow_head, noted_check
        try:
            assert (await core.upgrades.versions()).oldest == 2
        finally:
            kind.head, kind.check = head, check
        assert asked == [5.0, (0, 4.0), 4.0, (1, 3.0)]

    replicas(work)


def test_a_call_says_what_the_object_is_of_now_or_why_it_is_not():
    async def work(core):
        await asyncio.sleep(7)
        assert await core.upgrades.upgrade() == 3
        packet, deadline, _ = core.carried[0]
        assert (packet.client, packet.number, packet.low) == (b"\xff" * 8, 1, 1)
        assert (packet.commands, packet.settled) == (encode_upgrade(Three), False)
        assert deadline == 12.0
        core.outcomes = [
            Outcome([None], {0: Fault("ValueError", "no", ["no"])}),
            Outcome([None], {0: Fault("Strange", "no")}),
            Outcome([], {}, "its session has expired"),
            NoLeader("nobody"),
        ]
        with pytest.raises(ValueError, match="no"):
            await core.upgrades.upgrade()
        with pytest.raises(CommandFailed, match="Strange: no"):
            await core.upgrades.upgrade()
        with pytest.raises(SessionExpired, match="was upgraded: its session has expired"):
            await core.upgrades.upgrade()
        with pytest.raises(NoLeader):
            await core.upgrades.upgrade()

    replicas(work)


# ---------------------------------------------------------------- by itself


def upgrading(work, patience_s=PATIENCE_S, **options):
    async def watched(core):
        running = asyncio.ensure_future(core.upgrades.run(patience_s))
        await work(core, running)
        running.cancel()

    replicas(watched, **options)


def test_a_leader_upgrades_after_its_patience_and_again_until_it_is_done():
    async def work(core, running):
        core.outcomes = [Unavailable("no majority"), NoLeader("nobody")]
        await asyncio.sleep(3 * PATIENCE_S)
        look_s = PATIENCE_S / LOOKS
        first = look_s + PATIENCE_S
        assert core.times == [pytest.approx(first + n * look_s) for n in range(len(core.times))]
        assert core.carried[0][0].commands == encode_upgrade(Three)
        assert len(core.times) > 3
        core.learner.engine.machine = Three()
        before = len(core.times)
        await asyncio.sleep(3 * PATIENCE_S)
        assert len(core.times) == before, "it is what it should be"
        assert not running.done()

    upgrading(work)


def test_who_does_not_lead_waits_its_whole_patience_once_it_does():
    async def work(core, running):
        core.proposer.leads = False
        await asyncio.sleep(3 * PATIENCE_S + 0.5)
        assert core.times == []
        core.proposer.leads = True
        since = core.loop.time()
        await asyncio.sleep(PATIENCE_S / 2)
        core.proposer.leads = False  # somebody else, for a while
        await asyncio.sleep(PATIENCE_S / LOOKS)
        core.proposer.leads = True
        since = core.loop.time()
        await asyncio.sleep(PATIENCE_S)
        assert core.times == []
        await asyncio.sleep(PATIENCE_S / LOOKS)
        assert len(core.times) == 1
        assert core.times[0] - since >= PATIENCE_S

    upgrading(work)


def test_it_waits_for_as_long_as_somebody_is_alive_who_has_not_the_class():
    async def work(core, running):
        for _ in range(30):
            core.hears(BOB, 2)
            core.hears(CY, 3)
            await asyncio.sleep(1)
        assert core.times == []
        last = core.loop.time() - 1
        await asyncio.sleep(PATIENCE_S + 1)
        assert core.times
        assert PATIENCE_S < core.times[0] - last <= PATIENCE_S * (1 + 1 / LOOKS) + 1

    upgrading(work)


def test_it_does_not_wait_for_those_who_have_it():
    async def work(core, running):
        for _ in range(13):
            core.hears(BOB, 3)
            core.hears(CY, 4)
            await asyncio.sleep(1)
        assert core.times[0] <= PATIENCE_S * (1 + 2 / LOOKS)

    upgrading(work)


def test_all_have_had_the_occasion_to_greet_however_little_patience_there_is():
    async def work(core, running):
        await asyncio.sleep(GREETINGS * GREET_S)
        assert core.times == []
        await asyncio.sleep(GREET_S)
        assert core.times[0] >= GREETINGS * GREET_S * (1 + 1 / LOOKS) - 0.001

    upgrading(work, patience_s=0.1)


def test_a_migration_that_fails_is_said_once_and_not_tried_again(caplog):
    async def work(core, running):
        core.outcomes = [Outcome([None], {0: Fault("ValueError", "no price")})]
        await asyncio.sleep(5 * PATIENCE_S)
        assert len(core.times) == 1
        assert running.done()

    with caplog.at_level(logging.ERROR):
        upgrading(work)
    assert "thing: the upgrade to version 3 has failed: ValueError: no price" in caplog.text


# ---------------------------------------------------------------- which class it is


def test_a_lineage_has_the_classes_that_the_newest_leads_to():
    lineage = Lineage(Three)
    assert lineage.newest is Three
    for kind in (One, Two, Three):
        version = kind.declaration.version
        assert lineage.at(version, kind.declaration.shape, "it") is kind
    found = {
        (old, new): [one.__name__ for one in lineage.between(old, new)]
        for old, new in ((1, 3), (1, 2), (2, 3), (1, 1), (3, 3), (2, 9), (0, 1))
    }
    assert found == {
        (1, 3): ["Two", "Three"], (1, 2): ["Two"], (2, 3): ["Three"],
        (1, 1): [], (3, 3): [], (2, 9): ["Three"], (0, 1): ["One"],
    }  # fmt: skip


def test_what_no_class_is_known_of_says_which_is_missing():
    with pytest.raises(UpdateNeeded, match=r"it is of version 4, .* up to 3 \(Three\)") as error:
        Lineage(Three).at(4, {}, "it")
    assert not isinstance(error.value, VersionForgotten)

    class Alone(StateMachine, version=5):
        pass

    with pytest.raises(VersionForgotten, match=r"it is still of version 4 here.*Alone must name"):
        Lineage(Alone).at(4, {}, "it")
    with pytest.raises(
        ShapeChanged, match=r"not as Two declares it .*count: str there, int = 0 here"
    ):
        Lineage(Three).at(2, {**Two.declaration.shape, "count": "str"}, "it")


class Row(msgspec.Struct, frozen=True):
    amount: int


class Renamed(msgspec.Struct, frozen=True):
    amount: int


Renamed.__name__ = "Row"  # the same in words


class Rows(StateMachine):
    same: Table[int, int]
    rows: Table[int, Row]
    one: Row = Row(0)
    count: int = 0
    gone: str = ""
    other: int = 0
    texts: Table[int, str]


class Rows2(StateMachine, version=2, replaces=Rows):
    same: Table[int, int]
    rows: Table[int, Renamed]
    one: Renamed = Renamed(0)
    count: int = 0
    new: int = 7
    other: str = "x"
    texts: Table[int, bytes]

    def migrate(self, old):
        self.new += len(old.gone)
        if old.count < 0:
            raise ValueError("less than nothing")


def test_what_two_versions_have_alike_is_taken_over_and_the_rest_is_migrated():
    old = Rows()
    old.same.update({1: 2})
    old.rows.update({1: Row(3)})
    old.texts.update({1: "text"})
    old.one, old.count, old.gone, old.other = Row(4), 5, "abc", 6
    new = upgraded(old, [Rows2])
    assert type(new) is Rows2
    assert new.same is old.same, "however many rows there are"
    assert (dict(new.rows), type(new.rows[1])) == ({1: Renamed(3)}, Renamed)
    assert new.rows is not old.rows
    assert (new.one, type(new.one)) == (Renamed(4), Renamed)
    assert (new.count, new.new, new.other, dict(new.texts)) == (5, 10, "x", {})
    assert (new._journal, new._events, new._moment) == (old._journal, old._events, old._moment)
    assert upgraded(new, []) is new
    bad = Rows()
    bad.count = -1
    with pytest.raises(ValueError, match="less than nothing"):
        upgraded(bad, [Rows2])
    assert bad._journal.undo is None


def test_an_upgrade_is_read_as_it_was_written():
    raw = encode_upgrade(Two)
    assert raw[: len(UPGRADE)] == UPGRADE
    assert decode_upgrade(raw).version == 2
    assert decode_upgrade(raw).shape == Two.declaration.shape


def test_shapes_that_differ_say_in_what():
    here, there = {"a": "int", "b": "str", "c": "x"}, {"b": "int", "c": "x", "d": "set"}
    assert differences(here, there) == (
        "a: nothing there, int here; b: int there, str here; d: set there, nothing here"
    )
    assert differences(here, here) == ""
