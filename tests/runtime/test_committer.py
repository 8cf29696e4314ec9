"""The thread that waits for the disk outlives the event loops that ask it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from wormspace.runtime.committer import Committer


def test_a_loop_that_ends_while_the_thread_works_costs_the_thread_nothing() -> None:
    committer = Committer("one thread")
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait()

    async def begin() -> None:
        task = asyncio.ensure_future(committer.run(work))
        await asyncio.sleep(0)
        assert begun.wait(10)
        task.cancel()

    async def fail() -> None:
        with pytest.raises(OSError, match="no disk"):
            await committer.run(raising)
        done: list[int] = []
        await committer.run(lambda: done.append(threading.get_ident()))
        assert done != [threading.get_ident()]

    def raising() -> None:
        raise OSError("no disk")

    asyncio.run(begin())
    go_on.set()
    asyncio.run(asyncio.wait_for(fail(), 10))
    committer.stop()
