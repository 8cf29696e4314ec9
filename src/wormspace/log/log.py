"""The log: what `worm.log(name)` returns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self, TypeAlias, TypeVar, get_args

import msgspec

from wormspace.errors import NotAllocated, Trimmed, Unavailable, UsageError
from wormspace.log.appending import Appender
from wormspace.log.cursors import Cursor
from wormspace.log.desk import Desk, PrivateDesk, SharedDesk
from wormspace.log.errors import LogTrimmed, NotWritten
from wormspace.log.following import StreamReader
from wormspace.log.marks import Mark
from wormspace.log.records import Entry, Record, decode_entry
from wormspace.log.sequencer import Sequencer
from wormspace.log.subscribing import POLL_S, Subscription
from wormspace.log.tape import Tape
from wormspace.log.trimming import Trimmer
from wormspace.space import Client

SEGMENT_SIZE = 4096
MIN_SEGMENT_SIZE = 4
PATIENCE_S = 0.5

T = TypeVar("T")

SequencerChoice: TypeAlias = Literal["auto", "elsewhere", "none"]

NO_HEADERS: Mapping[str, str] = {}


class Config(msgspec.Struct, frozen=True, array_like=True):
    """What is fixed when a log is made: the payload of the first segment of `<log>/config`."""

    segment_size: int
    version: int = 1


class Info(msgspec.Struct, frozen=True):
    """A log at a glance.

    Attributes:
        first: the first position that is still there.
        tail: one past the last position that is written.
        bytes: of all entries from `first` on.
        oldest, newest: when the first and the last entry were appended, seconds since 1970.
    """

    name: str
    first: int
    tail: int
    bytes: int
    segment_size: int
    oldest: float | None
    newest: float | None


class Log:
    """A shared, totally ordered log of entries, in the style of CORFU (NSDI 2012).

        log = await worm.log("orders")
        position = await log.append(b"four chairs")
        async for entry in log.subscribe(from_=position):
            ...

    Positions count from 0.  Each below the tail holds an entry or is a hole, for ever; holes are
    what crashed appenders leave, and readers pass over them.  Get a log from `worm.log`; calls take
    a `timeout` in seconds (default: the client's).

    Attributes:
        name: the log's; its entries are in the space of this name, what belongs to it in spaces
            whose names begin with it and a slash.
        segment_size: positions per segment; trimming frees whole segments.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        segment_size: int,
        *,
        patience: float = PATIENCE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.segment_size = segment_size
        self._client = client
        self._tape = Tape(client.space(name), segment_size)
        self._patience = patience
        self._clock = clock
        self._mark = Mark(client.space(f"{name}/trim"))
        self._trimmer = Trimmer(self._tape, self._mark)
        self._cursors: dict[str, Cursor] = {}
        self._desk: Desk
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
        capture_ahead: bool = True,
        segment_size: int | None = None,
        patience: float = PATIENCE_S,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> Log:
        """Open a log, or make it; see `Worm.log`, which calls this.

        Args:
            sole: no other process can reach this address space.
        """
        config = await _configure(client, name, segment_size)
        log = cls(client, name, config.segment_size, patience=patience, clock=clock)
        log._desk = log._make_desk(sequencer, sole, capture_ahead, host, port)
        log._appender = Appender(log._tape, log._desk, client.nonce()[:8], clock)
        log._streams = StreamReader(client, log._tape, log._desk, log._trimmer.find_first, patience)
        await log.first()
        return log

    def _make_desk(
        self, sequencer: SequencerChoice, sole: bool, capture_ahead: bool, host: str, port: int
    ) -> Desk:
        """Choose where positions come from."""
        if sequencer not in get_args(SequencerChoice):
            raise UsageError(f"a sequencer is one of {get_args(SequencerChoice)}")
        unsafe = not capture_ahead
        if sole or sequencer == "none":
            return PrivateDesk(
                Sequencer(self._tape, self._trimmer.find_first, unsafe=unsafe, sole=sole)
            )

        def make(may_renew: Callable[[], Awaitable[bool]]) -> Sequencer:
            return Sequencer(
                self._tape, self._trimmer.find_first, unsafe=unsafe, may_renew=may_renew
            )

        mark = Mark(self._client.space(f"{self.name}/sequencer"))
        may_become = sequencer == "auto"
        return SharedDesk(self.name, mark, make, host=host, port=port, may_become=may_become)

    def __repr__(self) -> str:
        return f"<Log {self.name!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop appending, and say so if the sequencer was in this process."""
        await self._appender.close()
        await self._desk.close()
        await self._mark.close()
        for cursor in self._cursors.values():
            await cursor.close()

    async def stand_by(self) -> None:
        """Be the log's sequencer whenever there is no other; without end.

        Raises:
            UsageError: this log was opened without a shared sequencer.
        """
        if not isinstance(self._desk, SharedDesk):
            raise UsageError(f"log {self.name!r} has no sequencer that could be shared")
        await self._desk.stand_by()

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
            Unavailable: not in time; the entry may be in the log, now or later.
            ValueTooLarge.
        """
        return await self._appender.append(body, headers, tuple(streams), timeout)

    async def append_many(
        self,
        bodies: Sequence[bytes],
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        streams: Sequence[str] = (),
        timeout: float | None = None,
    ) -> list[int]:
        """Append entries, which share headers and streams; returns the position of each.

        One question to the sequencer, and a few messages to the servers, for all of them.  Their
        positions ascend, but need not be consecutive; when the sequencer is replaced in the middle
        of it, one of them may also come after those that follow it.

        Raises:
            Unavailable: not in time; some of the entries may be in the log, now or later.
            ValueTooLarge: one of them is; nothing was appended.
        """
        return await self._appender.append_many(bodies, headers, tuple(streams), timeout)

    # ------------------------------------------------------------ read

    async def read(self, position: int, *, timeout: float | None = None) -> Entry | None:
        """The entry at a position; None if there is a hole.

        Raises:
            NotWritten: neither is there yet.
            LogTrimmed: it is behind the trim point.
        """
        self._check(position)
        number, offset = divmod(position, self.segment_size)
        try:
            raw = await self._tape.segment(number).read(offset, timeout=timeout)
        except Trimmed as e:
            raise await self._gone(position) from e
        if raw is None:
            raise NotWritten(f"nothing is at position {position} of log {self.name!r} yet")
        return decode_entry(raw, position) if raw else None

    async def read_range(
        self, start: int, stop: int | None = None, *, timeout: float | None = None
    ) -> list[Entry]:
        """The entries at [start, stop), without the holes; `stop` is the tail if it is above it.

        A position below the tail that stays empty for longer than the log's patience becomes a
        hole: its appender has died.

        Raises:
            LogTrimmed: `start` is behind the trim point.
            Unavailable: not in time.
        """
        self._check(start)
        if stop is None:
            stop = await self.tail()
        try:
            values = await self._timed("read_range", self._settled(start, stop), timeout)
        except Trimmed as e:
            raise await self._gone(start) from e
        return [decode_entry(raw, position) for position, raw in enumerate(values, start) if raw]

    async def _settled(self, start: int, stop: int) -> list[bytes]:
        """What is at [start, stop), as far as it lies below the tail, when all of it is decided."""
        values: list[bytes] = []
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._patience
        while start < stop:
            for value in await self._tape.read(start, stop):
                if value is None:
                    break
                values.append(value)
                start += 1
            else:
                break
            stop = min(stop, await self._tape.end())
            if start < stop:
                if loop.time() >= give_up:
                    await self._tape.fill(start, stop)
                else:
                    await asyncio.sleep(POLL_S)
        return values

    async def tail(self, *, timeout: float | None = None) -> int:
        """One past the last position that is written.

        Linearizable, and a fact rather than a hint: it is found in the registers, and asks no
        sequencer.  Positions below it may still be empty for a moment.
        """
        return await self._timed("tail", self._tape.end(), timeout)

    async def first(self, *, timeout: float | None = None) -> int:
        """The first position that is not trimmed."""
        return await self._timed("first", self._trimmer.find_first(), timeout)

    async def fill(self, position: int, *, timeout: float | None = None) -> Entry | None:
        """Decide a position now: its entry, or None because it is a hole from now on.

        For a position below the tail whose appender seems to be gone.

        Raises:
            NotWritten: it is not below the tail.
            LogTrimmed.
        """
        self._check(position)
        if position >= await self.tail(timeout=timeout):
            raise NotWritten(f"position {position} of log {self.name!r} is not below the tail")
        try:
            await self._timed("fill", self._tape.fill(position, position + 1), timeout)
        except Trimmed as e:
            raise await self._gone(position) from e
        return await self.read(position, timeout=timeout)

    def subscribe(
        self, from_: int | None = None, *, stream: str | None = None
    ) -> AsyncIterator[Entry]:
        """Every entry from a position on, once, in order: history, then live, without end.

        What blocks it longer than the log's patience is filled.

        Args:
            from_: the first position; by default, the first that is still there.
            stream: only the entries of this stream.

        Raises (while iterating):
            LogTrimmed: the next position was trimmed before it was delivered.
        """
        if from_ is not None and from_ < 0:
            raise UsageError(f"a position is 0 or more, not {from_}")
        return self._subscribe(from_, stream)

    async def _subscribe(self, from_: int | None, stream: str | None) -> AsyncIterator[Entry]:
        first = await self.first()
        start = first if from_ is None else from_
        if start < first:
            raise await self._gone(start)
        if stream is None:
            source = Subscription(self._tape, start, self._patience, self._gone).entries()
        else:
            source = self._streams.follow(stream, start)
        async for entry in source:
            yield entry

    # ------------------------------------------------------------ streams and cursors

    async def read_stream(
        self, name: str, start: int = 0, *, timeout: float | None = None
    ) -> list[Entry]:
        """The entries of a stream at `start` and above, in order.

        Costs reads in proportion to these entries, whatever else is in the log.

        Raises:
            Unavailable: not in time.
        """
        deadline = self._client.deadline(timeout)
        reading = self._streams.read(name, start, deadline)
        return await self._timed("read_stream", reading, timeout)

    async def streams(self, *, timeout: float | None = None) -> dict[str, int]:
        """The names of the log's streams, each with the last position handed out for it."""
        deadline = self._client.deadline(timeout)
        return await self._streams.names(deadline)

    def cursor(self, name: str) -> Cursor:
        """The durable cursor of the consumer of this name; it needs no creation."""
        cursor = self._cursors.get(name)
        if cursor is None:
            mark = Mark(self._client.space(f"{self.name}/cursor/{name}"))
            cursor = self._cursors[name] = Cursor(name, mark)
        return cursor

    # ------------------------------------------------------------ trim

    async def trim(self, position: int, *, timeout: float | None = None) -> int:
        """Forget all entries below `position`; returns the first position still there.

        Readers get `LogTrimmed` for what is below as soon as they learn of it, and at the latest
        when its segment is gone: the servers free whole segments.

        Raises:
            NotWritten: it is above the tail; nothing was trimmed.
        """
        return await self._timed("trim", self._trimmer.below(position), timeout)

    async def trim_older(self, seconds: float, *, timeout: float | None = None) -> int:
        """Forget the entries appended longer than this ago, by their appenders' clocks.

        Returns the first position still there.
        """
        cutoff_ms = int((self._clock() - seconds) * 1000)
        return await self._trim_until(lambda record: record.time_ms >= cutoff_ms, timeout)

    async def trim_larger(self, size: int, *, timeout: float | None = None) -> int:
        """Forget the oldest entries, so that those which remain have at most `size` bytes.

        Returns the first position still there.
        """
        total = await self._timed("trim", self._trimmer.total(), timeout)
        return await self._trim_until(lambda record: total - record.before <= size, timeout)

    async def _trim_until(self, keeps: Callable[[Record], bool], timeout: float | None) -> int:
        keep = await self._timed("trim", self._trimmer.search(keeps), timeout)
        return await self.trim(keep, timeout=timeout)

    async def info(self, *, timeout: float | None = None) -> Info:
        """The log at a glance."""
        return await self._timed("info", self._info(), timeout)

    async def _info(self) -> Info:
        first, tail = await self._trimmer.find_first(), await self._tape.end()
        oldest = await self._trimmer.entry_from(first, tail)
        newest = await self._trimmer.last_entry()
        size = 0
        if oldest and newest:
            size = newest[1].before + newest[1].size - oldest[1].before
        return Info(
            self.name,
            first,
            tail,
            size,
            self.segment_size,
            oldest[1].time_ms / 1000.0 if oldest else None,
            newest[1].time_ms / 1000.0 if newest else None,
        )

    # ------------------------------------------------------------ within

    def _check(self, position: int) -> None:
        if position < 0:
            raise UsageError(f"a position is 0 or more, not {position}")
        if position < self._trimmer.first:
            raise self._gone_error(position)

    async def _gone(self, position: int) -> LogTrimmed:
        """The error for a position whose segment is gone."""
        await self._trimmer.find_first()
        return self._gone_error(position)

    def _gone_error(self, position: int) -> LogTrimmed:
        first = self._trimmer.first
        what = f"position {position} of log {self.name!r} was trimmed; the first is now {first}"
        return LogTrimmed(what, first)

    async def _timed(self, what: str, work: Awaitable[T], timeout: float | None) -> T:
        """Wait for `work`, no longer than the call may take."""
        try:
            async with asyncio.timeout_at(self._client.deadline(timeout)):
                return await work
        except TimeoutError:
            raise Unavailable(
                f"{what} of log {self.name!r}: too few servers answered in time"
            ) from None


async def _configure(client: Client, name: str, segment_size: int | None) -> Config:
    """What the log was made with; makes it if there is none of this name."""
    space = client.space(f"{name}/config")
    if segment_size is not None and segment_size < MIN_SEGMENT_SIZE:
        raise UsageError(f"a log's segments have at least {MIN_SEGMENT_SIZE} positions")
    try:
        raw = await space.check(0)
    except NotAllocated:
        raw = msgspec.msgpack.encode(Config(segment_size or SEGMENT_SIZE))
        made = await space.alloc(raw, 1)
        if made.number != 0:  # somebody else made it at the same time
            raw = await space.check(0)
    config = msgspec.msgpack.decode(raw, type=Config)
    if segment_size is not None and segment_size != config.segment_size:
        raise UsageError(
            f"log {name!r} has segments of {config.segment_size} positions, not {segment_size}"
        )
    return config
