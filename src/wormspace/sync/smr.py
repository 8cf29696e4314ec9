"""Replicated objects without asyncio, and what is held for a lease."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import wormspace.smr.remote as remotes
import wormspace.smr.replica as replicas
import wormspace.smr.views as views
from wormspace.errors import UsageError
from wormspace.smr import Consistency, Grant, Job, StateMachine
from wormspace.smr.holding import holding as hold
from wormspace.smr.holding import taking as take
from wormspace.sync.background import Background, Block
from wormspace.sync.delegating import (
    Attribute,
    Closing,
    Handle,
    making,
    running,
    streaming,
    waiting,
)

M = TypeVar("M", bound=StateMachine)
P = ParamSpec("P")
R = TypeVar("R")


class View(Handle, Generic[M]):
    """A replicated object, seen at one consistency level in one session.

    Its methods are those of the state machine:

        inventory.reserve("sku-1", 3)

    `call` is the same for type checkers: `inventory.call(Inventory.reserve, "sku-1", 3)`.
    """

    token = Attribute[str]("What this session has seen, as a word for a session elsewhere.")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        bound = getattr(self._twin, name)
        return lambda *args, **kwargs: self._background.wait(lambda: bound(*args, **kwargs))

    def call(
        self, method: Callable[Concatenate[M, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run a command or query, given as the class's method: for type checkers.

        Raises:
            UsageError: it is no command or query of this object's class.
        """
        result: R = self._background.wait(lambda: self._twin.call(method, *args, **kwargs))
        return result

    def at(self, level: Consistency) -> View[M]:
        """The same object and session, with queries at another level.

        Raises:
            UsageError: it is none.
        """
        return View(self._background, self._background.do(lambda: self._twin.at(level)))

    def session(self, token: str = "") -> View[M]:
        """The same object in a session of its own, that goes on from `token` if one is given.

        Raises:
            BadToken: it is no session's token.
        """
        return View(self._background, self._background.do(lambda: self._twin.session(token)))


class Replica(Closing, View[M]):
    """A state machine that survives machines; get it from `Worm.replicate`.

    A replica is also a `View` of itself: its commands and queries can be called on it.
    """

    status = running(replicas.Replica.status)
    listen = streaming(replicas.Replica.listen)
    versions = waiting(replicas.Replica.versions)
    upgrade = waiting(replicas.Replica.upgrade)
    close = waiting(replicas.Replica.close)


def replicating(
    method: Callable[Concatenate[Any, P], Awaitable[replicas.Replica[M]]],
) -> Callable[Concatenate[Any, P], Replica[M]]:
    """The twin of a method that makes a replica: of the same state machine."""
    return making(method, Replica)


class Remote(Closing, View[M]):
    """A replicated object elsewhere; get it from `Worm.attach`, or from `attach`."""

    listen = streaming(remotes.Remote.listen)


def attaching(
    method: Callable[Concatenate[Any, P], Awaitable[remotes.Remote[M]]],
) -> Callable[Concatenate[Any, P], Remote[M]]:
    """The same for a replicated object elsewhere."""
    return making(method, Remote)


def attach(
    machine_type: type[M],
    name: str,
    addresses: Sequence[tuple[str, int]],
    *,
    consistency: Consistency | None = None,
    timeout: float = 10.0,
    rng: random.Random | None = None,
) -> Remote[M]:
    """Use the replicated object `name` by a replica's address, without the address space.

    Args:
        addresses: host and port of some of its replicas.
        consistency: of queries, unless a call says otherwise; `Linearizable()` by default.
        timeout: how long a call may take, in seconds, before it is `NoLeader`.

    Raises:
        UsageError: an argument is not what is said here.
    """

    async def opening() -> remotes.Remote[M]:
        return await remotes.attach(
            machine_type, name, addresses, consistency=consistency, timeout=timeout, rng=rng
        )

    background = Background.connect(opening)
    return Remote(background, background.client)


def holding(
    lock: View[Any], owner: str, lease_s: float = 10.0, *, rng: random.Random | None = None
) -> Block[Grant]:
    """Wait for a lock, hold it, renew its lease, and release it in the end.

    A thread cannot be cancelled: a block whose lease could not be renewed goes on to its end, and
    ends with `LeaseLost`; so pass `grant.fence` along with every effect.  See `smr.holding`.

    Raises:
        UsageError: an argument is not what is said here.
    """
    background, twin = _twin_of(lock)
    return Block(background, lambda: hold(twin, owner, lease_s, rng=rng))


def taking(
    queue: View[Any], lease_s: float = 30.0, *, rng: random.Random | None = None
) -> Block[Job]:
    """Wait for a job of a queue, have it for a lease that is renewed, and finish it.

    As `holding`, a block that lost its lease ends with `LeaseLost`.  See `smr.taking`.

    Raises:
        UsageError: an argument is not what is said here.
    """
    background, twin = _twin_of(queue)
    return Block(background, lambda: take(twin, lease_s, rng=rng))


def _twin_of(replicated: View[M]) -> tuple[Background[Any], views.View[M]]:
    if not isinstance(replicated, View):
        raise UsageError("a lock or queue is what worm.replicate or attach gave, in wormspace.sync")
    return replicated._background, replicated._twin
