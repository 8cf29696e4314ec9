"""Locks, against a plain model; and what is done whole."""

from __future__ import annotations

import asyncio
import random

import pytest

from wormspace import tx
from wormspace.tx import locks
from wormspace.tx.errors import Conflict
from wormspace.tx.locks import Locks, Owner

OWNERS, KEYS = 3, 2


@pytest.mark.parametrize("seed", range(25))
def test_a_lock_is_had_by_many_who_read_or_one_who_writes(seed: int) -> None:
    rng = random.Random(seed)
    done = [(rng.randrange(OWNERS), rng.randrange(-1, KEYS), rng.random() < 0.4) for _ in range(12)]
    held, owners = Locks(), [Owner() for _ in range(OWNERS)]
    model: dict[tuple[int, int], bool] = {}
    for who, key, exclusive in done:
        name = b"%d" % key
        if key < 0:
            held.release(owners[who])
            model = {at: value for at, value in model.items() if at[0] != who}
        else:
            others = {
                other
                for (other, of), mode in model.items()
                if of == key and other != who and (exclusive or mode)
            }
            found = held.in_the_way(owners[who], name, exclusive)
            assert {owners.index(owner) for owner in found} == others
            assert len(found) == len(others)
            if not others:
                model[who, key] = exclusive or model.get((who, key), False)
        for n, owner in enumerate(owners):
            mine = {b"%d" % key: mode for (other, key), mode in model.items() if other == n}
            assert owner.held == mine
    for owner in owners:
        held.release(owner)
    assert held._holders == {}  # what is locked no more takes no memory


async def test_who_meets_a_lock_gives_up_at_once_unless_it_is_about_to_go(monkeypatch) -> None:
    monkeypatch.setattr(locks, "PREPARED_WAIT_S", 3600)
    held, first, second, third = Locks(), Owner(), Owner(), Owner()
    await held.acquire(first, b"k", exclusive=False)
    await held.acquire(second, b"k", exclusive=False)
    with pytest.raises(Conflict, match="b'k' is locked"):
        await asyncio.wait_for(held.acquire(third, b"k", exclusive=True), 5)
    first.prepared = True
    with pytest.raises(Conflict):  # one of two is not prepared
        await asyncio.wait_for(held.acquire(third, b"k", exclusive=True), 5)
    second.prepared = True
    waiting = asyncio.ensure_future(held.acquire(third, b"k", exclusive=True))
    await asyncio.sleep(0)
    held.release(first)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    held.release(second)
    held.release(second)
    await asyncio.wait_for(waiting, 5)
    assert third.held == {b"k": True}
    assert second.held == {}


async def test_a_prepared_branch_that_stays_is_waited_for_so_long(monkeypatch) -> None:
    monkeypatch.setattr(locks, "PREPARED_WAIT_S", 0.02)
    held, first, second = Locks(), Owner(), Owner()
    held.take(first, b"k", exclusive=True)
    first.prepared = True
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(Conflict):
        await held.acquire(second, b"k", exclusive=False)
    assert loop.time() - began > 0.019
    assert second.held == {}
    first.prepared = False
    monkeypatch.setattr(locks, "PREPARED_WAIT_S", 3600)
    with pytest.raises(Conflict):
        await asyncio.wait_for(held.acquire(second, b"k", exclusive=False), 5)


async def test_all_who_wait_for_a_lock_hear_that_it_went() -> None:
    held, first, second, third = Locks(), Owner(), Owner(), Owner()
    held.take(first, b"k", exclusive=True)
    first.prepared = True
    both = asyncio.gather(*(held.acquire(o, b"k", exclusive=False) for o in (second, third)))
    await asyncio.sleep(0)
    held.release(first)
    await asyncio.wait_for(both, locks.PREPARED_WAIT_S / 2)
    assert second.held == third.held == {b"k": False}


async def test_who_waits_gives_up_when_somebody_else_takes_the_lock_first() -> None:
    held, first, second, third = Locks(), Owner(), Owner(), Owner()
    held.take(first, b"k", exclusive=True)
    first.prepared = True
    waiting = asyncio.ensure_future(held.acquire(second, b"k", exclusive=True))
    await asyncio.sleep(0)
    held.release(first)
    held.take(third, b"k", exclusive=True)
    with pytest.raises(Conflict):
        await waiting


# ---------------------------------------------------------------- to the end


async def test_a_cancellation_strikes_after_what_must_be_done_whole() -> None:
    done = []

    async def work() -> str:
        await asyncio.sleep(0.001)
        await asyncio.sleep(0.001)
        done.append("work")
        return "result"

    async def user() -> None:
        done.append(await tx.cancelling.to_the_end(work()))
        await asyncio.sleep(3600)
        done.append("too far")

    task = asyncio.ensure_future(user())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["work", "result"]
    assert await tx.cancelling.to_the_end(work()) == "result"
    await asyncio.sleep(0.001)  # nobody cancelled this one


async def test_a_cancellation_that_was_taken_back_strikes_no_more() -> None:
    async def work() -> str:
        await asyncio.sleep(0.005)
        return "result"

    async with asyncio.timeout(0.001):
        assert await tx.cancelling.to_the_end(work()) == "result"
    await asyncio.sleep(0.001)
    assert not asyncio.current_task().cancelling()


async def test_who_was_not_cancelled_meanwhile_is_not_cancelled_later() -> None:
    async def block() -> str:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            pass  # it is the block's to go on
        assert await tx.cancelling.to_the_end(asyncio.sleep(0, "done")) == "done"
        await asyncio.sleep(0.001)
        return "not cancelled"

    task = asyncio.ensure_future(block())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "not cancelled"
