"""From positions to slots and back: finding entries, the tail, and reading in order.

A slot is a register of the tape; it holds a pack, which is one entry or more, or is a hole.  Packs
say which positions they hold, and of two packs the one in the higher slot has the higher positions
(the sequencers see to that).  So a position is found by a search among the slots, which goes by
what was seen of other packs.  Where each pack has one entry, slots and positions run in step and
the first look finds it.  Between two packs with nothing but holes between them, the positions that
neither has are holes, for ever.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_right
from collections.abc import Sequence

from wormspace.errors import ProtocolViolation, Trimmed
from wormspace.knobs import KNOBS
from wormspace.log.beginning import Beginning, Place
from wormspace.log.errors import DamagedEntry, NotWritten
from wormspace.log.records import MAX_POSITION, Entry, Pack, read_pack
from wormspace.log.tape import POLL_S, Tape


class _Seen:
    """Where some packs are: first position, slot and end, ascending."""

    def __init__(self) -> None:
        self.firsts: list[int] = []
        self.slots: list[int] = []
        self.ends: list[int] = []

    def add(self, slot: int, pack: Pack) -> None:
        """A pack was read."""
        i = bisect_right(self.slots, slot)
        if i and self.slots[i - 1] == slot:
            return
        self.firsts.insert(i, pack.first)
        self.slots.insert(i, slot)
        self.ends.insert(i, pack.end)

    def forget(self) -> None:
        """Forget every second one, if there are many."""
        if len(self.slots) > KNOBS.log_remembered_packs:
            del self.firsts[::2], self.slots[::2], self.ends[::2]

    def last_upto(self, position: int) -> int:
        """The index of the last known pack that begins at `position` or below; -1 if none does."""
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


class Head:
    """A place in a log, as of the head that reads a tape.

    Args:
        pack: how many entries the packs ahead have, as far as can be guessed.

    Attributes:
        slot: the next to be read.
        position: the next that is wanted: all below was read, or never asked for.
        entry_bytes: what an entry took on average, of those that were read last.
        damage: positions that were passed and cannot be read, if there were any; it goes no
            further then.
    """

    def __init__(self, slot: int, position: int, pack: int, entry_bytes: float) -> None:
        self.slot = slot
        self.position = position
        self.entry_bytes = entry_bytes
        self.damage: DamagedEntry | None = None
        self._pack = float(pack)
        self._above = 0
        self._damaged: int | None = None  # a slot, since the last pack, that could not be read

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
            pack = read_pack(raw, self.slot) if raw else None
            if raw and pack is None:
                self._damaged = self.slot
            if pack is not None:
                if pack.first < self._above:
                    raise ProtocolViolation(f"slot {self.slot} repeats position {pack.first}")
                if self._damaged is not None and self._lacks(pack):
                    break
                self._above = pack.end
                count += len(pack.bodies)
                size += len(raw)
                if pack.end > self.position:
                    entries += pack.entries(self.position)
                    self.position = pack.end
            self.slot += 1
        if count:
            self._pack = max(1.0, count / (self.slot - began))
            self.entry_bytes = size / count
        return entries

    def _lacks(self, pack: Pack) -> bool:
        """The next pack after damage: whether wanted positions are missing before it."""
        slot, self._damaged = self._damaged, None
        if pack.first <= self.position:
            return False
        self.damage = DamagedEntry(
            f"positions {self.position} to {pack.first - 1} cannot be read: slot {slot} holds "
            f"something that is no entry of a log; go on from position {pack.first}",
            self.position,
            pack.first,
        )
        return True

    @property
    def is_damaged(self) -> bool:
        """Whether a slot could not be read since the last pack."""
        return self._damaged is not None

    def check(self) -> None:
        """Raise what stopped it."""
        if self.damage is not None:
            raise self.damage

    def ahead(self, entries: int) -> int:
        """How many slots may have so many entries, and no more than a page."""
        wanted = 1 + math.ceil((entries - 1) / self._pack)
        page = int(KNOBS.log_page_bytes / (self._pack * self.entry_bytes))
        return min(wanted, KNOBS.log_page_slots, max(1, page))


class Reader:
    """Finds and reads the entries of one log.

    Args:
        patience_s: how long a slot may stay empty, while later ones are written, before it is made
            a hole.

    Attributes:
        tape: its slots.
        beginning: its trim point.
    """

    def __init__(self, tape: Tape, beginning: Beginning, patience_s: float) -> None:
        self.tape = tape
        self.beginning = beginning
        self.patience_s = patience_s
        self._seen = _Seen()
        self._entry_bytes = KNOBS.log_page_bytes / KNOBS.log_first_slots
        self._end = Place(0, 0)  # one past the last pack, as it was once
        self._reached = 0  # one past the highest entry that was read here
        self._loop = asyncio.get_running_loop()

    # ------------------------------------------------------------ finding

    async def head(self, position: int) -> Head:
        """A head at a position: at the slot that holds it, or a little before.

        Raises:
            Trimmed, Unavailable.
        """
        slot, _ = await self._seek(position)
        return self._head(slot, position)

    def _head(self, slot: int, position: int) -> Head:
        seen = self._seen
        i = seen.last_upto(position)
        pack = seen.ends[i] - seen.firsts[i] if i >= 0 else 1
        return Head(slot, position, pack, self._entry_bytes)

    async def find(self, position: int) -> tuple[int, Pack | None]:
        """A slot below which there is nothing at `position` or above; mostly the one it is in.

        With it comes the pack in that slot, if it was read on the way.

        Raises:
            Trimmed, Unavailable.
        """
        self._seen.forget()  # not within a search, which goes by what it found
        while True:
            known = self.beginning.at
            try:
                return await self._search(position)
            except Trimmed:
                if await self.beginning.find() == known:
                    raise

    async def _seek(self, position: int) -> tuple[int, Pack | None]:
        """`find`, for who wants what is there: what was trimmed meanwhile must not look empty.

        Raises:
            Trimmed, Unavailable.
        """
        found = await self.find(position)
        if position < self.beginning.at.position:
            raise Trimmed(f"position {position} was trimmed while it was looked for")
        return found

    async def _search(self, position: int) -> tuple[int, Pack | None]:
        read: dict[int, Pack] = {}
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
            size = self.tape.size
            probes = (self.tape.segment(slot // size).read(slot % size) for slot in slots)
            values = zip(slots, await asyncio.gather(*probes), strict=True)
            looked = {slot: read_pack(raw, slot) for slot, raw in values if raw}
            news = {slot: pack for slot, pack in looked.items() if pack is not None}
            for slot, pack in news.items():
                self._seen.add(slot, pack)
            if not news and (widely or bounds.high - bounds.low == 1):
                return bounds.low, None  # holes, or nothing yet: that must be read in order
            read.update(news)
            widely = True

    def _bounds(self, position: int) -> _Bounds:
        """Where to search, by what was seen."""
        seen, begin = self._seen, self.beginning.at
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
        known = max(self._reached, self._end.position, self.beginning.at.position)
        if position > known and position > (tail := await self.tail()):
            raise NotWritten(
                f"position {position} of log {self.tape.space.name!r} is above the tail, which is "
                f"{tail}: commit one past the last entry that was dealt with"
            )

    async def tail(self) -> int:
        """One past the last position that is written.

        Linearizable: it is above every position written before the call began.

        Raises:
            Unavailable.
        """
        end = await self.tape.end()
        last = await self.last_pack(end)
        if last is None:
            return self.beginning.at.position
        slot, pack = last
        if slot >= self._end.slot:
            self._end = Place(pack.end, slot + 1)
        return pack.end

    async def last_pack(self, below: int, *, fill: bool = False) -> tuple[int, Pack] | None:
        """The last pack in a slot below `below`, and its slot; None if all of it is trimmed.

        Args:
            fill: make holes of the slots above it that are empty, so that it is the last for ever.

        Raises:
            Unavailable.
        """
        width = 1
        while below > (lowest := self.beginning.at.slot):
            start = max(lowest, below - width)
            try:
                values = await self.tape.read(start, below)
                packs = [read_pack(raw, start + i) if raw else None for i, raw in enumerate(values)]
                last = max((i for i, pack in enumerate(packs) if pack), default=-1)
                if fill and None in values[last + 1 :]:
                    await self.tape.fill(start + last + 1, below)
                    continue
            except Trimmed:
                if (await self.beginning.find()).slot == lowest:
                    return None
                continue
            pack = packs[last] if last >= 0 else None
            if pack is not None:
                return start + last, pack
            below, width = start, min(KNOBS.log_look_back, 2 * width)
        return None

    # ------------------------------------------------------------ reading on

    async def page(self, head: Head, entries: int = MAX_POSITION) -> list[bytes | None]:
        """What is in the next slots: a page, or fewer if they have about so many entries."""
        self._entry_bytes = head.entry_bytes
        return await self.tape.read(head.slot, self._stop(head, entries))

    def _stop(self, head: Head, entries: int) -> int:
        size = self.tape.size
        return min(head.slot + head.ahead(entries), (head.slot // size + 1) * size)

    async def read(self, position: int) -> tuple[bool, Entry | None]:
        """Whether a position is decided, and its entry if it has one.

        Raises:
            Trimmed, Unavailable.
        """
        slot, pack = await self._seek(position)
        if pack is None:
            [raw] = await self.tape.read(slot, slot + 1)
            pack = read_pack(raw, slot) if raw else None
        if pack is not None and pack.first <= position < pack.end:
            return True, pack.entries(position, position + 1)[0]
        head, wanted = self._head(slot, position), 1
        while head.position <= position:
            values = await self.page(head, wanted)
            entries = head.take(values)
            if entries:
                return True, entries[0] if entries[0].position == position else None
            head.check()
            if None in values:
                beyond = await self._beyond_gaps(position)
                if beyond <= head.slot:
                    return False, None
                head = self._head(beyond, position)
            wanted *= 2
        return True, None

    async def _beyond_gaps(self, position: int) -> int:
        """The slot behind the last pack below `position`, or its own; 0 if nothing is above it.

        Slots before it may be empty: their appenders are slower than those of later ones.
        """
        if self._bounds(position).high == MAX_POSITION:
            return 0
        await self.first_pack(position)
        return self._bounds(position).low

    async def fill(self, position: int) -> Entry | None:
        """Decide a position below the tail: its entry, or None because it is a hole from now on.

        Raises:
            Trimmed, Unavailable.
        """
        head = await self.head(position)
        while head.position <= position:
            values = await self.page(head, 1)
            entries = head.take(values)
            if entries:
                return entries[0] if entries[0].position == position else None
            head.check()
            if None in values:
                await self.tape.fill(head.slot, head.slot + 1)
        return None

    async def read_range(self, start: int, stop: int) -> list[Entry]:
        """The entries at [start, stop), as far as it lies below the tail, when all is decided.

        Raises:
            Trimmed, Unavailable.
        """
        head = await self.head(start)
        entries: list[Entry] = []
        give_up = self._loop.time() + self.patience_s
        while head.position < stop:
            until = self._stop(head, stop - head.position)
            values = await self.tape.read(head.slot, until)
            entries += head.take(values)
            if head.damage is not None and head.damage.position < stop:
                raise head.damage
            if head.slot == until or head.position >= stop:
                continue
            stop = min(stop, await self.tail())
            if head.position < stop:
                if self._loop.time() < give_up:
                    await asyncio.sleep(POLL_S)
                else:
                    await self.tape.fill(head.slot, min(until, await self.tape.end()))
        self._entry_bytes = head.entry_bytes
        if entries:
            self.delivered(head.position)
        while entries and entries[-1].position >= stop:
            entries.pop()
        return entries

    async def check_damage(self, slot: int, start: int) -> None:
        """For a slot that cannot be read: whether positions are missing there.

        Raises:
            DamagedEntry: some are, at `start` or above.
            Trimmed, Unavailable.
        """
        last = await self.last_pack(slot)
        begin = self.beginning.at
        at, position = (last[0] + 1, last[1].end) if last else (begin.slot, begin.position)
        head = self._head(at, max(position, start))
        while head.slot <= slot or head.is_damaged:
            values = await self.page(head, 1)
            entries = head.take(values)
            head.check()
            if entries or None in values:
                return

    async def first_pack(self, position: int) -> Pack | None:
        """The pack with the entry at `position`, or if there is none, the next that is written.

        Raises:
            Trimmed, Unavailable.
        """
        slot, pack = await self.find(position)
        if pack is not None:
            return pack
        end, size, width = await self.tape.end(), self.tape.size, 1
        while slot < end:
            stop = min(end, slot + width, (slot // size + 1) * size)
            for at, raw in enumerate(await self.tape.read(slot, stop), slot):
                pack = read_pack(raw, at) if raw else None
                if pack is None:
                    continue
                self._seen.add(at, pack)
                if pack.end > position:
                    return pack
            slot, width = stop, min(KNOBS.log_look_back, 2 * width)
        return None
