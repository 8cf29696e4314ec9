"""Questions to servers: whom they go to, how long they wait, and what is made of the answers."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.register.played import Answering, now, silent

from wires import simulated
from wormspace.errors import BadAddress, Closed, Unavailable
from wormspace.paxos.ballot import UNSAFE, ballot, show
from wormspace.paxos.messages import COMPLETE, Done, Read, Report, Row, SegmentTrimmed
from wormspace.paxos.ranges import Range
from wormspace.registers.interface import RegisterState, ServerState
from wormspace.registers.paxos import administration
from wormspace.wire.messages import Failed, Metrics, SpaceNames, Spaces, Status, Tombstones, Trims

B1, B2 = ballot(1, b"somebody"), ballot(2, b"somebody")


def test_a_server_that_is_down_is_waited_for_half_a_second_and_another_until_the_deadline():
    async def work():
        of = Answering(silent, silent, lambda m: Done())
        of.links[0].up = False
        for server, seconds, lasted in [(0, 9, 0.5), (0, 0.2, 0.2), (1, 9, 9), (1, 0.2, 0.2)]:
            began = now()
            assert await administration.ask(of, server, Status(), began + seconds) is None
            assert now() - began == pytest.approx(lasted)
            assert of.is_idle
        assert await administration.ask(of, 2, Status(), now() + 9) == Done()
        assert of.is_idle
        assert of.asked == [(1, Status()), (1, Status()), (2, Status())]
        asking = asyncio.ensure_future(administration.ask(of, 1, Status(), now() + 9))
        await asyncio.sleep(1)
        await of.close(Closed("the client was closed"))
        with pytest.raises(Closed):
            await asking
        asking = asyncio.ensure_future(administration.ask(of, 1, Status(), now() + 9))
        await asyncio.sleep(0)
        of.answer(1, Done())
        await of.close(Closed("just after the answer"))
        assert await asking == Done()

    simulated(work)


def test_all_are_asked_at_once_and_answer_in_their_order():
    async def work():
        of = Answering(lambda m: Metrics({"n": 0}), silent, lambda m: Metrics({"n": 2}))
        began = now()
        answers = await administration.ask_all(of, Status(), began + 3)
        assert answers == [Metrics({"n": 0}), None, Metrics({"n": 2})]
        assert now() - began == pytest.approx(3)
        began = now()
        answers = await administration.ask_majority(of, Status(), began + 3)
        assert answers == [Metrics({"n": 0}), None, Metrics({"n": 2})]
        assert now() == began
        of = Answering(silent, silent, lambda m: Metrics({}))
        answers = await administration.ask_majority(of, Status(), began + 3)
        assert answers == [None, None, Metrics({})]
        assert now() - began == pytest.approx(3)
        assert of.is_idle
        of = Answering(*[lambda m: Metrics({})] * 4, silent)
        began = now()
        answers = await administration.ask_majority(of, Status(), began + 3)
        assert answers == [*[Metrics({})] * 4, None]
        assert now() == began, "more than a majority at once is a majority"
        assert of.is_idle

    simulated(work)


def names_of(*names: str, page: int = 2):
    """A server that knows of these spaces, and tells so many at a time."""

    def answer(message: Spaces) -> SpaceNames:
        return SpaceNames([name for name in sorted(names) if name > message.after][:page])

    return answer


def test_spaces_are_what_a_majority_of_each_partition_knows_of():
    async def work():
        one = Answering(names_of("b", "d", "f"), silent, names_of("a", "b", "c", "e"))
        two = Answering(names_of("x", "a"), names_of("a", "z", page=1), names_of())
        until = now() + 9
        assert await administration.spaces([one, two], until) == list("abcdefxz")
        assert await administration.spaces([one], until) == list("abcdef")
        asked = [message.after for server, message in one.asked if server == 0]
        assert asked[: len(asked) // 2] == ["", "b", "e", "f"]
        assert now() == until - 9
        none = Answering(names_of(), names_of(), silent)
        assert await administration.spaces([none], until) == []
        assert await administration.spaces([], until) == []

    simulated(work)


def test_a_question_that_no_majority_answers_says_who_did_not():
    async def work():
        failing = lambda m: Failed("damaged", "a sector is gone")  # noqa: E731
        for ask, what in [
            (lambda of: administration.spaces([of], now() + 2), "listing the spaces"),
            (
                lambda of: administration.trims(of, "s", 0, 9, now() + 2),
                "asking what of 's' is trimmed",
            ),
        ]:
            for answer in (names_of(), lambda m: Tombstones([], COMPLETE)):
                of = Answering(answer, failing, silent)
                with pytest.raises(Unavailable) as caught:
                    await ask(of)
                said = str(caught.value)
                assert said.startswith(f"{what}: 1 of 3 servers answered in time, 2 must; without")
                assert "without: s1 (a sector is gone), s2 (did not answer in time)." in said

    simulated(work)


def test_a_space_that_servers_go_on_telling_of_is_no_endless_question():
    async def work():
        of = Answering(*[lambda m: SpaceNames(["a", "b"])] * 3)
        assert await administration.spaces([of], now() + 9) == ["a", "b"]
        assert {message.after for _, message in of.asked} == {"", "b"}

    simulated(work)


def test_trims_are_what_a_majority_was_told_up_to_the_shortest_answer():
    async def work():
        def told(spans, end):
            return lambda m: Tombstones(spans, end)

        for answers, expected in [
            ([told([(0, 2)], COMPLETE), told([(1, 3), (5, 6)], COMPLETE)], [(0, 3), (5, 6)]),
            ([told([(0, 20)], COMPLETE), told([], COMPLETE)], [(0, 20)]),
        ]:
            of = Answering(*answers, silent)
            assert await administration.trims(of, "s", 2, 9, now() + 9) == (expected, 9)
        for answers, expected in [
            ([told([(0, 2)], 4), silent, told([(1, 3)], 7)], ([(0, 3)], 4)),
            ([told([(0, 2)], COMPLETE), told([], 3), silent], ([(0, 2)], 3)),
        ]:
            of = Answering(*answers)
            assert await administration.trims(of, "s", 2, 9, now() + 9) == expected
            assert {message for _, message in of.asked} == {Trims("s", 2, 9)}
        for end in (2, 1, 0, -2):  # an answer that does not go on is none
            of = Answering(told([], end), told([], COMPLETE), silent)
            with pytest.raises(Unavailable):
                await administration.trims(of, "s", 2, 9, now() + 9)

    simulated(work)


def test_every_server_says_how_it_is_or_why_it_does_not():
    async def work():
        of = Answering(
            lambda m: Metrics({"writes": 3, "trouble": "disk full"}),
            lambda m: Metrics({"writes": 4}),
            silent,
            silent,
            lambda m: Failed("stopping", "bye"),
        )
        of.links[3].trouble = "refused"
        other = Answering(silent)
        other.index = 1
        assert await administration.servers([of, other], now() + 1) == [
            ServerState("s0", 0, True, "disk full", {"writes": 3}),
            ServerState("s1", 0, True, "", {"writes": 4}),
            ServerState("s2", 0, False, "no answer in time", {}),
            ServerState("s3", 0, False, "refused", {}),
            ServerState("s4", 0, False, "no answer in time", {}),
            ServerState("s0", 1, False, "no answer in time", {}),
        ]

    simulated(work)


# ---------------------------------------------------------------- what servers hold


def holding(rows: list[Row], promises: list[Range], page: int = 100):
    """A server that holds these, and reports up to so many registers at a time."""

    def answer(message: Read) -> Report:
        [(lo, hi)] = message.spans
        assert message.detail
        end = min(hi, lo + page)
        some = [row for row in rows if lo <= row.offset < end]
        return Report(some, COMPLETE if end == hi else end, [p for p in promises if p.hi > lo])

    return answer


def states_of(rows: list[Row], promises: list[Range], start: int, stop: int) -> list[RegisterState]:
    """Register by register."""
    states = []
    for offset in range(start, stop):
        promised = [p.ballot for p in promises if p.lo <= offset < p.hi]
        written = [row for row in rows if row.offset == offset]
        if promised or written:
            states.append(
                RegisterState(
                    offset,
                    show(promised[0]) if promised else "-",
                    show(written[0].ballot) if written else "-",
                    bool(written) and written[0].decided,
                    written[0].value if written else None,
                )
            )
    return states


def test_each_register_is_shown_with_what_is_promised_and_accepted_for_it():
    async def work():
        rng = random.Random(4)
        for _ in range(30):
            rows = [
                Row(n, rng.choice([B1, B2, UNSAFE]), b"%d" % n, decided=rng.random() < 0.5)
                for n in sorted(rng.sample(range(12), rng.choice([0, 1, 4, 12])))
            ]
            ends = sorted(rng.sample(range(14), 2 * rng.choice([0, 1, 2, 3])))
            promises = [
                Range(lo, hi, rng.choice([B1, B2]))
                for lo, hi in zip(ends[::2], ends[1::2], strict=True)
            ]
            shuffled = rng.sample(promises, len(promises))
            start = rng.randrange(6)
            stop = rng.randrange(start + 1, 13)
            of = Answering(
                holding(rows, shuffled), holding(rows, shuffled, page=1 + rng.randrange(4)), silent
            )
            found = await administration.inspect(of, ("s", 3), start, stop, now() + 1)
            expected = states_of(rows, promises, start, stop)
            assert found == {"s0": expected, "s1": expected, "s2": None}

    simulated(work)


@pytest.mark.parametrize(
    ("report", "is_shown"),
    [
        (Report([], COMPLETE), True),
        (Report([Row(4, B1), Row(5, B1), Row(8, B1)], COMPLETE), True),
        (Report([Row(3, B1)], COMPLETE), False),
        (Report([Row(9, B1)], COMPLETE), False),
        (Report([Row(5, B1), Row(5, B1)], COMPLETE), False),
        (Report([Row(6, B1), Row(5, B1)], COMPLETE), False),
        (Report([], 4), False),
        (Report([], 3), False),
        (Report([], 10), False),
        (Report([Row(5, B1)], 5), False),
        (SegmentTrimmed(), True),
        (Done(), False),
        (Failed("damaged", "a sector"), False),
    ],
)
def test_a_report_is_shown_if_it_is_of_what_was_asked_for(report, is_shown):
    async def work():
        of = Answering(lambda m: report)
        shown = await administration.inspect(of, ("s", 3), 4, 9, now() + 1)
        rows = report.rows if isinstance(report, Report) and is_shown else []
        expected = [RegisterState(row.offset, "-", show(B1), False, b"") for row in rows]
        assert shown == {"s0": expected if is_shown else None}
        assert of.asked == [(0, Read("s", 3, [(4, 9)], detail=True))]

    simulated(work)


def test_pages_go_on_where_the_last_one_ended_and_an_end_that_is_the_stop_is_asked_for_no_more():
    async def work():
        rows = [Row(n, B1) for n in range(4, 9)]
        of = Answering(holding(rows, [], page=2))
        [states] = (await administration.inspect(of, ("s", 3), 4, 9, now() + 1)).values()
        assert [state.offset for state in states] == [4, 5, 6, 7, 8]
        assert [message.spans for _, message in of.asked] == [[(4, 9)], [(6, 9)], [(8, 9)]]

    simulated(work)


def test_so_many_registers_are_inspected_and_no_more(monkeypatch):
    async def work():
        monkeypatch.setattr(administration, "INSPECT_MOST", 10)
        of = Answering(holding([], []))
        assert await administration.inspect(of, ("s", 3), 5, 15, now() + 1) == {"s0": []}
        with pytest.raises(BadAddress, match=r"at most 10 registers .* at a time, not 11: give a"):
            await administration.inspect(of, ("s", 3), 5, 16, now() + 1)
        assert len(of.asked) == 1

    simulated(work)


def test_many_registers_are_made_ready_in_many_turns_until_the_deadline(monkeypatch):
    async def work():
        monkeypatch.setattr(administration, "YIELD_EVERY", 10)
        rows = [Row(n, B1) for n in range(45)]
        turns, loop = 0, asyncio.get_running_loop()

        def turn() -> None:
            nonlocal turns
            turns += 1
            loop.call_soon(turn)

        loop.call_soon(turn)
        of = Answering(holding(rows, []))
        [states] = (await administration.inspect(of, ("s", 3), 0, 45, now() + 1)).values()
        assert len(states) == 45
        assert 4 <= turns <= 12

    simulated(work)
