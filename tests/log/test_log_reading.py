"""Finding and reading what is at a position, against a log in memory, whatever was read before."""

import asyncio
import random

import pytest
from slots import HOLE_HERE, NOTHING, Slots, Start, batch_of, in_time

from wormspace.errors import ProtocolViolation, Trimmed
from wormspace.knobs import KNOBS, turned
from wormspace.log.errors import DamagedEntry, NotWritten
from wormspace.log.reading import ReadCursor, Reader, _Bounds, _Seen
from wormspace.log.records import HOLE, encode
from wormspace.log.trim_point import Place

PATIENCE_S = 3.0
SMALL = {"log_remembered_batches": 1, "log_look_back": 1}


def reader_of(slots, start=None):
    return Reader(slots, start or Start(), PATIENCE_S)


def evenly(slots, many=1):
    """A log of full slots, each with so many entries."""
    even = Slots(0, slots=0)
    for slot in range(slots):
        even.put(slot, batch_of(slot * many, many))
    return even


@pytest.mark.parametrize("knobs", [{}, SMALL])
@pytest.mark.parametrize("empty", [0, 0.5])
def test_what_is_at_a_position_is_read_whatever_is_around_it(knobs, empty):
    async def work():
        for seed in range(5):
            slots = Slots(seed, slots=24, empty=empty)
            positions = list(range(slots.tail + 3))
            random.Random(seed).shuffle(positions)
            reader = reader_of(slots)
            for position in positions:
                for one in (reader, reader_of(slots)):
                    decided, entry = await one.read(position)
                    found = entry or (HOLE_HERE if decided else NOTHING)
                    assert found == slots.held(position), (seed, position)

    with turned(**knobs):
        asyncio.run(work())


def test_a_cursor_expects_of_the_slots_ahead_what_was_seen_of_those_before():
    async def work():
        with turned(log_first_slots=100):
            reader = reader_of(evenly(8, 5))
        await reader.read(3)
        cursor = await reader.cursor(4)
        assert cursor.ahead(10) == 1 + 2, "slots of five entries, as the first one"
        cursor.take(await reader.page(cursor))
        await reader.page(cursor)
        assert cursor.entry_bytes != KNOBS.log_page_bytes / 100
        assert (await reader.cursor(20)).entry_bytes == cursor.entry_bytes

    asyncio.run(work())


@pytest.mark.parametrize(("many", "looks"), [(1, [1, 1, 1, 1]), (5, [1, 4, 8, 10])])
def test_where_each_slot_has_one_entry_the_first_look_finds_it(many, looks):
    async def work():
        slots = evenly(100, many)
        with turned(log_remembered_batches=4):
            reader = reader_of(slots)
            for position in range(100):
                await reader.read(position)
            assert len(reader._seen.slots) <= 5, "only so much is remembered"
        for position, most in zip((0, 7, 63, 100 * many - 1), looks, strict=True):
            slots.reads.clear()
            reader = reader_of(slots)
            await reader.read(position)
            assert len(slots.reads) <= most
            for again in (position, min(position + many, 100 * many - 1)):
                slots.reads.clear()
                await reader.read(again)
                assert len(slots.reads) == 1, "where it is, or was to be expected, is known"
        slots.reads.clear()
        reader = reader_of(slots)
        for position in range(100 * many):
            await reader.read(position)
        assert len(slots.reads) == 100 * many, "going on costs one look each"

    asyncio.run(work())


def test_where_batches_are_is_remembered_once_and_half_of_it_forgotten():
    seen = _Seen()
    order = random.Random(0).sample(range(6), 6)
    for slot in (*order, *order):
        seen.add(10 * slot, batch_of(3 * slot, 2))
    assert seen.slots == [0, 10, 20, 30, 40, 50]
    assert (seen.firsts, seen.ends) == ([0, 3, 6, 9, 12, 15], [2, 5, 8, 11, 14, 17])
    assert [seen.last_upto(at) for at in (-1, 0, 2, 3, 14, 99)] == [-1, 0, 0, 1, 4, 5]
    with turned(log_remembered_batches=6):
        seen.forget()
        assert len(seen.slots) == 6
    with turned(log_remembered_batches=5):
        seen.forget()
    assert (seen.slots, seen.firsts, seen.ends) == ([10, 30, 50], [3, 9, 15], [5, 11, 17])


