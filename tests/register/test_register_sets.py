"""Spans, tokens, what was issued and what was forgotten, each against Python's own sets."""

from __future__ import annotations

import base64
import itertools
import random
import zlib

import msgspec
import pytest

from scaling import count
from wormspace.errors import BadToken
from wormspace.knobs import turned
from wormspace.paxos.ballot import UNSAFE
from wormspace.registers import spans as sets
from wormspace.registers.paxos.issued import Issued
from wormspace.registers.paxos.memory import BallotWrites, Memory
from wormspace.registers.paxos.votes import QUEUED_BYTES, VOTES_BYTES, Undecided, Votes
from wormspace.registers.spans import OffsetSet, SpanSet, as_spans
from wormspace.registers.token import Token

STOP = 12


def within(spans) -> set[int]:
    return {n for lo, hi in spans for n in range(lo, hi)}


def are_apart(spans) -> bool:
    """Whether spans ascend, hold something, and do not touch."""
    flat = [n for span in spans for n in span]
    return all(a < b for a, b in itertools.pairwise(flat))


# ---------------------------------------------------------------- spans


@pytest.mark.parametrize("seed", range(30))
def test_a_set_of_spans_is_a_set_of_numbers(seed: int) -> None:
    rng = random.Random(seed)
    below, added = rng.randrange(-1, 4), [rng.choices(range(STOP + 1), k=2) for _ in range(6)]
    lo, hi = rng.choices(range(STOP + 1), k=2)
    spans, naive = SpanSet(below), set(range(below))
    for span in added:
        spans.add(*span)
        naive |= set(range(*span))
        assert are_apart(spans.spans())
        assert within(spans.spans()) == naive
    assert [n in spans for n in range(STOP + 2)] == [n in naive for n in range(STOP + 2)]
    assert spans.below == min(set(range(STOP + 2)) - naive)
    assert spans.next_missing(lo) == min(set(range(lo, STOP + 2)) - naive)
    missing = spans.missing(lo, hi)
    assert within(missing) == set(range(lo, hi)) - naive
    assert are_apart(missing)


@pytest.mark.parametrize("seed", range(25))
def test_offsets_as_spans(seed: int) -> None:
    rng = random.Random(seed)
    offsets = set(rng.sample(range(STOP), rng.randrange(STOP)))
    spans = as_spans(sorted(offsets))
    assert within(spans) == offsets
    assert are_apart(spans)


@pytest.mark.parametrize("first", [0, 5])
def test_offsets_that_follow_each_other_cost_the_same_however_many(first: int) -> None:
    costs = [count(lambda n=n: as_spans(range(first, first + n))) for n in (10, 1000)]
    assert costs[0] == costs[1]


# ---------------------------------------------------------------- tokens

BALLOT = bytes(7) + b"\1" + bytes(8)


def token_of(ends: list[int]) -> Token:
    start, *middle, stop = ends
    taken = tuple(zip(middle[::2], middle[1::2], strict=False))
    return Token("space", 3, start, stop, BALLOT, taken)


@pytest.mark.parametrize("seed", range(25))
def test_a_token_is_for_its_range_and_knows_what_is_free(seed: int) -> None:
    rng = random.Random(seed)
    ends = sorted(rng.sample(range(STOP + 1), rng.choice([2, 4, 6])))
    token = token_of(ends)
    free = set(range(token.start, token.stop)) - within(token.taken)
    assert list(token.free()) == sorted(free)
    for n in range(STOP + 2):
        assert token.is_free(n) == (n in free)
        assert token.covers(n) == (token.start <= n < token.stop)
        if token.covers(n):
            token.require(("space", 3), n)
        else:
            with pytest.raises(BadToken, match=f"does not cover space/3/{n}"):
                token.require(("space", 3), n)
    for segment_name in (("space", 4), ("spaces", 3)):
        with pytest.raises(BadToken, match="does not cover"):
            token.require(segment_name, token.start)
    assert Token.parse(f" {token}\n") == token


def packed(token: object) -> str:
    body = msgspec.msgpack.encode(token)
    raw = zlib.crc32(body).to_bytes(4, "big") + body
    return "worm1-" + base64.urlsafe_b64encode(raw).decode().rstrip("=")


@pytest.mark.parametrize(
    "token",
    [
        Token("s", 0, 2, 2, BALLOT),
        Token("s", 0, 3, 2, BALLOT),
        Token("s", 0, 2, 9, BALLOT, ((1, 3),)),
        Token("s", 0, 2, 9, BALLOT, ((3, 10),)),
        Token("s", 0, 2, 9, BALLOT, ((5, 6), (3, 4))),
        Token("s", 0, 2, 9, BALLOT, ((5, 4),)),
    ],
)
def test_a_token_that_makes_no_sense_is_refused(token: Token) -> None:
    with pytest.raises(BadToken, match="makes no sense"):
        Token.parse(packed(token))


