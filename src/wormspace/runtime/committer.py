"""A thread that waits for the disk, so that the event loop does not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue


class Committer:
    """Runs one piece of work after the other in a thread of its own.

    An executor would do, at three times the CPU per hand-over (docs/performance.md).
    """

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[tuple[Callable[[], None], asyncio.Future[None]] | None] = (
            SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], None]) -> None:
        """Run `work` in the thread; raises what it raises."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._work.put((work, done))
        await done

    def stop(self) -> None:
        """End the thread; nothing may be under way."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            work, done = item
            error: BaseException | None = None
            try:
                work()
            except BaseException as e:  # noqa: BLE001 - it is the waiting task's to handle
                error = e
            with suppress(RuntimeError):  # that loop has ended, and nobody waits there
                done.get_loop().call_soon_threadsafe(_finish, done, error)


def _finish(done: asyncio.Future[None], error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
