"""The caller's side: which calls travel together, when, and what becomes of each."""

import asyncio
import random
from contextlib import asynccontextmanager

import msgspec
import pytest

from virtual import virtually
from wormspace.errors import Closed, ProtocolViolation, ValueTooLarge
from wormspace.knobs import KNOBS, turned
from wormspace.smr import CommandFailed, SessionExpired, StateMachine, command, query
from wormspace.smr.consistency import Session
from wormspace.smr.records import Fault, Outcome, Reply, encode
from wormspace.smr.submit import Asker, PacketTooLarge, Submitter, as_exception
from wormspace.space import Address

UNDER_WAY, PACKET_CALLS = KNOBS.smr_packets_under_way, KNOBS.smr_packet_calls


class Counter(StateMachine):
    total: int = 0

    @command
    def add(self, amount: int) -> int:
        self.total += amount
        return self.total


class Road:
    """Where packets go; each arrives when it is told to."""

    def __init__(self):
        self.packets = []
        self.sizes = []
        self.submitter = Submitter(Counter.declaration, 60.0, random.Random(1), self._dispatch)

    async def _dispatch(self, packet, deadline):
        _, [(_, amounts)] = msgspec.msgpack.decode(packet.commands)
        self.sizes.append(len(amounts))
        arrived = asyncio.get_running_loop().create_future()
        self.packets.append(arrived)
        await arrived
        return Reply(encode(Outcome(amounts, {})), Address(0, 1))

    def add(self, count):
        method = Counter.declaration.methods["add"]
        session = Session()
        return [self.submitter.add(method, (n,), session) for n in range(count)]

    def arrive(self):
        """The packet that left first arrives."""
        self.packets.pop(0).set_result(None)


async def turns(count=4):
    for _ in range(count):
        await asyncio.sleep(0)


@asynccontextmanager
async def opened():
    road = Road()
    try:
        yield road
    finally:
        await road.submitter.close()


async def test_the_calls_of_a_turn_travel_together():
    async with opened() as road:
        futures = road.add(5)
        await turns()
        assert road.sizes == [5]
        road.arrive()
        assert await asyncio.gather(*futures) == list(range(5))


async def test_what_is_called_while_enough_is_under_way_travels_in_the_next_packet():
    async with opened() as road:
        for n in range(UNDER_WAY):
            road.add(n + 1)
            await turns()
        waiting = road.add(3) + road.add(4)
        await turns()
        assert road.sizes == list(range(1, UNDER_WAY + 1))
        road.arrive()
        await turns()
        assert road.sizes[UNDER_WAY:] == [7]
        assert not any(future.done() for future in waiting)


async def test_a_full_packet_leaves_before_the_turn_is_over():
    async with opened() as road:
        before = len(asyncio.all_tasks())
        road.add(PACKET_CALLS + 1)
        assert len(asyncio.all_tasks()) == before + 1
        await turns()
        assert road.sizes == [PACKET_CALLS, 1]


async def test_no_more_packets_than_may_be_under_way_however_much_is_called():
    async with opened() as road:
        futures = road.add((UNDER_WAY + 2) * PACKET_CALLS)
        await turns()
        assert road.sizes == [PACKET_CALLS] * UNDER_WAY
        for more in (1, 2):
            road.arrive()
            await turns()
            assert road.sizes == [PACKET_CALLS] * (UNDER_WAY + more)
        for _ in range(len(road.packets)):
            road.arrive()
        assert len(await asyncio.gather(*futures)) == (UNDER_WAY + 2) * PACKET_CALLS


async def test_a_fault_of_ours_on_the_way_leaves_nobody_waiting():
    class Broken(Exception):
        pass

    async def carry(packet, deadline):
        raise Broken

    submitter = Submitter(Counter.declaration, 60.0, random.Random(1), carry)
    call = submitter.add(Counter.declaration.methods["add"], (1,), Session())
    async with asyncio.timeout(5):
        with pytest.raises(Broken):
            await call
    await submitter.close()


# ---------------------------------------------------------------- what becomes of calls


