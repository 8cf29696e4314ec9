"""Requests that replace very much are carried out in parts, each a batch of the store.

A capture of a segment whose registers were captured one by one supersedes all of these promises.
Each of them cost a request of its own, but to replace a hundred thousand at once would hold up
everybody, in the handler and again in the store.  As a rule there are few, and a request is handled
at once, with others in its batch, which ends when they have replaced enough together.  One that
turns out to be too large is carried out in parts: each is what a narrower request would have been,
and is on disk before the next is begun.  Nothing else is handled between them.  It is answered when
all of it is done; if the server stops before, a part of it may have been done, and nobody was told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import TypeAlias, TypeVar

from wormspace.knobs import KNOBS
from wormspace.paxos.messages import Trim
from wormspace.paxos.ranges import Range
from wormspace.store.engine import Batch

T = TypeVar("T")

Turns: TypeAlias = Generator[Trim | None, Batch, T]
"""Work that yields after each part, takes the batch for the next, and returns its result.

It yields what a part trimmed, if that is news.
"""

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
            end = min(stop, part_end(found, start))
        yield start, end, found
        start = end


def part_end(found: tuple[Range, ...], start: int) -> int:
    """Where a part ends that begins at `start`: it leaves the last range found to the next.

    Unless that begins at `start`: then the part is that range, and not its registers one by one.
    """
    last = found[-1]
    return last.lo if last.lo > start else max(last.hi, start + 1)


def finish(turns: Turns[T], batch: Batch) -> T:
    """Carry all of it out in this turn, within the batch that it was begun with."""
    try:
        next(turns)
        while True:
            turns.send(batch)
    except StopIteration as e:
        result: T = e.value
        return result


async def in_batches(
    turns: Turns[T], batch: Batch, renew: Callable[[Batch, Trim | None], Awaitable[Batch]]
) -> tuple[T, Batch]:
    """Carry it out, with a batch for each part; returns the last, which is not committed, too.

    Args:
        batch: the one that it was begun with.
        renew: commits the batch of a part, which trimmed this, and begins the next.
    """
    try:
        news = next(turns)
        while True:
            batch = await renew(batch, news)
            news = turns.send(batch)
    except StopIteration as e:
        return e.value, batch
    except BaseException:
        batch.abort()
        raise
