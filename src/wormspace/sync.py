"""WormSpace without asyncio: the same calls, for plain and threaded programs.

    import wormspace.sync

    with wormspace.sync.connect("file:./state") as worm:
        segment = worm.space("orders").alloc(b"what it is for")
        captured = segment.capture()
        segment.write(0, b"decided, for ever", captured.token)
        assert segment.read(0) == b"decided, for ever"

A connection runs one event loop in a background thread; calls may come from any thread.

Made by tools/gen_sync.py from the asynchronous classes; do not edit.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import wormspace.connecting as _connecting
import wormspace.log.cursors as _cursor
import wormspace.log.log as _log
import wormspace.space.segment as _segment
import wormspace.space.space as _space
from wormspace._sync_runtime import Background, Feed
from wormspace.log import Entry, Info, SequencerChoice
from wormspace.log.checks import NO_HEADERS
from wormspace.registers.interface import Captured, RegisterState, ServerState
from wormspace.registers.token import Token
from wormspace.space.address import Address
from wormspace.space.client import DEFAULT_TIMEOUT_S
from wormspace.space.events import Event
from wormspace.space.space import DEFAULT_SIZE
from wormspace.worm import Worm

__all__ = ["Client", "Cursor", "Feed", "Log", "Segment", "Space", "connect"]


def connect(
    url: str, *, timeout: float = DEFAULT_TIMEOUT_S, rng: random.Random | None = None
) -> Client:
    """Connect to an address space.

        with wormspace.sync.connect("file:./state") as worm:
            segment = worm.space("orders").alloc()

    Args:
        url: `memory:`, `file:PATH` or `worm://HOST:PORT,...`; see the module's table.
        timeout: the default deadline of every call on the client, and that of connecting, in
            seconds.
        rng: where proposer ids, nonces and back-off pauses come from; by default the system.

    Raises:
        BadUrl: the URL makes no sense.
        UsageError: the timeout is no positive number of seconds, or `rng` no `random.Random`.
        Unavailable: no majority of some partition could be reached in time.
        Refused: the servers do not want this client, or are not those that were named.
        StoreError: the directory cannot be used: it is open elsewhere, or not an embedded one.
    """

    async def opening() -> Worm:
        return await _connecting.connect(url, timeout=timeout, rng=rng)

    return Client(Background.connect(opening))


class Client:
    """A connection to an address space; get it from `wormspace.sync.connect`."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._twin = background.client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def space(self, name: str) -> Space:
        """The space of that name; it needs no creation.

        Raises:
            BadAddress: the name is empty, longer than 255 bytes, or no valid Unicode.
        """
        return Space(self._background, self, self._twin.space(name))

    def spaces(self, *, timeout: float | None = None) -> list[str]:
        """The names of the spaces in which anything was ever captured or written, in order."""
        return self._background.call(lambda: self._twin.spaces(timeout=timeout))

    def servers(self, *, timeout: float | None = None) -> list[ServerState]:
        """Every server: whether it can be reached, and its figures."""
        return self._background.call(lambda: self._twin.servers(timeout=timeout))

    def close(self) -> None:
        """Give up what is under way (`Closed`) and disconnect; harmless the second time."""
        self._background.close()

    def log(
        self,
        name: str,
        *,
        sequencer: SequencerChoice = "auto",
        capture_ahead: bool = True,
        segment_size: int | None = None,
        patience_s: float = 0.5,
        host: str = "127.0.0.1",
        port: int = 0,
        timeout: float | None = None,
    ) -> Log:
        """The log of that name; it is made if there is none.

        Args:
            sequencer: who hands out positions. "auto": the log's sequencer, wherever it is, and
                if there is none, this process becomes it; "elsewhere": the same, but this process
                never does; "none": appenders capture for themselves, which is good for one
                appender at a time.
            capture_ahead: whether a sequencer here captures segments before they are needed, or
                leaves them to the unsafe write.
            segment_size: registers per segment, fixed when the log is made (default 1024).
            patience_s: seconds that a register may stay empty before a reader makes it a hole.
            host: where a sequencer in this process can be reached by the others.
            port: the same; the system chooses one if it is 0.

        Raises:
            UsageError: the log was made with another segment size, or no log can have this name.
            WrongKind: something else has this name; nothing was written.
            NewerFormat: a newer wormspace made it.
            Unavailable: not in time.
        """
        twin = self._background.call(
            lambda: self._twin.log(
                name,
                sequencer=sequencer,
                capture_ahead=capture_ahead,
                segment_size=segment_size,
                patience_s=patience_s,
                host=host,
                port=port,
                timeout=timeout,
            )
        )
        return Log(self._background, self, twin)


