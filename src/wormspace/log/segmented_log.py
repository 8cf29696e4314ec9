"""A segmented log: slots 0, 1, 2, ... laid over the segments of a space.

A segment of the segmented log has `size` slots and one register more, the seal.  Segments are used
in order, and the seal of one is written when the next is ready to be used, so the closed segments
are a prefix and the first without a seal is the open one.

The end of the segmented log, one past the last slot that is written, is found by reading registers
and nothing else: it is the truth, whatever a sequencer believes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from wormspace.errors import Trimmed, WrongKind
from wormspace.knobs import KNOBS
from wormspace.log.records import HOLE
from wormspace.log.spaces import metadata, require_part
from wormspace.space import Segment, Space
from wormspace.writer.segments import find_or_allocate
from wormspace.writer.settling import settle_range

POLL_S = 0.01
"""How often one looks again at a slot that is still empty."""


class SegmentedLog:
    """Slots over a space.

    Attributes:
        space: where the segments are.
        size: slots per segment.
        part: which part of a log it is.
    """

    def __init__(self, space: Space, size: int, part: str) -> None:
        self.space = space
        self.size = size
        self.part = part
        self._segments: dict[int, Segment] = {}
        self._open = 0  # all segments below are closed
        self._end = 0  # some slot just below is written, or it is 0

    def segment(self, number: int) -> Segment:
        """A segment's handle, without asking whether there is such a segment.

        In one that is not allocated all registers are empty; only `Term` writes, and it makes
        sure first.
        """
        segment = self._segments.get(number)
        if segment is None:
            segment = Segment(self.space, number, self.size + 1, b"")
            self._segments[number] = segment
            if len(self._segments) > KNOBS.log_segment_handles:
                del self._segments[next(iter(self._segments))]
        return segment

    async def allocated(self, number: int) -> bool:
        """Make sure that a segment is allocated; true if it was allocated here.

        Raises:
            WrongKind: somebody uses the space for something else.
            NewerFormat: a newer wormspace allocated it.
        """
        size = self.size + 1
        try:
            segment, is_new = await find_or_allocate(self.space, number, metadata(self.part), size)
        except Trimmed:
            return False
        require_part(segment, self.part)
        if segment.size != size:
            raise WrongKind(
                f"segment {self.space.name}/{number} has {segment.size} registers, those of this "
                f"log have {size}: somebody else allocated it"
            )
        return is_new

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(segment, offset, stop offset) of each segment that [start, stop) touches."""
        while start < stop:
            number, offset = divmod(start, self.size)
            until = min(self.size, offset + stop - start)
            yield number, offset, until
            start += until - offset

    async def read(self, start: int, stop: int) -> list[bytes | None]:
        """The values at [start, stop): None where nothing is written.

        Raises:
            Trimmed, Unavailable.
        """
        values: list[bytes | None] = []
        for number, offset, until in self.pieces(start, stop):
            values += await self.segment(number).read_range(offset, until)
        return values

    async def decided(self, start: int, stop: int, patience_s: float = 0.0) -> list[bytes]:
        """The values at [start, stop); what stays empty for so long becomes a hole.

        Raises:
            Trimmed, Unavailable.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + patience_s
        while True:
            values = await self.read(start, stop)
            decided = [value for value in values if value is not None]
            if len(decided) == len(values):
                return decided
            if loop.time() < give_up:
                await asyncio.sleep(POLL_S)
            else:
                await self.fill(start, stop)

    async def is_closed(self, number: int) -> bool:
        """Whether the segmented log goes on in the next segment."""
        return await self.seal(number) is not None

    async def seal(self, number: int) -> bytes | None:
        """What the seal of a segment holds; the empty value if the segment was trimmed."""
        try:
            return await self.segment(number).read(self.size)
        except Trimmed:
            return HOLE

    # ------------------------------------------------------------ the end

    async def open_segment(self) -> int:
        """The first segment that is not closed.  It is allocated, unless it is 0."""
        number = self._open
        if await self.is_closed(number):
            # Far behind, perhaps: go on from the other end, where few are allocated ahead.
            number = max(number + 1, await self.space.tail() - 1)
            while number > self._open + 1 and not await self.is_closed(number - 1):
                number -= 1
            while await self.is_closed(number):
                number += 1
        self._open = max(self._open, number)
        return number

    async def end(self) -> int:
        """One past the last slot that is written; 0 if none is.

        Linearizable: it is above every slot written before the call began.
        """
        number = await self.open_segment()
        while True:
            try:
                low, values = await self._rest(number)
                is_closed = values[-1] is not None
            except Trimmed:
                is_closed = True
            if is_closed:  # meanwhile
                number += 1
                self._open = max(self._open, number)
                continue
            written = [i for i, value in enumerate(values) if value is not None]
            if written:
                return self.saw(number * self.size + low + written[-1])
            if low > 0:
                return self.saw(number * self.size + low - 1)
            break
        return await self._end_below(number)

    async def _end_below(self, number: int) -> int:
        """The end, where the open segment `number` is empty."""
        while number > 0:
            number -= 1
            try:
                low, values = await self._rest(number)
            except Trimmed:
                return (number + 1) * self.size
            written = [i for i, value in enumerate(values[:-1]) if value is not None]
            if written or low > 0:
                return self.saw(number * self.size + low + (written[-1] if written else -1))
        return 0

    async def _rest(self, number: int) -> tuple[int, list[bytes | None]]:
        """An offset with a written register just below it (or 0), and all values from there."""
        segment = self.segment(number)
        low = await self.written_offset(number)
        return low, await segment.read_range(low, self.size + 1)

    async def written_offset(self, number: int) -> int:
        """An offset near the end of what is written, with a written register just below; or 0.

        Because there may be gaps, something may be written beyond it as well.

        Raises:
            Trimmed.
        """
        first = number * self.size
        if first < self._end <= first + self.size:
            return self._end - first
        segment = self.segment(number)
        low, high = 0, self.size
        while high - low > KNOBS.log_near:
            step = max(1, (high - low) // KNOBS.log_probes)
            offsets = range(low + step - 1, high, step)
            values = await asyncio.gather(*(segment.read(offset) for offset in offsets))
            written = [i for i, value in enumerate(values) if value is not None]
            if not written:
                high = offsets[0]
                continue
            last = written[-1]
            low = offsets[last] + 1
            if last + 1 < len(offsets):
                high = offsets[last + 1]
        if low:
            self.saw(first + low - 1)
        return low

    def saw(self, slot: int) -> int:
        """Remember that this slot is written; returns the end as far as is known now."""
        self._end = max(self._end, slot + 1)
        return self._end

    # ------------------------------------------------------------ holes

    async def fill(self, start: int, stop: int) -> None:
        """Decide all of [start, stop): what is not written becomes a hole.

        The capture steals the registers from whoever was given them, so an appender that was slow
        finds its slot taken, and appends again.

        Raises:
            Trimmed, Unavailable.
        """
        for number, offset, until in self.pieces(start, stop):
            await settle_range(self.segment(number), offset, until, lambda _: HOLE)

    async def settle(self, slot: int, mine: bytes) -> bool:
        """Whether `mine`, whose write had an unknown outcome, is what the slot holds for ever.

        Raises:
            Trimmed, Unavailable.
        """
        number, offset = divmod(slot, self.size)
        value = await self.segment(number).read(offset)
        if value is None:
            value = await self.segment(number).settle(offset, HOLE)
        return value == mine
