"""Ready-made replicated types: counter, dictionary, set, queue, lock with fencing token, election.

    jobs = await replicate(Queue, worm, "jobs")
    await jobs.put(b"resize 17.png")

Values are bytes and names are strings; whoever wants more structure writes a `StateMachine`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from wormspace.errors import WormError
from wormspace.smr.declare import StateMachine
from wormspace.smr.methods import command, query
from wormspace.smr.table import Table

RENEWALS_PER_LEASE = 3
POLL_S = 0.1


class Counter(StateMachine):
    """A number."""

    value: int = 0

    @command
    def add(self, amount: int = 1) -> int:
        """Add to it; the sum."""
        self.value += amount
        return self.value

    @command
    def set_to(self, value: int) -> int:
        """Set it; what it was."""
        before, self.value = self.value, value
        return before

    @query
    def read(self) -> int:
        """The number."""
        return self.value


class Dict(StateMachine):
    """Names to values, in order."""

    items_: Table[str, bytes]

    @command
    def set(self, key: str, value: bytes) -> bytes | None:
        """Set a value; what was there."""
        before: bytes | None = self.items_.get(key)
        self.items_[key] = value
        return before

    @command
    def set_default(self, key: str, value: bytes) -> bytes:
        """Set a value unless one is there; what is there then."""
        held: bytes = self.items_.setdefault(key, value)
        return held

    @command
    def pop(self, key: str) -> bytes | None:
        """Remove a value; what it was."""
        return self.items_.pop(key, None)

    @query
    def get(self, key: str) -> bytes | None:
        """The value, or None."""
        found: bytes | None = self.items_.get(key)
        return found

    @query
    def items(self) -> list[tuple[str, bytes]]:
        """Everything, in order of names."""
        return list(self.items_.items())

    @query
    def size(self) -> int:
        """How many there are."""
        return len(self.items_)


class Set(StateMachine):
    """Names."""

    members_: Table[str, None]

    @command
    def add(self, member: str) -> bool:
        """Add one; whether it is new."""
        if member in self.members_:
            return False
        self.members_[member] = None
        return True

    @command
    def discard(self, member: str) -> bool:
        """Remove one; whether it was there."""
        if member not in self.members_:
            return False
        del self.members_[member]
        return True

    @query
    def contains(self, member: str) -> bool:
        """Whether it is there."""
        return member in self.members_

    @query
    def members(self) -> list[str]:
        """All, in order."""
        return list(self.members_)


class Queue(StateMachine):
    """First in, first out."""

    items_: Table[int, bytes]
    first: int = 0
    following: int = 0

    @command
    def put(self, item: bytes) -> int:
        """Add at the end; the item's number, which never comes again."""
        number = self.following
        self.items_[number] = item
        self.following += 1
        return number

    @command
    def take(self) -> bytes | None:
        """Remove the oldest; None if there is none."""
        if self.first == self.following:
            return None
        item = self.items_.pop(self.first)
        self.first += 1
        return item

    @query
    def peek(self) -> bytes | None:
        """The oldest, without removing it."""
        found: bytes | None = self.items_.get(self.first)
        return found

    @query
    def size(self) -> int:
        """How many there are."""
        return self.following - self.first


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """Somebody has it, until a time.

    Attributes:
        fence: grows with every new holder: pass it along with every effect, and let whatever is
            protected refuse a smaller one than it has seen.  A lease alone is not safe: its
            holder may be asleep when it ends.
        until: in seconds since the epoch, by the time of commands.
    """

    owner: str
    fence: int
    until: float


class Lock(StateMachine):
    """One holder at a time, for the time of a lease, with a fencing token.

    Its events are the new `Grant`s, and None when it becomes free.
    """

    event = Grant | None

    grant: Grant | None = None
    fence: int = 0

    @command
    def acquire(self, owner: str, lease_s: float) -> Grant | None:
        """Take it, or renew one's own lease; None while somebody else has it."""
        if not lease_s > 0:
            raise ValueError("a lease is a positive time")
        held = self.grant
        if held is not None and held.owner != owner:
            return None
        if held is None:
            self.fence += 1
        self.grant = Grant(owner, self.fence, self.now + lease_s)
        if held is None:
            self.emit(self.grant)
        return self.grant

    @command
    def release(self, owner: str) -> bool:
        """Give it back; whether one had it."""
        if self.grant is None or self.grant.owner != owner:
            return False
        self._free()
        return True

    @query
    def holder(self) -> Grant | None:
        """Who has it."""
        return self.grant

    def due(self) -> float | None:
        return None if self.grant is None else self.grant.until

    def on_due(self) -> None:
        if self.grant is not None and self.grant.until <= self.now:
            self._free()

    def _free(self) -> None:
        self.grant = None
        self.emit(None)


class Election(Lock):
    """Who leads: a lock whose holder is the leader and whose fencing token is the term."""


@contextlib.asynccontextmanager
async def holding(lock: Any, owner: str, lease_s: float = 10.0) -> AsyncIterator[Grant]:
    """Wait for a lock, hold it, renew its lease, and release it in the end.

        async with holding(lock, "worker-7") as grant:
            await store.write(data, fence=grant.fence)

    If the lease cannot be renewed in time, the body is cancelled with `LeaseLost`: somebody else
    may have the lock then.

    Args:
        lock: a replicated `Lock` or `Election`, or a `Remote` one.
    """
    loop = asyncio.get_running_loop()
    body = asyncio.current_task()
    while True:
        asked = loop.time()
        grant = await lock.acquire(owner, lease_s)
        if grant is not None:
            break
        await asyncio.sleep(min(POLL_S, lease_s / RENEWALS_PER_LEASE))
    lost = False

    async def renew() -> None:
        nonlocal lost
        ends = asked + lease_s
        while True:
            await asyncio.sleep(lease_s / RENEWALS_PER_LEASE)
            began = loop.time()
            try:
                async with asyncio.timeout_at(ends):
                    renewed = await lock.acquire(owner, lease_s)
            except (WormError, TimeoutError):
                renewed = grant if loop.time() < ends else None
                began = ends - lease_s
            if renewed is None or renewed.fence != grant.fence:
                lost = True
                if body is not None:
                    body.cancel()
                return
            ends = began + lease_s

    renewing = loop.create_task(renew())
    try:
        yield grant
    except asyncio.CancelledError as e:
        if lost:
            raise LeaseLost(f"the lease of {owner!r} was not renewed in time") from e
        raise
    finally:
        renewing.cancel()
        if not lost:
            with contextlib.suppress(WormError):
                await lock.release(owner)


class LeaseLost(WormError):
    """A lock's lease has ended while it was held; somebody else may hold it now."""
