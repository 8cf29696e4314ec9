"""The log: what `worm.log(name)` returns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal, TypeAlias, TypeVar, get_args
from weakref import WeakSet

from wormspace.errors import Closed, Trimmed, Unavailable, UsageError, WormError
from wormspace.log.appending import Appender
from wormspace.log.checks import (
    NO_HEADERS,
    check_amount,
    check_bodies,
    check_body,
    check_choice,
    check_flag,
    check_headers,
    check_position,
    check_stream,
    check_streams,
)
from wormspace.log.cursors import Cursor, Cursors
from wormspace.log.durable_cell import DurableCell
from wormspace.log.errors import LogTrimmed, NotWritten
from wormspace.log.following import StreamReader
from wormspace.log.info import Info, look
from wormspace.log.limits import Limits
from wormspace.log.opening import Config, configure
from wormspace.log.reading import Reader
from wormspace.log.records import Entry
from wormspace.log.segmented_log import SegmentedLog
from wormspace.log.sequencer import Sequencer
from wormspace.log.sequencer_client import (
    Announcement,
    OwnPositions,
    PositionSource,
    SequencerClient,
)
from wormspace.log.spaces import CURSOR, ENTRIES, SEQUENCER, TRIM, cursor_space
from wormspace.log.subscribing import Source, Subscription, WholeLog
from wormspace.log.trim_point import Place, TrimPoint
from wormspace.log.trimming import Trimmer
from wormspace.runtime.closing import Closing
from wormspace.runtime.endpoints import as_listening
from wormspace.space import Client, Stream

PATIENCE_S = 0.5

GRACE_S = 0.05
"""So much longer than a call's time-out is waited for who has the same one, and can say more."""

T = TypeVar("T")

SequencerChoice: TypeAlias = Literal["auto", "elsewhere", "none"]