def test_a_search_looks_near_its_lower_end_and_where_it_guesses():
    assert _Bounds(10, 40, 23).probes() == [10, 11, 13, 17, 23, 25]
    assert _Bounds(10, 18, 99).probes() == [10, 11, 13, 17]
    assert [_Bounds(10, 18, guess).guess for guess in (9, 10, 17, 18)] == [10, 10, 17, 17]
    assert _Bounds(10, 11, 0).probes() == [10]


def test_the_only_slot_where_a_position_can_be_is_looked_for_once():
    async def work():
        slots = evenly(3)
        slots.values[1] = HOLE
        reader = reader_of(slots)
        for position in (0, 2):
            await reader.read(position)
        slots.reads.clear()
        assert await reader.find(1) == (1, None)
        assert slots.reads == [(1, 2)]
        slots.reads.clear()
        assert await reader.read(3) == (False, None)
        assert len(slots.reads) == 4, "behind the end nothing is looked for"

    asyncio.run(work())


def test_a_place_in_a_long_log_is_found_with_few_looks():
    async def work():
        slots, most = Slots(3, slots=400, size=64, largest=40), 0
        for position in random.Random(1).choices(range(slots.tail), k=25):
            slots.reads.clear()
            await reader_of(slots).cursor(position)
            most = max(most, len(slots.reads))
        return most

    assert asyncio.run(work()) <= 45


@pytest.mark.parametrize("knobs", [{}, {**SMALL, "log_page_slots": 3}])
def test_a_range_is_what_lies_in_it_below_the_tail(knobs):
    async def work():
        for seed in range(8):
            rng = random.Random(seed)
            slots = Slots(seed, slots=24)
            reader = reader_of(slots)
            for _ in range(6):
                start = rng.randrange(slots.tail)
                stop = rng.randrange(start, slots.tail + 9)
                began = asyncio.get_running_loop().time()
                empty = [s for s in range(slots.stop) if s not in slots.values]
                found = await reader.read_range(start, stop)
                waited = asyncio.get_running_loop().time() - began
                assert found == slots.between(start, stop)
                filled = [s for s in empty if s in slots.values]
                assert bool(filled) == (waited >= PATIENCE_S) == bool(slots.filled)
                slots.filled.clear()
                if found:
                    before = [
                        s for s, batch in slots.batches.items() if batch.first <= found[0].position
                    ]
                    upto = [
                        s for s, batch in slots.batches.items() if batch.end > found[-1].position
                    ]
                    held = range(max(before), min(upto))
                    assert all(s in slots.values for s in held), "nothing can come between any more"

    with turned(**knobs):
        in_time(work)


def test_who_reads_a_range_waits_for_what_comes_in_time_and_not_beyond_the_tail():
    async def work():
        slots, loop = evenly(9), asyncio.get_running_loop()
        del slots.values[4]
        late = slots.batches[4]

        async def later():
            await asyncio.sleep(PATIENCE_S - 1)
            slots.put(4, late)

        coming = loop.create_task(later())
        reader = reader_of(slots)
        assert len(await reader.read_range(2, 40)) == 7
        assert PATIENCE_S - 1 <= loop.time() < PATIENCE_S
        assert slots.filled == []
        await coming
        began = loop.time()
        assert await reader.read_range(9, 30) == []
        assert await reader.read_range(15, 30) == []
        assert await reader.read_range(3, 3) == []
        assert await reader.read_range(5, 4) == []
        assert (loop.time(), slots.filled) == (began, [])

    in_time(work)


def test_pages_are_as_large_as_what_was_read_lets_expect():
    async def work():
        slots = evenly(200)
        slots.size = 1000
        reader = reader_of(slots)
        await reader.read_range(0, 200)
        assert slots.reads == [(0, 1), (0, 64), (64, 200)], "so many, until their size is known"
        slots.reads.clear()
        await reader.read_range(10, 20)
        assert slots.reads == [(10, 11), (10, 20)], "a look finds it"
        slots.reads.clear()
        await reader.read_range(0, 200)
        assert slots.reads == [(0, 200)], "and that is remembered"
        slots.reads.clear()
        slots.size = 8
        await reader.read_range(13, 30)
        assert slots.reads == [(13, 14), (13, 16), (16, 24), (24, 30)], "no page is of two segments"
        slots = evenly(100, 5)
        slots.size = 1000
        reader = reader_of(slots)
        for position in (0, 50):
            await reader.read(position)
        slots.reads.clear()
        await reader.read_range(52, 75)
        assert slots.reads == [(10, 16)], "six batches may have 23 entries more"
        cursor = await reader.cursor(0)
        for _ in range(2):
            cursor.take(await reader.page(cursor, 40))
        await reader.page(cursor, 1)
        assert (await reader.cursor(50)).entry_bytes == cursor.entry_bytes, "whoever read it"
        assert await reader_of(slots).first_batch(3) == slots.batches[0]
        slots.reads.clear()
        assert await reader_of(slots).first_batch(0) == slots.batches[0]
        assert slots.reads == [(0, 1)], "what was met on the way is not read again"

    asyncio.run(work())


