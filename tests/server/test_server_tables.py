"""What a server keeps and whom it tells: tables, marks, parts and listeners, and plain models."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from wormspace.knobs import turned
from wormspace.paxos.messages import Decided
from wormspace.paxos.ranges import Range
from wormspace.server import acceptors, dividing, tables
from wormspace.server.counters import Counters
from wormspace.server.listeners import Listeners
from wormspace.server.marks import Marks, RangeMap
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.messages import Accepted, Lagging, Listen, TrimNotice

P, Q = b"\0\0\0\1" + bytes(8), b"\0\0\0\1" + bytes(7) + b"\1"
"""The segments 0 and 1 of a space."""

STOP = 10
B1, B2 = b"ballot-1".ljust(16), b"ballot-2".ljust(16)


def put_range(batch, table: str, prefix: bytes, r: Range) -> None:
    batch.put(table, prefix + r.lo.to_bytes(8, "big"), r.hi.to_bytes(8, "big") + r.ballot)


def some_ranges(rng: random.Random) -> list[Range]:
    """Disjoint ranges, some of which touch."""
    ends = sorted(rng.sample(range(STOP), rng.choice([0, 2, 4, 6])))
    ranges = [Range(lo, hi, rng.choice([B1, B2])) for lo, hi in zip(ends[::2], ends[1::2])]  # noqa: B905
    if ranges and rng.random() < 0.5:
        ranges.append(Range(ranges[-1].hi, ranges[-1].hi + 2, B1))
    return ranges


def test_a_slice_has_the_ranges_that_overlap_or_touch_it() -> None:
    rng = random.Random(1)
    for _ in range(60):
        batch, ranges = MemoryEngine().begin(), some_ranges(rng)
        for r in ranges:
            put_range(batch, "t", P, r)
        put_range(batch, "t", Q, Range(0, STOP, B2))
        put_range(batch, "t", bytes(12), Range(0, STOP, B2))
        for lo, hi in itertools.combinations(range(STOP + 2), 2):
            held = tuple(r for r in ranges if r.lo <= hi and lo <= r.hi)
            assert tables.load_slice(batch, "t", P, lo, hi) == held
            assert tables.load_slice(batch, "t", P, lo, hi, 2) == held[:2]
        for offset in range(STOP + 2):
            covering = next((r for r in ranges if r.lo <= offset < r.hi), None)
            assert tables.range_at(batch, "t", P, offset) == covering
        old = tables.load_slice(batch, "t", P, 2, 6)
        kept = (old[0],) if old else ()
        new = (*kept, Range(20, 30, B1))
        asked = Counting(batch)
        tables.store_slice(asked, "t", P, old, new)
        assert asked.calls == len(old) - len(kept) + 1
        rest = [r for r in ranges if r not in old]
        assert list(tables.load_slice(batch, "t", P, 0, 99)) == sorted(
            [*rest, *new], key=lambda r: r.lo
        )
        tables.store_slice(None, "t", P, new, new)


class Counting:
    """A batch that counts what is put and deleted."""

    def __init__(self, batch) -> None:
        self._batch, self.calls = batch, 0

    def put(self, *what) -> None:
        self.calls += 1
        self._batch.put(*what)

    def delete(self, *what) -> None:
        self.calls += 1
        self._batch.delete(*what)


def test_spaces_have_numbers_that_stay_and_names_in_pages() -> None:
    batch = MemoryEngine().begin()
    names = ["b", "a", "ab", "é"]
    assert tables.find_space(batch, "b") is None
    ids = [tables.intern_space(batch, name) for name in names]
    assert ids == [bytes([0, 0, 0, n]) for n in range(4)]
    assert [tables.intern_space(batch, name) for name in names] == ids
    assert [tables.find_space(batch, name) for name in names] == ids
    assert tables.space_names(batch, "", 9) == ["a", "ab", "b", "é"]
    assert tables.space_names(batch, "", 2) == ["a", "ab"]
    assert tables.space_names(batch, "a", 1) == ["ab"]
    assert tables.space_names(batch, "é", 1) == []


def test_how_far_rounds_have_come_is_kept_in_steps() -> None:
    batch = MemoryEngine().begin()
    step = tables.ROUNDS_STEP
    assert tables.rounds_reached(batch) == 0
    for number, reached in (
        (step, 0),
        (step + 1, step + 1),
        (2 * step + 1, step + 1),
        (5, step + 1),
    ):
        tables.reach_round(batch, number)
        assert tables.rounds_reached(batch) == reached


def test_rows_are_found_by_their_offsets() -> None:
    batch = MemoryEngine().begin()
    last = tables.MAX_OFFSET - 1
    prefix = tables.segment_key(b"\0\0\0\1", 1)
    assert prefix == Q
    for offset in (0, 3, 4, last):
        [key] = tables.row_keys(Q, [offset])
        batch.put(tables.ROWS, key, B1 + b"%d" % offset)
    batch.put(tables.ROWS, P + bytes(4), b"another segment's")
    for lo, hi in ((0, 1), (0, 5), (1, 3), (3, 4), (4, 3), (4, 4), (4, 1 << 40), (0, 1 << 32)):
        found = list(tables.scan_rows(batch, Q, lo, hi))
        assert found == [(n, B1 + b"%d" % n) for n in (0, 3, 4, last) if lo <= n < hi]
    assert tables.split_row(B1 + b"value") == (B1, b"value")


def test_tombstones_and_what_is_known_of_segments() -> None:
    batch = MemoryEngine().begin()
    space, other = b"\0\0\0\1", b"\0\0\0\2"
    before = b"\0\0\0\0"
    assert tables.segments_known(batch, space) == 0
    for of in (before, other):
        put_range(batch, tables.TRIMMED, of, Range(0, 99, b""))
        for table in (tables.ROWS, tables.PROMISES):
            batch.put(table, tables.segment_key(of, 98) + bytes(8), b"")
    assert tables.segments_known(batch, space) == 0
    batch.put(tables.ROWS, tables.segment_key(space, 4) + bytes(4), b"")
    assert tables.segments_known(batch, space) == 5
    batch.put(tables.PROMISES, tables.segment_key(space, 6) + bytes(8), b"")
    batch.put(tables.PROMISES, tables.segment_key(space, 2) + bytes(8), b"")
    assert tables.segments_known(batch, space) == 7
    put_range(batch, tables.TRIMMED, space, Range(2, 5, b""))
    assert tables.segments_known(batch, space) == 7
    put_range(batch, tables.TRIMMED, space, Range(8, 11, b""))
    assert tables.segments_known(batch, space) == 11
    trimmed = [n for n in range(12) if tables.is_trimmed(batch, space, n)]
    assert trimmed == [2, 3, 4, 8, 9, 10]
    assert not tables.is_trimmed(batch, b"\0\0\0\3", 0)
    assert tables.trimmed_ranges(batch, space, 5, 8) == (Range(2, 5, b""), Range(8, 11, b""))
    assert tables.trimmed_ranges(batch, space, 0, 99, 1) == (Range(2, 5, b""),)


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_registers_that_are_asked_for_one_by_one_are_each_reported_once(at_once: int) -> None:
    batch = MemoryEngine().begin()
    for offset in (1, 2, 5, 6, 7, 9):
        batch.put(tables.ROWS, P + offset.to_bytes(4, "big"), B1 + b"%d" % offset)
    spans = [(0, 1), (1, 2), (2, 3), (4, 7), (7, 8), (8, 9), (9, 10)]
    looked_up, get_many = [], batch.get_many
    batch.get_many = lambda table, keys: looked_up.append(len(keys)) or get_many(table, keys)
    with turned(server_lookup=at_once):
        found = [(n, held[16:]) for n, held in acceptors._accepted(batch, P, spans)]
    assert looked_up == {1: [1] * 6, 2: [2, 1, 2, 1], 3: [3, 3]}[at_once]
    assert found == [(n, b"%d" % n) for n in (1, 2, 5, 6, 7, 9)]


# ---------------------------------------------------------------- marks


def of(ranges) -> dict[int, bytes]:
    return {n: r.ballot for r in ranges for n in range(r.lo, r.hi)}


def test_ranges_in_memory_are_a_dictionary() -> None:
    rng = random.Random(2)
    for _ in range(60):
        ranges, model = RangeMap(), {}
        for _ in range(rng.randrange(9)):
            lo = rng.randrange(STOP)
            hi, ballot = rng.randrange(lo + 1, STOP + 1), rng.choice([B1, B2])
            ranges.lay(lo, hi, ballot)
            model |= dict.fromkeys(range(lo, hi), ballot)
            assert of(ranges.all()) == model
            assert ranges._los == sorted(r.lo for r in ranges.all())
            ordered = sorted(ranges.all(), key=lambda r: r.lo)
            assert all(a.hi < b.lo or a.ballot != b.ballot for a, b in itertools.pairwise(ordered))
            assert len(ranges) == len(ranges.all())
        for offset in range(STOP + 1):
            covering = ranges.at(offset)
            assert (covering.ballot if covering else None) == model.get(offset)
        first = sorted(ranges.all(), key=lambda r: r.lo)
        assert ranges.take(2) == first[:2]
        assert sorted(ranges.all(), key=lambda r: r.lo) == first[2:]


def decided(space: str, segment: int, ballot: bytes, *spans: tuple[int, int]) -> Decided:
    return Decided(space, segment, ballot, list(spans))


def test_marks_are_saved_in_parts_and_counted() -> None:
    """However few of them, and however few stored ones they may replace at a time."""
    rng = random.Random(3)
    for _ in range(40):
        batch, marks = MemoryEngine().begin(), Marks()
        for name in ("s", "t"):
            tables.intern_space(batch, name)
        model: dict[bytes, dict[int, bytes]] = {}
        for name, segment in itertools.product("st", (0, 1)):
            prefix = tables.segment_key(tables.find_space(batch, name), segment)
            model[prefix] = {}
            for r in some_ranges(rng):
                put_range(batch, tables.DECIDED, prefix, r)
                model[prefix] |= of([r])
        for _ in range(6):
            lo = rng.randrange(STOP)
            name, segment = rng.choice("st"), rng.randrange(2)
            mark = Range(lo, rng.randrange(lo + 1, STOP + 1), rng.choice([B1, B2]))
            marks.learn(batch, decided(name, segment, mark.ballot, (mark.lo, mark.hi)))
            model[tables.segment_key(tables.find_space(batch, name), segment)] |= of([mark])
        most, rounds = rng.choice([1, 2, 50]), 0
        with turned(server_supersede=rng.choice([1, 2, 50])):
            while len(marks):
                pending = {prefix: marks.of(prefix) for prefix in model}
                assert len(marks) == sum(len(held) for held in pending.values() if held)
                marks.save(batch, most)
                rounds += 1
                assert rounds < 200
        assert all(marks.of(prefix) is None for prefix in model)
        for prefix, held in model.items():
            assert of(tables.load_slice(batch, tables.DECIDED, prefix, 0, 99)) == held


def test_so_many_marks_are_saved_at_a_time_and_so_many_wait() -> None:
    batch, marks = MemoryEngine().begin(), Marks()
    marks.learn(batch, decided("s", 0, B1, (0, 1)))
    assert len(marks) == 0  # nobody wrote to that space here
    tables.intern_space(batch, "s")
    with turned(server_marks_pending=3):
        marks.learn(batch, decided("s", 0, B1, (0, 1), (2, 3), (4, 5), (6, 7)))
        marks.learn(batch, decided("s", 1, B1, (0, 1)))
    assert len(marks) == 4
    marks.save(batch, 0)
    assert len(marks) == 4
    marks.save(batch, 3)
    assert len(marks) == 1
    with turned(server_marks_pending=3):
        for at in range(0, 10, 2):
            marks.learn(batch, decided("s", 1, B1, (at, at + 1)))
    assert len(marks) == 3
    space = tables.find_space(batch, "s")
    prefix = tables.segment_key(space, 0)
    assert sorted(of(tables.load_slice(batch, tables.DECIDED, prefix, 0, 99))) == [0, 2, 4]
    put_range(batch, tables.TRIMMED, space, Range(0, 1, b""))
    marks.save(batch, 3)
    assert len(marks) == 0
    assert sorted(of(tables.load_slice(batch, tables.DECIDED, prefix, 0, 99))) == [0, 2, 4]


# ---------------------------------------------------------------- parts


def test_what_replaces_little_is_one_part_and_what_replaces_much_is_many() -> None:
    ranges = tuple(Range(n, n + 1, B1) for n in range(0, 12, 2))

    def stored(lo: int) -> tuple[Range, ...]:
        return tuple(r for r in ranges if r.hi >= lo)[:4]

    with turned(server_supersede=3):
        parts = list(dividing.in_parts(0, 12, stored))
        assert [(lo, hi) for lo, hi, _ in parts] == [(0, 6), (6, 12)]
        for lo, hi, found in parts:
            assert found == stored(lo)
            assert len([r for r in found if r.lo < hi]) <= 3
        with pytest.raises(dividing.TooMuch):
            list(dividing.AtOnce()(0, 12, stored))
    with turned(server_supersede=4, server_batch_supersede=5):
        at_once = dividing.AtOnce()
        for lo in (0, 9):
            list(at_once(lo, 12, stored))
        assert at_once.is_enough
    with turned(server_supersede=4, server_batch_supersede=6):
        at_once = dividing.AtOnce()
        assert list(at_once(0, 12, stored)) == [(0, 12, stored(0))]
        assert not at_once.is_enough
        assert list(at_once(9, 12, stored)) == [(9, 12, stored(9))]
        assert at_once.is_enough  # four ranges, and two more
        assert list(dividing.in_parts(0, 12, stored)) == [(0, 12, stored(0))]
    assert list(dividing.in_parts(3, 3, stored)) == []
    with turned(server_supersede=1):  # those that touch are found, though nothing of them goes
        close = (Range(0, 1, B1), Range(1, 2, B1))
        assert [hi for _, hi, _ in dividing.in_parts(1, 3, lambda lo: close)] == [2, 3]


class Numbered:
    """Stands for a batch of the store."""

    def __init__(self, number):
        self.number = number
        self.is_dropped = False

    def abort(self):
        self.is_dropped = True


async def test_each_part_has_a_batch_of_its_own_and_the_last_is_left_to_the_caller() -> None:
    seen, begun_with, renewed = [], Numbered(0), []

    def work(batch):
        for n in range(3):
            seen.append((n, batch.number))
            batch = yield
        seen.append(("end", batch.number))
        return "result"

    async def renew(batch, news):
        renewed.append(batch)
        await asyncio.sleep(0)
        return Numbered(batch.number + 1)

    result, last = await dividing.in_batches(work(begun_with), begun_with, renew)
    assert (result, last.number) == ("result", 3)
    assert seen == [(0, 0), (1, 1), (2, 2), ("end", 3)]
    assert [batch.number for batch in renewed] == [0, 1, 2]
    assert not any(batch.is_dropped for batch in (*renewed, last))
    seen.clear()
    assert dividing.finish(work(begun_with), begun_with) == "result"
    assert {number for _, number in seen} == {0}


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_what_goes_wrong_in_a_part_drops_its_batch_and_no_other(error) -> None:
    batches = [Numbered(0)]

    def work(batch):
        batch = yield
        raise error(batch.number)

    async def renew(batch, news):
        batches.append(Numbered(batch.number + 1))
        return batches[-1]

    with pytest.raises(error, match="1"):
        await dividing.in_batches(work(batches[0]), batches[0], renew)
    assert [batch.is_dropped for batch in batches] == [False, True]


# ---------------------------------------------------------------- listeners


class Port:
    """A client that notes what it is told."""

    def __init__(self, name: str, log: list) -> None:
        self.name, self.log, self.slow = name, log, False

    def congested(self) -> bool:
        return self.slow

    def answer(self, request_id: int, message: object) -> None:
        self.log.append((self.name, request_id, message))


def test_everybody_is_told_of_what_concerns_them_and_nobody_else() -> None:
    log: list = []
    counters = Counters()
    listeners, one, two = Listeners(counters), Port("one", log), Port("two", log)
    listeners.add(one, 1, Listen("s", 3, 4))
    listeners.add(two, 1, Listen("s", 3, 4, False))
    listeners.add(two, 2, Listen("s", 2, 6))
    listeners.add(two, 3, Listen("s", 6, 9))
    listeners.add(one, 2, Listen("t", 3, 4))
    assert len(listeners) == 5
    assert [listeners.held_by(port) for port in (one, two)] == [2, 3]
    event = Accepted("s", 3, B1, [5], [b"v"])
    assert listeners.publish(event) == 3
    bare = Accepted("s", 3, B1, [5], [])
    assert log == [("two", 2, event), ("one", 1, event), ("two", 1, bare)]
    assert (counters.events, counters.listeners_dropped) == (3, 0)
    assert listeners.publish(Accepted("u", 3, B1, [5], [b"v"])) == 0
    for segment, stop, told in ((0, 2, 0), (0, 3, 1), (5, 6, 1), (5, 7, 2), (4, 6, 1), (0, 99, 4)):
        log.clear()
        gone = TrimNotice("s", segment, stop)
        assert listeners.publish(gone) == told == len(log)
        assert all(message is gone for _, _, message in log)
    assert counters.events == 12


def test_a_subscription_ends_when_it_is_replaced_forgotten_or_too_slow() -> None:
    log: list = []
    counters = Counters()
    listeners, one, two = Listeners(counters), Port("one", log), Port("two", log)
    listeners.add(one, 1, Listen("s", 3, 4))
    listeners.add(one, 1, Listen("s", 5, 6))
    listeners.add(two, 1, Listen("s", 5, 6))
    assert (len(listeners), listeners.publish(TrimNotice("s", 3, 4))) == (2, 0)
    one.slow = True
    event = Accepted("s", 5, B1, [5], [b"v"])
    assert listeners.publish(event) == 2
    assert log == [("one", 1, Lagging()), ("two", 1, event)]
    assert (counters.events, counters.listeners_dropped) == (1, 1)
    assert (len(listeners), listeners.held_by(one), listeners.held_by(two)) == (1, 0, 1)
    assert not listeners.remove(one, 1)
    assert not listeners.remove(two, 2)
    assert list(listeners._by_space) == ["s"]
    assert listeners.remove(two, 1)
    assert not listeners._by_space
    for n in range(3):
        listeners.add(one, n, Listen("s", n, n + 2))
    listeners.forget(two)
    assert len(listeners) == 3
    listeners.forget(one)
    assert len(listeners) == 0
    assert (listeners._by_port, listeners._by_space) == ({}, {})
    assert listeners.publish(event) == 0


def test_what_concerns_few_segments_is_not_looked_for_among_all() -> None:
    log: list = []
    listeners, one = Listeners(Counters()), Port("one", log)
    for n in range(20):
        listeners.add(one, n, Listen("s", n, n + 1))
    for segment, stop in ((0, 19), (0, 20), (0, 21), (7, 8), (19, 99)):
        log.clear()
        listeners.publish(TrimNotice("s", segment, stop))
        assert [n for _, n, _ in log] == list(range(segment, min(stop, 20)))
