"""What a listener of a space asks for, step by step, and what it tells of what it hears."""

from __future__ import annotations

import asyncio

import pytest
from tests.space.made import Made, now

from wires import simulated
from wormspace import Address, Allocated, SegmentsTrimmed, Written
from wormspace.addresses import METADATA, TRIM
from wormspace.errors import ProtocolViolation, ServerFull, Unavailable
from wormspace.knobs import turned
from wormspace.registers.interface import Gap, RegistersTrimmed, Wrote
from wormspace.runtime.retrying import FOLLOW_RETRY_S
from wormspace.space.metadata import Metadata
from wormspace.space.space import NO_STOP


def written(number: int, *offsets: int) -> list[Written]:
    return [Written(Address(number, offset), b"%d" % offset) for offset in offsets]


def wrote(number: int, *offsets: int) -> list[Wrote]:
    return [Wrote("s", number, offset, b"%d" % offset) for offset in offsets]


def allocated(number: int, size: int) -> Wrote:
    return Wrote("s", number, METADATA, Metadata(size, b"p", bytes(16)).encode())


async def told(stream, seconds: float = 50.0) -> list:
    """All that a stream tells until it has nothing more to tell for a while."""
    heard = []
    while True:
        try:
            async with asyncio.timeout(seconds):
                heard.append(await anext(stream))
        except TimeoutError:
            return heard


def test_history_is_read_segment_by_segment_until_one_is_not_allocated():
    async def work():
        made = Made()
        made.fill(0, 4, 0, 2, payload=b"first")
        made.fill(1, 2, 0, 1)
        stream = made.space.listen()
        assert made.asked() == [(0.0, "listen", "s", 0, NO_STOP)]
        made.source.send(Gap())
        heard = [Allocated(0, 4, b"first"), *written(0, 0, 2), Allocated(1, 2, b"")]
        assert await told(stream) == [*heard, *written(1, 0, 1)]
        assert [what for _, *what in made.asked()] == [
            ["trims", 0, NO_STOP],
            ["metadata", 0],
            ["page", 0, (0, 4)],
            ["metadata", 1],
            ["page", 1, (0, 2)],
            ["metadata", 2],
        ]
        assert set(made.deadlines) == {5.0}
        assert made.source.left == [(1, 2)], "of the first a write may still come"
        await stream.close()
        assert made.source.closed == 1

    simulated(work)


def test_after_a_gap_only_what_is_not_known_is_read_again():
    async def work():
        made = Made()
        made.fill(0, 5, 0, 2, 3)
        made.fill(1, 1, 0)
        made.fill(2, 2, 1)
        made.page = 2
        stream = made.space.listen()
        made.source.send(Gap())
        heard = await told(stream)
        assert heard[:4] == [Allocated(0, 5, b""), *written(0, 0, 2, 3)]
        assert [what for _, *what in made.asked() if "page" in what] == [
            ["page", 0, (0, 5)],
            ["page", 0, (3, 5)],
            ["page", 1, (0, 1)],
            ["page", 2, (0, 2)],
        ]
        made.held[0][4] = b"4"
        made.held[2][0] = b"0"
        made.source.send(*wrote(0, 1), Gap(), *wrote(0, 2))
        assert await told(stream) == [*written(0, 1, 4), *written(2, 0)]
        assert [what for _, *what in made.asked()] == [
            ["trims", 0, NO_STOP],
            ["page", 0, (4, 5)],
            ["page", 2, (0, 1)],
            ["metadata", 3],
        ]
        made.source.send(Gap())
        assert await told(stream) == []
        assert [what for _, *what in made.asked()] == [["trims", 0, NO_STOP], ["metadata", 3]]
        assert made.source.left == [(1, 2), (0, 1), (2, 3)]
        await stream.close()

    simulated(work)


