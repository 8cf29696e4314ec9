"""Who follows an object's events: pages of them, waits that are woken, places that go on."""

import asyncio
from collections import deque
from types import SimpleNamespace

import msgspec
import pytest

from wormspace.errors import Closed, UsageError
from wormspace.knobs import turned
from wormspace.sim import World
from wormspace.smr.errors import EventsLost
from wormspace.smr.events import (
    LISTEN_S,
    Bell,
    Bells,
    Events,
    RemoteEvents,
    before,
    next_events,
    page,
)
from wormspace.smr.records import Listened

ENCODE = msgspec.msgpack.encode


def timely(work):
    def test():
        with World(0) as world:
            world.run(work(), deadline_s=10_000)

    test.__name__ = work.__name__
    return test


class Core:
    """A replica, as far as its followers can tell; its events are numbers."""

    def __init__(self, emitted=0, held=5):
        self.bells, self.failed = Bells(), None
        engine = SimpleNamespace(emitted=emitted, recent=deque(maxlen=held))
        engine.recent.extend(range(max(1, emitted - held + 1), emitted + 1))
        self.learner = SimpleNamespace(engine=engine)

    def emit(self, count=1):
        engine = self.learner.engine
        for _ in range(count):
            engine.emitted += 1
            engine.recent.append(engine.emitted)
        self.bells.ring()

    def require_sound(self):
        if self.failed is not None:
            raise self.failed


# ---------------------------------------------------------------- bells


@timely
async def test_a_bell_wakes_who_waits_and_rings_for_nobody_else():
    bell = Bell()
    bell.ring()
    waiting = asyncio.ensure_future(bell.heard())
    await asyncio.sleep(1)
    assert not waiting.done(), "it was rung before"
    bell.ring()
    bell.ring()
    await asyncio.sleep(0)
    assert waiting.done()
    bell.ring()
    given_up = asyncio.ensure_future(bell.heard())
    await asyncio.sleep(0)
    given_up.cancel()
    bell.ring()
    await asyncio.sleep(0)
    assert given_up.cancelled()
    assert bell._waiting is None


@timely
async def test_all_bells_are_rung_and_those_taken_down_wake_who_waits():
    bells = Bells()
    hung = [bells.hang() for _ in range(3)]
    waiting = [asyncio.ensure_future(bell.heard()) for bell in hung]
    await asyncio.sleep(0)
    bells.take_down(hung[0])
    await asyncio.sleep(0)
    assert [one.done() for one in waiting] == [True, False, False]
    assert len(bells) == 2
    bells.take_down(hung[0])
    bells.ring()
    await asyncio.sleep(0)
    assert all(one.done() for one in waiting)


# ---------------------------------------------------------------- pages


@timely
async def test_a_page_has_what_comes_after_a_number_or_says_that_it_is_lost():
    with turned(smr_listen_events=3):
        for emitted in range(9):
            engine = Core(emitted, held=5).learner.engine
            oldest = max(1, emitted - 4)
            for after in range(emitted + 3):
                if after >= oldest - 1:
                    expected = list(range(after + 1, emitted + 1))[:3]
                    assert page(engine, after) == expected
                    continue
                with pytest.raises(EventsLost) as found:
                    page(engine, after)
                assert found.value.first == oldest
                assert str(found.value) == (
                    f"event {after + 1} is not held any more: the oldest here is {oldest}. Read "
                    f"the state, and go on with listen({oldest})"
                )
                assert page(engine, oldest - 1)[0] == oldest


@timely
async def test_somebody_elsewhere_has_a_page_at_once_or_when_there_is_one_or_none_after_a_while():
    core = Core(4)
    loop = asyncio.get_running_loop()
    assert await next_events(core, -1) == Listened(5, [])
    for after in (0, 2):
        answer = await next_events(core, after)
        assert (answer.first, answer.lost) == (after + 1, False)
        assert [msgspec.msgpack.decode(one) for one in answer.events] == list(range(after + 1, 5))
    assert loop.time() == 0
    waiting = asyncio.ensure_future(next_events(core, 5))
    await asyncio.sleep(LISTEN_S / 4)
    core.emit()
    await asyncio.sleep(LISTEN_S / 4)
    assert not waiting.done(), "that was the fifth"
    assert len(core.bells) == 1
    core.emit(2)
    await asyncio.sleep(0.001)
    answer = waiting.result()
    assert (answer.first, [bytes(one) for one in answer.events]) == (6, [b"\x06", b"\x07"])
    began = loop.time()
    for after in (7, 9):
        assert await next_events(core, after) == Listened(after + 1, [])
    assert loop.time() - began == pytest.approx(2 * LISTEN_S)
    assert len(core.bells) == 0
    with pytest.raises(EventsLost):
        await next_events(core, 1)
    assert len(core.bells) == 0


@timely
async def test_a_page_has_so_many_bytes_and_one_event_at_least():
    core = Core()
    texts = ["x" * 10, "y" * 10, "z" * 10, "a" * 100, "b"]
    core.learner.engine.recent.extend(texts)
    core.learner.engine.emitted = 5
    raws = [ENCODE(text) for text in texts]  # of 11, 11, 11, 102 and 2 bytes
    for most, after, count in [
        *((33, 0, 3), (32, 0, 2), (22, 0, 2), (21, 0, 1), (1, 0, 1), (11, 1, 1), (134, 0, 3)),
        *((135, 0, 4), (137, 0, 5), (1, 3, 1), (104, 3, 2), (103, 3, 1)),
    ]:
        with turned(smr_listen_bytes=most):
            answer = await next_events(core, after)
        assert [bytes(one) for one in answer.events] == raws[after : after + count], (most, after)


