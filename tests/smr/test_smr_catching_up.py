"""Who is behind what was trimmed: the state comes from a store, or from a replica that has it."""

import asyncio

import msgspec
import pytest
from contexts import Notes, Place

from virtual import virtually
from wormspace.errors import NewerFormat, Unavailable, WrongIdentity
from wormspace.rpc import NoAnswer
from wormspace.smr import BadSnapshot, NoSnapshot, UpdateNeeded, VersionForgotten
from wormspace.smr.catching_up import (
    CATCH_UP_PAUSE_S,
    CATCH_UP_S,
    FETCH_TIMEOUT_S,
    _known,
    catch_up,
    restore_from,
)
from wormspace.smr.engine import Engine
from wormspace.smr.records import (
    Fetch,
    Fetched,
    Member,
    Pong,
    SegmentMetadata,
    decoder,
    encode,
    encode_segment_metadata,
)
from wormspace.smr.snapshots import Snapshot
from wormspace.space import Address, stamp

ANN, BOB, CY = (Member(name, name.encode(), name, 1) for name in ("ann", "bob", "cy"))
_decode_fetch = decoder(Fetch)


class Notes2(Notes, version=2, replaces=Notes):
    pass


def snapshot(segment, offset=0, machine=Notes, identity=ANN.id):
    engine = Engine(machine())
    engine.position = Address(segment, offset)
    engine.identity = identity
    if machine is Notes:
        engine.machine.seen = [segment]
    return list(Snapshot(engine).pieces())


class Kept:
    """A place with these pieces, or that raises."""

    def __init__(self, *pieces):
        self.pieces, self.loads = pieces, 0

    async def load(self, name):
        assert name == "thing"
        self.loads += 1
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece


class Behind:
    """A replica that has applied nothing, and its space; `has` says who has which pieces."""

    def __init__(self, worm, machine_type=Notes):
        self.place, self.worm = Place(worm), worm
        self.place.learner.engine = Engine(Notes(), machine_type)
        self.learner, self.context = self.place.learner, self.place.context
        self.loop = asyncio.get_running_loop()
        self.has, self.asked, self.at = {}, [], {}
        self.context.call, self.context.knock = self._call, self._knock

    async def _call(self, member, what, body, timeout):
        assert (what, timeout) == ("fetch", FETCH_TIMEOUT_S)
        fetch = _decode_fetch(body)
        self.asked.append((member.name, fetch.ticket, fetch.index))
        pieces = self.has.get(member.name, NoAnswer(f"{member.name} is gone"))
        if isinstance(pieces, Exception):
            raise pieces
        return encode(Fetched(7, b"" if fetch.index == len(pieces) else pieces[fetch.index]))

    async def _knock(self, member, timeout):
        assert timeout == FETCH_TIMEOUT_S
        return self.at.get((member.host, member.port))

    async def trimmed(self, count, *, below, leader=ANN, members=(), owners=(), identity=b""):
        """Segments, the first of which are trimmed."""
        space = self.worm.space("thing")
        for _ in range(count):
            segment_metadata = SegmentMetadata(leader, list(members), list(owners))
            if await space.tail():
                segment_metadata = msgspec.structs.replace(segment_metadata, space=identity)
            await space.alloc(encode_segment_metadata(segment_metadata), 4)
        await space.trim_prefix(below)

    @property
    def state(self):
        return self.learner.position, self.place.seen


def behind(work, **options):
    virtually(lambda worm: work(Behind(worm, **options)))


# ---------------------------------------------------------------- from a store


def test_a_snapshot_that_leads_further_is_begun_with_and_no_other():
    async def work(core):
        await core.trimmed(4, below=0)
        assert await restore_from(core.context, Kept()) is None
        assert core.state == (Address(0, 0), [])
        first = core.learner.engine
        assert await restore_from(core.context, Kept(*snapshot(0))) is None
        assert core.learner.engine is first
        assert core.context.kept == Address(0, 0)
        assert await restore_from(core.context, Kept(*snapshot(3, 2))) is None
        assert core.state == (Address(3, 2), [3])
        assert core.context.kept == Address(3, 2)
        assert await restore_from(core.context, Kept(*snapshot(2, 7))) is None
        assert core.state == (Address(3, 2), [3])
        assert core.context.kept == Address(3, 2)

    behind(work)


