"""Where a log begins: the trim point, which only rises.

It is a cell, `<log>/trim`, and is set before anything below it is trimmed: what is gone is never
above it.
"""

from __future__ import annotations

import msgspec

from wormspace.log.durable_cell import ABSENT, DurableCell
from wormspace.log.ongoing import Ongoing
from wormspace.log.records import Natural


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A position, and a slot below which there is nothing at it or above."""

    position: Natural
    slot: Natural


class TrimPoint:
    """The trim point of one log.

    Attributes:
        at: the trim point, as far as it is known here.
    """

    def __init__(self, cell: DurableCell[Place]) -> None:
        self._cell = cell
        self.at = Place(0, 0)
        self._moving: Ongoing[None] = Ongoing("moving the trim point")

    async def find(self) -> Place:
        """The trim point, linearizably."""
        await self._look()
        return self.at

    async def _look(self) -> int:
        """Find the trim point; returns the number of its cell."""
        found = await self._cell.get()
        if found is None:
            return ABSENT
        self._saw(found[1])
        return found[0]

    def _saw(self, place: Place) -> None:
        if place.position > self.at.position:
            self.at = place

    async def move(self, place: Place) -> None:
        """Let the log begin at `place`, unless it begins above that already."""
        while self.at.position < place.position:
            await self._moving.join(lambda: self._move(place))

    async def _move(self, place: Place) -> None:
        while True:
            number = await self._look()
            if self.at.position >= place.position:
                return
            if await self._cell.replace(number, place) is not None:
                self._saw(place)
                return

    async def close(self) -> None:
        """Stop what is under way in the background."""
        await self._moving.close()
        await self._cell.close()
