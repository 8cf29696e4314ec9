"""Questions to single servers: who is there, what they hold, what they have trimmed."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator, Sequence

from wormspace.addresses import SegmentName, Span
from wormspace.errors import BadAddress, Unavailable
from wormspace.paxos.ballot import UNSAFE, show
from wormspace.paxos.messages import COMPLETE, Read, Report, Row, SegmentTrimmed
from wormspace.paxos.quorum import majority
from wormspace.paxos.ranges import Range
from wormspace.registers.interface import RegisterState, ServerState
from wormspace.registers.paxos.partition import Partition
from wormspace.registers.spans import SpanSet
from wormspace.runtime.tasks import Tasks
from wormspace.wire.messages import (
    ClientMessage,
    Failed,
    Metrics,
    ServerMessage,
    SpaceNames,
    Spaces,
    Status,
    Tombstones,
    Trims,
)

log = logging.getLogger("wormspace.administration")

DOWN_S = 0.5
"""How long a server that cannot be reached is waited for: it may be on its way up."""


YIELD_EVERY = 1000
"""Registers that are prepared in one turn of the event loop."""

INSPECT_MOST = 1 << 22
"""Registers that are inspected in one call: each takes some hundred bytes, for each server."""


class _Question:
    """One request to one server, as an operation of its partition."""

    def __init__(self, partition: Partition, server: int, message: ClientMessage) -> None:
        self._partition = partition
        self._server = server
        self._message = message
        self._id = partition.enter(self)
        self.answer: asyncio.Future[ServerMessage] = asyncio.get_running_loop().create_future()
        partition.tell(server, self._id, message)

    def on_message(self, server: int, message: ServerMessage) -> None:
        if not self.answer.done():
            self.answer.set_result(message)

    def on_up(self, server: int) -> None:
        if server == self._server:
            self._partition.tell(server, self._id, self._message)

    def on_down(self, server: int) -> None:
        """Asked again when the link is up, if that is in time."""

    def cancel(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def leave(self) -> None:
        self._partition.leave(self._id)


async def ask(
    partition: Partition, server: int, message: ClientMessage, deadline: float
) -> ServerMessage | None:
    """One server's answer; None if there is none in time, or the server is down."""
    if not partition.links[server].up:
        deadline = min(deadline, asyncio.get_running_loop().time() + DOWN_S)
    question = _Question(partition, server, message)
    try:
        async with asyncio.timeout_at(deadline):
            return await question.answer
    except TimeoutError:
        return None
    finally:
        question.leave()


async def ask_all(
    partition: Partition, message: ClientMessage, deadline: float
) -> list[ServerMessage | None]:
    """Every server's answer, in the partition's order."""
    return await asyncio.gather(
        *(ask(partition, server, message, deadline) for server in range(partition.size))
    )


async def ask_majority(
    partition: Partition, message: ClientMessage, deadline: float
) -> list[ServerMessage | None]:
    """The answers in the partition's order, a majority of them if there is one in time, else None.

    The answers of servers that were not waited for are None as well.
    """
    async with Tasks("a question to a server") as tasks:
        asking = [
            tasks.begin(ask(partition, server, message, deadline))
            for server in range(partition.size)
        ]
        left = set(asking)
        answered = 0
        while left and answered < majority(partition.size):
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            answered += sum(task.result() is not None for task in done)
        return [task.result() if task.done() else None for task in asking]


def _too_few(
    partition: Partition, what: str, answers: Sequence[ServerMessage | None]
) -> Unavailable:
    """The error for a question that no majority answered."""
    failures = {i: a for i, a in enumerate(answers) if isinstance(a, Failed)}
    heard = sum(1 << i for i, a in enumerate(answers) if a is not None and i not in failures)
    return partition.unavailable(what, heard, failures)


async def spaces(partitions: list[Partition], deadline: float) -> list[str]:
    """The names of the spaces that a majority of each partition knows of between them.

    Raises:
        Unavailable: too few servers answered.
    """
    names: set[str] = set()
    for partition in partitions:
        after = ""
        while True:
            answers = await ask_majority(partition, Spaces(after), deadline)
            pages = [a.names for a in answers if isinstance(a, SpaceNames)]
            if len(pages) < majority(partition.size):
                raise _too_few(partition, "listing the spaces", answers)
            found = set().union(*pages)
            names |= found
            ends = [page[-1] for page in pages if page]
            if not ends or min(ends) <= after:
                break
            after = min(ends)
    return sorted(names)


