"""A replica's context: what it writes beside the packets, what time it says, whom it talks to."""

import asyncio
import logging
import random

import pytest
from contexts import Notes, Place, packet

from virtual import virtually
from wormspace.errors import UsageError
from wormspace.rpc import NoAnswer
from wormspace.smr import StateMachine, Tuning
from wormspace.smr import replica_context as context_module
from wormspace.smr.arguments import LAST_NS
from wormspace.smr.engine import Engine
from wormspace.smr.leases import IDLE_LOOK_S, LOOK_S
from wormspace.smr.records import (
    Fetch,
    Mark,
    Member,
    Packet,
    Ping,
    Pong,
    SegmentMetadata,
    decode_record,
    decode_segment_metadata,
    encode,
    encode_segment_metadata,
)
from wormspace.smr.replica_context import (
    GREET_S,
    LAPSES_BYTES,
    LAPSES_TOLD,
    MEMBERS_NAMED,
    NAME_BYTES,
    PACKET_BYTES,
    ROOM_BYTES,
    SEED_BITS,
    SLOWER,
    NotLeading,
)
from wormspace.space import Address
from wormspace.space.arguments import MAX_SEGMENT_SIZE

ANN, BOB, CY = (Member(name, name.encode(), name, 1) for name in ("ann", "bob", "cy"))
START = Address(0, 0)


def segment_metadata(leader, owners=()):
    declared = Notes.declaration
    return encode_segment_metadata(
        SegmentMetadata(
            leader, [], list(owners), "sticky", "Notes", declared.version, declared.shape
        )
    )


@pytest.mark.parametrize(
    ("field", "least", "wrong"),
    [
        ("segment_size", 1, (0, -1, MAX_SEGMENT_SIZE + 1, 1.5)),
        ("batch_bytes", 1, (0, -1)),
        ("pipeline", 1, (0, -1)),
        ("audit_s", 0, (-0.1, float("nan"))),
        ("upgrade_s", 0, (-0.1, float("nan"))),
    ],
)
def test_a_tuning_has_sizes_that_can_be(field, least, wrong):
    Tuning(**{field: least})
    for one in wrong:
        with pytest.raises(UsageError, match=rf"Tuning\.{field}"):
            Tuning(**{field: one})
    Tuning(segment_size=MAX_SEGMENT_SIZE)


def test_a_segment_is_allocated_in_this_replicas_name_with_those_whom_it_knows():
    async def work(worm):
        place = Place(worm)
        shape = Notes.declaration.shape

        def read(raw):
            return decode_segment_metadata(raw, "thing")

        me = place.context.member
        assert read(place.context.segment_metadata()) == SegmentMetadata(
            me, [], [], "sticky", "Notes", 1, shape
        )
        others = [Member(f"{n}", b"%d" % n, "host", n) for n in range(MEMBERS_NAMED + 5)]
        place.context.peers.introduce(others)
        named = others[:MEMBERS_NAMED]
        assert read(place.context.segment_metadata([BOB])) == SegmentMetadata(
            me, named, [BOB], "sticky", "Notes", 1, shape
        )

    virtually(work)


def test_what_a_replica_tells_of_itself():
    async def work(worm):
        place = Place(worm)
        context, me = place.context, place.context.member
        assert context.ping() == Ping(me, START, START, 1, None, (-1, b""))
        place.learner.allocated(0, 8, segment_metadata(BOB))
        context.kept = Address(0, 3)
        context.fetches._needed[1] = Address(0, 2)
        assert context.ping() == Ping(me, START, Address(0, 3), 1, Address(0, 2), (0, BOB.id))

    virtually(work)


def test_who_tells_of_a_segment_is_ours_or_not_or_that_is_not_known():
    async def work(worm):
        place = Place(worm)
        context = place.context
        assert [context.is_ours(top) for top in [(-1, b""), (0, b"ann"), (3, b"x")]] == [None] * 3
        for number, leader in enumerate((ANN, BOB, CY)):
            place.learner.allocated(number, 8, segment_metadata(leader))
        assert context.top() == (2, CY.id)
        assert context.is_ours((2, CY.id)) is True
        assert context.is_ours((2, BOB.id)) is False
        assert context.is_ours((0, BOB.id)) is False
        assert context.is_ours((3, BOB.id)) is None, "it is further than this one"
        assert context.is_ours((-1, b"")) is None
        engine = Engine(Notes())
        engine.position = Address(2, 0)
        place.learner.install(engine)
        place.learner._forget(0)
        place.learner._forget(1)
        for number in (0, 1):
            assert context.is_ours((number, b"whoever")) is True, "what is forgotten was ours"

    virtually(work)


