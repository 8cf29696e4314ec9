"""Reads of one turn, races lost, whether a capture stands, and the links to the servers."""

from __future__ import annotations

import asyncio
import random

import pytest

from wires import simulated
from wormspace.errors import CaptureLost, Refused, TokenReused, Unavailable, UsageError
from wormspace.errors import ValueTooLarge as TooLarge
from wormspace.knobs import turned
from wormspace.paxos.ballot import UNSAFE
from wormspace.paxos.effects import Send
from wormspace.paxos.messages import COMPLETE, Decided, Done, Read, Report, SegmentTrimmed
from wormspace.paxos.ranges import Range
from wormspace.registers.paxos import contention
from wormspace.registers.paxos.capture_check import CaptureCheckOperation
from wormspace.registers.paxos.client import _reused
from wormspace.registers.paxos.contention import Contention
from wormspace.registers.paxos.memory import BallotWrites
from wormspace.registers.paxos.partition import Partition
from wormspace.registers.paxos.read_batching import ReadBatcher
from wormspace.wire.messages import ONE_WAY, Failed

ARRAY = ("s", 3)
LOW, HIGH = bytes(7) + b"\1" + bytes(8), bytes(7) + b"\2" + bytes(8)


def now() -> float:
    return asyncio.get_running_loop().time()


async def turn() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


# ---------------------------------------------------------------- reads of one turn


class Reading:
    """Reads registers, whose value is their offset; notes what was asked for together."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[tuple] = []
        self.error = error
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def read(self, segment_name, spans, deadline: float) -> dict[int, bytes]:
        self.asked.append((segment_name, spans, deadline))
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return {n: b"%d" % n for lo, hi in spans for n in range(lo, hi) if n != 7}

    def gathering(self) -> ReadBatcher:
        return ReadBatcher(self.read, asyncio.get_running_loop().create_task)


async def test_reads_of_one_turn_are_one_and_each_gets_its_own_value() -> None:
    reading = Reading()
    gathering, end = reading.gathering(), now() + 60
    futures = [gathering.add(ARRAY, n, end) for n in (5, 3, 4, 5, 7)]
    other = gathering.add(("t", 0), 1, end)
    assert await asyncio.gather(*futures, other) == [b"5", b"3", b"4", b"5", None, b"1"]
    assert reading.asked == [(ARRAY, [(3, 6), (7, 8)], end), (("t", 0), [(1, 2)], end)]
    assert await gathering.add(ARRAY, 9, end) == b"9"
    assert len(reading.asked) == 3
    assert gathering._under_way == 0


async def test_many_reads_are_divided_as_there_are_more_under_way() -> None:
    with turned(registers_small=2, registers_reads_in_flight=2):
        reading = Reading()
        reading.go_on.clear()
        gathering, end = reading.gathering(), now() + 60
        futures = [gathering.add(ARRAY, n, end) for n in range(3)]
        await turn()
        assert [spans for _, spans, _ in reading.asked] == [[(0, 2)], [(2, 3)]]
        futures += [gathering.add(ARRAY, n, end) for n in range(5)]
        await turn()
        assert [spans for _, spans, _ in reading.asked[2:]] == [[(0, 4)], [(4, 5)]]
        assert gathering._under_way == 8
        reading.go_on.set()
        await asyncio.gather(*futures)
        assert gathering._under_way == 0


async def test_who_gives_up_earlier_is_told_and_the_others_are_waited_for() -> None:
    reading = Reading()
    reading.go_on.clear()
    gathering, end = reading.gathering(), now() + 60
    early, late = gathering.add(ARRAY, 1, now() + 0.01), gathering.add(ARRAY, 2, end)
    gone = gathering.add(ARRAY, 3, end)
    with pytest.raises(Unavailable, match="read of s/3: no majority"):
        await early
    gone.cancel()
    assert reading.asked == [(ARRAY, [(1, 4)], end)]
    reading.go_on.set()
    assert await late == b"2"


def test_the_deadline_of_a_caller_that_is_gone_passes_unnoticed() -> None:
    async def work() -> None:
        reading = Reading()
        reading.go_on.clear()
        gathering = reading.gathering()
        gone, late = gathering.add(ARRAY, 1, now() + 1), gathering.add(ARRAY, 2, now() + 5)
        await asyncio.sleep(0.5)
        gone.cancel()
        await asyncio.sleep(2)
        reading.go_on.set()
        assert await late == b"2"

    simulated(work)


async def test_an_error_is_told_to_all_who_still_wait() -> None:
    reading = Reading(ValueError("broken"))
    gathering = reading.gathering()
    futures = [gathering.add(ARRAY, n, now() + 60) for n in range(3)]
    futures[1].cancel()
    for future in (futures[0], futures[2]):
        with pytest.raises(ValueError, match="broken"):
            await future
    assert gathering._under_way == 0


# ---------------------------------------------------------------- races


async def test_who_lost_a_race_waits_before_the_next_but_not_before_its_second_attempt(
    monkeypatch,
) -> None:
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    class Longest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert a == 0
            return b

    held, end = Contention(Longest()), now() + 60
    monkeypatch.setattr(contention.asyncio, "sleep", sleep)

    async def pauses(*attempts: int) -> list[float]:
        slept.clear()
        for attempt in attempts:
            await held.pause(attempt, end)
        return list(slept)

    held.on_lost(0)  # its ballot was only too low
    assert await pauses(0, 1, 2) == []
    held.on_lost(1)
    assert await pauses(0, 1, 2) == [0.002, 0.002]
    for _ in range(9):
        held.on_lost(2)
    assert await pauses(2) == [0.1]
    held.on_won()
    assert await pauses(2) == [0.05]
    await held.pause(2, now())
    assert slept[-1] <= 0
    assert contention.CONTENDED_S - 0.5 < held._contended_until - now() <= contention.CONTENDED_S
    held._contended_until = now()
    assert await pauses(2) == []


# ---------------------------------------------------------------- links


class Link:
    """A link that notes what is posted."""

    def __init__(self, name: str, max_value: int = 100) -> None:
        self.name, self.max_value = name, max_value
        self.up, self.quiet, self.trouble, self.refused = True, False, "", None
        self.posted: list[tuple[int, object]] = []
        self.started: list[tuple] = []
        self.closed = 0

    def start(self, receiver: object, server: int) -> None:
        self.started.append((receiver, server))

    def post(self, outgoing) -> None:
        self.posted.append((outgoing.id, outgoing.message))
        self.last = outgoing

    async def close(self) -> None:
        self.closed += 1


def partition() -> Partition:
    return Partition(4, [Link(name, size) for name, size in (("a", 9), ("b", 5), ("c", 7))])


class Operation:
    """An operation that notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple] = []

    def __getattr__(self, name: str):
        return lambda *what: self.heard.append((name, *what))


