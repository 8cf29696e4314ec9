"""When an operation asks again, when it ends, and what its caller is told: to the moment."""

from __future__ import annotations

import asyncio

import pytest
from tests.register.played import ARRAY, BALLOT, Played, error_of, now

from wires import simulated
from wormspace.errors import Refused, ServerFull, Unavailable, UsageError, ValueTooLarge
from wormspace.paxos.broadcast import Broadcast
from wormspace.paxos.messages import COMPLETE, Done, Promise, Report, SegmentTrimmed, Trim, Written
from wormspace.paxos.prepare import Prepare
from wormspace.paxos.reading import Reading
from wormspace.registers.paxos.capture_check import CaptureCheckOperation
from wormspace.registers.paxos.capture_operation import CaptureOperation
from wormspace.registers.paxos.issued import Issued
from wormspace.registers.paxos.operations import ReadOperation, TellOperation, WriteOperation
from wormspace.wire.messages import BAD_REQUEST, FULL, INTERNAL, TOO_LARGE, Failed

TRIM = Trim("s", 3, 4)


def tell(of: Played, seconds: float = 60.0) -> TellOperation:
    """The simplest operation: two of three servers must say that it is done."""
    operation = TellOperation(of, Broadcast(3, TRIM), "trim", now() + seconds)
    operation.begin()
    return operation


def test_the_silent_are_asked_again_after_a_pause_that_doubles_up_to_four_seconds():
    async def work():
        of, began = Played(), now()
        operation = tell(of, 17.0)
        of.answer(2, Done())
        await asyncio.sleep(16.9)
        # What was heard from one begins the patience with the others anew, at the first look.
        asked = [at - began for at in of.moments(0)]
        assert asked == pytest.approx([0, 1, 2, 4, 8, 12, 16])
        assert of.moments(1) == of.moments(0)
        assert len(of.moments(2)) == 1, "it has answered"
        assert not operation.done.done()
        await asyncio.sleep(0.2)
        assert "trim: 1 of 3 servers answered in time, 2 must" in str(error_of(operation.done))
        assert isinstance(error_of(operation.done), Unavailable)
        assert of.is_idle
        await asyncio.sleep(9)
        assert len(of.moments(0)) == 7, "what is over asks no more"

    simulated(work)


def test_patience_begins_anew_with_whoever_answers_late():
    async def work():
        of, began = Played(5), now()
        operation = TellOperation(of, Broadcast(5, TRIM), "trim", began + 60)
        operation.begin()
        await asyncio.sleep(2)  # asked at 0.5 and 1.5; it looks again at 3.5
        of.answer(1, Done())
        await asyncio.sleep(2.9)
        assert [at - began for at in of.moments(0)] == pytest.approx([0, 0.5, 1.5, 4.0])
        operation.cancel(ValueError())
        error_of(operation.done)

    simulated(work)


def test_the_deadline_is_kept_to_the_moment():
    async def work():
        of, began = Played(), now()
        operation = tell(of, 0.3)
        with pytest.raises(Unavailable):
            await operation.done
        assert now() - began == pytest.approx(0.3)
        assert of.is_idle
        assert [len(of.moments(server)) for server in range(3)] == [1, 1, 1]

    simulated(work)


def test_whose_client_is_refused_is_told_why_at_the_next_look():
    async def work():
        of, began = Played(), now()
        operation = tell(of)
        for link in of.links[:2]:
            link.refused = Refused("no such cluster", "cluster")
        with pytest.raises(Refused, match=r"^no such cluster$") as caught:
            await operation.done
        assert caught.value.code == "cluster"
        assert now() - began == pytest.approx(0.5)
        assert of.is_idle

    simulated(work)


def test_a_server_that_is_back_is_asked_again_and_no_other():
    async def work():
        of = Played()
        operation = tell(of)
        of.answer(0, Done())
        of.sent()
        for server in range(3):
            of.cut(server)
            of.mend(server)
        assert of.sent() == [(1, TRIM), (2, TRIM)]
        operation.cancel(ValueError("enough"))
        operation.cancel(ValueError("too late"))
        assert str(error_of(operation.done)) == "enough"
        of.mend(1)
        assert of.sent() == []
        assert of.is_idle

    simulated(work)


