"""What a plain program does by mistake with `wormspace.sync` is told, and nothing hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import wormspace.sync
from wormspace import UsageError
from wormspace.smr import Counter, Lock


@pytest.fixture
def worm() -> Iterator[wormspace.sync.Worm]:
    with wormspace.sync.connect("memory:", timeout=5) as worm:
        yield worm


def test_a_call_that_waits_on_its_own_loop_is_refused(worm: wormspace.sync.Worm) -> None:
    """It would wait for ever for the loop that it stops."""
    space = worm.space("orders")
    lock = worm.replicate(Lock, "lock")

    async def calls() -> None:
        for call in (
            space.tail,
            worm.close,
            lambda: next(space.listen()),
            wormspace.sync.holding(lock, "ann").__enter__,
        ):
            with pytest.raises(UsageError, match="own event loop"):
                call()

    worm.run(calls)
    assert space.tail() == 0


def test_run_says_what_it_takes(worm: wormspace.sync.Worm) -> None:
    coroutine = asyncio.sleep(0)
    with pytest.raises(UsageError, match=r"takes a function, as in run\(lambda"):
        worm.run(coroutine)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="what can be awaited, not for 5"):
        worm.run(lambda: 5)  # type: ignore[arg-type, return-value]


def test_what_a_plain_program_holds_says_what_it_is(worm: wormspace.sync.Worm) -> None:
    lock = worm.replicate(Lock, "lock")
    with worm.space("orders").listen() as stream:
        assert repr(stream) == "<Follower of space 'orders' from 0/0>"
    assert repr(wormspace.sync.holding(lock, "ann")) == "<Block on <Worm 'memory:'>>"


def test_a_wrong_call_of_a_command_is_told_by_its_name(worm: wormspace.sync.Worm) -> None:
    with worm.replicate(Counter, "hits") as hits:
        with pytest.raises(TypeError, match=r"^Counter\.add\(\) takes from 0 to 1 positional"):
            hits.add(1, 2, 3)
        with pytest.raises(TypeError, match=r"^Counter\.add\(\) got an unexpected keyword"):
            hits.add(amounts=2)


def test_a_store_that_is_open_here_too_is_told_so(tmp_path: Path) -> None:
    with (
        wormspace.sync.connect(f"file:{tmp_path}"),
        pytest.raises(wormspace.StoreLocked, match="in another process or in this one"),
    ):
        wormspace.sync.connect(f"file:{tmp_path}")
