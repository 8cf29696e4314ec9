"""Every public awaitable of clients, spaces and segments, cancelled at each of its waits."""

import asyncio
import contextlib

import pytest

import wormspace
from cancelling import cancel_everywhere
from wires import world
from wormspace import Address, Allocated, Written


class Scene:
    """Three servers, two clients of them, and a segment of which registers 0 and 1 are written."""

    def __init__(self, w) -> None:
        self.world = w
        self.worm = w.client()
        self.other = w.client()
        self.space = self.worm.space("s")

    async def prepare(self) -> None:
        self.segment = await self.space.alloc(b"m", size=8)
        self.token = (await self.segment.capture()).token
        await self.segment.write_range(0, [b"zero", b"one"], self.token)
        await self.half_write(7)
        self.fresh = await self.worm.space("other").alloc(size=1)

    async def half_write(self, offset: int) -> None:
        """A write that one server has, and no other."""
        with contextlib.suppress(wormspace.Unavailable):
            theirs = await self.other.space("s").segment(0)
            for wire in self.other.wires[1:]:
                wire.drop = lambda message: True
            await theirs.write(offset, b"half", self.token, timeout=0.1)
        for wire in self.other.wires[1:]:
            wire.drop = lambda message: False

    def check_idle(self) -> None:
        """Nothing is under way in the client."""
        registers = self.worm.registers
        assert not registers._tasks
        assert not registers._listenings
        assert [dict(p._operations) for p in registers._partitions] == [{}]
        assert all(not writes.is_under_way for writes in registers._memory.writes.values())


@contextlib.asynccontextmanager
async def scene():
    async with world() as w:
        it = Scene(w)
        await it.prepare()
        yield it


async def unchanged(it) -> None:
    """The segment holds what it held, and the client serves."""
    values = await it.segment.read_range()
    assert values[:2] == [b"zero", b"one"]
    assert values[7] in (None, b"half")
    assert await it.space.check(0) == b"m"


async def written(it) -> None:
    """The write that was cancelled may be sent again, and is right if it was decided."""
    await it.segment.write(3, b"v", it.token)
    assert await it.segment.read(3) == b"v"


async def written_unsafely(it) -> None:
    """The same again is safe."""
    await it.fresh.unsafe_write(0, b"v")
    assert await it.fresh.read(0) == b"v"


async def captured(it) -> None:
    """What was met is completed by then; the next capture gets the registers."""
    again = await it.segment.capture()
    assert dict(again.written) == {0: b"zero", 1: b"one", 7: b"half"}
    await it.segment.write(3, b"mine", again.token)


async def allocated(it) -> None:
    """One segment more, or none."""
    tail = await it.space.tail()
    assert tail in (1, 2)
    assert (await it.space.alloc(size=1)).number == tail


async def trimmed(it) -> None:
    """The trim may be repeated."""
    await it.space.trim(0)
    with pytest.raises(wormspace.Trimmed):
        await it.segment.read(0)
    assert await it.space.head() == 1


async def settled(it) -> None:
    """Decided one way or the other, and for ever."""
    value = await it.segment.settle(5, b"second")
    assert value in (b"first", b"second")
    assert await it.other.space("s").check(0) == b"m"
    assert (await it.segment.read(5)) == value


CALLS = {
    "capture": (lambda it: it.segment.capture(), captured),
    "write": (lambda it: it.segment.write(3, b"v", it.token), written),
    "write_range": (lambda it: it.segment.write_range(3, [b"v", b"w"], it.token), written),
    "unsafe_write": (lambda it: it.fresh.unsafe_write(0, b"v"), written_unsafely),
    "read": (lambda it: it.segment.read(0), unchanged),
    "read of what is half-written": (lambda it: it.segment.read(7), unchanged),
    "read_range": (lambda it: it.segment.read_range(), unchanged),
    "settle": (lambda it: it.segment.settle(5, b"first"), settled),
    "holds": (lambda it: it.segment.holds(it.token, 3), unchanged),
    "inspect": (lambda it: it.segment.inspect(), unchanged),
    "trim of a segment": (lambda it: it.segment.trim(), trimmed),
    "alloc": (lambda it: it.space.alloc(b"n", size=2), allocated),
    "segment": (lambda it: it.space.segment(0), unchanged),
    "check": (lambda it: it.space.check(0), unchanged),
    "tail": (lambda it: it.space.tail(), unchanged),
    "head": (lambda it: it.space.head(), unchanged),
    "trim": (lambda it: it.space.trim(0), trimmed),
    "trim_prefix": (lambda it: it.space.trim_prefix(1), trimmed),
    "spaces": (lambda it: it.worm.spaces(), unchanged),
    "servers": (lambda it: it.worm.servers(), unchanged),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_cancelled_call_holds_nothing_and_may_be_made_again(name):
    act, check = CALLS[name]

    async def idle_then(it):
        it.check_idle()
        await check(it)

    assert cancel_everywhere(scene, act, idle_then) > 0


@contextlib.asynccontextmanager
async def lock():
    yield asyncio.Lock()


async def is_free(lock):
    assert not lock.locked()


@pytest.mark.parametrize("fault", ["holds", "leaks", "swallows"])
def test_the_harness_notices(fault):
    async def act(lock):
        if fault == "holds":
            await lock.acquire()
        elif fault == "leaks":
            asyncio.ensure_future(asyncio.sleep(1e6))  # noqa: RUF006
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            if fault != "swallows":
                raise
        if fault == "holds":
            lock.release()

    with pytest.raises(AssertionError):
        cancel_everywhere(lock, act, is_free)


def test_closing_goes_on_although_somebody_stops_waiting_for_it():
    @contextlib.asynccontextmanager
    async def busy():
        async with scene() as it:
            for wire in it.worm.wires:
                wire.drop = lambda message: True
            it.waiting = asyncio.ensure_future(it.segment.read(0))
            await asyncio.sleep(0.1)
            yield it

    async def closed(it):
        assert isinstance(it.waiting.exception(), wormspace.Closed)
        assert all(wire._receiver is None for wire in it.worm.wires)
        await it.worm.close()
        with pytest.raises(wormspace.Closed):
            await it.segment.read(0)

    assert cancel_everywhere(busy, lambda it: it.worm.close(), closed) > 0


def test_a_listener_is_whole_wherever_a_wait_for_it_was_cancelled():
    @contextlib.asynccontextmanager
    async def hearing():
        async with scene() as it:
            it.heard = []
            async with it.space.listen() as it.events:
                yield it

    async def hear(it):
        while len(it.heard) < 4:
            it.heard.append(await anext(it.events))

    async def rest(it):
        await hear(it)
        await it.segment.write(3, b"v", it.token)
        it.heard.append(await anext(it.events))
        assert it.heard == [
            Allocated(0, 8, b"m"),
            Written(Address(0, 0), b"zero"),
            Written(Address(0, 1), b"one"),
            Written(Address(0, 7), b"half"),
            Written(Address(0, 3), b"v"),
        ]

    assert cancel_everywhere(hearing, hear, rest) > 0