def test_a_majority_ends_it_and_what_comes_later_is_ignored():
    async def work():
        of = Played()
        operation = tell(of)
        of.answer(0, Done())
        of.answer(0, Done())
        of.answer(1, Written([]))  # an answer to something else
        assert not operation.done.done()
        assert not operation.is_everyone_heard
        of.cut(1)
        of.cut(2)
        assert operation.is_everyone_heard, "but for those that are down"
        operation.on_message(1, SegmentTrimmed())  # trimmed already: as good
        assert await operation.done is None
        assert of.is_idle
        operation.on_message(2, Done())
        operation.on_message(2, Failed(FULL, "full"))
        assert operation.failures == {}
        assert operation.machine.heard == 0b011
        assert operation._timer.cancelled(), "nothing of it is left in the loop"
        of.mend(2)
        before = len(of.moments(2))
        await asyncio.sleep(9)
        assert len(of.moments(2)) == before, "what is over asks no more"

    simulated(work)


def test_an_answer_in_the_turn_in_which_its_caller_gives_up_is_harmless():
    async def work():
        of = Played()
        operations = [
            tell(of),
            ReadOperation(of, Reading(3, *ARRAY, spans=((0, 2),), first=0), now() + 60),
            CaptureCheckOperation(of, ARRAY, 0, BALLOT, now() + 60),
            CaptureOperation(of, Prepare(3, *ARRAY, 0, 2, BALLOT), now() + 60),
        ]
        answers = [Done(), Report([], COMPLETE), Report([], COMPLETE), Promise([], COMPLETE)]
        for operation, answer in zip(operations, answers, strict=True):
            operation.begin()
            operation.done.cancel()
            for server in range(3):
                operation.on_message(server, answer)
            assert operation.done.cancelled()
            operation.cancel(ValueError())
        assert of.is_idle

    simulated(work)


@pytest.mark.parametrize(
    ("codes", "kind", "text"),
    [
        ({0: TOO_LARGE}, None, ""),
        ({0: TOO_LARGE, 1: FULL}, None, ""),
        ({0: FULL, 1: INTERNAL, 2: TOO_LARGE}, None, ""),
        ({0: TOO_LARGE, 2: TOO_LARGE}, ValueTooLarge, "trim: s2: said 2"),
        ({1: BAD_REQUEST, 2: INTERNAL, 0: BAD_REQUEST}, UsageError, "trim: s0: said 0"),
        (
            {0: FULL, 1: FULL},
            ServerFull,
            "trim: too many servers have no room; s1: said 1. The outcome is unknown; the same "
            "call again is safe.",
        ),
        ({0: INTERNAL, 1: INTERNAL, 2: INTERNAL}, None, ""),
    ],
)
def test_what_so_many_servers_cannot_do_that_no_majority_is_left_is_said_at_once(codes, kind, text):
    async def work():
        of = Played()
        operation = tell(of)
        for server, code in codes.items():
            assert not operation.done.done()
            of.answer(server, Failed(code, f"said {server}"))
        if kind is None:
            assert not operation.over
            operation.expire()
            said = [f"said {s}" if s in codes else "did not answer in time" for s in range(3)]
            without = ", ".join(f"s{s} ({why})" for s, why in enumerate(said))
            assert f"0 of 3 servers answered in time, 2 must; without: {without}." in str(
                error_of(operation.done)
            )
        else:
            assert type(error_of(operation.done)) is kind
            assert str(error_of(operation.done)) == text
        assert of.is_idle

    simulated(work)


