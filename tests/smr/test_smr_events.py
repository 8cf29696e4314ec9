"""Streams of events: each event once and in order, or an error; no end that nobody asked for."""

import asyncio
import contextlib
import gc
import random

import msgspec
import pytest

import wormspace
from cancelling import cancel_everywhere
from wormspace.errors import Closed, UsageError
from wormspace.knobs import turned
from wormspace.rpc.caller import NoAnswer
from wormspace.smr import EventsLost, KeyValue, Sticky, attach, remote
from wormspace.smr.events import RemoteEvents
from wormspace.smr.records import Listened


@contextlib.asynccontextmanager
async def stores():
    """A replica, and a client of it."""
    async with (
        wormspace.connect("memory:") as worm,
        await worm.replicate(
            KeyValue, "kv", leadership=Sticky(0.3), rng=random.Random(1)
        ) as replica,
    ):
        member = replica.status().member
        address = [(member.host, member.port)]
        async with await attach(KeyValue, "kv", address, rng=random.Random(2)) as remote:
            yield {"replica": replica, "remote": remote}


SIDES = ["replica", "remote"]


async def keys(stream, count):
    return [(await anext(stream))[1].key for _ in range(count)]


@pytest.mark.parametrize("side", SIDES)
async def test_a_wait_that_is_given_up_loses_nothing(side):
    async with stores() as sides:
        stream, seen = sides[side].listen(), []
        for i in range(5):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    while True:
                        seen += await keys(stream, 1)
            await sides["replica"].put(f"{i}", b"")
        async with asyncio.timeout(10):
            seen += await keys(stream, 5 - len(seen))
        assert seen == ["0", "1", "2", "3", "4"]
        await stream.close()


@pytest.mark.parametrize("side", SIDES)
async def test_a_stream_has_its_place_from_the_call_on(side):
    async with stores() as sides:
        await sides[side].put("before", b"")
        stream = sides[side].listen()
        await sides[side].put("after", b"")
        assert await anext(stream) == (2, await _change(sides[side], "after"))


async def _change(store, key):
    entry = await store.entry(key)
    return wormspace.smr.Change(key, entry.value, entry.revision)


@pytest.mark.parametrize("side", SIDES)
async def test_who_is_far_behind_reads_on_page_by_page(side):
    with turned(smr_listen_events=3, smr_listen_bytes=1):
        async with stores() as sides:
            for i in range(20):
                await sides["replica"].put(f"{i:02}", b"")
            stream = sides[side].listen(6)
            assert await keys(stream, 15) == [f"{i:02}" for i in range(5, 20)]


async def test_events_that_are_larger_than_a_message_together_come_all_the_same():
    async with stores() as sides:
        for i in range(12):
            await sides["replica"].put(f"{i:02}", bytes(900_000))
        async with asyncio.timeout(60):
            assert len(await keys(sides["remote"].listen(1), 12)) == 12


@pytest.mark.parametrize("side", SIDES)
async def test_what_is_not_held_any_more_is_told_and_never_passed_over(side):
    with turned(smr_events_kept=4):
        async with stores() as sides:
            slow = sides[side].listen()
            await sides[side].put("00", b"")
            for i in range(1, 20):
                await sides["replica"].put(f"{i:02}", b"")
            for stream in (slow, sides[side].listen(4)):
                with pytest.raises(EventsLost) as lost:
                    await anext(stream)
                assert lost.value.first == 17
                with pytest.raises(StopAsyncIteration):
                    await anext(stream)
            on = sides[side].listen(lost.value.first)
            assert await keys(on, 4) == ["16", "17", "18", "19"]


