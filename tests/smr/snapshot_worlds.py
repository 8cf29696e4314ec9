"""Replicas that live by their snapshots: killed all the time, alone and all at once.

Clients are on machines of their own and go on while replicas die, so that what they ask for is
under way across snapshots, trims and takeovers.  Often they hear no answers: what was done is asked
for again, of other replicas, and where these all propose it is in the log twice.  Each replica
keeps its snapshots in a place of its own, which is slow to write, and which outlives it.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from smr_worlds import SMR_PORT, Cells, Group, Witness, campaign_world

from wormspace.sim import FaultPlan, FaultSchedule, World
from wormspace.sim.world import State
from wormspace.smr import (
    Leaderless,
    LocalSnapshots,
    Rotating,
    Sticky,
    TrimBehindSnapshots,
    attach,
)

KINDS = ("cut", "reset", "slow", "crash", "crash again", "stall disk", "clock")


class SlowPlace(LocalSnapshots):
    """A directory in the simulated world: a snapshot is there when the last of it is written."""

    def __init__(self, rng):
        super().__init__(Path("nowhere"))
        self._rng = rng
        self._kept = {}

    def claim(self, name):
        """One replica has it at a time, and a claim ends with its simulated process."""
        return self

    def close(self):
        pass

    async def save(self, name, position, pieces):
        taken = []
        async for piece in pieces:
            taken.append(piece)
            await asyncio.sleep(self._rng.random() * 0.1)
        self._kept[name] = taken

    async def load(self, name):
        for piece in self._kept.get(name, ()):
            yield piece


class Living:
    """One run."""

    def __init__(self, seed, world):
        self.world = world
        self.rng = world.random_for("living")
        self.places = {f"r{i}": SlowPlace(self.rng) for i in (1, 2, 3)}
        copies = self.rng.choice((1, 2))
        registers = self.rng.choice((2, 5))
        leadership = self.rng.choice((Sticky(0.15), Sticky(0.5), Rotating(0.15), Leaderless()))
        self.group = Group(
            world,
            Cells,
            options=lambda name: {
                "leadership": leadership,
                "durability": TrimBehindSnapshots(
                    self.places[name], registers, copies=copies, every_s=0.05
                ),
            },
            size=self.rng.choice((2, 4)),
            real_store=World.draws_real_store(seed),
        )

    def user(self, host):
        """A client that is no replica, with several calls under way."""
        group, world = self.group, self.world
        rng = world.random_for(host)

        async def work():
            addresses = [(name, SMR_PORT) for name in group.names]
            cells = await attach(Cells, "cells", addresses, timeout=20.0, rng=rng)
            await asyncio.gather(*(group.work(cells, f"{host}.{i}", rng) for i in range(6)))

        return world.spawn(host, work)

    async def kill(self):
        """Kill some replica; or the leader, and soon after it whoever may succeed it."""
        group, rng = self.group, self.rng
        while not group.stopping:
            await asyncio.sleep(rng.uniform(0.05, 0.8))
            leading = [name for name, one in group.replicas.items() if one.status().leads]
            if not leading or rng.random() < 0.4:
                self.strike(rng.choice(group.names))
                continue
            self.strike(leading[0])
            await asyncio.sleep(rng.uniform(0.05, 0.5))
            for name in group.names:
                self.strike(name)

    async def silence(self, host):
        """Now and then a client hears nothing: what it asks for is done, and asked for again."""
        network, rng = self.world.network, self.rng
        while not self.group.stopping:
            await asyncio.sleep(rng.uniform(0.1, 1.0))
            cut = network.cut(self.group.names, [host], one_way=True)
            await asyncio.sleep(rng.uniform(0.1, 2.0))
            network.heal(cut)

    def strike(self, name):
        group = self.group
        process = self.world.host(name).processes[-1]
        if process.state is State.RUNNING and not group.stopping:
            process.crash(silence_s=self.rng.choice((0.0, self.rng.random() * 1.5)))
            group.replicas.pop(name, None)
            self.world.after(self.rng.uniform(0.01, 0.3), process.restart)

    async def drive(self, duration_s):
        group = self.group
        group.start_servers()
        group.start_replicas()
        for host in ("u1", "u2"):
            self.user(host)
        plan = FaultPlan(kinds=KINDS, every_s=(0.1, 0.6), lasting_s=(0.05, 0.6), max_hurt=1)
        servers = FaultSchedule(self.world, plan, group.servers, group.names)
        servers.start()
        troubles = [self.kill(), *map(self.silence, ("u1", "u2"))]
        tasks = [asyncio.ensure_future(trouble) for trouble in troubles]
        await asyncio.sleep(duration_s)
        servers.stop()
        for task in tasks:
            task.cancel()
        self.world.network.heal()
        await asyncio.sleep(3.0)
        await group.settle()


def run_on_snapshots(seed, *, duration_s=5.0):
    """One run; returns the group."""
    logging.getLogger("wormspace").setLevel(logging.CRITICAL)
    with campaign_world(seed) as world, Witness() as witness:
        living = Living(seed, world)
        world.run(living.drive(duration_s), deadline_s=300)
        witness.check()
        group = living.group
        group.verdict = group.check()
        return group
