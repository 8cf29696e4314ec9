"""What a space asks its registers for: to allocate, to find its ends, and to trim."""

from __future__ import annotations

import pytest
from tests.space.made import Made, now

from wires import simulated
from wormspace import Address, BadAddress, Unavailable
from wormspace.addresses import MAX_OFFSETS, METADATA, TRIM
from wormspace.errors import (
    AlreadyWritten,
    CaptureLost,
    NotAllocated,
    ProtocolViolation,
    Trimmed,
    ValueTooLarge,
)
from wormspace.space.metadata import Metadata
from wormspace.space.space import DEFAULT_SIZE, NO_STOP, Space, _gallop


def whats(made: Made) -> list[list]:
    """The calls since the last look, without their moments and what was written."""
    return [list(what[:3]) for _, *what in made.asked()]


def probe(number: int) -> list:
    return ["one", number, METADATA]


def attempt(number: int) -> list[list]:
    return [["capture", number, METADATA], ["write", number, METADATA]]


@pytest.mark.parametrize("known", [0, 1, 5])
def test_a_tail_is_found_in_steps_that_double_and_then_halve(known):
    async def work():
        for tail in [*range(known, known + 20), known + 1000]:
            asked = []

            async def holds(number: int, tail=tail, asked=asked) -> bool:
                asked.append(number)
                return number < tail

            assert await _gallop(known, holds) == tail
            up = [known + 2**n - 1 for n in range(99) if known + 2 ** (n - 1) - 1 < tail or not n]
            assert asked[: len(up)] == up
            assert len(asked) <= 2 * len(up)
            assert len(set(asked)) == len(asked)

    simulated(work)


def test_the_next_segment_is_allocated_by_writing_its_metadata():
    async def work():
        made = Made()
        first = await made.space.alloc(b"payload", 7)
        assert (first.number, first.size, first.metadata) == (0, 7, b"payload")
        assert first.space is made.space
        assert whats(made) == [probe(0), *attempt(0)]
        record = Metadata.decode(made.held[0][METADATA])
        assert (record.size, record.payload, len(record.nonce)) == (7, b"payload", 16)
        second = await made.space.alloc(timeout=2)
        assert (second.number, second.size, second.metadata) == (1, DEFAULT_SIZE, b"")
        assert whats(made) == [probe(1), *attempt(1)], "it knows that the first is there"
        assert made.deadlines == [5.0] * 3 + [2.0] * 3
        assert Metadata.decode(made.held[1][METADATA]).nonce != record.nonce
        assert await made.space.tail() == 2
        assert whats(made) == [probe(2)]

    simulated(work)


def test_who_lost_a_number_takes_the_next_that_is_free():
    async def work():
        made = Made()
        made.fill(0, 4)

        async def late(deadline, what, number, *more):
            await called(deadline, what, number, *more)
            if what == "capture" and number == 1:
                for taken in (1, 2, 3):
                    made.fill(taken, 4, payload=b"theirs")

        called, made._called = made._called, late
        assert (await made.space.alloc(b"mine")).number == 4
        assert whats(made) == [
            probe(0), probe(1), ["capture", 1, METADATA],
            probe(2), probe(3), probe(5), probe(4), *attempt(4),
        ]  # fmt: skip
        assert Metadata.decode(made.held[1][METADATA]).payload == b"theirs"

    simulated(work)


@pytest.mark.parametrize("error", [AlreadyWritten("theirs", b"x"), Trimmed("gone")])
def test_a_number_whose_write_is_refused_is_somebody_elses(error):
    async def work():
        made = Made()
        made.errors = [None, None, error]
        assert (await made.space.alloc()).number == 1
        assert whats(made) == [probe(0), *attempt(0), probe(1), *attempt(1)]

    simulated(work)