# ---------------------------------------------------------------- batches


def test_a_batch_has_its_packets_the_time_dice_and_what_can_be_compared():
    async def work(worm):
        place = Place(worm, audit_s=10.0)
        context, loop = place.context, place.context.loop
        place.context.rng = random.Random(5)
        await asyncio.sleep(10)
        context.audited = Mark(Address(0, 1), b"digest")
        context.lapsed = ["a", "b"]
        at, packets = Address(0, 7), [packet(1), packet(2)]
        place.learner.engine.chains[at] = b"chain"
        context.clock = lambda: 77.0
        first = decode_record(context.batch(packets), at)
        assert (first.packets, first.time_ns) == (packets, 77 * 10**9)
        assert first.seed == random.Random(5).getrandbits(SEED_BITS)
        assert first.chain == Mark(at, b"chain")
        assert (first.audit, first.audited) == (True, Mark(Address(0, 1), b"digest"))
        assert (first.lapsed, context.lapsed) == (["a", "b"], [])
        began = loop.time()
        audits = []
        for _ in range(45):
            await asyncio.sleep(1)
            batch = decode_record(context.batch([]), at)
            assert (batch.packets, batch.audited, batch.lapsed) == ([], None, [])
            if batch.audit:
                audits.append(round(loop.time() - began))
        assert audits == [10, 20, 30, 40]

    virtually(work)


def test_nothing_is_audited_if_that_is_not_wanted():
    async def work(worm):
        place = Place(worm, audit_s=0.0)
        await asyncio.sleep(100)
        assert not decode_record(place.context.batch([]), START).audit

    virtually(work)


