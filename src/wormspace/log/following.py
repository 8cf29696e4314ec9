"""Reading one stream: back along its entries' links, and then in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from wormspace.errors import Trimmed, Unavailable
from wormspace.log.desk import Desk
from wormspace.log.messages import Last, LastOf, Names, NamesOf
from wormspace.log.reading import POLL_S, Reader
from wormspace.log.records import Entry, Pack, decode_pack
from wormspace.log.streams import Walk
from wormspace.space import Client

POLL_MAX_S = 0.2


class StreamReader:
    """Reads the streams of one log.

    Args:
        reader: of the log itself.
    """

    def __init__(self, client: Client, reader: Reader, desk: Desk) -> None:
        self._client = client
        self._reader = reader
        self._desk = desk
        self._loop = asyncio.get_running_loop()

    async def names(self, deadline: float) -> dict[str, int]:
        """The streams, each with its last position."""
        answer = await self._desk.ask(NamesOf(), deadline)
        if not isinstance(answer, Names):
            raise Unavailable("the sequencer answered something else than streams")
        return {name: latest.position for name, latest in sorted(answer.streams.items())}

    async def read(self, name: str, start: int, deadline: float) -> list[Entry]:
        """The stream's entries from `start` on."""
        answer = await self._desk.ask(LastOf(name), deadline)
        if not isinstance(answer, Last):
            raise Unavailable("the sequencer answered something else than slots")
        while True:
            first = await self._reader.beginning.find()
            start = max(start, first.position)
            if answer.latest.position < start:
                return []
            try:
                walk = Walk(name, self._packs)
                packs = await walk.back(answer.latest.slots, first.slot, start)
            except Trimmed:
                continue
            return [
                entry for pack in packs for entry in pack.entries(start) if name in entry.streams
            ]

    async def follow(self, name: str, start: int) -> AsyncIterator[Entry]:
        """The stream's entries from `start` on, for ever."""
        pause = POLL_S
        while True:
            try:
                entries = await self.read(name, start, self._client.deadline(None))
            except Unavailable:
                entries = []
            for entry in entries:
                start = entry.position + 1
                yield entry
            if entries:
                pause = POLL_S
            await asyncio.sleep(pause)
            pause = min(POLL_MAX_S, 2 * pause)

    async def _packs(self, slots: Iterable[int]) -> dict[int, Pack | None]:
        """What is in these slots; what stays empty is filled, for its appender has died."""
        tape = self._reader.tape
        give_up = self._loop.time() + self._reader.patience_s
        packs: dict[int, Pack | None] = {}
        wanted = list(slots)
        while wanted:
            places = [divmod(slot, tape.size) for slot in wanted]
            values = await asyncio.gather(*(tape.segment(n).read(o) for n, o in places))
            empty = []
            for slot, raw in zip(wanted, values, strict=True):
                if raw is None:
                    empty.append(slot)
                else:
                    packs[slot] = decode_pack(raw, slot) if raw else None
            if empty and self._loop.time() >= give_up:
                for slot in empty:
                    await tape.fill(slot, slot + 1)
            elif empty:
                await asyncio.sleep(POLL_S)
            wanted = empty
        return packs