def test_who_lost_a_capture_tries_the_same_number_again_and_may_find_that_it_has_won():
    async def work():
        made = Made()
        made.errors = [None, None, CaptureLost("stolen"), CaptureLost("stolen")]
        assert (await made.space.alloc(b"mine")).number == 0
        asked = whats(made)
        assert asked == [probe(0), *attempt(0), ["capture", 0, METADATA], *attempt(0)]
        assert 0 < now() < 0.01

        async def completed(deadline, what, number, *more):
            if what == "write":
                made.held[number] = {METADATA: more[1]}
                raise CaptureLost("completed by somebody else")
            await called(deadline, what, number, *more)

        called, made._called = made._called, completed
        assert (await made.space.alloc(b"mine")).number == 1
        assert whats(made) == [probe(1), ["capture", 1, METADATA], ["capture", 1, METADATA]]

    simulated(work)


def test_an_allocation_that_always_loses_ends_at_its_deadline():
    async def work():
        made = Made()
        made.errors = [None] + [CaptureLost("stolen")] * 10_000
        with pytest.raises(Unavailable, match=r"allocating s/0: other clients captured it again"):
            await made.space.alloc(timeout=1)
        assert now() == 1.0

    simulated(work)


def test_what_cannot_be_a_segment_is_refused_before_anything_is_asked():
    async def work():
        made = Made()
        for size in (0, -1, MAX_OFFSETS + 1):
            with pytest.raises(BadAddress, match=f"a segment has 1 to {MAX_OFFSETS} registers"):
                await made.space.alloc(size=size)
        with pytest.raises(ValueTooLarge, match="metadata of 990 bytes"):
            await made.space.alloc(bytes(990))
        for number in (-1, NO_STOP):
            for call in (made.space.segment, made.space.trim, made.space.check):
                with pytest.raises(BadAddress, match=f"a segment number is 0 to {NO_STOP - 1}"):
                    await call(number)
            with pytest.raises(BadAddress, match="a prefix of segments ends at 0 or more, not"):
                await made.space.trim_prefix(number)
        assert made.asked() == []
        largest = 1000 - len(Metadata(DEFAULT_SIZE, bytes(300), bytes(16)).encode()) + 300
        with pytest.raises(ValueTooLarge):
            await made.space.alloc(bytes(largest + 1))
        assert len((await made.space.alloc(bytes(largest))).metadata) == largest
        assert (await made.space.alloc(size=MAX_OFFSETS)).size == MAX_OFFSETS
        assert (await made.space.alloc(size=1)).size == 1

    simulated(work)


def test_a_segment_is_what_its_metadata_says():
    async def work():
        made = Made()
        made.fill(3, 9, payload=b"what for")
        segment = await made.space.segment(3, timeout=2)
        assert (segment.space, segment.number) == (made.space, 3)
        assert (segment.size, segment.metadata) == (9, b"what for")
        assert await made.space.check(3, timeout=3) == b"what for"
        assert made.deadlines == [2.0, 3.0]
        assert whats(made) == [["metadata", 3]] * 2
        with pytest.raises(NotAllocated, match="segment 4 of space 's' is not allocated"):
            await made.space.segment(4)
        made.held[5] = {METADATA: b"nonsense"}
        with pytest.raises(ProtocolViolation, match="a metadata register holds something else"):
            await made.space.segment(5)

    simulated(work)


def test_a_trim_that_was_decided_and_not_told_is_told_by_whoever_meets_it():
    async def work():
        made = Made()
        made.fill(3, 9)
        made.held[3][TRIM] = b"trimmed"
        with pytest.raises(Trimmed, match="segment 3 of space 's' was trimmed"):
            await made.space.segment(3)
        assert made.asked() == [(0.0, "metadata", 3), (0.0, "trim", 3, 4, None)]
        assert 3 in made.gone

    simulated(work)


def test_a_segment_is_trimmed_if_it_is_allocated():
    async def work():
        made = Made()
        for number in range(4):
            made.fill(number, 1)
        with pytest.raises(NotAllocated, match="segment 4 of space 's' is not allocated"):
            await made.space.trim(4)
        assert whats(made) == [probe(0), probe(1), probe(3), probe(7), probe(5), probe(4)]
        await made.space.trim(3)
        await made.space.trim(1, timeout=2)
        assert made.asked() == [(0.0, "trim", 3, 4, None), (0.0, "trim", 1, 2, None)]
        assert made.deadlines[-2:] == [5.0, 2.0]
        fresh = Space(made.client, "s")
        await fresh.trim(2)
        assert whats(made)[-1] == ["trim", 2, 3]
        assert await fresh.tail() == 4
        with pytest.raises(NotAllocated):
            await fresh.trim(5)

    simulated(work)