class Till(StateMachine):
    total: int = 0

    @command
    def add(self, amount: int) -> int:
        self.total += amount
        return self.total

    @command
    def note(self, text: str) -> None:
        pass

    @command
    def pair(self) -> tuple[int, str]:
        return (1, "a")

    @query
    def read(self) -> int:
        return self.total


class Carried:
    """Notes what is carried; `answers` make the outcome of each, in turn."""

    def __init__(self, *answers, timeout_s=60.0, kind=Submitter):
        self.answers, self.packets, self.deadlines = list(answers), [], []
        rng = [random.Random(1)] if kind is Submitter else []
        carry = self._dispatch if kind is Submitter else self._dispatch_query
        self.gatherer = kind(Till.declaration, timeout_s, *rng, carry)
        self.loop = asyncio.get_running_loop()
        self.seen = []

    async def _dispatch(self, packet, deadline):
        self.packets.append(packet)
        self.deadlines.append(deadline)
        answer = self.answers.pop(0) if self.answers else Outcome([None])
        if isinstance(answer, asyncio.Future):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return Reply(encode(answer), Address(0, len(self.packets)))

    async def _dispatch_query(self, queries, session, deadline):
        self.seen.append(session.seen)
        return await self._dispatch(queries, deadline)

    def call(self, name, *arguments, session=None):
        method = Till.declaration.methods[name]
        return self.gatherer.add(method, arguments, session or Session())

    async def results(self, *calls):
        found = await asyncio.gather(*calls, return_exceptions=True)
        await self.gatherer.close()
        return found


def virtual(work):
    return virtually(lambda worm: work())


def test_each_call_has_the_time_from_when_it_was_made():
    async def work():
        waiting = [asyncio.get_running_loop().create_future() for _ in range(UNDER_WAY)]
        one = Carried(*waiting, timeout_s=7.0)
        for _ in range(UNDER_WAY):
            one.call("add", 1)
            await asyncio.sleep(1)
        late = one.call("add", 1)
        await asyncio.sleep(1)
        later = one.call("add", 1)
        await asyncio.sleep(1)
        for future in waiting:
            future.set_result(Outcome([1]))
        one.answers = [Outcome([1, 2])]
        assert await one.results(late, later) == [1, 2]
        at = [7.0 + n for n in range(UNDER_WAY + 1)]
        assert one.deadlines == at, "that of a packet is its oldest call's"

    virtual(work)


def test_who_closes_gives_up_what_was_sent_and_what_was_not_and_says_which():
    async def work():
        one = Carried(*[asyncio.get_running_loop().create_future() for _ in range(UNDER_WAY)])
        sent = []
        for _ in range(UNDER_WAY):
            sent.append(one.call("add", 1))
            await asyncio.sleep(0.1)
        waiting = [one.call("add", 1) for _ in range(3)]
        waiting[0].cancel()
        await asyncio.sleep(0.1)
        await one.gatherer.close()
        await asyncio.sleep(0.1)
        for call in sent:
            with pytest.raises(Closed, match="under way: whether it was done is unknown"):
                await call
        assert waiting[0].cancelled()
        for call in waiting[1:]:
            with pytest.raises(Closed, match="before the call was sent: nothing was done"):
                await call
        assert len(one.packets) == UNDER_WAY

    virtual(work)


def test_what_cannot_be_encoded_is_its_own_calls_error():
    async def work():
        one = Carried(Outcome([1, 2]), Outcome([3]))
        calls = [one.call("add", 1), one.call("add", 2), one.call("add", object())]
        calls.append(one.call("add", 3))
        found = await one.results(*calls)
        assert (found[:2], found[3]) == ([1, 2], 3)
        assert isinstance(found[2], TypeError)

    virtual(work)


