"""Subscriptions: every entry once, in order, from history into the present, past the holes.

Two ways to learn what is new, and a subscription takes the one that is cheaper at the moment.  When
it is behind it reads pages of registers: one message to one server brings hundreds, so a reader is
several times as fast as any number of appenders.  When it has caught up it listens, and learns of
an entry at the moment its appender does.  One cursor goes over the slots in order, whoever brings
what is in them, so changing over loses nothing and repeats nothing.

Who stops waiting for an entry does not stop the work on it: a step that reads is a task, which the
next wait finds where it is.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

from wormspace.errors import Closed, Trimmed, Unavailable
from wormspace.knobs import KNOBS
from wormspace.log.reading import ReadCursor, Reader
from wormspace.log.records import Entry
from wormspace.log.segmented_log import POLL_S, SegmentedLog
from wormspace.runtime.retrying import FOLLOW_RETRY_S
from wormspace.runtime.tasks import Tasks
from wormspace.space import Address, SegmentsTrimmed, Stream, Written


class Source(ABC):
    """Where a subscription's entries come from; does not refer to the subscription."""

    def __init__(self) -> None:
        self._ended: Closed | None = None
        self._is_over = False
        self._tasks = Tasks("the next entries")
        self._working: asyncio.Task[list[Entry]] | None = None

    async def more(self) -> list[Entry]:
        """The next entries, perhaps none yet; nothing is lost if the wait is given up."""
        if self._working is None and not self._is_over:
            self._working = self._tasks.spawn(self.step(), _look_at)
        working = self._working
        if working is not None:
            await asyncio.wait([working])
            self._working = None
            if not working.cancelled():
                return working.result()
        if self._ended is not None:
            raise self._ended
        return []

    @abstractmethod
    async def step(self) -> list[Entry]:
        """Do something for it, and return what came of that."""

    def end(self, error: Closed) -> None:
        """The log is closed: tell who waits."""
        self._ended = error
        self.close()

    def close(self) -> None:
        """Stop what is under way."""
        self._is_over = True
        self._tasks.cancel()


def _look_at(task: asyncio.Task[list[Entry]]) -> None:
    """Who waits is told; a failure that comes when nobody waits any more is no news."""
    if not task.cancelled():
        task.exception()


class Subscription(Stream[Entry]):
    """What `Log.listen` returns: entries, one by one."""

    def __init__(self, source: Source, of: str = "") -> None:
        super().__init__(source.close, of)
        self._source = source

    async def _more(self) -> None:
        self._items.extend(await self._source.more())