@pytest.mark.parametrize("most", [1, 3, 16])
def test_segments_that_are_known_are_read_at_the_same_time_ever_more_of_them(most):
    async def work():
        made = Made()
        stream = made.space.listen()
        for number in range(9):
            made.fill(number, 3, 0)
        made.takes = 1.0
        made.source.send(*[allocated(number, 3) for number in range(9)], Gap())
        assert len(await told(stream)) == 18
        at_once: dict[float, list[int]] = {}
        for at, what, number, *_ in made.asked():
            if what == "page":
                at_once.setdefault(at, []).append(number)
        sizes, left = [], list(range(9))
        while left:
            size = min(2 ** len(sizes), most)
            sizes.append(left[:size])
            left = left[size:]
        assert list(at_once.values()) == sizes
        await stream.close()

    with turned(space_catch_up=most):
        simulated(work)


def test_what_lies_below_a_trimmed_segment_is_known_to_be_allocated():
    async def work():
        made = Made()
        for number in range(6):
            made.fill(number, 3, 0)
        made.takes = 1.0
        stream = made.space.listen()
        made.source.send(RegistersTrimmed("s", 6, 8), Gap())
        assert len(await told(stream)) == 13
        asked: dict[float, list[int]] = {}
        for at, what, number, *_ in made.asked():
            if what == "metadata":
                asked.setdefault(at, []).append(number)
        assert list(asked.values()) == [[0], [1, 2], [3, 4, 5, 8]]
        await stream.close()

    simulated(work)


def test_a_page_that_is_not_all_of_a_segment_is_followed_by_its_next_and_not_by_others():
    async def work():
        made = Made()
        stream = made.space.listen()
        made.page, made.takes = 2, 1.0
        for number in range(5):
            made.fill(number, 4, *([0, 1, 2] if number == 3 else [0]))
        made.source.send(*[allocated(number, 4) for number in range(5)], Gap())
        heard = await told(stream)
        assert [e.address for e in heard if isinstance(e, Written)] == [
            *((number, 0) for number in range(4)), (3, 1), (3, 2), (4, 0),
        ]  # fmt: skip
        pages = [(number, spans) for _, what, number, *spans in made.asked() if what == "page"]
        assert pages == [
            (0, [(0, 4)]),
            (1, [(0, 4)]),
            (2, [(0, 4)]),
            (3, [(0, 4)]),
            (4, [(0, 4)]),
            (3, [(2, 4)]),
            (4, [(0, 4)]),
        ]
        await stream.close()

    simulated(work)


def test_a_listener_from_the_midst_hears_nothing_from_before():
    async def work():
        made = Made()
        made.fill(3, 6, 1, 2, 4)
        made.fill(4, 2, 0)
        stream = made.space.listen(Address(3, 2), stop=5)
        made.source.send(Gap())
        heard = await told(stream)
        assert heard == [
            Allocated(3, 6, b""),
            *written(3, 2, 4),
            Allocated(4, 2, b""),
            *written(4, 0),
        ]
        assert [what for _, *what in made.asked()] == [
            ["listen", "s", 3, 5],
            ["trims", 3, 5],
            ["metadata", 3],
            ["page", 3, (2, 6)],
            ["metadata", 4],
            ["page", 4, (0, 2)],
        ]
        made.source.send(*wrote(3, 1, 3), *wrote(4, 1), *wrote(3, 5))
        assert await told(stream) == [*written(3, 3), *written(4, 1), *written(3, 5)]
        assert made.source.left == [(4, 5), (3, 4)], "of the first, from offset 2 on"
        await stream.close()

    simulated(work)


def test_what_was_read_and_will_come_as_an_event_is_left_to_the_event():
    async def work():
        made = Made()
        made.fill(0, 4, 0, 1, 2)
        made.source.coming = {(0, 1)}
        stream = made.space.listen()
        made.source.send(Gap())
        assert await told(stream) == [Allocated(0, 4, b""), *written(0, 0, 2)]
        made.source.send(*wrote(0, 2, 1, 1))
        assert await told(stream) == written(0, 1)
        await stream.close()

    simulated(work)