@pytest.mark.parametrize("side", SIDES)
async def test_streams_that_are_closed_or_dropped_leave_nothing(side):
    async with stores() as sides:
        before = asyncio.all_tasks()
        bells = sides["replica"]._core.bells
        streams = [sides[side].listen() for _ in range(5)]
        for stream in streams:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(stream)
        for stream in streams[:3]:
            await stream.close()
        del stream, streams
        gc.collect()
        async with asyncio.timeout(10):
            while len(bells) or asyncio.all_tasks() - before:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_a_stream_that_ends_before_anybody_reads_it_alarms_nobody(caplog, monkeypatch):
    async def never(listener, after):
        await asyncio.Event().wait()

    monkeypatch.setattr(remote.Listener, "ask", never)
    async with stores() as sides:
        stream = sides["remote"].listen()
        await asyncio.sleep(0)
        await sides["remote"].close()
        await asyncio.sleep(0)
        del stream
        gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def test_a_stream_whose_client_is_closed_at_once_says_so():
    async with stores() as sides:
        stream = sides["remote"].listen()
        await sides["remote"].close()
        with pytest.raises(Closed):
            await asyncio.wait_for(anext(stream), 5)


@pytest.mark.parametrize("side", SIDES)
async def test_who_waits_is_told_when_the_stream_or_what_it_follows_is_closed(side):
    async with stores() as sides:
        one, other = sides[side].listen(), sides[side].listen(1)
        waiting = [asyncio.ensure_future(anext(stream)) for stream in (one, other)]
        await asyncio.sleep(0.05)
        await one.close()
        await sides[side].close()
        ended = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
        assert [type(error) for error in ended] == [StopAsyncIteration, Closed]
        with pytest.raises(Closed):
            sides[side].listen()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("start", [0, -1, (1 << 63) + 1, 1.0, "1", True])
async def test_what_is_no_number_is_refused_at_the_call(side, start):
    async with stores() as sides:
        with pytest.raises(UsageError, match="numbered from 1"):
            sides[side].listen(start)


@pytest.mark.parametrize("side", SIDES)
def test_a_wait_can_be_cancelled_anywhere(side):
    @contextlib.asynccontextmanager
    async def setting():
        async with stores() as sides:
            sides["stream"] = sides[side].listen(1)
            sides["seen"] = []
            yield sides

    async def act(sides):
        await sides["replica"].put("a", b"")
        sides["seen"].append(await anext(sides["stream"]))

    async def check(sides):
        await sides["replica"].put("b", b"")
        async with asyncio.timeout(10):
            while not sides["seen"] or sides["seen"][-1][1].key != "b":
                sides["seen"].append(await anext(sides["stream"]))
        numbers = [number for number, _ in sides["seen"]]
        assert numbers == list(range(1, len(numbers) + 1))
        await sides["stream"].close()

    # A remote stream asks on while nobody waits: that is its one task, and it ends with it.
    assert cancel_everywhere(setting, act, check) >= 2


class Answering:
    """A line to two replicas that answer what the test says, one after the other."""

    addresses = (("h", 1), ("h", 2))

    def __init__(self, *answers):
        self._answers = list(answers)

    async def events_at(self, address, after):
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize("silent", range(5))
async def test_events_that_are_lost_are_said_to_be_however_long_nobody_answered(
    silent, monkeypatch
):
    monkeypatch.setattr(remote, "FOLLOW_RETRY_S", 0.0)
    lost = [Listened(first, [], lost=True) for first in (9, 7)]
    listener = remote.Listener(Answering(*[NoAnswer("nobody")] * silent, *lost))
    with pytest.raises(EventsLost, match="event 4 is held by no replica") as raised:
        await listener.ask(3)
    assert raised.value.first == (7 if silent == 0 else 9)
    listener = remote.Listener(Answering(*[NoAnswer("nobody")] * silent, Listened(4, [])))
    assert await listener.ask(3) == Listened(4, [])


async def test_an_event_of_another_version_is_told_and_can_be_passed_over():
    def decode(raw):
        return msgspec.msgpack.decode(raw, type=int)

    kept = [msgspec.Raw(msgspec.msgpack.encode(one)) for one in (1, 2, "three", 4)]

    async def ask(after):
        return Listened(after + 1, kept[after:])

    def events(after):
        begun = asyncio.get_running_loop().create_future()
        begun.set_result(after)
        return RemoteEvents(ask, begun, decode)

    stream = events(0)
    assert [await anext(stream), await anext(stream)] == [(1, 1), (2, 2)]
    with pytest.raises(EventsLost, match=r"event 3 is .* of another version") as raised:
        await anext(stream)
    assert await anext(events(raised.value.first - 1)) == (4, 4)
