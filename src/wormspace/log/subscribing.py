"""Subscriptions: every entry once, in order, from history into the present, past the holes.

Two ways to learn what is new, and the subscription takes the one that is cheaper at the moment.
When it is behind it reads pages of registers: one message to one server brings hundreds, so a
reader is several times as fast as any number of appenders.  When it has caught up it listens, and
learns of an entry at the moment its appender does.  One head goes over the slots in order, whoever
brings what is in them, so changing over loses nothing and repeats nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from wormspace.errors import Trimmed, Unavailable
from wormspace.log.reading import POLL_S, Head, Reader
from wormspace.log.records import Entry
from wormspace.log.tape import Tape
from wormspace.space import Address, TrimmedAway, Written

BEHIND = 256
"""With more slots than this arrived and not consumed, it is cheaper to read than to listen."""

RETRY_S = 0.1


class Subscription:
    """One pass over a log from a position on.

    Args:
        reader: of the log.
        start: the first position to deliver.
        gone: makes the error for a position that was trimmed.
    """

    def __init__(self, reader: Reader, start: int, gone: Callable[[int], Exception]) -> None:
        self._reader = reader
        self._tape = reader.tape
        self._start = start
        self._head: Head | None = None
        self._gone = gone
        self._rng = self._tape.space.client.rng
        self._loop = asyncio.get_running_loop()
        self._stuck_at = -1
        self._stuck_until = 0.0

    async def entries(self) -> AsyncIterator[Entry]:
        """All entries, without end.

        Raises:
            LogTrimmed: the next position was trimmed before it was delivered.
        """
        while True:
            try:
                if self._head is None:
                    self._head = await self._reader.head(self._start)
                async for entry in self._history(self._head):
                    yield entry
                async for entry in self._live(self._head):
                    yield entry
            except Trimmed as e:
                await self._lose_head(e)
            except Unavailable:
                await asyncio.sleep(RETRY_S)

    async def _lose_head(self, error: Trimmed) -> None:
        """Its slot was trimmed: begin anew, unless the position was trimmed with it."""
        head, self._head = self._head, None
        found = await self._reader.beginning.find()
        if head is None or head.position < found.position or head.slot >= found.slot:
            raise self._gone(head.position if head else self._start) from error
        self._start = head.position

    async def _wait(self, slot: int, stop: int, pause: Callable[[], Awaitable[object]]) -> None:
        """A slot is empty, and `stop` is written: wait, or fill what is between."""
        now = self._loop.time()
        if self._stuck_at != slot:
            self._stuck_at = slot
            # Not all readers at once: they would take the registers from each other.
            self._stuck_until = now + self._reader.patience_s * self._rng.uniform(1.0, 1.2)
        left = self._stuck_until - now
        try:
            if left > 0:
                async with asyncio.timeout(left):
                    await pause()
                return
        except TimeoutError:
            pass
        await self._tape.fill(slot, stop)

    # ------------------------------------------------------------ behind: read

    async def _history(self, head: Head) -> AsyncIterator[Entry]:
        """What is there, until a page is not full."""
        while True:
            start = head.slot
            values = await self._reader.page(head)
            for entry in head.take(values):
                yield entry
            left = values[head.slot - start :]
            if not left:
                continue
            gap = next((k for k, value in enumerate(left) if value is not None), 0)
            if not gap:
                return
            await self._wait(head.slot, head.slot + gap, lambda: asyncio.sleep(POLL_S))

    # ------------------------------------------------------------ caught up: listen

    async def _live(self, head: Head) -> AsyncIterator[Entry]:
        """What is decided from now on, until too much of it waits."""
        ear = _Ear(self._tape, head.slot)
        try:
            while not ear.has_overflowed:
                values: list[bytes] = []
                while (value := ear.arrived.pop(head.slot + len(values), None)) is not None:
                    values.append(value)
                for entry in head.take(values):
                    yield entry
                if head.slot in ear.arrived:
                    continue
                ear.check(head.slot)
                if ear.arrived:
                    await self._wait(head.slot, min(ear.arrived), ear.news)
                else:
                    await ear.news()
        finally:
            await ear.close()


class _Ear:
    """Listens to the tape, and keeps what was written until it is asked for.

    Attributes:
        arrived: values by slot.
        has_overflowed: whether so much arrived that it has stopped listening.
    """

    def __init__(self, tape: Tape, start: int) -> None:
        self.arrived: dict[int, bytes] = {}
        self.has_overflowed = False
        self._tape = tape
        self._dropped = 0
        self._news = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._listen(start))

    async def _listen(self, start: int) -> None:
        size = self._tape.size
        try:
            async for event in self._tape.space.listen(Address.of(start, size)):
                if isinstance(event, Written):
                    if event.address.offset < size:
                        self.arrived[event.address.position(size)] = event.value
                        self._news.set()
                elif isinstance(event, TrimmedAway):
                    self._dropped = max(self._dropped, event.stop * size)
                    self._news.set()
                if len(self.arrived) > BEHIND:
                    self.has_overflowed = True
                    return
        finally:
            self._news.set()

    def check(self, slot: int) -> None:
        """Raise what ended the listening, or `Trimmed` if this slot can never arrive."""
        if self._task.done():
            self._task.result()
        if slot < self._dropped:
            raise Trimmed(f"slot {slot} was trimmed")

    async def news(self) -> None:
        """Wait until something arrives."""
        await self._news.wait()
        self._news.clear()

    async def close(self) -> None:
        """Stop listening."""
        self._task.cancel()
        await asyncio.wait([self._task])
