"""Retries outstanding across snapshots and takeovers: each command has one effect, or none."""

import asyncio
import logging

import pytest
from smr_worlds import Group, Witness

from wormspace.knobs import turned
from wormspace.sim import World
from wormspace.smr import (
    MemorySnapshots,
    StateMachine,
    Sticky,
    Table,
    TrimBehindSnapshots,
    command,
    query,
)
from wormspace.smr.routing import Router

WORKERS = 3


class Told(StateMachine):
    """How often each text came: a second effect of a command shows."""

    times: Table[str, int]

    @command
    def tell(self, text: str) -> int:
        self.times[text] = self.times.get(text, 0) + 1
        return self.times[text]

    @query
    def get(self, key: str) -> str | None:
        return None


class Retrying(Group):
    """Workers of one replica share its client, so several of its packets are under way at once."""

    told = 0

    async def work(self, replica, client, rng):
        async def one(number):
            count = 0
            while not self.stopping:
                count += 1
                text = f"<{client}.{number}.{count}>"
                try:
                    times = await replica.tell(text)
                except Exception:  # noqa: BLE001 - unknown: it may be there, once
                    self.unknown += 1
                else:
                    assert times == 1
                    self.told += 1
                await asyncio.sleep(rng.random() * 0.1)

        await asyncio.gather(*(one(n) for n in range(WORKERS)))


def lossy(monkeypatch, world):
    """Answers to forwarded packets are lost now and then, so that they are sent again."""
    rng = world.random_for("lossy")
    forward = Router._forward

    async def loses(router, *given):
        reply = await forward(router, *given)
        if rng.random() < 0.3:
            raise TimeoutError("lost on the way")
        return reply

    monkeypatch.setattr(Router, "_forward", loses)


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 10))]


@pytest.mark.parametrize("seed", SEEDS)
def test_retries_outstanding_across_snapshots_and_takeovers(seed, monkeypatch):
    logging.getLogger("wormspace").setLevel(logging.CRITICAL)
    shared = MemorySnapshots()
    options = {
        "durability": TrimBehindSnapshots(shared, registers=3, every_s=0.05),
        "leadership": Sticky(0.3),
    }
    with turned(smr_piece_bytes=64), World(seed) as world, Witness() as witness:
        lossy(monkeypatch, world)
        group = Retrying(world, Told, options=lambda name: options, size=4)

        async def drive():
            group.start_servers()
            group.start_replicas(group.work)
            await group.all_started()
            rng = world.random_for("kills")
            for _ in range(5):
                await asyncio.sleep(rng.uniform(0.3, 1.2))
                name = await group.leader() if rng.random() < 0.7 else rng.choice(group.names)
                group.replicas.pop(name, None)
                world.host(name).processes[-1].crash()
                await asyncio.sleep(rng.uniform(0.0, 0.5))
                group.start_replica(name)
            await asyncio.sleep(1.0)
            await group.settle()

        world.run(drive(), deadline_s=200)
        witness.check()
        times = next(iter(group.replicas.values()))._core.learner.engine.machine.times
        assert set(times.values()) == {1}, "a retry had a second effect"
        assert 50 < group.told <= len(times)
