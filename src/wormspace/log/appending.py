"""Appending: what is appended in one turn of the event loop goes into one register.

Appends of one turn share a question to the sequencer and, up to some size, a batch: one write
decides them all.  What comes while they are under way makes up the next.  A lone append is two
round trips: the question, and the write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from wormspace.errors import (
    AlreadyWritten,
    CaptureLost,
    Closed,
    PartialWrite,
    Trimmed,
    Unavailable,
    ValueTooLarge,
    WormError,
)
from wormspace.knobs import KNOBS
from wormspace.log.messages import Ask, Given
from wormspace.log.records import BatchRecord, Group, encode, payload_size
from wormspace.log.segmented_log import SegmentedLog
from wormspace.log.sequencer_client import PositionSource
from wormspace.log.term import ReservedRange, ReservedWriter
from wormspace.runtime.batching import Batcher
from wormspace.runtime.retrying import Backoff
from wormspace.runtime.tasks import Tasks

LOST = (CaptureLost, AlreadyWritten)
GRACE_S = 0.05

OVERHEAD_BYTES = 96
ENTRY_BYTES = 9
STREAM_BYTES = 64
"""What a batch takes at most, beside bodies, headers and names: once, per entry, per stream."""

NO_LINKS: dict[str, tuple[int, ...]] = {}

Headers: TypeAlias = Mapping[str, str]


class _AppendRequest:
    """Entries that wait for places: those of one call."""

    __slots__ = ("bodies", "extra", "future", "headers", "missing", "positions", "streams")

    def __init__(
        self,
        bodies: Sequence[bytes],
        headers: Headers,
        streams: tuple[str, ...],
        extra: int,
        future: asyncio.Future[list[int]],
    ) -> None:
        self.bodies = bodies
        self.headers = headers
        self.streams = streams
        self.extra = extra  # bytes that headers and streams take in a batch
        self.future = future
        self.positions = [0] * len(bodies)
        self.missing = len(bodies)

    def placed(self, start: int, stop: int, position: int) -> None:
        """Entries [start, stop) of it are in the log, from `position` on."""
        if stop - start == 1:
            self.positions[start] = position
        else:
            self.positions[start:stop] = range(position, position + stop - start)
        self.missing -= stop - start
        if not self.missing and not self.future.done():
            self.future.set_result(self.positions)


_Part: TypeAlias = tuple[_AppendRequest, int, int]
"""Entries [start, stop) of a request."""


class _BatchDraft:
    """What goes into one batch.

    Attributes:
        parts: entries of requests, in order.
        count: how many entries.
        size: by how many bytes they make the log larger.
        room: how many more bytes it may take.
        first: the position of its first entry, when that is known.
        raw: the batch itself, from then on.
    """

    __slots__ = ("count", "first", "parts", "raw", "room", "size")

    def __init__(self, room: int = 0) -> None:
        self.parts: list[_Part] = []
        self.count = 0
        self.size = 0
        self.room = room
        self.first = 0
        self.raw = b""

    def add(self, request: _AppendRequest, start: int, stop: int) -> None:
        """Entries [start, stop) of a request are the next."""
        self.parts.append((request, start, stop))
        if request.headers:
            self.size += (stop - start) * payload_size(b"", request.headers)

    def last_of_streams(self) -> dict[str, int]:
        """For each stream, which of its entries is the last that belongs to it."""
        found: dict[str, int] = {}
        end = 0
        for request, start, stop in self.parts:
            end += stop - start
            if request.streams:
                found.update(dict.fromkeys(request.streams, end - 1))
        return found

    def bodies(self) -> list[bytes]:
        """The bodies of the batch's entries, in order."""
        bodies: list[bytes] = []
        for request, start, stop in self.parts:
            bodies += request.bodies[start:stop]
        return bodies

    def groups(self) -> tuple[Group, ...]:
        """Their headers and streams; none at all if no entry has any."""
        if not any(request.extra for request, _, _ in self.parts):
            return ()
        return tuple(
            [
                Group(stop - start, request.headers, request.streams)
                for request, start, stop in self.parts
            ]
        )

    def placed(self) -> None:
        """It is in the log, where it was to go."""
        position = self.first
        for request, start, stop in self.parts:
            request.placed(start, stop, position)
            position += stop - start


