"""The server's manners: group commit, back-pressure, slow readers, a graceful stop."""

import asyncio
import contextlib

import pytest

import wormspace
from inprocess import Raw, serving
from wormspace.errors import StoreError, StoreFull
from wormspace.paxos.ballot import ballot
from wormspace.paxos.messages import Capture, Decided, Done, Promise, Read, Report, Write, Written
from wormspace.server.limits import Limits
from wormspace.server.node import Node
from wormspace.server.storage import AcceptorStore
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.messages import (
    BAD_REQUEST,
    INTERNAL,
    ONE_WAY,
    STOPPING,
    TOO_MANY,
    Accepted,
    Failed,
    Lagging,
    Listen,
    Status,
    ToServer,
    Unlisten,
)

B1, B2 = ballot(1, b"proposer"), ballot(2, b"proposer")


class Gated(MemoryEngine):
    """A store whose commits wait until they are let through."""

    def __init__(self):
        super().__init__()
        self.gate = asyncio.Event()
        self.waiting = asyncio.Event()
        self.commits = 0
        self.error = None

    async def commit(self, batch):
        self.waiting.set()
        await self.gate.wait()
        self.commits += 1
        if self.error:
            batch.abort()
            raise self.error
        await super().commit(batch)


class Port:
    """A client of a node, without a socket."""

    def __init__(self):
        self.answers = []
        self.full = False

    def answer(self, request_id, message):
        self.answers.append((request_id, message))

    def congested(self):
        return self.full


async def turns(n=20):
    for _ in range(n):
        await asyncio.sleep(0)


async def test_what_comes_in_during_a_commit_is_one_batch_with_one_sync():
    engine, port = Gated(), Port()
    node = Node(engine)
    node.submit(port, 1, Capture("s", 0, 0, 100, B1))
    await engine.waiting.wait()
    for i in range(50):
        node.submit(port, 2 + i, Write("s", 0, B1, [i], [b"v"]))
    assert port.answers == []
    engine.gate.set()
    await turns()
    assert len(port.answers) == 51
    assert engine.commits == 2
    assert node.counters.batches == 2
    await node.stop()


async def test_reads_are_answered_while_a_commit_waits_for_the_disk():
    engine, port = Gated(), Port()
    node = Node(engine)
    node.submit(port, 1, Capture("s", 0, 0, 100, B1))
    await engine.waiting.wait()
    node.submit(port, 2, Read("s", 7, [(0, 10)]))
    assert port.answers == [(2, Report([], -1))]
    engine.gate.set()
    await node.stop()


async def test_a_graceful_stop_answers_what_was_taken_in_and_refuses_the_rest():
    engine, port = Gated(), Port()
    node = Node(engine)
    node.submit(port, 1, Capture("s", 0, 0, 100, B1))
    await engine.waiting.wait()
    node.submit(port, 2, Write("s", 0, B1, [0], [b"v"]))
    stopping = asyncio.ensure_future(node.stop())
    await turns()
    node.submit(port, 3, Write("s", 0, B1, [1], [b"w"]))
    assert [(i, m.code) for i, m in port.answers] == [(3, STOPPING)]
    engine.gate.set()
    await stopping
    assert port.answers[1:] == [(1, Promise([], -1)), (2, Written([]))]


async def test_a_graceful_stop_saves_what_is_known_to_be_decided(tmp_path):
    engine, port = AcceptorStore(tmp_path, durability="os"), Port()
    node = Node(engine)
    node.submit(port, 1, Write("s", 0, B1, [0], [b"v"]))
    async with asyncio.timeout(5):
        await node._worker
    node.submit(port, 0, Decided("s", 0, B1, [(0, 1)]))
    await node.stop()
    engine, port = AcceptorStore(tmp_path), Port()
    node = Node(engine)
    node.submit(port, 1, Read("s", 0, [(0, 1)]))
    assert [r.decided for r in port.answers[0][1].rows] == [True]
    await node.stop()


async def test_a_store_that_fails_is_fatal_and_says_nothing_more():
    engine, port, fatal = Gated(), Port(), []
    node = Node(engine, on_fatal=fatal.append)
    engine.error = StoreError("the disk is on fire")
    engine.gate.set()
    node.submit(port, 1, Write("s", 0, B1, [0], [b"v"]))
    await turns()
    node.submit(port, 2, Write("s", 0, B1, [0], [b"v"]))
    assert [m.code for _, m in port.answers] == [INTERNAL, INTERNAL]
    assert len(fatal) == 1


async def test_a_full_store_is_not_fatal():
    engine, port, fatal = Gated(), Port(), []
    node = Node(engine, on_fatal=fatal.append)
    engine.error = StoreFull("no room")
    engine.gate.set()
    node.submit(port, 1, Write("s", 0, B1, [0], [b"v"]))
    await turns()
    engine.error = None
    node.submit(port, 2, Write("s", 0, B1, [0], [b"v"]))
    await turns()
    assert [type(m) for _, m in port.answers] == [Failed, Written]
    assert fatal == []
    await node.stop()


