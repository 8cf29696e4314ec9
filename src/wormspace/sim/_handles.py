"""What the simulated loop runs and whose it is: errors, owners, handles, tasks and futures."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, Protocol, TypeVar

_T = TypeVar("_T")


class SimulationError(Exception):
    """The simulated run failed."""


class Stuck(SimulationError):
    """A liveness failure: the run cannot, or does not, come to its end."""


class Deadlock(Stuck):
    """Nothing is ready and no timer is set, yet the run waits."""


class StepLimit(Stuck):
    """More handles ran than allowed, in all or without time moving on."""


class Unhandled(SimulationError):
    """A callback or task raised and nobody looked; the cause is chained."""


class Resource(Protocol):
    """What goes when its owner dies: a transport, a listener, an open store."""

    def vanish(self, *, silence_s: float, clean: bool) -> None: ...


class Owner:
    """What handles and resources belong to: a process on a host.

    rate: how fast its monotonic clock runs, and with it all its timers.
    """

    __slots__ = ("host", "name", "parked", "rate", "resources", "running")

    def __init__(self, host: str, name: str, rate: float = 1.0) -> None:
        self.host = host
        self.name = name
        self.rate = rate
        self.running = True
        self.parked: list[SimHandle] = []
        self.resources: dict[Resource, None] = {}


OWNER: contextvars.ContextVar[Owner | None] = contextvars.ContextVar("sim_owner", default=None)


def rate_in(context: contextvars.Context) -> float:
    """How fast the clock runs by which this context's timers go."""
    owner = context.get(OWNER)
    return 1.0 if owner is None else owner.rate


def true_time(told: float, rate: float) -> float:
    """The first moment at which a clock of this rate says so much, or more."""
    when = told / rate
    while when * rate < told:  # rounding: a timer that is early by it would be set again and again
        when = math.nextafter(when, math.inf)
    return when


class Timers(Protocol):
    """The loop, as a handle sees it."""

    def _on_timer_cancelled(self) -> None: ...


class SimHandle(asyncio.TimerHandle):
    """A callback to run, its context, and whose it is."""

    __slots__ = ("_owner",)

    # The base initialiser is not called: it costs more than everything else on this path.
    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: Timers,
        context: contextvars.Context,
    ) -> None:
        self._context = context
        self._loop = loop
        self._callback: Callable[..., object] | None = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._when = when
        self._scheduled = False
        self._owner = context.get(OWNER)

    def cancel(self) -> None:
        """Never run it."""
        if not self._cancelled:
            self._cancelled = True
            self._callback = None
            self._args = ()
            if self._scheduled:
                self._loop._on_timer_cancelled()


class SimFuture(asyncio.Future[_T]):
    """A future that hashes by its number, so that sets of futures have one order in every run."""

    number: int

    def __hash__(self) -> int:
        return self.number


class SimTask(asyncio.Task[_T]):
    """A task that hashes by its number, so that sets of tasks have one order in every run."""

    def __init__(
        self,
        coro: Coroutine[Any, Any, _T] | Generator[Any, None, _T],
        loop: asyncio.AbstractEventLoop,
        number: int,
        name: str,
        context: contextvars.Context | None,
    ) -> None:
        self.number = number  # first: the base class registers the task in a set
        super().__init__(coro, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self.number
