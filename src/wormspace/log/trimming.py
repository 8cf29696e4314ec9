"""Trimming: by position, by age and by size; and where a log begins.

The trim point is a mark, `<log>/trim`, that only rises.  It is set before the segments below it are
trimmed, so what is gone is never above it.  Segments go whole; what lies between the start of a
segment and the trim point is gone for readers, and its room is freed with the rest of the segment.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from wormspace.errors import Trimmed
from wormspace.log.errors import NotWritten
from wormspace.log.marks import ABSENT, Mark
from wormspace.log.records import Record, decode_record
from wormspace.log.tape import Tape

PAGE = 64


class Trimmer:
    """The beginning of one log.

    Attributes:
        first: the trim point as far as it is known here.
    """

    def __init__(self, tape: Tape, mark: Mark) -> None:
        self._tape = tape
        self._mark = mark
        self.first = 0

    async def find_first(self) -> int:
        """The trim point, linearizably."""
        await self._look()
        return self.first

    async def _look(self) -> int:
        """Find the trim point; returns the number of its mark."""
        found = await self._mark.get()
        if found is None:
            return ABSENT
        self.first = max(self.first, msgspec.msgpack.decode(found[1], type=int))
        return found[0]

    async def below(self, position: int) -> int:
        """Trim all below `position`; returns the trim point.

        Raises:
            NotWritten: it is above the tail.
        """
        if position > await self._tape.end():
            raise NotWritten(f"position {position} is above the tail; nothing was trimmed")
        while True:
            number = await self._look()
            if self.first >= position:
                break
            if await self._mark.replace(number, msgspec.msgpack.encode(position)) is not None:
                self.first = position
        # Also what an earlier trimmer that died has left.  Never the open segment: its holder's
        # successor has to find its seam empty.
        whole = min(self.first // self._tape.size, await self._tape.open_segment())
        if whole > 0:
            await self._tape.space.trim_prefix(whole)
        return self.first

    async def search(self, holds: Callable[[Record], bool]) -> int:
        """The first position whose entry, and all later ones, satisfy `holds`; else the tail.

        A binary search, which reads a page per step; `holds` is false, then true.
        """
        low, high = await self.find_first(), await self._tape.end()
        while low < high:
            middle = (low + high) // 2
            found = await self.entry_from(middle, high)
            if found is None or holds(found[1]):
                high = middle
            else:
                low = found[0] + 1
        return low

    async def entry_from(self, start: int, stop: int) -> tuple[int, Record] | None:
        """The first entry in [start, stop), and its position."""
        while start < stop:
            until = min(stop, start + PAGE)
            for position, raw in enumerate(await self._read(start, until), start):
                if raw:
                    return position, decode_record(raw, position)
            start = until
        return None

    async def last_entry(self) -> tuple[int, Record] | None:
        """The last entry of the log, and its position."""
        stop, first = await self._tape.end(), await self.find_first()
        while stop > first:
            start = max(first, stop - PAGE)
            values = await self._read(start, stop)
            for position in range(stop - 1, start - 1, -1):
                raw = values[position - start]
                if raw:
                    return position, decode_record(raw, position)
            stop = start
        return None

    async def _read(self, start: int, stop: int) -> list[bytes | None]:
        try:
            return await self._tape.read(start, stop)
        except Trimmed:  # by somebody else, just now
            return [None] * (stop - start)

    async def total(self) -> int:
        """Bytes of all entries ever appended, trimmed or not."""
        last = await self.last_entry()
        return last[1].before + last[1].size if last else 0