@pytest.mark.parametrize("knobs", [{}, SMALL])
def test_the_tail_and_the_batches_at_both_ends_are_found(knobs):
    async def work():
        for seed in range(12):
            slots = Slots(seed, slots=30, empty=0.3, holes=0.3)
            reader = reader_of(slots)
            assert await reader.tail() == slots.tail
            for below in range(0, 31, 3):
                there = [slot for slot in slots.batches if slot < below]
                last = (there[-1], slots.batches[there[-1]]) if there else None
                assert await reader.last_batch(below) == last
            for position in range(0, slots.tail + 2, 2):
                batches = [batch for batch in slots.batches.values() if batch.end > position]
                one = reader if seed % 2 else reader_of(slots)
                assert await one.first_batch(position) == (batches[0] if batches else None)

    with turned(**knobs):
        asyncio.run(work())


def test_looking_back_over_holes_takes_pages_that_grow():
    async def work():
        slots = Slots(1, slots=0, size=1000)
        slots.put(0, batch_of(0, 1))
        slots.values |= dict.fromkeys(range(1, 40), b"")
        assert (await reader_of(slots).last_batch(40))[0] == 0
        assert slots.reads == [(39, 40), (37, 39), (33, 37), (29, 33), (25, 29)] + [
            (start, start + 4) for start in range(21, 0, -4)
        ] + [(0, 1)]
        slots.reads.clear()
        slots.put(39, batch_of(7, 1))
        assert (await reader_of(slots).first_batch(3)) == slots.batches[39]
        assert slots.looked_at() <= 60

    with turned(log_look_back=4):
        asyncio.run(work())


def test_who_goes_on_behind_the_last_batch_fills_what_is_empty_behind_it_alone():
    async def work():
        for seed in range(8):
            slots = Slots(seed, slots=30, empty=0.4)
            below = random.Random(seed).randrange(1, 31)
            there = [slot for slot in slots.batches if slot < below]
            empty = {slot for slot in range(below) if slot not in slots.values}
            last = there[-1] if there else -1
            found = await reader_of(slots).last_batch(below, fill=True)
            assert found == ((last, slots.batches[last]) if there else None)
            filled = {slot for span in slots.filled for slot in range(*span)}
            assert empty & filled == {slot for slot in empty if slot > last}
            assert all(last < slot < below for slot in filled)

    asyncio.run(work())


def test_a_position_is_decided_by_filling_what_is_empty_before_it():
    async def work():
        for seed in range(6):
            slots = Slots(seed, slots=24, empty=0.4)
            for position in random.Random(seed).choices(range(slots.tail), k=6):
                reader, held = reader_of(slots), slots.held(position)
                slots.filled.clear()
                entry = await reader.fill(position)
                assert entry == (None if held in (HOLE_HERE, NOTHING) else held)
                if held in (HOLE_HERE, NOTHING):
                    assert slots.held(position) == HOLE_HERE
                else:
                    assert slots.held(position) == held
                assert all(stop == start + 1 for start, stop in slots.filled), "and nothing more"
                if held != NOTHING:
                    above = [s for s, p in slots.batches.items() if p.end > position]
                    assert all(start < above[0] for start, _ in slots.filled)

    asyncio.run(work())


def test_what_was_delivered_or_is_known_to_be_there_is_not_looked_for_again():
    async def work():
        slots, start = evenly(20), Start()
        reader = reader_of(slots, start)
        await reader.require_reached(0)
        reader.delivered(7)
        reader.delivered(3)
        for position in (7, 5):
            await reader.require_reached(position)
        start.at = Place(9, 9)
        await reader.require_reached(9)
        assert slots.reads == []
        await reader.require_reached(10)
        assert slots.reads != []
        slots.reads.clear()
        await reader.require_reached(20)
        assert slots.reads == [], "the tail was seen"
        await reader_of(slots).require_reached(20)
        slots.put(20, batch_of(20, 3))
        assert await reader.tail() == 23
        slots.reads.clear()
        await reader.require_reached(23)
        assert slots.reads == []
        slots.put(21, batch_of(23, 1))
        with pytest.raises(NotWritten, match=r"position 25 of log 'orders' .* which is 24"):
            await reader.require_reached(25)

    asyncio.run(work())


