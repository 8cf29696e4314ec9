"""A listener hears writes in the order in which they were done; calls end when they must."""

import asyncio
import itertools
import random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wormspace
from wires import simulated, world
from wormspace import Closed
from wormspace.paxos.messages import Done, Read
from wormspace.registers.event_queue import EventQueue
from wormspace.registers.interface import Gap, Wrote
from wormspace.registers.paxos import listening
from wormspace.registers.paxos.listening import PartitionListener
from wormspace.wire.messages import Accepted, Failed, Lagging, Listen


class Silent:
    """A partition of which a test plays the servers.

    `told`: by server, whether its events are to carry the values; all that it was told, in order.
    """

    def __init__(self, size=3):
        self.size = size
        self.up = (1 << size) - 1
        self.told = [[] for _ in range(size)]
        self.links = [SimpleNamespace(name=f"server {i}") for i in range(size)]

    def enter(self, operation):
        return 1

    def leave(self, request_id):
        pass

    def pick(self):
        return 0

    def tell(self, server, request_id, message):
        if isinstance(message, Listen):
            self.told[server].append(message.values)

    def sources(self):
        """The servers whose events carry values."""
        return [i for i in range(self.size) if self.told[i] and self.told[i][-1]]

    def accepted(self, server, *offsets, ballot=b"b" * 16):
        """What that server pushes, as it was told to."""
        whole = accepted(*offsets, ballot=ballot)
        if self.told[server][-1]:
            return whole
        return Accepted(whole.space, whole.segment, whole.ballot, whole.offsets, [])


NUMBER = 7
"""The segment: no offset is used that is as large, so that the two are not mixed up."""


def accepted(*offsets, ballot=b"b" * 16):
    return Accepted("s", NUMBER, ballot, list(offsets), [b"%d" % o for o in offsets])


async def read_it(segment_name, offset):
    return b"%d" % offset


def subscribe(events, size=3, read_one=read_it, partition=None):
    partition = partition or Silent(size)
    subscription = PartitionListener(partition, "s", 0, 10, read_one, events.append, pytest.fail)
    for server in range(partition.size):
        subscription.on_message(server, Done())
    return subscription


def offsets(events):
    return [e.offset for e in events if isinstance(e, Wrote)]


def values(events):
    return [e.value for e in events if isinstance(e, Wrote)]


async def no_read(segment_name, offset):
    raise AssertionError("there was no need to read")


async def test_a_write_is_told_when_a_majority_accepted_it():
    events = []
    s = subscribe(events)
    assert events == [Gap()]
    s.on_message(0, accepted(0))
    assert offsets(events) == []
    s.on_message(0, accepted(0))
    assert offsets(events) == []  # one server is one server
    s.on_message(2, accepted(0))
    assert offsets(events) == [0]
    s.on_message(1, accepted(0))
    assert offsets(events) == [0]
    s.close()


async def test_nothing_overtakes_the_gap_that_history_comes_with():
    """A majority of the streams stands and tells of a write; the third is still to open."""
    events = []
    s = PartitionListener(Silent(3), "s", 0, 10, None, events.append, pytest.fail)
    for server in (0, 1):
        s.on_message(server, Done())
        s.on_message(server, accepted(5))
    assert events == []
    whole = EventQueue()
    whole.add(s)
    for each in (s, whole):
        assert each.is_coming(NUMBER, 5)  # so that reading leaves it to its event
        assert not each.is_coming(5, NUMBER)
    s.on_message(2, Done())
    assert events[0] == Gap()
    assert offsets(events) == [5]
    s.close()


async def test_who_comes_back_may_have_been_told_of_nothing_meanwhile():
    events = []
    s = subscribe(events)
    s.on_message(1, Done())  # it knows now whether it is to send values: nothing was missed
    assert events == [Gap()]
    for server in (1, 2):
        s.on_down(server)
        s.on_up(server)
        s.on_message(server, Done())
    assert events == [Gap()] * 3
    s.close()


async def test_two_servers_under_two_ballots_are_no_majority():
    events = []
    s = subscribe(events)
    s.on_message(0, accepted(0, ballot=b"1" * 16))
    s.on_message(1, accepted(0, ballot=b"2" * 16))
    assert offsets(events) == []
    s.on_message(0, accepted(0, ballot=b"2" * 16))
    assert offsets(events) == [0]
    s.close()


async def test_a_server_that_was_away_does_not_let_a_later_write_overtake():
    """0 was decided by servers 0 and 1 while 2 was away; 1 by all.  Server 0's stream is slow."""
    events = []
    s = subscribe(events)
    s.on_message(1, accepted(0))
    s.on_message(1, accepted(1))
    s.on_message(2, accepted(1))
    assert offsets(events) == []
    s.on_message(0, accepted(0))
    assert offsets(events) == [0, 1]
    s.close()


