"""One call's time: how long each attempt and each pause may be, and what is said at the end."""

import asyncio
from types import SimpleNamespace

import pytest

from virtual import virtually
from wormspace.smr import NoLeader
from wormspace.smr.trying import ATTEMPT_S, PAUSE_MAX_S, PAUSE_MIN_S, Trying

DICE = SimpleNamespace(uniform=lambda low, high: (low, high) == (0.5, 1) and 0.75)


def trying(work, seconds=10.0):
    async def run(worm):
        loop = asyncio.get_running_loop()
        await asyncio.sleep(100)
        await work(Trying("thing", loop.time() + seconds, DICE), loop)

    virtually(run)


def test_an_attempt_takes_no_longer_than_one_may_and_than_what_is_left():
    async def work(one, loop):
        assert (one.remaining(), one.attempt_s()) == (10.0, ATTEMPT_S)
        await asyncio.sleep(9.5)
        assert (one.remaining(), one.attempt_s()) == (0.5, 0.5)

    trying(work)


def test_pauses_grow_to_the_longest_and_end_with_the_time():
    async def work(one, loop):
        taken = []
        for _ in range(8):
            before = loop.time()
            await one.pause()
            taken.append(loop.time() - before)
        grown = [min(PAUSE_MIN_S * 2**n, PAUSE_MAX_S) * 0.75 for n in range(8)]
        assert taken == pytest.approx(grown)
        await asyncio.sleep(one.remaining() - 0.01)
        before = loop.time()
        await one.pause()
        assert loop.time() - before == pytest.approx(0.01)
        await one.pause()
        assert loop.time() - before == pytest.approx(0.01)

    trying(work)


@pytest.mark.parametrize(
    ("asked", "trouble", "said"),
    [
        (None, None, "nobody was asked in time"),
        ("h:1", "it does not lead", "h:1: it does not lead"),
        ("", "nobody is known to lead", "nobody is known to lead"),
        ("h:1", TimeoutError(), "h:1: TimeoutError"),
        ("h:1", ValueError("no"), "h:1: no"),
    ],
)
def test_when_the_time_is_over_it_says_who_was_asked_last_and_what_came_of_it(asked, trouble, said):
    async def work(one, loop):
        if asked is not None:
            one.failed("somebody", "something")
            one.failed(asked, trouble)
        for seconds in (3, 1):  # at its end, and after it
            await asyncio.sleep(seconds)
            for ask in (one.remaining, one.attempt_s):
                with pytest.raises(NoLeader) as error:
                    ask()
                assert str(error.value) == (
                    f"thing: no answer in time ({said}); whether it was done is unknown"
                )

    trying(work, seconds=3.0)
