"""What each call of a client's registers asks of the servers, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.register.played import Answering, error_of, now, silent

from wires import simulated
from wormspace.addresses import TRIM
from wormspace.errors import (
    AlreadyWritten,
    BadToken,
    CaptureLost,
    Closed,
    ProtocolViolation,
    ServerFull,
    Trimmed,
    Unavailable,
)
from wormspace.knobs import turned
from wormspace.paxos.ballot import MAX_ROUND, UNSAFE, ballot, round_of
from wormspace.paxos.messages import (
    COMPLETE,
    Capture,
    Decided,
    Done,
    Promise,
    Read,
    RefusedWrite,
    Reject,
    Report,
    Row,
    SegmentTrimmed,
    Trim,
    Write,
    Written,
)
from wormspace.paxos.ranges import Range
from wormspace.registers.paxos.client import TRIM_VALUE, PaxosRegisters
from wormspace.registers.token import Token
from wormspace.wire.messages import FULL, Failed, Unlisten

ARRAY = ("s", 3)
OLD = ballot(7, b"somebody")


def obliging(message):
    """Grants and accepts everything, and holds nothing."""
    kinds = {Capture: Promise([], COMPLETE), Write: Written([]), Trim: Done()}
    return kinds.get(type(message), Report([], COMPLETE))


def saying(**answers):
    """As `obliging`, but for messages of some kinds: an answer, or what makes one."""

    def answer(message):
        found = answers.get(type(message).__name__.lower(), obliging)
        return found(message) if callable(found) else found

    return answer


class Client:
    """Registers over one replica set of played servers (or several)."""

    def __init__(self, *answers, sets: int = 1) -> None:
        self.sets = [Answering(*(answers or [obliging] * 3)) for _ in range(sets)]
        self.of = self.sets[0]
        self.registers = PaxosRegisters(self.sets, random.Random(1))

    def asked(self, kind: type, server: int = 0) -> list:
        """The requests of a kind to one server since the last look."""
        found = [m for s, m in self.of.asked if s == server and type(m) is kind]
        self.of.asked = [(s, m) for s, m in self.of.asked if (s, type(m)) != (server, kind)]
        return found


def until(seconds: float = 60.0) -> float:
    return now() + seconds


def test_segment_names_are_where_the_protocol_says_and_neighbours_are_apart():
    async def work():
        registers = Client(sets=3).registers
        for index, partition in enumerate(registers._partitions):
            partition.index = index
            partition.max_value = 100 - index
        for space, places in [("s", [1, 2, 0, 1, 2]), ("orders", [2, 0, 1, 2, 0])]:
            assert [registers._at((space, n)).index for n in range(5)] == places
        assert registers._at(("é", 0)).index == 2
        assert registers.max_value == 98

    simulated(work)


# ---------------------------------------------------------------- capture


def test_a_capture_that_is_refused_goes_above_whatever_refused_it():
    async def work():
        def promise(m):
            return (
                Promise([], COMPLETE) if round_of(m.ballot) > 9 else Reject(ballot(9, b"somebody"))
            )

        client = Client(*[saying(capture=promise)] * 3)
        captured = await client.registers.capture(ARRAY, 1, 4, until())
        rounds = [round_of(m.ballot) for m in client.asked(Capture)]
        assert rounds == [1, 10]
        assert captured.token == Token("s", 3, 1, 4, captured.token.fence)
        assert captured.written == {}
        again = await client.registers.capture(("s", 4), 0, 1, until())
        assert round_of(again.token.fence) == 11, "ballots are never taken twice"
        assert now() == 0, "the first refusal tells of no contention"

    simulated(work)


def test_a_capture_that_others_take_each_time_ends_at_its_deadline_and_says_so():
    async def work():
        def higher(m):
            return Reject(ballot(round_of(m.ballot) + 1, b"somebody"))

        client = Client(*[saying(capture=higher)] * 3)
        with pytest.raises(
            Unavailable, match=r"capture of s/3\[0:2\]: other .* \((\d+) times\)"
        ) as e:
            await client.registers.capture(ARRAY, 0, 2, until(1))
        assert now() == pytest.approx(1)
        asked = client.asked(Capture)
        assert f"({len(asked) - 1} times)" in str(e.value)
        assert len({m.ballot for m in asked}) == len(asked)
        assert [round_of(m.ballot) for m in asked] == [*range(1, 2 * len(asked), 2)]

    simulated(work)


@pytest.mark.parametrize(("refusals", "says"), [(1, "0 of 3 servers answered"), (2, "2 times")])
def test_a_capture_that_nobody_answers_says_whether_that_is_contention(refusals, says):
    async def work():
        def twice(m):
            rank = round_of(m.ballot)
            return Reject(ballot(rank + 1, b"somebody")) if rank < 2 * refusals else None

        client = Client(*[saying(capture=twice)] * 3)
        with pytest.raises(Unavailable, match=says):
            await client.registers.capture(ARRAY, 0, 2, until(1))

    simulated(work)


def test_what_a_capture_meets_half_written_is_completed_under_its_ballot():
    async def work():
        rows = [Row(1, OLD, b"one", decided=True), Row(2, OLD, b"two"), Row(5, OLD, b"five")]
        client = Client(*[saying(capture=Promise(rows, COMPLETE))] * 3)
        captured = await client.registers.capture(ARRAY, 0, 9, until())
        assert captured.written == {1: b"one", 2: b"two", 5: b"five"}
        assert captured.token.taken == ((1, 3), (5, 6))
        mine = captured.token.fence
        assert client.asked(Write) == [Write("s", 3, mine, [2, 5], [b"two", b"five"])]
        client.of.send_marks()
        assert client.of.told() == [Decided("s", 3, mine, [(2, 3), (5, 6)])]

    simulated(work)


def test_a_capture_whose_completion_is_refused_is_tried_again_above_it():
    async def work():
        def refuse_first(m):
            if round_of(m.ballot) < 20:
                return Written([RefusedWrite(2, ballot(20, b"somebody"))])
            return Written([])

        promise = Promise([Row(2, OLD, b"two")], COMPLETE)
        client = Client(*[saying(capture=promise, write=refuse_first)] * 3)
        captured = await client.registers.capture(ARRAY, 0, 9, until())
        assert [round_of(m.ballot) for m in client.asked(Capture)] == [1, 21]
        assert captured.written == {2: b"two"}
        client = Client(*[saying(capture=promise, write=Failed(FULL, "full"))] * 3)
        with pytest.raises(ServerFull, match="write to s/3"):
            await client.registers.capture(ARRAY, 0, 9, until())
        assert len(client.asked(Capture)) == 1

    simulated(work)


def test_a_token_of_other_registers_is_refused_before_anything_is_sent():
    async def work():
        client = Client()
        await client.registers.write(ARRAY, None, 0, b"v", until())
        for fence in (bytes(16), b"short", b"longer than a ballot is", b"\0"):
            token = Token(*ARRAY, 0, 4, fence)
            with pytest.raises(BadToken, match="of another implementation"):
                client.registers.write(ARRAY, token, 1, b"v", until())
            with pytest.raises(BadToken, match="of another implementation"):
                await client.registers.holds(ARRAY, token, 0, until())
        assert len(client.asked(Write)) == 1
        assert not client.asked(Read)

    simulated(work)


def test_no_capture_begins_above_the_highest_ballot():
    async def work():
        top = Reject(ballot(MAX_ROUND, b"somebody"))
        client = Client(*[saying(capture=top)] * 3)
        with pytest.raises(
            ProtocolViolation, match="s/3: somebody captured registers with the high"
        ):
            await client.registers.capture(ARRAY, 0, 2, until())
        assert [round_of(m.ballot) for m in client.asked(Capture)] == [1]
        with pytest.raises(ProtocolViolation):
            await client.registers.capture(("s", 4), 0, 2, until())
        assert [round_of(m.ballot) for m in client.asked(Capture)] == [2], "others are not spoilt"

    simulated(work)


# ---------------------------------------------------------------- write


def test_writes_of_one_turn_leave_in_messages_of_so_many():
    async def work():
        client = Client()
        token = Token("s", 3, 0, 9, OLD)
        with turned(registers_batch=2):
            writes = [client.registers.write(ARRAY, token, n, b"%d" % n, until()) for n in range(5)]
            writes.append(client.registers.write(ARRAY, None, 8, b"8", until()))
            writes.append(client.registers.write(("s", 4), None, 8, b"8", until()))
            assert len(client.asked(Write)) == 2, "those that are full, at once"
            assert await asyncio.gather(*writes) == [None] * 7
        assert client.asked(Write) == [
            Write("s", 3, OLD, [4], [b"4"]),
            Write("s", 3, UNSAFE, [8], [b"8"]),
            Write("s", 4, UNSAFE, [8], [b"8"]),
        ]
        for token in (Token("s", 3, 0, 8, OLD), Token("s", 4, 0, 9, OLD)):
            with pytest.raises(BadToken):
                client.registers.write(ARRAY, token, 8, b"8", until())

    simulated(work)


def test_a_register_that_was_taken_or_is_written_is_compared_and_nothing_is_sent():
    async def work():
        rows = [Row(4, OLD, b"held", decided=True), Row(5, OLD, b"v", decided=True)]
        client = Client(*[saying(read=Report(rows, COMPLETE))] * 3)
        taken = Token("s", 3, 0, 9, OLD, ((4, 5),))
        await client.registers.write(ARRAY, taken, 4, b"held", until())
        with pytest.raises(
            AlreadyWritten, match="s/3/4 is already written, with another"
        ) as caught:
            await client.registers.write(ARRAY, taken, 4, b"mine", until())
        assert caught.value.value == b"held"
        assert client.asked(Write) == []
        await client.registers.write(ARRAY, taken, 5, b"v", until())
        assert len(client.asked(Write)) == 1
        await client.registers.write(ARRAY, taken, 5, b"v", until())
        assert client.asked(Write) == []

    simulated(work)


@pytest.mark.parametrize("how", ["taken", "settled"])
def test_a_register_that_was_decided_and_is_empty_is_a_fault_of_the_servers(how):
    async def work():
        client = Client()
        token = Token("s", 3, 0, 9, OLD, ((4, 5),) if how == "taken" else ())
        if how == "settled":
            await client.registers.write(ARRAY, token, 4, b"v", until())
        with pytest.raises(ProtocolViolation, match="s/3/4 was decided, and is empty now"):
            await client.registers.write(ARRAY, token, 4, b"v", until())

    simulated(work)


# ---------------------------------------------------------------- read


def test_a_value_that_a_majority_accepted_is_decided_and_the_servers_are_told():
    async def work():
        rows = [Row(1, OLD, b"one", decided=True), *(Row(n, OLD, b"%d" % n) for n in (2, 3, 5))]
        client = Client(*[saying(read=Report(rows, COMPLETE))] * 3)
        found = await client.registers.read(ARRAY, [(0, 9)], until())
        assert found == {1: b"one", 2: b"2", 3: b"3", 5: b"5"}
        assert client.asked(Write) == client.asked(Capture) == []
        client.of.send_marks()
        assert client.of.told() == [Decided("s", 3, OLD, [(2, 4), (5, 6)])]

    simulated(work)


def test_a_half_written_value_is_completed_under_its_very_ballot():
    async def work():
        older = ballot(6, b"somebody")
        rows = [Row(2, OLD, b"two"), Row(3, older, b"three"), Row(4, OLD, b"four")]
        report = saying(read=Report(rows, COMPLETE))
        client = Client(report, obliging, silent)
        with turned(registers_batch=1):
            found = await client.registers.read(ARRAY, [(0, 9)], until())
        assert found == {2: b"two", 3: b"three", 4: b"four"}
        assert client.asked(Capture) == []
        assert sorted(client.asked(Write), key=lambda m: m.offsets) == [
            Write("s", 3, OLD, [2], [b"two"]),
            Write("s", 3, older, [3], [b"three"]),
            Write("s", 3, OLD, [4], [b"four"]),
        ]

    simulated(work)


def test_where_that_is_refused_the_register_is_captured_and_no_other():
    async def work():
        rows = [Row(2, OLD, b"two"), Row(4, OLD, b"four")]

        def write(m):
            return Written([RefusedWrite(4, ballot(20, b"somebody"))] if m.ballot == OLD else [])

        def promise(m):
            return Promise([Row(4, ballot(20, b"somebody"), b"theirs")], COMPLETE)

        one = saying(read=Report(rows, COMPLETE), write=write, capture=promise)
        other = saying(read=Report([], COMPLETE), write=write, capture=promise)
        client = Client(one, other, silent)
        assert await client.registers.read(ARRAY, [(0, 9)], until()) == {2: b"two", 4: b"theirs"}
        [capture] = client.asked(Capture)
        assert (capture.start, capture.stop, round_of(capture.ballot)) == (4, 5, 21)
        client = Client(saying(read=Report(rows, COMPLETE), write=Failed(FULL, "full")),
                        saying(write=Failed(FULL, "full")), silent)  # fmt: skip
        with pytest.raises(ServerFull):
            await client.registers.read(ARRAY, [(0, 9)], until())

    simulated(work)


def test_whether_a_capture_stands_is_asked_of_a_majority():
    async def work():
        token = Token("s", 3, 2, 5, OLD)
        higher = Report([], COMPLETE, [Range(3, 4, ballot(8, b"somebody"))])
        client = Client(*[saying(read=higher)] * 3)
        assert await client.registers.holds(ARRAY, token, 2, until()) is True
        assert await client.registers.holds(ARRAY, token, 3, until()) is False
        assert [m.spans for m in client.asked(Read)] == [[(2, 3)], [(3, 4)]]
        for segment_name, offset in [(ARRAY, 5), (ARRAY, 1), (("s", 4), 3)]:
            with pytest.raises(BadToken):
                await client.registers.holds(segment_name, token, offset, until())
        assert client.asked(Read) == []

    simulated(work)


# ---------------------------------------------------------------- trim


def test_a_trim_is_decided_some_at_a_time_and_then_told_to_every_partition():
    async def work():
        client = Client(sets=2)
        with turned(registers_trims_at_once=2):
            await client.registers.trim(ARRAY, 8, until())
        asked = [m for of in client.sets for s, m in of.asked if s == 0]
        writes = [m for m in asked if isinstance(m, Write)]
        assert sorted(m.segment for m in writes) == [3, 4, 5, 6, 7]
        assert all(
            (m.ballot, m.offsets, m.values) == (UNSAFE, [TRIM], [TRIM_VALUE]) for m in writes
        )
        assert [m for m in asked if isinstance(m, Trim)] == [Trim("s", 3, 8)] * 2
        for of in client.sets:
            of.asked.clear()
        await client.registers.trim(ARRAY, 3, until(), told_from=1)
        assert {m for of in client.sets for _, m in of.asked} == {Trim("s", 1, 3)}

    simulated(work)


def test_trims_are_decided_no_more_at_a_time_than_may_be():
    async def work():
        client = Client(silent, silent, silent)
        with turned(registers_trims_at_once=2), pytest.raises(Unavailable):
            await client.registers.trim(ARRAY, 8, until(0.3))
        assert [m.segment for m in client.asked(Write)] == [3, 4]
        assert client.asked(Trim) == []

    simulated(work)


def test_what_is_trimmed_already_is_as_good_and_what_is_not_decided_is_not_told():
    async def work():
        client = Client(*[saying(write=SegmentTrimmed())] * 3)
        await client.registers.trim(ARRAY, 4, until())
        assert Trim("s", 3, 4) in client.asked(Trim)
        refused = Written([RefusedWrite(TRIM, OLD)])
        client = Client(*[saying(write=refused)] * 3)
        with pytest.raises(CaptureLost):
            await client.registers.trim(ARRAY, 4, until())
        assert client.asked(Trim) == []

    simulated(work)


@pytest.mark.parametrize("call", ["capture", "read", "write"])
def test_who_meets_a_trimmed_segment_name_tells_the_others_once(call):
    async def work():
        client = Client(
            *[lambda m: Done() if isinstance(m, Trim) else SegmentTrimmed()] * 3, sets=2
        )

        async def meet(segment_name):
            if call == "capture":
                await client.registers.capture(segment_name, 0, 2, until())
            elif call == "read":
                await client.registers.read(segment_name, [(0, 2)], until())
            else:
                await client.registers.write(segment_name, None, 0, b"v", until())

        for _ in range(2):
            with pytest.raises(Trimmed, match="segment 3 of space 's' was trimmed"):
                await meet(ARRAY)
            await asyncio.sleep(1)
        told = [[m for s, m in of.asked if s == 0 and isinstance(m, Trim)] for of in client.sets]
        assert told == [[Trim("s", 3, 4)]] * 2
        with pytest.raises(Trimmed):
            await meet(("s", 4))
        await asyncio.sleep(1)
        told = [[m for s, m in of.asked if s == 0 and isinstance(m, Trim)] for of in client.sets]
        assert told == [[Trim("s", 3, 4), Trim("s", 4, 5)]] * 2

    simulated(work)


# ---------------------------------------------------------------- life


def test_closing_ends_what_is_under_way_and_refuses_what_comes():
    async def work():
        client = Client(silent, silent, silent)
        registers = client.registers
        token = Token("s", 3, 0, 9, OLD, ((4, 5),))
        events = registers.listen("s", 0, 9)
        calls = [
            asyncio.ensure_future(registers.capture(ARRAY, 0, 2, until())),
            asyncio.ensure_future(registers.read(ARRAY, [(0, 2)], until())),
            registers.write(ARRAY, token, 0, b"v", until()),
            registers.write(ARRAY, token, 4, b"v", until()),
            registers.read_one(ARRAY, 0, until()),
            asyncio.ensure_future(registers.holds(ARRAY, token, 0, until())),
            asyncio.ensure_future(registers.trim(ARRAY, 4, until())),
        ]
        await asyncio.sleep(1)
        began = now()
        closing = [asyncio.ensure_future(registers.close()) for _ in range(2)]
        await asyncio.sleep(0)
        gathered = registers.write(("s", 9), None, 0, b"v", until())
        await asyncio.gather(*closing)
        assert now() == began
        for call in (*calls, gathered):
            assert str(error_of(call)) == "the client was closed"
            assert type(error_of(call)) is Closed
        assert not [m for m in client.asked(Write) if m.segment == 9], "it was not sent yet"
        with pytest.raises(Closed):
            await anext(events)
        assert client.of.is_idle
        assert not registers._tasks
        events.close()
        assert not registers._listenings
        assert any(isinstance(m, Unlisten) for m in client.of.told())
        await registers.close()
        for call in (
            lambda: registers.capture(ARRAY, 0, 2, until()),
            lambda: registers.read(ARRAY, [(0, 2)], until()),
            lambda: registers.trim(ARRAY, 4, until()),
            lambda: registers.spaces(until()),
            lambda: registers.servers(until()),
        ):
            with pytest.raises(Closed):
                await call()
        for call in (
            lambda: registers.listen("s", 0, 9),
            lambda: registers.write(ARRAY, token, 0, b"v", until()),
        ):
            with pytest.raises(Closed, match="the client is closed"):
                call()

    simulated(work)


def test_a_task_that_does_not_end_is_waited_for_a_second():
    async def work():
        client = Client()
        stuck = client.registers._tasks.begin(asyncio.sleep(100))
        await client.registers.close()
        assert now() == pytest.approx(1)
        with pytest.raises(asyncio.CancelledError):
            await stuck

    simulated(work)


def test_a_caller_that_gives_up_ends_the_operation():
    async def work():
        client = Client(silent, silent, silent)
        for call in (
            client.registers.capture(ARRAY, 0, 2, until()),
            client.registers.read(ARRAY, [(0, 2)], until()),
            client.registers.holds(ARRAY, Token("s", 3, 0, 2, OLD), 0, until()),
        ):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await call
            assert client.of.is_idle

    simulated(work)
