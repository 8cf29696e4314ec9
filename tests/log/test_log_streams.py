"""Streams, against a naive history of what was handed out: tables, seals, searches and walks."""

import asyncio
import random

import pytest

from wormspace.errors import Trimmed
from wormspace.knobs import KNOBS, turned
from wormspace.log.records import HOLE, BatchRecord, Group, Latest, SealRecord, encode, read_seal
from wormspace.log.streams import NOWHERE, StreamTable, Walk, catch_up, look_up, rebuild

SIZE = 8
NAMES = "abcdef"
ROOMY = 1 << 20


class History:
    """A segmented log in memory, with batches of some streams, holes, rubbish, and seals of their
    tables.

    Attributes:
        given: for each stream, (slot, last position) of all that was handed out for it.
        batches: the batches that were written, by slot.
        reads: what was read: (first slot, stop).
    """

    size = SIZE

    def __init__(self, seed, slots=60, room=ROOMY):
        rng = random.Random(seed)
        self.values, self.seals, self.batches, self.reads = {}, {}, {}, []
        self.trimmed = 0
        self.given = {name: [] for name in NAMES}
        table, position, covered = StreamTable(), 0, 0
        for slot in range(slots):
            if slot and slot % SIZE == 0:
                for other in range(covered, covered := slot - rng.randrange(3)):
                    self._push(table, other)
                self.seals[slot // SIZE - 1] = encode(table.seal(covered, 0, room))
            fate = rng.random()
            if fate < 0.1:
                self.values[slot] = b"rubbish"
                continue
            many = rng.sample(NAMES[: rng.choice((3, len(NAMES)))], rng.randrange(4))
            counts = [rng.randrange(1, 4) for _ in many] or [1]
            groups = tuple(
                Group(count, {}, (name,)) for count, name in zip(counts, many, strict=False)
            )
            links = {name: self.last(name, slot) for name in many}
            batch = BatchRecord(position, 0, b"w", slot, 0, [b"x"] * sum(counts), groups, links)
            position = batch.end
            for name, last in batch.last_of_streams().items():
                self.given[name].append((slot, last))
            if fate < 0.75:
                self.values[slot], self.batches[slot] = encode(batch), batch
        self.slots = slots

    def _push(self, table, slot):
        for name, given in self.given.items():
            for at, position in given:
                if at == slot:
                    table.push(name, slot, position)

    def last(self, name, below):
        """The slots of a stream that were handed out last, below that slot."""
        slots = [slot for slot, _ in self.given[name] if slot < below]
        return tuple(slots[::-1][: KNOBS.log_links])

    def mine(self, name, start=0, stop=ROOMY):
        return [p for s, p in self.batches.items() if start <= s < stop and name in p.links]

    def trim(self, segments):
        self.trimmed = segments

    async def seal(self, number):
        assert number >= 0
        return HOLE if number < self.trimmed else self.seals.get(number)

    async def decided(self, start, stop, patience_s=0.0):
        assert 0 <= start < stop
        self.reads.append((start, stop))
        if start < self.trimmed * SIZE:
            raise Trimmed("gone")
        return [self.values.get(slot, HOLE) for slot in range(start, stop)]

    async def read(self, slots):
        self.reads.append(tuple(slots))
        return {slot: self.batches.get(slot) for slot in self.reads[-1]}


def position_of(batch, name):
    return batch.last_of_streams()[name]


@pytest.mark.parametrize("links", [1, 2, 4])
def test_a_table_says_where_each_stream_was_appended_to_last_and_before(links):
    with turned(log_links=links):
        for seed in range(6):
            history, table = History(seed), StreamTable()
            order = []
            for slot in range(history.slots):
                for name, given in history.given.items():
                    for position in [p for s, p in given if s == slot]:
                        assert table.push(name, slot, position) == history.last(name, slot)
                        order = [*(n for n in order if n != name), name]
                        assert name in table
                        assert table.latest(name) == Latest(position, history.last(name, slot + 1))
            assert list(table.all()) == order, "the stream appended to last comes last"
            before = table.all()
            for name in NAMES:  # once more, in whatever order: where tables overlap
                for slot, position in random.Random(seed).sample(
                    history.given[name][-links:], len(history.given[name][-links:])
                ):
                    known = tuple(s for s in before[name].slots if s < slot)
                    assert table.push(name, slot, position) == known
            assert table.all() == before
            assert list(table.all()) == order
            assert ("none" in table, table.latest("none")) == (False, NOWHERE)


def test_what_is_pushed_late_finds_its_place():
    table = StreamTable()
    for slot in (3, 9, 12):
        table.push("a", slot, 10 * slot)
    assert table.push("a", 10, 100) == (9, 3)
    assert table.latest("a") == Latest(120, (12, 10, 9, 3))
    assert table.push("a", 13, 130) == (12, 10, 9, 3)
    assert table.latest("a") == Latest(130, (13, 12, 10, 9))
    table.put("b", Latest(7, (2,)))
    assert table.latest("b") == Latest(7, (2,))


def test_a_seal_leaves_out_whom_it_must_and_says_below_which_slot_they_are():
    table = StreamTable()
    for slot in range(40):
        table.push(f"stream {slot % 20}", slot, slot)
    whole = table.seal(40, 0, ROOMY)
    assert whole == SealRecord(40, table.all(), 0)
    assert list(table.seal(40, 25, ROOMY).streams) == [f"stream {n}" for n in range(5, 20)]
    assert table.seal(40, 40, ROOMY) == SealRecord(40, {}, 0)
    assert table.seal(40, 0, len(encode(whole))) == whole, "it fits exactly"
    sizes = set()
    for room in range(10, len(encode(whole))):
        seal = table.seal(40, 0, room)
        kept = [latest.slots[0] for latest in seal.streams.values()]
        assert len(encode(seal)) <= room or not kept
        assert seal.upto == 40
        assert kept == list(range(seal.left_out, 40))
        sizes.add(len(kept))
    assert sizes == {0, 1, 2, 3, 5, 7, 10, 14}, "a quarter at a time"
    with_older = StreamTable()
    with_older.load(SealRecord(30, {"a": Latest(5, (5,)), "b": Latest(9, (9,))}, 7))
    assert with_older.left_out == 7
    assert with_older.latest("a") == Latest(5, (5,))
    assert with_older.seal(50, 0, ROOMY).left_out == 7
    tight = with_older.seal(50, 0, len(encode(SealRecord(50, {"b": Latest(9, (9,))}, 7))))
    assert tight == SealRecord(50, {"b": Latest(9, (9,))}, 7), "the older word says more"
    assert with_older.seal(50, 0, 5) == SealRecord(50, {}, 10)


@pytest.mark.parametrize("page", [1, 3, 512])
def test_a_table_is_rebuilt_from_the_last_seal_and_what_came_after(page):
    with turned(log_stream_page=page):
        for seed in range(16):
            history = History(seed, slots=random.Random(seed).randrange(1, 60))
            first = random.Random(seed).choice((0, 0, SIZE, 13))
            for stop in {0, 1, SIZE - 1, history.slots // 2, history.slots}:
                history.reads.clear()
                table = asyncio.run(rebuild(history, stop, first))
                number = max(0, stop - 1) // SIZE
                start, known = number * SIZE, {}
                if number and number - 1 in history.seals:
                    seal = decode(history.seals[number - 1])
                    start, known = min(start, seal.upto), seal.streams
                start = max(start, first)
                assert all(hi - lo <= page for lo, hi in history.reads)
                assert [s for lo, hi in history.reads for s in range(lo, hi)] == list(
                    range(start, stop)
                ), "what is not in the seal is read once, and nothing else"
                for name in NAMES:
                    assert table.latest(name) == joined(
                        known.get(name, NOWHERE), name, history.mine(name, start, stop)
                    )


def test_where_there_is_no_seal_the_segment_tells_alone(caplog):
    caplog.set_level("INFO")
    history = History(2)
    history.trim(3)
    table = asyncio.run(rebuild(history, 3 * SIZE + 4, 3 * SIZE))
    assert table.left_out == 0, "nothing that was trimmed is looked for"
    caplog.clear()
    del history.seals[4]
    history.reads.clear()
    table = asyncio.run(rebuild(history, 5 * SIZE + 4, 0))
    assert (table.left_out, history.reads) == (0, [(5 * SIZE, 5 * SIZE + 4)])
    history.seals[4] = b"rubbish"
    table = asyncio.run(rebuild(history, 5 * SIZE + 4, 0))
    assert table.left_out == 5 * SIZE, "all streams may be below"
    assert "the end of segment 4 holds no seal" in caplog.text


def joined(known, name, batches):
    """What a table should say of a stream: a seal's word, and batches."""
    places = {batch.serial for batch in batches} | set(known.slots)
    positions = [known.position, *(position_of(batch, name) for batch in batches)]
    return Latest(max(positions), tuple(sorted(places, reverse=True)[: KNOBS.log_links]))


def decode(raw):
    return read_seal(raw, 0, ROOMY)


def test_a_table_catches_up_with_a_part():
    history, table = History(3), StreamTable()
    asyncio.run(catch_up(history, table, 0, 20))
    asyncio.run(catch_up(history, table, 17, 60))
    for name in NAMES:
        assert table.latest(name) == joined(NOWHERE, name, history.mine(name))
    asyncio.run(catch_up(history, table, 5, 5))


@pytest.mark.parametrize("page", [1, 3, 512])
@pytest.mark.parametrize("room", [1, 40, ROOMY])
def test_a_stream_that_was_left_out_is_looked_up(page, room):
    with turned(log_stream_page=page):
        for seed in range(12):
            rng = random.Random(seed)
            history = History(seed, room=room)
            history.trim(rng.choice((0, 0, 2)))
            first = history.trimmed * SIZE + rng.choice((0, 3))
            for name in NAMES:
                below = rng.randrange(SIZE, history.slots + 1)
                history.reads.clear()
                found = asyncio.run(look_up(history, name, below, first))
                check_found(history, name, first, below, found)


def check_found(history, name, first, below, found):
    wrote = history.mine(name, first, below // SIZE * SIZE)
    looked = [slot for lo, hi in history.reads for slot in range(lo, hi)]
    assert len(set(looked)) == len(looked), "no slot is read twice"
    assert all(first <= slot < below for slot in looked)
    if found == NOWHERE:
        assert not wrote
        return
    last = max((batch.serial for batch in wrote), default=-1)
    given = history.given[name]
    assert found.slots[0] >= last
    assert found.slots == history.last(name, found.slots[0] + 1)
    assert (found.slots[0], found.position) in given
    assert found.position >= max((position_of(batch, name) for batch in wrote), default=-1)


def test_a_stream_in_the_newest_seal_is_found_with_a_look_at_what_came_since():
    history = History(5)
    latest = decode(history.seals[6]).streams["a"]
    found = asyncio.run(look_up(history, "a", 7 * SIZE, 0))
    assert found.slots[0] >= latest.slots[0]
    upto = decode(history.seals[6]).upto
    assert all(lo >= upto for lo, _ in history.reads)


def test_what_was_trimmed_while_it_was_searched_is_nowhere():
    history = History(5, room=1)
    history.trim(3)
    history.given["new"] = []
    assert asyncio.run(look_up(history, "new", 60, 0)) == NOWHERE
    assert min(lo for lo, _ in history.reads) == 3 * SIZE, "below it, nothing is read"
    seals, history.trimmed = history.seals, 0

    async def not_yet(number):
        return seals.get(number)

    history.seal = not_yet
    history.trimmed = 3
    assert asyncio.run(look_up(history, "new", 60, 0)) == NOWHERE


@pytest.mark.parametrize(("page", "links"), [(1, 1), (4, 2), (512, 1), (512, 4)])
def test_a_walk_finds_all_of_a_stream_and_in_order(page, links):
    with turned(log_stream_page=page, log_links=links):
        for seed in range(20):
            rng = random.Random(seed)
            history = History(seed)
            name, lowest = rng.choice(NAMES), rng.choice((0, 0, 9, 30))
            below = rng.choice((history.slots, 40))
            batches = history.mine(name, lowest, below)
            start = rng.choice([0, *(batch.first for batch in batches)] + [p.end for p in batches])
            walk = Walk(name, history.read)
            last = history.last(name, below)
            found = asyncio.run(walk.back(last, lowest, start))
            assert found == [batch for batch in batches if batch.end > start]
            assert all(lowest <= slot < below for slots in history.reads for slot in slots)
            assert all(len(slots) <= max(page, links) for slots in history.reads)
            older = {slot for slot, _ in history.given[name] if slot < lowest}
            assert walk.below <= {*older, lowest - 1}
            if start == 0 and max(last, default=-1) >= lowest and older:
                assert walk.below, "it goes on below"


def test_a_walk_over_holes_alone_says_that_more_may_be_below():
    history = History(1, slots=0)
    batch = BatchRecord(0, 0, b"w", 0, 0, [b"x"], (Group(1, {}, ("a",)),), {"a": ()})
    history.batches = {2: batch, 5: batch}
    with turned(log_stream_page=3):
        walk = Walk("a", history.read)
        assert asyncio.run(walk.back((20, 18), 6, 0)) == []
        assert (walk.below, history.reads) == (
            {5},
            [(20, 18), (15, 16, 17), (12, 13, 14), (9, 10, 11), (6, 7, 8)],
        )
        history.reads.clear()
        walk = Walk("a", history.read)
        assert len(asyncio.run(walk.back((8,), 0, 0))) == 1
        assert (walk.below, history.reads) == (set(), [(8,), (5, 6, 7)])
        assert asyncio.run(Walk("a", history.read).back((), 0, 0)) == []


def test_holes_are_passed_over_without_a_word(caplog):
    caplog.set_level("INFO")
    history = History(1, slots=0)
    asyncio.run(catch_up(history, StreamTable(), 0, 20))
    history.seals = {n: encode(SealRecord(SIZE * (n + 1), {}, SIZE * (n + 1))) for n in range(3)}
    history.reads.clear()
    assert asyncio.run(look_up(history, "a", 20, 0)) == NOWHERE
    assert history.reads == [(16, 20), (8, 16), (0, 8)]
    assert not caplog.records
    history.reads.clear()
    assert asyncio.run(look_up(History(1), "a", 20, 24)) == NOWHERE, "none is that old"
    assert not history.reads


def test_a_walk_takes_as_few_reads_as_there_are_links():
    history = History(1, slots=0)
    before = []
    for slot in range(40):
        batch = BatchRecord(
            slot, 0, b"w", slot, 0, [b"x"], (Group(1, {}, ("a",)),), {"a": before[:4]}
        )
        history.batches[slot] = batch
        before.insert(0, slot)
    walk = Walk("a", history.read)
    assert len(asyncio.run(walk.back(before[:4], 0, 0))) == 40
    assert [len(slots) for slots in history.reads] == [4] * 10
    history.reads.clear()
    assert [p.first for p in asyncio.run(walk.back(before[:4], 0, 34))] == [34, 35, 36, 37, 38, 39]
    assert history.reads == [(39, 38, 37, 36), (32, 33, 34, 35), (31,)]
    history.reads.clear()
    assert len(asyncio.run(walk.back(before[:4], 38, 0))) == 2
    assert history.reads == [(39, 38)]
    assert walk.below == {34, 35, 36, 37}


def test_a_table_keeps_so_many_streams_and_says_below_which_slot_the_others_are():
    with turned(log_streams=3):
        table = StreamTable()
        for n in range(5):
            table.push(f"s{n}", 2 * n, n)
        for _ in range(2):
            table.forget()
            assert (list(table.all()), table.left_out) == (["s2", "s3", "s4"], 3)
        history, table = History(1), StreamTable()
        asyncio.run(catch_up(history, table, 0, 60))
        assert len(table.all()) == 3


def test_a_stream_is_found_in_the_open_segment():
    history = History(1, slots=0)
    batch = BatchRecord(7, 0, b"w", 5, 0, [b"x"], (Group(1, {}, ("a",)),), {"a": ()})
    history.values = {5: encode(batch)}
    assert asyncio.run(look_up(history, "a", 7, 0)) == Latest(7, (5,))
    assert history.reads == [(0, 7)]
