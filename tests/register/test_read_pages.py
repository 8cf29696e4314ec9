"""Whom a read asks, when, and how far it comes: one server first, then all, page by page."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.register.played import ARRAY, BALLOT, HIGH, LOW, Played, error_of, now

from wires import simulated
from wormspace.errors import ProtocolViolation, Trimmed, Unavailable, UsageError
from wormspace.paxos.messages import COMPLETE, Done, Read, Report, Row, SegmentTrimmed
from wormspace.paxos.reading import ANSWERED, Reading
from wormspace.registers.paxos.operations import ReadOperation
from wormspace.wire.messages import BAD_REQUEST, DAMAGED, Failed

SPANS = ((2, 6), (8, 12))
QUESTION = Read(*ARRAY, list(SPANS))


def begin(of: Played, spans=SPANS, first: int = 1, seconds: float = 60.0) -> ReadOperation:
    operation = ReadOperation(of, Reading(of.size, *ARRAY, spans=spans, first=first), seconds)
    operation.deadline = now() + seconds
    operation.begin()
    return operation


def end(operation: ReadOperation) -> None:
    operation.cancel(ValueError("the end"))
    assert str(error_of(operation.done)) == "the end"


def decided(*offsets: int) -> list[Row]:
    return [Row(offset, BALLOT, b"%d" % offset, decided=True) for offset in offsets]


EVERY = decided(2, 3, 4, 5, 8, 9, 10, 11)


def test_one_server_that_knows_it_all_is_enough():
    async def work():
        of = Played()
        operation = begin(of)
        assert of.sent() == [(1, QUESTION)]
        operation.on_message(1, Report(EVERY, COMPLETE))
        assert operation.done.result().phase == ANSWERED
        assert [found.row for found in operation.done.result().found] == EVERY
        assert operation.end == 12
        assert of.sent() == []
        assert of.is_idle
        await asyncio.sleep(3)
        assert of.sent() == []

    simulated(work)


def test_all_are_asked_at_once_if_the_first_is_down():
    async def work():
        of = Played()
        of.links[1].up = False
        operation = begin(of)
        assert of.sent() == [(0, QUESTION), (2, QUESTION)]
        of.mend(1)
        assert of.sent() == [(1, QUESTION)]
        end(operation)

    simulated(work)


def test_all_are_asked_when_the_first_falls_silent():
    async def work():
        of, began = Played(), now()
        operation = begin(of)
        of.mend(2)  # it was away: that concerns nobody who asks another
        await asyncio.sleep(0.6)
        assert of.moments(0) == of.moments(2)
        assert [at - began for at in of.moments(1)] == pytest.approx([0, 0.5])
        assert [at - began for at in of.moments(0)] == pytest.approx([0.5])
        end(operation)

    simulated(work)


def test_all_are_asked_when_the_first_goes_down_and_not_when_another_does():
    async def work():
        of = Played()
        operation = begin(of)
        of.sent()
        of.cut(0)
        assert of.sent() == []
        of.mend(0)
        assert of.sent() == []
        of.cut(1)
        assert of.sent() == [(0, QUESTION), (2, QUESTION)]
        of.cut(2)
        assert of.sent() == []
        of.mend(2)
        assert of.sent() == [(2, QUESTION)]
        end(operation)

    simulated(work)


def test_the_others_are_asked_when_the_first_cannot_answer():
    async def work():
        of = Played()
        operation = begin(of)
        of.sent()
        operation.on_message(1, Failed(DAMAGED, "a sector is gone"))
        assert of.sent() == [(0, QUESTION), (2, QUESTION)]
        operation.on_message(0, Failed(DAMAGED, "a sector is gone"))
        assert of.sent() == []
        operation.on_message(0, Failed(BAD_REQUEST, "no such thing"))
        operation.on_message(1, Failed(BAD_REQUEST, "no such thing"))
        assert type(error_of(operation.done)) is UsageError
        assert of.sent() == []

    simulated(work)


def test_registers_that_the_first_does_not_know_are_asked_of_all():
    async def work():
        of = Played()
        operation = begin(of)
        of.sent()
        half = Row(9, BALLOT, b"9")
        operation.on_message(1, Report([*decided(2, 4), half], COMPLETE))
        rest = Read(*ARRAY, [(3, 4), (5, 6), (8, 12)])
        assert of.sent() == [(0, rest), (2, rest)]
        assert operation.heard() == 0b010
        operation.on_message(1, Report([], COMPLETE))  # one server is one
        assert not operation.done.done()
        operation.on_message(2, Report([half], COMPLETE))
        found = operation.done.result().found
        assert [(one.row, one.voters) for one in found] == [
            (decided(2)[0], 0b010),
            (decided(4)[0], 0b010),
            (half, 0b110),
        ]

    simulated(work)


def test_what_comes_after_the_cut_of_a_long_report_is_not_read():
    async def work():
        of = Played()
        operation = begin(of)
        operation.on_message(1, Report(decided(2, 3, 4, 5, 8), 9))
        assert operation.end == 9
        result = operation.done.result()
        assert result.spans == ((2, 6), (8, 9))
        assert [found.row.offset for found in result.found] == [2, 3, 4, 5, 8]
        assert of.is_idle

    simulated(work)


def test_of_two_reports_the_shorter_says_how_far_the_read_came():
    async def work():
        for first, second, far in [(10, 4, 4), (4, 10, 4), (10, COMPLETE, 10), (13, 12, 12)]:
            of = Played()
            of.links[1].up = False
            operation = begin(of)
            for server, stop in ((0, first), (2, second)):
                rows = [row for row in EVERY if stop == COMPLETE or row.offset < stop]
                operation.on_message(server, Report(rows, stop))
            assert operation.end == far
            found = operation.done.result().found
            assert [one.row for one in found] == [row for row in EVERY if row.offset < far]

    simulated(work)


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_report_that_goes_back_is_a_fault_of_the_server(stop):
    async def work():
        of = Played()
        operation = begin(of)
        operation.on_message(1, Report([], stop))
        assert type(error_of(operation.done)) is ProtocolViolation
        assert str(error_of(operation.done)) == "read of s/3: a report that goes back"
        assert of.is_idle
        of = Played()
        operation = begin(of)
        operation.on_message(1, Report(decided(2), 3))  # a page of one register does go on
        assert operation.end == 3
        assert operation.done.result().spans == ((2, 3),)

    simulated(work)


def test_reports_that_contradict_each_other_are_told_to_the_caller():
    async def work():
        of = Played()
        of.links[1].up = False
        operation = begin(of)
        operation.on_message(0, Report([Row(2, BALLOT, b"one")], COMPLETE))
        operation.on_message(2, Report([Row(2, BALLOT, b"two")], COMPLETE))
        assert type(error_of(operation.done)) is ProtocolViolation
        assert str(error_of(operation.done)).startswith("read of s/3: two values at offset 2 under")
        assert of.is_idle

    simulated(work)


def test_a_read_ends_with_the_segment_or_with_its_time():
    async def work():
        of = Played()
        operation = begin(of)
        operation.on_message(1, Done())  # no answer to a read
        assert not operation.over
        operation.on_message(1, SegmentTrimmed())
        assert type(error_of(operation.done)) is Trimmed
        assert of.is_idle
        operation = begin(of, seconds=0.7)
        with pytest.raises(Unavailable, match=r"^read of s/3: 0 of 3 servers answered in time, 2"):
            await operation.done
        assert now() == pytest.approx(0.7)
        assert of.is_idle

    simulated(work)


def cut_off(rows: list[Row], question: Read, most: int) -> Report:
    """What a server with these rows answers, of which so many fit into a message."""
    asked = [row for row in rows if any(lo <= row.offset < hi for lo, hi in question.spans)]
    if len(asked) <= most:
        return Report(asked, COMPLETE)
    return Report(asked[:most], asked[most].offset)


def test_what_is_found_is_the_best_that_the_servers_heard_have():
    """Whatever each of them holds, in whichever order they answer, and however short they are."""

    def one(rng: random.Random) -> None:
        of, offsets = Played(), [n for lo, hi in SPANS for n in range(lo, hi)]
        is_decided = {n: rng.random() < 0.5 for n in offsets}
        held = [
            [
                Row(n, b, b"%d" % n + b, decided=is_decided[n] and b == HIGH and rng.random() < 0.6)
                for n in offsets
                if (b := rng.choice([b"", LOW, HIGH]))
            ]
            for _ in range(3)
        ]
        operation = begin(of, first=rng.randrange(3))
        heard, asked = [], []
        while not operation.over:
            asked += of.sent()
            server, question = asked.pop(rng.randrange(len(asked)))
            answer = cut_off(held[server], question, rng.choice([1, 3, 9]))
            operation.on_message(server, answer)
            heard.append((server, question))
        for offset in [n for n in offsets if n < operation.end]:
            rows = [
                (server, row)
                for server, question in heard
                for row in cut_off(held[server], question, 9).rows
                if row.offset == offset
            ]
            found = [one for one in operation.done.result().found if one.row.offset == offset]
            if any(row.decided for _, row in rows):
                assert found[0].row.decided
                assert found[0].row.ballot == HIGH
            elif rows:
                top = max(row.ballot for _, row in rows)
                assert found[0].row.ballot == top
                assert found[0].voters == sum(1 << s for s, row in rows if row.ballot == top)
            else:
                assert not found
        assert all(one.row.offset < operation.end for one in operation.done.result().found)

    async def work():
        rng = random.Random(2)
        for _ in range(150):
            one(rng)

    simulated(work)