async def test_a_write_that_stays_short_of_a_majority_is_read_and_told_in_its_place(monkeypatch):
    monkeypatch.setattr(listening, "LATE_S", 0.01)
    events = []
    s = subscribe(events)
    s.on_message(1, accepted(0))
    s.on_message(1, accepted(1))
    s.on_message(2, accepted(1))
    async with asyncio.timeout(5):
        while len(offsets(events)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert offsets(events) == [0, 1]
    s.close()


async def test_two_writes_at_once_that_servers_saw_in_different_orders_are_both_told(monkeypatch):
    monkeypatch.setattr(listening, "LATE_S", 0.01)
    events = []
    s = subscribe(events)
    s.on_message(0, accepted(0, 1))
    s.on_message(1, accepted(1, 0))
    async with asyncio.timeout(5):
        while len(offsets(events)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert sorted(offsets(events)) == [0, 1]
    s.close()


@given(st.integers(0, 1 << 32), st.sampled_from([1, 3, 5]))
@settings(max_examples=100, deadline=None)
def test_a_sequential_writers_order_survives_any_delay_of_any_stream(seed, size):
    """Each write is accepted by a random majority, and by the others never or late."""
    rng = random.Random(seed)

    async def run():
        events, servers = [], Silent(size)
        s = subscribe(events, partition=servers, read_one=no_read)
        streams = [[] for _ in range(size)]
        count = 30
        for offset in range(count):
            for server in rng.sample(range(size), size // 2 + 1 + rng.randint(0, size // 2)):
                streams[server].append(offset)
        while any(streams):
            server = rng.choice([i for i in range(size) if streams[i]])
            take = rng.randint(1, 3)
            s.on_message(server, servers.accepted(server, *streams[server][:take]))
            del streams[server][:take]
        assert offsets(events) == list(range(count)), f"seed {seed}"
        assert values(events) == [b"%d" % offset for offset in range(count)], f"seed {seed}"
        s.close()

    asyncio.run(run())


async def test_a_listener_hears_in_order_while_servers_come_and_go():
    async with world() as w:
        writer, listener = w.client(), w.client()
        count = 300
        segment = await writer.space("s").alloc(size=count)
        token = (await segment.capture()).token
        source = (await listener.space("s").segment(0)).listen()
        await anext(source)
        rng = random.Random(7)

        async def write():
            for i in range(count):
                if i % 20 == 0:
                    for wires in w.wires:
                        for wire in wires:
                            if not wire.up:
                                wire.mend()
                    victim = rng.randrange(3)
                    for wires in w.wires:
                        wires[victim].cut()
                await segment.write(i, b"%d" % i, token)

        writing = asyncio.ensure_future(write())
        heard = [await anext(source) for _ in range(count)]
        await writing
        await source.close()
        assert [event.address.offset for event in heard] == list(range(count))
        assert [event.value for event in heard] == [b"%d" % i for i in range(count)]


@pytest.mark.parametrize("late", [1, 10])
def test_what_a_slow_server_reports_late_does_not_wait_behind_what_came_after(late):
    """A slow server accepts part of the past while a listener reads it: it is past all the same."""

    async def run():
        async with world() as w:
            writer, listener = w.client(), w.client()
            segment = await writer.space("s").alloc(size=20)
            token = (await segment.capture()).token
            slow, under_way = w.wires[0][2], []
            accept, slow.post = slow.post, under_way.append
            for offset in range(20):
                await segment.write(offset, b"%d" % offset, token)
            reads = []

            def read_later(wire, post):
                def later(outgoing):
                    if isinstance(outgoing.message, Read) and not reads:
                        reads.append(outgoing)
                        for message in under_way[:late]:
                            accept(message)
                    asyncio.get_running_loop().call_later(0.02, post, outgoing)

                wire.post = later

            for wire in w.wires[1]:
                read_later(wire, wire.post)
            source = listener.space("s").listen()
            events = [await anext(source) for _ in range(21)]
            await source.close()
            assert reads
            assert [event.address.offset for event in events[1:]] == list(range(20))

    simulated(run)


# ---------------------------------------------------------------------------- who sends values


@pytest.mark.parametrize("size", [1, 3, 5])
async def test_a_majority_sends_the_values_and_whoever_accepts_first_one_is_there(size):
    majority = size // 2 + 1
    for reporting in itertools.permutations(range(size), majority):
        events, servers = [], Silent(size)
        s = subscribe(events, partition=servers, read_one=no_read)
        assert len(servers.sources()) == majority
        for n, server in enumerate(reporting):
            assert values(events) == []
            s.on_message(server, servers.accepted(server, 7))
            assert len(values(events)) == (n + 1 == majority)
        assert values(events) == [b"7"]
        s.close()


async def test_a_value_belongs_to_the_ballot_under_which_it_was_accepted():
    """Both sources accepted something, and another server decides which of them it was."""
    for decides, value in ((b"1" * 16, b"first"), (b"2" * 16, b"second")):
        events = []
        s = subscribe(events, read_one=no_read)
        s.on_message(0, Accepted("s", 0, b"1" * 16, [3], [b"first"]))
        s.on_message(1, Accepted("s", 0, b"2" * 16, [3], [b"second"]))
        assert values(events) == []
        s.on_message(2, Accepted("s", 0, decides, [3], []))
        assert values(events) == [value]
        s.close()


async def test_another_server_sends_the_values_when_one_that_did_is_gone():
    servers = Silent(5)
    s = subscribe([], partition=servers)
    assert servers.sources() == [0, 1, 2]
    servers.up &= ~0b00010
    s.on_down(1)
    servers.told[1].clear()
    assert servers.sources() == [0, 2, 3]
    servers.up &= ~0b10000
    s.on_down(4)  # it sent none
    servers.told[4].clear()
    assert servers.sources() == [0, 2, 3]
    s.on_message(3, Done())
    servers.up |= 0b10010
    s.on_up(4)
    s.on_up(1)
    assert servers.told[1] == servers.told[4] == [False]
    s.on_message(0, Lagging())  # it has ended the subscription
    assert len(servers.sources()) == 3
    assert len(servers.told[0]) == 2
    s.close()


async def test_values_come_from_whoever_comes_first_when_nobody_was_there():
    servers = Silent(3)
    servers.up = 0
    s = PartitionListener(servers, "s", 0, 10, no_read, [].append, pytest.fail)
    assert servers.told == [[], [], []]
    for server in (2, 0, 1):
        servers.up |= 1 << server
        s.on_up(server)
    assert servers.told == [[True], [False], [True]]
    s.close()


async def test_a_server_that_refuses_is_not_asked_for_values_again():
    failures = []
    servers = Silent(3)
    s = PartitionListener(servers, "s", 0, 10, no_read, [].append, failures.append)
    s.on_message(0, Failed("too-many", "enough"))
    assert servers.told == [[True], [True], [False, True]]
    assert failures == []
    s.on_message(1, Failed("too-many", "enough"))
    assert servers.told == [[True], [True], [False, True]]
    assert len(failures) == 1
    s.close()


async def test_a_value_that_went_with_its_source_is_read(monkeypatch):
    """Accepted by 1 and 2 while nobody knew yet that 0 and its stream were gone."""
    monkeypatch.setattr(listening, "LATE_S", 0.01)
    events, servers = [], Silent(3)
    s = subscribe(events, partition=servers)
    s.on_message(2, servers.accepted(2, 4))
    servers.up &= ~0b010
    s.on_down(1)
    servers.up |= 0b010
    s.on_up(1)
    servers.told[1][-1] = False
    s.on_message(1, servers.accepted(1, 4))
    assert values(events) == []
    async with asyncio.timeout(5):
        while not values(events):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert values(events) == [b"4"]
    s.close()


# ---------------------------------------------------------------------------- clients


async def test_what_is_under_way_when_the_client_closes_ends_as_closed():
    async with world() as w:
        client = w.client()
        space = client.space("s")
        segment = await space.alloc(size=4)
        token = (await segment.capture()).token
        for wire in client.wires:
            wire.held = []
        calls = [
            segment.read(0),
            segment.read_range(),
            segment.capture(),
            segment.write(0, b"v", token),
            segment.settle(1),
            space.alloc(),
            space.tail(),
            client.spaces(),
            client.servers(),
        ]
        waiting = [asyncio.ensure_future(call) for call in calls]
        for _ in range(20):
            await asyncio.sleep(0)
        await client.close()
        async with asyncio.timeout(2):
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(o) for o in outcomes] == [Closed] * len(calls)


@pytest.mark.parametrize("silent", ["cut", "held"])
async def test_a_race_with_one_server_away_is_settled_long_before_the_deadline(silent):
    """Neither of two racers waits for the third server: one wins, the other hears that it lost."""
    async with world() as w:
        clients = [w.client(timeout=20) for _ in range(4)]
        segment = await clients[0].space("s").alloc(size=1)
        for client in clients:
            if silent == "cut":
                client.wires[2].cut()
            else:
                client.wires[2].held = []

        async def race(i):
            same = await clients[i].space("s").segment(segment.number)
            while True:
                captured = await same.capture()
                if captured.written:
                    return captured.written[0]
                try:
                    await same.write(0, b"%d" % i, captured.token)
                except wormspace.RaceLost:
                    await asyncio.sleep(random.Random(i).uniform(0, 0.02))
                else:
                    return b"%d" % i

        async with asyncio.timeout(15):
            values = await asyncio.gather(*(race(i) for i in range(4)))
        assert len(set(values)) == 1


def test_a_call_past_its_deadline_is_unavailable_and_names_the_silent():
    async def work():
        async with world() as w:
            client = w.client(timeout=0.2)
            segment = await client.space("s").alloc(size=4)
            token = (await segment.capture()).token
            await segment.write(0, b"v", token)
            for wire in client.wires[1:]:
                wire.cut()
            loop = asyncio.get_running_loop()
            for call in (
                segment.capture,
                lambda: segment.write(1, b"w", token),
                lambda: segment.read(3),
                lambda: segment.settle(0),
                lambda: segment.trim(),
                lambda: client.space("s").alloc(),
                lambda: client.spaces(),
            ):
                began = loop.time()
                with pytest.raises(wormspace.Unavailable):
                    await call()
                assert loop.time() - began == pytest.approx(0.2)

    simulated(work)
