"""Appending: positions asked for together, entries written, and what was lost found again.

Appends of one turn of the event loop share one question to the sequencer; what was in flight while
the answer was on its way makes up the next.  A lone append is two round trips: the question, and
the write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeAlias

from wormspace.errors import (
    AlreadyWritten,
    CaptureLost,
    PartialWrite,
    Unavailable,
    UsageError,
    ValueTooLarge,
)
from wormspace.log.desk import Desk
from wormspace.log.messages import Ask, Given
from wormspace.log.records import Record, encode, payload_size
from wormspace.log.tape import Tape
from wormspace.log.tenure import Held, Run

LOST = (CaptureLost, AlreadyWritten)
ASK_AT_MOST = 16_384
PAUSE_MIN_S = 0.002
PAUSE_MAX_S = 0.2
ENTRY_BYTES = 96
STREAM_BYTES = 64
"""What an entry takes at most beside body, headers and names: for itself, and for each stream."""

NO_LINKS: dict[str, tuple[int, ...]] = {}

Headers: TypeAlias = Mapping[str, str]
_Place: TypeAlias = tuple[Held, int, int, dict[str, tuple[int, ...]]]
Named: TypeAlias = tuple[tuple[int, tuple[str, ...]], ...]


class _Wish:
    """An entry that waits for a place: a run, an offset in it, the bytes before, and its links."""

    __slots__ = ("future", "size", "streams")

    def __init__(self, size: int, streams: tuple[str, ...], future: asyncio.Future[_Place]) -> None:
        self.size = size
        self.streams = streams
        self.future = future


class Appender:
    """What appends to one log.

    Args:
        tape: the log's entries.
        desk: where positions come from.
        writer: eight bytes that no other appender has.
        clock: the time, in seconds since 1970.
    """

    def __init__(self, tape: Tape, desk: Desk, writer: bytes, clock: Callable[[], float]) -> None:
        self._tape = tape
        self._desk = desk
        self._writer = writer
        self._clock = clock
        self._serial = 0
        self._small = tape.space.client.registers.max_value - ENTRY_BYTES
        self._loop = asyncio.get_running_loop()
        self._wishes: list[_Wish] = []
        self._deadline = 0.0
        self._asking: set[asyncio.Task[None]] = set()
        self.lost = 0
        """How many positions were taken away by others, so that an entry went elsewhere."""

    # ------------------------------------------------------------ one

    async def append(
        self,
        body: bytes,
        headers: Headers,
        streams: tuple[str, ...],
        timeout: float | None,
    ) -> int:
        """Append one entry; returns its position.

        Raises:
            Unavailable: not in time; the entry may be in the log all the same.
            ValueTooLarge.
        """
        size = payload_size(body, headers) if headers else len(body)
        if size > self._small or streams:
            self._check_size((body,), headers, streams)
        deadline = self._tape.space.client.deadline(timeout)
        future: asyncio.Future[_Place] = self._loop.create_future()
        if not self._wishes:
            self._loop.call_soon(self._flush)
        self._wishes.append(_Wish(size, streams, future))
        if deadline > self._deadline:
            self._deadline = deadline
        held, offset, before, links = await future
        raw = self._encode(body, headers, int(self._clock() * 1000), before, links)
        position = held.first + offset
        try:
            await held.write(offset, raw, timeout)
        except LOST:
            if not await self._tape.settle(position, raw):
                self.lost += 1
                await asyncio.sleep(self._pause(PAUSE_MIN_S))
                return (await self._insist((body,), headers, streams, held.ballot, deadline))[0]
        return position

    def _encode(
        self,
        body: bytes,
        headers: Headers,
        time_ms: int,
        before: int,
        links: dict[str, tuple[int, ...]],
    ) -> bytes:
        self._serial += 1
        return encode(Record(body, self._writer, self._serial, time_ms, before, headers, links))

    def _check_size(
        self, bodies: Sequence[bytes], headers: Headers, streams: tuple[str, ...]
    ) -> None:
        limit = self._tape.space.client.registers.max_value - ENTRY_BYTES
        limit -= payload_size(b"", headers)
        for name in streams:
            limit -= STREAM_BYTES + len(name.encode())
        for body in bodies:
            if len(body) > limit:
                raise ValueTooLarge(f"an entry of {len(body)} bytes; the servers take {limit}")

    def _pause(self, longest: float) -> float:
        return self._tape.space.client.rng.uniform(0, longest)

    # ------------------------------------------------------------ asking

    def _flush(self) -> None:
        """The turn of the loop is over: ask for all places that were wished for in it."""
        wishes, self._wishes = self._wishes, []
        deadline, self._deadline = self._deadline, 0.0
        for i in range(0, len(wishes), ASK_AT_MOST):
            some = wishes[i : i + ASK_AT_MOST]
            named = tuple((i, wish.streams) for i, wish in enumerate(some) if wish.streams)
            ask = Ask(len(some), sum([wish.size for wish in some]), named)
            given = self._desk.give_now(ask)
            if given is not None:
                self._hand_out(some, named, given)
            else:
                self._spawn(self._fetch(some, ask, deadline))

    async def _fetch(self, wishes: list[_Wish], ask: Ask, deadline: float) -> None:
        try:
            given = await self._ask(ask, deadline)
        except Exception as e:  # noqa: BLE001 - whatever it is, it is the appenders' to handle
            for wish in wishes:
                if not wish.future.done():
                    wish.future.set_exception(e)
        else:
            self._hand_out(wishes, ask.named, given)

    def _hand_out(self, wishes: list[_Wish], named: Named, given: Given) -> None:
        """Tell each appender its place."""
        links = {i: given.links[k] for k, (i, _) in enumerate(named)}
        before, at = given.before, 0
        for run in given.runs:
            held = Held(self._tape, run)
            for offset in range(run.start, run.stop):
                wish = wishes[at]
                if not wish.future.done():  # an append that was given up leaves a hole
                    wish.future.set_result((held, offset, before, links.get(at, NO_LINKS)))
                before += wish.size
                at += 1

    async def _ask(self, ask: Ask, deadline: float) -> Given:
        answer = self._desk.give_now(ask) or await self._desk.ask(ask, deadline)
        if not isinstance(answer, Given) or _count(answer) != ask.count:
            raise Unavailable("the sequencer answered something else than positions")
        return answer

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._asking:
            task.cancel()
        if self._asking:
            await asyncio.wait(self._asking)

    # ------------------------------------------------------------ many

    async def append_many(
        self,
        bodies: Sequence[bytes],
        headers: Headers,
        streams: tuple[str, ...],
        timeout: float | None,
    ) -> list[int]:
        """Append entries with one question to the sequencer, and few messages to the servers.

        Raises:
            Unavailable: not in time; any of the entries may be in the log all the same.
            ValueTooLarge: one of them is; nothing was appended.
            UsageError: too many at a time.
        """
        if not bodies:
            return []
        if len(bodies) > ASK_AT_MOST:
            raise UsageError(f"at most {ASK_AT_MOST} entries at a time, not {len(bodies)}")
        self._check_size(bodies, headers, streams)
        deadline = self._tape.space.client.deadline(timeout)
        return await self._insist(bodies, headers, streams, None, deadline)

    async def _insist(
        self,
        bodies: Sequence[bytes],
        headers: Headers,
        streams: tuple[str, ...],
        doubt: bytes | None,
        deadline: float,
    ) -> list[int]:
        """Write entries to new positions, until each of them has one for good."""
        head = payload_size(b"", headers)
        positions = [0] * len(bodies)
        pending: Sequence[int] = range(len(bodies))
        longest = PAUSE_MIN_S
        while True:
            named = tuple((i, streams) for i in range(len(pending))) if streams else ()
            size = sum([len(bodies[i]) for i in pending]) + head * len(pending)
            given = await self._ask(Ask(len(pending), size, named, doubt), deadline)
            left = deadline - self._loop.time()
            if left <= 0:
                raise Unavailable("append: there was no time left to write the entries")
            written = await self._write_all(
                [bodies[i] for i in pending], head, headers, given, left
            )
            lost = []
            for i, position in zip(pending, written, strict=True):
                if position is None:
                    lost.append(i)
                else:
                    positions[i] = position
            if not lost:
                return positions
            pending = lost
            self.lost += len(lost)
            doubt = given.runs[0].ballot
            await asyncio.sleep(self._pause(longest))
            longest = min(PAUSE_MAX_S, 2 * longest)

    async def _write_all(
        self, bodies: Sequence[bytes], head: int, headers: Headers, given: Given, left: float
    ) -> list[int | None]:
        """Write entries to the positions given; returns where each is, None if nowhere."""
        time_ms, before, at = int(self._clock() * 1000), given.before, 0
        writing = []
        for run in given.runs:
            values = []
            for body in bodies[at : at + run.stop - run.start]:
                links = given.links[at] if given.links else NO_LINKS
                values.append(self._encode(body, headers, time_ms, before, links))
                before += len(body) + head
                at += 1
            writing.append(self._write_run(run, values, left))
        return [place for places in await asyncio.gather(*writing) for place in places]

    async def _write_run(self, run: Run, values: list[bytes], left: float) -> list[int | None]:
        first = run.segment * self._tape.size + run.start
        places: list[int | None] = list(range(first, first + len(values)))
        try:
            await Held(self._tape, run).write_all(values, left)
        except PartialWrite as e:
            for i, error in enumerate(e.results):
                if isinstance(error, LOST):
                    if not await self._tape.settle(first + i, values[i]):
                        places[i] = None
                elif error is not None:
                    raise error from e
        return places


def _count(given: Given) -> int:
    return sum([run.stop - run.start for run in given.runs])