def test_one_server_that_fails_twice_is_one_and_what_it_said_before_a_silence_is_past():
    async def work():
        of = Played()
        operation = tell(of)
        of.answer(0, Failed(FULL, "full"))
        of.answer(0, Failed(FULL, "full"))
        await asyncio.sleep(0.6)  # all are asked again
        of.answer(1, Failed(FULL, "full"))
        assert not operation.over
        assert [len(of.moments(server)) for server in range(3)] == [2, 2, 2]
        of.answer(0, Failed(FULL, "full"))
        assert isinstance(error_of(operation.done), ServerFull)

    simulated(work)


class Owner:
    """Whoever issued a write; notes what it is told."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def on_gone(self, segment_name) -> None:
        self.heard.append(segment_name)

    def on_refused(self, promised: bytes) -> None:
        self.heard.append(promised)


def test_each_caller_of_a_write_has_its_own_deadline():
    async def work():
        of, issued, began = Played(), Issued(), now()
        operation = WriteOperation(of, ARRAY, BALLOT, issued, Owner())
        for offset in range(3):
            issued.issue(offset, b"v")
        first = operation.add(0, b"v", began + 1)
        second = operation.add(1, b"v", began + 2)
        third = operation.add(2, b"v", began + 30)
        operation.begin()
        assert operation.deadline == began + 1, "its timer has nothing to do before"
        for n, future in enumerate((first, second), 1):
            with pytest.raises(Unavailable, match="write to s/3: 0 of 3 servers answered"):
                await future
            assert now() - began == pytest.approx(n)
            assert not third.done()
            assert set(issued.doubt) == set(range(n))
            assert set(issued.open) == set(range(n, 3))
        assert not operation.over
        for server in (0, 1):
            of.answer(server, Written([]))
        await third
        assert of.is_idle

    simulated(work)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (2, 3, 1)])
def test_callers_that_write_the_same_wait_as_long_as_each_of_them_said(order):
    async def work():
        of, issued, began = Played(), Issued(), now()
        operation = WriteOperation(of, ARRAY, BALLOT, issued, Owner())
        issued.issue(0, b"v")
        ends = {}
        callers = [operation.add(0, b"v", began + seconds) for seconds in order]
        for seconds, future in zip(order, callers, strict=True):
            future.add_done_callback(lambda _, s=seconds: ends.setdefault(s, now() - began))
        callers.append(operation.add(0, b"v", began + 3.0005))  # so little is no difference
        assert len(operation.values) == 1
        operation.begin()
        errors = await asyncio.gather(*callers, return_exceptions=True)
        assert {type(error) for error in errors} == {Unavailable}
        assert ends == pytest.approx({1: 1, 2: 2, 3: 3}, abs=0.001)
        assert now() - began == pytest.approx(3, abs=0.001)
        assert of.is_idle

    simulated(work)


def test_callers_that_write_the_same_are_told_of_the_decision_together():
    async def work():
        of, issued, began = Played(), Issued(), now()
        operation = WriteOperation(of, ARRAY, BALLOT, issued, Owner())
        issued.issue(0, b"v")
        early = operation.add(0, b"v", began + 1)
        given_up = operation.add(0, b"v", began + 5)
        late = operation.add(0, b"v", began + 9)
        operation.begin()
        given_up.cancel()
        with pytest.raises(Unavailable):
            await early
        for server in (0, 1):
            of.answer(server, Written([]))
        assert late.done()
        assert late.result() is None
        assert 0 in issued.decided
        assert not issued.open
        assert of.is_idle
        await asyncio.sleep(20)

    simulated(work)


def test_a_caller_that_gives_up_at_its_very_deadline_is_not_told():
    async def work():
        of, issued, began = Played(), Issued(), now()
        operation = WriteOperation(of, ARRAY, BALLOT, issued, Owner())
        issued.issue(0, b"v")
        late = operation.add(0, b"v", began + 2)
        callers: list[asyncio.Future] = []
        operation.loop.call_at(began + 1, lambda: callers[0].cancel())
        callers.append(operation.add(0, b"v", began + 1))
        operation.begin()
        with pytest.raises(Unavailable):
            await late
        assert callers[0].cancelled()

    simulated(work)
