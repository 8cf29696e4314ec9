"""What becomes of each register of a write, whatever each server says of it, against a model."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.register.played import ARRAY, BALLOT, HIGH, TOP, Played, error_of, now

from wires import simulated
from wormspace.errors import CaptureLost, ProtocolViolation, TokenReused, Trimmed
from wormspace.knobs import turned
from wormspace.paxos.ballot import UNSAFE
from wormspace.paxos.messages import Decided, Done, RefusedWrite, SegmentTrimmed, Write, Written
from wormspace.registers.paxos.issued import Issued
from wormspace.registers.paxos.operations import WriteOperation
from wormspace.registers.spans import as_spans

OFFSETS = (4, 5, 9)


class Owner:
    """Whoever issued the write; notes what it is told."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def on_gone(self, segment_name) -> None:
        self.heard.append(segment_name)

    def on_refused(self, promised: bytes) -> None:
        self.heard.append(promised)


def write(of: Played, ballot: bytes = BALLOT, offsets=OFFSETS):
    """A write of some registers that is on its way, and each one's future."""
    operation = WriteOperation(of, ARRAY, ballot, Issued(), Owner())
    for offset in offsets:
        operation.issued.issue(offset, b"%d" % offset)
    futures = {offset: operation.add(offset, b"%d" % offset, now() + 60) for offset in offsets}
    operation.begin()
    return operation, futures


class Model:
    """The fates of the registers, counted one by one."""

    def __init__(self) -> None:
        self.answered: set[int] = set()
        self.refused: dict[int, dict[int, bytes]] = {offset: {} for offset in OFFSETS}
        self.fate: dict[int, str] = {}
        self.heard: list[bytes] = []
        self.up = {0, 1, 2}

    def answer(self, server: int, refused: dict[int, bytes]) -> None:
        if self.is_over:
            return
        if server not in self.answered:
            self.answered.add(server)
            for offset, promised in refused.items():
                self.refused[offset][server] = promised
        if len(self.answered) < 2:
            return
        every = [promised for by in self.refused.values() for promised in by.values()]
        if every:
            self.heard.append(max(every))
        for offset, by in self.refused.items():
            if len(by) >= 2:
                self.fate.setdefault(offset, "lost")
            elif len(self.answered - by.keys()) >= 2:
                self.fate.setdefault(offset, "decided")
        self.look()

    def look(self) -> None:
        if not self.up - self.answered and len(self.answered) >= 2:
            for offset in OFFSETS:
                self.fate.setdefault(offset, "lost")

    @property
    def is_over(self) -> bool:
        return len(self.fate) == len(OFFSETS)


def play(rng: random.Random) -> None:
    of, model = Played(), Model()
    operation, futures = write(of)
    whole = Write(*ARRAY, BALLOT, list(OFFSETS), [b"%d" % offset for offset in OFFSETS])
    assert of.sent() == [(server, whole) for server in range(3)]
    for _ in range(rng.choice([2, 3, 5])):
        server = rng.randrange(3)
        if rng.random() < 0.2:
            of.cut(server)
            model.up -= {server}
            model.look()
        else:
            refused = {o: rng.choice([HIGH, TOP]) for o in OFFSETS if rng.random() < 0.4}
            operation.on_message(server, Written([RefusedWrite(*item) for item in refused.items()]))
            model.answer(server, refused)
        assert {o for o, future in futures.items() if future.done()} == model.fate.keys()
        assert operation.over == of.is_idle == model.is_over
        assert operation.owner.heard == model.heard
        if not model.is_over:
            left = {send.server for send in operation.unanswered()}
            assert left == {0, 1, 2} - model.answered
    decided = sorted(offset for offset, fate in model.fate.items() if fate == "decided")
    for offset, fate in model.fate.items():
        if fate == "lost":
            assert type(error_of(futures[offset])) is CaptureLost
        else:
            assert futures[offset].result() is None
        assert (offset in operation.issued.decided) == (fate == "decided")
        assert (offset in operation.issued.doubt) == (fate == "lost")
        assert offset not in operation.issued.open
    of.send_marks()
    marks = [Decided(*ARRAY, BALLOT, list(as_spans(decided)))] if decided and model.up else []
    assert of.told() == marks
    operation.cancel(ValueError("the end"))
    for offset in OFFSETS:
        if offset not in model.fate:
            assert str(error_of(futures[offset])) == "the end"
    assert of.is_idle


def test_each_register_has_a_fate_of_its_own():
    async def work():
        rng = random.Random(1)
        for _ in range(150):
            play(rng)

    simulated(work)


