"""Streams: many sequences of entries within one log, as in Tango (SOSP 2013).

A batch carries, for each stream of its entries, the slots of the last few batches that were handed
out for that stream before.  Who knows a stream's last slots can therefore walk it backwards,
several batches a round trip, without a look at the rest of the log.  The sequencer knows them; it
writes its table into the seal of each segment, so that its successor has to look only at what came
after.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable

from wormspace.errors import Trimmed
from wormspace.knobs import KNOBS
from wormspace.log.records import (
    HOLE,
    BatchRecord,
    Latest,
    SealRecord,
    encode,
    read_batch,
    read_seal,
)
from wormspace.log.segmented_log import SegmentedLog

NOWHERE = Latest(-1, ())


class StreamTable:
    """Where each stream was appended to last; the stream appended to last comes last.

    Attributes:
        left_out: streams that are not in it were last appended to below this slot.
    """

    def __init__(self) -> None:
        self.left_out = 0
        self._latest: OrderedDict[str, Latest] = OrderedDict()

    def load(self, seal: SealRecord) -> None:
        """Begin where an earlier table stopped."""
        self._latest = OrderedDict(seal.streams)
        self.left_out = seal.left_out

    def push(self, name: str, slot: int, position: int) -> tuple[int, ...]:
        """The stream goes on in `slot`, up to `position`; returns its last slots before."""
        latest = self._latest.get(name, NOWHERE)
        before = tuple(known for known in latest.slots if known < slot)
        if len(before) < len(latest.slots):  # seen already, where tables overlap
            merged = tuple(sorted({slot, *latest.slots}, reverse=True)[: KNOBS.log_links])
            self._latest[name] = Latest(max(position, latest.position), merged)
            return before
        self._latest[name] = Latest(position, (slot, *before[: KNOBS.log_links - 1]))
        self._latest.move_to_end(name)
        return before

    def put(self, name: str, latest: Latest) -> None:
        """This is where a stream was appended to last, which the table does not know."""
        self._latest[name] = latest

    def forget(self) -> None:
        """Forget the streams that were appended to longest ago, if there are many.

        Not while positions are linked: what an append names must not fall out before it is.
        """
        while len(self._latest) > KNOBS.log_streams:
            _, latest = self._latest.popitem(last=False)
            self.left_out = max([self.left_out, *(slot + 1 for slot in latest.slots[:1])])

    def __contains__(self, name: str) -> bool:
        return name in self._latest

    def latest(self, name: str) -> Latest:
        """Where a stream was appended to last."""
        return self._latest.get(name, NOWHERE)

    def all(self) -> dict[str, Latest]:
        """Every stream known here."""
        return dict(self._latest)

    def seal(self, upto: int, first: int, room: int) -> SealRecord:
        """The table as a seal; without streams that have nothing at slot `first` or above.

        Streams that were quiet longest are left out first, until it takes at most `room` bytes.
        """
        kept = {
            name: latest for name, latest in self._latest.items() if latest.slots[:1] >= (first,)
        }
        seal = SealRecord(upto, kept, self.left_out)
        while kept and len(encode(seal)) > room:
            names = list(kept)[: len(kept) // 4 + 1]
            left_out = 1 + max(kept.pop(name).slots[0] for name in names)
            seal = SealRecord(upto, kept, max(seal.left_out, left_out))
        return seal


async def rebuild(
    segmented_log: SegmentedLog, stop: int, first: int, patience_s: float = 0.0
) -> StreamTable:
    """The table of all streams below slot `stop`: the last seal, and what was appended since.

    What is not written there for so long is filled: a batch that appeared later would be missing.

    Raises:
        Trimmed, Unavailable.
    """
    table = StreamTable()
    number = max(0, stop - 1) // segmented_log.size
    start = number * segmented_log.size
    if number > 0:
        raw = await segmented_log.seal(number - 1)
        if raw:
            seal = read_seal(raw, number - 1, start)
            table.load(seal)
            start = min(start, seal.upto)
    await catch_up(segmented_log, table, max(start, first), stop, patience_s)
    return table


async def catch_up(
    segmented_log: SegmentedLog, table: StreamTable, start: int, stop: int, patience_s: float = 0.0
) -> None:
    """Let the table cover slots [start, stop) as well.

    Raises:
        Trimmed, Unavailable.
    """
    while start < stop:
        until = min(stop, start + KNOBS.log_stream_page)
        for slot, raw in enumerate(await segmented_log.decided(start, until, patience_s), start):
            batch = read_batch(raw, slot) if raw else None
            if batch is not None:
                for name, position in batch.last_of_streams().items():
                    table.push(name, slot, position)
        table.forget()
        start = until


async def look_up(
    segmented_log: SegmentedLog, name: str, below: int, first: int, patience_s: float = 0.0
) -> Latest:
    """Where a stream that is not in the table was appended to last: below slot `below`.

    Each seal says below which slot the streams that it left out are.  If that is in its own
    segment, the stream may be there, and the segment is searched; else it is in an older one.
    Searched as well is what was handed out while the seal's table was written.

    Args:
        patience_s: how long appends in the open segment, which may be under way, are waited for.

    Raises:
        Unavailable.
    """
    while below > first:
        number = (below - 1) // segmented_log.size
        start = max(first, number * segmented_log.size)
        raw = await segmented_log.seal(number)
        if raw is None:  # the open segment
            found = await _search(segmented_log, name, start, below, patience_s)
            if found is not None:
                return found
            below = start
            continue
        if raw == HOLE:  # trimmed
            break
        seal = read_seal(raw, number, (number + 1) * segmented_log.size)
        found = await _search(
            segmented_log, name, max(start, seal.upto), below
        ) or seal.streams.get(name)
        if found is None:
            below = min(below, seal.upto, seal.left_out)
            found = await _search(segmented_log, name, start, below)
            below = min(below, start)
        if found is not None:
            return found
    return NOWHERE


async def _search(
    segmented_log: SegmentedLog, name: str, start: int, stop: int, patience_s: float = 0.0
) -> Latest | None:
    """Where in slots [start, stop) a stream was appended to last.

    What is not written there is filled: a batch that appeared later would be missing.
    """
    while start < stop:
        low = max(start, stop - KNOBS.log_stream_page)
        try:
            values = await segmented_log.decided(low, stop, patience_s)
        except Trimmed:
            return None
        for slot in range(stop - 1, low - 1, -1):
            raw = values[slot - low]
            batch = read_batch(raw, slot) if raw else None
            if batch is not None and name in batch.links:
                slots = (slot, *batch.links[name])[: KNOBS.log_links]
                return Latest(batch.last_of_streams()[name], slots)
        stop = low
    return None


class Walk:
    """Finds a stream's batches, from the newest back to a lower bound.

    Args:
        read: the batches in some slots, by slot; None where there is a hole.

    Attributes:
        below: slots of the stream under the lower bound, as far as it came to know.
    """

    def __init__(
        self, name: str, read: Callable[[Iterable[int]], Awaitable[dict[int, BatchRecord | None]]]
    ) -> None:
        self.below: set[int] = set()
        self._name = name
        self._read = read

    async def back(self, last: Iterable[int], lowest: int, start: int) -> list[BatchRecord]:
        """The stream's batches in slot `lowest` and above, and with positions from `start` on.

        Args:
            last: the slots it was appended to last.

        Returns them ascending.
        """
        found: dict[int, BatchRecord] = {}
        seen: set[int] = set()
        wanted = [slot for slot in last if slot >= lowest]
        while wanted:
            bottom = min(wanted)
            seen.update(wanted)
            mine = self._mine(await self._read(wanted))
            if not mine:
                # All of them are holes, of appenders that died: look for the next one below.
                mine = await self._search(bottom, lowest)
            found.update(mine)
            links = {
                slot
                for batch in mine.values()
                if batch.first > start
                for slot in batch.links[self._name]
            }
            self.below.update(slot for slot in links if slot < lowest)
            wanted = sorted(slot for slot in links - seen if slot >= lowest)
        return [batch for _, batch in sorted(found.items()) if batch.end > start]

    def _mine(self, batches: dict[int, BatchRecord | None]) -> dict[int, BatchRecord]:
        return {s: batch for s, batch in batches.items() if batch and self._name in batch.links}

    async def _search(self, stop: int, lowest: int) -> dict[int, BatchRecord]:
        """The newest batch of the stream in a slot below `stop`."""
        while stop > lowest:
            start = max(lowest, stop - KNOBS.log_stream_page)
            mine = self._mine(await self._read(range(start, stop)))
            if mine:
                return {max(mine): mine[max(mine)]}
            stop = start
        self.below.add(lowest - 1)  # perhaps
        return {}
