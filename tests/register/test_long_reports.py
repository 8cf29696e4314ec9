"""Reports of many pages: they go on, they are not begun again, and each page costs itself."""

import asyncio
import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling import assert_growth
from wires import Wire, delay, simulated
from wires import World as Wires
from wormspace import Written
from wormspace.knobs import turned
from wormspace.paxos.messages import Capture, Read, Report
from wormspace.registers.spans import after, shares
from wormspace.sim import World
from wormspace.wire.messages import DAMAGED, INTERNAL, Failed

PAGES = 64
PAGE_S = 0.4
"""What a page takes: PAGES of them take many times the patience with a silent server."""


@contextlib.asynccontextmanager
async def filled(count: int, page_rows: int = 1):
    """A segment of which `count` registers are written and decided, in pages of so many rows."""
    w = Wires(3)
    segment = await w.client().space("s").alloc(size=2 * count)
    token = (await segment.capture()).token
    await segment.write_range(0, [b"v%d" % i for i in range(count)], token)
    await asyncio.sleep(3)
    with turned(server_page_bytes=65 * page_rows):
        yield w, segment
    await w.close()


def sent(client, kind) -> int:
    return sum(isinstance(m, kind) for wire in client.wires for m in wire.sent)


SPANS = st.lists(st.integers(0, 60), min_size=2, max_size=12, unique=True).map(
    lambda cuts: [(lo, hi) for lo, hi in itertools.pairwise(sorted(cuts))][::2]
)