class WholeLog(Source):
    """One pass over a log from a position on.

    Args:
        reader: of the log.
        start: the first position to deliver; by default, the first that is still there.
        gone: makes the error for a position that was trimmed.
    """

    def __init__(self, reader: Reader, start: int | None, gone: Callable[[int], Exception]) -> None:
        super().__init__()
        self._reader = reader
        self._segmented_log = reader.segmented_log
        self._start = start
        self._cursor: ReadCursor | None = None
        self._ear: _Ear | None = None
        self._gone = gone
        self._rng = self._segmented_log.space.client.rng
        self._loop = asyncio.get_running_loop()
        self._stuck_at = -1
        self._stuck_until = 0.0

    async def more(self) -> list[Entry]:
        """What was heard costs no task."""
        cursor, ear = self._cursor, self._ear
        if self._working is not None or cursor is None or ear is None:
            return await super().more()
        entries = self._heard(cursor, ear)
        if not entries and ear.is_quiet:
            await ear.news()
        elif not entries:
            return await super().more()
        return entries

    async def step(self) -> list[Entry]:
        """What is next.

        Raises:
            LogTrimmed: the next position was trimmed before it was delivered.
            DamagedEntry: the next positions cannot be read.
        """
        try:
            if self._cursor is None:
                self._cursor = await self._begin()
            if self._ear is None:
                return await self._read_on(self._cursor)
            await self._hear_on(self._cursor, self._ear)
        except Trimmed as e:
            await self._lose_cursor(e)
        except Unavailable:
            self._stop_listening()
            await asyncio.sleep(FOLLOW_RETRY_S)
        return []

    async def _begin(self) -> ReadCursor:
        first = (await self._reader.trim_point.find()).position
        if self._start is None:
            self._start = first
        elif self._start < first:
            raise self._gone(self._start)
        return await self._reader.cursor(self._start)

    async def _lose_cursor(self, error: Trimmed) -> None:
        """Its slot was trimmed: begin anew, unless the position was trimmed with it."""
        self._stop_listening()
        cursor, self._cursor = self._cursor, None
        found = await self._reader.trim_point.find()
        if cursor is None or cursor.position < found.position or cursor.slot >= found.slot:
            raise self._gone(cursor.position if cursor else self._start or 0) from error
        self._start = cursor.position

    async def _wait(self, slot: int, stop: int, pause: Callable[[], Awaitable[object]]) -> None:
        """A slot is empty, and `stop` is written: wait, or fill what is between."""
        now = self._loop.time()
        if self._stuck_at != slot:
            self._stuck_at = slot
            # Not all readers at once: they would take the registers from each other.
            self._stuck_until = now + self._reader.patience_s * self._rng.uniform(1.0, 1.2)
        left = self._stuck_until - now
        if left > 0:
            try:
                async with asyncio.timeout(left):
                    await pause()
                return
            except TimeoutError:
                pass
        await self._segmented_log.fill(slot, stop)

    # ------------------------------------------------------------ behind: read

    async def _read_on(self, cursor: ReadCursor) -> list[Entry]:
        """A page of what is there; after one that is not full, listen."""
        cursor.check()
        start = cursor.slot
        values = await self._reader.page(cursor)
        entries = cursor.take(values)
        if entries:
            self._reader.delivered(cursor.position)
        left = values[cursor.slot - start :]
        if entries or not left or cursor.damage is not None:
            return entries
        gap = next((k for k, value in enumerate(left) if value is not None), 0)
        if gap:
            await self._wait(cursor.slot, cursor.slot + gap, lambda: asyncio.sleep(POLL_S))
        else:
            self._ear = _Ear(self._segmented_log, cursor.slot)
        return []

    # ------------------------------------------------------------ caught up: listen

    def _heard(self, cursor: ReadCursor, ear: _Ear) -> list[Entry]:
        """What is decided by now, as far as it is next."""
        cursor.check()
        values: list[bytes] = []
        while (value := ear.arrived.pop(cursor.slot + len(values), None)) is not None:
            values.append(value)
        entries = cursor.take(values)
        if entries:
            self._reader.delivered(cursor.position)
            return entries
        cursor.check()
        if ear.has_overflowed:
            self._stop_listening()
        return []

    async def _hear_on(self, cursor: ReadCursor, ear: _Ear) -> None:
        ear.check(cursor.slot)
        if ear.arrived and cursor.slot not in ear.arrived:
            await self._wait(cursor.slot, min(ear.arrived), ear.news)

    def _stop_listening(self) -> None:
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.close()

    def close(self) -> None:
        super().close()
        self._stop_listening()


class _Ear:
    """Listens to the segmented log, and keeps what was written until it is asked for.

    Attributes:
        arrived: values by slot.
        has_overflowed: whether so much arrived that it has stopped listening.
    """

    def __init__(self, segmented_log: SegmentedLog, start: int) -> None:
        self.arrived: dict[int, bytes] = {}
        self.has_overflowed = False
        self._segmented_log = segmented_log
        self._dropped = 0
        self._news = asyncio.Event()
        self._tasks = Tasks(f"{segmented_log.space.name}: listening")
        self._task = self._tasks.begin(self._listen(start))

    async def _listen(self, start: int) -> None:
        size = self._segmented_log.size
        try:
            async with self._segmented_log.space.listen(Address.of(start, size)) as events:
                async for event in events:
                    if isinstance(event, Written):
                        if event.address.offset < size:
                            self.arrived[event.address.position(size)] = event.value
                            self._news.set()
                    elif isinstance(event, SegmentsTrimmed):
                        self._dropped = max(self._dropped, event.stop * size)
                        self._news.set()
                    if len(self.arrived) > KNOBS.log_behind_slots:
                        self.has_overflowed = True
                        return
        finally:
            self._news.set()

    @property
    def is_quiet(self) -> bool:
        """Whether there is nothing but to wait for what comes."""
        return not (self.arrived or self._dropped or self._task.done())

    def check(self, slot: int) -> None:
        """Raise what ended the listening, or `Trimmed` if this slot can never arrive."""
        if self._task.done():
            self._task.result()
        if slot < self._dropped:
            raise Trimmed(f"slot {slot} was trimmed")
        self._dropped = 0

    async def news(self) -> None:
        """Wait until something arrives."""
        await self._news.wait()
        self._news.clear()

    def close(self) -> None:
        """Stop listening."""
        self._tasks.cancel()