async def test_what_servers_say_goes_to_the_operation_that_asked() -> None:
    of, one, two = partition(), Operation(), Operation()
    of.start()
    assert [link.started for link in of.links] == [[(of, n)] for n in range(3)]
    assert (of.index, of.size, of.max_value, of.up) == (4, 3, 5, 7)
    ids = [of.enter(one), of.enter(two)]
    assert len({ONE_WAY, *ids}) == 3
    of.on_message(1, ids[1], Done())
    of.links[1].max_value = 8
    of.links[1].up = False
    of.on_down(1)
    of.on_up(2)
    assert (of.max_value, of.up) == (7, 5)
    of.leave(ids[0])
    of.leave(ids[0])
    of.on_message(1, ids[0], Done())
    assert one.heard == [("on_down", 1), ("on_up", 2)]
    assert two.heard == [("on_message", 1, Done()), *one.heard]
    error = ValueError()
    of.mark("s", 1, LOW, [(0, 1)])
    await of.close(error)
    assert two.heard[-1] == ("cancel", error)
    assert len(one.heard) == 2
    assert [link.closed for link in of.links] == [1, 1, 1]
    assert len(of.links[0].posted) == 1


async def test_a_message_to_several_is_encoded_once_and_each_to_whom_it_is_for() -> None:
    of = partition()
    same, other = Done(), Done()
    of.post(9, [Send(0, same), Send(2, same), Send(1, other)])
    assert of.links[0].last is of.links[2].last
    assert of.links[1].last is not of.links[0].last
    assert [link.posted for link in of.links] == [[(9, same)], [(9, other)], [(9, same)]]
    of.tell(1, 8, same)
    assert of.links[1].posted[-1] == (8, same)


async def test_servers_are_asked_in_turn_those_that_are_silent_or_down_last() -> None:
    of = partition()
    assert [of.pick() for _ in range(4)] == [1, 2, 0, 1]
    of.links[2].quiet = True
    assert [of.pick() for _ in range(3)] == [0, 1, 0]
    of.links[0].up = of.links[1].up = False
    assert of.pick() == 2
    of.links[2].up = False
    assert of.pick() == 0


