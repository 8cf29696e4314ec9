"""From positions to slots and back: finding entries, the tail, and reading in order.

A slot is a register of the segmented log; it holds a batch, which is one entry or more, or is a
hole.  Batches say which positions they hold, and of two batches the one in the higher slot has the
higher positions (the sequencers see to that).  So a position is found by a search among the slots,
which goes by what was seen of other batches.  Where each batch has one entry, slots and positions
run in step and the first look finds it.  Between two batches with nothing but holes between them,
the positions that neither has are holes, for ever.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_right
from collections.abc import Sequence

from wormspace.errors import ProtocolViolation, Trimmed
from wormspace.knobs import KNOBS
from wormspace.log.errors import DamagedEntry, NotWritten
from wormspace.log.records import MAX_POSITION, BatchRecord, Entry, read_batch
from wormspace.log.segmented_log import POLL_S, SegmentedLog
from wormspace.log.trim_point import Place, TrimPoint


class _Seen:
    """Where some batches are: first position, slot and end, ascending."""

    def __init__(self) -> None:
        self.firsts: list[int] = []
        self.slots: list[int] = []
        self.ends: list[int] = []

    def add(self, slot: int, batch: BatchRecord) -> None:
        """A batch was read."""
        i = bisect_right(self.slots, slot)
        if i and self.slots[i - 1] == slot:
            return
        self.firsts.insert(i, batch.first)
        self.slots.insert(i, slot)
        self.ends.insert(i, batch.end)

    def forget(self) -> None:
        """Forget every second one, if there are many."""
        if len(self.slots) > KNOBS.log_remembered_batches:
            del self.firsts[::2], self.slots[::2], self.ends[::2]

    def last_upto(self, position: int) -> int:
        """The index of the last known batch that begins at `position` or below; -1 if none does."""
        return bisect_right(self.firsts, position) - 1


class _Bounds:
    """A position's slot is `low` or above it, and below `high`; perhaps it is `guess`."""

    __slots__ = ("guess", "high", "low")

    def __init__(self, low: int, high: int, guess: int) -> None:
        self.low = low
        self.high = high
        self.guess = max(low, min(high - 1, guess))

    def probes(self) -> list[int]:
        """Where to look: the guess, and from `low` on at twice the distance each time."""
        found = {self.guess}
        distance = 0
        while self.low + distance < self.high:
            found.add(self.low + distance)
            distance = 2 * distance + 1
        return sorted(found)


class ReadCursor:
    """Reads the slots of a log in order; its place is a slot, and the position wanted there.

    Args:
        batch: how many entries the batches ahead have, as far as can be guessed.

    Attributes:
        slot: the next to be read.
        position: the next that is wanted: all below was read, or never asked for.
        entry_bytes: what an entry took on average, of those that were read last.
        damage: positions that were passed and cannot be read, if there were any; it goes no
            further then.
    """

    def __init__(self, slot: int, position: int, batch: int, entry_bytes: float) -> None:
        self.slot = slot
        self.position = position
        self.entry_bytes = entry_bytes
        self.damage: DamagedEntry | None = None
        self._batch = float(batch)
        self._above = 0
        self._damaged: int | None = None  # a slot, since the last batch, that could not be read

    def take(self, values: Sequence[bytes | None]) -> list[Entry]:
        """Move over the next slots, up to one that is not written; returns what they hold.

        Raises:
            ProtocolViolation: one position was given to two entries, or something else was written.
        """
        entries: list[Entry] = []
        began, count, size = self.slot, 0, 0
        for raw in values:
            if raw is None:
                break
            batch = read_batch(raw, self.slot) if raw else None
            if raw and batch is None:
                self._damaged = self.slot
            if batch is not None:
                if batch.first < self._above:
                    raise ProtocolViolation(f"slot {self.slot} repeats position {batch.first}")
                if self._damaged is not None and self._lacks(batch):
                    break
                self._above = batch.end
                count += len(batch.bodies)
                size += len(raw)
                if batch.end > self.position:
                    entries += batch.entries(self.position)
                    self.position = batch.end
            self.slot += 1
        if count:
            self._batch = max(1.0, count / (self.slot - began))
            self.entry_bytes = size / count
        return entries

    def _lacks(self, batch: BatchRecord) -> bool:
        """The next batch after damage: whether wanted positions are missing before it."""
        slot, self._damaged = self._damaged, None
        if batch.first <= self.position:
            return False
        self.damage = DamagedEntry(
            f"positions {self.position} to {batch.first - 1} cannot be read: slot {slot} holds "
            f"something that is no entry of a log; go on from position {batch.first}",
            self.position,
            batch.first,
        )
        return True

    @property
    def is_damaged(self) -> bool:
        """Whether a slot could not be read since the last batch."""
        return self._damaged is not None

    def check(self) -> None:
        """Raise what stopped it."""
        if self.damage is not None:
            raise self.damage

    def ahead(self, entries: int) -> int:
        """How many slots may have so many entries, and no more than a page."""
        wanted = 1 + math.ceil((entries - 1) / self._batch)
        page = int(KNOBS.log_page_bytes / (self._batch * self.entry_bytes))
        return min(wanted, KNOBS.log_page_slots, max(1, page))


