"""The sequencer: hands out the next positions, with slots for them and the right to write these.

Soft state.  What it knows is the segmented log's term, the next position, where each stream was
appended to last, and a running byte count, all of which its successor finds in the registers.  It
may die at any moment; what it handed out and nobody wrote become holes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable

import msgspec

from wormspace.errors import Trimmed, UsageError
from wormspace.knobs import KNOBS
from wormspace.log.errors import Deposed
from wormspace.log.messages import (
    Answer,
    Ask,
    Given,
    Last,
    LastOf,
    Names,
    NamesOf,
    Ping,
    Pong,
    Question,
)
from wormspace.log.ongoing import Ongoing
from wormspace.log.reading import Reader
from wormspace.log.records import Latest, encode
from wormspace.log.streams import StreamTable, catch_up, look_up, rebuild
from wormspace.log.term import ReservedRange, Term
from wormspace.runtime.tasks import Tasks

log = logging.getLogger("wormspace.log")

MAX_COUNT = 100_000
"""Positions handed out for one request, at most."""


class Sequencer:
    """Hands out the positions of one log, while it holds the term of its segmented log.

    Args:
        reader: of the log.
        unsafe: hand out positions without a capture where that is right; see `Term`.
        may_renew: whether no successor has announced itself; None where nobody announces himself:
            who loses the term just takes it back when it appends.
        sole: nobody else can be there at all.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        unsafe: bool = False,
        may_renew: Callable[[], Awaitable[bool]] | None = None,
        sole: bool = False,
    ) -> None:
        self._reader = reader
        self._segmented_log = reader.segmented_log
        self._trim_point = reader.trim_point
        self._unsafe = unsafe
        self._may_renew = may_renew
        self._sole = sole
        self._term: Term | None = None
        self._acquiring: Ongoing[Term] = Ongoing(f"{self._segmented_log.space.name}: taking over")
        self._next = 0  # the next position
        self._before = 0  # the bytes of all entries below it
        self._began = 0  # the slot where the term began: the table is rebuilt from those below
        self._linked: int | None = None  # the table may lack slots from here on
        self._tables = Tasks(f"{self._segmented_log.space.name}: the table of streams")
        self._table: asyncio.Task[StreamTable] | None = None
        self._read: tuple[StreamTable, int] | None = None  # a table without a term, and its end
        self._turn = asyncio.Lock()
        self._answers: dict[type, Callable[..., Awaitable[Answer]]] = {
            Ask: self.give,
            Ping: self._on_ping,
            LastOf: self._on_last,
            NamesOf: self._on_names,
        }

    async def answer(self, question: Question) -> Answer:
        """Answer any question.

        Raises:
            Deposed: another sequencer has taken over.
            Unavailable: the servers do not answer this one.
        """
        return await self._answers[type(question)](question)

    # ------------------------------------------------------------ handing out

    def give_now(self, ask: Ask) -> Given | None:
        """Answer at once, without a look at the servers; None where that cannot be."""
        term = self._term
        if term is None or ask.named or ask.doubt is not None or self._turn.locked():
            return None
        try:
            if term.left < len(ask.counts):
                return None
            ranges = term.take(len(ask.counts))
            term.look_ahead()
        except Deposed:
            return None
        return self._number(ask, ranges)

    async def give(self, ask: Ask) -> Given:
        """The next positions.

        Raises:
            Deposed, Unavailable.
        """
        if not ask.counts or min(ask.counts) < 1 or sum(ask.counts) > MAX_COUNT:
            raise UsageError(f"1 to {MAX_COUNT} positions at a time, and some for each slot")
        given = self.give_now(ask)
        if given is not None:
            return given
        async with self._turn:
            term = await self._held(ask.doubt)
            table = await self._streams() if ask.named else None
            if table is not None:
                await self._recall(table, ask)
            self._linked = term.at
            ranges = await self._take(term, len(ask.counts))
            given = self._number(ask, ranges)
            if table is not None:
                given = msgspec.structs.replace(given, links=self._link(table, ask, given))
            self._linked = None
            return given

    def _number(self, ask: Ask, ranges: list[ReservedRange]) -> Given:
        """The next positions, for what goes into the next slots."""
        first, self._next = self._next, self._next + sum(ask.counts)
        before, self._before = self._before, self._before + ask.size
        return Given(tuple(ranges), first, before)

    async def _take(self, term: Term, count: int) -> list[ReservedRange]:
        ranges: list[ReservedRange] = []
        try:
            while True:
                taken = term.take(count)
                ranges += taken
                count -= sum(reserved.stop - reserved.start for reserved in taken)
                if not count:
                    term.look_ahead()
                    return ranges
                await term.extend()
        except Deposed:
            await self._lose()
            raise

    def _link(
        self, table: StreamTable, ask: Ask, given: Given
    ) -> tuple[dict[str, tuple[int, ...]], ...]:
        """Note where the streams go on, and say what came before."""
        slots = [
            reserved.segment * self._segmented_log.size + offset
            for reserved in given.ranges
            for offset in range(reserved.start, reserved.stop)
        ]
        firsts = list(itertools.accumulate(ask.counts, initial=given.first))
        links = tuple(
            {name: table.push(name, slots[i], firsts[i] + last) for name, last in names.items()}
            for i, names in ask.named
        )
        table.forget()
        return links

    # ------------------------------------------------------------ the term

    async def _held(self, doubt: bytes | None = None) -> Term:
        """The term; acquired if there is none, and tested if somebody doubts it.

        One refused write does not tell: somebody may have filled just that register.
        """
        term = self._term
        doubted = term is not None and doubt is not None and term.covers(doubt)
        if term is not None and doubted and not await term.stands():
            await self._lose()
            term = None
        return term or await self._acquiring.join(self._acquire)

    async def _acquire(self) -> Term:
        if self._may_renew is not None and not await self._may_renew():
            raise Deposed("another sequencer has taken over")
        term = Term(self._segmented_log, unsafe=self._unsafe, mixed=self._sole, seal=self._seal)
        await term.acquire()
        await self._go_on_at(term.at)
        self._linked = None
        self._table = self._begin_to_rebuild()
        self._term = term
        log.info("%s: handing out from position %d on", self._segmented_log.space.name, self._next)
        return term

    async def _go_on_at(self, slot: int) -> None:
        """Find the next position, which is above all that any slot below `slot` will ever hold.

        What is empty between the last batch and `slot` is filled first: a batch for which an
        earlier sequencer handed it out would have positions that are given again.
        """
        last = await self._reader.last_batch(slot, fill=True)
        self._began = slot
        self._next = max(self._trim_point.at.position, last[1].end if last else 0)
        self._before = last[1].before + last[1].size if last else 0

    async def _lose(self) -> None:
        term, self._term = self._term, None
        if self._table is not None:
            self._table.cancel()
            self._table = None
        if term is not None:
            await term.close()

    async def close(self) -> None:
        """Hand out nothing more."""
        await self._acquiring.close()
        await self._lose()

    async def start(self) -> None:
        """Take over now, rather than at the first request.

        Raises:
            Deposed, Unavailable.
        """
        async with self._turn:
            await self._held()

    # ------------------------------------------------------------ what is recovered

    def _begin_to_rebuild(self) -> asyncio.Task[StreamTable]:
        return self._tables.spawn(self._rebuild(), _note_failure)

    async def _rebuild(self) -> StreamTable:
        while True:
            try:
                first = await self._trim_point.find()
                return await rebuild(self._segmented_log, self._began, first.slot)
            except Trimmed:
                continue

    async def _streams(self) -> StreamTable:
        """The table of streams, when it is rebuilt; after a failure, by another attempt."""
        task = self._table
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            if self._term is None:
                raise Deposed("this sequencer was deposed")
            # Nothing that names a stream was handed out meanwhile: that would have waited here.
            task = self._table = self._begin_to_rebuild()
        await asyncio.wait([task])
        if task.cancelled():
            raise Deposed("this sequencer was deposed")
        return task.result()

    async def _recall(self, table: StreamTable, ask: Ask) -> None:
        """Look up streams that the table has left out."""
        if table.left_out and self._term is not None:
            for name in {name for _, names in ask.named for name in names}:
                await self._find(table, name, self._term.at)

    async def _find(self, table: StreamTable, name: str, below: int) -> Latest:
        if name not in table and table.left_out:
            first = await self._trim_point.find()
            below = min(below, table.left_out)
            patience_s = self._reader.patience_s
            table.put(name, await look_up(self._segmented_log, name, below, first.slot, patience_s))
        return table.latest(name)

    async def _seal(self) -> bytes:
        table = await self._streams()
        term = self._term
        if term is None:
            raise Deposed("this sequencer was deposed")
        first = await self._trim_point.find()
        upto = term.at if self._linked is None else min(self._linked, term.at)
        largest = self._segmented_log.space.client.registers.max_value
        return encode(table.seal(upto, first.slot, min(KNOBS.log_table_bytes, largest)))

    # ------------------------------------------------------------ other questions

    async def _on_ping(self, ping: Ping) -> Pong:
        return Pong()

    async def _on_last(self, question: LastOf) -> Last:
        async with self._turn:
            table, below, position = await self._certain()
            latest = await self._find(table, question.stream, below)
            table.forget()
            return Last(latest, position)

    async def _on_names(self, question: NamesOf) -> Names:
        async with self._turn:
            return Names((await self._certain())[0].all())

    async def _certain(self) -> tuple[StreamTable, int, int]:
        """A table that has every append that was acknowledged before the call, and where it ends.

        The end is a slot, and the position that is the next there.

        What this sequencer knows, if a majority says that it is the sequencer now: what it does not
        know, nobody handed out.

        Raises:
            Deposed, Unavailable.
        """
        term = self._term
        if term is not None and not await term.stands():
            await self._lose()
            term = None
        if term is None and self._may_renew is None:
            return await self._read_on()
        term = term or await self._acquiring.join(self._acquire)
        return await self._streams(), term.at, self._next

    async def _read_on(self) -> tuple[StreamTable, int, int]:
        """The table as it is read: who only asks takes the right to append from nobody."""
        segmented_log, patience_s = self._segmented_log, self._reader.patience_s
        while True:
            first, end = await self._trim_point.find(), await segmented_log.end()
            table, upto = self._read or (StreamTable(), 0)
            try:
                if self._read is None or upto < first.slot or end - upto > segmented_log.size:
                    table = await rebuild(segmented_log, end, first.slot, patience_s)
                else:
                    await catch_up(segmented_log, table, upto, end, patience_s)
            except Trimmed:
                self._read = None
                continue
            self._read = table, end
            last = await self._reader.last_batch(end)
            return table, end, last[1].end if last else first.position


def _note_failure(task: asyncio.Task[StreamTable]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.info("the table of streams is not there yet: %s", task.exception())
