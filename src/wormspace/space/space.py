"""A named address space: segments allocated in order, from 0, without end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from wormspace.addresses import MAX_OFFSETS, METADATA, TRIM
from wormspace.errors import (
    AlreadyWritten,
    BadAddress,
    CaptureLost,
    NotAllocated,
    Trimmed,
    ValueTooLarge,
)
from wormspace.runtime.retrying import Race
from wormspace.space.address import Address
from wormspace.space.arguments import as_bytes, as_int
from wormspace.space.connection import Connection
from wormspace.space.events import Event
from wormspace.space.follow import Follower
from wormspace.space.metadata import Metadata
from wormspace.space.segment import Segment
from wormspace.space.stream import Stream

DEFAULT_SIZE = 1024
NO_STOP = (1 << 62) - 1


class Space:
    """A handle on a space; get it from `Client.space`.  Spaces need no creation.

    Attributes:
        name: 1 to 255 bytes.
        client: the connection it belongs to.
    """

    def __init__(self, client: Connection, name: str) -> None:
        self.client = client
        self.name = name
        self._known_tail = 0
        self._known_head = 0
        self._told_below = 0

    def __repr__(self) -> str:
        return f"<Space {self.name!r}>"

    # ------------------------------------------------------------ segments

    async def alloc(
        self, metadata: bytes = b"", size: int = DEFAULT_SIZE, *, timeout: float | None = None
    ) -> Segment:
        """Allocate the next segment: `size` empty registers, and a payload that says what for.

        Of allocators that race for a number, the first to write its metadata register wins; the
        others try the next that is free.

        Raises:
            Unavailable: no majority in time; a segment may have been allocated all the same.
        """
        size = as_int(size, "a segment's size")
        if not 1 <= size <= MAX_OFFSETS:
            raise BadAddress(f"a segment has 1 to {MAX_OFFSETS} registers, not {size}")
        metadata = as_bytes(metadata, "metadata")
        deadline = self.client.deadline(timeout)
        record = Metadata(size, metadata, self.client.nonce())
        raw = record.encode()
        if len(raw) > self.client.registers.max_value:
            raise ValueTooLarge(f"metadata of {len(metadata)} bytes")
        number = await self._find_tail(deadline)
        while not await self._try_alloc(number, raw, deadline):
            # Somebody else was quicker, and perhaps others were after them.
            self._known_tail = max(self._known_tail, number + 1)
            number = await self._find_tail(deadline)
        self._known_tail = max(self._known_tail, number + 1)
        return Segment(self, number, record.size, record.payload)

    async def _try_alloc(self, number: int, raw: bytes, deadline: float) -> bool:
        """Allocate this very number; false if somebody else has it."""
        segment_name = (self.name, number)
        registers = self.client.registers
        race = Race(self.client.rng, f"allocating {self.name}/{number}", deadline)
        while True:
            try:
                captured = await registers.capture(segment_name, METADATA, METADATA + 1, deadline)
                if captured.written:
                    return captured.written[METADATA] == raw
                await registers.write(segment_name, captured.token, METADATA, raw, deadline)
            except CaptureLost:
                await race.pause()  # another allocator stole the capture; one of us gets through
            except (AlreadyWritten, Trimmed):
                return False
            else:
                return True

    async def segment(self, number: int, *, timeout: float | None = None) -> Segment:
        """The handle on an allocated segment.

        Raises:
            NotAllocated, Trimmed.
        """
        _check_number(number)
        deadline = self.client.deadline(timeout)
        segment_name = (self.name, number)
        special = [(METADATA, TRIM + 1)]
        held = await self.client.registers.read(segment_name, special, deadline)
        if TRIM in held:
            # Its trim is decided, but a trimmer died before it told the servers: finish it.
            await self.client.registers.trim(segment_name, number + 1, deadline)
            raise Trimmed(f"segment {number} of space {self.name!r} was trimmed")
        if METADATA not in held:
            raise NotAllocated(f"segment {number} of space {self.name!r} is not allocated")
        record = Metadata.decode(held[METADATA])
        return Segment(self, number, record.size, record.payload)

    async def check(self, number: int, *, timeout: float | None = None) -> bytes:
        """The payload with which a segment was allocated.

        Raises:
            NotAllocated, Trimmed.
        """
        return (await self.segment(number, timeout=timeout)).metadata

    async def tail(self, *, timeout: float | None = None) -> int:
        """How many segments were ever allocated: the number of the next one."""
        return await self._find_tail(self.client.deadline(timeout))

    async def _find_tail(self, deadline: float) -> int:
        """Gallop from the last known tail: allocated segments are a prefix."""

        async def allocated(number: int) -> bool:
            try:
                held = await self.client.registers.read_one((self.name, number), METADATA, deadline)
            except Trimmed:
                return True
            return held is not None

        tail = await _gallop(self._known_tail, allocated)
        self._known_tail = max(self._known_tail, tail)
        return tail

    async def head(self, *, timeout: float | None = None) -> int:
        """The first segment that is not trimmed: all below it are.

        It need not be allocated: when everything was trimmed, it is the tail.
        """
        return await self._find_head(self.client.deadline(timeout))

    async def _find_head(self, deadline: float) -> int:
        prefix, _ = await self.client.registers.trims(self.name, 0, 1, deadline)
        head = max([self._known_head, *[hi for lo, hi in prefix if lo == 0]])
        while await self._is_trimmed(head, deadline):
            head += 1
        self._known_head = head
        return head

    async def _is_trimmed(self, number: int, deadline: float) -> bool:
        try:
            held = await self.client.registers.read_one((self.name, number), TRIM, deadline)
        except Trimmed:
            return True
        return held is not None

    # ------------------------------------------------------------ trim

    async def trim(self, number: int, *, timeout: float | None = None) -> None:
        """Make one segment garbage, by consensus and for ever.

        From then on every access to it is `Trimmed`, and the servers delete what they held.

        Raises:
            NotAllocated.
        """
        _check_number(number)
        deadline = self.client.deadline(timeout)
        if number >= self._known_tail and number >= await self._find_tail(deadline):
            raise NotAllocated(f"segment {number} of space {self.name!r} is not allocated")
        await self._trim(number, number + 1, deadline)

    async def trim_prefix(self, stop: int, *, timeout: float | None = None) -> None:
        """Make all segments below `stop` garbage.

        Raises:
            NotAllocated: `stop` is above the tail; nothing was trimmed.
        """
        if not 0 <= as_int(stop, "stop") < NO_STOP:
            raise BadAddress(f"a prefix of segments ends at 0 or more, not {stop}")
        deadline = self.client.deadline(timeout)
        if stop > self._known_tail and stop > await self._find_tail(deadline):
            raise NotAllocated(
                f"space {self.name!r} has no {stop} segments yet, only {self._known_tail}"
            )
        if stop <= self._told_below:
            return
        # Whoever trimmed what lies below the head may have died before a majority was told.
        head = min(stop, await self._find_head(deadline))
        segment_name, told = (self.name, head), self._told_below
        if stop <= told:
            return  # another call has told them meanwhile
        await self.client.registers.trim(segment_name, stop, deadline, told_from=told)
        self._told_below = max(self._told_below, stop)

    async def _trim(self, first: int, stop: int, deadline: float) -> None:
        await self.client.registers.trim((self.name, first), stop, deadline)

    # ------------------------------------------------------------ listen

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
        if not isinstance(start, tuple):
            start = Address(as_int(start, "start"), 0)
        elif len(start) != 2:
            raise BadAddress("start is an Address, or a segment's number")
        segment, offset = (as_int(part, "a part of an address") for part in start)
        _check_number(segment)
        if not 0 <= offset <= MAX_OFFSETS:
            raise BadAddress(f"an offset is 0 to {MAX_OFFSETS}, not {offset}")
        end = NO_STOP if stop is None else as_int(stop, "stop")
        if not segment < end <= NO_STOP:
            raise BadAddress(f"a listener's stop is above its start, and at most {NO_STOP}")
        self.client.deadline(None)  # refuses another event loop
        return Follower(self, Address(segment, offset), end)


def _check_number(number: int) -> None:
    if not 0 <= as_int(number, "a segment number") < NO_STOP:
        raise BadAddress(f"a segment number is 0 to {NO_STOP - 1}, not {number}")


async def _gallop(known: int, holds: Callable[[int], Awaitable[bool]]) -> int:
    """The first number from `known` on for which `holds` is false, if it is true for a prefix."""
    low, high = await _climb(known, known, 1, holds)
    return await _narrow(low, high, holds)


async def _climb(
    low: int, probe: int, step: int, holds: Callable[[int], Awaitable[bool]]
) -> tuple[int, int]:
    """A number below which it is true, and one from `probe` on for which it is false."""
    while await holds(probe):
        low = probe + 1
        probe += step
        step *= 2
    return low, probe


async def _narrow(low: int, high: int, holds: Callable[[int], Awaitable[bool]]) -> int:
    """The first number for which it is false, if it is true below `low` and false at `high`."""
    while low < high:
        middle = (low + high) // 2
        if await holds(middle):
            low = middle + 1
        else:
            high = middle
    return low
