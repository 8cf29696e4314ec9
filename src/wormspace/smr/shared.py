"""One answer for all who ask at about the same time.

A leader that answers a thousand questions asks a majority of the servers once.  Whoever asks while
an answer is being found is told the next one: the one under way may have been true only before the
question.

An answer is what the finder *returned*, and nothing else is one: an error, of whatever kind, is
every asker's error, and a cancelled finder leaves nobody with an answer.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from wormspace.runtime.tasks import Tasks
from wormspace.smr.replica_context import NotLeading

T = TypeVar("T")


class Shared(Generic[T]):
    """Finds answers, one at a time, each for all who have asked since the one before began.

    Args:
        find: finds an answer; begins after the questions that it answers.
    """

    def __init__(self, find: Callable[[], Awaitable[T]]) -> None:
        self._find = find
        self._loop = asyncio.get_running_loop()
        # Finding is for all who ask: it runs in nobody's own context.
        self._tasks = Tasks("an answer for many", contextvars.copy_context())
        self._asking: list[asyncio.Future[T]] = []
        self._ended = False

    async def ask(self) -> T:
        """An answer that was true at some moment from now on.

        Raises:
            NotLeading: `end` was called.
            Exception: whatever the finder raises.
        """
        if self._ended:
            raise NotLeading("this replica has lost its place")
        future: asyncio.Future[T] = self._loop.create_future()
        self._asking.append(future)
        if not self._tasks:
            self._begin()
        return await future

    def _begin(self) -> None:
        self._tasks.spawn(self._answer_all(), self._on_done)

    def end(self) -> None:
        """Find no more; whoever asks is told `NotLeading`."""
        self._ended = True
        self._tasks.cancel()
        _fail(self._asking, NotLeading("this replica has lost its place"))

    async def _answer_all(self) -> None:
        while self._asking:
            await asyncio.sleep(0)  # let the questions of this turn come together
            asking, self._asking = self._asking, []
            try:
                answer = await self._find()
            except asyncio.CancelledError:
                _fail(asking, NotLeading("this replica has lost its place"))
                raise
            except Exception as e:  # noqa: BLE001 - whatever it is, it is no answer
                _fail(asking, e)
            else:
                for future in asking:
                    if not future.done():
                        future.set_result(answer)

    def _on_done(self, finding: asyncio.Task[None]) -> None:
        if self._asking and not self._ended:  # asked when the last answer had just been given
            self._begin()


def _fail(asking: list[asyncio.Future[T]], error: Exception) -> None:
    for future in asking:
        if not future.done():
            future.set_exception(error)
