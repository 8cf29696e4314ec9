"""What connections hold, within a limit, in virtual time: who is read, and who has to go."""

from __future__ import annotations

import asyncio
import random

import pytest

from wires import simulated
from wormspace.wire.inflow import Inflow

LIMIT, PATIENCE_S = 100, 3.0


class Holder:
    """A connection that notes when it is looked at, and when it is evicted."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.looks, self.evicted = 0, []

    def read_or_pause(self) -> None:
        self.looks += 1

    def evict(self) -> None:
        self.evicted.append(asyncio.get_running_loop().time())


def held(count: int) -> tuple[Inflow, list[Holder]]:
    holders = [Holder(f"{i}") for i in range(count)]
    return Inflow(LIMIT, PATIENCE_S, holders), holders


@pytest.mark.parametrize("seed", range(5))
def test_above_the_limit_one_is_read_the_one_that_began_first(seed: int) -> None:
    async def work():
        rng = random.Random(seed)
        inflow, holders = held(4)
        model: dict[Holder, int] = {}  # in the order in which they began
        turn = None
        for _ in range(200):
            holder, size = rng.choice(holders), rng.choice((0, 0, 10, 50, 60))
            looks = [each.looks for each in holders]
            if size:
                model[holder] = size
            else:
                model.pop(holder, None)
            inflow.holds(holder, size)
            total = sum(model.values())
            before, turn = turn, next(iter(model)) if total > LIMIT else None
            assert inflow.bytes == total
            assert [inflow.may_read(h) for h in holders] == [turn in (None, h) for h in holders]
            looked = [each.looks - n for each, n in zip(holders, looks, strict=True)]
            assert looked == [int(turn is not before)] * 4
            assert (inflow._timer is not None) == (turn is not None)

    simulated(work)


def test_whoever_holds_the_most_goes_when_nothing_became_less_for_a_while() -> None:
    async def work():
        inflow, (first, largest, other) = held(3)
        now = asyncio.get_running_loop().time
        began = now()
        inflow.holds(first, 40)
        inflow.holds(largest, 50)
        await asyncio.sleep(10 * PATIENCE_S)
        inflow.holds(other, 11)  # above the limit
        above = now()
        await asyncio.sleep(PATIENCE_S / 2)
        inflow.holds(other, 12)  # more is no progress
        inflow.holds(other, 12)
        await asyncio.sleep(PATIENCE_S / 2 + 0.01)
        assert largest.evicted == [pytest.approx(above + PATIENCE_S)]
        assert (inflow.bytes, inflow._timer, inflow.may_read(other)) == (52, None, True)
        inflow.holds(largest, 0)  # it is gone: that is known
        inflow.holds(first, 90)
        above = now()
        await asyncio.sleep(PATIENCE_S / 2)
        inflow.holds(first, 89)  # less, and still too much: once more as long
        await asyncio.sleep(PATIENCE_S / 2 + 0.01)
        assert first.evicted == []
        await asyncio.sleep(PATIENCE_S / 2)
        assert first.evicted == [pytest.approx(above + 1.5 * PATIENCE_S)]
        inflow.holds(other, 101)
        inflow.holds(other, 100)
        await asyncio.sleep(10 * PATIENCE_S)
        assert other.evicted == []
        assert began < now()

    simulated(work)


def test_one_after_the_other_goes_until_there_is_room() -> None:
    async def work():
        inflow, holders = held(4)
        for size, holder in zip((90, 80, 70, 60), holders, strict=True):
            inflow.holds(holder, size)
        await asyncio.sleep(10 * PATIENCE_S)
        times = [each.evicted for each in holders]
        assert [len(each) for each in times] == [1, 1, 1, 0]
        assert times[1][0] - times[0][0] == pytest.approx(PATIENCE_S)
        assert inflow.bytes == 60

    simulated(work)
