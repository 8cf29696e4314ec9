"""A request that replaces very much is carried out in parts, each a small batch."""

import asyncio

import pytest
from nodes import B1, Port, settled

from inprocess import content
from wormspace.errors import StoreError
from wormspace.knobs import turned
from wormspace.paxos.ballot import ballot
from wormspace.paxos.messages import (
    Capture,
    Done,
    Promise,
    Read,
    Reject,
    Report,
    SegmentTrimmed,
    Trim,
    Write,
)
from wormspace.server import acceptors, tables
from wormspace.server.node import Node
from wormspace.server.storage import AcceptorStore
from wormspace.server.tables import ROUNDS_STEP
from wormspace.store.memory_engine import MemoryEngine

HIGH, HIGHER = ballot(1000, b"proposer"), ballot(2000, b"proposer")


@pytest.fixture(params=["memory", "lmdb"])
def engine(request, tmp_path):
    if request.param == "memory":
        return MemoryEngine()
    return AcceptorStore(tmp_path / "store", durability="os")


def held(engine, table):
    return list(engine.view.scan(table, b"", b"\xff" * 30))


async def captured_one_by_one(engine, count):
    node, port = Node(engine), Port()
    for i in range(count):
        node.submit(port, 1, Capture("s", 0, 2 * i, 2 * i + 1, ballot(2 + i, b"proposer")))
    await settled(node)
    port.answers.clear()
    return node, port


@pytest.mark.parametrize("supersede", [1, 2, 3, 7, 29, 30, 31])
@pytest.mark.parametrize("whole", [(0, 1 << 32), (1, 58), (0, 60), (2, 59)])
async def test_a_capture_in_parts_promises_what_one_at_once_would(engine, supersede, whole):
    node, port = await captured_one_by_one(engine, 30)
    with turned(server_supersede=supersede):
        node.submit(port, 1, Capture("s", 0, *whole, HIGH))
        node.submit(port, 2, Write("t", 0, B1, [0], [b"v"]))
        await settled(node)
    assert isinstance(port.of(1)[0], Promise)
    other, once = await captured_one_by_one(MemoryEngine(), 30)
    other.submit(once, 1, Capture("s", 0, *whole, HIGH))
    other.submit(once, 2, Write("t", 0, B1, [0], [b"v"]))
    await settled(other)
    assert held(engine, tables.PROMISES) == held(other._engine, tables.PROMISES)
    await node.stop()
    await other.stop()


class Counted:
    """An engine that notes how much each commit changes, and can stop after some of them."""

    def __init__(self, engine):
        self.engine = engine
        self.sizes = []
        self.left = None

    def __getattr__(self, name):
        return getattr(self.engine, name)

    async def commit(self, batch):
        if self.left is not None:
            if self.left == 0:
                raise StoreError("power is out")
            self.left -= 1
        self.sizes.append(sum(map(len, batch.tables.values())))
        await self.engine.commit(batch)


@pytest.mark.parametrize("request_", [Capture("s", 0, 0, 1000, HIGH), Trim("s", 0, 1000)])
@pytest.mark.parametrize("supersede", [1, 5, 40])
async def test_no_batch_grows_with_what_is_replaced(tmp_path, supersede, request_):
    """What the store does with a batch is one turn of the loop: it is bounded if the batch is."""
    engine = AcceptorStore(tmp_path / "store", durability="os")
    node, port = await captured_one_by_one(Counted(engine), 300)
    for i in range(300):
        node.submit(port, 1, Trim("s", 2 * i + 1, 2 * i + 2))
    await settled(node)
    sizes = node._engine.sizes
    sizes.clear()
    with turned(server_supersede=supersede, server_sweep_keys=supersede):
        node.submit(port, 2, request_)
        await settled(node)
    assert isinstance(port.of(2)[0], Promise | Done)
    assert max(sizes) <= 2 * supersede + 4
    assert sum(sizes) >= 300
    await node.stop()


@pytest.mark.parametrize("request_", [Capture("s", 0, 0, 60, HIGH), Trim("s", 0, 60)])
@pytest.mark.parametrize("stops_after", range(12))
async def test_a_request_that_ends_between_two_parts_is_a_narrower_one(request_, stops_after):
    """Nobody was told; every promise is the old one or the new one, and none has become lower."""
    memory = MemoryEngine()
    node, port = await captured_one_by_one(Counted(memory), 30)
    for i in range(30):
        node.submit(port, 1, Write("s", 2 * i + 1, B1, [0], [b"v"]))
        node.submit(port, 1, Trim("s", 2 * i + 1, 2 * i + 2))
    await settled(node)
    before = {offset: _promised(memory, offset) for offset in range(60)}
    with turned(server_supersede=3, server_sweep_keys=3):
        node._engine.left = stops_after
        node.submit(port, 2, request_)
        await settled(node)
        for offset in range(60):
            assert _promised(memory, offset) in (before[offset], HIGH)
        again = Node(memory)
        await settled(again)
        after = Port()
        again.submit(after, 1, Trim("s", 0, 60))
        await settled(again)
    assert after.of(1) == [Done()]
    left = content(memory)
    assert not any(left[t] for t in (tables.ROWS, tables.PROMISES, tables.GARBAGE))
    assert len(left[tables.TRIMMED]) == 1
    await again.stop()