def test_a_token_may_be_taken_to_its_ends() -> None:
    token = Token("s", 0, 2, 9, BALLOT, ((2, 5), (5, 9)))
    assert Token.parse(packed(token)) == token
    assert list(token.free()) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (5, "a word, not int"),
        ("", "begins with 'worm1-'"),
        ("worm2-AAAA", "begins with"),
        ("worm1-", "not a capture token"),
        ("worm1-A", "damaged"),
        ("worm1-é", "damaged"),
        ("worm1-AAAAAAAA", "damaged"),
        (packed(["s", 0]), "not a capture token: "),
    ],
)
def test_what_is_no_token_is_refused(text, says: str) -> None:
    with pytest.raises(BadToken, match=says):
        Token.parse(text)


def test_every_bit_of_a_token_counts() -> None:
    text = str(token_of([1, 2, 3, 9]))
    for i in range(len("worm1-"), len(text) - 1):
        with pytest.raises(BadToken):
            Token.parse(text[:i] + ("A" if text[i] != "A" else "B") + text[i + 1 :])


# ---------------------------------------------------------------- what was issued


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_offsets_are_kept_in_chunks_at_whose_ends_nothing_is_lost(chunk: int) -> None:
    edge = (chunk + 1) << sets._CHUNK_BITS
    for lo, hi in ((edge - 2, edge + 2), (edge, edge + 1), (edge - 1, edge), (edge, edge)):
        spanned, single = OffsetSet(), OffsetSet()
        spanned.add_span(lo, hi)
        for offset in range(lo, hi):
            single.add(offset)
        assert spanned._chunks == single._chunks
        near = range(edge - 3, edge + 4)
        assert [n in spanned for n in near] == [lo <= n < hi for n in near]
        around = [(edge - 3, lo), (hi, edge + 4)] if lo < hi else [(edge - 3, edge + 4)]
        assert spanned.missing(edge - 3, edge + 4, 3) == around
        assert spanned.missing(edge - 3, edge + 4, 1) == [(edge - 3, edge + 4)]
        assert spanned.missing(lo, lo, 3) == []


def test_of_a_value_in_doubt_only_that_very_one_may_be_sent_again() -> None:
    held = Issued()
    held.give_up(1)
    assert held.doubt == {}
    assert held.issue(1, b"a")
    assert not held.issue(1, b"b")
    held.give_up(1)
    assert (held.open, list(held.doubt)) == ({}, [1])
    assert len(held.doubt[1]) == 16
    assert not held.issue(1, b"b")
    assert held.issue(2, b"b")
    assert held.issue(1, b"a")
    assert (held.open, held.doubt) == ({1: b"a", 2: b"b"}, {})
    held.decide(iter([(0, 2), (5, 6)]))
    assert held.open == {2: b"b"}
    assert [n for n in range(7) if n in held.decided] == [0, 1, 5]


# ---------------------------------------------------------------- what a listener counts


def test_what_is_on_its_way_is_counted_and_forgotten_as_it_was_counted() -> None:
    undecided = Undecided()
    first, second = undecided.open((1, 2), 5.0), undecided.open((1, 3), 6.0)
    assert (first.since, second.since, list(undecided)) == (5.0, 6.0, [(1, 2), (1, 3)])
    assert undecided.bytes == 2 * VOTES_BYTES
    undecided.grow(first, 100)
    assert (first.bytes, undecided.bytes) == (VOTES_BYTES + 100, 2 * VOTES_BYTES + 100)
    with turned(registers_undecided_bytes=2 * VOTES_BYTES + 100 + 2 * QUEUED_BYTES):
        assert not undecided.is_too_much(2)
        assert undecided.is_too_much(3)
    undecided.drop((1, 2))
    undecided.drop((1, 2))
    assert (undecided.bytes, dict(undecided)) == (VOTES_BYTES, {(1, 3): Votes(6.0, {})})
    assert undecided._offsets == {1: {3}}
    undecided.drop((1, 3))
    assert undecided._offsets == {}, "nothing is kept of a segment that is empty"


# ---------------------------------------------------------------- what a client remembers


def ballot(rank: int, proposer: int = 0) -> bytes:
    return rank.to_bytes(8, "big") + proposer.to_bytes(8, "big")


def remember(memory: Memory, segment_name, its: bytes, *, doubt: bool = False) -> BallotWrites:
    held = memory.open(None, segment_name, its)
    if doubt:
        held.issued.issue(0, b"v")
        held.issued.give_up(0)
    return held