def test_what_is_trimmed_is_told_and_looked_for_no_more():
    async def work():
        slots, start = evenly(40), Start()
        reader = reader_of(slots, start)
        for position in range(40):
            await reader.read(position)
        slots.trimmed, start.true = 3, Place(26, 26)
        with pytest.raises(Trimmed):
            await reader.read(2)
        assert (await reader.read(26))[1] == slots.entries[26]
        await start.find()
        assert await reader.find(5) == (26, None), "it begins there"
        with pytest.raises(Trimmed):
            await reader.cursor(25)
        start.at = Place(0, 0)
        assert await reader.last_batch(24) is None, "all of it is trimmed"
        start.at = start.true = Place(0, 0)
        with pytest.raises(Trimmed):
            await reader_of(slots, start).read(1)
        assert await reader_of(slots, start).last_batch(24) is None

    asyncio.run(work())


def test_what_is_trimmed_during_a_search_is_no_reason_to_give_up():
    async def work():
        slots, start = evenly(40, 5), Start()
        slots.trimmed, start.true = 2, Place(80, 16)
        assert await reader_of(slots, start).find(150) == (30, slots.batches[30])
        assert start.finds == 1
        slots.values |= dict.fromkeys(range(17, 24), HOLE)
        start.at, start.true = Place(0, 0), Place(80, 16)
        assert await reader_of(slots, start).last_batch(24) == (16, slots.batches[16])

    asyncio.run(work())


def test_the_tail_of_a_log_of_which_all_is_trimmed_is_where_it_begins():
    async def work():
        slots, start = evenly(16), Start(16, 16)
        slots.trimmed = 2
        reader = reader_of(slots, start)
        assert await reader.tail() == 16
        assert await reader.first_batch(16) is None
        assert await reader.read(16) == (False, None)
        assert slots.reads == [(16, 17)] * len(slots.reads)
        slots.put(17, batch_of(16, 2))
        assert await reader.tail() == 18
        assert (await reader.read(17))[1] == slots.entries[17]

    asyncio.run(work())


def test_positions_that_cannot_be_read_are_told_whoever_asks():
    async def work():
        for asked in (4, 5):
            slots = evenly(12)
            slots.values[4] = slots.values[5] = b"garbage"
            for how in ("read", "fill"):
                with pytest.raises(DamagedEntry) as told:
                    await getattr(reader_of(slots), how)(asked)
                assert (told.value.position, told.value.next) == (asked, 6)
            with pytest.raises(DamagedEntry) as told:
                await reader_of(slots).read_range(asked - 2, 9)
            assert (told.value.position, told.value.next) == (asked - 2 if asked > 5 else 4, 6)
            assert len(await reader_of(slots).read_range(0, 4)) == 4
            assert len(await reader_of(slots).read_range(6, 12)) == 6
        wide = evenly(1)
        for slot in range(1, 9):
            wide.put(slot, batch_of(3 * slot - 2, 3))
        wide.values[4] = b"garbage"
        assert len(await reader_of(wide).read_range(0, 10)) == 10, "it is not in the range"

    asyncio.run(work())


def test_damage_at_a_slot_is_told_if_positions_are_missing_there():
    async def work():
        slots = evenly(12)
        slots.values[4] = b"garbage"
        for start, told in ((0, 4), (4, 4), (5, None), (9, None)):
            reader = reader_of(slots)
            if told is None:
                await reader.check_damage(4, start)
                continue
            with pytest.raises(DamagedEntry) as damage:
                await reader.check_damage(4, start)
            assert (damage.value.position, damage.value.next) == (told, 5)
        harmless = evenly(4)
        harmless.values[4] = b"garbage"
        await reader_of(harmless).check_damage(4, 0)
        harmless.put(5, batch_of(4, 1))
        await reader_of(harmless).check_damage(4, 0)
        passed = evenly(3)
        passed.values |= {3: HOLE, 4: b"garbage"}
        passed.put(5, batch_of(5, 1))
        with pytest.raises(DamagedEntry):
            await reader_of(passed).check_damage(4, 0)
        behind = evenly(3)
        behind.values |= {3: b"garbage", 4: b"", 5: b""}
        behind.put(6, batch_of(5, 1))
        with pytest.raises(DamagedEntry) as damage:
            await reader_of(behind).check_damage(3, 0)
        assert (damage.value.position, damage.value.next) == (3, 5)
        trimmed = evenly(12)
        trimmed.values[8], trimmed.trimmed = b"garbage", 1
        with pytest.raises(DamagedEntry) as damage:
            await reader_of(trimmed, Start(8, 8)).check_damage(8, 3)
        assert (damage.value.position, damage.value.next) == (8, 9)

    asyncio.run(work())


