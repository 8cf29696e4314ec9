"""A stream survives those who stop waiting for it, and leaves nothing behind."""

import asyncio
import gc

import pytest

import wormspace
from wires import world
from wormspace import Address, Allocated, UsageError, Written
from wormspace.space.stream import Stream

NUMBERS = [Written(Address(0, i), b"%d" % i) for i in range(8)]


class Counter(Stream[int]):
    """Counts to `last`, with a few waits on the way to each number."""

    def __init__(self, last: int, released: list) -> None:
        super().__init__(lambda: released.append("released"))
        self._at = 0
        self._last = last

    async def _more(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        if self._at == self._last:
            raise StopAsyncIteration
        if self._at == 3:
            self._at += 1
            raise ValueError("three")
        self._items.append(self._at)
        self._at += 1


async def cancelled_after(steps: int, stream):
    """A wait for the next item that is cancelled after so many turns of the loop."""
    waiting = asyncio.ensure_future(anext(stream))
    for _ in range(steps):
        await asyncio.sleep(0)
    waiting.cancel()
    try:
        return [await waiting]
    except asyncio.CancelledError:
        return []


async def test_a_wait_that_is_cancelled_at_any_moment_loses_nothing():
    for steps in range(12):
        stream, heard = Counter(3, []), []
        for _ in range(30):
            heard += await cancelled_after(steps, stream)
            if len(heard) == 3:
                break
        if len(heard) < 3:
            heard += [await anext(stream) for _ in range(3 - len(heard))]
        assert heard == [0, 1, 2]


async def test_an_error_is_raised_once_and_ends_the_stream():
    released = []
    stream = Counter(9, released)
    with pytest.raises(ValueError, match="three"):
        [number async for number in stream]
    assert [number async for number in stream] == []
    assert released == ["released"]


async def test_the_real_end_and_closing_release_once():
    released = []
    stream = Counter(2, released)
    assert [number async for number in stream] == [0, 1]
    await stream.close()
    async with Counter(2, released) as other:
        assert await anext(other) == 0
    with pytest.raises(StopAsyncIteration):
        await anext(other)
    assert released == ["released"] * 2


async def test_a_second_consumer_is_refused_and_the_first_goes_on():
    stream = Counter(2, [])
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    with pytest.raises(UsageError, match="one consumer"):
        await anext(stream)
    assert await first == 0


async def test_another_event_loop_is_refused():
    stream = Counter(2, [])

    async def elsewhere():
        await anext(stream)

    with pytest.raises(UsageError, match="event loop"):
        await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
    assert await anext(stream) == 0


async def test_a_listener_goes_on_after_waits_that_timed_out():
    async with wormspace.connect("memory:") as worm:
        space = worm.space("s")
        segment = await space.alloc(size=8)
        events, heard = space.listen(), []
        for i in range(8):
            await segment.unsafe_write(i, b"%d" % i)
        for steps in [*range(40), 1000]:
            heard += await cancelled_after(steps, events)
            if len(heard) == 9:
                break
        assert heard == [Allocated(0, 8, b""), *NUMBERS]
        await segment.trim()
        assert isinstance(await anext(events), wormspace.SegmentsTrimmed)


async def test_a_listener_hears_what_happens_from_the_call_on_although_nobody_waits_yet():
    async with wormspace.connect("memory:") as worm:
        space = worm.space("s")
        segment = await space.alloc(size=8)
        events = segment.listen()
        await segment.unsafe_write(0, b"0")
        assert [await anext(events), await anext(events)] == [Allocated(0, 8, b""), NUMBERS[0]]


@pytest.mark.parametrize("how", ["dropped", "closed", "left"])
async def test_nothing_is_left_of_a_listener(how):
    async with world() as w:
        worm = w.client()
        space = worm.space("s")
        await space.alloc(size=8)
        events = space.listen()
        await anext(events)
        if how == "left":
            async with events:
                pass
        elif how == "closed":
            await events.close()
        del events
        gc.collect()
        await asyncio.sleep(0.01)
        assert [node.metrics()["listeners"] for node in w.nodes] == [0, 0, 0]
        assert not worm.registers._listenings


async def test_closing_a_listener_ends_the_wait_for_its_next_event():
    async with wormspace.connect("memory:") as worm:
        events = worm.space("s").listen()
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.01)
        await events.close()
        with pytest.raises(StopAsyncIteration):
            await waiting
