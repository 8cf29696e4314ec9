"""A long life: every size that rolls over is a handful, and thousands of transactions pass.

A model says what each store must hold and what each call must answer.  Processes are ended, cleanly
or not, and begin anew; votes are trimmed and retired; at the end nothing has grown.
"""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

import wormspace
from wormspace import tx
from wormspace.errors import Trimmed
from wormspace.knobs import least, turned
from wormspace.sim import World
from wormspace.store.memory_engine import MemoryEngine
from wormspace.tx.trimming import retire
from wormspace.tx.viewing import look, look_at

HOST = "here"
NAMES = ("a", "b", "c")
KEYS = [b"%d" % n for n in range(5)]


class _Undying(MemoryEngine):
    """A disk that outlives the process that has it open."""

    def close(self) -> None:
        pass


class Life:
    """One deployment: three stores, each with a site of its own, and who runs transactions.

    Attributes:
        model: what each store must hold.
        ended: transactions by how they ended.
    """

    def __init__(self, worm, rng: random.Random) -> None:
        self.worm = worm
        self.rng = rng
        self.disks = {name: _Undying() for name in NAMES}
        self.stores: dict[str, tx.KeyValueStore] = {}
        self.sites: dict[str, tx.Site] = {}
        self.remotes: dict[str, tx.RemoteStore] = {}
        self.app: tx.Site | None = None
        self.model: dict[str, dict[bytes, bytes]] = {name: {} for name in NAMES}
        self.ended = {"committed": 0, "rolled back": 0, "aborted": 0}
        self.written = 0
        self.last: tx.Transaction | None = None

    async def begin(self, name: str) -> None:
        """A store's process begins."""
        self.stores[name] = await tx.KeyValueStore.open(name, self.disks[name])
        site = tx.Site(self.worm, managers=[self.stores[name]], patience_s=1.0, idle_s=3.0)
        port = 7100 + NAMES.index(name)
        await site.start("0.0.0.0", port, address=f"{HOST}:{port}")
        self.sites[name] = site
        self.remotes[name] = tx.RemoteStore(name, site.address)

    async def end(self, name: str) -> None:
        """A store's process ends; what it has not written is lost, as in a crash."""
        await self.remotes.pop(name).close()
        await self.sites.pop(name).close()
        await self.stores.pop(name).close()

    async def begin_app(self) -> None:
        """Who runs transactions begins, under a new name."""
        if self.app is not None:
            await self.app.close()
        self.app = tx.Site(self.worm, patience_s=1.0)

    # ------------------------------------------------------------ what a user does

    async def turn(self) -> None:
        """One transaction, of any variant, over any stores; committed, or called off."""
        rng = self.rng
        names = rng.sample(NAMES, rng.randint(1, len(NAMES)))
        remotes = [self.remotes[name] for name in names]
        variant = rng.choice(list(tx.VARIANTS))
        tm = self.remotes[rng.choice(NAMES)].address
        t = self.last = tx.Transaction(self.app, remotes, variant=variant, timeout=2.0, tm=tm)
        change: dict[str, dict[bytes, bytes | None]] = {name: {} for name in names}
        try:
            async with t:
                for remote in remotes:
                    await self.work(t[remote], change[remote.name], remote.name, variant == "F2")
                if variant != "F2" and rng.random() < 0.1:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            self.ended["rolled back"] += 1
        except (tx.Aborted, tx.Conflict, tx.ManagerDown):
            self.ended["aborted"] += 1
        else:
            self.ended["committed"] += 1
            for name, changed in change.items():
                for key, value in changed.items():
                    self.model[name].pop(key, None)
                    if value is not None:
                        self.model[name][key] = value

    async def work(self, session, changed, name: str, spontaneous: bool) -> None:
        """Read and write; each answer is the model's."""
        for n in range(ops := self.rng.randint(1, 3)):
            last = {"last": True} if spontaneous and n == ops - 1 else {}
            key = self.rng.choice(KEYS)
            what = self.rng.random()
            if what < 0.4:
                expected = changed.get(key, self.model[name].get(key))
                assert await session.get(key, **last) == expected
            elif what < 0.5:
                await session.delete(key, **last)
                changed[key] = None
            else:
                self.written += 1
                changed[key] = b"%d" % self.written
                await session.put(key, changed[key], **last)

    async def settle(self) -> None:
        """Until nothing is prepared any more, and every store holds what the model says."""
        for _ in range(100):
            left = [gid for store in self.stores.values() for gid in await store.prepared()]
            if not left:
                break
            await asyncio.sleep(0.1)
        assert not left, left
        for name, store in self.stores.items():
            assert store.items() == self.model[name], name

    async def look(self) -> None:
        """What people are shown of the last transaction is what happened."""
        await asyncio.sleep(0.2)
        decision = self.last.decision
        with contextlib.suppress(Trimmed):
            seen = await look_at(self.worm, "tx", self.last.id)
            if seen is not None and decision is not None and decision.culprit != "":
                assert seen.outcome == decision.outcome
            names = tuple(self.last._participants)
            if decision is not None and decision.committed:
                assert (await self.app.settle(self.last.id, names)).committed

    async def janitor(self) -> None:
        """Votes of initiators that are gone are retired."""
        await self.begin_app()
        await self.settle()
        site = next(iter(self.sites.values()))
        managers = dict(self.stores)
        await retire(self.worm, "tx", site.host.resolver, managers, before=site.host.clock() + 1)

    def sizes(self) -> dict[str, int]:
        """What the processes remember; counts that must not grow with age."""
        found = {"open": 0, "early": 0, "held": 0, "known": 0, "sessions": 0, "segments": 0}
        for site in [self.app, *self.sites.values()]:
            found["open"] += len(site.host.in_flights.open)
            found["early"] += len(site.host.in_flights._early)
            found["held"] += len(site.host.vote_store._held)
            found["known"] += len(site.host.vote_store._known)
            found["sessions"] += len(site.host.kept.used())
            found["segments"] += len(site.finished._segments)
        return found