def test_each_thing_is_told_once_whoever_tells_it():
    async def work():
        made = Made()
        stream = made.space.listen(stop=9)
        made.source.send(allocated(2, 2), allocated(2, 2), *wrote(2, 1, 1), *wrote(2, TRIM))
        assert await told(stream) == [Allocated(2, 2, b"p"), *written(2, 1)]
        made.source.send(*wrote(2, 0), *wrote(2, 0, 1), allocated(2, 2))
        assert await told(stream) == written(2, 0)
        made.source.send(*wrote(4, 0), allocated(4, 1), allocated(4, 1))
        assert await told(stream) == [*written(4, 0), Allocated(4, 1, b"p")]
        made.source.send(
            RegistersTrimmed("s", 1, 3),
            RegistersTrimmed("s", 0, 5),
            RegistersTrimmed("s", 7, 20),
            *wrote(8, 0),
        )
        assert await told(stream) == [
            SegmentsTrimmed(1, 3),
            SegmentsTrimmed(0, 1),
            SegmentsTrimmed(3, 5),
            SegmentsTrimmed(7, 9),
        ]
        assert made.source.left == [(2, 3), (4, 5), (1, 3), (0, 5), (7, 9)]
        assert not stream._progress
        await stream.close()

    simulated(work)


def test_what_a_page_repeats_of_a_segment_that_it_completes_is_no_news():
    """Where there are too many holes for one question, it asks for what is known as well."""

    async def work():
        made = Made()
        made.fill(0, 5, 0, 1, 2, 3, 4)
        stream = made.space.listen()
        made.source.send(allocated(0, 5), *wrote(0, 2, 4), Gap())
        with turned(registers_spans=1):
            heard = await told(stream)
        assert heard == [Allocated(0, 5, b"p"), *written(0, 2, 4, 0, 1, 3)]
        assert ("page", 0, (0, 5)) in [call[1:] for call in made.asked()]
        await stream.close()

    simulated(work)


@pytest.mark.parametrize(
    ("span", "left"), [((2, 7), [1, 7]), ((3, 4), [1, 5, 7]), ((1, 2), [3, 5, 7])]
)
def test_of_what_is_trimmed_nothing_is_kept_and_of_its_neighbours_all(span, left):
    async def work():
        made = Made()
        stream = made.space.listen(stop=9)
        for number in (1, 3, 5, 7):
            made.source.send(allocated(number, 3), *wrote(number, 0))
        made.source.send(RegistersTrimmed("s", *span))
        assert len(await told(stream)) == 9
        assert list(stream._progress) == left
        made.source.send(*[event for number in (1, 3, 5, 7) for event in wrote(number, 0, 1)])
        assert await told(stream) == [event for number in left for event in written(number, 1)]
        await stream.close()

    simulated(work)


def test_a_segment_is_full_when_it_is_known_how_large_it_is():
    async def work():
        made = Made()
        stream = made.space.listen()
        made.source.send(*wrote(0, 0, 1))
        assert await told(stream) == written(0, 0, 1)
        assert made.source.left == []
        made.source.send(allocated(0, 2))
        assert await told(stream) == [Allocated(0, 2, b"p")]
        assert made.source.left == [(0, 1)]
        await stream.close()

    simulated(work)


@pytest.mark.parametrize("page", [1, 2, 100])
def test_trims_are_told_in_the_order_of_addresses_with_what_is_read(page):
    async def work():
        made = Made()
        made.trims_page = page
        made.fill(2, 1, 0)
        made.fill(5, 2, 0)
        for span in ((0, 2), (3, 5), (6, 8)):
            made.gone.add(*span)
        stream = made.space.listen()
        made.source.send(Gap())
        assert await told(stream) == [
            SegmentsTrimmed(0, 2),
            Allocated(2, 1, b""),
            *written(2, 0),
            SegmentsTrimmed(3, 5),
            Allocated(5, 2, b""),
            *written(5, 0),
            SegmentsTrimmed(6, 8),
        ]
        asked = made.asked()
        firsts = {1: [0, 3, 6], 2: [0, 6], 100: [0]}[page]
        assert [first for _, what, first, *_ in asked if what == "trims"] == firsts
        assert [n for _, what, n, *_ in asked if what == "metadata"] == [2, 5, 8]
        made.gone.add(5, 6)
        made.source.send(Gap())
        assert await told(stream) == [SegmentsTrimmed(5, 6)]
        await stream.close()

    simulated(work)


