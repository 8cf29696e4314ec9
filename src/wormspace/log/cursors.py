"""Cursors: how far a consumer has come, by name, durable, at its own word.

A consumer that commits after it has dealt with an entry gets each entry at least once, whatever
crashes.  One that stores the position together with what it does, in one transaction of its own
store, gets each exactly once, and needs no cursor: it subscribes from what it stored.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from wormspace.log.checks import check_position
from wormspace.log.marks import Mark

Within: TypeAlias = Callable[[str, float | None], AbstractAsyncContextManager[float]]
"""Limits what a call may take, given what it is and its time-out."""


class Cursor:
    """One consumer's place in one log; get it from `Log.cursor`.

    Attributes:
        name: the consumer's.
    """

    def __init__(self, name: str, mark: Mark[int], within: Within) -> None:
        self.name = name
        self._mark = mark
        self._within = within

    async def load(self, *, timeout: float | None = None) -> int:
        """The first position that is not committed; 0 if nothing ever was.

        Linearizable: it sees every commit that was acknowledged before the call.

        Raises:
            Unavailable: not in time.
        """
        async with self._within(f"loading cursor {self.name!r}", timeout):
            found = await self._mark.get()
        return found[1] if found else 0

    async def commit(self, position: int, *, timeout: float | None = None) -> None:
        """All below `position` is done with; it is where a later run begins.

        The last commit counts, even if it goes back.  A consumer that commits alone pays one round
        trip.

        Raises:
            Unavailable: the outcome is unknown; commit again.
        """
        check_position(position)
        async with self._within(f"committing cursor {self.name!r}", timeout):
            await self._mark.put(position)

    async def close(self) -> None:
        """Stop what is under way in the background."""
        await self._mark.close()