class Space:
    """A handle on a space; get it from `Client.space`.  Spaces need no creation."""

    def __init__(self, background: Background, client: Client, twin: _space.Space) -> None:
        self._background = background
        self._client = client
        self._twin = twin

    def __repr__(self) -> str:
        return repr(self._twin)

    @property
    def client(self) -> Client:
        """The connection it belongs to."""
        return self._client

    @property
    def name(self) -> str:
        """1 to 255 bytes."""
        return self._twin.name

    def alloc(
        self, metadata: bytes = b"", size: int = DEFAULT_SIZE, *, timeout: float | None = None
    ) -> Segment:
        """Allocate the next segment: `size` empty registers, and a payload that says what for.

        Of allocators that race for a number, the first to write its metadata register wins; the
        others try the next that is free.

        Raises:
            Unavailable: no majority in time; a segment may have been allocated all the same.
        """
        twin = self._background.call(lambda: self._twin.alloc(metadata, size, timeout=timeout))
        return Segment(self._background, self, twin)

    def segment(self, number: int, *, timeout: float | None = None) -> Segment:
        """The handle on an allocated segment.

        Raises:
            NotAllocated, Trimmed.
        """
        twin = self._background.call(lambda: self._twin.segment(number, timeout=timeout))
        return Segment(self._background, self, twin)

    def check(self, number: int, *, timeout: float | None = None) -> bytes:
        """The payload with which a segment was allocated.

        Raises:
            NotAllocated, Trimmed.
        """
        return self._background.call(lambda: self._twin.check(number, timeout=timeout))

    def tail(self, *, timeout: float | None = None) -> int:
        """How many segments were ever allocated: the number of the next one."""
        return self._background.call(lambda: self._twin.tail(timeout=timeout))

    def head(self, *, timeout: float | None = None) -> int:
        """The first segment that is not trimmed: all below it are.

        It need not be allocated: when everything was trimmed, it is the tail.
        """
        return self._background.call(lambda: self._twin.head(timeout=timeout))

    def trim(self, number: int, *, timeout: float | None = None) -> None:
        """Make one segment garbage, by consensus and for ever.

        From then on every access to it is `Trimmed`, and the servers delete what they held.

        Raises:
            NotAllocated.
        """
        self._background.call(lambda: self._twin.trim(number, timeout=timeout))

    def trim_prefix(self, stop: int, *, timeout: float | None = None) -> None:
        """Make all segments below `stop` garbage.

        Raises:
            NotAllocated: `stop` is above the tail; nothing was trimmed.
        """
        self._background.call(lambda: self._twin.trim_prefix(stop, timeout=timeout))

    def listen(self, start: Address | int = 0, *, stop: int | None = None) -> Feed[Event]:
        """What happens in the space from `start` on: history first, then live, without end.

        Each write, allocation and trim is delivered once.  What is there already comes in the order
        of addresses; what happens from then on comes in the order in which it is decided, as
        this client learns it, at the moment a writer does.  When the connection to a majority
        was lost, what was missed follows in the order of addresses.

        A wait for the next event may be cancelled, by a time-out for instance, and loses nothing;
        closing the stream ends it.

        Args:
            start: a register, or a segment's number.
            stop: the segment to stop before.
        """
        return Feed(self._background, lambda: self._twin.listen(start, stop=stop))


