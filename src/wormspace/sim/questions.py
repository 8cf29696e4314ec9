"""What a simulated client asks about the cluster itself, and checks."""

from __future__ import annotations

import asyncio
from collections import Counter

from wormspace.registers.interface import RegisterState
from wormspace.sim.calls import Calls
from wormspace.sim.records import Violation


class Questions(Calls):
    """`on_...(space)`, as in `Calls`.  `servers` are the cluster's, sorted."""

    servers: list[str]

    async def on_holds(self, space: str) -> None:
        """Does a capture still stand, right away or after a while?"""
        segment = await self._segment(space)
        captured = await self._capture(segment, *self._span(segment.size))
        token = captured.token
        if self.rng.random() < 0.7:
            await asyncio.sleep(self.rng.random() * 0.2)
        offset = self.rng.randrange(token.start, token.stop)
        called = self.records.call()
        with self._noticing_trims(space, segment.number):
            stands = await segment.holds(token, offset)
        if stands:
            self.records.stands((space, segment.number, offset), token.fence, called)

    async def on_inspect(self, space: str) -> None:
        """What each server holds: what it knows to be decided, or a majority accepted, is read."""
        segment = await self._segment(space)
        called = self.records.call()
        servers = await segment.inspect(*self._span(segment.size))
        votes: Counter[tuple[int, str, bytes]] = Counter()
        for states in servers.values():
            for state in states or ():
                if state.value is not None:
                    votes[state.offset, state.accepted, state.value] += _weight(state, len(servers))
        for (offset, _, value), count in sorted(votes.items()):
            if count > len(servers) // 2:
                self.records.read((space, segment.number, offset), self.name, called, value)

    async def on_spaces(self, space: str) -> None:
        """The names of all spaces."""
        called = self.records.call()
        self.records.listed(called, await self.worm.spaces())

    async def on_servers(self, space: str) -> None:
        """How the servers are: each of them, whether or not it answers."""
        self.records.call()
        names = [state.server for state in await self.worm.servers()]
        if sorted(names) != self.servers:
            raise Violation("the list of servers is not the cluster's", f"{names}")


def _weight(state: RegisterState, servers: int) -> int:
    """A server that knows the value to be decided speaks for all."""
    return servers if state.decided else 1