async def test_marks_of_one_capture_are_joined_and_go_once() -> None:
    of = partition()
    for spans in ([(4, 6)], [(0, 2), (2, 3)], [(5, 9), (11, 12)], [(6, 7)]):
        of.mark("s", 1, LOW, spans)
    of.mark("s", 1, HIGH, [(0, 1)])
    timer = of._marks_timer
    assert 0 < timer.when() - now() <= 0.005
    of.send_marks()
    of.send_marks()
    assert timer.cancelled()
    expected = [
        (ONE_WAY, Decided("s", 1, LOW, [(0, 3), (4, 9), (11, 12)])),
        (ONE_WAY, Decided("s", 1, HIGH, [(0, 1)])),
    ]
    assert [link.posted for link in of.links] == [expected] * 3
    of.mark("t", 1, LOW, [(0, 1)])
    await asyncio.sleep(0.01)
    assert of.links[0].posted[-1] == (ONE_WAY, Decided("t", 1, LOW, [(0, 1)]))


async def test_a_value_that_the_servers_do_not_take_is_refused() -> None:
    of = partition()
    of.check(bytes(5))
    with pytest.raises(TooLarge, match="a value of 6 bytes; the servers take 5"):
        of.check(bytes(6))
    with pytest.raises(UsageError, match="bytes, not bytearray"):
        of.check(bytearray(1))  # type: ignore[arg-type]


async def test_who_is_refused_by_so_many_that_no_majority_is_left_is_told() -> None:
    of = partition()
    assert of.refusal() is None
    of.links[0].refused = first = Refused("no", "x")
    assert of.refusal() is None
    of.links[2].refused = last = Refused("not you", "x")
    assert of.refusal() is last is not first


async def test_an_error_names_those_who_did_not_answer_and_why() -> None:
    of = partition()
    of.links[0].trouble = "down"
    said = str(of.unavailable("a read", 0b010, {2: Failed(1, "full"), 0: Failed(1, "lost")}))
    assert said == (
        "a read: 1 of 3 servers answered in time, 2 must; without: a (down), c (full). "
        "The outcome is unknown; the same call again is safe."
    )
    said = str(of.unavailable("a read", 0b011))
    assert "2 of 3 servers answered, and did not agree in time; without: c (did not" in said
    assert "without" not in str(of.unavailable("a read", 0b111, {}))


# ---------------------------------------------------------------- whether a capture stands


def report(ballot: bytes, lo: int = 5, hi: int = 6) -> Report:
    return Report([], COMPLETE, [Range(lo, hi, ballot)])


@pytest.mark.parametrize(
    ("reports", "stands"),
    [
        ([(0, report(LOW)), (1, report(LOW))], True),
        ([(0, report(LOW)), (0, report(LOW))], None),
        ([(0, report(HIGH)), (1, report(LOW))], None),
        ([(0, report(HIGH)), (1, report(LOW)), (2, report(LOW))], True),
        ([(0, report(HIGH)), (0, report(HIGH)), (2, report(HIGH))], False),
        ([(0, report(HIGH, 6, 9)), (2, report(HIGH, 0, 5))], True),
        ([(0, Done()), (1, report(LOW))], None),
    ],
)
async def test_a_capture_stands_if_a_majority_promised_nothing_higher(reports, stands) -> None:
    of = partition()
    operation = CaptureCheckOperation(of, ARRAY, 5, LOW, now() + 60)
    operation.begin()
    question = Read("s", 3, [(5, 6)], detail=True)
    assert [link.posted for link in of.links] == [[(operation.id, question)]] * 3
    for server, message in reports:
        operation.on_reply(server, message)
    heard = {server for server, message in reports if isinstance(message, Report)}
    assert {send.server for send in operation.unanswered()} == {0, 1, 2} - heard
    assert operation.over == operation.done.done() == (stands is not None)
    if stands is not None:
        assert operation.done.result() == stands
    operation.on_reply(2, SegmentTrimmed())
    operation.cancel(ValueError())
    operation.leave()
    if stands is None:
        assert "segment 3 of space 's' was trimmed" in str(operation.done.exception())


# ---------------------------------------------------------------- a value that is another one


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize(("ballot", "what"), [(LOW, "token"), (UNSAFE, "unsafe ballot")])
async def test_who_may_have_sent_another_value_is_told_what_to_do(refused, ballot, what) -> None:
    writes = BallotWrites(partition(), ARRAY, ballot)
    writes.is_refused = refused
    error = _reused(writes, 5)
    assert type(error) is (CaptureLost if refused else TokenReused)
    assert str(error).startswith("s/3/5: ")
    assert what in str(error)
    assert ("settle the register" in str(error)) == (refused and ballot == UNSAFE)
    assert ("capture the register again" in str(error)) == (refused and ballot == LOW)
