"""What a listener keeps is bounded, whatever servers tell it, writers leave, or nobody consumes."""

import asyncio
import sys

import pytest
from test_order_of_events import Silent, no_read, offsets, subscribe

from scaling import assert_growth
from wires import World as Wires
from wires import simulated
from wormspace import Written
from wormspace.addresses import METADATA
from wormspace.knobs import turned
from wormspace.registers.event_queue import EventQueue
from wormspace.registers.interface import Gap, RegistersTrimmed, Wrote
from wormspace.registers.paxos.votes import QUEUED_BYTES
from wormspace.sim import World
from wormspace.wire.messages import Accepted, TrimNotice

LIMIT = 200_000


def report(number, offsets, ballot=b"b" * 16, size=0):
    return Accepted("s", number, ballot, list(offsets), [bytes(size) for _ in offsets])


LIES = {
    "many registers": lambda n: report(n, [n % 7]),
    "many registers of one segment": lambda n: report(0, [n]),
    "large values": lambda n: report(0, [n], size=10_000),
    "many ballots": lambda n: report(0, [0], b"%016d" % n),
    "values under many ballots": lambda n: report(0, [0], b"%016d" % n, size=10_000),
}


@pytest.mark.parametrize("lie", LIES)
async def test_what_one_server_reports_and_nobody_decides_is_bounded_in_bytes(lie):
    async def empty(segment_name, offset):
        return None

    events = []
    with turned(registers_undecided_bytes=LIMIT):
        s = subscribe(events, read_one=empty)
        most = 0
        for n in range(2000):
            s.on_message(0, LIES[lie](n))
            if n % 100 == 99:
                kept = [p.value for v in s._votes.values() for p in v.by_ballot.values()]
                most = max(most, sum(len(value or b"") for value in kept) + 100 * len(kept))
            assert s._votes.bytes + QUEUED_BYTES * sum(map(len, s._queues)) <= LIMIT
        assert most <= LIMIT
        assert len(events) > 1  # it says `Gap` each time, so that the consumer reads
        assert set(events) == {Gap()}
        s.close()


async def test_an_undecided_head_does_not_keep_all_that_was_delivered_after_it():
    """Server 0 accepted what nobody decides: its queue never goes on."""

    async def empty(segment_name, offset):
        return None

    events = []
    with turned(registers_undecided_bytes=LIMIT):
        s = subscribe(events, read_one=empty)
        s.on_message(0, report(1, [0]))
        for n in range(5000):
            for server in range(3):
                s.on_message(server, report(0, [n]))
        assert sum(map(len, s._queues)) * QUEUED_BYTES <= LIMIT
        assert events.count(Gap()) == 2
        s.close()


async def test_what_a_listener_counts_is_about_what_it_takes():
    s = subscribe([], read_one=no_read)

    def size(x, seen):
        if id(x) in seen:
            return 0
        seen.add(id(x))
        inner = [*x.keys(), *x.values()] if isinstance(x, dict) else []
        inner += list(x) if isinstance(x, tuple) else []
        inner += [getattr(x, f) for f in getattr(x, "__struct_fields__", ())]
        return sys.getsizeof(x) + sum(size(y, seen) for y in inner)

    s.on_message(0, report(0, range(1000), size=1000))
    counted, taken = s._votes.bytes, size(s._votes, set())
    assert taken / 2 < counted < 2 * taken
    s.close()


async def test_what_is_delivered_is_forgotten_with_the_votes():
    events = []
    s = subscribe(events, read_one=no_read)
    for server in range(3):
        s.on_message(server, report(0, range(100), size=100))
    assert len(offsets(events)) == 100
    assert (len(s._votes), s._votes.bytes) == (0, 0)
    s.close()


async def test_no_more_registers_are_read_at_the_same_time_than_may_be(monkeypatch):
    from wormspace.registers.paxos import listening

    monkeypatch.setattr(listening, "LATE_S", 0.01)
    reading = most = 0

    async def slowly(segment_name, offset):
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await asyncio.sleep(0.001)
        reading -= 1
        return b"v"

    events = []
    with turned(registers_reading_late=4):
        s = subscribe(events, read_one=slowly)
        s.on_message(0, report(0, range(10)))
        async with asyncio.timeout(10):
            while len(offsets(events)) < 10:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    assert most == 4
    s.close()


