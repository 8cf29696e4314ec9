"""What `wormspace.sync` stands on: one event loop in a thread of its own per connection.

A call hands a coroutine to that loop and waits for it.  Calls from several threads at once are
under way at once; closing makes those that wait, and those that come later, raise `Closed`.  The
thread is a daemon, so a connection that nobody closed does not keep the interpreter alive.

A fork copies the connection and not its thread.  In the child every call raises `Closed`, and says
that the child needs a connection of its own; the parent's is not touched.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from wormspace.errors import Closed
from wormspace.space import Stream
from wormspace.worm import Worm

T = TypeVar("T")


_here: weakref.WeakSet[Background] = weakref.WeakSet()
"""The backgrounds whose threads run in this process."""


def _after_fork() -> None:
    for background in list(_here):
        background.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Background:
    """An event loop in a daemon thread, and the client that lives on it."""

    client: Worm

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._gate = threading.Lock()
        self._closed = False
        self._why = "the client is closed"
        _here.add(self)
        self._thread = threading.Thread(target=self._run, name="wormspace-sync", daemon=True)
        self._thread.start()

    @classmethod
    def connect(cls, connecting: Callable[[], Coroutine[Any, Any, Worm]]) -> Background:
        """A background whose client is what `connecting` makes; nothing is left if it raises."""
        background = cls()
        try:
            background.client = background.call(connecting)
        except BaseException:
            background._shut_down()
            raise
        return background

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def submit(self, make: Callable[[], Coroutine[Any, Any, T]]) -> concurrent.futures.Future[T]:
        """Start what `make` makes on the loop.

        Raises:
            Closed: the client was closed before.
        """
        with self._gate:
            if self._closed:
                raise Closed(self._why)
            return asyncio.run_coroutine_threadsafe(make(), self._loop)

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run what `make` makes to its end, and return what it returns.

        An exception that arrives in the waiting thread, such as Ctrl-C, cancels it.
        """
        future = self.submit(make)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Closed("the client was closed") from None
        except BaseException:
            future.cancel()
            raise

    def post(self, what: Callable[[], object]) -> None:
        """Run `what` on the loop some time soon, if it still turns."""
        with self._gate:
            if not self._closed:
                self._loop.call_soon_threadsafe(what)

    def abandon(self) -> None:
        """This process is a child, without the thread: nothing may wait for it any more."""
        self._gate = threading.Lock()  # the parent's other threads may have held the old one
        self._closed = True
        self._why = (
            "this process was forked from the one that connected; connect again here, in the child"
        )

    def close(self) -> None:
        """Close the client, end what is under way, and end the thread; harmless when repeated."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
            closing = asyncio.run_coroutine_threadsafe(self.client.close(), self._loop)
        try:
            closing.result()
        finally:
            self._shut_down()

    def _shut_down(self) -> None:
        with self._gate:
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _finish(self) -> None:
        """Whoever still waits is told, and generators run their last lines."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:  # they were told by the client's close, and get a moment to say so
            _, late = await asyncio.wait(others, timeout=1.0)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)
        await self._loop.shutdown_asyncgens()


class Feed(Iterator[T], Generic[T]):
    """What a `listen` delivers, one after another, without end.

    Close it, or use it in a `with`.  Waiting for the next item can be given up (with Ctrl-C, or
    with the timeout of `wait`) and taken up again: none is lost.  `close` may be called from
    another thread; the iteration ends then.
    """

    def __init__(self, background: Background, start: Callable[[], Stream[T]]) -> None:
        async def starting() -> Stream[T]:
            return start()

        self._background = background
        self._source = background.call(starting)
        self._turn = threading.Lock()
        self._pending: concurrent.futures.Future[T] | None = None
        self._over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return self._next(None)

    def wait(self, timeout: float) -> T | None:
        """The next item, or None if there is none within `timeout` seconds."""
        try:
            return self._next(timeout)
        except TimeoutError:
            return None

    def _next(self, timeout: float | None) -> T:
        with self._turn:
            if self._over:
                raise StopIteration
            if self._pending is None:
                self._pending = self._background.submit(self._pull)
            pending = self._pending
            try:
                item = pending.result(timeout)
            except concurrent.futures.CancelledError:
                self._over = True
                raise StopIteration from None
            except StopAsyncIteration:
                self._over = True
                raise StopIteration from None
            except BaseException:
                if pending.done():
                    self._pending = None
                raise
            self._pending = None
            return item

    async def _pull(self) -> T:
        return await anext(self._source)

    def close(self) -> None:
        """Stop listening; the subscription ends.  Harmless when repeated."""
        self._over = True
        pending = self._pending
        if pending is not None:
            pending.cancel()
        try:
            self._background.call(self._source.close)
        except Closed:
            pass
