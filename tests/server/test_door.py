"""What is wrong with a message before anything is done with it: each rule at its two sides."""

from __future__ import annotations

import pytest

from wormspace.addresses import TRIM
from wormspace.paxos.ballot import MAX_ROUND, UNSAFE, ballot
from wormspace.paxos.messages import MAX_ITEMS, Capture, Decided, Read, Trim, Write
from wormspace.server import tables
from wormspace.server.door import ROUNDS_JUMP, Door, makes_room
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.messages import (
    BAD_REQUEST,
    TOO_LARGE,
    Failed,
    Listen,
    Spaces,
    Status,
    Trims,
    Unlisten,
)

B1 = ballot(1, b"proposer")
LAST = b"\xff" * 8
MOST = 10
NO_NAME = "a space name has at most 255 bytes"


def door(reached: int = 0) -> Door:
    """A door of a server whose rounds have come so far."""
    batch = MemoryEngine().begin()
    if reached:
        tables.reach_round(batch, reached)
    found = Door(MOST)
    found.learn_rounds(batch)
    return found


def write(offsets, values, b=B1, space="s"):
    return Write(space, 0, b, list(offsets), values)


RIGHT = [
    write([3], [bytes(MOST)]),
    write([5, 3], [b"", b"v"]),
    write(range(MAX_ITEMS), [b""] * MAX_ITEMS),
    write([0], [b"v"], UNSAFE),
    Capture("s", 0, 3, 4, B1),
    Capture("s", 0, 0, 1, UNSAFE),
    Read("s", 0, [(0, 1)]),
    Read("s", 0, [(0, 1), (1, 3), (5, 9)]),
    Decided("s", 0, B1, [(5, 6), (0, 3)]),
    Trim("s", 3, 4),
    Listen("s", 0, 1),
    Trims("s", 0, 1),
    Spaces(""),
    Spaces("é" * 127 + "x"),
    Unlisten(7),
    Status(),
]


@pytest.mark.parametrize("m", RIGHT, ids=lambda m: type(m).__name__)
def test_what_keeps_the_rules_is_let_in(m) -> None:
    assert door().problem(m) is None


VALUES = "a write needs as many values as offsets, and at least one"
SPANS = "a read needs spans with lo < hi, ascending"
WRONG = [
    (write([], []), VALUES),
    (write([1], []), VALUES),
    (write([1], [b"a", b"b"]), VALUES),
    (write([1, 2], [b"a"]), VALUES),
    (write(range(MAX_ITEMS + 1), [b""] * (MAX_ITEMS + 1)), "a write has at most 4096 registers"),
    (write([1, 2, 1], [b""] * 3), "a write names each offset once"),
    (write([1, 1], [b""] * 2), "a write names each offset once"),
    (write([1], [b""], space="x" * 256), NO_NAME),
    (Capture("s", 0, 3, 3, B1), "a capture needs start < stop"),
    (Capture("s", 0, 4, 3, B1), "a capture needs start < stop"),
    (Read("s", 0, []), "a read needs a span"),
    (Read("s", 0, [(3, 3)]), SPANS),
    (Read("s", 0, [(0, 3), (2, 5)]), SPANS),
    (Read("s", 0, [(4, 5), (0, 1)]), SPANS),
    (Decided("s", 0, B1, []), "an empty span"),
    (Decided("s", 0, B1, [(0, 1), (3, 3)]), "an empty span"),
    (Trim("s", 3, 3), "it needs segment < stop"),
    (Listen("s", 3, 2), "it needs segment < stop"),
    (Trims("s", 3, 3), "it needs segment < stop"),
    (Spaces("é" * 128), NO_NAME),
    (Trim("é" * 128, 0, 1), NO_NAME),
    (Read("a\ud800", 0, [(0, 1)]), "a space name is text that UTF-8 can encode"),
    (Capture("s", 0, 0, 1, UNSAFE[:-1] + b"\1"), "a ballot's round is 1 or more"),
    (write([0], [b"v"], bytes(8) + LAST), "a ballot's round is 1 or more"),
]


@pytest.mark.parametrize(("m", "text"), WRONG)
def test_what_breaks_a_rule_is_told_which(m, text) -> None:
    problem = door().problem(m)
    assert problem.code == BAD_REQUEST
    assert problem.text.startswith(text)


def test_a_value_too_large_is_told_first() -> None:
    for values in ([bytes(MOST + 1)], [b"", bytes(MOST + 1), b""]):
        assert door().problem(write([1], values)) == Failed(
            TOO_LARGE, "a value has at most 10 bytes here"
        )


@pytest.mark.parametrize("reached", [0, tables.ROUNDS_STEP + 1, 1 << 50])
def test_a_ballot_is_within_a_jump_of_what_was_seen(reached: int) -> None:
    highest = reached + ROUNDS_JUMP
    for number, proposer in ((1, bytes(8)), (1, b"\0" * 7 + b"\1"), (highest, LAST)):
        assert door(reached).problem(Capture("s", 0, 0, 1, ballot(number, proposer))) is None
        assert door(reached).problem(write([0], [b""], ballot(number, proposer))) is None
    above = ballot(highest + 1, bytes(8))
    for m in (Capture("s", 0, 0, 1, above), write([0], [b""], above)):
        assert door(reached).problem(m) == Failed(
            BAD_REQUEST, f"a ballot's round is at most {ROUNDS_JUMP} above those seen here"
        )


def test_a_round_is_news_a_step_above_what_is_remembered() -> None:
    for reached in (0, 1 << 50):
        edge = reached + tables.ROUNDS_STEP
        assert not door(reached).is_news(ballot(edge, LAST))
        assert door(reached).is_news(ballot(edge + 1, bytes(8)))


def test_the_last_round_is_the_last() -> None:
    last = door(MAX_ROUND - 5)
    assert last.problem(Capture("s", 0, 0, 1, ballot(MAX_ROUND, LAST))) is None
    assert not last.is_news(ballot(MAX_ROUND, LAST))


def test_trims_and_the_writes_that_decide_them_make_room() -> None:
    assert makes_room(Trim("s", 0, 1))
    assert makes_room(write([TRIM], [b"v"]))
    for m in (write([TRIM - 1], [b"v"]), write([TRIM, 0], [b"v", b"v"]), Capture("s", 0, 0, 1, B1)):
        assert not makes_room(m)
