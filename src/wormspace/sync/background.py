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
import inspect
import os
import queue
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from wormspace import space
from wormspace.errors import Closed, UsageError
from wormspace.runtime.closing import Closing

A = TypeVar("A")
T = TypeVar("T")
C = TypeVar("C", bound=Closing)


_here: weakref.WeakSet[Background[Any]] = weakref.WeakSet()
"""The backgrounds whose threads run in this process."""


def _after_fork() -> None:
    for background in list(_here):
        background.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Background(Generic[C]):
    """An event loop in a daemon thread, and the client that lives on it."""

    client: C

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._gate = threading.Lock()
        self._closed = False
        self._why = "the client is closed"
        _here.add(self)
        self._thread = threading.Thread(target=self._run, name="wormspace-sync", daemon=True)
        self._thread.start()

    @classmethod
    def connect(cls, connecting: Callable[[], Coroutine[Any, Any, C]]) -> Background[C]:
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
            UsageError: it would wait for itself, on the loop.
        """
        with self._gate:
            if self._closed:
                raise Closed(self._why)
            self._require_another_thread()
            return asyncio.run_coroutine_threadsafe(make(), self._loop)

    def _require_another_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise UsageError(
                "this is the connection's own event loop, and would stop for ever in a call that "
                "waits for it; use another thread, or another connection"
            )

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

    def do(self, what: Callable[[], T]) -> T:
        """Run a plain function on the loop, and return what it returns."""

        async def doing() -> T:
            return what()

        return self.call(doing)

    def wait(self, make: Callable[[], Awaitable[T]]) -> T:
        """Run what `make` makes on the loop, a coroutine or any other awaitable, to its end.

        Raises:
            UsageError: it is no function, or makes nothing that can be awaited.
        """
        if not callable(make):
            if inspect.iscoroutine(make):
                make.close()
            raise UsageError(f"`run` takes a function, as in run(lambda: ...), not {make!r}")

        async def waiting() -> T:
            made = make()
            if not inspect.isawaitable(made):
                raise UsageError(f"`run` waits for what can be awaited, not for {made!r}")
            return await made

        return self.call(waiting)

    def call_with(
        self,
        run: Callable[[Callable[[A], Awaitable[T]]], Coroutine[Any, Any, T]],
        work: Callable[[A], T],
    ) -> T:
        """Run what `run` makes; what it awaits of its argument is `work`, done in this thread."""
        turns: queue.SimpleQueue[tuple[A, asyncio.Future[Callable[[], T]]] | None]
        turns = queue.SimpleQueue()

        async def handing(what: A) -> T:
            done: asyncio.Future[Callable[[], T]] = asyncio.get_running_loop().create_future()
            turns.put((what, done))
            return (await done)()

        future = self.submit(lambda: run(handing))
        future.add_done_callback(lambda _: turns.put(None))
        try:
            while (turn := turns.get()) is not None:
                outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
                try:
                    outcome.set_result(work(turn[0]))
                except Exception as e:  # noqa: BLE001 - whatever it is, the caller gets it
                    outcome.set_exception(e)
                self.do(partial(_answer, turn[1], outcome.result))
            return future.result()
        except concurrent.futures.CancelledError:
            raise Closed("the client was closed") from None
        except BaseException:
            future.cancel()
            raise

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
            self._require_another_thread()
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


def _answer(done: asyncio.Future[T], result: T) -> None:
    if not done.done():
        done.set_result(result)


class Block(Generic[T]):
    """An asynchronous block whose body runs in this thread: use it in a `with`.

    One task of the loop enters and leaves it.  A thread cannot be cancelled: a block that loses
    what it has, such as a lease, says so when its body ends.
    """

    def __init__(
        self, background: Background[Any], make: Callable[[], AbstractAsyncContextManager[T]]
    ) -> None:
        self._background = background
        self._make = make

    def __repr__(self) -> str:
        return f"<Block on {self._background.client!r}>"

    def __enter__(self) -> T:
        entered: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._task = self._background.submit(lambda: self._hold(entered))
        self._task.add_done_callback(lambda task: _fail(entered, task))
        try:
            return entered.result()
        except BaseException:
            self._task.cancel()
            raise

    async def _hold(self, entered: concurrent.futures.Future[T]) -> None:
        self._ending: asyncio.Future[BaseException | None] = asyncio.Future()
        async with self._make() as value:
            entered.set_result(value)
            error = await self._ending
            if isinstance(error, Exception) and not isinstance(error, StopIteration):
                raise error
            if error is not None:
                raise asyncio.CancelledError  # what a coroutine cannot raise, Ctrl-C for instance

    def _end(self, error: BaseException | None) -> None:
        if not self._ending.done():
            self._ending.set_result(error)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._background.do(lambda: self._end(error))
            self._task.result()
        except concurrent.futures.CancelledError:
            if error is None:
                raise Closed("the client was closed") from None
        except BaseException as e:
            if e is not error:
                raise


def _fail(entered: concurrent.futures.Future[Any], task: concurrent.futures.Future[None]) -> None:
    """The block has ended; if it was never entered, whoever enters it is told why."""
    if entered.done():
        return
    if task.cancelled():
        entered.set_exception(Closed("the client was closed"))
    else:
        entered.set_exception(task.exception() or Closed("the block ended at once"))


class Foreign:
    """An asynchronous object that is not ours, such as a database's session, for plain calls.

    Its methods run on the loop, and what they return to be awaited is awaited.  A result that is
    itself asynchronous (a cursor, a block) is wrapped in the same way.
    """

    def __init__(self, background: Background[Any], twin: Any) -> None:
        self._background = background
        self._twin = twin

    def __repr__(self) -> str:
        return repr(self._twin)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._twin, name)
        if not callable(value):
            return value
        return lambda *args, **kwargs: self._use(lambda: value(*args, **kwargs))

    def _use(self, call: Callable[[], Any]) -> Any:
        async def using() -> Any:
            result = call()
            return await result if inspect.isawaitable(result) else result

        result = self._background.call(using)
        is_asynchronous = hasattr(result, "__aenter__") or hasattr(result, "__aiter__")
        return Foreign(self._background, result) if is_asynchronous else result

    def __enter__(self) -> Any:
        self._block: Block[Any] = Block(self._background, lambda: self._twin)
        entered = self._block.__enter__()
        return self if entered is self._twin else entered

    def __exit__(self, *how: Any) -> None:
        self._block.__exit__(*how)

    def __iter__(self) -> Iterator[Any]:
        items = aiter(self._twin)
        while True:
            try:
                yield self._background.wait(lambda: anext(items))
            except StopAsyncIteration:
                return


class Stream(Iterator[T], Generic[T]):
    """What a `listen` delivers, one after another, without end.

    Close it, or use it in a `with`.  Waiting for the next item can be given up (with Ctrl-C, or
    with the timeout of `wait`) and taken up again: none is lost.  `close` may be called from
    another thread; the iteration ends then.
    """

    def __init__(self, background: Background[Any], start: Callable[[], space.Stream[T]]) -> None:
        self._background = background
        self._source = background.do(start)
        self._turn = threading.Lock()
        self._pending: concurrent.futures.Future[T] | None = None
        self._over = False

    def __repr__(self) -> str:
        return repr(self._source)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