# ---------------------------------------------------------------------------- listeners


async def test_a_listener_hears_of_a_write_when_it_is_durable_and_not_before():
    engine, port, writer = Gated(), Port(), Port()
    node = Node(engine)
    node.submit(port, 9, Listen("s", 0, 5))
    assert port.answers == [(9, Done())]
    node.submit(writer, 1, Write("s", 3, B1, [0, 1], [b"a", b"b"]))
    await engine.waiting.wait()
    assert len(port.answers) == 1
    engine.gate.set()
    await turns()
    assert port.answers[1:] == [(9, Accepted("s", 3, B1, [0, 1], [b"a", b"b"]))]
    for elsewhere in (Write("s", 5, B1, [0], [b"x"]), Write("t", 0, B1, [0], [b"x"])):
        node.submit(writer, 2, elsewhere)
    node.submit(writer, 3, Write("s", 3, B1, [0], [b"a"]))  # a repetition is no news
    await turns()
    assert len(port.answers) == 2
    node.submit(port, 0, Unlisten(9))
    node.submit(writer, 4, Write("s", 3, B1, [2], [b"c"]))
    await turns()
    assert len(port.answers) == 2
    await node.stop()


async def test_a_listener_gets_values_or_not_and_may_change_its_mind():
    port, writer = Port(), Port()
    node = Node(MemoryEngine())
    node.submit(port, 9, Listen("s", 0, 5, values=False))
    node.submit(writer, 1, Write("s", 3, B1, [0, 1], [b"a", b"b"]))
    await turns()
    assert port.answers == [(9, Done()), (9, Accepted("s", 3, B1, [0, 1], []))]
    node.submit(port, 9, Listen("s", 0, 5))
    assert node.metrics()["listeners"] == 1
    node.submit(port, 8, Listen("s", 3, 4, values=False))
    node.submit(writer, 2, Write("s", 3, B1, [2], [b"c"]))
    await turns()
    assert port.answers[2:] == [
        (9, Done()),
        (8, Done()),
        (9, Accepted("s", 3, B1, [2], [b"c"])),
        (8, Accepted("s", 3, B1, [2], [])),
    ]
    await node.stop()


async def test_a_listener_that_reads_too_slowly_is_told_and_dropped():
    port, writer = Port(), Port()
    node = Node(MemoryEngine())
    node.submit(port, 9, Listen("s", 0, 5))
    port.full = True
    for i in range(100):
        node.submit(writer, i, Write("s", 0, B1, [i], [b"v"]))
        await turns(3)
    assert port.answers == [(9, Done()), (9, Lagging())]
    assert node.metrics()["listeners"] == 0
    assert node.counters.listeners_dropped == 1
    await node.stop()


async def test_a_client_has_as_many_subscriptions_as_the_limit_allows():
    async with serving(limits=Limits(max_listeners=2)) as server:
        raw, other = await Raw.connect(server.port), await Raw.connect(server.port)
        assert await raw.call(Listen("s", 0, 5)) == Done()
        assert await raw.call(Listen("t", 0, 5)) == Done()
        refused = await raw.call(Listen("s", 5, 6))
        assert isinstance(refused, Failed)
        assert refused.code == TOO_MANY
        assert await other.call(Listen("s", 0, 5)) == Done()
        raw.send(ToServer(ONE_WAY, Unlisten(1)))
        assert await raw.call(Listen("s", 5, 6)) == Done()
        await raw.close()
        await other.close()


async def test_a_listener_too_many_is_told_so_and_does_not_wait_for_ever():
    limits = Limits(max_listeners=1)
    async with (
        serving(limits=limits) as server,
        wormspace.connect(f"worm://127.0.0.1:{server.port}") as worm,
    ):
        await worm.space("s").alloc(size=2)
        first, second = worm.space("s").listen(), worm.space("s").listen()
        assert isinstance(await anext(first), wormspace.Allocated)
        with pytest.raises(wormspace.Refused, match="at most 1 subscription"):
            async with asyncio.timeout(5):
                await anext(second)
        await first.close()
        await second.close()


async def test_a_client_that_goes_takes_its_listeners_with_it():
    async with serving() as server:
        raw = await Raw.connect(server.port)
        await raw.call(Listen("s", 0, 5))
        assert server.node.metrics()["listeners"] == 1
        await raw.close()
        async with asyncio.timeout(5):
            while server.guests.served:  # noqa: ASYNC110 - there is nothing to wait for
                await asyncio.sleep(0.001)
        assert server.node.metrics()["listeners"] == 0


# ---------------------------------------------------------------------------- slow readers


def buffered(server):
    """Bytes that the server holds for its clients."""
    return sum(c.unsent for c in server.guests.served if c._transport)


