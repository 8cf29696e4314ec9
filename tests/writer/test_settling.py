"""Many registers are decided at once: what is there stays, and the rest is what is given."""

import asyncio
import itertools

import pytest
from tests.virtual import Watch, virtually

from wormspace.errors import AlreadyWritten, CaptureLost, Trimmed, Unavailable
from wormspace.runtime.retrying import PAUSE_S
from wormspace.writer.settling import settle_range

SIZE = 8


def junk(offset):
    return b"junk %d" % offset


def settling(work):
    """Run `work(segment, watch)`, of a segment of which register 3 is written."""

    async def run(worm):
        segment = await worm.space("s").alloc(size=SIZE)
        await segment.settle(3, b"there")
        await work(segment, Watch(worm))

    virtually(run)


def test_all_of_a_range_is_decided_and_nothing_beyond_it():
    async def work(segment, watch):
        await settle_range(segment, 1, 6, junk)
        assert watch.counts() == {"capture": 1, "write": 4}
        written = [None, junk(1), junk(2), b"there", junk(4), junk(5), None, None]
        assert await segment.read_range() == written
        watch.clear()
        await settle_range(segment, 1, 6, lambda _: b"other")
        assert watch.counts() == {"capture": 1}
        assert await segment.read_range() == written

    settling(work)


def test_who_loses_a_race_pauses_and_takes_it_all_again_until_the_deadline():
    async def work(segment, watch):
        loop, captured = asyncio.get_running_loop(), []
        losses = [CaptureLost("quicker"), AlreadyWritten("there", b"x"), CaptureLost("quicker")]

        def lose(name, given):
            if name == "capture":
                captured.append(loop.time())
            if name == "write" and given[2] == 5 and losses:
                raise losses.pop()

        watch.before = lose
        await settle_range(segment, 4, 7, junk, 5)
        assert await segment.read_range(4, 7) == [junk(4), junk(5), junk(6)]
        pauses = [b - a for a, b in itertools.pairwise(captured)]
        assert len(pauses) == 3
        assert all(0 < pause <= PAUSE_S[0] * 2**k for k, pause in enumerate(pauses))
        assert len(set(pauses)) == 3, "two who race do not go on racing"
        losses += [CaptureLost("quicker")] * 1000
        began = loop.time()
        segment = await segment.space.alloc(size=SIZE)
        with pytest.raises(Unavailable, match=r"settling s/1: other clients captured it again"):
            await settle_range(segment, 0, SIZE, junk, 3)
        assert loop.time() - began == pytest.approx(3)
        assert max(b - a for a, b in itertools.pairwise(captured)) <= PAUSE_S[1]

    settling(work)


@pytest.mark.parametrize("error", [Unavailable("none"), Trimmed("gone")])
def test_what_cannot_be_decided_is_told(error):
    async def work(segment, watch):
        def refuse(name, given):
            if name == "write" and given[2] == 1:
                raise error

        watch.before = refuse
        with pytest.raises(type(error)):
            await settle_range(segment, 0, 3, junk)

    settling(work)
