"""An asyncio event loop in which time is a number.

Handles that are ready run in the order they were made. When none is left, time jumps to the next
timer; timers due at the same instant run in the order they were set. Nothing here sleeps, starts a
thread or opens a socket, and nothing depends on addresses, hash order, the wall clock or global
randomness: tasks and futures hash by their number, so even code that walks a set of tasks does so
in the same order in every run, and cyclic garbage is collected at fixed steps only.

Every handle belongs to an *owner* (a simulated process), found in the context it was made in. A
handle that comes due while its owner is not running is given to the owner instead of being run:
that is the whole of how a process is paused or killed.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import heapq
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from pathlib import PurePath
from typing import Any, Protocol, TypeVar, TypeVarTuple

from wormspace.sim._handles import (
    OWNER,
    Deadlock,
    SimFuture,
    SimHandle,
    SimTask,
    SimulationError,
    StepLimit,
    Unhandled,
    rate_in,
    true_time,
)

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")
_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)

_COMPACT_FROM = 256
_COLLECT_EVERY_STEPS = 1 << 17
_PRUNE_FROM = 1024


class Connector(Protocol):
    """The network, as the loop sees it."""

    async def connect(
        self, protocol_factory: Callable[[], _ProtocolT], host: str, port: int
    ) -> tuple[asyncio.Transport, _ProtocolT]: ...

    def listen(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | Sequence[str] | None,
        port: int,
        start_serving: bool,
    ) -> asyncio.AbstractServer: ...


class SimLoop(asyncio.AbstractEventLoop):
    """The deterministic event loop.

    What has no meaning here (file descriptors, signals, child processes, pipes) is left out, and
    raises asyncio's own NotImplementedError.

    max_steps: handles that may run in all, and max_steps_per_instant: without time moving
    on, before StepLimit is raised. executor_delay_s: how much later `run_in_executor` runs its
    function.
    """

    def __init__(
        self,
        *,
        max_steps: int = 100_000_000,
        max_steps_per_instant: int = 1_000_000,
        executor_delay_s: float = 0.0005,
    ) -> None:
        self.max_steps = max_steps
        self.max_steps_per_instant = max_steps_per_instant
        self.executor_delay_s = executor_delay_s
        self.steps = 0
        self.network: Connector | None = None
        self.unhandled: list[dict[str, Any]] = []
        self._now = 0.0
        self._ready: deque[SimHandle] = deque()
        self._timers: list[tuple[float, int, SimHandle]] = []
        self._timer_count = 0
        self._cancelled_timers = 0
        self._numbers = 0
        self._tasks: list[SimTask[Any]] = []
        self._prune_at = _PRUNE_FROM
        self._stopping = False
        self._instant_limit = max_steps_per_instant
        self._failure: SimulationError | None = None
        self._running = False
        self._closed = False
        self._debug = False
        self._exception_handler: Callable[[Any, dict[str, Any]], object] | None = None

    # -- time and handles --------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The virtual time, in seconds since the loop was made."""
        return self._now

    def time(self) -> float:
        """The virtual time by the monotonic clock of the process that asks."""
        owner = OWNER.get()
        return self._now if owner is None else self._now * owner.rate

    def call_soon(
        self,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Run the callback at this instant, after what is already ready."""
        if context is None:
            context = contextvars.copy_context()
        handle = SimHandle(self._now, callback, args, self, context)
        if not self._closed:  # the finally blocks of a world that has ended change nothing any more
            self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self,
        delay: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run the callback `delay` seconds from now, by its process's clock."""
        if context is None:
            context = contextvars.copy_context()
        when = self._now * rate_in(context) + delay
        return self.call_at(when, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run the callback when its process's clock says `when`."""
        if context is None:
            context = contextvars.copy_context()
        handle = SimHandle(when, callback, args, self, context)
        if not self._closed:
            handle._scheduled = True
            self._timer_count += 1
            due = true_time(when, rate_in(context))
            heapq.heappush(self._timers, (due, self._timer_count, handle))
        return handle

    def _on_timer_cancelled(self) -> None:
        self._cancelled_timers += 1
        if self._cancelled_timers > _COMPACT_FROM:
            timers = self._timers
            if self._cancelled_timers * 2 > len(timers):
                timers[:] = [entry for entry in timers if not entry[2]._cancelled]
                heapq.heapify(timers)
                self._cancelled_timers = 0

    def requeue(self, handles: list[SimHandle]) -> None:
        """Make ready again what an owner was given while it did not run."""
        self._ready.extend(handles)

    # -- tasks and futures -------------------------------------------------------------------------

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        future: SimFuture[Any] = SimFuture(loop=self)
        self._numbers = future.number = self._numbers + 1
        return future

    def create_task(
        self,
        coro: Coroutine[Any, Any, _T] | Generator[Any, None, _T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[_T]:
        """A task of this loop, which the loop keeps alive until it is done."""
        self._numbers = number = self._numbers + 1
        # asyncio would number unnamed tasks per interpreter, which is not the same in every run.
        task = SimTask(coro, self, number, name or f"task-{number}", context)
        tasks = self._tasks
        tasks.append(task)
        if len(tasks) > self._prune_at:
            # Dropping a failed task nobody looked at reports its exception, which may run more code
            # here: bind the pruned list first.
            self._tasks = [one for one in tasks if not one.done()]
            self._prune_at = 2 * len(self._tasks) + _PRUNE_FROM
        return task

    def run_in_executor(
        self, executor: object, func: Callable[[*_Ts], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """Run the function inline, `executor_delay_s` later, in the order of the calls."""
        future: asyncio.Future[_T] = self.create_future()

        def run() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 (it is handed to whoever awaits the future)
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(self.executor_delay_s, run)
        return future

    # -- running -----------------------------------------------------------------------------------

    def run_until_complete(self, future: Any) -> Any:
        """Run until the future or coroutine is done and return its result.

        Raises Deadlock or StepLimit when that cannot happen, and Unhandled as soon as a callback or
        task failed unseen.
        """
        if self._closed:
            raise RuntimeError("the loop is closed")
        main: asyncio.Future[Any] = asyncio.ensure_future(future, loop=self)
        main.add_done_callback(self._on_main_done)
        try:
            self._run()
        finally:
            main.remove_done_callback(self._on_main_done)
        if not main.done():
            raise RuntimeError("the loop was stopped before the future was done")
        return main.result()

    def _on_main_done(self, main: asyncio.Future[Any]) -> None:
        self._stopping = True

    def run_forever(self) -> None:
        """Run until `stop`."""
        self._run()

    def stop(self) -> None:
        """Leave `run_forever` after the current handle."""
        self._stopping = True

    def fail(self, error: SimulationError) -> None:
        """End the run with this error after the current handle."""
        if self._failure is None:
            self._failure = error
        self._stopping = True

    def _run(self) -> None:
        if self._running:
            raise RuntimeError("the loop is already running")
        self._running = True
        self._stopping = self._failure is not None
        hooks = sys.get_asyncgen_hooks()
        collecting = gc.isenabled()
        gc.disable()
        asyncio._set_running_loop(self)
        sys.set_asyncgen_hooks(finalizer=self._on_generator_dropped)
        try:
            while not self._stopping:
                self._spin(min(self.max_steps, self.steps + _COLLECT_EVERY_STEPS))
                gc.collect(1)
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(None)
            self._running = False
            if collecting:
                gc.enable()
        if self._failure is not None:
            raise self._failure

    def _spin(self, until_step: int) -> None:
        """The hot loop: run handles until told to stop or `until_step` is reached."""
        ready = self._ready
        steps = self.steps
        instant_limit = self._instant_limit
        try:
            while not self._stopping:
                if not ready:
                    self._advance()
                    instant_limit = steps + self.max_steps_per_instant
                handle = ready.popleft()
                if handle._cancelled:
                    continue
                owner = handle._owner
                if owner is not None and not owner.running:
                    owner.parked.append(handle)
                    continue
                if steps >= until_step or steps >= instant_limit:
                    ready.appendleft(handle)
                    if steps < self.max_steps and steps < instant_limit:
                        return
                    raise StepLimit(self._describe_limit(steps, handle))
                steps += 1
                try:
                    handle._context.run(handle._callback, *handle._args)  # type: ignore[arg-type]
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001 (collected; it fails the run)
                    self.call_exception_handler(
                        {"message": f"exception in {handle!r}", "exception": error}
                    )
        finally:
            self.steps = steps
            self._instant_limit = instant_limit

    def _advance(self) -> None:
        """Jump to the next timer and make ready everything due then."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
            self._cancelled_timers -= 1
        if not timers:
            raise Deadlock(f"nothing can happen any more at {self._now:.6f}s" + self._pending())
        now = max(self._now, timers[0][0])
        self._now = now
        while timers and timers[0][0] <= now:
            handle = heapq.heappop(timers)[2]
            if handle._cancelled:
                self._cancelled_timers -= 1
            else:
                handle._scheduled = False
                self._ready.append(handle)

    def _describe_limit(self, steps: int, handle: SimHandle) -> str:
        if steps >= self.max_steps:
            what = f"{steps} steps were not enough"
        else:
            what = f"{self.max_steps_per_instant} steps without time moving on"
        return f"{what}, at {self._now:.6f}s; next is {handle!r}" + self._pending()

    def _pending(self) -> str:
        waiting = [task for task in self._tasks if not task.done()]
        return "".join(["; pending tasks:", *(f"\n  {_describe(task)}" for task in waiting)])

    # -- errors ------------------------------------------------------------------------------------

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Collect what nobody handled; without a handler of the user's own it ends the run."""
        if self._closed:
            return
        if self._exception_handler is not None:
            self._exception_handler(self, context)
            return
        self.unhandled.append(context)
        error = Unhandled(f"{context.get('message', 'error')} at {self._now:.6f}s")
        error.__cause__ = context.get("exception")
        self.fail(error)

    default_exception_handler = call_exception_handler

    def set_exception_handler(
        self, handler: Callable[[Any, dict[str, Any]], object] | None
    ) -> None:
        """As asyncio's; the handler then decides what fails."""
        self._exception_handler = handler

    def get_exception_handler(self) -> Callable[[Any, dict[str, Any]], object] | None:
        """The handler that was set, if any."""
        return self._exception_handler

    # -- network -----------------------------------------------------------------------------------

    async def create_connection(
        self,
        protocol_factory: Callable[[], _ProtocolT],
        host: str | None = None,
        port: int | None = None,
        **options: Any,
    ) -> tuple[asyncio.Transport, _ProtocolT]:
        """Connect from the current process's host; TLS and ready-made sockets are not simulated."""
        network = self._network(options)
        if host is None or port is None:
            raise ValueError("a simulated connection needs a host and a port")
        return await network.connect(protocol_factory, host, port)

    # asyncio's signature is a set of overloads over options that have no meaning here.
    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        start_serving: bool = True,
        **options: Any,
    ) -> asyncio.AbstractServer:
        """Listen on the current process's host; port 0 or None picks one."""
        return self._network(options).listen(protocol_factory, host, port or 0, start_serving)

    def _network(self, options: dict[str, Any]) -> Connector:
        for name in ("ssl", "sock"):
            if options.get(name):
                raise NotImplementedError(f"{name}= is not simulated")
        if self.network is None:
            raise RuntimeError("this loop has no network")
        return self.network

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """A simulated host's address is its name."""
        return [(family, type, proto, "", (host, port))]

    # -- the rest of the interface -----------------------------------------------------------------

    def _on_generator_dropped(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._closed:
            self.call_soon(self.create_task, generator.aclose())

    async def shutdown_asyncgens(self) -> None:
        """Nothing to do: a dropped generator is closed when it is dropped."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Nothing to do: there is no executor."""

    def is_running(self) -> bool:
        """Whether a run is in progress."""
        return self._running

    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def get_debug(self) -> bool:
        """asyncio's debug flag (it changes nothing here)."""
        return self._debug

    def set_debug(self, enabled: bool) -> None:
        """Set asyncio's debug flag."""
        self._debug = enabled

    def close(self) -> None:
        """End the world: drop every handle, close every unfinished coroutine, in silence."""
        if self._running:
            raise RuntimeError("a running loop cannot be closed")
        if self._closed:
            return
        self._closed = True
        self._ready.clear()
        self._timers.clear()
        asyncio._set_running_loop(self)  # for finally blocks that ask for it
        try:
            for task in self._tasks:
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    _close_quietly(task.get_coro())
        finally:
            asyncio._set_running_loop(None)
        self._tasks.clear()


def _close_quietly(coro: Any) -> None:
    # A finally block that awaits makes close() raise and leaves the coroutine open: go on.
    for _ in range(100):
        try:
            coro.close()
        except BaseException:  # noqa: BLE001 (the world has ended: nobody is left to tell)
            continue
        return


def _describe(task: SimTask[Any]) -> str:
    """The task's name and the innermost line it waits in."""
    coro: Any = task.get_coro()
    where = getattr(coro, "__qualname__", "?")
    while coro is not None:
        frame = getattr(coro, "cr_frame", None)
        if frame is not None:
            code = frame.f_code
            where = f"{code.co_qualname} ({PurePath(code.co_filename).name}:{frame.f_lineno})"
        coro = getattr(coro, "cr_await", None)
    return f"{task.get_name()}: {where}"
