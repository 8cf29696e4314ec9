"""Cursors: how far a consumer has come, by name, durable, at its own word.

A consumer that commits after it has dealt with an entry gets each entry at least once, whatever
crashes.  One that stores the position together with what it does, in one transaction of its own
store, gets each exactly once, and needs no cursor: it subscribes from what it stored.
"""

from __future__ import annotations

import msgspec

from wormspace.errors import UsageError
from wormspace.log.marks import Mark


class Cursor:
    """One consumer's place in one log; get it from `Log.cursor`.

    Attributes:
        name: the consumer's.
    """

    def __init__(self, name: str, mark: Mark) -> None:
        self.name = name
        self._mark = mark

    async def load(self) -> int:
        """The first position that is not committed; 0 if nothing ever was.

        Linearizable: it sees every commit that was acknowledged before the call.
        """
        found = await self._mark.get()
        return msgspec.msgpack.decode(found[1], type=int) if found else 0

    async def commit(self, position: int) -> None:
        """All below `position` is done with; it is where a later run begins.

        The last commit counts, even if it goes back.  A consumer that commits alone pays one round
        trip.

        Raises:
            Unavailable: the outcome is unknown; commit again.
        """
        if position < 0:
            raise UsageError(f"a position is 0 or more, not {position}")
        await self._mark.put(msgspec.msgpack.encode(position))

    async def close(self) -> None:
        """Stop what is under way in the background."""
        await self._mark.close()
