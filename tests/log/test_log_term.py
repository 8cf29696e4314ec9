"""How the right to hand out positions passes on, step by step."""

import asyncio

import pytest

import wormspace
from wormspace.log.errors import Deposed
from wormspace.log.segmented_log import SegmentedLog
from wormspace.log.spaces import ENTRIES, metadata
from wormspace.log.term import ReservedWriter, Term


@pytest.fixture
def worm(runner):
    async def connect():
        return await wormspace.connect("memory:")

    client = runner.run(connect())
    yield client
    runner.run(client.close())


@pytest.fixture
def holders(worm):
    """Makes holders of the same segmented log, each with a view of its own."""

    def make(**options):
        segmented_log = SegmentedLog(worm.space("segmented_log"), 8, ENTRIES)
        return segmented_log, Term(segmented_log, **options)

    return make


async def put(segmented_log, term, count, value=b"entry"):
    """Write the next positions; returns the runs."""
    ranges = term.take(count)
    for run in ranges:
        await ReservedWriter(segmented_log, run).write_all([value] * (run.stop - run.start), 5)
    return ranges


@pytest.mark.parametrize("unsafe", [False, True])
async def test_a_successor_goes_on_above_what_is_written_and_fills_below(holders, unsafe):
    segmented_log, old = holders(unsafe=unsafe)
    await old.acquire()
    await put(segmented_log, old, 2)
    [skipped] = old.take(1)
    await put(segmented_log, old, 1)
    _, new = holders(unsafe=unsafe)
    await new.acquire()
    assert new.at == 4
    assert await segmented_log.read(0, 5) == [b"entry", b"entry", b"", b"entry", None]
    with pytest.raises(wormspace.RaceLost):
        await ReservedWriter(segmented_log, skipped).write(skipped.start, b"late")


@pytest.mark.parametrize("unsafe", [False, True])
async def test_the_deposed_can_neither_write_nor_go_on(holders, unsafe):
    segmented_log, old = holders(unsafe=unsafe)
    await old.acquire()
    await old.extend()
    old.take(8)  # into the second segment, which an unsafe holder has not captured
    await put(segmented_log, old, 1)
    [run] = old.take(1)
    assert await old.stands()
    _, new = holders(unsafe=unsafe)
    await new.acquire()
    assert new.at == 9, "to ask takes no slot"
    assert not await old.stands()
    with pytest.raises(wormspace.CaptureLost):
        await ReservedWriter(segmented_log, run).write(run.start, b"late")
    with pytest.raises(Deposed):
        await old.extend()


async def test_a_segment_that_was_left_is_filled_and_never_handed_out_again(holders):
    segmented_log, old = holders()
    await old.acquire()
    await put(segmented_log, old, 3)
    await old.extend()
    [run] = old.take(1)
    _, new = holders()
    await new.acquire()
    assert new.at == 8
    assert await segmented_log.read(0, 8) == [b"entry"] * 3 + [b""] * 5
    with pytest.raises(wormspace.RaceLost):
        await ReservedWriter(segmented_log, run).write(run.start, b"late")


async def test_a_segment_allocated_and_never_reached_is_adopted(holders, worm):
    segmented_log, old = holders()
    await old.acquire()
    await put(segmented_log, old, 5)
    await worm.space("segmented_log").alloc(metadata(ENTRIES), 9)  # by one who died before the seal
    _, new = holders()
    await new.acquire()
    assert new.at == 5
    await new.extend()
    ranges = await put(segmented_log, new, 11)
    assert [(run.segment, run.start, run.stop) for run in ranges] == [(0, 5, 8), (1, 0, 8)]
    assert await segmented_log.end() == 16
    assert await worm.space("segmented_log").tail() == 2


async def test_what_was_begun_before_it_was_acquired_again_hands_out_nothing(holders, monkeypatch):
    written, go = asyncio.Event(), asyncio.Event()

    class Slow(ReservedWriter):
        async def write(self, offset, value, timeout=None):
            await super().write(offset, value, timeout)
            written.set()
            await go.wait()

    monkeypatch.setattr("wormspace.log.term.ReservedWriter", Slow)
    _, term = holders()
    await term.acquire()
    extending = asyncio.ensure_future(term.extend())
    await written.wait()
    await term.acquire()
    go.set()
    with pytest.raises(Deposed):
        await extending
    assert (term.at, term.left) == (8, 8)


async def test_of_two_who_acquire_at_once_only_the_last_captor_goes_on(holders):
    segmented_log, one = holders()
    _, two = holders()
    await one.acquire()
    await two.acquire()
    with pytest.raises(Deposed):
        await one.extend()
    await two.extend()
    assert await segmented_log.is_closed(0)


async def test_the_end_is_found_beyond_gaps_and_by_newcomers(holders):
    segmented_log, term = holders()
    await term.acquire()
    assert await segmented_log.end() == 0
    await put(segmented_log, term, 1)
    term.take(5)
    await put(segmented_log, term, 1)
    fresh, _ = holders()
    assert await fresh.end() == await segmented_log.end() == 7


async def test_an_entry_that_a_captor_completed_is_in_the_log_once(worm, monkeypatch):
    log = await worm.log("orders")
    await log.append(b"a")
    write_all = ReservedWriter.write_all

    async def completed_by_a_captor(self, values, timeout):
        await write_all(self, values, timeout)
        raise refusal()

    monkeypatch.setattr(ReservedWriter, "write_all", completed_by_a_captor)
    assert await log.append(b"b") == 1
    monkeypatch.undo()
    assert [entry.body for entry in await log.read_range(0)] == [b"a", b"b"]


async def test_an_entry_that_lost_its_position_can_never_appear_there(worm, monkeypatch):
    log = await worm.log("orders")
    await log.append(b"a")
    lost = []

    async def refused(self, values, timeout):
        lost.extend(values)
        monkeypatch.undo()
        raise refusal()

    monkeypatch.setattr(ReservedWriter, "write_all", refused)
    position = await log.append(b"b")
    assert len(lost) == 1
    assert position > 1
    assert await log.read(1) is None
    assert [entry.body for entry in await log.read_range(0)] == [b"a", b"b"]


def refusal():
    return wormspace.PartialWrite("", [wormspace.CaptureLost("the outcome is unknown")])
