"""Work that outlives whoever waits for it: begun once, joined by all, ended by its owner."""

import asyncio
import contextvars
import logging

import pytest

from virtual import virtually
from wormspace.errors import Unavailable
from wormspace.log.errors import Deposed
from wormspace.log.ongoing import Ongoing

CALLER = contextvars.ContextVar("CALLER", default="nobody")


class Work:
    """Work that ends when the test says; `begun`: how often it was begun, and by whom."""

    def __init__(self):
        self.begun, self.over = [], asyncio.get_running_loop().create_future()

    async def __call__(self):
        self.begun.append(CALLER.get())
        return await self.over


async def soon(awaitable):
    """A task that has come as far as it can."""
    task = asyncio.ensure_future(awaitable)
    await asyncio.sleep(1)
    return task


def working(test):
    """Run a test with some work, and a place for it."""

    def run():
        async def main(worm):
            await test(Ongoing("the next one"), Work())

        virtually(main)

    run.__name__ = test.__name__
    return run


@working
async def test_all_who_want_it_get_what_one_work_comes_to(ongoing, work):
    assert not ongoing.is_under_way
    callers = [await soon(ongoing.join(work)) for _ in range(3)]
    assert ongoing.is_under_way
    assert ongoing.begin(work) is ongoing.begin(work)
    work.over.set_result(7)
    assert await asyncio.gather(*callers) == [7, 7, 7]
    assert not ongoing.is_under_way
    assert len(work.begun) == 1
    assert await ongoing.join(work) == 7
    assert len(work.begun) == 2, "what is over is begun anew"


@working
async def test_a_caller_that_gives_up_leaves_it_to_the_others(ongoing, work):
    first, second = await soon(ongoing.join(work)), await soon(ongoing.join(work))
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    assert (ongoing.is_under_way, second.done()) == (True, False)
    second.cancel()
    await asyncio.wait([second])
    work.over.set_result(7)
    assert await (await soon(ongoing.join(work))) == 7


def test_it_belongs_to_nobody_who_begins_it():
    async def main(worm):
        ongoing, work = Ongoing("the next one"), Work()
        CALLER.set("somebody")
        caller = await soon(ongoing.join(work))
        assert work.begun == ["nobody"]
        work.over.set_result(None)
        await caller

    virtually(main)


def test_why_it_failed_is_told_to_those_who_wait_and_logged(caplog):
    caplog.set_level(logging.INFO, "wormspace.log")

    async def main(worm):
        ongoing, work = Ongoing("the next one"), Work()
        callers = [await soon(ongoing.join(work)) for _ in range(2)]
        work.over.set_exception(Unavailable("no majority"))
        await asyncio.wait(callers)
        assert [str(caller.exception()) for caller in callers] == ["no majority"] * 2
        assert not ongoing.is_under_way

    virtually(main)
    assert caplog.messages == ["the next one: not yet: no majority"]


@pytest.mark.parametrize("how", ["stop", "close"])
def test_where_it_is_ended_it_has_ended_and_those_who_wait_are_told(how, caplog):
    caplog.set_level(logging.INFO, "wormspace.log")

    async def main(worm):
        ongoing, work = Ongoing("the next one"), Work()
        await getattr(ongoing, how)()
        ongoing = Ongoing("the next one")
        caller = await soon(ongoing.join(work))
        task = ongoing.begin(work)
        await getattr(ongoing, how)()
        assert task.cancelled()
        assert work.over.cancelled()
        with pytest.raises(Deposed, match="the next one was given up"):
            await caller
        assert not ongoing.is_under_way

    virtually(main)
    assert caplog.messages == []


@working
async def test_what_was_stopped_can_be_begun_again(ongoing, work):
    await soon(ongoing.join(work))
    await ongoing.stop()
    work.over = asyncio.get_running_loop().create_future()
    work.over.set_result(7)
    assert await ongoing.join(work) == 7


@working
async def test_what_was_closed_is_not_begun(ongoing, work):
    await ongoing.close()
    with pytest.raises(Deposed, match="the next one: closed meanwhile"):
        await ongoing.join(work)
    with pytest.raises(Deposed):
        ongoing.begin(work)
    assert (work.begun, ongoing.is_under_way) == ([], False)