def test_calls_are_split_until_each_packet_is_no_larger_than_it_may_be():
    async def work():
        one = Carried(*[Outcome([None] * n) for n in (4, 4)])
        with turned(smr_packet_bytes=1000):
            calls = [one.call("note", "x" * 190) for _ in range(8)]
            assert await one.results(*calls) == [None] * 8
        assert [len(p.commands) <= 1000 for p in one.packets] == [True] * 2
        one = Carried()
        one.gatherer.largest = 2000
        with turned(smr_packet_bytes=1000):
            alone = one.call("note", "x" * 1500)
            await asyncio.sleep(0.1)
            large = one.call("note", "x" * 2000)
            assert await one.results(alone) == [None]
        with pytest.raises(ValueTooLarge, match="larger than the 2000 bytes"):
            await large
        least = len(one.packets[0].commands)
        for most, fits in ((least, True), (least - 1, False)):
            one = Carried()
            one.gatherer.largest = most
            (found,) = await one.results(one.call("note", "x" * 1500))
            assert isinstance(found, ValueTooLarge) is not fits

    virtual(work)


def test_packets_that_were_split_are_under_way_each_by_itself():
    async def work():
        loop = asyncio.get_running_loop()
        one = Carried(*[loop.create_future() for _ in range(8)])
        with turned(smr_packet_bytes=100, smr_packet_calls=4, smr_packets_under_way=2):
            calls = [one.call("note", "x" * 60) for _ in range(8)]
            await asyncio.sleep(0.1)
            assert len(one.packets) == 4, "no more is sent until some of these are over"
            await one.gatherer.close()
            found = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in found} == {Closed}

    virtual(work)


@pytest.mark.parametrize("is_sure", [False, True])
def test_a_packet_that_did_not_fit_is_split_if_its_arguments_are_still_there(is_sure):
    async def work():
        one = Carried(PacketTooLarge(120), Outcome([1]), Outcome([2]))
        one.gatherer.is_sure = is_sure
        calls = [one.call("note", "x" * 60) for _ in range(2)]
        found = await one.results(*calls)
        assert (one.gatherer.largest, one.gatherer.is_sure) == (120, True)
        if is_sure:
            assert [type(e) for e in found] == [ValueTooLarge] * 2
            assert len(one.packets) == 1
        else:
            assert found == [1, 2]
            assert [len(p.commands) < 120 for p in one.packets] == [False, True, True]

    virtual(work)


def test_each_call_has_its_own_result_or_error_and_who_gave_up_is_passed_over():
    async def work():
        faults = {1: Fault("ValueError", "no"), 2: Fault("KeyError", "'x'", ["x"])}
        one = Carried(Outcome([5, None, None, 8], faults))
        sessions = [Session(), Session()]
        calls = [one.call("add", n, session=sessions[n % 2]) for n in range(4)]
        await asyncio.sleep(0)
        calls[2].cancel()
        found = await one.results(*calls)
        assert (found[0], found[3]) == (5, 8)
        assert (type(found[1]), str(found[1])) == (ValueError, "no")
        assert [session.seen for session in sessions] == [Address(0, 1)] * 2
        one = Carried(Outcome([5, [2, "b"], ["x", 2]], {}))
        calls = [one.call("add", 1), one.call("pair"), one.call("pair")]
        found = await one.results(*calls)
        assert found[:2] == [5, (2, "b")]
        assert isinstance(found[2], TypeError)
        assert "pair() was made, but its result is not what it declares" in str(found[2])
        one = Carried(Outcome([5, [2, "b"]], {0: Fault("ValueError", "no")}))
        calls = [one.call("add", 1), one.call("pair")]
        found = await one.results(*calls)
        assert (type(found[0]), found[1]) == (ValueError, (2, "b"))

    virtual(work)


def test_an_answer_to_others_calls_is_no_answer():
    async def work():
        for answer in (Outcome([1, 2, 3]), Outcome([1]), Outcome([1, 2], {2: Fault("E", "")})):
            one = Carried(answer)
            found = await one.results(one.call("add", 1), one.call("add", 2))
            assert [type(e) for e in found][1:] == [ProtocolViolation]
        one = Carried(Outcome([], {}, "its session has expired"))
        (found,) = await one.results(one.call("add", 1))
        assert isinstance(found, SessionExpired)
        assert "nobody knows whether it was applied: its session has expired" in str(found)

    virtual(work)


