"""Having something for a lease, as a block: it is renewed meanwhile, and given back in the end.

        async with holding(lock, "worker-7") as grant:
            await store.write(data, fence=grant.fence)

        async with taking(queue) as job:
            await resize(job.item)

Each block is an acquisition of its own, with a token of its own: two blocks with the same owner's
name exclude each other.  A block that is cancelled while it waits withdraws what it may have got.
"""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Generic, TypeVar

from wormspace.errors import UsageError, WormError
from wormspace.runtime.tasks import Tasks
from wormspace.smr.arguments import as_lease, as_replicated, as_str
from wormspace.smr.errors import LeaseLost
from wormspace.smr.types import Grant, Job
from wormspace.space.arguments import as_rng

T = TypeVar("T", Grant, Job)

log = logging.getLogger("wormspace.smr")

RENEWALS_PER_LEASE = 3
POLL_S = 0.1

SURE = 0.99
"""So much of a lease its holder relies on: machines' monotonic clocks differ by less than that."""

GIVING_BACK_S = 1.0
"""So long the end of a block waits until it was given back; then that goes on by itself."""

_going_on = Tasks("giving back a lease")
"""What is done to its end, whoever stops waiting for it."""


class Leased(ABC, Generic[T]):
    """A block that has something for a lease."""

    def __init__(self, what: str, lease_s: float, rng: random.Random | None) -> None:
        self._what = what
        self._lease_s = as_lease(lease_s)
        self._token = f"{as_rng(rng).getrandbits(64):016x}"
        self._lost = ""
        self._tasks = Tasks(what)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._what}>"

    @abstractmethod
    async def _acquire(self) -> T | None:
        """Get it under the token; None while it cannot be had."""

    @abstractmethod
    async def _renew(self) -> T | None:
        """Let its lease begin anew; None if it is not held any more."""

    @abstractmethod
    async def _give_back(self, error: BaseException | None) -> object:
        """Give up what is held under the token, if anything; `error` is how the block ended."""

    async def __aenter__(self) -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        if task is None:
            raise UsageError("a lease is held by a task")
        self._task = task
        self._cancelling = task.cancelling()
        while True:
            asked = loop.time()
            got = await self._attempt()
            if got is not None:
                break
            await asyncio.sleep(min(POLL_S, self._lease_s / RENEWALS_PER_LEASE))
        self._tasks.spawn(self._keep(asked + SURE * self._lease_s))
        return got

    async def _attempt(self) -> T | None:
        acquiring = self._tasks.begin(self._acquire())
        try:
            return await asyncio.shield(acquiring)
        except UsageError:
            raise
        except WormError as e:
            _going_on.spawn(self._withdraw(acquiring, e))
            raise
        except asyncio.CancelledError as e:
            withdrawing = _going_on.spawn(self._withdraw(acquiring, e))
            await asyncio.wait([withdrawing], timeout=GIVING_BACK_S)
            raise

    async def _withdraw(self, acquiring: asyncio.Future[T | None], error: BaseException) -> None:
        """Give back what an attempt may have got, once it can get no more.

        A client says with each packet which earlier ones it has given up, and those are not applied
        any more: the attempt has ended, so nothing of it comes after this.
        """
        await asyncio.wait([acquiring])
        failed = acquiring.cancelled() or acquiring.exception() is not None
        if failed or acquiring.result() is not None:
            await self._let_go(error)

    async def _let_go(self, error: BaseException | None) -> None:
        try:
            await self._give_back(error)
        except WormError as e:
            log.info("%s was not given back, its lease must run out: %s", self._what, e)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._tasks.cancel()
        letting_go = _going_on.spawn(self._let_go(error))
        if self._lost:
            # As `asyncio.timeout` does: the cancellation was this block's, and ends with it.
            alone = self._task.uncancel() <= self._cancelling
            if alone and (kind is None or issubclass(kind, asyncio.CancelledError)):
                raise LeaseLost(f"{self._what}: {self._lost}") from error
            return
        await asyncio.wait([letting_go], timeout=GIVING_BACK_S)

    async def _keep(self, ends: float) -> None:
        """Renew it for as long as that works, then cancel the block.

        Args:
            ends: the loop's time until which it is held for sure.
        """
        try:
            self._lost = await self._renew_until_lost(ends)
        except Exception as e:  # noqa: BLE001 - whatever it is, nobody renews the lease any more
            self._lost = f"renewing its lease failed: {e!r}"
        self._task.cancel()

    async def _renew_until_lost(self, ends: float) -> str:
        loop = asyncio.get_running_loop()
        trouble = "it took too long"
        while True:
            await asyncio.sleep(min(self._lease_s / RENEWALS_PER_LEASE, max(0, ends - loop.time())))
            asked = loop.time()
            if asked >= ends:
                return f"its lease was not renewed in time: {trouble}"
            try:
                async with asyncio.timeout_at(ends):
                    renewed = await self._renew()
            except (WormError, TimeoutError) as e:
                trouble = str(e) or trouble
                continue
            if renewed is None:
                return "its lease had ended, or somebody ended it"
            ends = asked + SURE * self._lease_s