@pytest.mark.parametrize(("segments", "at"), [(0, (0, 1)), (0, (3, 2)), (3, (3, 1))])
def test_one_that_leads_further_than_the_space_does_is_of_another_deployment(segments, at):
    async def work(core):
        await core.trimmed(segments, below=0)
        with pytest.raises(WrongIdentity, match=f"thing: .* has {segments} segments"):
            await restore_from(core.context, Kept(*snapshot(*at)))
        assert core.state == (Address(0, 0), [])
        await core.trimmed(1, below=0)
        assert await restore_from(core.context, Kept(*snapshot(segments + 1, 0))) is None
        assert core.state[0] == Address(segments + 1, 0)

    behind(work)


@pytest.mark.parametrize("identity", [BOB.id, b"", ANN.id + ANN.id])
@pytest.mark.parametrize("trimmed", [0, 2])
def test_one_of_another_space_is_refused_however_long_this_one_is(identity, trimmed):
    async def work(core):
        await core.trimmed(9, below=trimmed, identity=ANN.id)
        with pytest.raises(WrongIdentity, match=r"thing: .* this space is 616e6e: .* of its own"):
            await restore_from(core.context, Kept(*snapshot(3, 1, identity=identity)))
        assert (core.state, core.context.kept) == ((Address(0, 0), []), Address(0, 0))
        assert await restore_from(core.context, Kept(*snapshot(3, 1))) is None
        assert core.state == (Address(3, 1), [3])

    behind(work)


def test_a_space_that_begins_meanwhile_is_asked_once_more():
    async def work(core):
        class Slow(Kept):
            async def load(self, name):
                await core.trimmed(9, below=0)
                async for piece in super().load(name):
                    yield piece

        with pytest.raises(WrongIdentity, match="another space"):
            await restore_from(core.context, Slow(*snapshot(3, 1, identity=BOB.id)))
        assert core.state == (Address(0, 0), [])

    behind(work)


def test_where_nothing_tells_the_space_any_more_a_snapshot_does():
    async def work(core):
        await core.trimmed(4, below=4)
        assert await restore_from(core.context, Kept(*snapshot(4, 0))) is None
        assert core.learner.engine.identity == ANN.id

    behind(work)


def test_a_replica_of_another_space_is_passed_over_for_one_of_this():
    async def work(core):
        await core.trimmed(4, below=2, members=[BOB], identity=ANN.id)
        core.has["ann"] = snapshot(3, 2, identity=CY.id)
        core.has["bob"] = snapshot(3, 1)
        await catch_up(core.context, None)
        assert core.state == (Address(3, 1), [3])

    behind(work)


@pytest.mark.parametrize(
    "error",
    [BadSnapshot("it is torn"), VersionForgotten("too old"), LookupError("503"), OSError(5, "eio")],
)
def test_one_that_is_of_no_use_is_passed_over_and_said(error, caplog):
    async def work(core):
        assert await restore_from(core.context, Kept(error)) is error
        assert core.state == (Address(0, 0), [])

    behind(work)
    assert "thing: the snapshot that is kept is of no use" in caplog.text
    assert repr(error) in caplog.text


@pytest.mark.parametrize("error", [NewerFormat("update"), UpdateNeeded("x"), Unavailable("y")])
def test_one_that_somebody_must_see_to_stops_the_start(error):
    async def work(core):
        with pytest.raises(type(error)):
            await restore_from(core.context, Kept(error))

    behind(work)


# ---------------------------------------------------------------- from others


def test_who_is_not_behind_asks_nobody():
    async def work(core):
        await core.trimmed(3, below=0)
        store = Kept(*snapshot(9))
        await catch_up(core.context, store)
        core.learner.engine.position = Address(2, 0)
        await core.worm.space("thing").trim_prefix(2)
        await catch_up(core.context, store)
        assert (core.asked, store.loads) == ([], 0)

    behind(work)


def test_what_the_store_has_is_enough_if_it_leads_there():
    async def work(core):
        await core.trimmed(4, below=3)
        core.context.peers.introduce([BOB])
        await catch_up(core.context, Kept(*snapshot(3)))
        assert core.state == (Address(3, 0), [3])
        assert core.asked == []

    behind(work)


def test_the_others_are_asked_one_after_the_other_until_one_leads_there():
    async def work(core):
        await core.trimmed(4, below=3, members=[BOB, CY])
        core.has["ann"] = snapshot(2)
        core.has["bob"] = snapshot(3, 1)
        core.has["cy"] = snapshot(3, 3)
        began = core.loop.time()
        await catch_up(core.context, Kept(*snapshot(1)))
        assert core.state == (Address(3, 1), [3])
        assert core.context.kept == Address(1, 0)
        count = len(core.has["ann"])
        assert core.asked[:2] == [("ann", 0, 0), ("ann", 7, 1)]
        assert [name for name, _, index in core.asked if index == 0] == ["ann", "bob"]
        assert core.asked[count - 1] == ("ann", 7, count - 1)
        assert core.loop.time() - began < CATCH_UP_PAUSE_S

    behind(work)