def test_the_oldest_that_is_decided_is_forgotten_first_and_then_known_as_forgotten() -> None:
    with turned(registers_memory=2, registers_groups=1024):
        memory = Memory()
        for rank in (1, 2, 3):
            fresh = remember(memory, ("s", 0), ballot(rank))
            assert not fresh.is_forgotten
            assert not fresh.is_refused
        assert [its for _, its in memory.writes] == [ballot(2), ballot(3)]
        again = remember(memory, ("s", 1), ballot(1))
        assert (again.is_forgotten, again.is_refused) == (True, False)
        assert not remember(memory, ("s", 0), ballot(9)).is_forgotten
        assert not remember(memory, ("s", 0), ballot(1, proposer=5)).is_forgotten


def test_what_is_in_doubt_is_kept_until_there_is_twice_as_much() -> None:
    with turned(registers_memory=2):
        memory = Memory()
        for rank in range(1, 5):
            remember(memory, ("s", 0), ballot(rank), doubt=True)
        assert len(memory.writes) == 4
        remember(memory, ("s", 0), ballot(5), doubt=True)
        assert ballot(1) not in {its for _, its in memory.writes}
        assert len(memory.writes) == 4
        again = remember(memory, ("s", 0), ballot(1))
        assert (again.is_forgotten, again.is_refused) == (False, True)


@pytest.mark.parametrize("how", ["open", "comparing", "gathering"])
def test_what_is_under_way_is_never_forgotten(how: str) -> None:
    with turned(registers_memory=1):
        memory = Memory()
        first = remember(memory, ("s", 0), ballot(1))
        if how == "open":
            first.issued.issue(0, b"v")
        elif how == "comparing":
            first.comparing = 1
        else:
            first.gathering = object()
        assert first.is_under_way
        for rank in range(2, 20):
            remember(memory, ("s", 0), ballot(rank))
        assert first in memory.writes.values()
        assert len(memory.writes) == 2
        assert not next(w for w in memory.writes.values() if w is not first).is_under_way


def test_the_unsafe_ballot_is_forgotten_by_space_and_segment() -> None:
    with turned(registers_memory=1):
        memory = Memory()
        for number in (3, 1, 5):
            remember(memory, ("s", number), UNSAFE)
        assert [remember(memory, ("s", n), UNSAFE).is_forgotten for n in (3, 0, 2)] == [True] * 3
        remember(memory, ("t", 0), ballot(1))
        assert [remember(memory, ("t", n), UNSAFE).is_forgotten for n in (0,)] == [False]
        fresh = Memory()
        remember(fresh, ("s", 3), UNSAFE)
        remember(fresh, ("s", 9), ballot(1))
        assert not remember(fresh, ("s", 4), UNSAFE).is_forgotten


def test_of_many_groups_the_highest_stands_for_all() -> None:
    with turned(registers_memory=1, registers_groups=2):
        memory = Memory()
        for rank, proposer in ((7, 1), (4, 2), (5, 3)):
            remember(memory, ("s", 0), ballot(rank, proposer))
        remember(memory, ("s", 0), ballot(99, 4))
        assert remember(memory, ("s", 0), ballot(7, 0)).is_forgotten
        assert not remember(memory, ("s", 0), ballot(7, 9)).is_forgotten
        for rank, proposer in ((1, 11), (1, 12), (1, 13)):
            remember(memory, ("s", 0), ballot(rank, proposer))
        remember(memory, ("s", 0), ballot(100, 4))
        assert remember(memory, ("s", 0), ballot(7, 0)).is_forgotten


def test_a_group_that_was_forgotten_keeps_its_highest_rank() -> None:
    with turned(registers_memory=1):
        memory = Memory()
        for rank in (5, 3, 4):
            remember(memory, ("s", 0), ballot(rank))
        assert remember(memory, ("s", 1), ballot(5)).is_forgotten
        assert not remember(memory, ("s", 1), ballot(6)).is_forgotten


class Gathered:
    """An operation that was gathered, and what became of it."""

    over = False

    def __init__(self) -> None:
        self.told: list[object] = []

    def begin(self) -> None:
        self.told.append("begin")

    def cancel(self, error: Exception) -> None:
        self.told.append(error)


def test_what_was_gathered_is_sent_once_unless_it_is_over() -> None:
    writes = BallotWrites(None, ("s", 0), BALLOT)
    writes.flush()
    error = ValueError()
    writes.cancel(error)
    sent, over, given_up = Gathered(), Gathered(), Gathered()
    over.over = True
    for one in (sent, over):
        writes.gathering = one
        writes.flush()
        writes.flush()
        assert writes.gathering is None
    writes.gathering = given_up
    writes.cancel(error)
    assert (sent.told, over.told, given_up.told) == (["begin"], [], [error])
    assert (writes.segment_name, writes.ballot, writes.partition) == (("s", 0), BALLOT, None)
