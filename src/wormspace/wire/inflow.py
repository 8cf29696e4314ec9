"""What all connections together hold of messages that are not taken in yet, within a limit.

Half a message can be neither handled nor given back, and thousands of connections may hold one of
the largest size.  So there is one limit for all.  Above it only one connection is read, the one
that has held something longest: it comes to the end of its message, and makes room.  If for a while
nothing becomes less, whoever holds the most is disconnected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol


class Holder(Protocol):
    """A connection, as the inflow sees it."""

    def read_or_pause(self) -> None:
        """Look again whether it may be read."""

    def evict(self) -> None:
        """Disconnect it, and say why."""


class Inflow:
    """The account.

    Costs a constant for each change, and a look at every connection when the limit is passed, in
    either direction, or when above it another one gets its turn.

    Args:
        limit: in bytes.
        patience_s: how long nothing may become less above it.
        holders: all connections there are.
    """

    def __init__(self, limit: int, patience_s: float, holders: Iterable[Holder]) -> None:
        self._limit = limit
        self._patience_s = patience_s
        self._holders = holders
        self._held: dict[Holder, int] = {}  # in the order in which they began to hold something
        self._timer: asyncio.TimerHandle | None = None
        self._turn: Holder | None = None
        self.bytes = 0

    def may_read(self, holder: Holder) -> bool:
        """Whether more may be read from it now."""
        return self._turn is None or self._turn is holder

    def holds(self, holder: Holder, size: int) -> None:
        """A connection holds so many bytes now; 0 as well when it is gone."""
        before = self._held.get(holder, 0)
        if size == before:
            return
        if size:
            self._held[holder] = size
        else:
            del self._held[holder]
        self.bytes += size - before
        turn = next(iter(self._held)) if self.bytes > self._limit else None
        if self._timer is not None and (size < before or turn is None):
            self._timer.cancel()
            self._timer = None
        if turn is not None and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._patience_s, self._evict)
        if turn is not self._turn:
            self._turn = turn
            for each in list(self._holders):
                each.read_or_pause()

    def _evict(self) -> None:
        self._timer = None
        largest = max(self._held, key=lambda holder: self._held[holder])
        largest.evict()
        self.holds(largest, 0)  # whatever it makes of that
