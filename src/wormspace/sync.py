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
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

import wormspace.connecting as _connecting
import wormspace.log.cursors as _cursor
import wormspace.log.log as _log
import wormspace.smr.remote as _remote
import wormspace.smr.replica as _replica
import wormspace.smr.views as _views
import wormspace.space.segment as _segment
import wormspace.space.space as _space
import wormspace.tx.site as _site
import wormspace.tx.transaction as _transaction
import wormspace.worm as _worm
from wormspace._sync_runtime import Background, Block, Foreign, Stream
from wormspace.errors import UsageError
from wormspace.log import Entry, Info, SequencerChoice
from wormspace.log.checks import NO_HEADERS
from wormspace.registers.interface import Captured, RegisterState, ServerState
from wormspace.registers.token import Token
from wormspace.smr import (
    Consistency,
    Durability,
    Grant,
    Job,
    Leadership,
    StateMachine,
    Status,
    Tuning,
    Versions,
)
from wormspace.smr.holding import holding as _hold
from wormspace.smr.holding import taking as _take
from wormspace.space.address import Address
from wormspace.space.client import DEFAULT_TIMEOUT_S
from wormspace.space.events import Event
from wormspace.space.space import DEFAULT_SIZE
from wormspace.tx import Decision, Gid, Resolution, ResourceManager, TxId
from wormspace.tx.site import CALL_TIMEOUT_S

M = TypeVar("M", bound=StateMachine)
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

__all__ = [
    "Block",
    "Cursor",
    "Log",
    "Remote",
    "Replica",
    "Segment",
    "Site",
    "Space",
    "Stream",
    "Transaction",
    "View",
    "Worm",
    "attach",
    "connect",
    "holding",
    "taking",
]


def connect(
    url: str, *, timeout: float = DEFAULT_TIMEOUT_S, rng: random.Random | None = None
) -> Worm:
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

    async def opening() -> _worm.Worm:
        return await _connecting.connect(url, timeout=timeout, rng=rng)

    return Worm(Background.connect(opening))


