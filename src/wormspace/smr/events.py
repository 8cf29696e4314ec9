"""What commands emit, numbered alike everywhere, for those who follow a replica or a remote object.

A replica holds the last events in memory.  Who follows has a place in the numbers from the moment
of the call on; it reads on from there, a page at a time, as fast as it likes.  If what comes next
is not held any more, it is told (`EventsLost`), and never passes over anything silently.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import msgspec

from wormspace.errors import UsageError
from wormspace.knobs import KNOBS
from wormspace.malformed import MALFORMED
from wormspace.runtime.tasks import Tasks
from wormspace.smr.engine import Engine
from wormspace.smr.errors import EventsLost
from wormspace.smr.learner import Learner
from wormspace.smr.records import Listened, encode
from wormspace.space import Stream

LISTEN_S = 1.0
"""So long a replica waits for an event before it says that there was none."""


class Bell:
    """Wakes the one who waits for something to change."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None

    async def heard(self) -> None:
        """Wait until it is rung.  One waits at a time."""
        self._waiting = self._loop.create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def ring(self) -> None:
        """Wake whoever waits."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Bells:
    """The bells of all who follow one replica."""

    def __init__(self) -> None:
        self._hung: dict[Bell, None] = {}

    def __len__(self) -> int:
        return len(self._hung)

    def hang(self) -> Bell:
        """One more."""
        bell = Bell()
        self._hung[bell] = None
        return bell

    def take_down(self, bell: Bell) -> None:
        """It is not wanted any more; whoever waits for it is woken."""
        self._hung.pop(bell, None)
        bell.ring()

    def ring(self) -> None:
        """The state has changed: whoever follows looks again."""
        for bell in self._hung:
            bell.ring()


def page(engine: Engine, after: int) -> list[Any]:
    """The events after a number, as many as go into a page; none if there are none yet.

    Raises:
        EventsLost: the next one is not held any more.
    """
    newer = engine.emitted - after
    if newer <= 0:
        return []
    if newer > len(engine.recent):
        first = engine.emitted - len(engine.recent) + 1
        raise EventsLost(
            f"event {after + 1} is not held any more: the oldest here is {first}. Read the state, "
            f"and go on with listen({first})",
            first,
        )
    newest_first = itertools.islice(reversed(engine.recent), newer)
    return list(newest_first)[::-1][: KNOBS.smr_listen_events]


class Followed(Protocol):
    """A replica, as those see it who follow its events."""

    bells: Bells
    learner: Learner

    def require_sound(self) -> None:
        """Raise what stopped it, if something did."""


async def next_events(replica: Followed, after: int) -> Listened:
    """A page for somebody elsewhere, once there is an event, or an empty one after a while.

    Raises:
        EventsLost.
    """
    engine = replica.learner.engine
    if after < 0:
        return Listened(engine.emitted + 1, [])
    bell = replica.bells.hang()
    try:
        async with asyncio.timeout(LISTEN_S):
            while replica.learner.engine.emitted <= after:
                await bell.heard()
    except TimeoutError:
        pass
    finally:
        replica.bells.take_down(bell)
    found: list[msgspec.Raw] = []
    size = 0
    for event in page(replica.learner.engine, after):
        raw = encode(event)
        size += len(raw)
        if found and size > KNOBS.smr_listen_bytes:
            break
        found.append(msgspec.Raw(raw))
    return Listened(after + 1, found)


class Events(Stream[tuple[int, Any]]):
    """The events of a replica in this process; get it from `Replica.listen`."""

    def __init__(self, replica: Followed, start: int | None, of: str = "") -> None:
        replica.require_sound()
        after = before(start)
        self._replica = replica
        bells = replica.bells
        bell = self._bell = bells.hang()
        super().__init__(lambda: bells.take_down(bell), of)
        self._at = replica.learner.engine.emitted if after is None else after

    async def _more(self) -> None:
        self._replica.require_sound()
        found = page(self._replica.learner.engine, self._at)
        if not found:
            await self._bell.heard()
            return
        self._items.extend(enumerate(found, self._at + 1))
        self._at += len(found)


class RemoteEvents(Stream[tuple[int, Any]]):
    """The events of an object elsewhere; get it from `Remote.listen`.

    Args:
        ask: asks some replica for the events after a number; goes to another one after an error.
        begun: the number to begin after, once it is known.
    """

    def __init__(
        self,
        ask: Callable[[int], Coroutine[Any, Any, Listened]],
        begun: asyncio.Future[int],
        decode: Callable[[Any], Any],
    ) -> None:
        waited_for: list[asyncio.Future[Any]] = [begun]
        self._tasks = Tasks("events of a remote object")
        self._waited_for = waited_for
        super().__init__(lambda: [one.cancel() for one in waited_for], "an object elsewhere")
        self._ask = ask
        self._decode = decode
        self._at = -1

    async def _more(self) -> None:
        if self._at < 0:
            self._at = await self._result(self._waited_for[0])
        if len(self._waited_for) == 1:
            self._waited_for.append(self._tasks.begin(self._ask(self._at)))
        answer = await self._result(self._waited_for[1])
        self._waited_for.pop()
        for number, event in enumerate(answer.events, answer.first):
            try:
                self._items.append((number, self._decode(event)))
            except MALFORMED as e:
                if self._items:
                    break  # those before it come first
                raise EventsLost(
                    f"event {number} is not what this class declares, but of another version of "
                    f"it: {e}. Go on with listen({number + 1})",
                    number + 1,
                ) from e
        self._at = self._items[-1][0] if self._items else answer.first - 1

    async def _result(self, future: asyncio.Future[Any]) -> Any:
        """Wait for something that goes on when the wait is given up."""
        await asyncio.wait([future])
        if future.cancelled():
            raise StopAsyncIteration
        return future.result()


def before(start: int | None) -> int | None:
    """The number of the event before, none for none.

    Raises:
        UsageError: it is no event's number.
    """
    if start is None:
        return None
    if type(start) is not int or not 1 <= start <= 1 << 63:
        raise UsageError(f"events are numbered from 1: begin with one of them, not {start!r}")
    return start - 1