def _promised(engine, offset):
    space = tables.find_space(engine.view, "s")
    held = tables.range_at(engine.view, tables.PROMISES, tables.segment_key(space, 0), offset)
    return held.ballot if held is not None else None


async def test_a_request_in_parts_leaves_what_one_at_once_would(engine):
    """In every table: how far rounds have come, too, or a client far ahead is refused later."""
    far = ballot(ROUNDS_STEP + 5, b"proposer")
    left = []
    for store, supersede in ((engine, 3), (MemoryEngine(), 1000)):
        node, port = await captured_one_by_one(store, 30)
        with turned(server_supersede=supersede):
            for request in (Capture("s", 0, 0, 60, far), Trim("s", 0, 1), Trim("s", 5, 9)):
                node.submit(port, 1, request)
                await settled(node)
        assert isinstance(port.of(1)[0], Promise)
        left.append({table: keys for table, keys in content(store).items() if table != "identity"})
        await node.stop()
    assert left[0] == left[1]


async def test_requests_that_replace_enough_together_end_their_batch(engine):
    """Else forty captures of a frame replace forty times what one may."""
    node, port = Node(engine), Port()
    for segment in range(40):
        for i in range(4):
            node.submit(
                port, 1, Capture("s", segment, 2 * i, 2 * i + 1, ballot(2 + i, b"proposer"))
            )
    await settled(node)
    port.answers.clear()
    before = node.counters.batches
    with turned(server_batch_supersede=10):
        for segment in range(40):
            node.submit(port, segment, Capture("s", segment, 0, 8, HIGH))
        await settled(node)
    assert node.counters.batches - before == 14  # three of four each
    assert [i for i, _ in port.answers] == list(range(40))
    assert all(isinstance(answer, Promise) for _, answer in port.answers)
    assert node.backlog_bytes == 0
    await node.stop()


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
def test_sweeping_ends_with_nothing_left_and_counts_each_key(limit):
    batch = MemoryEngine().begin()
    for number in range(3):
        offsets = list(range(1, 5 * number + 2))
        acceptors.write(batch, Write("s", number, B1, offsets, [b"v"] * len(offsets)))
        acceptors.trim(batch, Trim("s", number, number + 1))
    doomed = (tables.ROWS, tables.PROMISES, tables.DECIDED, tables.GARBAGE)
    keys = sum(len(list(batch.scan(table, b"", b"\xff" * 30))) for table in doomed)
    swept = 0
    while acceptors.has_garbage(batch):
        some = acceptors.sweep(batch, limit)
        assert 0 < some <= limit + 1
        swept += some
    assert swept == keys
    assert not any(list(batch.scan(table, b"", b"\xff" * 30)) for table in doomed)
    assert acceptors.sweep(batch, limit) == 0


@pytest.mark.parametrize("promised", [HIGHER, HIGH], ids=["higher", "the same"])
@pytest.mark.parametrize("supersede", [1, 3, 10])
async def test_one_that_is_refused_in_a_late_part_leaves_nothing(engine, supersede, promised):
    node, port = await captured_one_by_one(engine, 30)
    node.submit(port, 1, Capture("s", 0, 58, 59, promised))
    await settled(node)
    before = held(engine, tables.PROMISES)
    with turned(server_supersede=supersede):
        node.submit(port, 2, Capture("s", 0, 0, 100, HIGH))
        node.submit(port, 3, Capture("s", 0, 0, 2, HIGH))
        await settled(node)
    assert port.of(2) == [Reject(promised)]
    assert isinstance(port.of(3)[0], Promise)
    after = held(engine, tables.PROMISES)
    assert after[1:] == before[1:]
    await node.stop()


async def test_others_have_their_turn_in_between(engine):
    node, port = await captured_one_by_one(engine, 100)
    turns = 0
    with turned(server_supersede=5):
        node.submit(port, 1, Capture("s", 0, 0, 1000, HIGH))
        while not port.of(1):
            node.submit(port, 2, Read("s", 0, [(0, 1)]))
            turns += 1
            await asyncio.sleep(0)
    assert turns >= 20
    assert all(isinstance(m, Report) for m in port.of(2))
    await node.stop()


@pytest.mark.parametrize("supersede", [1, 2, 7])
async def test_a_trim_in_parts_leaves_one_tombstone(engine, supersede):
    node, port = Node(engine), Port()
    for i in range(20):
        node.submit(port, 1, Write("s", 2 * i, B1, [0], [b"v"]))
        node.submit(port, 1, Trim("s", 2 * i, 2 * i + 1))
    await settled(node)
    with turned(server_supersede=supersede):
        node.submit(port, 2, Trim("s", 0, 50))
        await settled(node)
    assert port.of(2) == [Done()]
    assert len(held(engine, tables.TRIMMED)) == 1
    assert not held(engine, tables.GARBAGE)
    node.submit(port, 3, Read("s", 49, [(0, 1)]))
    assert port.of(3) == [SegmentTrimmed()]
    await node.stop()
