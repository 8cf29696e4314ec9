"""Registers that a test makes up: what they hold, what each call takes, and what it was asked."""

from __future__ import annotations

import asyncio
import random

from wormspace.addresses import METADATA, TRIM
from wormspace.errors import Trimmed
from wormspace.registers.interface import Captured
from wormspace.registers.spans import SpanSet
from wormspace.registers.token import Token
from wormspace.space.client import Client
from wormspace.space.metadata import Metadata


def now() -> float:
    return round(asyncio.get_running_loop().time(), 3)


class Source:
    """A stream of events that a test sends.

    Attributes:
        coming: the registers whose events are on their way.
        left: the spans of segments of which no event is of interest any more.
    """

    def __init__(self) -> None:
        self._events: asyncio.Queue = asyncio.Queue()
        self.coming: set[tuple[int, int]] = set()
        self.left: list[tuple[int, int]] = []
        self.closed = 0

    def send(self, *events) -> None:
        for event in events:
            self._events.put_nowait(event)

    async def __anext__(self):
        return await self._events.get()

    def is_coming(self, number: int, offset: int) -> bool:
        return (number, offset) in self.coming

    def leave(self, first: int, stop: int) -> None:
        self.left.append((first, stop))

    def close(self) -> None:
        self.closed += 1


class Made:
    """One space's registers.

    Attributes:
        held: by segment, its registers' values.
        gone: the segments that are trimmed.
        page, trims_page: how many registers, or spans, one answer has.
        takes: how many seconds each call takes.
        errors: what the next calls raise, in their order; None for nothing.
        calls: each call with its moment, but for the deadlines.
        deadlines: the deadline of each call, in seconds from when it was made.
    """

    max_value = 1000

    def __init__(self) -> None:
        self.held: dict[int, dict[int, bytes]] = {}
        self.gone = SpanSet()
        self.page = self.trims_page = 100
        self.takes = 0.0
        self.errors: list[Exception | None] = []
        self.calls: list[tuple] = []
        self.deadlines: list[float] = []
        self.source = Source()
        self.client = Client(self, random.Random(1))  # type: ignore[arg-type]
        self.space = self.client.space("s")

    def fill(self, number: int, size: int, *offsets: int, payload: bytes = b"") -> None:
        """Allocate a segment, some of whose registers are written: each holds its offset."""
        record = Metadata(size, payload, bytes(16))
        self.held[number] = {METADATA: record.encode()} | {n: b"%d" % n for n in offsets}

    def asked(self) -> list[tuple]:
        """The calls since the last look."""
        calls, self.calls = self.calls, []
        return calls

    async def _called(self, deadline: float, *what: object) -> None:
        self.calls.append((now(), *what))
        self.deadlines.append(round(deadline - now(), 3))
        await asyncio.sleep(self.takes)
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error

    def _values(self, segment_name, spans) -> dict[int, bytes]:
        space, number = segment_name
        assert space == "s"
        if number in self.gone:
            raise Trimmed(f"segment {number} was trimmed")
        held = self.held.get(number, {})
        return {n: held[n] for n in sorted(held) if any(lo <= n < hi for lo, hi in spans)}

    def listen(self, space: str, first: int, stop: int) -> Source:
        self.calls.append((now(), "listen", space, first, stop))
        return self.source

    async def read(self, segment_name, spans, deadline: float) -> dict[int, bytes]:
        assert spans == [(METADATA, TRIM + 1)]
        await self._called(deadline, "metadata", segment_name[1])
        return self._values(segment_name, spans)

    async def read_one(self, segment_name, offset: int, deadline: float) -> bytes | None:
        await self._called(deadline, "one", segment_name[1], offset)
        return self._values(segment_name, [(offset, offset + 1)]).get(offset)

    async def read_page(self, segment_name, spans, deadline: float) -> tuple[dict[int, bytes], int]:
        assert spans[-1] == (TRIM, TRIM + 1)
        await self._called(deadline, "page", segment_name[1], *spans[:-1])
        values = self._values(segment_name, spans)
        if len(values) <= self.page:
            return values, spans[-1][1]
        end = list(values)[self.page]
        return {n: value for n, value in values.items() if n < end}, end

    async def trims(self, space: str, first: int, stop: int, deadline: float):
        await self._called(deadline, "trims", first, stop)
        spans = [(lo, hi) for lo, hi in self.gone.spans() if lo < stop and first < hi]
        if len(spans) <= self.trims_page:
            return spans, stop
        return spans[: self.trims_page], spans[self.trims_page][0]

    async def capture(self, segment_name, start: int, stop: int, deadline: float) -> Captured:
        await self._called(deadline, "capture", segment_name[1], start, stop)
        written = self._values(segment_name, [(start, stop)])
        return Captured(Token(*segment_name, start, stop, b"b" * 16), written)

    def write(
        self, segment_name, token, offset: int, value: bytes, deadline: float
    ) -> asyncio.Future:
        return asyncio.ensure_future(self._write(segment_name, token, offset, value, deadline))

    async def _write(self, segment_name, token, offset: int, value: bytes, deadline: float) -> None:
        assert token is None or (token.space, token.segment) == segment_name
        await self._called(deadline, "write", segment_name[1], offset, value)
        self._values(segment_name, [])
        self.held.setdefault(segment_name[1], {})[offset] = value

    async def trim(self, segment_name, stop: int, deadline: float, *, told_from: int | None = None):
        await self._called(deadline, "trim", segment_name[1], stop, told_from)
        self.gone.add(segment_name[1], stop)