def test_packets_are_numbered_and_say_what_is_over_and_a_client_that_was_idle_is_a_new_one():
    async def work():
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        one = Carried(first, second)

        async def say():
            one.call("add", 1)
            await asyncio.sleep(0.1)

        await say()
        await say()
        second.set_result(Outcome([1]))
        await asyncio.sleep(0.1)
        await say()
        idle_s = KNOBS.smr_session_s / 4
        await asyncio.sleep(idle_s + 10)
        await say()  # one is still under way: the client stays what it is
        first.set_result(Outcome([1]))
        await asyncio.sleep(0.1)
        await say()
        said = [(p.number, p.low, p.settled) for p in one.packets]
        assert said == [(1, 1, False), (2, 1, False), (3, 1, True), (4, 1, True), (5, 5, True)]
        assert len({p.client for p in one.packets}) == 1
        await asyncio.sleep(idle_s - 1)
        await say()
        await asyncio.sleep(idle_s + 1)
        await say()
        (*_, same, new) = one.packets
        assert (same.client, same.number) == (one.packets[0].client, 6)
        assert new.client != same.client
        assert (new.number, new.low, new.settled) == (1, 1, False)
        assert {len(p.client) for p in one.packets} == {8}
        await one.gatherer.close()

    virtual(work)


def test_questions_that_travel_together_are_answered_as_the_one_that_has_seen_most():
    async def work():
        one = Carried(Outcome([1, 2, 3]), kind=Asker, timeout_s=3.0)
        sessions = [Session() for _ in range(3)]
        sessions[1].saw(Address(4, 2))
        sessions[2].saw(Address(3, 9))
        calls = [one.call("read", session=session) for session in sessions]
        assert await one.results(*calls) == [1, 2, 3]
        assert one.seen == [Address(4, 2)]
        assert one.deadlines == [3.0]
        assert [s.seen for s in sessions] == [Address(0, 1), Address(4, 2), Address(3, 9)]

    virtual(work)


# ---------------------------------------------------------------- exceptions


class Sentence(Exception):
    def __init__(self, name):
        super().__init__(f"there is no {name}")


class Two(Exception):
    def __init__(self, one, two):
        super().__init__(one, two)


class Bare(Exception):
    """Its text is made of what it was given, not of what it passes on."""

    def __init__(self, name):
        super().__init__(name)

    def __str__(self):
        return f"no {self.args[0]}"


NotAnException = int


@pytest.mark.parametrize(
    ("fault", "kind", "arguments"),
    [
        (Fault("ValueError", "no", ["no"]), ValueError, ("no",)),
        (Fault("ValueError", "no"), ValueError, ("no",)),
        (Fault("ValueError", "", []), ValueError, ()),
        (Fault("KeyError", "'x'", ["x"]), KeyError, ("x",)),
        (Fault("Sentence", "there is no bread", ["there is no bread"]), Sentence, None),
        (Fault("Bare", "no bread", ["bread"]), Bare, ("bread",)),
        (Fault("Two", "('a', 'b')", ["a", "b"]), Two, ("a", "b")),
        (Fault("Two", "whatever", ["a"]), CommandFailed, None),
        (Fault("StopIteration", "no", ["no"]), CommandFailed, None),
        (Fault("Unknown", "no"), CommandFailed, None),
        (Fault("NotAnException", "no"), CommandFailed, None),
        (Fault("KeyboardInterrupt", "no"), CommandFailed, None),
        (Fault("len", "no"), CommandFailed, None),
    ],
)
def test_an_exception_is_what_it_was_where_its_class_can_be_seen(fault, kind, arguments):
    error = as_exception(fault, Till.declaration)
    assert type(error) is kind
    if kind is CommandFailed:
        assert (error.kind, str(error)) == (fault.kind, f"{fault.kind}: {fault.text}")
    else:
        assert str(error) == fault.text
    if arguments is not None:
        assert error.args == arguments