def test_a_cursor_goes_over_slots_in_order_up_to_one_that_is_empty(caplog):
    caplog.set_level("INFO")
    batches = [batch_of(3, 2), batch_of(5, 4), batch_of(12, 1)]
    raws = [encode(batch) for batch in batches]
    for position in range(3, 14):
        cursor = ReadCursor(10, position, 1, 1.0)
        entries = cursor.take([raws[0], HOLE, raws[1], raws[2], None, raws[2]])
        assert [entry.position for entry in entries] == [
            at for at in (3, 4, 5, 6, 7, 8, 12) if at >= position
        ]
        assert (cursor.slot, cursor.position) == (14, max(13, position))
        assert cursor.entry_bytes == sum(map(len, raws)) / 7
        assert not cursor.is_damaged
        cursor.check()
    cursor = ReadCursor(10, 0, 1, 9.0)
    assert cursor.take([]) == cursor.take([None]) == cursor.take([HOLE]) == []
    assert (cursor.slot, cursor.entry_bytes) == (11, 9.0), "holes say nothing of entries"
    cursor.take([raws[1]])
    for again in (raws[1], raws[0], encode(batch_of(8, 5))):
        with pytest.raises(ProtocolViolation, match="slot 12 repeats position"):
            cursor.take([again])
    assert cursor.take([encode(batch_of(9, 1))])[0].position == 9
    assert caplog.text == "", "a hole is worth no word"


def test_a_cursor_stops_where_positions_cannot_be_read_and_says_which():
    for first, wanted, lost in ((5, 3, (3, 5)), (5, 4, (4, 5)), (5, 5, None), (5, 7, None)):
        cursor = ReadCursor(10, wanted, 1, 1.0)
        assert cursor.take([HOLE, b"garbage", b"other", HOLE]) == []
        assert cursor.is_damaged
        found = cursor.take([encode(batch_of(first, 4)), encode(batch_of(first + 4, 1))])
        assert not cursor.is_damaged
        if lost is None:
            assert [entry.position for entry in found] == list(range(max(first, wanted), 10))
            cursor.check()
            assert cursor.slot == 16
            continue
        assert (found, cursor.slot) == ([], 14)
        with pytest.raises(DamagedEntry, match=f"positions {lost[0]} to 4 .*: slot 12 holds") as e:
            cursor.check()
        assert (e.value.position, e.value.next) == lost


def test_a_cursor_looks_as_far_ahead_as_batches_and_bytes_allow():
    with turned(log_page_slots=50, log_page_bytes=1000):
        for batch, size, entries, slots in (
            *((1, 1.0, 1, 1), (1, 1.0, 2, 2), (1, 1.0, 49, 49), (1, 1.0, 99, 50)),
            *((4, 1.0, 1, 1), (4, 1.0, 2, 2), (4, 1.0, 5, 2), (4, 1.0, 6, 3)),
            *((1, 100.0, 99, 10), (4, 100.0, 99, 2), (4, 300.0, 99, 1), (1, 5000.0, 9, 1)),
        ):
            assert ReadCursor(0, 0, batch, size).ahead(entries) == slots
        cursor = ReadCursor(10, 0, 1, 1.0)
        cursor.take([encode(batch_of(0, 6)), HOLE, encode(batch_of(6, 6)), HOLE])
        assert cursor.ahead(10) == min(4, int(1000 / (3 * cursor.entry_bytes))), "three a slot"
        cursor.take([encode(batch_of(12, 1)), *[HOLE] * 3])
        assert cursor.ahead(10) == 10, "a batch has one entry at least"
    assert KNOBS.log_page_slots == 512
