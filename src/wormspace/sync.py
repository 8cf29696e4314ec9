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
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import wormspace._front as _front
import wormspace.space.client as _client
import wormspace.space.segment as _segment
import wormspace.space.space as _space
from wormspace._sync_runtime import Background, Events
from wormspace.register.contract import Captured, RegisterState, ServerState
from wormspace.register.token import Token
from wormspace.space.address import Address
from wormspace.space.client import DEFAULT_TIMEOUT_S
from wormspace.space.space import DEFAULT_SIZE

__all__ = ["Client", "Events", "Segment", "Space", "connect"]


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
        Unavailable: no majority of some partition could be reached in time.
        Refused: the servers do not want this client, or are not those that were named.
        StoreError: the directory cannot be used: it is open elsewhere, or not an embedded one.
    """

    async def opening() -> _client.Client:
        return await _front.connect(url, timeout=timeout, rng=rng)

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
            BadAddress: the name is empty or longer than 255 bytes.
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
        others get the numbers after it.

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

    def listen(self, start: Address | int = 0, *, stop: int | None = None) -> Events:
        """What happens in the space from `start` on: history first, then live, without end.

        Each write, allocation and trim is delivered once.  What is there already comes in the order
        of addresses; what happens from then on comes in the order in which it is decided, as
        this client learns it, at the moment a writer does.  When the connection to a majority
        was lost, what was missed follows in the order of addresses.

        Args:
            start: a register, or a segment's number.
            stop: the segment to stop before.
        """
        return Events(self._background, self._twin.listen(start, stop=stop))


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

    def holds(self, token: Token, offset: int, *, timeout: float | None = None) -> bool:
        """Whether nobody captured register `offset` since the token's capture.

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

    def listen(self, start: int = 0) -> Events:
        """Writes to this segment from offset `start` on, past and to come; see `Space.listen`."""
        return Events(self._background, self._twin.listen(start))

    def inspect(
        self, start: int = 0, stop: int | None = None, *, timeout: float | None = None
    ) -> dict[str, list[RegisterState] | None]:
        """What each server holds of [start, stop), for people: None if it did not answer."""
        return self._background.call(lambda: self._twin.inspect(start, stop, timeout=timeout))
