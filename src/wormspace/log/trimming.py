"""Trimming: by position, by age and by size.

The trim point is set before the segments below it are trimmed, so what is gone is never above it.
Segments go whole; what lies between the start of a segment and the trim point is gone for readers,
and its room is freed with the rest of the segment.
"""

from __future__ import annotations

from collections.abc import Callable

from wormspace.log.errors import NotWritten
from wormspace.log.reading import Reader
from wormspace.log.trim_point import Place, TrimPoint


class Trimmer:
    """Moves the trim point of one log."""

    def __init__(self, reader: Reader, trim_point: TrimPoint) -> None:
        self._reader = reader
        self._trim_point = trim_point

    async def below(self, position: int) -> int:
        """Trim all below `position`; returns the trim point.

        Raises:
            NotWritten: it is above the tail.
        """
        segmented_log, trim_point = self._reader.segmented_log, self._trim_point
        if position > await self._reader.tail():
            raise NotWritten(f"position {position} is above the tail; nothing was trimmed")
        if position > (await trim_point.find()).position:
            slot, _ = await self._reader.find(position)
            await trim_point.move(Place(position, slot))
        # Also what an earlier trimmer that died has left.  Never the open segment: its holder's
        # successor has to find its seal empty.
        whole = min(trim_point.at.slot // segmented_log.size, await segmented_log.open_segment())
        if whole > 0:
            await segmented_log.space.trim_prefix(whole)
        return trim_point.at.position

    async def search(self, holds: Callable[[int, int], bool]) -> int:
        """The first position whose entry, and all later ones, satisfy `holds`; else the tail.

        A binary search; `holds` is false, then true, of an entry's time in milliseconds and the
        bytes before it.
        """
        low, high = (await self._trim_point.find()).position, await self._reader.tail()
        while low < high:
            middle = (low + high) // 2
            batch = await self._reader.first_batch(middle)
            if batch is None:
                high = middle
                continue
            keeps = [at for at, before in batch.befores() if holds(batch.time_ms, before)]
            if not keeps:
                low = batch.end
            elif keeps[0] > max(low, batch.first):
                return keeps[0]
            else:
                high = min(middle, keeps[0])
        return max(low, high)

    async def total(self) -> int:
        """Bytes of all entries ever appended, trimmed or not."""
        last = await self._reader.last_batch(await self._reader.segmented_log.end())
        return last[1].before + last[1].size if last else 0
