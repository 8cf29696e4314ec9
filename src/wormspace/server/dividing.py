"""Requests that replace very much are carried out in parts, a turn of the event loop for each.

A capture of a segment whose registers were captured one by one supersedes all of these promises.
Each of them cost a request of its own, but to replace a hundred thousand at once would hold up
everybody.  As a rule there are few, and a request is handled at once, with others in its batch,
which ends when they have replaced enough together.  One that turns out to be too large has a batch
to itself, which stays open over several turns: its parts are on disk together or not at all, and it
is granted or refused as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator
from typing import TypeAlias, TypeVar

from wormspace.knobs import KNOBS
from wormspace.paxos.ranges import Range

T = TypeVar("T")

Turns: TypeAlias = Generator[None, None, T]
"""Work that yields where others may have their turn, and returns its result."""

Stored: TypeAlias = Callable[[int], tuple[Range, ...]]
"""The stored ranges from an offset on: one more than may be replaced in a turn, or all."""

Part: TypeAlias = tuple[int, int, tuple[Range, ...]]
"""(lo, hi, the stored ranges that overlap or touch them)"""

Divide: TypeAlias = Callable[[int, int, Stored], Iterator[Part]]


class TooMuch(Exception):
    """A request replaces so much that it takes several turns of the loop."""


class AtOnce:
    """Divides nothing; counts what the requests of one batch replace together."""

    def __init__(self) -> None:
        self._replaced = 0

    @property
    def is_enough(self) -> bool:
        """Whether the batch should end."""
        return self._replaced >= KNOBS.server_batch_supersede

    def __call__(self, start: int, stop: int, stored: Stored) -> Iterator[Part]:
        """All of [start, stop) as one part.

        Raises:
            TooMuch: it replaces too much for a turn.
        """
        found = stored(start)
        if len(found) > KNOBS.server_supersede:
            raise TooMuch
        self._replaced += len(found)
        yield start, stop, found


def in_parts(start: int, stop: int, stored: Stored) -> Iterator[Part]:
    """[start, stop) in parts, each of which replaces no more than it may in a turn."""
    while start < stop:
        found = stored(start)
        end = stop
        if len(found) > KNOBS.server_supersede:
            end = max(found[-1].lo, start + 1)
        yield start, end, found
        start = end


def finish(turns: Turns[T]) -> T:
    """Carry all of it out in this turn."""
    while True:
        try:
            next(turns)
        except StopIteration as e:
            result: T = e.value
            return result


async def in_turns(turns: Turns[T]) -> T:
    """Carry it out, with a turn of the loop for others after each part."""
    while True:
        try:
            next(turns)
        except StopIteration as e:
            result: T = e.value
            return result
        await asyncio.sleep(0)