# ---------------------------------------------------------------------------- the consumer


def test_what_nobody_consumes_costs_the_same_for_each_event():
    """Trims of every second segment, and writes: nothing is gone through again and again."""

    def prepare(n):
        listening = world.run(make())

        def work():
            with turned(registers_queue_events=n):
                for i in range(2 * n):
                    listening.emit(RegistersTrimmed("s", 2 * i, 2 * i + 1))
                    listening.emit(Wrote("s", 2 * i + 1, 0, b"v"))
                    assert len(listening._events) <= n + 1

        return work

    async def make():
        return EventQueue()

    with World(1) as world:
        assert_growth(prepare, [100, 200, 400], at_most=1.0)


def test_what_nobody_took_in_time_is_read_and_nothing_is_lost():
    """Far more trims, each second segment, and writes than the queue has room for."""

    async def work():
        w = Wires(3)
        space = w.client().space("s")
        segments = [await space.alloc(size=1) for _ in range(40)]
        events = w.client().space("s").listen()
        heard = [await anext(events) for _ in range(40)]
        with turned(registers_queue_events=4):
            for number in range(0, 40, 2):
                await segments[number].trim()
                await segments[number + 1].unsafe_write(0, b"v")
            await asyncio.sleep(1)
            assert len(events._source._events) <= 5
            heard = [await anext(events) for _ in range(40)]
        trimmed = {e.segment for e in heard if not isinstance(e, Written)}
        written = {e.address.segment for e in heard if isinstance(e, Written)}
        assert trimmed == {*range(0, 40, 2)}
        assert written == {*range(1, 40, 2)}
        await events.close()
        await w.close()

    simulated(work)


def test_of_segments_that_were_heard_in_full_nothing_is_kept():
    async def work():
        w = Wires(3)
        space = w.client().space("s")
        async with w.client().space("s").listen() as events:
            for _ in range(50):
                await (await space.alloc(size=1)).unsafe_write(0, b"v")
                assert [type(await anext(events)).__name__ for _ in range(2)][1] == "Written"
            await asyncio.sleep(1)
            [subscription] = events._source._subscriptions
            assert len(subscription._delivered) <= 1
            assert not subscription._votes
            assert len(events._progress) <= 1
            assert len(events._done.spans()) == 1
        await w.close()

    simulated(work)


async def test_a_late_report_of_what_was_left_waits_for_nobody():
    servers, events = Silent(3), []
    s = subscribe(events, partition=servers, read_one=no_read)
    for server in (0, 1):
        s.on_message(server, report(0, [METADATA, 0]))
    s.leave(0, 1)
    s.on_message(2, report(0, [METADATA, 0]))
    s.on_message(2, report(0, [7]))
    assert not s._votes
    assert [e.offset for e in events if isinstance(e, Wrote)] == [METADATA, 0]
    s.close()


async def test_who_was_on_the_way_when_an_segment_name_was_left_holds_up_nobody():
    events = []
    s = subscribe(events, read_one=no_read)
    s.on_message(0, report(0, [3]))  # one server's report; another's reading had it, too
    s.leave(0, 1)
    s.on_message(1, report(0, [3]))
    for server in (0, 1):
        s.on_message(server, report(1, [5]))
    assert offsets(events) == [3, 5]
    s.close()


def test_trims_cost_what_they_drop_however_much_is_on_its_way():
    """Segments that nobody decides, and trims of them, one by one."""

    def prepare(n):
        async def make():
            s = subscribe([], read_one=no_read)
            for number in range(n):
                s.on_message(0, report(number, range(3)))
            s._timer.cancel()
            return s

        s = asyncio.run(make())

        def trims():
            for number in range(n):
                s.on_message(0, TrimNotice("s", number, number + 1))
            assert (len(s._votes), s._votes.bytes) == (0, 0)

        return trims

    assert_growth(prepare, [100, 200, 400], at_most=1.0)