async def test_a_client_that_asks_and_does_not_read_is_paused_not_buffered():
    limits = Limits(max_unsent=1 << 20)
    async with serving(limits=limits) as server:
        raw = await Raw.connect(server.port)
        for i in range(4):
            await raw.call(Write("s", 0, B1, [i], [bytes(250_000)]))
        asking = asyncio.ensure_future(ask_forever(raw))
        highest = 0
        for _ in range(200):
            await asyncio.sleep(0.002)
            highest = max(highest, buffered(server))
        assert highest <= 2 * limits.max_unsent + (2 << 20)
        other = await Raw.connect(server.port)
        async with asyncio.timeout(5):
            assert isinstance(await other.call(Read("s", 0, [(0, 1)])), Report)
        asking.cancel()
        async with asyncio.timeout(20):
            count = 0
            while count < 20:  # when it reads again, it is served again
                assert await raw.reply()
                count += 1


async def ask_forever(raw):
    with contextlib.suppress(ConnectionError):
        while True:
            raw.request(Read("s", 0, [(0, 4)]))
            await raw.writer.drain()


async def test_a_listener_that_does_not_read_costs_a_bounded_buffer():
    limits = Limits(max_unsent=1 << 20)
    async with serving(limits=limits) as server:
        slow, writer = await Raw.connect(server.port), await Raw.connect(server.port)
        await slow.call(Listen("s", 0, 5))
        slow.writer.transport.pause_reading()
        for i in range(300):
            assert await writer.call(Write("s", 0, B1, [i], [bytes(50_000)])) == Written([])
            assert buffered(server) <= 2 * limits.max_unsent
        assert server.node.counters.listeners_dropped == 1
        slow.writer.transport.resume_reading()
        async with asyncio.timeout(5):
            while not isinstance((await slow.reply()).message, Lagging):
                pass
        assert await slow.call(Status())


async def test_a_backlog_above_its_limit_pauses_its_clients_and_loses_nothing():
    engine = Gated()
    async with serving(engine, limits=Limits(max_backlog=100_000)) as server:
        raw = await Raw.connect(server.port)
        count = 100
        raw.send(*(ToServer(i + 1, Write("s", 0, B1, [i], [bytes(9_000)])) for i in range(count)))
        await engine.waiting.wait()
        for _ in range(100):
            await asyncio.sleep(0.001)
            assert server.node.backlog_bytes <= 100_000 + 10_000
        engine.gate.set()
        async with asyncio.timeout(10):
            answers = [await raw.reply() for _ in range(count)]
        assert [a.id for a in answers] == [i + 1 for i in range(count)]
        assert all(a.message == Written([]) for a in answers)


@pytest.mark.parametrize(
    ("offsets", "values"),
    [([3, 3], [b"one", b"two"]), ([3], []), ([], []), ([1, 2], [b"only one"])],
    ids=["an offset twice", "no value", "nothing", "too few values"],
)
async def test_a_write_that_could_mean_two_values_under_one_ballot_is_refused(offsets, values):
    """A batch looks its rows up before it writes: the second value would not see the first."""
    node, port = Node(MemoryEngine()), Port()
    node.submit(port, 1, Write("s", 0, B1, offsets, values))
    ((_, answer),) = port.answers
    assert isinstance(answer, Failed)
    assert answer.code == BAD_REQUEST
    node.submit(port, 2, Read("s", 0, [(0, 10)]))
    assert port.answers[1][1].rows == []
    await node.stop()


async def test_metrics_count_what_happened():
    async with serving() as server:
        raw = await Raw.connect(server.port)
        await raw.call(Capture("s", 0, 0, 8, B1))
        await raw.call(Write("s", 0, B1, [0, 1], [b"a", b"b"]))
        await raw.call(Read("s", 0, [(0, 8)]))
        metrics = (await raw.call(Status())).metrics
        assert metrics["captures"] == 1
        assert metrics["writes"] == 1
        assert metrics["registers_written"] == 2
        assert metrics["reads"] == 1
        assert metrics["registers_read"] == 2
        assert metrics["connections"] == 1


@pytest.mark.parametrize("size", [1, 1_000_000])
async def test_a_capture_costs_the_same_whatever_its_size(size):
    """Counted in operations on the store: none of them depends on the number of registers."""
    operations = []

    class Counting(MemoryEngine):
        def begin(self):
            batch = super().begin()
            for name in ("get", "get_many", "scan", "floor", "put", "put_many", "delete"):
                original = getattr(batch, name)

                def counted(*a, _name=name, _original=original):
                    operations.append(_name)
                    return _original(*a)

                setattr(batch, name, counted)
            return batch

    port = Port()
    node = Node(Counting())
    node.submit(port, 1, Capture("s", 0, 0, 1, B1))
    await turns()
    operations.clear()
    node.submit(port, 2, Capture("s", 1, 0, size, B2))
    await turns()
    assert [type(m) for _, m in port.answers] == [Promise, Promise]
    assert len(operations) <= 12
    assert operations.count("put") == 1
    await node.stop()