class Log(Closing):
    """A shared, totally ordered log of entries, in the style of CORFU (NSDI 2012).

        log = await worm.log("orders")
        position = await log.append(b"four chairs")
        async for entry in log.listen(position):
            ...

    Positions count from 0.  Each below the tail holds an entry or is a hole, for ever; holes are
    what crashed appenders leave, and readers pass over them.  Get a log from `worm.log`; calls take
    a `timeout` in seconds (default: the client's).

    Attributes:
        name: the log's; also that of the space of its entries; other spaces begin with it and "/".
        segment_size: registers per segment; trimming frees whole segments.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        config: Config,
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.segment_size = config.segment_size
        self._client = client
        self._cell_size = config.cell_size
        self._segmented_log = SegmentedLog(client.space(name), config.segment_size, ENTRIES)
        self._clock = clock
        self._trim_point = TrimPoint(DurableCell(self._cell_log(f"{name}/{TRIM}", TRIM), Place))
        self._reader = Reader(self._segmented_log, self._trim_point, patience_s)
        self._trimmer = Trimmer(self._reader, self._trim_point)
        self._cursors = Cursors(self._cursor_cell, self._within, self._reader.require_reached)
        self._sources: WeakSet[Source] = WeakSet()
        self._limits = Limits()
        self._closed = False
        self._on_close: Callable[[Log], object] = _nothing
        self._sequencing: PositionSource
        self._appender: Appender
        self._streams: StreamReader

    # ------------------------------------------------------------ opening and closing

    @classmethod
    async def open(
        cls,
        client: Client,
        name: str,
        *,
        sequencer: SequencerChoice = "auto",
        sole: bool = False,
        beside: Callable[[], Log | None] = lambda: None,
        capture_ahead: bool = True,
        segment_size: int | None = None,
        patience_s: float = PATIENCE_S,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
        timeout: float | None = None,
        on_close: Callable[[Log], object] | None = None,
    ) -> Log:
        """Open a log, or make it; see `Worm.log`, which calls this.

        Args:
            sole: no other client can reach this address space.
            beside: with `sole`, finds another open handle of this log.
            on_close: called with the log when it was closed.
        """
        check_choice(sequencer, "sequencer", get_args(SequencerChoice))
        check_flag(capture_ahead, "capture_ahead")
        check_amount(patience_s, "patience_s")
        as_listening(host, port)
        try:
            async with asyncio.timeout_at(client.deadline(timeout)):
                config = await configure(client, name, segment_size)
                log = cls(client, name, config, patience_s=patience_s, clock=clock)
                await log._trim_point.find()
        except TimeoutError:
            raise _too_late("opening", name) from None
        other = beside() if sole else None
        if other is not None and not other._closed and isinstance(other._sequencing, OwnPositions):
            log._sequencing = other._sequencing
            other._sequencing.users += 1
        else:
            log._sequencing = log._make_sequencing(sequencer, sole, capture_ahead, host, port)
        log._appender = Appender(log._segmented_log, log._sequencing, client.nonce()[:8], clock)
        log._streams = StreamReader(client, log._reader, log._sequencing, log._gone)
        log._on_close = on_close or _nothing
        return log

    def _cell_log(self, space: str, part: str) -> SegmentedLog:
        return SegmentedLog(self._client.space(space), self._cell_size, part)

    def _make_sequencing(
        self, sequencer: SequencerChoice, sole: bool, capture_ahead: bool, host: str, port: int
    ) -> PositionSource:
        """Choose where positions come from."""
        unsafe = not capture_ahead
        if sole or sequencer == "none":
            return OwnPositions(Sequencer(self._reader, unsafe=unsafe, sole=sole))

        def make(may_renew: Callable[[], Awaitable[bool]]) -> Sequencer:
            return Sequencer(self._reader, unsafe=unsafe, may_renew=may_renew)

        cell = DurableCell(self._cell_log(f"{self.name}/{SEQUENCER}", SEQUENCER), Announcement)
        may_become = sequencer == "auto"
        return SequencerClient(self.name, cell, make, host=host, port=port, may_become=may_become)

    def __repr__(self) -> str:
        return f"<Log {self.name!r}{', closed' if self._closed else ''}>"

    async def close(self) -> None:
        """Stop appending, and say so if the sequencer was in this process.

        Whatever is called or under way on the log from now on ends with `Closed`, listeners
        too.  Harmless when repeated.
        """
        if self._closed:
            return
        self._closed = True
        for source in list(self._sources):
            source.end(self._over())
        self._limits.end()
        try:
            await self._appender.close()
            await self._sequencing.close()
            await self._trim_point.close()
            await self._cursors.close()
        finally:
            self._on_close(self)

    async def stand_by(self) -> None:
        """Be the log's sequencer whenever there is no other; until the log is closed.

        Raises:
            UsageError: this log was opened without a shared sequencer.
        """
        self._check_open()
        if not isinstance(self._sequencing, SequencerClient):
            raise UsageError(f"log {self.name!r} has no sequencer that could be shared")
        await self._sequencing.stand_by()

    # ------------------------------------------------------------ append

    async def append(
        self,
        body: bytes,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        streams: Sequence[str] = (),
        timeout: float | None = None,
    ) -> int:
        """Append an entry; returns its position when it is there for ever.

        Appends are linearizable: one that begins after another has returned gets a higher position.
        Two round trips: the sequencer, and the write.

        Args:
            headers: key/value pairs that go with it.
            streams: the streams it belongs to, by name.

        Raises:
            UsageError: something of it is no bytes, or no text.
            ValueTooLarge: it does not fit into a register; nothing was appended.
            Unavailable: not in time; the entry may be in the log, now or later.
        """
        headers = check_headers(headers) if headers is not NO_HEADERS else headers
        streams = check_streams(streams) if streams != () else ()
        return (await self._appender.append((check_body(body),), headers, streams, timeout))[0]

    async def append_many(
        self,
        bodies: Sequence[bytes],
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        streams: Sequence[str] = (),
        timeout: float | None = None,
    ) -> list[int]:
        """Append entries, which share headers and streams; returns the position of each.

        One question to the sequencer for all of them, and as few registers as may be.  Their
        positions ascend, but need not be consecutive; when the sequencer is replaced in the middle
        of it, some of them may also come after those that follow them.

        Raises:
            UsageError: one of them is no bytes, or there are more than 16,384.
            ValueTooLarge: one of them is; nothing was appended.
            Unavailable: not in time; some of the entries may be in the log, now or later.
        """
        given, headers, names = check_bodies(bodies), check_headers(headers), check_streams(streams)
        if not given:
            self._check_open()
            return []
        return await self._appender.append(given, headers, names, timeout)

    # ------------------------------------------------------------ read

    async def read(self, position: int, *, timeout: float | None = None) -> Entry | None:
        """The entry at a position; None if there is a hole.

        Raises:
            NotWritten: neither is there yet.
            LogTrimmed: it is behind the trim point.
            DamagedEntry: the register holds something else.
        """
        check_position(position)
        async with self._within("read", timeout, position):
            decided, entry = await self._still_there(position, self._reader.read)
        if not decided:
            raise NotWritten(f"nothing is at position {position} of log {self.name!r} yet")
        self._reader.delivered(position + 1)
        return entry

    async def read_range(
        self, start: int, stop: int | None = None, *, timeout: float | None = None
    ) -> list[Entry]:
        """The entries at [start, stop), without the holes; `stop` is the tail if it is above it.

        A position below the tail that stays empty for longer than the log's patience becomes a
        hole: its appender has died.

        Raises:
            LogTrimmed: `start` is behind the trim point.
            DamagedEntry: positions in it cannot be read; read up to `position`, and from `next`.
            Unavailable: not in time.
        """
        check_position(start, "start")
        if stop is not None:
            check_position(stop, "stop")
        async with self._within("read_range", timeout, start):
            until = await self._reader.tail() if stop is None else stop
            return await self._still_there(start, lambda at: self._reader.read_range(at, until))

    async def tail(self, *, timeout: float | None = None) -> int:
        """One past the last position that is written.

        Linearizable, and a fact rather than a hint: it is found in the registers, and asks no
        sequencer.  Positions below it may still be empty for a moment.
        """
        async with self._within("tail", timeout):
            return await self._reader.tail()

    async def first(self, *, timeout: float | None = None) -> int:
        """The first position that is not trimmed."""
        async with self._within("first", timeout):
            return (await self._trim_point.find()).position

    async def fill(self, position: int, *, timeout: float | None = None) -> Entry | None:
        """Decide a position now: its entry, or None because it is a hole from now on.

        For a position below the tail whose appender seems to be gone.

        Raises:
            NotWritten: it is not below the tail.
            LogTrimmed: it is behind the trim point.
            DamagedEntry: the register holds something else.
        """
        check_position(position)
        async with self._within("fill", timeout, position):
            if position >= await self._reader.tail():
                raise NotWritten(f"position {position} of log {self.name!r} is not below the tail")
            return await self._still_there(position, self._reader.fill)

    def listen(self, start: int | None = None, *, stream: str | None = None) -> Stream[Entry]:
        """Every entry from a position on, once, in order: history, then live, without end.

        What blocks it longer than the log's patience is filled.  Who stops waiting for an entry, by
        a time-out for instance, loses nothing: the next wait goes on from there.

        Args:
            start: the first position; by default, the first that is still there.
            stream: only the entries of this stream.

        Raises (while iterating, and closes it):
            LogTrimmed: the next position was trimmed before it was delivered; of a stream: entries
                may have been trimmed that were not delivered.
            DamagedEntry: the next positions cannot be read; listen again from its `next`.
            Closed: the log was closed.
        """
        self._check_open()
        if start is not None:
            check_position(start)
        source: Source
        if stream is None:
            source = WholeLog(self._reader, start, self._gone)
        else:
            source = self._streams.follow(check_stream(stream), start)
        self._sources.add(source)
        return Subscription(source, f"log {self.name!r}")

    # ------------------------------------------------------------ streams and cursors

    async def read_stream(
        self, name: str, start: int | None = None, *, timeout: float | None = None
    ) -> list[Entry]:
        """The entries of a stream at `start` and above, in order; by default, all still there.

        Linearizable: it has every entry that was acknowledged before the call.  Costs reads in
        proportion to these entries, whatever else is in the log.

        Raises:
            LogTrimmed: `start` is behind the trim point.
            DamagedEntry: some of them cannot be read; read from its `next`.
            Unavailable: not in time.
        """
        check_stream(name)
        if start is not None:
            check_position(start, "start")
        async with self._within("read_stream", timeout) as deadline:
            return await self._streams.read(name, start, deadline)

    async def streams(self, *, timeout: float | None = None) -> dict[str, int]:
        """The streams that are remembered, each with the last position handed out for it."""
        async with self._within("streams", timeout) as deadline:
            return await self._streams.names(deadline)

    def cursor(self, name: str) -> Cursor:
        """The durable cursor of the consumer of this name; it needs no creation.

        Raises:
            BadAddress: the name is empty or too long.
        """
        self._check_open()
        cursor_space(self.name, name)
        return self._cursors.get(name)

    def _cursor_cell(self, name: str) -> DurableCell[int]:
        return DurableCell(self._cell_log(cursor_space(self.name, name), CURSOR), int)

    # ------------------------------------------------------------ trim

    async def trim(self, position: int, *, timeout: float | None = None) -> int:
        """Forget all entries below `position`; returns the first position still there.

        Readers get `LogTrimmed` for what is below as soon as they learn of it, and at the latest
        when its segment is gone: the servers free whole segments.

        Raises:
            NotWritten: it is above the tail; nothing was trimmed.
        """
        check_position(position)
        async with self._within("trim", timeout):
            return await self._trimmer.below(position)

    async def trim_older(self, age_s: float, *, timeout: float | None = None) -> int:
        """Forget the entries appended longer than this ago, by their appenders' clocks.

        Returns the first position still there.
        """
        cutoff_ms = int((self._clock() - check_amount(age_s, "an age")) * 1000)
        async with self._within("trim_older", timeout):
            keep = await self._trimmer.search(lambda time_ms, before: time_ms >= cutoff_ms)
            return await self._trimmer.below(keep)

    async def trim_larger(self, size: int, *, timeout: float | None = None) -> int:
        """Forget the oldest entries, so that those which remain have at most `size` bytes.

        Returns the first position still there.
        """
        check_amount(size, "a size")
        async with self._within("trim_larger", timeout):
            total = await self._trimmer.total()
            keep = await self._trimmer.search(lambda time_ms, before: total - before <= size)
            return await self._trimmer.below(keep)

    async def info(self, *, timeout: float | None = None) -> Info:
        """The log at a glance."""
        async with self._within("info", timeout):
            return await look(self.name, self._reader)

    # ------------------------------------------------------------ within

    @asynccontextmanager
    async def _within(
        self, what: str, timeout: float | None, position: int | None = None
    ) -> AsyncIterator[float]:
        """The time that one call may take; yields its deadline.

        Args:
            position: where it reads, if it does.
        """
        self._check_open()
        deadline = self._client.deadline(timeout)
        try:
            async with self._limits.until(deadline + GRACE_S, lambda: _too_late(what, self.name)):
                if position is not None and position < self._trim_point.at.position:
                    await self._trim_point.find()
                    raise self._gone(position)
                yield deadline
        except WormError as e:
            if not self._closed or isinstance(e, Closed):
                raise
            raise self._over() from e

    async def _still_there(self, position: int, read: Callable[[int], Awaitable[T]]) -> T:
        """Read at a position, again if what was trimmed meanwhile lies below it.

        Raises:
            LogTrimmed: the position itself was trimmed.
        """
        while True:
            known = self._trim_point.at
            try:
                return await read(position)
            except Trimmed as e:
                found = await self._trim_point.find()
                if position < found.position or found == known:
                    raise self._gone(position) from e

    def _gone(self, position: int) -> LogTrimmed:
        """The error for a position that was trimmed."""
        first = self._trim_point.at.position
        what = f"position {position} of log {self.name!r} was trimmed; the first is now {first}"
        return LogTrimmed(what, first)

    def _check_open(self) -> None:
        if self._closed:
            raise self._over()

    def _over(self) -> Closed:
        return Closed(f"log {self.name!r} was closed here")


def _nothing(log: Log) -> None:
    """For a log that nobody keeps account of."""


def _too_late(what: str, name: str) -> Unavailable:
    return Unavailable(
        f"{what} of log {name!r}: not done in time; too few servers, or too slow ones, answered"
    )