class Holding(Leased[Grant]):
    """See `holding`."""

    def __init__(self, lock: Any, owner: str, lease_s: float, rng: random.Random | None) -> None:
        super().__init__(f"the lock of {owner!r}", lease_s, rng)
        self._lock = as_replicated(lock, "a lock", "acquire", "renew", "release")
        self._owner = as_str(owner, "an owner's name")

    async def _acquire(self) -> Grant | None:
        got: Grant | None = await self._lock.acquire(self._owner, self._lease_s, self._token)
        return got

    async def _renew(self) -> Grant | None:
        got: Grant | None = await self._lock.renew(self._token, self._lease_s)
        return got

    async def _give_back(self, error: BaseException | None) -> object:
        return await self._lock.release(self._token)


class Taking(Leased[Job]):
    """See `taking`."""

    def __init__(self, queue: Any, lease_s: float, rng: random.Random | None) -> None:
        super().__init__("the job", lease_s, rng)
        self._queue = as_replicated(queue, "a queue", "take", "renew", "finish", "give_back")

    async def _acquire(self) -> Job | None:
        got: Job | None = await self._queue.take(self._lease_s, self._token)
        return got

    async def _renew(self) -> Job | None:
        got: Job | None = await self._queue.renew(self._token, self._lease_s)
        return got

    async def _give_back(self, error: BaseException | None) -> object:
        if error is None:
            return await self._queue.finish(self._token)
        return await self._queue.give_back(self._token)


def holding(
    lock: Any, owner: str, lease_s: float = 10.0, *, rng: random.Random | None = None
) -> Holding:
    """Wait for a lock, hold it, renew its lease, and release it in the end.

    If the lease cannot be renewed in time, the block is cancelled and ends with `LeaseLost`:
    somebody else may have the lock then.

    Args:
        lock: a replicated `Lock` or `Election`, or a `Remote` one.
        owner: who has it, for people.
        rng: where the acquisition's token comes from; by default the system.

    Raises:
        UsageError: an argument is not what is said here.
    """
    return Holding(lock, owner, lease_s, rng)


def taking(queue: Any, lease_s: float = 30.0, *, rng: random.Random | None = None) -> Taking:
    """Wait for a job of a queue, have it for a lease that is renewed, and finish it.

    A block that ends with an exception, or is cancelled, gives the job back.  A job is done at
    least once: it is given to somebody else when its lease ends, even if it was all but finished.

    Args:
        queue: a replicated `Queue`, or a `Remote` one.
        rng: where the taking's token comes from; by default the system.

    Raises:
        UsageError: an argument is not what is said here.
    """
    return Taking(queue, lease_s, rng)
