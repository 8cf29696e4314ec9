"""Clusters in the simulator with logs on them, and what must hold of a log, whatever happened."""

from __future__ import annotations

import asyncio

import wormspace
from sequential_objects import AppendOnlyLog
from wormspace.server.limits import ServerIdentity
from wormspace.sim import History, World, check
from wormspace.sim.linearizability import UNKNOWN, Operation, Outcome
from wormspace.sim.serving import PORT, serving
from wormspace.sim.world import current


class LogWorld:
    """A world with a cluster of `servers`, and processes that use logs on it.

    Its clients wait `timeout_s` for a call.
    """

    def __init__(self, seed=0, servers=3, world=None, timeout_s=10.0, real_store=False, **options):
        self.world = world or World(seed, **options)
        self.servers = [f"s{i + 1}" for i in range(servers)]
        self.url = "worm://" + ",".join(f"{name}:{PORT}" for name in self.servers)
        for name in self.servers:
            identity = ServerIdentity("cl", name, 0, 1, servers)
            self.world.host(name).disk()
            self.world.spawn(name, serving(identity, real_store=real_store))
        self.timeout_s = timeout_s
        self._lives = {}

    async def connect(self):
        """A client, on the host of the running process."""
        host = current().host
        life = self._lives[host] = self._lives.get(host, 0) + 1
        rng = self.world.random_for(f"{host}/{life}")
        while True:
            try:
                return await wormspace.connect(self.url, rng=rng, timeout=self.timeout_s)
            except wormspace.Unavailable:
                pass

    def spawn(self, host, work, **options):
        """A process on `host` that runs `work(worm)` on a connection of its own."""

        async def main():
            worm = await self.connect()
            try:
                return await work(worm)
            finally:
                await worm.close()

        return self.world.spawn(host, main, **options)

    def run(self, driver, deadline_s=600.0):
        with self.world as world:
            return world.run(driver, deadline_s=deadline_s)


class Book:
    """What appenders were told: calls and returns in their order, by a clock of its own."""

    def __init__(self):
        self.history = History()
        self.acknowledged = {}
        self.bodies = {}
        self.number = 0

    async def append(self, who, log, count=1, noted=None, **options):
        """Append one entry, or `count` of them at once; false if the outcome is unknown.

        Their positions are added to `noted`.
        """
        bodies = []
        for _ in range(count):
            self.number += 1
            bodies.append(f"{who}:{self.number}".encode())
        calls = [self.history.call(who, ("append", body)) for body in bodies]
        try:
            if count == 1:
                positions = [await log.append(bodies[0], **options)]
            else:
                positions = await log.append_many(bodies, **options)
        except wormspace.Unavailable:
            return False
        for call, body, position in zip(calls, bodies, positions, strict=True):
            self.history.ret(call, position)
            assert position not in self.acknowledged, "one position was given to two entries"
            self.acknowledged[position] = body
            if noted is not None:
                noted.append(position)
        return True

    async def tail(self, who, log):
        call = self.history.call(who, ("tail",))
        try:
            self.history.ret(call, await log.tail())
        except wormspace.Unavailable:
            pass

    def check(self, entries):
        """Everything, given the log's entries as they were read at the end.

        Positions are compared by their rank among the entries: holes do not count.
        """
        held = {entry.position: entry.body for entry in entries}
        for position, body in self.acknowledged.items():
            assert held.get(position) == body, f"{body} was acknowledged at {position}, and moved"
        assert len(set(held.values())) == len(held), "an entry is in the log twice"
        ranks = {position: rank for rank, position in enumerate(sorted(held))}
        where = {body: ranks[position] for position, body in held.items()}
        operations = []
        for one in self.history.operations():
            if one.input == ("tail",):
                if one.returned is None:
                    continue
                output = sum(position < one.output for position in held)
                operations.append(
                    Operation(one.client, one.input, output, one.called, one.returned)
                )
                continue
            body = one.input[1]
            if body not in where:
                assert one.output is UNKNOWN
                continue
            operations.append(
                Operation(one.client, ("append", body), where[body], one.called, one.returned)
            )
        verdict = check(AppendOnlyLog(), operations)
        assert verdict.outcome is Outcome.OK, verdict.explanation


async def read_all(log):
    """All entries up to the tail, when nothing is left undecided."""
    while True:
        try:
            return await log.read_range(await log.first(), await log.tail())
        except wormspace.Unavailable:
            await asyncio.sleep(0.1)