class Segment:
    """A handle on one allocated segment; get it from `Space.alloc` or `Space.segment`.

    Every call takes a `timeout` in seconds (default: the client's) and raises `Unavailable` when it
    passes, `Trimmed` once the segment is garbage, and `BadAddress` for offsets outside it.
    """

    def __init__(self, background: Background, space: Space, twin: _segment.Segment) -> None:
        self._background = background
        self._space = space
        self._twin = twin

    def __repr__(self) -> str:
        return repr(self._twin)

    @property
    def space(self) -> Space:
        """The space it belongs to."""
        return self._space

    @property
    def number(self) -> int:
        """Its place in the space, from 0."""
        return self._twin.number

    @property
    def size(self) -> int:
        """How many registers it has."""
        return self._twin.size

    @property
    def metadata(self) -> bytes:
        """What its allocator said it is for."""
        return self._twin.metadata

    def capture(
        self, start: int | None = None, stop: int | None = None, *, timeout: float | None = None
    ) -> Captured:
        """Capture registers: all of them, the one at `start`, or [start, stop).

        A capture takes the registers from whoever held them.  What was half-written is decided
        first, so the result says what is written, with values, and the rest is free: its token
        writes any value to a free register in one round trip, until somebody else captures it.
        """
        return self._background.call(lambda: self._twin.capture(start, stop, timeout=timeout))

    def write(
        self, offset: int, value: bytes, token: Token, *, timeout: float | None = None
    ) -> None:
        """Write a register, for ever; returns when it is decided.

        The same write again, with the same token and value, is always safe.

        Raises:
            CaptureLost: somebody captured it since; the outcome is unknown (`settle` it).
            AlreadyWritten: it holds another value.
            TokenReused: another value was issued under this token before.
            BadToken: the token does not cover it.
            ValueTooLarge.
        """
        self._background.call(lambda: self._twin.write(offset, value, token, timeout=timeout))

    def write_range(
        self, start: int, values: Sequence[bytes], token: Token, *, timeout: float | None = None
    ) -> None:
        """Write `values` to consecutive registers from `start` on; each has a fate of its own.

        Raises:
            PartialWrite: some failed; its `results` has an error or None for each.
        """
        self._background.call(lambda: self._twin.write_range(start, values, token, timeout=timeout))

    def unsafe_write(self, offset: int, value: bytes, *, timeout: float | None = None) -> None:
        """Write a register without a capture: one round trip in all.

        Right only where the application guarantees that at most one client ever issues an unsafe
        write to this register.

        Raises:
            CaptureLost: somebody captured it; the outcome is unknown.
            ProtocolViolation: another value was written unsafely: the guarantee was broken.
        """
        self._background.call(lambda: self._twin.unsafe_write(offset, value, timeout=timeout))

    def read(self, offset: int, *, timeout: float | None = None) -> bytes | None:
        """The register's value, or None if it is empty.

        Linearizable: whatever was written before the call began is seen.  A register that is met
        half-written is completed.
        """
        return self._background.call(lambda: self._twin.read(offset, timeout=timeout))

    def read_range(
        self, start: int = 0, stop: int | None = None, *, timeout: float | None = None
    ) -> list[bytes | None]:
        """The values of [start, stop), None where empty; `stop` defaults to the segment's end."""
        return self._background.call(lambda: self._twin.read_range(start, stop, timeout=timeout))

    def settle(self, offset: int, otherwise: bytes = b"", *, timeout: float | None = None) -> bytes:
        """Decide the register, one way or the other, and return its value.

        For writes whose outcome is unknown: what one of them left half-written is completed; if
        none is met, `otherwise` is written.  Only a value ends them all: of a register that is
        merely found empty and captured, a later captor may still meet what a minority accepted.

        Raises:
            Unavailable: no majority in time; the register may have been decided all the same.
        """
        return self._background.call(lambda: self._twin.settle(offset, otherwise, timeout=timeout))

    def holds(self, token: Token | None, offset: int, *, timeout: float | None = None) -> bool:
        """Whether nobody captured register `offset` since the token's capture; None: ever.

        Asks a majority and writes nothing.  True is linearizable: at some moment of the call nobody
        else's capture had been granted, so nobody else had written there.  It says nothing of the
        moment after.

        Raises:
            BadToken: the token does not cover it.
        """
        return self._background.call(lambda: self._twin.holds(token, offset, timeout=timeout))

    def trim(self, *, timeout: float | None = None) -> None:
        """Make the segment garbage, by consensus and for ever."""
        self._background.call(lambda: self._twin.trim(timeout=timeout))

    def listen(self, start: int = 0) -> Feed[Event]:
        """Writes to this segment from offset `start` on, past and to come; see `Space.listen`."""
        return Feed(self._background, lambda: self._twin.listen(start))

    def inspect(
        self, start: int = 0, stop: int | None = None, *, timeout: float | None = None
    ) -> dict[str, list[RegisterState] | None]:
        """What each server holds of [start, stop), for people.

        Returns:
            By server, its registers that hold anything, in order; none if the segment is trimmed
            there, and None if it did not say all of it in time.

        Raises:
            BadAddress: these are more registers than one call shows (4,194,304): give a range.
        """
        return self._background.call(lambda: self._twin.inspect(start, stop, timeout=timeout))


