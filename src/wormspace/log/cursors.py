"""Cursors: how far a consumer has come, by name, durable, at its own word.

A consumer that commits after it has dealt with an entry gets each entry at least once, whatever
crashes.  One that stores the position together with what it does, in one transaction of its own
store, gets each exactly once, and needs no cursor: it listens from what it stored.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias
from weakref import WeakSet, WeakValueDictionary

from wormspace.knobs import KNOBS
from wormspace.log.checks import check_position
from wormspace.log.durable_cell import DurableCell

Within: TypeAlias = Callable[[str, float | None], AbstractAsyncContextManager[float]]
"""Limits what a call may take, given what it is and its time-out."""


Require: TypeAlias = Callable[[int], Awaitable[None]]
"""Raises `NotWritten` if a position is above the log's tail."""


class Cursor:
    """One consumer's place in one log; get it from `Log.cursor`.

    Attributes:
        name: the consumer's.
    """

    def __init__(self, name: str, cell: DurableCell[int], within: Within, require: Require) -> None:
        self.name = name
        self._cell = cell
        self._within = within
        self._require_reached = require

    def __repr__(self) -> str:
        return f"<Cursor {self.name!r}>"

    async def load(self, *, timeout: float | None = None) -> int:
        """The first position that is not committed; 0 if nothing ever was.

        Linearizable: it sees every commit that was acknowledged before the call.

        Raises:
            Unavailable: not in time.
        """
        async with self._within(f"loading cursor {self.name!r}", timeout):
            found = await self._cell.get()
        return found[1] if found else 0

    async def commit(self, position: int, *, timeout: float | None = None) -> None:
        """All below `position` is done with; it is where a later run begins.

        The last commit counts, even if it goes back.  A consumer that commits alone pays one round
        trip, for what was read through this handle of the log; for other positions it is looked
        first where the log ends.

        Raises:
            NotWritten: it is above the tail: nothing there was ever delivered to anybody.
            Unavailable: the outcome is unknown; commit again.
        """
        check_position(position)
        async with self._within(f"committing cursor {self.name!r}", timeout):
            await self._require_reached(position)
            await self._cell.put(position)


class Cursors:
    """The cursors of one log, the last used of them at hand.

    One that nobody holds and that fell out is made anew when it is asked for; its first commit then
    takes the right to commit again, which is a few round trips more.
    """

    def __init__(
        self, make: Callable[[str], DurableCell[int]], within: Within, require: Require
    ) -> None:
        self._make = make
        self._within = within
        self._require_reached = require
        self._recent: OrderedDict[str, Cursor] = OrderedDict()
        self._alive: WeakValueDictionary[str, Cursor] = WeakValueDictionary()
        # What a commit began may go on when its cursor is gone.
        self._cells: WeakSet[DurableCell[int]] = WeakSet()

    def get(self, name: str) -> Cursor:
        """The consumer's cursor: the same object for as long as somebody holds it."""
        cursor = self._alive.get(name)
        if cursor is None:
            cell = self._make(name)
            self._cells.add(cell)
            cursor = Cursor(name, cell, self._within, self._require_reached)
            self._alive[name] = cursor
        self._recent[name] = cursor
        self._recent.move_to_end(name)
        if len(self._recent) > KNOBS.log_cursors:
            self._recent.popitem(last=False)
        return cursor

    async def close(self) -> None:
        """Stop what is under way in the background."""
        for cell in list(self._cells):
            await cell.close()