def test_as_many_lapses_are_said_as_there_is_room_for():
    async def work(worm):
        context = Place(worm).context
        room = context.largest_packet
        assert room == worm.registers.max_value - ROOM_BYTES

        def said(names, taken):
            """Of the leases that have lapsed, beside packets that take so many bytes."""
            context.lapsed = list(names)
            packets = [Packet(b"c", n, 1, bytes(size)) for n, size in enumerate(taken, 1)]
            batch = decode_record(context.batch(packets), START)
            waiting_or_said = [*batch.lapsed, *context.lapsed] == list(names)
            assert waiting_or_said  # a difference between names so long takes seconds to show
            return len(batch.lapsed)

        names = [f"{n}" for n in range(LAPSES_TOLD + 3)]
        assert said(names, []) == LAPSES_TOLD
        fits = (LAPSES_BYTES - NAME_BYTES) * "x"
        assert said([fits], [room]) == 1, "some room is always left"
        assert said([fits + "x"], [room]) == 0
        assert said(["é" * (len(fits) // 2 + 1)], [room]) == 0, "bytes count"
        assert said([fits[:250], fits[:252], "x"], [room]) == 2
        assert said([fits[:250], fits[:253]], [room]) == 1
        long = (room - NAME_BYTES) * "x"
        assert said([long], []) == 1
        assert said([long + "x"], []) == 0
        two = long[: -2 * PACKET_BYTES - 30]
        assert said([two], [10, 20]) == 1
        assert said([two + "x"], [10, 20]) == 0

    virtually(work)


def test_as_many_packets_as_go_into_a_register_and_at_least_one():
    async def work(worm):
        for most in (1000, 1 << 30):
            context = Place(worm, batch_bytes=most).context
            limit = min(most, context.largest_packet)
            fits = limit - 2 * PACKET_BYTES - 10

            def taken(*sizes, context=context):
                queue = [Packet(b"c", n, 1, bytes(size)) for n, size in enumerate(sizes)]
                given = list(queue)
                first = context.take(queue)
                assert first + queue == given
                return len(first)

            assert taken() == 0
            assert taken(1) == 1
            assert taken(2 * limit, 1) == 1, "it goes alone"
            assert taken(10, fits) == 2
            assert taken(10, fits + 1) == 1
            assert taken(10, fits - PACKET_BYTES, 0, 0) == 3

    virtually(work)


def test_something_is_due_when_its_time_has_come_or_a_lease_has_lapsed():
    async def work(worm):
        place = Place(worm)
        context, machine = place.context, place.learner.engine.machine
        context.clock = lambda: 50.0
        assert not context.is_due()
        for until, due in ((50.0, True), (50.5, False), (49.0, True)):
            machine.until = until
            assert context.is_due() is due
        machine.until = None
        context.lapsed = ["it"]
        assert context.is_due()

    virtually(work)


# ---------------------------------------------------------------- time


def test_the_time_of_commands_is_the_machines_and_never_goes_back(caplog):
    async def work(worm):
        place = Place(worm)
        context, loop, said = place.context, place.context.loop, [1000.0]
        context.clock = lambda: said[0]
        assert context.now_ns() == 1000 * 10**9
        said[0] = 990.0  # set back: time goes on, a little slower than it passes
        await asyncio.sleep(16)
        assert context.now_ns() == pytest.approx((1000 + 16 * (1 - SLOWER)) * 1e9, abs=1e4)
        await asyncio.sleep(16)
        assert context.now_ns() == pytest.approx((1000 + 32 * (1 - SLOWER)) * 1e9, abs=1e4)
        said[0] = 1031.0  # it has caught up
        assert context.now_ns() == 1031 * 10**9
        place.learner.engine.time_ns = 1040 * 10**9  # another proposer's was ahead
        assert context.now_ns() == 1040 * 10**9
        await asyncio.sleep(1)
        before = context.now_ns()
        assert before == pytest.approx(1040e9 + (1 - SLOWER) * 1e9, abs=1e4)
        for nothing in (float("nan"), float("inf"), LAST_NS / 1e9, -LAST_NS / 1e9, "noon"):
            said[0] = nothing
            await asyncio.sleep(1)
            now = context.now_ns()
            assert now == pytest.approx(before + (1 - SLOWER) * 1e9, abs=1e4)
            before = now
        said[0] = LAST_NS / 1e9 - 1024
        assert context.now_ns() == int(said[0] * 1e9)
        assert loop.time() < 100

    virtually(work)
    assert caplog.text.count("the clock says no time") == 1


def test_a_clock_that_says_no_time_again_is_told_again(caplog):
    async def work(worm):
        context, said = Place(worm).context, []
        context.clock = lambda: said.pop(0)
        said[:] = [float("nan"), float("nan"), 5.0, None, float("inf")]
        assert [context.now_ns() // 10**9 for _ in range(5)] == [0, 0, 5, 5, 5]

    with caplog.at_level(logging.ERROR):
        virtually(work)
    told = [record.message for record in caplog.records]
    assert ["it says nan" in told[0], "TypeError" in told[1], len(told)] == [True, True, 2]


class Leased(StateMachine):
    running: dict[str, float] = {}  # noqa: RUF012

    def leases(self):
        return self.running


def test_a_lease_lapses_here_after_its_length():
    async def work(worm):
        place = Place(worm)
        context, looks = place.context, []
        look = context._stopwatches.look
        context._stopwatches.look = lambda now, running: looks.append(now) or look(now, running)
        watching = asyncio.ensure_future(context.watch_leases())
        await asyncio.sleep(2.5 * IDLE_LOOK_S)
        assert looks == [], "this one has none"
        machine = Leased()
        machine.running = {"short": 1.0, "long": 2.0}
        place.learner.install(Engine(machine))
        began = 3 * IDLE_LOOK_S
        for at, lapsed in ((0.9, []), (1.2, ["short"]), (1.9, ["short"]), (2.2, ["short", "long"])):
            await asyncio.sleep(began + at - context.loop.time())
            assert context.lapsed == lapsed
        assert len(looks) == pytest.approx(2.2 / LOOK_S, abs=2)
        machine.running = {"long": 2.0}
        await asyncio.sleep(2 * LOOK_S)
        assert context.lapsed == ["long"]
        watching.cancel()

    virtually(work)


# ---------------------------------------------------------------- others


class Others:
    """Whom a context can call: `answers`, by address, makes the answer to a ping."""

    def __init__(self, monkeypatch):
        self.answers, self.calls, self.open = {}, [], []
        others = self

        class Caller:
            def __init__(self, host, port):
                self.address = (host, port)
                others.open.append(self.address)

            async def call(self, service, body, timeout):
                others.calls.append((self.address, service, body, timeout))
                answer = others.answers.get(self.address)
                if answer is None:
                    raise NoAnswer("nobody is there")
                return answer

            async def close(self):
                others.open.remove(self.address)

        monkeypatch.setattr(context_module, "Caller", Caller)

    def are(self, *members, top=(-1, b""), applied=START, knowing=()):
        for one in members:
            pong = Pong(one, None, applied, list(knowing), top)
            self.answers[one.host, one.port] = encode(pong)


def test_a_greeting_is_answered_by_that_very_replica_or_by_nobody(monkeypatch):
    others = Others(monkeypatch)

    async def work(worm):
        place = Place(worm)
        context = place.context
        assert await context.greet(BOB, 0.5) is None
        assert others.calls == [(("bob", 1), "smr/thing/ping", encode(context.ping()), 0.5)]
        others.are(BOB)
        assert (await context.greet(BOB, 0.5)).member == BOB
        again = Member("bob", b"again", "bob", 1)
        assert await context.greet(again, 0.5) is None, "another one is there"
        assert (await context.knock(again, 0.5)).member == BOB
        others.answers["bob", 1] = b"garbage"
        assert await context.knock(BOB, 0.5) is None
        assert others.open == [("bob", 1)], "one connection"
        assert context.peers.heard() == [], "whether it is ours is not known yet"

    virtually(work)


def test_who_is_ours_is_heard_and_introduces_others_and_who_is_not_is_passed_over(monkeypatch):
    others = Others(monkeypatch)

    async def work(worm):
        place = Place(worm)
        context = place.context
        place.learner.allocated(0, 8, segment_metadata(ANN))
        others.are(BOB, top=(0, b"somebody"), knowing=[CY])
        assert await context.knock(BOB, 0.5) is None
        assert await context.greet(BOB, 0.5) is None
        assert context.peers.members() == []
        others.are(BOB, top=(0, ANN.id), applied=Address(0, 4), knowing=[CY])
        assert (await context.knock(BOB, 0.5)).member == BOB
        assert [(one.member, one.applied) for one in context.peers.heard()] == [
            (BOB, Address(0, 4))
        ]
        assert context.peers.members() == [BOB, CY]

    virtually(work)


def test_what_one_replica_is_asked_goes_to_its_id(monkeypatch):
    others = Others(monkeypatch)

    async def work(worm):
        place = Place(worm)
        context = place.context
        others.answers["bob", 1] = b"done"
        assert await context.call(BOB, "submit", b"body", 1.5) == b"done"
        assert others.calls == [(("bob", 1), f"smr/thing/{b'bob'.hex()}/submit", b"body", 1.5)]
        with pytest.raises(NoAnswer):
            await context.call(CY, "submit", b"body", 1.5)
        assert others.open == [("bob", 1), ("cy", 1)]
        waiting = context.waiting[b"c", 1] = context.loop.create_future()
        given_up = context.waiting[b"c", 2] = context.loop.create_future()
        given_up.cancel()
        context.fetches.next(place.learner.engine, Fetch(0, 0))
        assert context.fetches.needed is not None
        await context.close()
        with pytest.raises(NotLeading, match="closed"):
            await waiting
        assert context.waiting == {}
        assert others.open == []
        assert context.fetches.needed is None

    virtually(work)


@pytest.mark.parametrize("greet_all", [False, True])
def test_connections_to_those_who_are_gone_are_closed(monkeypatch, greet_all):
    others = Others(monkeypatch)

    async def work(worm):
        place = Place(worm)
        context = place.context
        others.are(ANN, BOB, CY)
        keeping = asyncio.ensure_future(context.keep_in_touch(greet_all))
        context.peers.introduce([CY])
        for one in (ANN, BOB, CY):
            await context.knock(one, 0.5)
        others.calls.clear()
        await asyncio.sleep(1.5 * GREET_S)
        assert others.open == [("cy", 1)]
        greeted = [(address, timeout) for address, _, _, timeout in others.calls]
        assert greeted == ([(("cy", 1), GREET_S)] if greet_all else [])
        place.learner.allocated(0, 8, segment_metadata(ANN, [BOB]))
        await context.knock(ANN, 0.5)
        await context.knock(BOB, 0.5)
        await asyncio.sleep(GREET_S)
        assert set(others.open) == {("ann", 1), ("bob", 1), ("cy", 1)}
        assert context.peers.members() == [CY, ANN, BOB], "whom a segment names is known"
        await asyncio.sleep(20 * GREET_S)  # and forgotten, if never heard of again
        assert context.peers.members() == []
        assert set(others.open) == {("ann", 1), ("bob", 1)}, "the newest segment names them"
        keeping.cancel()

    virtually(work)
