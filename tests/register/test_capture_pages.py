"""How a capture collects reports of many pages: one server after the other, and nothing twice."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.register.played import ARRAY, BALLOT, HIGH, LOW, TOP, Played, error_of, now

from wires import simulated
from wormspace.errors import ProtocolViolation, ServerFull, Trimmed, Unavailable
from wormspace.knobs import turned
from wormspace.paxos.messages import (
    COMPLETE,
    Capture,
    Done,
    Promise,
    Read,
    Reject,
    Report,
    Row,
    SegmentTrimmed,
)
from wormspace.paxos.prepare import PREEMPTED, PROMISED, Prepare, reported
from wormspace.registers.paxos.capture_operation import CaptureOperation
from wormspace.wire.messages import DAMAGED, FULL, Failed

HIGHER = LOW[:-1] + b"s"
CAPTURE = Capture(*ARRAY, 0, 10, BALLOT)


def begin(of: Played, seconds: float = 60.0) -> CaptureOperation:
    """A capture of ten registers that is on its way."""
    machine = Prepare(of.size, *ARRAY, 0, 10, BALLOT, part=4)
    operation = CaptureOperation(of, machine, now() + seconds)
    operation.begin()
    assert of.sent() == [(server, CAPTURE) for server in range(of.size)]
    return operation


def ask(server: int, *spans: tuple[int, int]) -> tuple[int, Read]:
    return server, Read(*ARRAY, list(spans))


def known(*offsets: int) -> list[Row]:
    return [Row(offset, LOW, b"%d" % offset, decided=True) for offset in offsets]


def half(*offsets: int) -> list[Row]:
    return [Row(offset, LOW, b"%d" % offset) for offset in offsets]


async def turn() -> None:
    await asyncio.sleep(0)


def met(operation: CaptureOperation) -> list[int]:
    """What a capture that was promised met."""
    machine = operation.done.result()
    assert machine.phase == PROMISED
    return [row.offset for row in reported(machine)]


def test_a_majority_that_promises_and_has_reported_is_enough():
    async def work():
        of = Played()
        operation = begin(of)
        operation.on_message(2, Promise(half(3), COMPLETE))
        operation.on_message(1, Done())  # no answer to a capture
        assert not operation.done.done()
        assert operation.heard() == 0b100
        operation.on_message(0, Promise(known(1), COMPLETE))
        assert met(operation) == [1, 3]
        assert of.is_idle
        assert of.sent() == []

    simulated(work)


def test_one_report_comes_after_another_and_of_the_second_what_the_first_does_not_know():
    async def work():
        of = Played()
        operation = begin(of)
        operation.on_message(0, Promise(known(0, 1), 2))
        assert of.sent() == [ask(0, (2, 10))]
        operation.on_message(1, Promise([], 3))
        operation.on_message(2, Promise(known(0, 1), 2))
        assert of.sent() == [], "it is not their turn"
        page = operation.pages[0]
        page.on_message(0, Report(known(2, 3), 5))
        assert of.sent() == [ask(0, (5, 10))], "before this page is merged"
        await turn()
        page.on_message(1, Report([], COMPLETE))  # not from whom it was asked of
        operation.pages[0].on_message(0, Report(half(7) + known(8), COMPLETE))
        assert of.sent() == []
        await turn()
        assert operation.heard() == 0b001
        assert of.sent() == [ask(1, (4, 8), (9, 10))]
        operation.pages[1].on_message(1, Report(half(6), 7))
        assert of.sent() == [ask(1, (7, 8), (9, 10))]
        operation.pages[1].on_message(1, Report([], 9))
        assert of.sent() == [ask(1, (9, 10))]
        operation.pages[1].on_message(1, Report([], COMPLETE))
        await turn()
        assert met(operation) == [0, 1, 2, 3, 6, 7, 8]
        assert of.is_idle, "no page is left"
        assert of.sent() == []

    simulated(work)


def test_a_server_is_asked_nothing_when_another_knows_all_of_the_rest():
    async def work():
        of = Played()
        operation = begin(of)
        operation.on_message(0, Promise(known(*range(5)), 5))
        operation.on_message(1, Promise(known(0), 1))
        of.sent()
        operation.pages[0].on_message(0, Report(known(*range(5, 10)), COMPLETE))
        await turn()
        assert met(operation) == [*range(10)]
        assert of.sent() == []

        operation = begin(of)
        operation.on_message(0, Promise(known(0, 1, 2, 3, 4, 7, 8, 9), COMPLETE))
        operation.on_message(1, Promise([], 2))
        assert of.sent() == [ask(1, (5, 7))]
        operation.pages[1].on_message(1, Report(half(5), 7))  # all that is left lies behind it
        await turn()
        assert met(operation) == [*range(6), 7, 8, 9]
        assert of.sent() == []

    simulated(work)


def test_a_question_has_no_more_spans_than_a_read_may_have():
    async def work():
        of = Played()
        with turned(registers_spans=3):
            operation = begin(of)
            operation.on_message(0, Promise(known(1, 3, 5, 7), COMPLETE))
            operation.on_message(1, Promise([], 1))
            assert of.sent() == [ask(1, (2, 3), (4, 5), (6, 10))]
            operation.cancel(ValueError())
            error_of(operation.done)
        with turned(registers_spans=1):
            operation = begin(of)
            operation.on_message(0, Promise(known(1, 3), COMPLETE))
            operation.on_message(1, Promise([], 1))
            assert of.sent() == [ask(1, (1, 10))]
            operation.cancel(ValueError())
            error_of(operation.done)
        assert of.is_idle

    simulated(work)


def test_when_a_report_falls_silent_it_is_asked_for_again_and_another_has_its_turn():
    async def work():
        of, began = Played(), now()
        operation = begin(of)
        operation.on_message(0, Promise(known(0), 1))
        operation.on_message(1, Promise([], 4))
        await asyncio.sleep(0.9)
        assert of.sent() == [ask(0, (1, 10))]
        page = operation.pages[0]
        await asyncio.sleep(0.2)
        assert of.sent() == [ask(0, (1, 10)), ask(1, (4, 10)), (2, CAPTURE)]
        assert operation.pages[0] is page, "the same question has the same id"
        page.on_message(0, Report(known(1), 2))  # late, and not lost
        await turn()
        assert of.sent() == [], "it is the other's turn"
        operation.pages[1].on_message(1, Report(half(5), COMPLETE))
        await turn()
        assert of.sent() == [ask(0, (2, 10))]
        operation.pages[0].on_message(0, Report([], COMPLETE))
        await turn()
        assert met(operation) == [0, 1, 5]
        assert now() - began == pytest.approx(1.1)
        assert of.is_idle

    simulated(work)


@pytest.mark.parametrize("how", ["silent", "down", "damaged"])
def test_a_capture_that_needs_no_more_of_a_report_than_another_has_ends_at_once(how):
    """Of five servers three have promised; the turn passes to one of which nothing is wanted."""

    async def work():
        of = Played(5)
        operation = begin(of)
        for server in (0, 1):
            operation.on_message(server, Promise(known(9), COMPLETE))
        operation.on_message(2, Promise([], 1))
        operation.on_message(3, Promise([], 9))
        assert of.sent() == [ask(2, (1, 9))]
        if how == "silent":
            await operation.done
            assert now() == pytest.approx(1.0)
        elif how == "down":
            of.cut(2)
        else:
            operation.pages[2].on_message(2, Failed(DAMAGED, "a sector is gone"))
        assert met(operation) == [9]
        assert of.is_idle
        assert operation._timer.cancelled()

    simulated(work)


def test_when_the_link_of_a_report_goes_down_another_has_its_turn():
    async def work():
        of = Played()
        operation = begin(of)
        operation.on_message(0, Promise(known(0), 1))
        operation.on_message(1, Promise([], 4))
        of.sent()
        of.cut(2)
        assert of.sent() == [], "nobody waits for that one"
        of.cut(0)
        assert of.sent() == [ask(1, (4, 10))]
        of.mend(0)
        assert of.sent() == [ask(0, (1, 10))]
        of.mend(2)
        assert of.sent() == [(2, CAPTURE)]
        operation.cancel(ValueError("the end"))
        operation.cancel(ValueError("again"))
        assert str(error_of(operation.done)) == "the end"
        assert of.is_idle

    simulated(work)


@pytest.mark.parametrize(
    ("answers", "down", "ends"),
    [
        ([(0, HIGH), (1, None)], (), None),
        ([(0, HIGH), (1, None), (2, None)], (), PROMISED),
        ([(0, HIGH), (1, TOP)], (), PREEMPTED),
        ([(0, TOP), (1, HIGH)], (), PREEMPTED),
        ([(0, TOP), (0, HIGH)], (), None),
        ([(0, TOP), (1, None)], (2,), PREEMPTED),
        ([(1, None)], (0, 2), None),
    ],
)
def test_a_capture_is_lost_to_a_majority_or_to_whoever_could_be_heard(answers, down, ends):
    async def work():
        of = Played()
        operation = begin(of)
        for server, promised in answers:
            assert not operation.done.done()
            message = Promise([], COMPLETE) if promised is None else Reject(promised)
            operation.on_message(server, message)
        for server in down:
            assert not operation.done.done()
            of.cut(server)
        assert operation.over == operation.done.done() == of.is_idle == (ends is not None)
        if ends is not None:
            assert operation.done.result().phase == ends
            assert operation.done.result().top == max([p for _, p in answers if p] or [b""])
        else:
            operation.cancel(ValueError())
            error_of(operation.done)

    simulated(work)


@pytest.mark.parametrize("last", ["refusal", "promise"])
def test_of_those_that_are_up_the_last_answer_ends_it(last):
    async def work():
        of = Played()
        operation = begin(of)
        of.cut(2)
        answers = [(0, Reject(HIGH)), (1, Promise([], COMPLETE))]
        for server, message in answers if last == "promise" else reversed(answers):
            assert not operation.over
            operation.on_message(server, message)
        assert operation.done.result().phase == PREEMPTED
        assert of.is_idle

    simulated(work)


def test_whoever_refused_is_not_waited_for_beyond_a_silence():
    async def work():
        of, began = Played(), now()
        operation = begin(of)
        operation.on_message(0, Reject(HIGH))
        assert (await operation.done).phase == PREEMPTED
        assert now() - began == pytest.approx(1.0)
        assert of.is_idle
        assert of.sent() == []

    simulated(work)


def test_a_report_from_after_another_capture_is_a_refusal():
    async def work():
        of = Played()
        operation = begin(of)
        operation.on_message(0, Promise([], 1))
        operation.on_message(1, Promise([], 1))
        of.sent()
        operation.pages[0].on_message(0, Report([Row(1, HIGH, b"theirs")], 2))
        await turn()
        assert of.sent()[-1] == ask(1, (1, 10))
        assert operation.machine.rejected == 0b001
        operation.on_message(2, Promise([], COMPLETE))
        operation.pages[1].on_message(1, Report([], COMPLETE))
        await turn()
        assert met(operation) == []

    simulated(work)


def test_what_a_server_says_that_cannot_report_is_told_to_the_caller():
    async def work():
        of = Played()
        operation = begin(of, seconds=0.4)
        operation.on_message(0, Promise([], 1))
        page = operation.pages[0]
        page.on_message(0, Failed(DAMAGED, "a sector is gone"))
        assert operation.pages[0] is page, "it may say more when it is asked again"
        with pytest.raises(Unavailable, match=r"capture of s/3\[0:10\]: 0 of 3 .*s0 \(a sector is"):
            await operation.done
        assert of.is_idle
        of.sent()
        operation = begin(of)
        for server in (0, 2):
            operation.on_message(server, Failed(FULL, "full"))
        assert type(error_of(operation.done)) is ServerFull
        of.sent()
        operation = begin(of)
        for server in (0, 1):
            operation.on_message(server, Promise([], 1))
        operation.on_message(2, Failed(FULL, "full"))
        of.sent()
        operation.pages[0].on_message(0, Failed(FULL, "full"))
        assert type(error_of(operation.done)) is ServerFull
        assert of.sent() == [], "nobody has a turn any more"
        assert of.is_idle

    simulated(work)


def test_a_server_that_cannot_report_costs_no_patience():
    """Another has its turn at once, and not when the one that said so is taken for silent."""

    async def work():
        of = Played()
        operation = begin(of)
        for server in range(3):
            operation.on_message(server, Promise([], 1))
        assert of.sent() == [ask(0, (1, 10))]
        operation.pages[0].on_message(0, Failed(DAMAGED, "a sector is gone"))
        assert of.sent() == [ask(1, (1, 10))]
        operation.on_message(2, Failed(DAMAGED, "not to what it was asked last"))
        assert of.sent() == []
        for server in (1, 2):
            operation.pages[server].on_message(server, Report(half(server), COMPLETE))
            await turn()
        assert met(operation) == [1, 2]
        assert now() == 0
        assert of.is_idle

    simulated(work)


@pytest.mark.parametrize("where", ["promise", "page"])
def test_reports_that_contradict_each_other_end_it(where):
    async def work():
        of = Played()
        operation = begin(of)
        operation.on_message(0, Promise([Row(1, LOW, b"one")], COMPLETE))
        rows = [Row(1, LOW, b"two")]
        if where == "promise":
            operation.on_message(1, Promise(rows, COMPLETE))
        else:
            operation.on_message(1, Promise([], 1))
            operation.pages[1].on_message(1, Report(rows, COMPLETE))
            await turn()
        assert type(error_of(operation.done)) is ProtocolViolation
        assert "two values at offset 1" in str(error_of(operation.done))
        assert of.is_idle

    simulated(work)


def test_a_trimmed_segment_ends_it_and_so_a_page_under_way():
    async def work():
        of = Played()
        operation = begin(of)
        operation.on_message(0, Promise([], 1))
        operation.pages[0].on_message(0, Report(half(1), 2))
        operation.on_message(1, SegmentTrimmed())
        assert type(error_of(operation.done)) is Trimmed
        assert str(error_of(operation.done)) == "segment 3 of space 's' was trimmed"
        assert of.is_idle
        await turn()
        assert list(reported(operation.machine)) == [], "what is over takes no page any more"

    simulated(work)


def test_all_that_a_majority_holds_is_met_whatever_comes_first():
    """Servers that hold anything, answer in any order, in pages of any size, and go away."""

    async def one(rng: random.Random) -> None:
        of, decided = Played(), {n for n in range(10) if rng.random() < 0.5}

        def row(offset: int, server: int) -> Row:
            if offset in decided:  # as the first server has not been told
                return Row(offset, HIGHER, b"%d" % offset, decided=server > 0)
            ballot = rng.choice([LOW, HIGHER])
            return Row(offset, ballot, b"%d" % offset + ballot)

        held = [[row(n, s) for n in range(10) if rng.random() < 0.7] for s in range(3)]
        operation = begin(of)
        waiting = [(server, None, [(0, 10)]) for server in range(3)]
        while not operation.over:
            server, page, spans = waiting.pop(rng.randrange(len(waiting)))
            rows = [one for one in held[server] if any(a <= one.offset < b for a, b in spans)]
            most = rng.choice([1, 2, 10])
            end = COMPLETE if len(rows) <= most else rows[most].offset
            if page is None:
                operation.on_message(server, Promise(rows[:most], end))
            else:
                page.on_message(server, Report(rows[:most], end))
            await turn()
            waiting += [(s, operation.pages[s], m.spans) for s, m in of.sent()]
        machine = operation.done.result()
        found = {one.offset: one.value for one in reported(machine)}
        for server in range(3):
            if machine.promised >> server & 1:
                assert all(found[one.offset] >= one.value for one in held[server])
        assert of.is_idle

    async def work():
        rng = random.Random(3)
        for _ in range(40):
            await one(rng)

    simulated(work)