@pytest.mark.parametrize(
    ("ballot", "promised", "kind", "text"),
    [
        (BALLOT, HIGH, CaptureLost, "was captured by another client; the outcome is unknown"),
        (BALLOT, BALLOT, TokenReused, "was written under the same capture token"),
        (UNSAFE, HIGH, CaptureLost, "an unsafe write met a register that has been captured"),
        (UNSAFE, UNSAFE, ProtocolViolation, "was written under the same unsafe ballot"),
    ],
    ids=["captured", "written with the token", "captured before", "written unsafely"],
)
def test_who_lost_a_register_is_told_to_whom(ballot, promised, kind, text):
    async def work():
        of = Played()
        operation, futures = write(of, ballot)
        joined = operation.add(5, b"5", now() + 60)
        for server in (0, 1):
            of.answer(server, Written([RefusedWrite(5, promised)]))
        for future in (futures[5], joined):
            assert type(error_of(future)) is kind
            assert text in str(error_of(future))
            assert str(error_of(future)).startswith("s/3/5")
        assert futures[4].result() is futures[9].result() is None
        assert of.is_idle

    simulated(work)


def test_what_only_a_silent_server_could_decide_is_given_up_at_the_first_silence():
    async def work():
        of, began = Played(), now()
        _, futures = write(of)
        of.answer(0, Written([RefusedWrite(5, HIGH)]))
        of.answer(1, Written([]))
        assert [futures[offset].done() for offset in OFFSETS] == [True, False, True]
        with pytest.raises(CaptureLost):
            await futures[5]
        assert now() - began == pytest.approx(1.0)  # it was heard from before the first look
        assert of.is_idle
        assert len(of.moments(2)) == 1, "nobody is asked for what is given up"

    simulated(work)


def test_a_silence_without_a_majority_gives_up_nothing():
    async def work():
        of = Played()
        operation, futures = write(of)
        of.answer(0, Written([RefusedWrite(5, HIGH)]))
        await asyncio.sleep(3)
        assert not any(future.done() for future in futures.values())
        assert of.moments(1) == of.moments(2)
        assert len(of.moments(1)) == 3
        assert len(of.moments(0)) == 1
        of.cut(1)
        of.cut(2)
        assert not any(future.done() for future in futures.values())
        operation.cancel(ValueError())
        assert all(type(error_of(future)) is ValueError for future in futures.values())

    simulated(work)


def test_a_trimmed_segment_ends_all_of_its_writes():
    async def work():
        of = Played()
        operation, futures = write(of)
        of.answer(0, Done())  # no answer to a write
        assert not operation.machine.answered
        of.answer(1, SegmentTrimmed())
        assert operation.owner.heard == [ARRAY]
        for future in futures.values():
            assert type(error_of(future)) is Trimmed
            assert str(error_of(future)) == "segment 3 of space 's' was trimmed"
        assert of.is_idle

    simulated(work)


def test_decisions_that_wait_to_be_told_go_before_the_next_write():
    async def work():
        of = Played()
        of.mark(*ARRAY, HIGH, [(0, 2)])
        operation, futures = write(of)
        assert [(id_ == operation.id, message) for _, id_, message in of.links[0].posted] == [
            (False, Decided(*ARRAY, HIGH, [(0, 2)])),
            (True, Write(*ARRAY, BALLOT, [4, 5, 9], [b"4", b"5", b"9"])),
        ]
        operation.cancel(ValueError())
        assert all(error_of(future) for future in futures.values())

    simulated(work)


def test_what_was_cancelled_before_it_began_is_never_sent():
    async def work():
        of = Played()
        operation = WriteOperation(of, ARRAY, BALLOT, Issued(), Owner())
        operation.issued.issue(1, b"v")
        future = operation.add(1, b"v", now() + 60)
        assert list(operation.unanswered()) == []
        assert operation.heard() == 0
        operation.on_message(0, Written([]))  # an id is not used before
        of.cut(0)
        operation.cancel(ValueError())
        operation.begin()
        assert type(error_of(future)) is ValueError
        assert of.sent() == []
        assert set(operation.issued.doubt) == {1}

    simulated(work)


def test_a_write_is_full_by_its_registers_or_by_its_bytes():
    async def work():
        of = Played()
        with turned(registers_batch=3, registers_batch_bytes=100):
            for sizes, is_full in [
                ([1, 1], False),
                ([1, 1, 1], True),
                ([33, 34], False),  # each register counts for 16 bytes besides
                ([34, 34], True),
                ([84], True),
                ([83], False),
            ]:
                operation = WriteOperation(of, ARRAY, BALLOT, Issued(), Owner())
                futures = [operation.add(n, bytes(s), now() + 1) for n, s in enumerate(sizes)]
                futures.append(operation.add(0, bytes(sizes[0]), now() + 1))  # the same again
                assert operation.is_full == is_full
                operation.cancel(ValueError())
                assert all(error_of(future) for future in futures)

    simulated(work)