def test_the_head_is_behind_what_the_servers_say_and_what_is_decided_since():
    async def work():
        made = Made()
        for number in range(6):
            made.fill(number, 1)
        assert await made.space.head() == 0
        assert whats(made) == [["trims", 0, 1], ["one", 0, TRIM]]
        made.gone.add(0, 2)
        made.gone.add(3, 4)
        made.held[2][TRIM] = b"trimmed"  # which a majority was not told
        assert await made.space.head(timeout=2) == 4
        assert whats(made) == [["trims", 0, 1], *[["one", n, TRIM] for n in (2, 3, 4)]]
        assert made.deadlines[-4:] == [2.0] * 4
        made.gone = type(made.gone)()  # of servers that were not told
        assert await made.space.head() == 4
        assert whats(made) == [["trims", 0, 1], ["one", 4, TRIM]]

    simulated(work)


def test_a_prefix_is_trimmed_from_its_head_and_those_below_are_told_once():
    async def work():
        made = Made()
        for number in range(9):
            made.fill(number, 1)
        with pytest.raises(NotAllocated, match="space 's' has no 10 segments yet, only 9"):
            await made.space.trim_prefix(10)
        made.gone.add(0, 2)
        made.asked()
        await made.space.trim_prefix(0)
        assert made.asked() == []
        await made.space.trim_prefix(5, timeout=2)
        assert [call[1:] for call in made.asked()] == [
            ("trims", 0, 1),
            ("one", 2, TRIM),
            ("trim", 2, 5, 0),
        ]
        assert set(made.deadlines[-3:]) == {2.0}
        for stop in (5, 3):
            await made.space.trim_prefix(stop)
        assert made.asked() == [], "it knows that they were told"
        await made.space.trim_prefix(9)
        assert [call[1:] for call in made.asked()] == [
            ("trims", 0, 1),
            ("one", 5, TRIM),
            ("trim", 5, 9, 5),
        ]
        fresh = Space(made.client, "s")
        await fresh.trim_prefix(4)
        asked = [call[1:] for call in made.asked() if call[3] != METADATA]
        assert asked == [("trims", 0, 1), ("one", 9, TRIM), ("trim", 4, 4, 0)]
        assert fresh._told_below == 4
        another = Space(made.client, "s")
        await another.trim_prefix(9)
        assert whats(made)[-1] == ["trim", 9, 9], "all that was ever allocated"

    simulated(work)


def test_a_listener_begins_and_stops_where_it_is_told():
    async def work():
        made = Made()
        for start, stop, asked in [
            (0, None, (0, NO_STOP)),
            (4, 5, (4, 5)),
            (Address(4, MAX_OFFSETS), NO_STOP, (4, NO_STOP)),
            ((4, 0), 9, (4, 9)),
        ]:
            stream = made.space.listen(start, stop=stop)
            assert made.asked() == [(0.0, "listen", "s", *asked)]
            await stream.close()
        for start, stop, says in [
            (-1, None, "a segment number is 0 to"),
            (NO_STOP, None, "a segment number is 0 to"),
            ((0, -1), None, "an offset is 0 to"),
            ((0, MAX_OFFSETS + 1), None, "an offset is 0 to"),
            ((0,), None, "start is an Address, or a segment's number"),
            ((0, 0, 0), None, "start is an Address"),
            (True, None, "start is an int, not the bool True"),
            ((0, 1.5), None, "a part of an address is an int"),
            (4, 4, "a listener's stop is above its start"),
            (4, 3, "a listener's stop is above its start"),
            (4, NO_STOP + 1, "a listener's stop is above its start"),
            (4, "5", "stop is an int, not str"),
        ]:
            with pytest.raises(BadAddress, match=says):
                made.space.listen(start, stop=stop)
        assert made.asked() == []

    simulated(work)