class Log:
    """A shared, totally ordered log of entries, in the style of CORFU (NSDI 2012).

        log = worm.log("orders")
        position = log.append(b"four chairs")
        for entry in log.listen(position):
            ...

    Positions count from 0.  Each below the tail holds an entry or is a hole, for ever; holes are
    what crashed appenders leave, and readers pass over them.  Get a log from `worm.log`; calls take
    a `timeout` in seconds (default: the client's).
    """

    def __init__(self, background: Background, client: Client, twin: _log.Log) -> None:
        self._background = background
        self._client = client
        self._twin = twin

    def __repr__(self) -> str:
        return repr(self._twin)

    @property
    def client(self) -> Client:
        """The connection it belongs to."""
        return self._client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The log's."""
        return self._twin.name

    @property
    def segment_size(self) -> int:
        """Registers per segment; trimming frees whole segments."""
        return self._twin.segment_size

    def close(self) -> None:
        """Stop appending, and say so if the sequencer was in this process.

        Whatever is called or under way on the log from now on ends with `Closed`, listeners
        too.  Harmless when repeated.
        """
        self._background.call(lambda: self._twin.close())

    def stand_by(self) -> None:
        """Be the log's sequencer whenever there is no other; until the log is closed.

        Raises:
            UsageError: this log was opened without a shared sequencer.
        """
        self._background.call(lambda: self._twin.stand_by())

    def append(
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
        return self._background.call(
            lambda: self._twin.append(body, headers=headers, streams=streams, timeout=timeout)
        )

    def append_many(
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
        return self._background.call(
            lambda: self._twin.append_many(
                bodies, headers=headers, streams=streams, timeout=timeout
            )
        )

    def read(self, position: int, *, timeout: float | None = None) -> Entry | None:
        """The entry at a position; None if there is a hole.

        Raises:
            NotWritten: neither is there yet.
            LogTrimmed: it is behind the trim point.
            DamagedEntry: the register holds something else.
        """
        return self._background.call(lambda: self._twin.read(position, timeout=timeout))

    def read_range(
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
        return self._background.call(lambda: self._twin.read_range(start, stop, timeout=timeout))

    def tail(self, *, timeout: float | None = None) -> int:
        """One past the last position that is written.

        Linearizable, and a fact rather than a hint: it is found in the registers, and asks no
        sequencer.  Positions below it may still be empty for a moment.
        """
        return self._background.call(lambda: self._twin.tail(timeout=timeout))

    def first(self, *, timeout: float | None = None) -> int:
        """The first position that is not trimmed."""
        return self._background.call(lambda: self._twin.first(timeout=timeout))

    def fill(self, position: int, *, timeout: float | None = None) -> Entry | None:
        """Decide a position now: its entry, or None because it is a hole from now on.

        For a position below the tail whose appender seems to be gone.

        Raises:
            NotWritten: it is not below the tail.
            LogTrimmed: it is behind the trim point.
            DamagedEntry: the register holds something else.
        """
        return self._background.call(lambda: self._twin.fill(position, timeout=timeout))

    def listen(self, start: int | None = None, *, stream: str | None = None) -> Feed[Entry]:
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
        return Feed(self._background, lambda: self._twin.listen(start, stream=stream))

    def read_stream(
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
        return self._background.call(lambda: self._twin.read_stream(name, start, timeout=timeout))

    def streams(self, *, timeout: float | None = None) -> dict[str, int]:
        """The streams that are remembered, each with the last position handed out for it."""
        return self._background.call(lambda: self._twin.streams(timeout=timeout))

    def cursor(self, name: str) -> Cursor:
        """The durable cursor of the consumer of this name; it needs no creation.

        Raises:
            BadAddress: the name is empty or too long.
        """
        return Cursor(self._background, self, self._twin.cursor(name))

    def trim(self, position: int, *, timeout: float | None = None) -> int:
        """Forget all entries below `position`; returns the first position still there.

        Readers get `LogTrimmed` for what is below as soon as they learn of it, and at the latest
        when its segment is gone: the servers free whole segments.

        Raises:
            NotWritten: it is above the tail; nothing was trimmed.
        """
        return self._background.call(lambda: self._twin.trim(position, timeout=timeout))

    def trim_older(self, age_s: float, *, timeout: float | None = None) -> int:
        """Forget the entries appended longer than this ago, by their appenders' clocks.

        Returns the first position still there.
        """
        return self._background.call(lambda: self._twin.trim_older(age_s, timeout=timeout))

    def trim_larger(self, size: int, *, timeout: float | None = None) -> int:
        """Forget the oldest entries, so that those which remain have at most `size` bytes.

        Returns the first position still there.
        """
        return self._background.call(lambda: self._twin.trim_larger(size, timeout=timeout))

    def info(self, *, timeout: float | None = None) -> Info:
        """The log at a glance."""
        return self._background.call(lambda: self._twin.info(timeout=timeout))


class Cursor:
    """One consumer's place in one log; get it from `Log.cursor`."""

    def __init__(self, background: Background, log: Log, twin: _cursor.Cursor) -> None:
        self._background = background
        self._log = log
        self._twin = twin

    def __repr__(self) -> str:
        return repr(self._twin)

    @property
    def log(self) -> Log:
        """The log it belongs to."""
        return self._log

    @property
    def name(self) -> str:
        """The consumer's."""
        return self._twin.name

    def load(self, *, timeout: float | None = None) -> int:
        """The first position that is not committed; 0 if nothing ever was.

        Linearizable: it sees every commit that was acknowledged before the call.

        Raises:
            Unavailable: not in time.
        """
        return self._background.call(lambda: self._twin.load(timeout=timeout))

    def commit(self, position: int, *, timeout: float | None = None) -> None:
        """All below `position` is done with; it is where a later run begins.

        The last commit counts, even if it goes back.  A consumer that commits alone pays one round
        trip, for what was read through this handle of the log; for other positions it is looked
        first where the log ends.

        Raises:
            NotWritten: it is above the tail: nothing there was ever delivered to anybody.
            Unavailable: the outcome is unknown; commit again.
        """
        self._background.call(lambda: self._twin.commit(position, timeout=timeout))
