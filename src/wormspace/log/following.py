"""Reading one stream: back along its entries' links, and then in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from wormspace.errors import Trimmed, Unavailable
from wormspace.log.messages import Last, LastOf, Names, NamesOf
from wormspace.log.reading import Reader
from wormspace.log.records import BatchRecord, Entry, read_batch
from wormspace.log.segmented_log import POLL_S
from wormspace.log.sequencer_client import PositionSource
from wormspace.log.streams import Walk
from wormspace.log.subscribing import Source
from wormspace.space import Client

POLL_MAX_S = 0.2


class Found(msgspec.Struct, frozen=True):
    """What a look at a stream found.

    Attributes:
        entries: of it, in order.
        slot: the last that was handed out for it; -1 if there is none.
        upto: all that was handed out for it below this position was dealt with.
    """

    entries: list[Entry]
    slot: int
    upto: int


class StreamReader:
    """Reads the streams of one log.

    Args:
        reader: of the log itself.
        gone: makes the error for a position that was trimmed.
    """

    def __init__(
        self,
        client: Client,
        reader: Reader,
        sequencing: PositionSource,
        gone: Callable[[int], Exception],
    ) -> None:
        self._client = client
        self._reader = reader
        self._sequencing = sequencing
        self._gone = gone
        self._loop = asyncio.get_running_loop()

    async def names(self, deadline: float) -> dict[str, int]:
        """The streams, each with its last position."""
        answer = await self._sequencing.ask(NamesOf(), deadline)
        if not isinstance(answer, Names):
            raise Unavailable("the sequencer answered something else than streams")
        return {name: latest.position for name, latest in sorted(answer.streams.items())}

    async def read(self, name: str, start: int | None, deadline: float) -> list[Entry]:
        """The stream's entries from `start` on; by default, all that are still there.

        Raises:
            LogTrimmed: `start` is behind the trim point.
            DamagedEntry: one of them cannot be read.
        """
        while True:
            first = (await self._reader.trim_point.find()).position
            if start is not None and start < first:
                raise self._gone(start)
            found = await self.look(name, first if start is None else start, None, deadline)
            if found is not None:
                return found.entries

    async def look(
        self, name: str, start: int, dealt_with: int | None, deadline: float
    ) -> Found | None:
        """The stream's entries from `start` on; None if some may have been trimmed.

        Args:
            dealt_with: the last slot of the stream that lies below `start`, if that is known.

        Raises:
            DamagedEntry: one of them cannot be read.
        """
        answer = await self._sequencing.ask(LastOf(name), deadline)
        if not isinstance(answer, Last):
            raise Unavailable("the sequencer answered something else than slots")
        slots, upto = answer.latest.slots, answer.next
        while True:
            first = await self._reader.trim_point.find()
            walk = Walk(name, lambda slots: self._batches(slots, start))
            batches: list[BatchRecord] = []
            if answer.latest.position >= start:
                try:
                    batches = await walk.back(slots, first.slot, start)
                except Trimmed:
                    continue
            if start < first.position:
                trimmed = [slot for slot in (*slots, *walk.below) if slot < first.slot]
                if dealt_with is None or not slots or max(trimmed, default=-1) > dealt_with:
                    return None
            entries = [e for batch in batches for e in batch.entries(start) if name in e.streams]
            if batches:
                self._reader.delivered(batches[-1].end)
            return Found(entries, max(slots, default=-1), max(upto, start))

    def follow(self, name: str, start: int | None) -> OneStream:
        """The stream's entries from `start` on, for ever."""
        return OneStream(self, self._client, self._reader, name, start, self._gone)

    async def _batches(self, slots: Iterable[int], start: int) -> dict[int, BatchRecord | None]:
        """What is in these slots; what stays empty is filled, for its appender has died.

        Raises:
            DamagedEntry: one of them cannot be read, and positions from `start` on are missing.
        """
        segmented_log = self._reader.segmented_log
        give_up = self._loop.time() + self._reader.patience_s
        batches: dict[int, BatchRecord | None] = {}
        wanted = list(slots)
        while wanted:
            places = [divmod(slot, segmented_log.size) for slot in wanted]
            values = await asyncio.gather(*(segmented_log.segment(n).read(o) for n, o in places))
            empty = []
            for slot, raw in zip(wanted, values, strict=True):
                if raw is None:
                    empty.append(slot)
                else:
                    batches[slot] = read_batch(raw, slot) if raw else None
                    if raw and batches[slot] is None:
                        await self._reader.check_damage(slot, start)
            if empty and self._loop.time() >= give_up:
                for slot in empty:
                    await segmented_log.fill(slot, slot + 1)
            elif empty:
                await asyncio.sleep(POLL_S)
            wanted = empty
        return batches


class OneStream(Source):
    """One pass over a stream from a position on.

    It asks the sequencer again and again, more seldom while nothing comes.

    Args:
        start: the first position to deliver; by default, the first that is still there.
    """

    def __init__(
        self,
        streams: StreamReader,
        client: Client,
        reader: Reader,
        name: str,
        start: int | None,
        gone: Callable[[int], Exception],
    ) -> None:
        super().__init__()
        self._streams = streams
        self._client = client
        self._reader = reader
        self._name = name
        self._start = start
        self._gone = gone
        self._dealt_with: int | None = None
        self._pause = 0.0

    async def step(self) -> list[Entry]:
        """Ask once.

        Raises:
            LogTrimmed: some may have been trimmed that were not delivered.
            DamagedEntry: the next of them cannot be read.
        """
        await asyncio.sleep(self._pause)
        self._pause = min(POLL_MAX_S, max(POLL_S, 2 * self._pause))
        try:
            return await self._ask()
        except Unavailable:
            return []

    async def _ask(self) -> list[Entry]:
        if self._start is None or self._dealt_with is None:
            first = (await self._reader.trim_point.find()).position
            if self._start is not None and self._start < first:
                raise self._gone(self._start)
            self._start = first if self._start is None else self._start
        deadline = self._client.deadline(None)
        found = await self._streams.look(self._name, self._start, self._dealt_with, deadline)
        if found is None:
            raise self._gone(self._start)
        self._start, self._dealt_with = found.upto, found.slot
        if found.entries:
            self._pause = 0.0
        return found.entries
