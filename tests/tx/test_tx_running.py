"""Running a transaction again and again: when, after which pause, and until when."""

from __future__ import annotations

import asyncio
import random

import pytest

import wormspace
from wormspace.errors import UsageError
from wormspace.runtime.retrying import PAUSE_S
from wormspace.sim import World
from wormspace.tx import TimedOut
from wormspace.tx.deciding import ABORTED, Decision
from wormspace.tx.errors import Aborted, Conflict
from wormspace.tx.transaction import Transaction, run_transaction


class Attempt(Transaction):
    """A transaction of nobody, whose block ends as it may."""

    def __init__(self, ends: list[object]) -> None:
        self.ends, self._participants = ends, {}

    async def __aenter__(self):
        self.ends.append("begun")
        return self

    async def __aexit__(self, kind, error, traceback) -> None:
        self.ends.append("committed" if error is None else type(error).__name__)


class Dice(random.Random):
    """Always the longest pause; notes all."""

    def __init__(self) -> None:
        super().__init__(0)
        self.pauses: list[float] = []

    def uniform(self, least: float, most: float) -> float:
        assert least == 0
        self.pauses.append(most)
        return most


def run(work, *, timeout: float = 30.0):
    """What came of it in virtual time: a result or an error, the time, pauses and ends."""
    dice, ends = Dice(), []
    with World(0) as world:

        async def main():
            await asyncio.sleep(1000)  # a deadline is not a number of seconds
            began = asyncio.get_running_loop().time()
            try:
                result = await run_transaction(
                    lambda: Attempt(ends), work, timeout=timeout, rng=dice
                )
            except (wormspace.WormError, ValueError, TimeoutError) as e:
                result = e
            return result, asyncio.get_running_loop().time() - began

        return *world.run(main()), dice.pauses, ends


@pytest.mark.parametrize(
    "error", [Conflict("a lock"), Aborted("full", Decision(ABORTED, conflict=True))]
)
def test_it_is_run_again_after_pauses_that_grow_to_a_bound(error) -> None:
    left = [error] * 10

    async def work(t: Attempt) -> str:
        assert isinstance(t, Attempt)
        if left:
            raise left.pop()
        return "done"

    result, lasted, pauses, ends = run(work)
    expected = [PAUSE_S[0] * 2**n for n in range(6)] + [PAUSE_S[1]] * 4
    assert (result, pauses) == ("done", expected)
    assert lasted == pytest.approx(sum(expected))
    assert ends == ["begun", type(error).__name__] * 10 + ["begun", "committed"]


def test_another_kind_of_error_is_raised_at_once() -> None:
    for error in (
        ValueError("mine"),
        TimeoutError("mine"),
        TimedOut("of another one"),
        Aborted("full", Decision(ABORTED)),
    ):

        async def work(t: Attempt, error=error) -> None:
            raise error

        result, lasted, pauses, ends = run(work)
        assert result is error
        assert (lasted, pauses, len(ends)) == (0, [], 2)


def test_the_last_conflict_is_raised_when_no_time_is_left_for_another_run() -> None:
    async def work(t: Attempt) -> None:
        await asyncio.sleep(0.2)
        raise Conflict(f"at {asyncio.get_running_loop().time():.4f}")

    result, lasted, pauses, _ = run(work, timeout=0.6065)
    assert isinstance(result, Conflict)
    assert (len(pauses), lasted) == (2, pytest.approx(0.606))
    result, lasted, pauses, _ = run(work, timeout=0.6145)
    assert isinstance(result, TimedOut)
    assert (len(pauses), lasted) == (3, pytest.approx(0.6145))


def test_what_is_cut_short_says_so_and_after_how_long() -> None:
    async def work(t: Attempt) -> None:
        await asyncio.sleep(60)

    result, lasted, pauses, ends = run(work, timeout=2.5)
    assert isinstance(result, TimedOut)
    assert str(result) == "not done within 2.5 s, and rolled back"
    assert isinstance(result.__cause__, TimeoutError)
    assert (lasted, pauses, ends) == (2.5, [], ["begun", "CancelledError"])


def test_a_time_limit_of_the_work_itself_is_not_that_of_the_run() -> None:
    async def work(t: Attempt) -> None:
        async with asyncio.timeout(1):
            await asyncio.sleep(60)

    result, lasted, _, _ = run(work)
    assert (type(result), lasted) == (TimeoutError, 1)


async def test_what_is_to_be_run_is_checked() -> None:
    async def work(t: Transaction) -> None:
        pass

    def begin() -> Attempt:
        return Attempt([])

    for given, named, says in (
        ((begin, work), {"timeout": 0}, "a timeout is a number of seconds"),
        ((begin, None), {}, "`work` is a function, not None"),
        ((begin, work), {"rng": 7}, "random"),
    ):
        with pytest.raises(UsageError, match=says):
            await run_transaction(*given, **named)
