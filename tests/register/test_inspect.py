"""What each server holds, for people: whole, in time, without holding anybody up."""

import asyncio

import pytest

import wormspace.sync
from scaling import assert_growth
from wires import Wire, simulated, world
from wires import World as Wires
from wormspace.errors import BadAddress
from wormspace.knobs import turned
from wormspace.paxos.ballot import UNSAFE, ballot, show
from wormspace.paxos.messages import COMPLETE, Read, Report, Row
from wormspace.paxos.ranges import Range
from wormspace.registers.paxos import administration
from wormspace.sim import World
from wormspace.wire.messages import Failed

B1 = ballot(1, b"somebody")


def lie(wire, answer):
    """Let a server answer each question for details with this."""

    def answered(request_id, message):
        if isinstance(wire.sent[-1], Read) and wire.sent[-1].detail:
            assert sum(isinstance(m, Read) for m in wire.sent) < 100, "it asks again and again"
            message = answer
        Wire.answer(wire, request_id, message)

    wire.answer = answered


@pytest.mark.parametrize("page", [65, 1 << 20], ids=["a row a page", "one page"])
async def test_each_server_says_what_it_holds(page):
    async with world() as w:
        segment = await w.client().space("s").alloc(size=10)
        token = (await segment.capture(2, 8)).token
        await segment.write_range(2, [b"two", b"three"], token)
        await asyncio.sleep(0.1)  # the servers are told that these are decided
        w.wires[0][1].cut()
        await segment.write(4, b"four", token)
        w.wires[0][1].mend()
        with turned(server_page_bytes=page, server_page_promises=2):
            held = await segment.inspect()
        assert [*held] == ["s0", "s1", "s2"]
        mine = show(token.fence)
        for server in ("s0", "s2"):
            assert [s.offset for s in held[server]] == [*range(2, 8)]
            assert [s.value for s in held[server]] == [b"two", b"three", b"four", None, None, None]
            assert [s.promised for s in held[server]] == [mine] * 6
            assert [s.accepted for s in held[server]] == [mine] * 3 + ["-"] * 3
            assert [s.decided for s in held[server]][:2] == [True, True]
        assert [s.value for s in held["s1"]] == [b"two", b"three", None, None, None, None]
        some = await segment.inspect(3, 5)
        assert [s.offset for s in some["s0"]] == [3, 4]


async def test_the_silent_the_refusing_and_the_trimmed_are_told_apart():
    async with world() as w:
        segment = await w.client().space("s").alloc(size=4)
        await segment.unsafe_write(0, b"v")
        wires = w.clients[0].wires
        wires[0].drop = lambda message: True
        wires[1].answer = lambda i, m: Wire.answer(wires[1], i, Failed("damaged", "a sector"))
        held = await segment.inspect(timeout=0.2)
        assert (held["s0"], held["s1"]) == (None, None)
        assert [s.value for s in held["s2"]] == [b"v"]
    async with world() as w:
        segment = await w.client().space("s").alloc(size=4)
        await segment.trim()
        assert await segment.inspect() == {"s0": [], "s1": [], "s2": []}


ENDLESS = {
    "goes back": Report([], 0),
    "stands still": Report([Row(3, B1, b"v")], 4),
    "goes beyond": Report([], 1 << 40),
    "rows that go back": Report([Row(7, B1, b"v"), Row(5, B1, b"v")], COMPLETE),
    "rows of others": Report([Row(2, B1, b"v")], COMPLETE),
    "rows beyond": Report([Row(1 << 30, B1, b"v")], COMPLETE),
    "a row twice": Report([Row(5, B1, b"v"), Row(5, B1, b"w")], COMPLETE),
}


@pytest.mark.parametrize("answer", ENDLESS)
def test_a_server_that_lies_hides_itself_and_nobody_else(answer):
    async def work():
        w = Wires(3)
        segment = await w.client().space("s").alloc(size=10)
        await segment.unsafe_write(5, b"v")
        lie(w.clients[0].wires[1], ENDLESS[answer])
        held = await segment.inspect(4, 9, timeout=1)
        assert held["s1"] is None
        assert [s.value for s in held["s0"]] == [b"v"]
        await w.close()

    simulated(work)


def test_promises_that_overlap_or_come_in_any_order_are_taken_as_they_are():
    async def work():
        w = Wires(3)
        segment = await w.client().space("s").alloc(size=10)
        promises = [Range(7, 1 << 40, B1), Range(0, 6, B1), Range(5, 5, UNSAFE), Range(2, 3, B1)]
        lie(w.clients[0].wires[1], Report([], COMPLETE, promises))
        held = await segment.inspect(4, 9)
        assert [s.offset for s in held["s1"]] == [4, 5, 7, 8]
        await w.close()

    simulated(work)


def test_others_have_their_turn_while_many_registers_are_taken_in():
    async def work():
        w = Wires(3)
        segment = await w.client().space("s").alloc(size=20_000)
        await segment.capture()
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        held = await segment.inspect()
        counting.cancel()
        assert [len(states) for states in held.values()] == [20_000] * 3
        assert turns >= 20_000 // administration.YIELD_EVERY
        await w.close()

    simulated(work)


def test_what_takes_too_long_to_take_in_ends_at_the_deadline(monkeypatch):
    async def work():
        w = Wires(3)
        segment = await w.client().space("s").alloc(size=20_000)
        await segment.capture()
        loop, shipped = asyncio.get_running_loop(), asyncio.sleep

        async def slowly(seconds):
            await shipped(seconds + 0.1)  # the machine is busy

        monkeypatch.setattr(asyncio, "sleep", slowly)
        began = loop.time()
        held = await segment.inspect(timeout=0.55)
        assert loop.time() - began < 0.8
        monkeypatch.undo()
        assert held == {"s0": None, "s1": None, "s2": None}
        await w.close()

    simulated(work)


def test_the_cost_of_an_inspection_is_linear():
    async def captured(n):
        w = Wires(1)
        segment = await w.client().space("s").alloc(size=2 * n)
        for start in range(0, 2 * n, 20):
            token = (await segment.capture(start, start + 20)).token
            await segment.write_range(start, [b"v"] * 10, token)
        return w, segment

    def prepare(n):
        w, segment = world.run(captured(n))
        worlds.append(w)
        return lambda: world.run(segment.inspect())

    worlds = []
    with World(1) as world, turned(server_page_bytes=65 * 16):
        assert_growth(prepare, [100, 200, 400], at_most=1.0)
        for w in worlds:
            world.run(w.close())


async def test_more_registers_than_one_answer_has_are_refused_before_anything_is_sent():
    async with world() as w:
        segment = await w.client().space("s").alloc(size=1 << 30)
        before = len(w.clients[0].wires[0].sent)
        with pytest.raises(BadAddress, match=r"at most 4194304 registers .* give a range"):
            await segment.inspect()
        assert len(w.clients[0].wires[0].sent) == before
        assert await segment.inspect(1 << 29, (1 << 29) + 1) == {"s0": [], "s1": [], "s2": []}


def test_the_synchronous_client_inspects_too():
    with wormspace.sync.connect("memory:") as worm:
        segment = worm.space("s").alloc(size=4)
        segment.unsafe_write(1, b"v")
        [states] = segment.inspect().values()
        assert [(s.offset, s.value) for s in states] == [(1, b"v")]
        [states] = segment.inspect(2, 4).values()
        assert states == []