async def live(worm, seed: int, turns: int) -> Life:
    rng = random.Random(seed)
    life = Life(worm, rng)
    for name in NAMES:
        await life.begin(name)
    await life.begin_app()
    for n in range(turns):
        await life.turn()
        what = rng.random()
        if what < 0.01:
            name = rng.choice(NAMES)
            await life.settle()
            await life.end(name)
            await life.begin(name)
        elif what < 0.02:
            await life.begin_app()
        elif what < 0.03:
            await life.janitor()
        elif what < 0.06:
            await life.look()
        if n % 50 == 49:
            await life.settle()
    await asyncio.sleep(5)
    await life.settle()
    await life.janitor()
    return life


def run(seed: int, turns: int, **knobs: int) -> Life:
    with turned(**knobs), World(seed) as world:

        async def main() -> Life:
            async with wormspace.connect("memory:", rng=random.Random(seed)) as worm:
                life = await live(worm, seed, turns)
                life.grown = life.sizes()
                life.kept = await look(worm, "tx")
                for name in NAMES:
                    await life.end(name)
                await life.app.close()
                return life

        return world.run(world.spawn(HOST, main).wait(), deadline_s=1e6)


@pytest.mark.parametrize("seed", range(2))
def test_a_long_life_with_every_size_at_its_least(seed: int) -> None:
    life = run(seed, 600, **least())
    assert life.ended["committed"] > 300, life.ended
    grown = life.grown
    assert grown["open"] == grown["sessions"] == 0, grown
    assert grown["early"] <= 4, grown
    assert grown["held"] <= 4, grown
    assert grown["known"] <= 4, grown
    assert grown["segments"] <= 3, grown
    assert len(life.kept) <= 6, "votes of transactions that are over are forgotten"


@pytest.mark.parametrize("variant", ["A8", "E3", "F2"])
async def test_an_initiator_that_was_taken_for_gone_goes_on_behind_its_retired_votes(
    variant,
) -> None:
    """It was idle for so long that its votes were retired, those captured ahead included."""
    store = await tx.KeyValueStore.open("a", MemoryEngine())
    with turned(tx_segment_size=64):
        async with wormspace.connect("memory:") as worm:
            there = tx.Site(worm, managers=[store])
            remote = tx.RemoteStore("a", await there.start("127.0.0.1"))
            app = tx.Site(worm)

            async def put(value: bytes) -> None:
                t = tx.Transaction(app, [remote], variant=variant, timeout=1.0)
                async with t:
                    await t[remote].put(b"k", value, **({"last": True} if variant == "F2" else {}))

            await put(b"before")
            async with asyncio.timeout(10):
                while await store.prepared():  # noqa: ASYNC110 - the outcome becomes durable
                    await asyncio.sleep(0.01)
            managers = {"a": store}
            assert await retire(
                worm, "tx", there.host.resolver, managers, before=there.host.clock() + 1
            )
            failed = 0
            for n in range(4):
                try:
                    await put(b"%d" % n)
                except (tx.Aborted, tx.OutcomeUnknown):
                    failed += 1
                    await asyncio.sleep(0.1)  # until its branch is rolled back
            assert failed <= 1
            for site in (app, there):
                await site.close()
            await remote.close()
            await store.close()


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 120))
def test_a_very_long_life(seed: int) -> None:
    life = run(seed, 5000, **least())
    assert life.ended["committed"] > 2500, life.ended
    assert max(life.grown.values()) < 10, life.grown
