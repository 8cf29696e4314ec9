"""Single reads of one turn of the event loop travel together.

A read of one register costs a message, and a message some ten times what a register in it costs.
Several messages, though, are answered by several servers at once: so a few of them are under way
(`KNOBS.registers_reads_in_flight`), unless they would be small.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from wormspace.addresses import SegmentName, Span
from wormspace.errors import Unavailable
from wormspace.knobs import KNOBS
from wormspace.registers.paxos.operations import SAME_TIME_S
from wormspace.registers.spans import as_spans
from wormspace.runtime.batching import Batcher

Value = bytes | None
_Asked = tuple[int, asyncio.Future[Value], float]
"""One read: its offset, the future of its value, and its deadline."""

Read = Callable[[SegmentName, list[Span], float], Awaitable[Mapping[int, bytes]]]


class ReadBatcher:
    """Reads that wait for the end of the turn, and those under way.

    Args:
        read: reads spans of a segment.
        spawn: runs a coroutine in the background.
    """

    def __init__(self, read: Read, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._read = read
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._batcher = Batcher(self._send)
        self._under_way = 0

    def add(self, segment_name: SegmentName, offset: int, deadline: float) -> asyncio.Future[Value]:
        """Read a register; the future has its value, None if it is empty, or `Unavailable`."""
        future: asyncio.Future[Value] = self._loop.create_future()
        self._batcher.add(segment_name, (offset, future, deadline))
        return future

    def _send(self, segment_name: SegmentName, asked: list[_Asked]) -> None:
        self._under_way += len(asked)
        size = max(KNOBS.registers_small, self._under_way // KNOBS.registers_reads_in_flight)
        for lo in range(0, len(asked), size):
            self._spawn(self._serve(segment_name, asked[lo : lo + size]))

    async def _serve(self, segment_name: SegmentName, asked: list[_Asked]) -> None:
        offsets, futures, deadlines = zip(*asked, strict=True)
        latest = max(deadlines)
        timers: list[asyncio.TimerHandle] = []
        if latest - min(deadlines) > SAME_TIME_S:
            timers = [
                self._loop.call_at(deadline, _expire, future, segment_name)
                for future, deadline in zip(futures, deadlines, strict=True)
                if latest - deadline > SAME_TIME_S
            ]
        try:
            found = await self._read(segment_name, list(as_spans(sorted(set(offsets)))), latest)
        except Exception as e:  # noqa: BLE001 - whatever it is, it is the callers' to handle
            for future in futures:
                if not future.done():
                    future.set_exception(e)
        else:
            for offset, future in zip(offsets, futures, strict=True):
                if not future.done():
                    future.set_result(found.get(offset))
        finally:
            self._under_way -= len(offsets)
            for timer in timers:
                timer.cancel()


def _expire(future: asyncio.Future[Value], segment_name: SegmentName) -> None:
    if not future.done():
        future.set_exception(
            Unavailable(
                f"read of {segment_name[0]}/{segment_name[1]}: no majority of servers in time"
            )
        )