def _drafts(parts: Sequence[_Part], largest: int) -> list[_BatchDraft]:
    """Entries in their order, as many to a batch as may be.

    Args:
        largest: bytes of entries that a register takes.
    """
    room, most = min(KNOBS.log_batch_bytes, largest), KNOBS.log_batch_entries
    draft = _BatchDraft(room)
    drafts = [draft]
    for request, start, stop in parts:
        draft.room -= request.extra
        begin = start
        for i in range(start, stop):
            size = len(request.bodies[i])
            if draft.count and (draft.room < size + ENTRY_BYTES or draft.count >= most):
                if i > begin:
                    draft.add(request, begin, i)
                draft, begin = _BatchDraft(room), i
                draft.room -= request.extra
                drafts.append(draft)
            draft.count += 1
            draft.size += size
            draft.room -= size + ENTRY_BYTES
        draft.add(request, begin, stop)
    return drafts


def _fail(requests: Sequence[_AppendRequest], error: BaseException) -> None:
    """Those that are not done yet end with this error."""
    for request in requests:
        if not request.future.done():
            request.future.set_exception(error)


def _too_large(size: int, extra: int, largest: int) -> str:
    """Why an entry of so many bytes does not go in.

    Args:
        extra: what its headers and streams take.
        largest: what a register takes of entries.
    """
    limit = largest - extra - ENTRY_BYTES
    if limit < 0:
        return (
            f"the headers and streams of an entry take {extra} bytes, and the servers take "
            f"{max(0, largest - ENTRY_BYTES)} at most for all of it: set their max_value higher, "
            "or give it fewer or shorter ones"
        )
    return (
        f"an entry of {size} bytes; with its headers and streams, the servers take {limit} at "
        "most: set their max_value higher, or split it"
    )


