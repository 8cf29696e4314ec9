"""Clients that do everything at once, each a process on a host of its own.

A client runs a few workers; a worker draws a call at random, makes it on the public API, and
records what came of it.  Clients may die at any line, and come back as somebody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import wormspace
from wormspace.errors import Closed, ProtocolViolation, Unavailable, WormError
from wormspace.sim.mix import Gift, Mix
from wormspace.sim.questions import Questions
from wormspace.sim.records import Records, Violation
from wormspace.sim.world import World

OPERATION_TIMEOUT_S = 2.0
MAX_EARS = 4
"""Listeners of one life of a client."""


class Workload:
    """What the clients of one run share: the plan, the records, and tokens on their way."""

    def __init__(
        self, world: World, partitions: list[list[str]], mix: Mix, records: Records
    ) -> None:
        self.world = world
        self.servers = sorted(address for addresses in partitions for address in addresses)
        self.url = "worm://" + "/".join(",".join(addresses) for addresses in partitions)
        self.mix = mix
        self.records = records
        self.gifts: list[Gift] = []
        self.stopping = False
        self.ending = asyncio.Event()
        self.lives: dict[str, int] = {}
        self.people: dict[str, Person] = {}

    def client(self, name: str, workers: int, listeners: int) -> Callable[[], Awaitable[None]]:
        """The main coroutine of a client process."""

        async def main() -> None:
            life = self.lives[name] = self.lives.get(name, 0) + 1
            for feed in self.records.feeds:
                if feed.name.startswith(f"{name}."):
                    feed.whole = False  # its listener died with the client, without a word
            person = self.people[name] = Person(self, name, life)
            await person.live(workers, listeners)

        return main


class Person(Questions):
    """One life of one client; it is `idle` when its workers have stopped."""

    def __init__(self, work: Workload, host: str, life: int) -> None:
        name = f"{host}.{life}"
        rng = work.world.random_for(f"{name}/calls")
        super().__init__(name, work.mix, work.records, work.gifts, rng)
        self.work = work
        self.servers = work.servers
        self.host = host
        self.life = life
        self.idle = False
        self._ears: list[asyncio.Task[None]] = []
        self._whims = work.world.random_for(f"{name}/whims")

    async def connect(self) -> None:
        """Connect, however long it takes."""
        client_rng = self.work.world.random_for(f"{self.name}/client")
        while self._worm is None:
            try:
                self._worm = await wormspace.connect(
                    self.work.url, timeout=OPERATION_TIMEOUT_S, rng=client_rng
                )
            except Unavailable:
                pass

    async def live(self, workers: int, listeners: int) -> None:
        """Connect, work until told to stop, listen until the end."""
        await self.connect()
        loop = asyncio.get_running_loop()
        spaces = self.mix.spaces
        for i in range(listeners):
            space = spaces[(i + self.life) % len(spaces)]
            self._ears.append(loop.create_task(self._listen(i, space)))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._work())
            self.idle = True
            await self.work.ending.wait()
        finally:
            for ear in self._ears:
                ear.cancel()
            await self.worm.close()

    async def _work(self) -> None:
        names = list(self.mix.calls)
        weights = list(self.mix.calls.values())
        while not self.work.stopping:
            name = self.rng.choices(names, weights)[0]
            await self.attempt(name, self.rng.choice(self.mix.spaces))
            if self.rng.random() < 0.7:
                await asyncio.sleep(self.rng.random() * self.mix.pause_s)

    async def attempt(self, name: str, space: str) -> bool:
        """Make one call of this name; true if it was answered."""
        given_up = self._whims.random() < self.mix.given_up
        patience_s = self._whims.choice((0.001, 0.01, 0.5)) * self._whims.random()
        try:
            async with asyncio.timeout(patience_s if given_up else None):
                await getattr(self, f"on_{name}")(space)
        except TimeoutError:
            if not given_up:
                raise
            self._end(name, "given up")
            return False
        except (Unavailable, Closed):
            self._end(name, "unavailable")
            return False
        except ProtocolViolation as e:
            raise Violation("no client broke a promise, yet one is accused", str(e)) from e
        except WormError as e:
            self._end(name, type(e).__name__)
        else:
            self._end(name, "answered")
        return True

    def _end(self, name: str, outcome: str) -> None:
        self.records.count(outcome)
        self.work.world.note(self.host, "%s %s: %s", self.name, name, outcome)

    # ------------------------------------------------------------ listening

    async def on_listen(self, space: str) -> None:
        """Begin to listen in the midst of everything, perhaps as the first of all."""
        index = len(self._ears)
        if index < MAX_EARS:
            self._ears.append(asyncio.get_running_loop().create_task(self._listen(index, space)))

    async def come(self, delay_s: float, space: str) -> None:
        """Listen to all of a space, from so much later on, for ever."""
        await asyncio.sleep(delay_s)
        await self._hear(len(self.records.feeds), space, (0, 0))

    async def _listen(self, index: int, space: str) -> None:
        first = (0, 0) if self.rng.random() < 0.7 else (self.rng.randrange(3), 2)
        await self._hear(index, space, first)

    async def _hear(self, index: int, space: str, first: tuple[int, int]) -> None:
        feed = self.records.listener(f"{self.name}/{index}", space, first)
        events: Any = self.worm.space(space).listen(wormspace.Address(*first))
        try:
            async for event in events:
                feed.events.append(event)
                self.work.world.note(self.host, "%s is told %s", feed.name, repr(event))
        finally:
            feed.whole = False
