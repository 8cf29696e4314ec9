"""The end of a run: all is well, and somebody comes to a space for the first time.

While faults strike, connections break, and a listener whose stream broke reads again what it may
have missed; whatever went wrong with its events is put right by that.  Here nothing breaks any
more, so that nothing is put right either.  The disks are slow, so that what a newcomer does meets
writes that are on their way to the disk.
"""

from __future__ import annotations

import asyncio

import wormspace
from wormspace.errors import Unavailable
from wormspace.sim.records import Feed
from wormspace.sim.workload import Person, Workload
from wormspace.sim.world import World

SPACES = 6
SLOWNESS = (10.0, 40.0)
"""So many times as long do commits take."""
SPAN_S = 0.0005
"""Within so long, times the slowness, a listener comes after the first write to its space."""
IDLE_S = 0.3
"""So long no disk has anything to do before that write."""


class Newcomers:
    """Spaces that nobody has used yet, each with a writer, and a listener that is its first."""

    def __init__(self, world: World, work: Workload, servers: list[str]) -> None:
        self._world = world
        self._work = work
        self._servers = servers
        self._random = world.random_for("newcomers")

    async def play(self) -> list[Feed]:
        """Begin each space, and write to it as its first listener comes; what they are told."""
        world, work = self._world, self._work
        spaces = [f"new-{i}" for i in range(SPACES)]
        heard = len(work.records.feeds)
        slowness = self._random.choice(SLOWNESS)
        begun = {space: asyncio.Event() for space in spaces}

        async def write() -> None:
            writer = Person(work, "writer", 1)
            await writer.connect()
            tokens = [await writer.begin(space) for space in spaces]
            for name in self._servers:
                world.host(name).disk().slowness = slowness
            for space, token in zip(spaces, tokens, strict=True):
                await asyncio.sleep(IDLE_S)  # so that every server takes the write in at once
                begun[space].set()
                await self._write(writer, space, token)

        async def come() -> None:
            newcomer = Person(work, "newcomer", 1)
            await newcomer.connect()
            await asyncio.gather(*(self._come(newcomer, s, begun[s], slowness) for s in spaces))

        world.spawn("newcomer", come)
        await world.spawn("writer", write).wait()
        while len(work.records.feeds) < heard + SPACES:  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.01)
        return work.records.feeds[heard:]

    async def _come(
        self, newcomer: Person, space: str, begun: asyncio.Event, slowness: float
    ) -> None:
        await begun.wait()
        await newcomer.come(self._random.random() * SPAN_S * slowness, space)

    async def _write(self, writer: Person, space: str, token: wormspace.Token) -> None:
        """Some registers, one after the other; then, perhaps, they are trimmed."""
        for offset in range(token.start, self._random.randint(1, 3)):
            try:
                await writer.go_on(space, offset, token)
            except Unavailable:
                return  # too slow
        if self._random.random() < 0.3:
            while not await writer.attempt("trim", space):
                pass  # its outcome is not known: the segment may be live