@given(SPANS, st.integers(1, 6))
def test_what_is_read_at_the_same_time_is_all_of_it_once_in_about_equal_parts(spans, most):
    parts = shares(spans, most)
    every = [at for share in parts for lo, hi in share for at in range(lo, hi)]
    assert every == [at for lo, hi in spans for at in range(lo, hi)]
    assert len(parts) <= most
    sizes = [hi - lo for [(lo, hi)] in parts] if len(spans) == 1 else list(map(len, parts))
    assert max(sizes) == -(-sum(sizes) // most), "none is longer than it must be"


@given(SPANS, st.integers(0, 61))
def test_what_comes_after_a_page_is_the_rest_of_the_spans(spans, end):
    rest = after(spans, end)
    every = [at for lo, hi in rest for at in range(lo, hi)]
    assert every == [at for lo, hi in spans for at in range(lo, hi) if at >= end]
    assert all(lo < hi for lo, hi in rest)


def test_a_read_of_many_spans_asks_for_some_at_a_time():
    async def work():
        async with filled(PAGES) as (w, _):
            client = w.client()
            segment = await client.space("s").segment(0)
            with turned(registers_read_spans=4, registers_small=1000):
                offsets = range(0, PAGES, 2)
                values = await asyncio.gather(*(segment.read(at) for at in offsets))
            assert values == [b"v%d" % at for at in offsets]
            asked = [m.spans for wire in client.wires for m in wire.sent if isinstance(m, Read)]
            assert max(map(len, asked)) == 4
            assert len(asked) < PAGES, "about one message for each four, and not all of the rest"

    simulated(work)


def test_a_capture_whose_pages_are_slow_asks_for_each_page_once():
    async def work():
        async with filled(PAGES) as (w, _):
            client = w.client(timeout=600)
            segment = await client.space("s").segment(0)
            delay(w, PAGE_S)
            captured = await segment.capture()
            assert len(captured.written) == PAGES
            assert sent(client, Capture) == 6  # its first ballot is too low
            assert sent(client, Read) <= PAGES + 10

    simulated(work)


def test_a_read_whose_pages_are_slow_asks_for_each_page_once():
    async def work():
        async with filled(PAGES) as (w, _):
            client = w.client(timeout=600)
            segment = await client.space("s").segment(0)
            delay(w, PAGE_S)
            values = await segment.read_range()
            assert sum(value is not None for value in values) == PAGES
            assert sent(client, Read) <= PAGES + 20

    simulated(work)


def test_a_listener_catches_up_with_slow_pages_and_asks_for_each_once():
    async def work():
        async with filled(PAGES) as (w, _):
            client = w.client(timeout=600)
            delay(w, PAGE_S)
            async with client.space("s").listen() as events:
                heard = [await anext(events) for _ in range(PAGES + 1)]
            assert [e.address.offset for e in heard if isinstance(e, Written)] == [*range(PAGES)]
            assert sent(client, Read) <= PAGES + 20

    simulated(work)


@pytest.mark.parametrize("how", ["stops", "is cut off"])
def test_the_report_of_another_server_is_taken_when_one_falls_silent_in_the_midst(how):
    async def work():
        async with filled(PAGES) as (w, _):
            client = w.client(timeout=600)
            segment = await client.space("s").segment(0)
            delay(w, 0.01)
            capturing = asyncio.ensure_future(segment.capture())
            await asyncio.sleep(0.2)
            pages = [sum(isinstance(m, Read) for m in wire.sent) for wire in client.wires]
            reporting = max(range(3), key=pages.__getitem__)
            assert 5 < pages[reporting] < PAGES
            began = asyncio.get_running_loop().time()
            if how == "stops":
                client.wires[reporting].drop = lambda message: True
            else:
                client.wires[reporting].cut()
            assert len((await capturing).written) == PAGES
            assert asyncio.get_running_loop().time() - began < 5
            assert sent(client, Capture) == 6  # its first ballot is too low

    simulated(work)


def test_what_one_server_does_not_know_as_decided_is_asked_of_another():
    """Half-written registers and holes among the decided ones."""

    async def work():
        async with filled(PAGES) as (w, segment):
            token = (await segment.capture()).token
            loser = segment.space.client
            loser.wires[0].drop = loser.wires[1].drop = lambda message: True
            with contextlib.suppress(Exception):
                await segment.write(PAGES + 3, b"half", token, timeout=0.1)
            client = w.client(timeout=600)
            client.wires[0].cut()  # the report of the one that has it is needed
            theirs = await client.space("s").segment(0)
            captured = await theirs.capture()
            assert captured.written[PAGES + 3] == b"half"
            assert len(captured.written) == PAGES + 1

    simulated(work)


@pytest.mark.parametrize("call", ["capture", "read_range"])
def test_the_cost_of_a_long_report_is_linear(call):
    """Counted for the client and the servers together: rows that are all decided."""
    worlds = []

    def prepare(n):
        world = World(1)
        scene = filled(n, page_rows=16)
        w, _ = world.run(scene.__aenter__())
        worlds.append((world, scene))
        client = world.run(new_client(w))
        theirs = world.run(client.space("s").segment(0))
        return lambda: world.run(getattr(theirs, call)(timeout=600))

    async def new_client(w):
        return w.client(timeout=600)

    with turned(registers_part=64):
        assert_growth(prepare, [200, 400, 800], at_most=1.0)
    for world, scene in reversed(worlds):
        world.run(scene.__aexit__(None, None, None))
        world.__exit__(None, None, None)


def test_single_captures_and_writes_of_one_segment_cost_the_same_each():
    """Each has a ballot of its own, so that the servers' promises do not become one range."""
    worlds = []

    def prepare(n):
        world = World(1)
        w, segment = world.run(allocated(n))
        worlds.append((world, w))
        return lambda: world.run(singles(segment, n))

    async def allocated(n):
        w = Wires(3)
        return w, await w.client(timeout=600).space("s").alloc(size=n)

    async def singles(segment, n):
        for offset in range(n):
            captured = await segment.capture(offset)
            await segment.write(offset, b"v", captured.token)

    assert_growth(prepare, [50, 100, 200], at_most=1.0)
    for world, w in reversed(worlds):
        world.run(w.close())
        world.__exit__(None, None, None)


@pytest.mark.parametrize("code", [DAMAGED, INTERNAL])
def test_a_server_that_cannot_report_costs_a_read_no_patience(code):
    """The others are asked at once, and not when the one that said so is taken for silent."""

    async def work():
        async with filled(8, page_rows=8) as (w, _):
            client = w.client()
            segment = await client.space("s").segment(0)
            for server in range(3):
                wire = client.wires[server]

                def refuse(request_id, message, wire=wire):
                    if isinstance(message, Report):
                        message = Failed(code, "a sector is gone")
                    Wire.answer(wire, request_id, message)

                wire.answer = refuse
                began = asyncio.get_running_loop().time()
                for offset in range(6):
                    assert await segment.read(offset) == b"v%d" % offset
                assert sum(v is not None for v in await segment.read_range()) == 8
                assert asyncio.get_running_loop().time() - began < 0.1
                del wire.answer

    simulated(work)
