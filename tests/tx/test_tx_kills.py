"""Kill anybody, at every step of every variant: all or nothing, and nothing stays prepared."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.tx.world import Deployment

from wormspace import tx
from wormspace.sim import DiskOptions, NetworkOptions, ProcessKilled, World
from wormspace.sim.latency import constant

UNIT_S = 0.001
STEP_S = UNIT_S / 2
MONEY = {b"a": 100, b"b": 0}
PATIENCE_S = 0.5
BOUND_S = 10.0
"""Virtual seconds within which nothing may be prepared any more: the resolver's patience, the time
a connection to a dead host takes to be given up, and some retries."""


async def transfer(deployment: Deployment, site: tx.Site, variant: str, amount: int) -> tx.Decision:
    """Move money from a to b."""
    a, b = deployment.remotes()
    transaction = tx.Transaction(site, [a, b], variant=variant, timeout=1.0, tm="tm:7100")
    async with transaction as t:
        taken = int(await t[a].get(b"a") or b"0")
        there = int(await t[b].get(b"b") or b"0")
        last = {"last": True} if variant == "F2" else {}
        await t[a].put(b"a", b"%d" % (taken - amount), **last)
        await t[b].put(b"b", b"%d" % (there + amount), **last)
    assert transaction.decision is not None
    return transaction.decision


async def set_up(site: tx.Site, deployment: Deployment) -> None:
    a, b = deployment.remotes()
    async with tx.Transaction(site, [a, b]) as t:
        await t[a].put(b"a", b"100")
        await t[b].put(b"b", b"0")


def run(variant: str, victim: str, delay_s: float) -> str:
    """One transfer in the middle of which `victim` is killed; how it ended, for whom it knew."""
    network = NetworkOptions(latency=constant(UNIT_S), own_latency=constant(UNIT_S))
    disk = DiskOptions(commit_s=constant(UNIT_S / 4))
    with World(1, network=network, disk=disk) as world:
        deployment = Deployment(world, patience=PATIENCE_S)
        told: list[str] = []

        async def tm() -> None:
            site = await deployment.site("tm")
            await site.start("0.0.0.0", 7100, address="tm:7100")
            await asyncio.Event().wait()

        async def app() -> None:
            site = await deployment.site("app")
            await set_up(site, deployment)
            for _ in range(2):
                await asyncio.sleep(0.1)
                await transfer(deployment, site, variant, 0)
            await asyncio.sleep(0.1)
            world.after(delay_s, strike)
            try:
                told.append((await transfer(deployment, site, variant, 30)).outcome)
            except tx.Aborted:
                told.append(tx.ABORTED)
            except (tx.Conflict, tx.ManagerDown, tx.OutcomeUnknown) as e:
                told.append(type(e).__name__)

        def strike() -> None:
            for process in world.host(victim).alive:
                process.crash(silence_s=0.0)
                if victim != "app":
                    world.after(0.2, process.restart)

        world.spawn("tm", tm)
        process = world.spawn("app", app, may_fail=True)

        async def drive() -> None:
            with contextlib.suppress(ProcessKilled):
                await process.wait()
            await asyncio.sleep(BOUND_S)

        world.run(drive(), deadline_s=120)
        held = {
            **deployment.committed("a"),
            **deployment.committed("b"),
        }
        money = {key: int(value) for key, value in held.items()}
        assert money in ({b"a": 100, b"b": 0}, {b"a": 70, b"b": 30}), (money, told)
        outcome = tx.COMMITTED if money[b"b"] else tx.ABORTED
        assert not deployment.prepared("a")
        assert not deployment.prepared("b")
        if told and told[0] in (tx.COMMITTED, tx.ABORTED):
            assert told[0] == outcome
        if told and told[0] in ("Conflict", "ManagerDown"):
            assert outcome == tx.ABORTED  # raised in the block: rolled back
        return f"{outcome}, told {told[0] if told else 'nobody'}"


@pytest.mark.parametrize("victim", ["app", "a", "b", "tm", "s1"])
@pytest.mark.parametrize("variant", tx.VARIANTS)
def test_a_kill_at_any_step_leaves_all_or_nothing(variant: str, victim: str) -> None:
    steps = 2 * (9 + tx.VARIANTS[variant].delays)
    ends = {run(variant, victim, step * STEP_S) for step in range(steps)}
    if victim in ("app", "a", "b"):
        assert len({end.split(",")[0] for end in ends}) == 2, "the kills hit before and after"


def run_here(delay_s: float) -> str:
    """The same where the application has both stores in its own process, and is killed."""
    network = NetworkOptions(latency=constant(UNIT_S), own_latency=constant(UNIT_S))
    disk = DiskOptions(commit_s=constant(UNIT_S / 4))
    with World(1, network=network, disk=disk) as world:
        deployment = Deployment(world, (), patience=PATIENCE_S)
        disks = [world.host("app").disk(name) for name in ("a", "b")]
        told: list[str] = []
        lives: list[None] = []

        async def app() -> None:
            lives.append(None)
            stores = [
                await tx.KeyValueStore.open(d, disk.open())
                for d, disk in zip("ab", disks, strict=True)
            ]
            site = await deployment.site("app", stores)
            if len(lives) > 1:
                await asyncio.Event().wait()
            for amount in (0, 0, 30):
                if amount:
                    world.after(delay_s, strike)
                async with tx.Transaction(site, stores, timeout=1.0) as t:
                    for store, key, start, sign in zip(
                        stores, (b"a", b"b"), (100, 0), (-1, 1), strict=True
                    ):
                        have = int(await t[store].get(key) or start)
                        await t[store].put(key, b"%d" % (have + sign * amount))
                await asyncio.sleep(0.1)
            told.append(tx.COMMITTED)
            await asyncio.Event().wait()

        def strike() -> None:
            for process in world.host("app").alive:
                process.crash(silence_s=0.0)
                world.after(0.2, process.restart)

        world.spawn("app", app, may_fail=True)
        world.run(asyncio.sleep(BOUND_S), deadline_s=120)
        money = {k: int(v) for disk in disks for k, v in disk.items("data")}
        assert money in ({b"a": 100, b"b": 0}, {b"a": 70, b"b": 30}), (money, told)
        assert not [key for disk in disks for key, _ in disk.items("prepared")]
        assert len(lives) == 2
        return tx.COMMITTED if money[b"b"] else tx.ABORTED


def test_a_kill_of_a_process_with_stores_of_its_own_leaves_all_or_nothing() -> None:
    ends = [run_here(step * STEP_S / 2) for step in range(16)]
    assert set(ends) == {tx.ABORTED, tx.COMMITTED}, "the kills hit before and after"