class Reader:
    """Finds and reads the entries of one log.

    Args:
        patience_s: how long a slot may stay empty, while later ones are written, before it is made
            a hole.

    Attributes:
        segmented_log: its slots.
        trim_point: its trim point.
    """

    def __init__(
        self, segmented_log: SegmentedLog, trim_point: TrimPoint, patience_s: float
    ) -> None:
        self.segmented_log = segmented_log
        self.trim_point = trim_point
        self.patience_s = patience_s
        self._seen = _Seen()
        self._entry_bytes = KNOBS.log_page_bytes / KNOBS.log_first_slots
        self._end = Place(0, 0)  # one past the last batch, as it was once
        self._reached = 0  # one past the highest entry that was read here
        self._loop = asyncio.get_running_loop()

    # ------------------------------------------------------------ finding

    async def cursor(self, position: int) -> ReadCursor:
        """A cursor at a position: at the slot that holds it, or a little before.

        Raises:
            Trimmed, Unavailable.
        """
        slot, _ = await self._seek(position)
        return self._cursor(slot, position)

    def _cursor(self, slot: int, position: int) -> ReadCursor:
        seen = self._seen
        i = seen.last_upto(position)
        batch = seen.ends[i] - seen.firsts[i] if i >= 0 else 1
        return ReadCursor(slot, position, batch, self._entry_bytes)

    async def find(self, position: int) -> tuple[int, BatchRecord | None]:
        """A slot below which there is nothing at `position` or above; mostly the one it is in.

        With it comes the batch in that slot, if it was read on the way.

        Raises:
            Trimmed, Unavailable.
        """
        self._seen.forget()  # not within a search, which goes by what it found
        while True:
            known = self.trim_point.at
            try:
                return await self._search(position)
            except Trimmed:
                if await self.trim_point.find() == known:
                    raise

    async def _seek(self, position: int) -> tuple[int, BatchRecord | None]:
        """`find`, for who wants what is there: what was trimmed meanwhile must not look empty.

        Raises:
            Trimmed, Unavailable.
        """
        found = await self.find(position)
        if position < self.trim_point.at.position:
            raise Trimmed(f"position {position} was trimmed while it was looked for")
        return found

    async def _search(self, position: int) -> tuple[int, BatchRecord | None]:
        read: dict[int, BatchRecord] = {}
        widely = False
        while True:
            bounds = self._bounds(position)
            if widely and bounds.high == MAX_POSITION:
                await self.tail()
                if position >= self._end.position:
                    return max(self._end.slot, bounds.low), None
                continue
            if bounds.low >= bounds.high:
                return bounds.low, read.get(bounds.low)
            slots = bounds.probes() if widely else [bounds.guess]
            size = self.segmented_log.size
            probes = (self.segmented_log.segment(slot // size).read(slot % size) for slot in slots)
            values = zip(slots, await asyncio.gather(*probes), strict=True)
            looked = {slot: read_batch(raw, slot) for slot, raw in values if raw}
            news = {slot: batch for slot, batch in looked.items() if batch is not None}
            for slot, batch in news.items():
                self._seen.add(slot, batch)
            if not news and (widely or bounds.high - bounds.low == 1):
                return bounds.low, None  # holes, or nothing yet: that must be read in order
            read.update(news)
            widely = True

    def _bounds(self, position: int) -> _Bounds:
        """Where to search, by what was seen."""
        seen, begin = self._seen, self.trim_point.at
        low, at, pace = begin.slot, begin.position, 1
        high, until = MAX_POSITION, 0
        i = seen.last_upto(position)
        if i >= 0 and seen.slots[i] >= low:
            if seen.ends[i] > position:
                return _Bounds(seen.slots[i], seen.slots[i], 0)
            low, at, pace = seen.slots[i] + 1, seen.ends[i], seen.ends[i] - seen.firsts[i]
        if i + 1 < len(seen.slots):
            high, until = seen.slots[i + 1], seen.firsts[i + 1]
        elif position < self._end.position:
            high, until = self._end.slot, self._end.position
        ahead = max(0, position - at)
        if until > at:
            return _Bounds(low, high, low + ahead * (high - low) // (until - at))
        return _Bounds(low, high, low + ahead // pace)

    # ------------------------------------------------------------ the end

    def delivered(self, stop: int) -> None:
        """The entry just below `stop` was read here."""
        self._reached = max(self._reached, stop)

    async def require_reached(self, position: int) -> None:
        """Make sure that a position is not above the tail.

        Raises:
            NotWritten, Unavailable.
        """
        known = max(self._reached, self._end.position, self.trim_point.at.position)
        if position > known and position > (tail := await self.tail()):
            raise NotWritten(
                f"position {position} of log {self.segmented_log.space.name!r} is above the "
                f"tail, which is {tail}: commit one past the last entry that was dealt with"
            )

    async def tail(self) -> int:
        """One past the last position that is written.

        Linearizable: it is above every position written before the call began.

        Raises:
            Unavailable.
        """
        end = await self.segmented_log.end()
        last = await self.last_batch(end)
        if last is None:
            return self.trim_point.at.position
        slot, batch = last
        if slot >= self._end.slot:
            self._end = Place(batch.end, slot + 1)
        return batch.end

    async def last_batch(self, below: int, *, fill: bool = False) -> tuple[int, BatchRecord] | None:
        """The last batch in a slot below `below`, and its slot; None if all of it is trimmed.

        Args:
            fill: make holes of the slots above it that are empty, so that it is the last for ever.

        Raises:
            Unavailable.
        """
        width = 1
        while below > (lowest := self.trim_point.at.slot):
            start = max(lowest, below - width)
            try:
                values = await self.segmented_log.read(start, below)
                batches = [
                    read_batch(raw, start + i) if raw else None for i, raw in enumerate(values)
                ]
                last = max((i for i, batch in enumerate(batches) if batch), default=-1)
                if fill and None in values[last + 1 :]:
                    await self.segmented_log.fill(start + last + 1, below)
                    continue
            except Trimmed:
                if (await self.trim_point.find()).slot == lowest:
                    return None
                continue
            batch = batches[last] if last >= 0 else None
            if batch is not None:
                return start + last, batch
            below, width = start, min(KNOBS.log_look_back, 2 * width)
        return None

    # ------------------------------------------------------------ reading on

    async def page(self, cursor: ReadCursor, entries: int = MAX_POSITION) -> list[bytes | None]:
        """What is in the next slots: a page, or fewer if they have about so many entries."""
        self._entry_bytes = cursor.entry_bytes
        return await self.segmented_log.read(cursor.slot, self._stop(cursor, entries))

    def _stop(self, cursor: ReadCursor, entries: int) -> int:
        size = self.segmented_log.size
        return min(cursor.slot + cursor.ahead(entries), (cursor.slot // size + 1) * size)

    async def read(self, position: int) -> tuple[bool, Entry | None]:
        """Whether a position is decided, and its entry if it has one.

        Raises:
            Trimmed, Unavailable.
        """
        slot, batch = await self._seek(position)
        if batch is None:
            [raw] = await self.segmented_log.read(slot, slot + 1)
            batch = read_batch(raw, slot) if raw else None
        if batch is not None and batch.first <= position < batch.end:
            return True, batch.entries(position, position + 1)[0]
        cursor, wanted = self._cursor(slot, position), 1
        while cursor.position <= position:
            values = await self.page(cursor, wanted)
            entries = cursor.take(values)
            if entries:
                return True, entries[0] if entries[0].position == position else None
            cursor.check()
            if None in values:
                beyond = await self._beyond_gaps(position)
                if beyond <= cursor.slot:
                    return False, None
                cursor = self._cursor(beyond, position)
            wanted *= 2
        return True, None

    async def _beyond_gaps(self, position: int) -> int:
        """The slot behind the last batch below `position`, or its own; 0 if nothing is above it.

        Slots before it may be empty: their appenders are slower than those of later ones.
        """
        if self._bounds(position).high == MAX_POSITION:
            return 0
        await self.first_batch(position)
        return self._bounds(position).low

    async def fill(self, position: int) -> Entry | None:
        """Decide a position below the tail: its entry, or None because it is a hole from now on.

        Raises:
            Trimmed, Unavailable.
        """
        cursor = await self.cursor(position)
        while cursor.position <= position:
            values = await self.page(cursor, 1)
            entries = cursor.take(values)
            if entries:
                return entries[0] if entries[0].position == position else None
            cursor.check()
            if None in values:
                await self.segmented_log.fill(cursor.slot, cursor.slot + 1)
        return None

    async def read_range(self, start: int, stop: int) -> list[Entry]:
        """The entries at [start, stop), as far as it lies below the tail, when all is decided.

        Raises:
            Trimmed, Unavailable.
        """
        cursor = await self.cursor(start)
        entries: list[Entry] = []
        give_up = self._loop.time() + self.patience_s
        while cursor.position < stop:
            until = self._stop(cursor, stop - cursor.position)
            values = await self.segmented_log.read(cursor.slot, until)
            entries += cursor.take(values)
            if cursor.damage is not None and cursor.damage.position < stop:
                raise cursor.damage
            if cursor.slot == until or cursor.position >= stop:
                continue
            stop = min(stop, await self.tail())
            if cursor.position < stop:
                if self._loop.time() < give_up:
                    await asyncio.sleep(POLL_S)
                else:
                    await self.segmented_log.fill(
                        cursor.slot, min(until, await self.segmented_log.end())
                    )
        self._entry_bytes = cursor.entry_bytes
        if entries:
            self.delivered(cursor.position)
        while entries and entries[-1].position >= stop:
            entries.pop()
        return entries

    async def check_damage(self, slot: int, start: int) -> None:
        """For a slot that cannot be read: whether positions are missing there.

        Raises:
            DamagedEntry: some are, at `start` or above.
            Trimmed, Unavailable.
        """
        last = await self.last_batch(slot)
        begin = self.trim_point.at
        at, position = (last[0] + 1, last[1].end) if last else (begin.slot, begin.position)
        cursor = self._cursor(at, max(position, start))
        while cursor.slot <= slot or cursor.is_damaged:
            values = await self.page(cursor, 1)
            entries = cursor.take(values)
            cursor.check()
            if entries or None in values:
                return

    async def first_batch(self, position: int) -> BatchRecord | None:
        """The batch with the entry at `position`, or if there is none, the next that is written.

        Raises:
            Trimmed, Unavailable.
        """
        slot, batch = await self.find(position)
        if batch is not None:
            return batch
        end, size, width = await self.segmented_log.end(), self.segmented_log.size, 1
        while slot < end:
            stop = min(end, slot + width, (slot // size + 1) * size)
            for at, raw in enumerate(await self.segmented_log.read(slot, stop), slot):
                batch = read_batch(raw, at) if raw else None
                if batch is None:
                    continue
                self._seen.add(at, batch)
                if batch.end > position:
                    return batch
            slot, width = stop, min(KNOBS.log_look_back, 2 * width)
        return None
