"""What rolls over, rolls over: logs that are older than any of their parts is large."""

import asyncio
import random

import pytest
from log_life import Life

import wormspace
from wormspace.knobs import KNOBS, drawn, least, turned
from wormspace.log.durable_cell import DurableCell
from wormspace.log.segmented_log import SegmentedLog
from wormspace.log.spaces import CURSOR


async def test_a_cursor_is_loaded_after_each_of_a_thousand_commits():
    """The 257th setting of a mark once made whoever looked for its value look for ever."""
    async with wormspace.connect("memory:") as worm:
        log = await worm.log("orders")
        await log.append_many([b"x"] * 1000)
        mine, others = log.cursor("billing"), (await worm.log("orders")).cursor("billing")
        async with asyncio.timeout(60):
            for position in range(1, 1001):
                await mine.commit(position)
                assert await mine.load() == await others.load() == position


async def test_a_log_is_opened_after_each_of_many_trims_and_takeovers():
    with turned(log_cell_size=3, log_cell_page=2):
        async with wormspace.connect("memory:") as worm:
            for turn in range(1, 60):
                async with asyncio.timeout(20), await worm.log("orders", segment_size=4) as log:
                    assert await log.append(b"x") == turn - 1
                    assert await log.trim(turn) == turn
                    assert (await log.first(), await log.tail()) == (turn, turn)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("page", [1, 2, 64])
async def test_a_mark_has_what_was_set_last_whoever_set_it(size, page):
    rng = random.Random(size * 100 + page)
    with turned(log_cell_page=page):
        async with wormspace.connect("memory:") as worm:
            marks = [
                DurableCell(SegmentedLog(worm.space("mark"), size, CURSOR), int) for _ in range(3)
            ]
            number, value = -1, None
            for turn in range(120):
                mark = rng.choice(marks)
                if rng.random() < 0.5:
                    await mark.put(turn)
                    value = turn
                elif rng.random() < 0.7:
                    assert await mark.replace(number, turn) is not None
                    value = turn
                else:
                    assert await mark.replace(number - 1, turn) is None
                found = await rng.choice(marks).get()
                assert found is None if value is None else found[1] == value
                number = found[0] if found else number
            space = worm.space("mark")
            assert await space.tail() - await space.head() <= 2, "old values were not let go"


# ------------------------------------------------------------------ a long life


def log_knobs(values):
    return {name: value for name, value in values.items() if name.startswith("log_")}


async def live(seed, turns, *, rivals=False, **knobs):
    with turned(**knobs):
        async with wormspace.connect("memory:", rng=random.Random(seed)) as worm:
            await Life(worm, seed, rivals=rivals).live(turns)


@pytest.mark.parametrize("seed", range(2))
async def test_a_long_life_with_everything_as_small_as_can_be(seed):
    await live(seed, 600, **log_knobs(least()))


@pytest.mark.parametrize("seed", range(10, 14))
async def test_a_long_life_with_sizes_of_all_kinds(seed):
    await live(seed, 250, **log_knobs(drawn(random.Random(seed))))


@pytest.mark.parametrize("seed", range(20, 22))
async def test_a_long_life_of_handles_that_depose_each_other(seed):
    await live(seed, 300, rivals=True, **log_knobs(least()))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 140))
async def test_many_long_lives(seed):
    knobs = least() if seed % 2 else drawn(random.Random(seed))
    await live(seed, 5000, **log_knobs(knobs))


async def test_sizes_are_those_with_which_the_log_was_made():
    """Two programs of different settings use one log."""
    async with wormspace.connect("memory:") as worm:
        with turned(log_cell_size=3, log_segment_size=8):
            first = await worm.log("orders")
            await first.cursor("c").commit(0)
        assert KNOBS.log_cell_size != 3
        second = await worm.log("orders")
        assert second.segment_size == 8
        for position in range(2, 40):
            log = (first, second)[position % 2]
            await log.cursor("c").commit(position - 2)
            await log.trim(await log.append(b"x"))
            for other in (first, second):
                assert await other.cursor("c").load() == position - 2
                assert await other.first() == position - 2