def test_an_older_state_than_ones_own_is_not_begun_with():
    async def work(core):
        await core.trimmed(4, below=3, members=[BOB])
        core.learner.engine.position = Address(2, 2)
        first = core.learner.engine
        core.has["ann"] = snapshot(2, 2)
        core.has["bob"] = snapshot(1)
        core.loop.call_later(1, core.has.__setitem__, "bob", snapshot(3))
        await catch_up(core.context, None)
        assert core.state == (Address(3, 0), [3])
        assert core.learner.engine is not first
        rounds = 1 / CATCH_UP_PAUSE_S + 1
        assert len([one for one in core.asked if one == ("ann", 0, 0)]) == rounds

    behind(work)


def test_who_finds_nobody_says_so_after_a_while_and_what_each_has_answered():
    async def work(core):
        await core.trimmed(4, below=3)
        core.has["bob"] = [b"garbage"]
        core.has["cy"] = VersionForgotten("cy is far behind")
        core.context.peers.introduce([BOB, CY])
        began = core.loop.time()
        with pytest.raises(NoSnapshot) as error:
            await catch_up(core.context, Kept(BadSnapshot("it is torn")))
        took = core.loop.time() - began
        assert CATCH_UP_S < took <= CATCH_UP_S + 2 * CATCH_UP_PAUSE_S
        said = str(error.value)
        assert said.startswith("thing: the segments below 3 are trimmed")
        for one in (
            "the snapshot that is kept: it is torn",
            "ann (ann:1): ann is gone",
            "bob (bob:1): the snapshot is damaged",
            "cy (cy:1): cy is far behind",
        ):
            assert one in said
        assert "none is known" not in said

    behind(work)


def test_a_snapshot_that_ends_too_early_is_cut_short():
    async def work(core):
        await core.trimmed(4, below=3)
        core.has["ann"] = snapshot(3)[:-1]
        with pytest.raises(NoSnapshot, match=r"ann .ann:1.: the snapshot is cut short"):
            await catch_up(core.context, None)

    behind(work)


def test_where_nobody_was_ever_known_that_is_said():
    async def work(core):
        await core.trimmed(4, below=3, leader=core.context.member)
        with pytest.raises(NoSnapshot, match="none is known"):
            await catch_up(core.context, None)

    behind(work)


def test_a_state_of_a_newer_class_stops_whoever_has_it_not():
    async def work(core):
        await core.trimmed(4, below=3)
        core.has["ann"] = snapshot(3, machine=Notes2)
        with pytest.raises(UpdateNeeded, match="version 2"):
            await catch_up(core.context, None)

    behind(work)


def test_one_that_is_far_behind_is_passed_over_for_another():
    async def work(core):
        await core.trimmed(4, below=3, members=[BOB])
        core.has["ann"] = VersionForgotten("it is far behind")
        core.has["bob"] = snapshot(3)
        await catch_up(core.context, None)
        assert core.state == (Address(3, 0), [3])

    behind(work)


# ---------------------------------------------------------------- who is known


def test_known_are_those_whom_the_newest_segment_names_and_those_heard_of_and_never_oneself():
    async def work(core):
        assert await _known(core.context) == []
        core.context.peers.introduce([CY])
        assert await _known(core.context) == [CY]
        me = core.context.member
        await core.trimmed(2, below=0, leader=me, members=[BOB])
        await core.trimmed(1, below=0, leader=ANN, members=[me, CY], owners=[BOB])
        assert await _known(core.context) == [CY, ANN, BOB]

    behind(work)


def test_who_has_started_again_where_one_was_is_known_if_it_tells_of_the_same_segment():
    async def work(core):
        await core.trimmed(2, below=0, members=[BOB, CY])
        again = [Member(f"{n}", b"%d" % n, "host", n) for n in range(3)]

        def pong(member, top):
            return Pong(member, None, Address(0, 0), [], top)

        core.at["ann", 1] = pong(again[0], (1, ANN.id))
        core.at["bob", 1] = pong(again[1], (0, ANN.id))
        core.at["cy", 1] = pong(again[2], (1, BOB.id))
        assert await _known(core.context) == [ANN, BOB, CY, again[0]]

    behind(work)


def test_a_newest_segment_that_cannot_be_read_hides_nobody_who_was_heard_of():
    async def work(core):
        await core.worm.space("thing").alloc(stamp("log", 1), 4)
        core.context.peers.introduce([CY])
        assert await _known(core.context) == [CY]

    behind(work)