# ---------------------------------------------------------------- in this process


@timely
async def test_a_stream_goes_on_from_its_place_page_by_page():
    with turned(smr_listen_events=2):
        core = Core(3)
        all_, later = Events(core, 1), Events(core, None)
        core.emit(2)
        seen = [await anext(all_) for _ in range(5)]
        assert seen == [(n, n) for n in range(1, 6)]
        assert [await anext(later) for _ in range(2)] == [(4, 4), (5, 5)]
        waiting = asyncio.ensure_future(anext(later))
        await asyncio.sleep(1)
        assert not waiting.done()
        core.emit()
        assert await waiting == (6, 6)
        assert len(core.bells) == 2
        await later.close()
        assert len(core.bells) == 1
        waiting = asyncio.ensure_future(anext(all_))
        await asyncio.sleep(0)
        assert await waiting == (6, 6)
        waiting = asyncio.ensure_future(anext(all_))
        await asyncio.sleep(0)
        core.failed = Closed("the replica is closed")
        core.bells.ring()
        with pytest.raises(Closed):
            await waiting
        assert len(core.bells) == 0
        with pytest.raises(Closed):
            Events(core, 1)
        assert len(core.bells) == 0


@timely
async def test_what_is_lost_ends_a_stream_and_the_next_one_begins_where_it_says():
    core = Core(9, held=4)
    stream = Events(core, 3)
    with pytest.raises(EventsLost) as found:
        await anext(stream)
    again = Events(core, found.value.first)
    assert [await anext(again) for _ in range(4)] == [(n, n) for n in range(6, 10)]
    with pytest.raises(UsageError):
        Events(core, 0)
    await again.close()
    assert len(core.bells) == 0


@pytest.mark.parametrize(
    ("start", "after"), [(None, None), (1, 0), (2, 1), (1 << 63, (1 << 63) - 1)]
)
def test_what_is_a_number_of_an_event(start, after):
    assert before(start) == after


@pytest.mark.parametrize("start", [-1, 0, (1 << 63) + 1, 1.0, "1", True, b""])
def test_what_is_none(start):
    with pytest.raises(UsageError, match="numbered from 1: begin with one of them, not "):
        before(start)


# ---------------------------------------------------------------- of an object elsewhere


class Asked:
    """Answers of replicas elsewhere, by turns: each after a second; what is an error is raised."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    async def __call__(self, after):
        self.asked.append(after)
        await asyncio.sleep(1)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def begun(at):
    future = asyncio.get_running_loop().create_future()
    if at is not None:
        future.set_result(at)
    return future


def stream_of(ask, at=0):
    return RemoteEvents(ask, begun(at), msgspec.msgpack.Decoder(int).decode)


def numbers(first, *found):
    return Listened(first, [msgspec.Raw(ENCODE(one)) for one in found])


@timely
async def test_one_question_is_under_way_and_the_next_goes_on_behind_what_came():
    ask = Asked(numbers(1, 10, 20), numbers(3), numbers(3, 30), numbers(4, 40))
    stream = stream_of(ask)
    assert [await anext(stream) for _ in range(4)] == [(1, 10), (2, 20), (3, 30), (4, 40)]
    assert ask.asked == [0, 2, 2, 3]
    ask = Asked(numbers(8, 1), numbers(9, 2))
    stream = stream_of(ask, at=7)
    for _ in range(2):  # a wait that is given up loses nothing
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.4):
                await anext(stream)
    assert await anext(stream) == (8, 1)
    assert await anext(stream) == (9, 2)
    assert ask.asked == [7, 8]


@timely
async def test_it_begins_once_it_is_known_where():
    where, ask = begun(None), Asked(numbers(6, 1), numbers(7, 2))
    stream = RemoteEvents(ask, where, msgspec.msgpack.Decoder(int).decode)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(3)
    assert ask.asked == []
    where.set_result(5)
    assert await waiting == (6, 1)
    assert await anext(stream) == (7, 2)
    assert ask.asked == [5, 6]


@timely
async def test_a_replica_that_has_more_than_was_asked_for_is_believed():
    stream = stream_of(Asked(numbers(4), numbers(4, 1)))
    assert await anext(stream) == (4, 1)


@timely
async def test_an_event_of_another_version_is_told_after_those_before_it():
    ask = Asked(numbers(1, 10, "x", 30), numbers(2, "x", 30), numbers(2, "y"))
    stream = stream_of(ask)
    assert await anext(stream) == (1, 10)
    with pytest.raises(EventsLost, match=r"^event 2 is not what this class declares") as found:
        await anext(stream)
    assert ask.asked == [0, 1]
    assert found.value.first == 3
    assert str(found.value).endswith(". Go on with listen(3)")


@timely
async def test_what_the_question_raises_is_raised_and_a_closed_stream_ends():
    stream = stream_of(Asked(EventsLost("gone", 7)))
    with pytest.raises(EventsLost, match="gone"):
        await anext(stream)
    for at in (None, 0):
        where, ended = begun(at), []

        async def ask(after, ended=ended):
            try:
                await asyncio.sleep(99)
            finally:
                ended.append(after)

        stream = RemoteEvents(ask, where, lambda one: one)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(1)
        await stream.close()
        with pytest.raises(StopAsyncIteration):
            await waiting
        assert where.cancelled() == (at is None)
        assert ended == ([] if at is None else [0]), "nobody is asked any more"
