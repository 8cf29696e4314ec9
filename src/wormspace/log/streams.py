"""Streams: many sequences of entries within one log, as in Tango (SOSP 2013).

An entry carries, for each of its streams, the last few positions that were handed out for that
stream before.  Who knows a stream's last positions can therefore walk it backwards, several entries
a round trip, without a look at the rest of the log.  The sequencer knows them; it writes its table
into the seam of each segment, so that its successor has to look only at what came after.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable

from wormspace.log.records import BACKPOINTERS, Record, Seam, decode_record, decode_seam, encode
from wormspace.log.tape import Tape

TABLE_BYTES = 256 * 1024
"""The largest table that goes into a seam; streams that were quiet longest are left out first."""

PAGE = 512


class StreamTable:
    """The last positions of each stream, descending; the stream appended to last comes last."""

    def __init__(self) -> None:
        self.complete = True
        self._last: OrderedDict[str, tuple[int, ...]] = OrderedDict()

    def load(self, seam: Seam) -> None:
        """Begin where an earlier table stopped."""
        self._last = OrderedDict(seam.streams)
        self.complete = seam.complete

    def push(self, name: str, position: int) -> tuple[int, ...]:
        """The stream goes on at `position`; returns its last positions before."""
        known = self._last.get(name, ())
        if known and position <= known[0]:  # seen already, when an overlap is read again
            known = tuple(p for p in known if p < position)
            self.put(name, (position, *self._last[name]))
            return known
        self._last[name] = (position, *known[: BACKPOINTERS - 1])
        self._last.move_to_end(name)
        return known

    def put(self, name: str, positions: Iterable[int]) -> None:
        """These are positions of the stream, perhaps among others."""
        every = {*positions, *self._last.get(name, ())}
        self._last[name] = tuple(sorted(every, reverse=True)[:BACKPOINTERS])

    def __contains__(self, name: str) -> bool:
        return name in self._last

    def last(self, name: str) -> tuple[int, ...]:
        """The stream's last positions, descending."""
        return self._last.get(name, ())

    def all(self) -> dict[str, tuple[int, ...]]:
        """Every stream known here."""
        return dict(self._last)

    def seam(self, upto: int, first: int) -> Seam:
        """The table as a seam; without streams of which all is trimmed (is below `first`)."""
        kept = {name: last for name, last in self._last.items() if last[0] >= first}
        seam = Seam(upto, kept, self.complete)
        while len(encode(seam)) > TABLE_BYTES:
            kept = dict(list(kept.items())[len(kept) // 4 + 1 :])
            seam = Seam(upto, kept, False)
        return seam


async def rebuild(tape: Tape, stop: int, first: int) -> StreamTable:
    """The table of all streams below `stop`: the last seam, and what was appended since.

    What is not written there is filled: an entry that appeared later would be missing.

    Raises:
        Unavailable.
    """
    table = StreamTable()
    number = max(0, stop - 1) // tape.size
    start = number * tape.size
    if number > 0:
        raw = await tape.seam(number - 1)
        if raw:
            seam = decode_seam(raw)
            table.load(seam)
            start = min(start, seam.upto)
    start = max(start, first)
    while start < stop:
        until = min(stop, start + PAGE)
        values = await tape.read(start, until)
        if None in values:
            await tape.fill(start, until)
            continue
        for position, raw in enumerate(values, start):
            if raw:
                for name in decode_record(raw, position).links:
                    table.push(name, position)
        start = until
    return table


async def look_up(tape: Tape, name: str, below: int, first: int) -> tuple[int, ...]:
    """The last positions of a stream that was left out of the newest seams, from older ones."""
    number = below // tape.size - 1
    while number >= 0 and (number + 1) * tape.size > first:
        raw = await tape.seam(number)
        if not raw:
            break
        seam = decode_seam(raw)
        if name in seam.streams:
            return seam.streams[name]
        if seam.complete:
            break
        number -= 1
    return ()


class Walk:
    """Finds the positions of a stream's entries, from the newest back to a lower bound.

    Args:
        read: the records at some positions, by position; None where there is a hole.
        scan: the records of the log in [start, stop), by position.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[list[int]], Awaitable[dict[int, Record | None]]],
        scan: Callable[[int, int], Awaitable[dict[int, Record]]],
    ) -> None:
        self._name = name
        self._read = read
        self._scan = scan

    async def back(self, last: Iterable[int], lowest: int) -> dict[int, Record]:
        """All of the stream's records from `lowest` on, given its last positions; ascending."""
        found: dict[int, Record] = {}
        seen: set[int] = set()
        wanted = [p for p in last if p >= lowest]
        while wanted:
            bottom = min(wanted)
            seen.update(wanted)
            records = await self._read(wanted)
            mine = {p: r for p, r in records.items() if r is not None and self._name in r.links}
            if not mine:
                # All of them are holes, of an appender that died: look for the next one below.
                mine = await self._search(bottom, lowest)
            found.update(mine)
            links = {p for record in mine.values() for p in record.links[self._name]}
            wanted = sorted(p for p in links - seen if p >= lowest)
        return dict(sorted(found.items()))

    async def _search(self, stop: int, lowest: int) -> dict[int, Record]:
        """The newest record of the stream below `stop`."""
        while stop > lowest:
            start = max(lowest, stop - PAGE)
            records = await self._scan(start, stop)
            for position in sorted(records, reverse=True):
                if self._name in records[position].links:
                    return {position: records[position]}
            stop = start
        return {}
