"""Reading one stream: back along its entries' links, and then in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from wormspace.errors import Trimmed, Unavailable
from wormspace.log.desk import Desk
from wormspace.log.messages import Last, LastOf, Names, NamesOf
from wormspace.log.records import Entry, Record, decode_record
from wormspace.log.streams import Walk
from wormspace.log.tape import Tape
from wormspace.space import Client

POLL_MIN_S = 0.01
POLL_MAX_S = 0.2


class StreamReader:
    """Reads the streams of one log.

    Args:
        find_first: tells the trim point.
        patience_s: as for `Subscription`.
    """

    def __init__(
        self,
        client: Client,
        tape: Tape,
        desk: Desk,
        find_first: Callable[[], Awaitable[int]],
        patience_s: float,
    ) -> None:
        self._client = client
        self._tape = tape
        self._desk = desk
        self._find_first = find_first
        self._patience_s = patience_s
        self._loop = asyncio.get_running_loop()

    async def names(self, deadline: float) -> dict[str, int]:
        """The streams, each with its last position."""
        answer = await self._desk.ask(NamesOf(), deadline)
        if not isinstance(answer, Names):
            raise Unavailable("the sequencer answered something else than streams")
        return {name: positions[0] for name, positions in sorted(answer.streams.items())}

    async def read(self, name: str, start: int, deadline: float) -> list[Entry]:
        """The stream's entries from `start` on."""
        answer = await self._desk.ask(LastOf(name), deadline)
        if not isinstance(answer, Last):
            raise Unavailable("the sequencer answered something else than positions")
        while True:
            lowest = max(start, await self._find_first())
            try:
                walk = Walk(name, self._records, self._scan)
                records = await walk.back(answer.positions, lowest)
            except Trimmed:
                continue
            return [record.entry(position) for position, record in records.items()]

    async def follow(self, name: str, start: int) -> AsyncIterator[Entry]:
        """The stream's entries from `start` on, for ever."""
        pause = POLL_MIN_S
        while True:
            try:
                entries = await self.read(name, start, self._client.deadline(None))
            except Unavailable:
                entries = []
            for entry in entries:
                start = entry.position + 1
                yield entry
            if entries:
                pause = POLL_MIN_S
            await asyncio.sleep(pause)
            pause = min(POLL_MAX_S, 2 * pause)

    async def _records(self, positions: list[int]) -> dict[int, Record | None]:
        """What is at these positions; what stays empty is filled, for its appender has died."""
        give_up = self._loop.time() + self._patience_s
        records: dict[int, Record | None] = {}
        while True:
            size = self._tape.size
            places = [divmod(position, size) for position in positions]
            values = await asyncio.gather(*(self._tape.segment(n).read(o) for n, o in places))
            empty = []
            for position, raw in zip(positions, values, strict=True):
                if raw is None:
                    empty.append(position)
                else:
                    records[position] = decode_record(raw, position) if raw else None
            if not empty:
                return records
            if self._loop.time() >= give_up:
                for position in empty:
                    await self._tape.fill(position, position + 1)
            else:
                await asyncio.sleep(POLL_MIN_S)
            positions = empty

    async def _scan(self, start: int, stop: int) -> dict[int, Record]:
        records = await self._records(list(range(start, stop)))
        return {position: record for position, record in records.items() if record is not None}
