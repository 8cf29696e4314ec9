"""A listener of a space: history by reading, the present by events, each thing once.

The subscription comes first and the reading second, so that nothing falls between them; what both
bring is delivered once.  After a gap in the events, everything not delivered yet is read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from wormspace.errors import NotAllocated, ServerFull, Trimmed, Unavailable
from wormspace.register.contract import METADATA, TRIM, Dropped, EventStream, Gap, Wrote
from wormspace.register.contract import Event as RegisterEvent
from wormspace.register.issued import OffsetSet
from wormspace.space.address import Address
from wormspace.space.events import Allocated, Event, TrimmedAway, Written
from wormspace.space.metadata import Metadata

if TYPE_CHECKING:
    from wormspace.space.segment import Segment
    from wormspace.space.space import Space

log = logging.getLogger("wormspace.follow")

PAGE = 256
RETRY_S = 0.2


class _Progress:
    """What was delivered of one segment."""

    __slots__ = ("announced", "offsets", "size", "writes")

    def __init__(self) -> None:
        self.announced = False
        self.size = 0
        self.offsets = OffsetSet()
        self.writes = 0


class _Numbers:
    """A set of segment numbers that has everything below `below`, and mostly nothing else."""

    __slots__ = ("_others", "below")

    def __init__(self, below: int) -> None:
        self.below = below
        self._others: set[int] = set()

    def add(self, number: int) -> None:
        """Put `number` into the set."""
        if number >= self.below:
            self._others.add(number)
        while self.below in self._others:
            self._others.remove(self.below)
            self.below += 1

    def __contains__(self, number: int) -> bool:
        return number < self.below or number in self._others


class Follower:
    """One listener; `events` is its stream."""

    def __init__(self, space: Space, start: Address, stop: int) -> None:
        self._space = space
        self._start = start
        self._stop = stop
        self._progress: dict[int, _Progress] = {}
        self._done = _Numbers(start.segment)  # of them all writes were delivered
        self._gone = _Numbers(start.segment)  # of them the trim was
        self._tail = start.segment

    async def events(self) -> AsyncIterator[Event]:
        """Everything from the start on, each once."""
        source = self._space.client.registers.listen(
            self._space.name, self._start.segment, self._stop
        )
        try:
            async for event in source:
                if isinstance(event, Gap):
                    async for missed in self._catch_up(source):
                        yield missed
                else:
                    for fresh in self._take(event):
                        yield fresh
        finally:
            await source.aclose()

    # ------------------------------------------------------------ the present

    def _take(self, event: RegisterEvent) -> list[Event]:
        """What of an event is news."""
        if isinstance(event, Dropped):
            return self._drop(max(event.number, self._start.segment), min(event.stop, self._stop))
        if not isinstance(event, Wrote) or event.number in self._done or event.offset == TRIM:
            return []
        self._tail = max(self._tail, event.number + 1)
        if event.offset == METADATA:
            record = Metadata.decode(event.value)
            return self._announce(event.number, record.size, record.payload)
        return self._deliver(event.number, event.offset, event.value)

    def _announce(self, number: int, size: int, payload: bytes) -> list[Event]:
        progress = self._progress.setdefault(number, _Progress())
        if progress.announced:
            return []
        progress.announced = True
        progress.size = size
        self._finish(number, progress)
        return [Allocated(number, size, payload)]

    def _deliver(self, number: int, offset: int, value: bytes) -> list[Event]:
        if number in self._done:
            return []  # its last register came earlier in the same page: nothing is new
        address = Address(number, offset)
        progress = self._progress.setdefault(number, _Progress())
        if address < self._start or offset in progress.offsets:
            return []
        progress.offsets.add(offset)
        progress.writes += 1
        self._finish(number, progress)
        return [Written(address, value)]

    def _drop(self, first: int, stop: int) -> list[Event]:
        """A trim, of which every server tells."""
        fresh = range(max(first, self._gone.below), stop)
        news = any(number not in self._gone for number in fresh)
        for number in fresh:
            self._gone.add(number)
            self._mark_done(number)
        self._tail = max(self._tail, stop)
        return [TrimmedAway(first, stop)] if news else []

    def _finish(self, number: int, progress: _Progress) -> None:
        """A segment of which everything was delivered needs no memory."""
        skipped = self._start.offset if number == self._start.segment else 0
        if progress.announced and progress.writes >= progress.size - skipped:
            self._mark_done(number)

    def _mark_done(self, number: int) -> None:
        self._progress.pop(number, None)
        self._done.add(number)

    # ------------------------------------------------------------ the past

    async def _catch_up(self, source: EventStream) -> AsyncIterator[Event]:
        """Read all that was not delivered, in the order of addresses.

        What is read and will come as an event too is left to the event: a page is read later than
        the one before it, so it may show a write that came after one the earlier page missed.
        """
        number = self._done.below
        while number < self._stop:
            if number not in self._done:
                try:
                    segment = await self._insist(number)
                except NotAllocated:
                    return
                except Trimmed:
                    for event in self._drop(number, number + 1):
                        yield event
                else:
                    async for event in self._read(segment, source):
                        yield event
            number += 1

    async def _read(self, segment: Segment, source: EventStream) -> AsyncIterator[Event]:
        number = segment.number
        self._tail = max(self._tail, number + 1)
        for event in self._announce(number, segment.size, segment.metadata):
            yield event
        first = self._start.offset if number == self._start.segment else 0
        for lo in range(first, segment.size, PAGE):
            hi = min(lo + PAGE, segment.size)
            while number not in self._done:
                try:
                    values = await segment.read_range(lo, hi)
                except Trimmed:
                    for event in self._drop(number, number + 1):
                        yield event
                    return
                except (Unavailable, ServerFull) as e:
                    log.info("listen: catching up waits: %s", e)
                    await asyncio.sleep(RETRY_S)
                    continue
                for offset, value in enumerate(values, lo):
                    if value is not None and not source.is_coming(number, offset):
                        for event in self._deliver(number, offset, value):
                            yield event
                break

    async def _insist(self, number: int) -> Segment:
        """The segment, however long the servers are away."""
        while True:
            try:
                return await self._space.segment(number)
            except Unavailable as e:
                log.info("listen: catching up waits: %s", e)
                await asyncio.sleep(RETRY_S)
