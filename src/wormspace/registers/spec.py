"""The specification of write-once registers, in executable form.

A register is a `Cell`; `capture`, `write` and `read` are pure functions on it.  That is all a
write-once register is: whatever Paxos, a chain or anything else does underneath must look like
this, one call after another.  Captures are told apart by their fences, in the order of bytes; what
a fence is made of is the implementation's affair.

The proofs show that the protocol refines these functions, the simulator checks histories against
them, and `SpecRegisters` puts them behind the contract's calls, so that the conformance suite runs
on the specification itself (`connect("spec:")`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

import msgspec

from wormspace.addresses import SegmentName, Span
from wormspace.errors import (
    AlreadyWritten,
    CaptureLost,
    Closed,
    TokenReused,
    Trimmed,
    UsageError,
    ValueTooLarge,
)
from wormspace.registers.event_queue import EventQueue
from wormspace.registers.interface import (
    Captured,
    EventStream,
    Gap,
    Registers,
    RegisterState,
    RegistersTrimmed,
    ServerState,
    Wrote,
)
from wormspace.registers.registry import Implementation, Url
from wormspace.registers.spans import SpanSet, as_spans
from wormspace.registers.token import Token

MAX_VALUE_BYTES = 1 << 20

WRITTEN, LOST, OTHER = "written", "lost", "other"


NOBODY = b""
"""Who holds a register that was never captured, and whose the write without a capture is: below
the fence of every capture."""


class Cell(msgspec.Struct, frozen=True):
    """One register: the fence of the capture that stands, and what was written, once."""

    holder: bytes = NOBODY
    written: bool = False
    value: bytes = b""


def capture(cell: Cell, fence: bytes) -> tuple[Cell, bool]:
    """Take the register from whomever holds it; refused if a later capture does."""
    if fence > cell.holder:
        return Cell(fence, cell.written, cell.value), True
    return cell, False


def write(cell: Cell, fence: bytes, value: bytes) -> tuple[Cell, str]:
    """Decide the register, if the capture still stands and it is empty.

    Returns:
        WRITTEN: it holds `value` now (a replay says so again); LOST: somebody captured it
        since; OTHER: it holds another value.  Only WRITTEN on an empty cell changes it.

    To whom LOST is said, the outcome is unknown: an implementation that had half-written the value
    may meet it later and, while the register is empty, write it under the capture that stands.
    """
    if fence < cell.holder:
        return cell, LOST
    if cell.written:
        if cell.value == value:
            return cell, WRITTEN
        return cell, OTHER
    return Cell(cell.holder, True, value), WRITTEN


def read(cell: Cell) -> tuple[bool, bytes]:
    """Whether it is written, and with what."""
    return cell.written, cell.value


class SpecRegisters:
    """The contract over a dictionary of cells: one client, no failures, nothing kept."""

    def __init__(self, max_value: int = MAX_VALUE_BYTES) -> None:
        self._cells: dict[SegmentName, dict[int, Cell]] = {}
        self._captures: dict[SegmentName, list[tuple[int, int, bytes]]] = {}
        self._trimmed: dict[str, SpanSet] = {}
        self.max_value = max_value
        self._granted = 0
        self._issued: dict[tuple[SegmentName, bytes, int], bytes] = {}
        self._listeners: list[tuple[str, int, int, EventQueue]] = []
        self._loop = asyncio.get_running_loop()
        self._closed = False

    async def capture(
        self, segment_name: SegmentName, start: int, stop: int, deadline: float
    ) -> Captured:
        cells = self._cells_of(segment_name)
        self._granted += 1
        fence = self._granted.to_bytes(8, "big")
        written = {}
        self._captures.setdefault(segment_name, []).append((start, stop, fence))
        for offset, cell in sorted(cells.items()):
            if start <= offset < stop:
                cells[offset], _ = capture(cell, fence)
                if cell.written:
                    written[offset] = cell.value
        token = Token(*segment_name, start, stop, fence, as_spans(list(written)))
        return Captured(token, written)

    def write(
        self,
        segment_name: SegmentName,
        token: Token | None,
        offset: int,
        value: bytes,
        deadline: float,
    ) -> asyncio.Future[None]:
        if token is not None:
            token.require(segment_name, offset)
        if type(value) is not bytes:
            raise UsageError(f"a value is bytes, not {type(value).__name__}")
        if len(value) > self.max_value:
            raise ValueTooLarge(f"a value of {len(value)} bytes; {self.max_value} at most")
        fence = token.fence if token else NOBODY
        future: asyncio.Future[None] = self._loop.create_future()
        try:
            cells = self._cells_of(segment_name)
        except (Trimmed, Closed) as e:
            future.set_exception(e)
            return future
        free = token is None or token.is_free(offset)
        if free and self._issued.setdefault((segment_name, fence, offset), value) != value:
            held = cells.get(offset)
            if held is None or not held.written:
                raise TokenReused(
                    f"register {offset} of {segment_name}: another value under this token"
                )
        where = f"{segment_name[0]}/{segment_name[1]}/{offset}"
        before = cells.get(offset) or self._fresh(segment_name, offset)
        cells[offset], outcome = write(before, fence, value)
        if outcome == WRITTEN:
            future.set_result(None)
            if not before.written:
                self._emit(segment_name, Wrote(*segment_name, offset, value))
        elif outcome == LOST:
            future.set_exception(CaptureLost(f"{where} was captured by another client"))
        else:
            future.set_exception(
                AlreadyWritten(f"{where} is already written, with another value", before.value)
            )
        return future

    def read_one(
        self, segment_name: SegmentName, offset: int, deadline: float
    ) -> asyncio.Future[bytes | None]:
        future: asyncio.Future[bytes | None] = self._loop.create_future()
        try:
            written, value = read(self._cells_of(segment_name).get(offset, Cell()))
        except (Trimmed, Closed) as e:
            future.set_exception(e)
        else:
            future.set_result(value if written else None)
        return future

    async def read(
        self, segment_name: SegmentName, spans: list[Span], deadline: float
    ) -> Mapping[int, bytes]:
        cells = self._cells_of(segment_name)
        return {
            offset: cell.value
            for offset, cell in sorted(cells.items())
            if cell.written and any(lo <= offset < hi for lo, hi in spans)
        }

    async def read_page(
        self, segment_name: SegmentName, spans: list[Span], deadline: float
    ) -> tuple[Mapping[int, bytes], int]:
        return await self.read(segment_name, spans, deadline), spans[-1][1]

    async def holds(
        self, segment_name: SegmentName, token: Token | None, offset: int, deadline: float
    ) -> bool:
        if token is not None:
            token.require(segment_name, offset)
        cell = self._cells_of(segment_name).get(offset) or self._fresh(segment_name, offset)
        return cell.holder <= (token.fence if token else NOBODY)

    async def trim(
        self, segment_name: SegmentName, stop: int, deadline: float, *, told_from: int | None = None
    ) -> None:
        self._check_open()
        space, first = segment_name
        for number in range(first, stop):
            self._cells.pop((space, number), None)
            self._captures.pop((space, number), None)
        self._trimmed.setdefault(space, SpanSet()).add(first, stop)
        for name, lo, hi, listening in self._listeners:
            if name == space and lo < stop and first < hi:
                listening.emit(RegistersTrimmed(space, first, stop))

    def listen(self, space: str, first: int, stop: int) -> EventStream:
        self._check_open()
        listening = EventQueue()
        self._listeners.append((space, first, stop, listening))
        listening.emit(Gap())
        return listening

    async def trims(
        self, space: str, first: int, stop: int, deadline: float
    ) -> tuple[list[Span], int]:
        self._check_open()
        spans = self._trimmed[space].spans() if space in self._trimmed else []
        return [(lo, hi) for lo, hi in spans if lo < stop and first < hi], stop

    async def spaces(self, deadline: float) -> list[str]:
        self._check_open()
        return sorted({segment_name[0] for segment_name in self._cells} | set(self._trimmed))

    async def servers(self, deadline: float) -> list[ServerState]:
        self._check_open()
        return [ServerState("spec", 0, True, "", {"segments": len(self._cells)})]

    async def inspect(
        self, segment_name: SegmentName, start: int, stop: int, deadline: float
    ) -> dict[str, list[RegisterState] | None]:
        states: list[RegisterState] = [
            RegisterState(
                offset,
                cell.holder.hex() or "-",
                "-",
                cell.written,
                cell.value if cell.written else None,
            )
            for offset, cell in sorted(self._cells_of(segment_name).items())
            if start <= offset < stop
        ]
        return {"spec": states}

    async def close(self) -> None:
        self._closed = True
        for _, _, _, listening in self._listeners:
            listening.fail(Closed("the client was closed"))

    # ------------------------------------------------------------ state

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the client is closed")

    def _cells_of(self, segment_name: SegmentName) -> dict[int, Cell]:
        self._check_open()
        if segment_name[1] in self._trimmed.get(segment_name[0], SpanSet()):
            raise Trimmed(f"segment {segment_name[1]} of space {segment_name[0]!r} was trimmed")
        return self._cells.setdefault(segment_name, {})

    def _fresh(self, segment_name: SegmentName, offset: int) -> Cell:
        """A cell nobody wrote: it is held by the last capture that covers it."""
        cell = Cell()
        for start, stop, fence in self._captures.get(segment_name, ()):
            if start <= offset < stop:
                cell, _ = capture(cell, fence)
        return cell

    def _emit(self, segment_name: SegmentName, event: Wrote) -> None:
        for space, first, stop, listening in self._listeners:
            if space == segment_name[0] and first <= segment_name[1] < stop:
                listening.emit(event)


async def _open(url: Url, *, rng: random.Random, deadline: float, wait: bool) -> Registers:
    url.allow()
    return SpecRegisters()


SPEC = Implementation(_open, "spec:", embedded=True, trial="spec:")
