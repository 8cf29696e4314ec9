"""Snapshots that other replicas fetch from this one, piece by piece.

Whoever fetches one needs the registers behind it next.  So they are kept until the fetch is over
and its replica has had time to begin to read: each replica tells the leader how far back it needs
them (`Ping.needed`), and the leader trims no further.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

from wormspace.smr.engine import Engine
from wormspace.smr.errors import NoSnapshot
from wormspace.smr.records import Fetch, Fetched, Ping
from wormspace.smr.snapshots import Snapshot
from wormspace.space import Address

PATIENCE_S = 30.0
"""A snapshot is dropped when nobody has asked for its next piece for so long."""

NEEDED_S = 10.0
"""After its last piece, the registers behind a snapshot are kept for so long."""

AT_ONCE = 8
"""Snapshots that are held at a time: each makes every change of the state dearer."""

ANNOUNCED_KEPT = 64
"""Of so many incarnations of replicas the last word is known."""


class Fetches:
    """The snapshots that are being fetched."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tickets = itertools.count(1)
        self._open: dict[int, tuple[Snapshot, Iterator[bytes]]] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._needed: dict[int, Address] = {}

    @property
    def needed(self) -> Address | None:
        """From where on registers are still needed by those who fetch; None: nobody does."""
        return min(self._needed.values(), default=None)

    def next(self, engine: Engine, fetch: Fetch) -> Fetched:
        """The piece that is asked for.

        Raises:
            NoSnapshot: that snapshot is not held any more, or there are too many already.
        """
        ticket = fetch.ticket
        if fetch.index == 0:
            if len(self._open) >= AT_ONCE:
                raise NoSnapshot(f"{AT_ONCE} snapshots are being fetched here already")
            ticket = next(self._tickets)
            snapshot = Snapshot(engine)
            self._open[ticket] = (snapshot, snapshot.pieces())
            self._needed[ticket] = snapshot.position
        if ticket not in self._open:
            raise NoSnapshot("that snapshot is not held any more")
        piece = next(self._open[ticket][1], b"")
        if piece:
            self._wait(ticket, PATIENCE_S)
        else:
            self._open.pop(ticket)[0].close()
            self._wait(ticket, NEEDED_S)
        return Fetched(ticket, piece)

    def _wait(self, ticket: int, seconds: float) -> None:
        timer = self._timers.pop(ticket, None)
        if timer is not None:
            timer.cancel()
        self._timers[ticket] = self._loop.call_later(seconds, self._drop, ticket)

    def _drop(self, ticket: int) -> None:
        del self._timers[ticket], self._needed[ticket]
        held = self._open.pop(ticket, None)
        if held is not None:
            held[0].close()

    def close(self) -> None:
        """Nobody is given anything any more."""
        for ticket, timer in list(self._timers.items()):
            timer.cancel()
            self._drop(ticket)


class Announced:
    """What the other replicas have told of themselves, and when."""

    def __init__(self) -> None:
        self._heard: dict[bytes, tuple[float, Ping]] = {}

    def note(self, ping: Ping, now: float) -> None:
        """A replica was heard of."""
        self._heard.pop(ping.member.id, None)
        self._heard[ping.member.id] = (now, ping)
        while len(self._heard) > ANNOUNCED_KEPT:
            del self._heard[next(iter(self._heard))]  # heard of longest ago

    def since(self, time: float) -> list[Ping]:
        """The last word of each replica that was heard of since then."""
        return [ping for heard_at, ping in self._heard.values() if heard_at >= time]