def test_a_trim_that_is_decided_and_not_told_to_the_servers_is_finished():
    async def work():
        made = Made()
        made.fill(0, 4, 0)
        made.fill(1, 4, 0)
        stream = made.space.listen()
        made.source.send(Gap())
        assert len(await told(stream)) == 4
        made.held[0][TRIM] = b"trimmed"
        made.asked()
        made.source.send(Gap())
        assert await told(stream) == [SegmentsTrimmed(0, 1)]
        assert [what for _, *what in made.asked()][:3] == [
            ["trims", 0, NO_STOP],
            ["page", 0, (1, 4)],
            ["page", 1, (1, 4)],
        ]
        assert 0 in made.gone
        await stream.close()

    simulated(work)


def test_a_segment_that_is_trimmed_while_it_is_read_is_told_as_trimmed():
    async def work():
        made = Made()
        made.fill(0, 4, 0)
        made.fill(1, 4, 0)
        stream = made.space.listen()
        made.takes = 1.0
        made.source.send(Gap())
        asyncio.get_running_loop().call_later(1.5, made.gone.add, 0, 1)
        assert await told(stream) == [SegmentsTrimmed(0, 1), Allocated(1, 4, b""), *written(1, 0)]
        assert made.source.left == [(0, 1)]
        await stream.close()

    simulated(work)


@pytest.mark.parametrize("error", [Unavailable("nobody"), ServerFull("full")])
def test_a_listener_waits_for_servers_that_are_away_and_goes_on(error):
    async def work():
        made = Made()
        made.fill(0, 1, 0)
        stream = made.space.listen()
        made.errors = [error, None, error, error, None, error]
        made.source.send(Gap())
        assert await told(stream) == [Allocated(0, 1, b""), *written(0, 0)]
        first, second, third, fourth = (round(k * FOLLOW_RETRY_S, 3) for k in (1, 2, 3, 4))
        assert made.asked()[1:] == [
            (0.0, "trims", 0, NO_STOP),
            (first, "trims", 0, NO_STOP),
            (first, "metadata", 0),
            (second, "metadata", 0),
            (third, "metadata", 0),
            (third, "page", 0, (0, 1)),
            (fourth, "metadata", 0),
            (fourth, "page", 0, (0, 1)),
            (fourth, "metadata", 1),
        ]
        await stream.close()

    simulated(work)


def test_another_error_ends_the_listener():
    async def work():
        for wrong_at in range(3):
            made = Made()
            made.fill(0, 1, 0)
            stream = made.space.listen()
            made.errors = [None] * wrong_at + [ProtocolViolation("nonsense")]
            made.source.send(Gap())
            with pytest.raises(ProtocolViolation, match="nonsense"):
                await told(stream)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            assert made.source.closed == 1

    simulated(work)


def test_a_listener_that_stops_reads_no_further():
    async def work():
        made = Made()
        for number in range(5):
            made.fill(number, 1, 0)
        made.gone.add(4, 5)
        stream = made.space.listen(1, stop=3)
        began = now()
        made.source.send(Gap(), *wrote(2, 0))
        assert [type(e) for e in await told(stream)] == [Allocated, Written] * 2
        assert [n for _, what, n, *_ in made.asked() if what == "metadata"] == [1, 2]
        assert stream._behind is None
        assert began == 0
        await stream.close()

    simulated(work)