class Worm:
    """A connection, and a way to each application that stands on it."""

    def __init__(self, background: Background[_worm.Worm]) -> None:
        self._background = background
        self._twin = background.client

    def __repr__(self) -> str:
        return repr(self._twin)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened here, give up what is under way (`Closed`), and disconnect."""
        self._background.close()

    def run(self, make: Callable[[], Awaitable[T]]) -> T:
        """Wait for something asynchronous on this connection's event loop.

            bank = worm.run(lambda: tx.KeyValueStore.open("bank", tx.LmdbStore(Path("bank"))))
            worm.run(bank.close)

        What lives on that loop, such as a resource manager, is opened and closed in this way.
        """
        return self._background.wait(make)

    def space(self, name: str) -> Space:
        """The space of that name; it needs no creation.

        Raises:
            BadAddress: the name is empty, longer than 255 bytes, or no valid Unicode.
        """
        twin = self._background.do(lambda: self._twin.space(name))
        return Space(self._background, self, twin)

    def spaces(self, *, timeout: float | None = None) -> list[str]:
        """The names of the spaces in which anything was ever captured or written, in order."""
        return self._background.call(lambda: self._twin.spaces(timeout=timeout))

    def servers(self, *, timeout: float | None = None) -> list[ServerState]:
        """Every server: whether it can be reached, and its metrics."""
        return self._background.call(lambda: self._twin.servers(timeout=timeout))

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

    def replicate(
        self,
        machine_type: type[M],
        name: str,
        *,
        replica: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
        leadership: Leadership | None = None,
        durability: Durability | None = None,
        consistency: Consistency | None = None,
        tuning: Tuning | None = None,
        timeout: float = 10.0,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> Replica[M]:
        """Take part in the replicated object `name`: a replica of it in this process.

        Args:
            machine_type: the state machine; every replica names the same one.
            name: the object's commands are registers of the space of this name.
            replica: this replica's name, unlike any other's; by default its host and port.
            host: where the other replicas reach this one.
            port: the same; the system chooses one if it is 0.
            leadership: `Sticky()` by default; the same on every replica (time-outs may differ).
            durability: `NeverTrim()` by default; the same on every replica.
            consistency: of queries, unless a call says otherwise; `Linearizable()` by default.
            tuning: sizes of segments and batches.
            timeout: how long a command or query may take, in seconds, before it is `NoLeader`.
            clock: where the commands' time comes from: seconds since the epoch.
            rng: where ids, seeds and time-outs come from; by default the system.

        Raises:
            UsageError: an argument is not what is said here.
            OtherStrategy: the object was begun with another leadership.
            NoSnapshot: the space's beginning was trimmed, and nobody who answers has the state.
            BadSnapshot, Unavailable.
        """
        twin = self._background.call(
            lambda: self._twin.replicate(
                machine_type,
                name,
                replica=replica,
                host=host,
                port=port,
                leadership=leadership,
                durability=durability,
                consistency=consistency,
                tuning=tuning,
                timeout=timeout,
                clock=clock,
                rng=rng,
            )
        )
        return Replica(self._background, twin)

    def transaction(
        self,
        participants: Sequence[ResourceManager],
        *,
        variant: str = "E3",
        timeout: float = 5.0,
        space: str = "tx",
    ) -> Transaction:
        """A transaction over several resource managers: all of it takes effect, or nothing.

            with worm.transaction([orders, billing]) as tx:
                tx[orders].execute("...")

        Leaving the block commits and raises `tx.Aborted` or `tx.OutcomeUnknown` if that did not
        work; an exception in the block rolls everything back.  See `wormspace.tx`.

        Args:
            variant: how the commit runs, A8 to F2; see `wormspace.tx.VARIANTS`.
            timeout: seconds for the votes; who has not voted by then has voted no.
            space: the transaction space; all who share a resource manager share it.
        """
        twin = self._background.do(
            lambda: self._twin.transaction(
                participants, variant=variant, timeout=timeout, space=space
            )
        )
        return Transaction(self._background, twin)

    def site(self, space: str = "tx") -> Site:
        """This connection's part in the transactions of a transaction space.

        It looks after the resource managers that transactions here have used: what a crash left
        prepared in them is resolved in the background.
        """
        twin = self._background.do(lambda: self._twin.site(space))
        return Site(self._background, twin)


class Space:
    """A handle on a space; get it from `Client.space`.  Spaces need no creation."""

    def __init__(self, background: Background[Any], client: Worm, twin: _space.Space) -> None:
        self._background = background
        self._client = client
        self._twin: _space.Space = twin

    def __repr__(self) -> str:
        return repr(self._twin)

    @property
    def client(self) -> Worm:
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

    def listen(self, start: Address | int = 0, *, stop: int | None = None) -> Stream[Event]:
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
        return Stream(self._background, lambda: self._twin.listen(start, stop=stop))


class Segment:
    """A handle on one allocated segment; get it from `Space.alloc` or `Space.segment`.

    Every call takes a `timeout` in seconds (default: the client's) and raises `Unavailable` when it
    passes, `Trimmed` once the segment is garbage, and `BadAddress` for offsets outside it.
    """

    def __init__(self, background: Background[Any], space: Space, twin: _segment.Segment) -> None:
        self._background = background
        self._space = space
        self._twin: _segment.Segment = twin

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

    def listen(self, start: int = 0) -> Stream[Event]:
        """Writes to this segment from offset `start` on, past and to come; see `Space.listen`."""
        return Stream(self._background, lambda: self._twin.listen(start))

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

    def __init__(self, background: Background[Any], client: Worm, twin: _log.Log) -> None:
        self._background = background
        self._client = client
        self._twin: _log.Log = twin

    def __repr__(self) -> str:
        return repr(self._twin)

    @property
    def client(self) -> Worm:
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
        return Stream(self._background, lambda: self._twin.listen(start, stream=stream))

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
        twin = self._background.do(lambda: self._twin.cursor(name))
        return Cursor(self._background, self, twin)

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

    def __init__(self, background: Background[Any], log: Log, twin: _cursor.Cursor) -> None:
        self._background = background
        self._log = log
        self._twin: _cursor.Cursor = twin

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


class View(Generic[M]):
    """A replicated object, seen at one consistency level in one session.

    Its methods are those of the state machine:

        inventory.reserve("sku-1", 3)

    `call` is the same for type checkers: `inventory.call(Inventory.reserve, "sku-1", 3)`.
    """

    def __init__(self, background: Background[Any], twin: _views.View[M]) -> None:
        self._background = background
        self._twin: _views.View[M] = twin

    def __repr__(self) -> str:
        return repr(self._twin)

    @property
    def token(self) -> str:
        """What this session has seen, as a word for a session elsewhere."""
        return self._twin.token

    def __getattr__(self, name: str) -> Callable[..., Any]:
        bound = getattr(self._twin, name)
        return lambda *args, **kwargs: self._background.wait(lambda: bound(*args, **kwargs))

    def call(
        self, method: Callable[Concatenate[M, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run a command or query, given as the class's method: for type checkers.

        Raises:
            UsageError: it is no command or query of this object's class.
        """
        return self._background.wait(lambda: self._twin.call(method, *args, **kwargs))

    def at(self, level: Consistency) -> View[M]:
        """The same object and session, with queries at another level.

        Raises:
            UsageError: it is none.
        """
        twin = self._background.do(lambda: self._twin.at(level))
        return View(self._background, twin)

    def session(self, token: str = "") -> View[M]:
        """The same object in a session of its own, that goes on from `token` if one is given.

        Raises:
            BadToken: it is no session's token.
        """
        twin = self._background.do(lambda: self._twin.session(token))
        return View(self._background, twin)


class Replica(View[M]):
    """A state machine that survives machines; get it from `Worm.replicate`.

    A replica is also a `View` of itself: its commands and queries can be called on it.
    """

    def __init__(self, background: Background[Any], twin: _replica.Replica[M]) -> None:
        self._background = background
        self._twin: _replica.Replica[M] = twin

    def __repr__(self) -> str:
        return repr(self._twin)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def status(self) -> Status:
        """How this replica is."""
        return self._background.do(lambda: self._twin.status())

    def listen(self, start: int | None = None) -> Stream[tuple[int, Any]]:
        """The events that commands emit, numbered from 1, the same on every replica.

        The stream has its place from this call on, though nobody reads it yet.  A wait for its next
        item may be given up and begun again.  It ends with `Closed` when this replica is closed.

        Args:
            start: the number to begin with; by default, the next one that comes from now on.

        Raises (from the stream):
            EventsLost: what comes next is not held any more.
        """
        return Stream(self._background, lambda: self._twin.listen(start))

    def versions(self) -> Versions:
        """Of what versions the object is: which classes are still needed, which one is in force.

        Raises:
            Unavailable.
        """
        return self._background.call(lambda: self._twin.versions())

    def upgrade(self) -> int:
        """Make the object what this replica's class is, from some position on, everywhere.

        Replicas that have no such class stop there, and go on when they are started with it.

        Returns:
            The version that the object is of now.

        Raises:
            Exception: what the migration raised; nothing has changed then.
            NoLeader, SessionExpired: whether it was done is unknown; calling again is safe.
        """
        return self._background.call(lambda: self._twin.upgrade())

    def close(self) -> None:
        """Stop taking part; the state is where it was, in the space."""
        self._background.call(lambda: self._twin.close())


class Remote(View[M]):
    """A replicated object elsewhere; get it from `attach`."""

    def __init__(self, background: Background[Any], twin: _remote.Remote[M]) -> None:
        self._background = background
        self._twin: _remote.Remote[M] = twin

    def __repr__(self) -> str:
        return repr(self._twin)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened here, give up what is under way (`Closed`), and disconnect."""
        self._background.close()

    def listen(self, start: int | None = None) -> Stream[tuple[int, Any]]:
        """The events that commands emit; goes on at another replica when one is lost.

        Commands that are called here from now on wait until a replica has said where that is, so
        nothing that they emit is missed.  Otherwise as `Replica.listen`.
        """
        return Stream(self._background, lambda: self._twin.listen(start))


class Transaction:
    """One transaction; get it from `Worm.transaction`."""

    def __init__(self, background: Background[Any], twin: _transaction.Transaction) -> None:
        self._background = background
        self._twin: _transaction.Transaction = twin

    def __repr__(self) -> str:
        return repr(self._twin)

    @property
    def id(self) -> TxId:
        """Its name."""
        return self._twin.id

    @property
    def decision(self) -> Decision | None:
        """Its outcome, once it is known."""
        return self._twin.decision

    def __enter__(self) -> Self:
        self._block = Block(self._background, lambda: self._twin)
        self._block.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._block.__exit__(kind, error, traceback)

    def __getitem__(self, participant: ResourceManager) -> Any:
        """The participant's own session in this transaction; its calls are waited for."""
        return Foreign(self._background, self._twin[participant])

    def rollback(self) -> Decision:
        """Undo all work.  It ends in a bounded time, also if the caller is cancelled.

        Returns:
            What is true now: aborted; or committed, if it was too late to call off stores that
            were told with `last=True` to vote.

        Raises:
            OutcomeUnknown: such stores cannot be called off, for no majority answers.
        """
        return self._background.call(lambda: self._twin.rollback())

    def commit(self) -> Decision:
        """Vote, decide, and wait until the resource managers here have acted.

        It is not cancelled: it ends within its time limit, and the cancellation strikes then.

        Raises:
            Aborted, OutcomeUnknown.
            Closed: the site was closed before; nobody was asked to vote, and all is undone.
            UsageError: the variant needs more of these participants; all is undone.
        """
        return self._background.call(lambda: self._twin.commit())

    def is_conflict(self, error: BaseException) -> bool:
        """Whether an error that the block raised means that another transaction was in the way."""
        return self._background.do(lambda: self._twin.is_conflict(error))


class Site:
    """This process's part in the transactions of one transaction space."""

    def __init__(self, background: Background[Any], twin: _site.Site) -> None:
        self._background = background
        self._twin: _site.Site = twin

    def __repr__(self) -> str:
        return repr(self._twin)

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
    def space(self) -> str:
        """The transaction space's name."""
        return self._twin.space

    @property
    def initiator(self) -> str:
        """The name under which this process starts transactions."""
        return self._twin.initiator

    @property
    def address(self) -> str:
        """Where others reach it, HOST:PORT; empty before `start`."""
        return self._twin.address

    @property
    def is_open(self) -> bool:
        """Whether this process has dealt with the transaction space yet."""
        return self._twin.is_open

    @property
    def is_alive(self) -> bool:
        """Whether time limits are looked after, so that whoever waits here does not for ever."""
        return self._twin.is_alive

    def start(self, host: str, port: int = 0, *, address: str = "") -> str:
        """Serve the managers here to other processes; returns the address, HOST:PORT.

        Args:
            address: what others call it, if that differs from where it listens.

        Raises:
            UsageError: that is no host and port.
            WormError: nobody can listen there.
        """
        return self._background.call(lambda: self._twin.start(host, port, address=address))

    def close(self) -> None:
        """End its part; what is undecided is resolved by others, or by its next life."""
        self._background.call(lambda: self._twin.close())

    def attach(self, manager: ResourceManager) -> None:
        """Host a resource manager.

        Raises:
            UsageError: another one of that name is here.
        """
        self._background.do(lambda: self._twin.attach(manager))

    def detach(self, manager: ResourceManager) -> None:
        """Look after a resource manager no longer; nothing to do if it is not here."""
        self._background.do(lambda: self._twin.detach(manager))

    def settle(
        self, txid: TxId, participants: Iterable[str], *, timeout: float = CALL_TIMEOUT_S
    ) -> Decision:
        """The decision of a transaction, now: who has not voted yet has voted no.

        Args:
            participants: the names of all of its resource managers.

        Raises:
            UsageError: no transaction has such an id or such participants.
            Trimmed: it is over, and what it was is forgotten.
            Unavailable.
        """
        return self._background.call(lambda: self._twin.settle(txid, participants, timeout=timeout))

    def recover(self, patience_s: float | None = None) -> list[Resolution]:
        """Resolve whatever has been undecided, here or in a manager here, for `patience_s` seconds.

        A branch counts from when a recovery of this site first saw it; so one recovery without any
        patience resolves all that is prepared.  Branches of other spaces are left alone.
        """
        return self._background.call(lambda: self._twin.recover(patience_s))

    def left_alone(self, patience_s: float | None = None) -> list[Gid]:
        """Branches here that have been prepared for longer than the patience by others.

        By programs of another transaction space, or in an older format: this site cannot read
        their votes, and so knows nothing of them.
        """
        return self._background.do(lambda: self._twin.left_alone(patience_s))


def attach(
    machine_type: type[M],
    name: str,
    addresses: Sequence[tuple[str, int]],
    *,
    consistency: Consistency | None = None,
    timeout: float = 10.0,
    rng: random.Random | None = None,
) -> Remote[M]:
    """Use the replicated object `name` without being a replica of it.

    Args:
        addresses: host and port of some of its replicas.
        consistency: of queries, unless a call says otherwise; `Linearizable()` by default.
        timeout: how long a call may take, in seconds, before it is `NoLeader`.

    Raises:
        UsageError: an argument is not what is said here.
    """

    async def attaching() -> _remote.Remote[M]:
        return await _remote.attach(
            machine_type, name, addresses, consistency=consistency, timeout=timeout, rng=rng
        )

    background = Background.connect(attaching)
    return Remote(background, background.client)


def holding(
    lock: View[Any], owner: str, lease_s: float = 10.0, *, rng: random.Random | None = None
) -> Block[Grant]:
    """Wait for a lock, hold it, renew its lease, and release it in the end.

    A thread cannot be cancelled: a block whose lease could not be renewed goes on to its end, and
    ends with `LeaseLost`; so pass `grant.fence` along with every effect.  See `smr.holding`.

    Raises:
        UsageError: an argument is not what is said here.
    """
    background, twin = _twin_of(lock)
    return Block(background, lambda: _hold(twin, owner, lease_s, rng=rng))


def taking(
    queue: View[Any], lease_s: float = 30.0, *, rng: random.Random | None = None
) -> Block[Job]:
    """Wait for a job of a queue, have it for a lease that is renewed, and finish it.

    As `holding`, a block that lost its lease ends with `LeaseLost`.  See `smr.taking`.

    Raises:
        UsageError: an argument is not what is said here.
    """
    background, twin = _twin_of(queue)
    return Block(background, lambda: _take(twin, lease_s, rng=rng))


def _twin_of(replicated: View[M]) -> tuple[Background[Any], _views.View[M]]:
    if not isinstance(replicated, View):
        raise UsageError("a lock or queue is what worm.replicate or attach gave, in wormspace.sync")
    return replicated._background, replicated._twin
