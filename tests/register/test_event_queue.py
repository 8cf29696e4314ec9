"""What waits for the consumer of a listener: in order, each once, bounded, and known to come."""

from __future__ import annotations

import asyncio

import pytest

from wormspace.errors import Closed
from wormspace.knobs import turned
from wormspace.registers.event_queue import EventQueue
from wormspace.registers.interface import Gap, RegistersTrimmed, Wrote


class Source:
    """A subscription that a test plays."""

    def __init__(self, *coming: tuple[int, int]) -> None:
        self.coming = set(coming)
        self.is_past = False
        self.calls: list[tuple] = []

    def is_coming(self, number: int, offset: int) -> bool:
        return (number, offset) in self.coming

    def on_reading(self) -> bool:
        self.calls.append(("reading",))
        return self.is_past

    def leave(self, first: int, stop: int) -> None:
        self.calls.append(("leave", first, stop))

    def close(self) -> None:
        self.calls.append(("close",))


def wrote(number: int, offset: int, size: int = 1) -> Wrote:
    return Wrote("s", number, offset, bytes(size))


def of(*sources: Source) -> EventQueue:
    queue = EventQueue()
    for source in sources:
        queue.add(source)
    return queue


async def taken(queue: EventQueue) -> list:
    """All that is there."""
    return [await anext(queue) for _ in range(len(queue._events))]


async def test_events_come_in_their_order_and_whoever_waits_gets_the_next() -> None:
    queue = of(Source())
    assert aiter(queue) is queue
    events = [wrote(1, 2), RegistersTrimmed("s", 0, 1), Gap(), wrote(1, 3)]
    for event in events:
        queue.emit(event)
    assert await taken(queue) == events
    waiting = asyncio.ensure_future(anext(queue))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.emit(events[0])
    assert await waiting == events[0]
    assert queue._bytes == 0


async def test_what_is_queued_or_on_its_way_in_any_partition_is_coming() -> None:
    queue = of(Source((1, 2)), Source((4, 5)))
    assert queue.is_coming(1, 2)
    assert queue.is_coming(4, 5)
    assert not any(queue.is_coming(*at) for at in [(2, 1), (5, 4), (1, 5), (1, 1)])
    queue.emit(wrote(4, 5), 1)
    queue.emit(wrote(1, 2), 1)  # which that partition had not announced
    for source in queue._subscriptions:
        source.coming.clear()
    assert queue.is_coming(4, 5)
    assert not queue.is_coming(1, 2), "it was reported before the reading began"
    assert len(await taken(queue)) == 2
    assert not queue.is_coming(4, 5)
    alone = EventQueue()
    alone.emit(wrote(1, 2))
    assert alone.is_coming(1, 2)
    assert not alone.is_coming(2, 1)


async def test_when_the_past_of_a_partition_is_read_what_was_queued_of_it_is_past_too() -> None:
    past, other = Source((1, 2)), Source((4, 5))
    past.is_past = True
    queue = of(other, past)
    queue.emit(Gap())
    queue.emit(wrote(4, 5), 0)
    queue.emit(wrote(1, 2), 1)
    past.coming.clear()
    other.coming.clear()
    assert queue.is_coming(1, 2)
    assert await anext(queue) == Gap()
    assert past.calls == other.calls == [("reading",)]
    assert not queue.is_coming(1, 2)
    assert queue.is_coming(4, 5)
    assert len(await taken(queue)) == 2
    assert past.calls == [("reading",)], "only a gap is followed by reading"


async def test_gaps_that_nobody_has_taken_yet_are_one() -> None:
    queue = of(Source())
    for event in (Gap(), wrote(0, 0), Gap(), Gap()):
        queue.emit(event)
    assert await anext(queue) == Gap()
    queue.emit(Gap())
    assert await taken(queue) == [wrote(0, 0), Gap()]


@pytest.mark.parametrize(
    ("limits", "events", "left"),
    [
        ({"registers_queue_events": 3}, [wrote(0, n) for n in range(3)], None),
        ({"registers_queue_events": 3}, [wrote(0, n) for n in range(4)], [Gap()]),
        ({"registers_queue_events": 2}, [RegistersTrimmed("s", 0, 1), Gap(), wrote(0, 1)], [Gap()]),
        (
            {"registers_queue_events": 2},
            [wrote(0, 0), wrote(0, 1), wrote(0, 2), wrote(0, 3)],
            [Gap(), wrote(0, 3)],
        ),
        ({"registers_queue_bytes": 10}, [wrote(0, 0, 5), wrote(0, 1, 4), wrote(0, 2, 9)], None),
        ({"registers_queue_bytes": 10}, [wrote(0, 0, 5), wrote(0, 1, 5), wrote(0, 2, 0)], [Gap()]),
    ],
)
async def test_a_consumer_that_is_far_behind_is_told_to_read(limits, events, left) -> None:
    with turned(**limits):
        queue = of(Source((0, 0), (0, 1)))
        for event in events:
            queue.emit(event)
        queue._subscriptions[0].coming.clear()
        expected = events if left is None else left
        assert [queue.is_coming(0, n) for n in (0, 1)] == [
            left is None and n < len(events) for n in (0, 1)
        ]
        assert await taken(queue) == expected
        assert (queue._bytes, queue._queued) == (0, {})


async def test_what_is_left_is_told_to_every_partition() -> None:
    one, two = Source(), Source()
    of(one, two).leave(3, 5)
    assert one.calls == two.calls == [("leave", 3, 5)]


async def test_an_error_comes_after_what_was_there() -> None:
    queue = of(Source())
    queue.emit(wrote(0, 0))
    queue.fail(Closed("the client was closed"))
    assert await anext(queue) == wrote(0, 0)
    for _ in range(2):
        with pytest.raises(Closed):
            await anext(queue)
    waiting = asyncio.ensure_future(anext(of(Source())))
    await asyncio.sleep(0)
    waiting.cancel()


async def test_whoever_waits_is_woken_by_the_end() -> None:
    for end in (lambda queue: queue.fail(Closed("closed")), lambda queue: queue.close()):
        queue = of(Source())
        waiting = asyncio.ensure_future(anext(queue))
        await asyncio.sleep(0)
        end(queue)
        with pytest.raises((Closed, StopAsyncIteration, RuntimeError)):
            await waiting


async def test_closing_ends_the_iteration_and_each_subscription_once() -> None:
    closed, sources = [], [Source(), Source()]
    queue = EventQueue(closed.append)
    for source in sources:
        queue.add(source)
    queue.emit(wrote(0, 0))
    queue.emit(Gap())
    queue.close()
    queue.close()
    assert [source.calls for source in sources] == [[("close",)]] * 2
    assert closed == [queue]
    assert [event async for event in queue] == []
    failed = of(Source())
    failed.fail(Closed("closed"))
    failed.close()
    assert failed._subscriptions[0].calls == [("close",)]
    assert [event async for event in failed] == []
