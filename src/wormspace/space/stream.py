"""A sequence of items that one consumer takes one by one, and may stop waiting for at any time.

An asynchronous generator ends for good when somebody cancels a wait for its next item, and a
time-out is a cancellation: a consumer that waits "for an event, or a second" would hear one silence
and nothing ever after.  So whatever delivers events is a `Stream`: a wait that is given up loses
nothing, and the next one goes on from there.

    class Numbers(Stream[int]):
        async def _more(self) -> None:
            number = await self._source.get()   # cancelled here, nothing has changed
            self._items.append(number)          # from here on there is no await
"""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Generic, Self, TypeVar

from wormspace.errors import UsageError
from wormspace.runtime.closing import Closing

T = TypeVar("T")


class Stream(Closing, ABC, Generic[T]):
    """An asynchronous iterator that survives being cancelled; close it, or use it in `async with`.

    It ends (`StopAsyncIteration`) when it was closed, or at its real end.  An error is raised once,
    and closes it.  A stream that is dropped is closed, too.

    A subclass provides `_more`.

    Args:
        release: lets go of what the stream holds, and makes a `_more` that waits end soon.  Called
            once, on the stream's loop.  It must not refer to the stream: that would keep it alive.
        of: what it is a stream of, for people.
    """

    def __init__(self, release: Callable[[], object], of: str = "") -> None:
        self._of = of
        self._items: deque[T] = deque()
        self._loop = asyncio.get_running_loop()
        self._is_over = False
        self._is_waited_for = False
        self._release = release
        self._dropped = weakref.finalize(
            self, _release_soon, self._loop, contextvars.copy_context(), release
        )
        self._dropped.atexit = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._of}{', closed' if self._is_over else ''}>"

    @abstractmethod
    async def _more(self) -> None:
        """Put what comes next into `self._items`; returning without any is allowed.

        It may be cancelled at each of its awaits, and is called again then: it remembers what it
        has done only when it has what it waited for.

        Raises:
            StopAsyncIteration: nothing will come any more.
        """

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """The next item.

        Raises:
            UsageError: somebody else waits for it, or the stream belongs to another event loop.
        """
        if self._items:
            return self._items.popleft()
        self._check_consumer()
        self._is_waited_for = True
        try:
            while not self._is_over:
                await self._more()
                if self._items:
                    return self._items.popleft()
        except Exception:
            self._close()
            raise
        finally:
            self._is_waited_for = False
        raise StopAsyncIteration

    def _check_consumer(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise UsageError("a stream is read on the event loop on which it was opened")
        if self._is_waited_for:
            raise UsageError("somebody waits for the next item already: a stream has one consumer")

    async def close(self) -> None:
        """End the stream: who waits for an item is told so.  Harmless when repeated."""
        self._close()

    def _close(self) -> None:
        self._is_over = True
        self._items.clear()
        if self._dropped.detach():
            self._release()


def _release_soon(
    loop: asyncio.AbstractEventLoop, context: contextvars.Context, release: Callable[[], object]
) -> None:
    """Nobody has the stream any more; the collector may run in any thread."""
    try:
        loop.call_soon_threadsafe(release, context=context)
    except RuntimeError:
        pass  # the loop is closed, and all that was on it gone