class Appender:
    """What appends to one log.

    Args:
        segmented_log: the log's slots.
        sequencing: where positions come from.
        writer: eight bytes that no other appender has.
        clock: the time, in seconds since 1970.
    """

    def __init__(
        self,
        segmented_log: SegmentedLog,
        sequencing: PositionSource,
        writer: bytes,
        clock: Callable[[], float],
    ) -> None:
        self._segmented_log = segmented_log
        self._sequencing = sequencing
        self._writer = writer
        self._clock = clock
        self._serial = 0
        self._largest = self._ask_largest()
        self._loop = asyncio.get_running_loop()
        self._batcher = Batcher(self._begin)
        self._working = Tasks(f"{segmented_log.space.name}: appending")
        self._closed = False
        self.lost = 0
        """How many batches lost their slots to others, so that their entries went elsewhere."""

    def _ask_largest(self) -> int:
        """Bytes of entries that fit into a register, by the servers' limit as it is now."""
        return self._segmented_log.space.client.registers.max_value - OVERHEAD_BYTES

    # ------------------------------------------------------------ requests

    def append(
        self,
        bodies: Sequence[bytes],
        headers: Headers,
        streams: tuple[str, ...],
        timeout: float | None,
    ) -> asyncio.Future[list[int]]:
        """Append some entries; the result is the position of each.

        Raises (when awaited):
            Unavailable: not in time; any of the entries may be in the log all the same.

        Raises:
            ValueTooLarge: one of them is; nothing was appended.
            UsageError: the timeout is none, or the caller is on no event loop.
            Closed: the log was closed.
        """
        if self._closed:
            raise Closed("the log was closed")
        if timeout is not None:
            self._segmented_log.space.client.deadline(timeout)  # complains now, if it does
        extra = 0
        if headers or streams:
            extra = len(encode((headers, streams, streams))) + STREAM_BYTES * len(streams)
        largest = max(map(len, bodies))
        if largest > self._largest - extra - ENTRY_BYTES:
            raise ValueTooLarge(_too_large(largest, extra, self._largest))
        future: asyncio.Future[list[int]] = self._loop.create_future()
        self._batcher.add(timeout, _AppendRequest(bodies, headers, streams, extra, future))
        return future

    def _begin(self, timeout: float | None, requests: list[_AppendRequest]) -> None:
        """The turn of the loop is over: append what was wished for in it."""
        try:
            self._largest = self._ask_largest()
            deadline = self._segmented_log.space.client.deadline(timeout)
        except Exception as e:  # noqa: BLE001 - whatever it is, it is the callers' to handle
            _fail(requests, e)
            return
        some: list[_AppendRequest] = []
        count = 0
        for request in requests:
            if some and count + len(request.bodies) > KNOBS.log_ask_entries:
                self._spawn(some, deadline)
                some, count = [], 0
            some.append(request)
            count += len(request.bodies)
        self._spawn(some, deadline)

    def _spawn(self, requests: list[_AppendRequest], deadline: float) -> None:
        """Put entries into the log, or tell why not."""

        def on_done(task: asyncio.Task[None]) -> None:
            error = (
                task.exception()
                if not task.cancelled()
                else Closed("the log was closed; the entries may be in it all the same")
            )
            if error is not None:
                _fail(requests, error)

        self._working.spawn(self._fulfil(requests, deadline), on_done)

    async def close(self) -> None:
        """Give up what is under way."""
        self._closed = True
        _fail(self._batcher.withdraw(), Closed("the log was closed; nothing was appended"))
        await self._working.close()

    # ------------------------------------------------------------ places, and writing there

    async def _fulfil(self, requests: list[_AppendRequest], deadline: float) -> None:
        try:
            # Each step has its own limit, and says more when it passes: this is for them all.
            async with asyncio.timeout_at(deadline + GRACE_S):
                await self._insist(
                    [(request, 0, len(request.bodies)) for request in requests], deadline
                )
        except TimeoutError as e:
            raise Unavailable("append: not done in time; it may be in the log all the same") from e
        except Trimmed as e:
            raise Unavailable(
                "append: its register was trimmed meanwhile, and what became of it is unknown"
            ) from e

    async def _insist(self, parts: Sequence[_Part], deadline: float) -> None:
        """Write entries to new places, until each of them has one for good."""
        doubt = None
        backoff = Backoff(self._segmented_log.space.client.rng, deadline=deadline)
        while True:
            drafts = _drafts(parts, self._largest)
            given = await self._ask(drafts, doubt, deadline)
            left = deadline - self._loop.time()
            if left <= 0:
                raise Unavailable("append: there was no time left to write the entries")
            lost = await self._write_all(drafts, given, left)
            if not lost:
                return
            self.lost += len(lost)
            parts = [part for draft in lost for part in draft.parts]
            doubt = given.ranges[0].fence
            await backoff.pause()

    async def _ask(self, drafts: list[_BatchDraft], doubt: bytes | None, deadline: float) -> Given:
        """Places for batches, which are encoded accordingly."""
        ask = Ask(
            tuple([draft.count for draft in drafts]),
            sum([draft.size for draft in drafts]),
            tuple([(i, named) for i, p in enumerate(drafts) if (named := p.last_of_streams())]),
            doubt,
        )
        given = self._sequencing.give_now(ask) or await self._sequencing.ask(ask, deadline)
        if (
            not isinstance(given, Given)
            or sum([reserved.stop - reserved.start for reserved in given.ranges]) != len(drafts)
            or len(given.links) != len(ask.named)
        ):
            raise Unavailable("the sequencer answered something else than positions")
        links = {i: before for (i, _), before in zip(ask.named, given.links, strict=True)}
        time_ms = int(self._clock() * 1000)
        position, before = given.first, given.before
        for i, draft in enumerate(drafts):
            self._serial += 1
            draft.first = position
            draft.raw = encode(
                BatchRecord(
                    position,
                    before,
                    self._writer,
                    self._serial,
                    time_ms,
                    draft.bodies(),
                    draft.groups(),
                    links.get(i, NO_LINKS),
                )
            )
            position += draft.count
            before += draft.size
        return given

    async def _write_all(
        self, drafts: list[_BatchDraft], given: Given, left: float
    ) -> list[_BatchDraft]:
        """Write batches into the slots given; returns those that are not in the log."""
        writing, at = [], 0
        for reserved in given.ranges:
            writing.append(
                self._write_reserved(
                    reserved, drafts[at : at + reserved.stop - reserved.start], left
                )
            )
            at += reserved.stop - reserved.start
        return [draft for lost in await asyncio.gather(*writing) for draft in lost]

    async def _write_reserved(
        self, reserved: ReservedRange, drafts: list[_BatchDraft], left: float
    ) -> list[_BatchDraft]:
        errors: Sequence[WormError | None] = [None] * len(drafts)
        try:
            await ReservedWriter(self._segmented_log, reserved).write_all(
                [draft.raw for draft in drafts], left
            )
        except PartialWrite as e:
            errors = e.results
        lost: list[_BatchDraft] = []
        trouble: WormError | None = None
        for slot, (draft, error) in enumerate(
            zip(drafts, errors, strict=True),
            reserved.segment * self._segmented_log.size + reserved.start,
        ):
            if error is None:
                draft.placed()
            elif not isinstance(error, LOST):
                trouble = error
            elif await self._segmented_log.settle(slot, draft.raw):
                draft.placed()
            else:
                lost.append(draft)
        if trouble is not None:
            raise trouble
        return lost