async def trims(
    partition: Partition, space: str, first: int, stop: int, deadline: float
) -> tuple[list[Span], int]:
    """A page of what of [first, stop) is trimmed, and its end; see `Registers.trims`.

    Raises:
        Unavailable: too few servers answered.
    """
    answers = await ask_majority(partition, Trims(space, first, stop), deadline)
    pages = [
        a for a in answers if isinstance(a, Tombstones) and (a.next == COMPLETE or first < a.next)
    ]
    if len(pages) < majority(partition.size):
        raise _too_few(partition, f"asking what of {space!r} is trimmed", answers)
    every = SpanSet()
    for page in pages:
        for lo, hi in page.spans:
            every.add(lo, hi)
    return every.spans(), min(stop if page.next == COMPLETE else page.next for page in pages)


async def servers(partitions: list[Partition], deadline: float) -> list[ServerState]:
    """Every server, and what it says of itself."""
    states = []
    for partition in partitions:
        answers = await ask_all(partition, Status(), deadline)
        for link, answer in zip(partition.links, answers, strict=True):
            metrics = dict(answer.metrics) if isinstance(answer, Metrics) else {}
            trouble = metrics.pop("trouble", "") if metrics else link.trouble
            states.append(
                ServerState(
                    link.name,
                    partition.index,
                    bool(metrics),
                    trouble or ("" if metrics else "no answer in time"),
                    metrics,
                )
            )
    return states


async def inspect(
    partition: Partition, segment_name: SegmentName, start: int, stop: int, deadline: float
) -> dict[str, list[RegisterState] | None]:
    """What each server holds of [start, stop): None if it is silent, empty if it is trimmed.

    Raises:
        BadAddress: these are more than `INSPECT_MOST` registers.
    """
    if stop - start > INSPECT_MOST:
        raise BadAddress(
            f"at most {INSPECT_MOST} registers are inspected at a time, not {stop - start}: "
            "give a range"
        )
    held = await asyncio.gather(
        *(
            _held(partition, server, segment_name, start, stop, deadline)
            for server in range(partition.size)
        )
    )
    return {link.name: states for link, states in zip(partition.links, held, strict=True)}


async def _held(
    partition: Partition,
    server: int,
    segment_name: SegmentName,
    start: int,
    stop: int,
    deadline: float,
) -> list[RegisterState] | None:
    """What one server holds, page after page; None if it did not say all of it in time."""
    states: list[RegisterState] = []
    while True:
        message = Read(*segment_name, spans=[(start, stop)], detail=True)
        answer = await ask(partition, server, message, deadline)
        if isinstance(answer, SegmentTrimmed):
            return []
        if not isinstance(answer, Report):
            return None
        if not _is_sound(answer, start, stop):
            log.warning(
                "inspect: server %s sent a report that goes back", partition.links[server].name
            )
            return None
        for state in _states(answer, start, stop):
            states.append(state)
            if len(states) % YIELD_EVERY == 0:
                await asyncio.sleep(0)
                if asyncio.get_running_loop().time() >= deadline:
                    return None
        if answer.next == COMPLETE:
            return states
        start = answer.next


def _is_sound(report: Report, start: int, stop: int) -> bool:
    """Whether a report's rows are of what was asked for, in order, and its end is further on."""
    end = stop if report.next == COMPLETE else report.next
    offsets = [row.offset for row in report.rows]
    return start < end <= stop and all(
        lo < hi for lo, hi in itertools.pairwise([start - 1, *offsets, end])
    )


def _states(report: Report, start: int, stop: int) -> Iterator[RegisterState]:
    """The registers of a report that hold a value or a promise."""
    end = stop if report.next == COMPLETE else report.next
    rows = iter([*report.rows, Row(end)])
    row = next(rows)
    promises = iter([*sorted(report.promises, key=lambda r: r.lo), Range(end, end + 1, UNSAFE)])
    promise = next(promises)
    offset = start
    while (offset := max(offset, min(row.offset, promise.lo))) < end:
        if promise.hi <= offset:
            promise = next(promises)
            continue
        is_written, is_promised = row.offset == offset, promise.lo <= offset
        yield RegisterState(
            offset,
            show(promise.ballot) if is_promised else "-",
            show(row.ballot) if is_written else "-",
            is_written and row.decided,
            row.value if is_written else None,
        )
        if is_written:
            row = next(rows)
        offset += 1
