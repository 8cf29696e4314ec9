"""A listener of a space: history by reading, the present by events, each thing once.

The subscription comes first and the reading second, so that nothing falls between them; what both
bring is delivered once.  After a gap in the events, what was not delivered yet is read again: which
segments are trimmed, a page of spans at a time, and then of each segment that is not full the
registers that are not known, with one message.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Mapping
from typing import Protocol, TypeAlias

from wormspace.addresses import METADATA, TRIM
from wormspace.errors import NotAllocated, Trimmed, Unavailable, WormError
from wormspace.knobs import KNOBS
from wormspace.registers.interface import Event as RegisterEvent
from wormspace.registers.interface import Gap, RegistersTrimmed, Wrote
from wormspace.registers.spans import OffsetSet, SpanSet
from wormspace.runtime.retrying import FOLLOW_RETRY_S
from wormspace.space.address import Address
from wormspace.space.connection import Connection
from wormspace.space.events import Allocated, Event, SegmentsTrimmed, Written
from wormspace.space.metadata import Metadata
from wormspace.space.segment import Segment
from wormspace.space.stream import Stream

log = logging.getLogger("wormspace.follow")

_Values: TypeAlias = Mapping[int, bytes]


class Followed(Protocol):
    """A space, as its listeners see it."""

    name: str
    client: Connection

    async def segment(self, number: int) -> Segment: ...


class _Progress:
    """What was delivered of one segment."""

    __slots__ = ("announced", "offsets", "size", "writes")

    def __init__(self) -> None:
        self.announced = False
        self.size = 0
        self.offsets = OffsetSet()
        self.writes = 0


class _Look:
    """What was read of a segment: its metadata if that was asked for, and values below `end`."""

    __slots__ = ("end", "metadata", "values")

    def __init__(self, metadata: Metadata | None, values: _Values, end: int) -> None:
        self.metadata = metadata
        self.values = values
        self.end = end


class Follower(Stream[Event]):
    """One listener: everything from the start on, each once.

    It is *behind* at the segment `_behind` while it reads the past, and hears events otherwise.
    """

    def __init__(self, space: Followed, start: Address, stop: int) -> None:
        self._space = space
        self._start = start
        self._stop = stop
        self._progress: dict[int, _Progress] = {}
        self._done = SpanSet(start.segment)  # of them all writes were delivered
        self._gone = SpanSet(start.segment)  # of them the trim was
        self._trims: deque[SegmentsTrimmed] = (
            deque()
        )  # read, and delivered in the order of addresses
        self._tail = start.segment
        self._behind: int | None = None
        self._from = 0  # what is below it in that segment was read
        self._trims_from = stop  # the trims below it were read
        self._width = 1
        self._source = space.client.registers.listen(space.name, start.segment, stop)
        super().__init__(self._source.close, f"space {space.name!r} from {start}")

    async def _more(self) -> None:
        if self._behind is not None:
            if self._trims_from < self._stop:
                await self._read_trims(self._trims_from)
            else:
                await self._catch_up(self._behind)
            return
        event = await anext(self._source)
        if isinstance(event, Gap):
            self._go_back()
        else:
            self._items.extend(self._take(event))

    # ------------------------------------------------------------ the present

    def _take(self, event: RegisterEvent) -> list[Event]:
        """What of an event is news."""
        if isinstance(event, RegistersTrimmed):
            return list(self._drop(event.number, event.stop))
        if not isinstance(event, Wrote) or event.number in self._done or event.offset == TRIM:
            return []
        self._tail = max(self._tail, event.number + 1)
        if event.offset == METADATA:
            return self._announce(event.number, Metadata.decode(event.value))
        return self._deliver(event.number, event.offset, event.value)

    def _announce(self, number: int, record: Metadata) -> list[Event]:
        progress = self._progress.setdefault(number, _Progress())
        if progress.announced:
            return []
        progress.announced = True
        progress.size = record.size
        self._finish(number, progress)
        return [Allocated(number, record.size, record.payload)]

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

    def _drop(self, first: int, stop: int) -> list[SegmentsTrimmed]:
        """A trim, of which every server tells; costs no more however many segments it is of."""
        stop = min(stop, self._stop)
        news = self._gone.missing(first, stop)
        self._gone.add(first, stop)
        self._mark_done(first, stop)
        self._tail = max(self._tail, stop)
        return [SegmentsTrimmed(*span) for span in news]

    def _finish(self, number: int, progress: _Progress) -> None:
        """A segment of which everything was delivered needs no memory."""
        if progress.announced and progress.writes >= progress.size - self._first_of(number):
            self._mark_done(number, number + 1)

    def _first_of(self, number: int) -> int:
        """The first offset of a segment that is to be delivered."""
        return self._start.offset if number == self._start.segment else 0

    def _mark_done(self, first: int, stop: int) -> None:
        self._done.add(first, stop)
        self._source.leave(first, stop)
        if stop - first < len(self._progress):
            over = [number for number in range(first, stop) if number in self._progress]
        else:
            over = [number for number in self._progress if first <= number < stop]
        for number in over:
            del self._progress[number]

    # ------------------------------------------------------------ the past

    def _go_back(self) -> None:
        """Something may have been missed anywhere."""
        self._behind, self._from = self._done.below, 0
        self._trims_from = self._start.segment

    async def _read_trims(self, first: int) -> None:
        """What of the trims from `first` on is news, as many as travel in one message."""
        client = self._space.client
        while True:
            try:
                spans, end = await client.registers.trims(
                    self._space.name, first, self._stop, client.deadline(None)
                )
                break
            except Unavailable as e:
                await self._wait_for_servers(e)
        for span in spans:
            self._trims.extend(self._drop(*span))
        self._trims_from = end
        self._behind = self._done.below

    def _deliver_trims(self, below: float = math.inf) -> None:
        """Deliver what was read of the trims of segments below one that is read now."""
        while self._trims and self._trims[0].segment < below:
            self._items.append(self._trims.popleft())

    async def _catch_up(self, number: int) -> None:
        """Read on, in the order of addresses: of several segments at once, if they are short.

        What is read and will come as an event too is left to the event: a page is read later than
        the one before it, so it may show a write that came after one the earlier page missed.
        """
        numbers = self._next(number)
        looks = await asyncio.gather(*(self._look(n) for n in numbers))
        for at, look in zip(numbers, looks, strict=True):
            self._deliver_trims(at)
            if look is None:
                self._end_catching_up()
                return
            self._behind = at
            self._tail = max(self._tail, at + 1)
            if isinstance(look, Trimmed):
                self._items.extend(self._drop(at, at + 1))
            elif not self._absorb(at, look):
                self._width = 1
                return
            self._behind, self._from = at + 1, 0
        self._width = min(2 * self._width, KNOBS.space_catch_up)
        if not numbers or numbers[-1] + 1 >= self._stop:
            self._end_catching_up()

    def _end_catching_up(self) -> None:
        self._behind = None
        self._deliver_trims()

    def _next(self, number: int) -> list[int]:
        """The segments to read: known ones, or the first that is not known to be allocated."""
        numbers: list[int] = []
        number = self._done.next_missing(number)
        while number < self._stop and len(numbers) < self._width:
            numbers.append(number)
            if number >= self._tail:
                break
            number = self._done.next_missing(number + 1)
        return numbers

    def _absorb(self, number: int, look: _Look) -> bool:
        """Deliver what was read of a segment; whether that was all of it."""
        if look.metadata is not None:
            self._items.extend(self._announce(number, look.metadata))
        for offset, value in sorted(look.values.items()):
            if not self._source.is_coming(number, offset):
                self._items.extend(self._deliver(number, offset, value))
        progress = self._progress.get(number)
        self._from = look.end
        return progress is None or look.end >= progress.size

    async def _look(self, number: int) -> _Look | Trimmed | None:
        """Read of a segment what a page has, however long the servers are away; None: no segment.

        What is trimmed is the result, not raised: others are read at the same time.
        """
        while True:
            try:
                return await self._look_once(number)
            except NotAllocated:
                return None
            except Trimmed as e:
                return e
            except Unavailable as e:
                await self._wait_for_servers(e)

    async def _wait_for_servers(self, error: WormError) -> None:
        log.info("listen: catching up waits: %s", error)
        await asyncio.sleep(FOLLOW_RETRY_S)

    async def _look_once(self, number: int) -> _Look:
        client = self._space.client
        progress = self._progress.get(number)
        metadata = None
        if progress is None or not progress.announced:
            segment = await self._space.segment(number)
            metadata = Metadata(segment.size, segment.metadata, b"")
        size = metadata.size if metadata else self._progress_of(number).size
        lo = max(self._from if number == self._behind else 0, self._first_of(number))
        known = progress.offsets if progress else OffsetSet()
        spans = known.missing(lo, size, KNOBS.registers_spans)
        segment_name, deadline = (self._space.name, number), client.deadline(None)
        values, end = await client.registers.read_page(
            segment_name, [*spans, (TRIM, TRIM + 1)], deadline
        )
        if TRIM in values:
            await client.registers.trim(segment_name, number + 1, deadline)
            raise Trimmed(f"segment {number} was trimmed")
        return _Look(metadata, values, end)

    def _progress_of(self, number: int) -> _Progress:
        return self._progress.get(number) or _Progress()
