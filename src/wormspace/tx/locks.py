"""Locks with immediate restart: whoever meets one gives up at once, so nobody waits in a ring.

One exception, which cannot make a ring either: a lock of a branch that is *prepared* is about to
go, for its outcome depends on votes and no longer on locks; for that, a newcomer waits a moment.
"""

from __future__ import annotations

import asyncio

from wormspace.tx.errors import Conflict

PREPARED_WAIT_S = 1.0
"""How long a lock of a prepared branch is waited for; a crash may have left it in doubt."""


class Owner:
    """Who holds locks: a branch.

    Attributes:
        held: its keys, and whether each is held exclusively.
        prepared: whether it only waits for its outcome.
    """

    __slots__ = ("_gone", "held", "prepared")

    def __init__(self) -> None:
        self.held: dict[bytes, bool] = {}
        self.prepared = False
        self._gone: asyncio.Future[None] | None = None

    def gone(self) -> asyncio.Future[None]:
        """Done when its locks are released."""
        if self._gone is None:
            self._gone = asyncio.get_running_loop().create_future()
        return self._gone


class Locks:
    """Shared and exclusive locks on keys."""

    def __init__(self) -> None:
        self._holders: dict[bytes, list[Owner]] = {}

    async def acquire(self, owner: Owner, key: bytes, *, exclusive: bool) -> None:
        """Take a lock, or make a shared one exclusive.

        Raises:
            Conflict: another branch holds it.
        """
        others = self.in_the_way(owner, key, exclusive)
        if others and all(other.prepared for other in others):
            loop = asyncio.get_running_loop()
            deadline = loop.time() + PREPARED_WAIT_S
            while others and all(other.prepared for other in others) and loop.time() < deadline:
                await asyncio.wait(
                    [other.gone() for other in others], timeout=deadline - loop.time()
                )
                others = self.in_the_way(owner, key, exclusive)
        if others:
            raise Conflict(f"key {key!r} is locked by another transaction")

    def take(self, owner: Owner, key: bytes, *, exclusive: bool) -> None:
        """Give a branch found after a restart a lock it had; nobody else can have it."""
        self.in_the_way(owner, key, exclusive)

    def in_the_way(self, owner: Owner, key: bytes, exclusive: bool) -> list[Owner]:
        """Take a lock if nobody is in the way; returns who is."""
        holders = self._holders.get(key)
        if holders is None:
            self._holders[key] = [owner]
            owner.held[key] = exclusive
            return []
        others = [
            other for other in holders if other is not owner and (exclusive or other.held[key])
        ]
        if not others:
            if owner not in holders:
                holders.append(owner)
            owner.held[key] = exclusive or owner.held.get(key, False)
        return others

    def release(self, owner: Owner) -> None:
        """Let all of its locks go."""
        for key in owner.held:
            holders = self._holders[key]
            holders.remove(owner)
            if not holders:
                del self._holders[key]
        owner.held.clear()
        if owner._gone is not None and not owner._gone.done():
            owner._gone.set_result(None)
