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
from wormspace.log.beginning import Beginning
from wormspace.log.cursors import Cursor
from wormspace.log.desk import Desk, PrivateDesk, SharedDesk
from wormspace.log.errors import LogTrimmed, NotWritten
from wormspace.log.following import StreamReader
from wormspace.log.marks import Mark
from wormspace.log.reading import Reader
from wormspace.log.records import Entry
from wormspace.log.sequencer import Sequencer
from wormspace.log.subscribing import Subscription
from wormspace.log.tape import Tape
from wormspace.log.trimming import Trimmer
from wormspace.space import Client

SEGMENT_SIZE = 1024
MIN_SEGMENT_SIZE = 4
MAX_SEGMENT_SIZE = 65_536
"""What is left of a segment is filled, register by register, when a sequencer takes over."""
PATIENCE_S = 0.5

VERSION = 2
"""Of what registers hold: with 1, a register had one entry."""

T = TypeVar("T")

SequencerChoice: TypeAlias = Literal["auto", "elsewhere", "none"]

NO_HEADERS: Mapping[str, str] = {}


class Config(msgspec.Struct, frozen=True, array_like=True):
    """What is fixed when a log is made: the payload of the first segment of `<log>/config`."""

    segment_size: int
    version: int = VERSION


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
        segment_size: registers per segment; trimming frees whole segments.
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
        self._clock = clock
        self._beginning = Beginning(Mark(client.space(f"{name}/trim")))
        self._reader = Reader(self._tape, self._beginning, patience)
        self._trimmer = Trimmer(self._reader, self._beginning)
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
        log._streams = StreamReader(client, log._reader, log._desk)
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
            return PrivateDesk(Sequencer(self._reader, unsafe=unsafe, sole=sole))

        def make(may_renew: Callable[[], Awaitable[bool]]) -> Sequencer:
            return Sequencer(self._reader, unsafe=unsafe, may_renew=may_renew)

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
        await self._beginning.close()
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
        return (await self._appender.append((body,), headers, tuple(streams), timeout))[0]

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
            Unavailable: not in time; some of the entries may be in the log, now or later.
            ValueTooLarge: one of them is; nothing was appended.
        """
        if not bodies:
            return []
        return await self._appender.append(tuple(bodies), headers, tuple(streams), timeout)

    # ------------------------------------------------------------ read

    async def read(self, position: int, *, timeout: float | None = None) -> Entry | None:
        """The entry at a position; None if there is a hole.

        Raises:
            NotWritten: neither is there yet.
            LogTrimmed: it is behind the trim point.
        """
        self._check(position)
        decided, entry = await self._read(position, "read", self._reader.read, timeout)
        if not decided:
            raise NotWritten(f"nothing is at position {position} of log {self.name!r} yet")
        return entry

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
        until = await self.tail() if stop is None else stop
        return await self._read(
            start, "read_range", lambda start: self._reader.read_range(start, until), timeout
        )

    async def tail(self, *, timeout: float | None = None) -> int:
        """One past the last position that is written.

        Linearizable, and a fact rather than a hint: it is found in the registers, and asks no
        sequencer.  Positions below it may still be empty for a moment.
        """
        return await self._timed("tail", self._reader.tail(), timeout)

    async def first(self, *, timeout: float | None = None) -> int:
        """The first position that is not trimmed."""
        return (await self._timed("first", self._beginning.find(), timeout)).position

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
        return await self._read(position, "fill", self._reader.fill, timeout)

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
            raise self._gone(start)
        if stream is None:
            source = Subscription(self._reader, start, self._gone).entries()
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
        return await self._trim_until(lambda time_ms, before: time_ms >= cutoff_ms, timeout)

    async def trim_larger(self, size: int, *, timeout: float | None = None) -> int:
        """Forget the oldest entries, so that those which remain have at most `size` bytes.

        Returns the first position still there.
        """
        total = await self._timed("trim", self._trimmer.total(), timeout)
        return await self._trim_until(lambda time_ms, before: total - before <= size, timeout)

    async def _trim_until(self, keeps: Callable[[int, int], bool], timeout: float | None) -> int:
        keep = await self._timed("trim", self._trimmer.search(keeps), timeout)
        return await self.trim(keep, timeout=timeout)

    async def info(self, *, timeout: float | None = None) -> Info:
        """The log at a glance."""
        return await self._timed("info", self._info(), timeout)

    async def _info(self) -> Info:
        first, tail = (await self._beginning.find()).position, await self._reader.tail()
        oldest = await self._reader.first_pack(first)
        newest = await self._reader.last_pack(await self._tape.end())
        size = 0
        if oldest and newest:
            begin = next(before for position, before in oldest.befores() if position >= first)
            size = newest[1].before + newest[1].size - begin
        return Info(
            self.name,
            first,
            tail,
            size,
            self.segment_size,
            oldest.time_ms / 1000.0 if oldest else None,
            newest[1].time_ms / 1000.0 if newest else None,
        )

    # ------------------------------------------------------------ within

    def _check(self, position: int) -> None:
        if position < 0:
            raise UsageError(f"a position is 0 or more, not {position}")
        if position < self._beginning.at.position:
            raise self._gone(position)

    async def _read(
        self,
        position: int,
        what: str,
        read: Callable[[int], Awaitable[T]],
        timeout: float | None,
    ) -> T:
        """Read at a position, again if what was trimmed meanwhile lies below it.

        Raises:
            LogTrimmed: the position itself was trimmed.
        """
        while True:
            known = self._beginning.at
            try:
                return await self._timed(what, read(position), timeout)
            except Trimmed as e:
                found = await self._beginning.find()
                if position < found.position or found == known:
                    raise self._gone(position) from e

    def _gone(self, position: int) -> LogTrimmed:
        """The error for a position that was trimmed."""
        first = self._beginning.at.position
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
    if segment_size is not None and not MIN_SEGMENT_SIZE <= segment_size <= MAX_SEGMENT_SIZE:
        raise UsageError(
            f"a log's segments have {MIN_SEGMENT_SIZE} to {MAX_SEGMENT_SIZE} registers"
        )
    try:
        raw = await space.check(0)
    except NotAllocated:
        raw = msgspec.msgpack.encode(Config(segment_size or SEGMENT_SIZE))
        made = await space.alloc(raw, 1)
        if made.number != 0:  # somebody else made it at the same time
            raw = await space.check(0)
    config = msgspec.msgpack.decode(raw, type=Config)
    if config.version != VERSION:
        raise UsageError(
            f"log {name!r} is of version {config.version}, this program reads {VERSION}"
        )
    if segment_size is not None and segment_size != config.segment_size:
        raise UsageError(
            f"log {name!r} has segments of {config.segment_size} registers, not {segment_size}"
        )
    return config
