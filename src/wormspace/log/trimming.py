"""Trimming: by position, by age and by size.

The trim point is set before the segments below it are trimmed, so what is gone is never above it.
Segments go whole; what lies between the start of a segment and the trim point is gone for readers,
and its room is freed with the rest of the segment.
"""

from __future__ import annotations

from collections.abc import Callable

from wormspace.log.beginning import Beginning, Place
from wormspace.log.errors import NotWritten
from wormspace.log.reading import Reader


class Trimmer:
    """Moves the beginning of one log."""

    def __init__(self, reader: Reader, beginning: Beginning) -> None:
        self._reader = reader
        self._beginning = beginning

    async def below(self, position: int) -> int:
        """Trim all below `position`; returns the trim point.

        Raises:
            NotWritten: it is above the tail.
        """
        tape, beginning = self._reader.tape, self._beginning
        if position > await self._reader.tail():
            raise NotWritten(f"position {position} is above the tail; nothing was trimmed")
        if position > (await beginning.find()).position:
            slot, _ = await self._reader.find(position)
            await beginning.move(Place(position, slot))
        # Also what an earlier trimmer that died has left.  Never the open segment: its holder's
        # successor has to find its seam empty.
        whole = min(beginning.at.slot // tape.size, await tape.open_segment())
        if whole > 0:
            await tape.space.trim_prefix(whole)
        return beginning.at.position

    async def search(self, holds: Callable[[int, int], bool]) -> int:
        """The first position whose entry, and all later ones, satisfy `holds`; else the tail.

        A binary search; `holds` is false, then true, of an entry's time in milliseconds and the
        bytes before it.
        """
        low, high = (await self._beginning.find()).position, await self._reader.tail()
        while low < high:
            middle = (low + high) // 2
            pack = await self._reader.first_pack(middle)
            if pack is None:
                high = middle
                continue
            keeps = [at for at, before in pack.befores() if holds(pack.time_ms, before)]
            if not keeps:
                low = pack.end
            elif keeps[0] > max(low, pack.first):
                return keeps[0]
            else:
                high = min(middle, keeps[0])
        return max(low, high)

    async def total(self) -> int:
        """Bytes of all entries ever appended, trimmed or not."""
        last = await self._reader.last_pack(await self._reader.tape.end())
        return last[1].before + last[1].size if last else 0
