"""Work that outlives whoever waits for it.

To take over is many steps, and each caller has only so much time.  Were the work the caller's own,
its time-out would throw the work away, and the next caller would begin it anew: where the work
takes longer than a call may, never would anybody get to the end of it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from wormspace.log.errors import Deposed
from wormspace.runtime.tasks import Tasks

log = logging.getLogger("wormspace.log")

T = TypeVar("T")


class Ongoing(Generic[T]):
    """One piece of work at a time: whoever wants it joins what is under way, or begins it.

    It has no time-out of its own: what it calls has.

    Args:
        what: what is done, for people; logged if it fails and nobody waits.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        # It is for all who will join it: it runs in nobody's own context.
        self._tasks = Tasks(what, contextvars.copy_context())
        self._task: asyncio.Task[T] | None = None
        self._closed = False

    @property
    def is_under_way(self) -> bool:
        """Whether it was begun, and has not ended."""
        return self._task is not None

    def begin(self, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Begin the work, if none is under way; nobody needs to wait for it.

        Raises:
            Deposed: it was closed.
        """
        task = self._task
        if task is None:
            if self._closed:
                raise Deposed(f"{self._what}: closed meanwhile")
            task = self._task = self._tasks.spawn(work(), self._on_done)
        return task

    async def join(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the work comes to that is under way; `work` begins if none is.

        A caller that is cancelled leaves it to go on.

        Raises:
            Deposed: it was stopped, or closed.
            Exception: whatever it raises.
        """
        task = self.begin(work)
        await asyncio.wait([task])
        if task.cancelled():
            raise Deposed(f"{self._what} was given up")
        return task.result()

    async def stop(self) -> None:
        """End it where it is; it has ended when this returns."""
        await self._tasks.close()

    async def close(self) -> None:
        """End it where it is, and begin no other: who still wants it came too late."""
        self._closed = True
        await self.stop()

    def _on_done(self, task: asyncio.Task[T]) -> None:
        self._task = None
        if not task.cancelled() and task.exception() is not None:
            log.info("%s: not yet: %s", self._what, task.exception())
