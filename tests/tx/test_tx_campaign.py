"""Many transfers by many processes under every kind of fault: money, isolation, convergence."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.tx.world import SERVERS, SITE_PORT, Deployment

from wormspace import tx
from wormspace.errors import Unavailable, WormError
from wormspace.sim import FaultPlan, FaultSchedule, History, ProcessKilled, World, check
from wormspace.sim.linearizability import UNKNOWN, Outcome
from wormspace.sim.world import LEASE_DRIFT
from wormspace.tx.trimming import retire

STORES = ("a", "b", "c")
IMPOSTOR = "impostor"
ACCOUNTS = [(store, b"%d" % n) for store in STORES for n in range(2)]
START = 100
FAULTS_S = 8.0
CONVERGE_S = 40.0


class Accounts:
    """The sequential object: balances by account.

    ("move", from, to, amount) -> the two balances before it; ("sum",) -> all balances.
    """

    def initial(self):
        return tuple((account, START) for account in ACCOUNTS)

    def partition(self, history):
        return [history]

    def step(self, state, asked, output):
        held = dict(state)
        if asked[0] == "sum":
            return output is UNKNOWN or output == state, state
        _, source, target, amount = asked
        seen = (held[source], held[target])
        held[source] -= amount
        held[target] += amount
        after = tuple((account, held[account]) for account in ACCOUNTS)
        return output is UNKNOWN or output == seen, after


class Whim(Exception):
    """Why a teller leaves its block when all is done but the commit."""


async def move(transaction, stores, source, target, amount, *, last):
    """The balances before; `last`: the stores are told that nothing more comes."""
    (s, key), (t, to) = source, target
    have = int(await transaction[stores[s]].get(key))
    there = int(await transaction[stores[t]].get(to))
    await transaction[stores[s]].put(key, b"%d" % (have - amount), last=last and s != t)
    await transaction[stores[t]].put(to, b"%d" % (there + amount), last=last)
    return have, there


async def total(transaction, stores):
    return tuple([((s, key), int(await transaction[stores[s]].get(key))) for s, key in ACCOUNTS])


class Campaign:
    """One run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.deployment = Deployment(
            world, STORES, patience=1.0, real_store=World.draws_real_store(world.seed)
        )
        self.history = History()
        self.ends: dict[str, int] = {}
        self.stopping = False

    async def teller(self, name: str) -> None:
        """Moves money at random until told to stop."""
        rng = self.world.random_for(f"{name} {self.deployment.lives}")
        site = await self.deployment.site(name)
        stores = {s.name: s for s in self.deployment.remotes()}
        while not self.stopping:
            variant = rng.choice(list(tx.VARIANTS))
            source, target = rng.sample(ACCOUNTS, 2)
            last = variant == "F2" and rng.random() < 0.5
            changes_its_mind = rng.random() < 0.1
            asked = ("sum",) if rng.random() < 0.2 else ("move", source, target, rng.randrange(9))
            call = self.history.call(name, asked)
            transaction = tx.Transaction(site, list(stores.values()), variant=variant, timeout=0.6)
            try:
                async with transaction as t:
                    if asked == ("sum",):
                        got = await total(t, stores)
                    else:
                        got = await move(t, stores, *asked[1:], last=last)
                    if changes_its_mind:
                        raise Whim
            except tx.OutcomeUnknown:
                self._end("unknown")
            except tx.TooLate:
                self.history.ret(call, got)
                self._end("too late")
            except Whim:
                self.history.forget(call)
                self._end("rolled back")
            except (tx.Aborted, tx.Conflict, Unavailable) as e:
                self.history.forget(call)
                self._end(type(e).__name__)
            else:
                self.history.ret(call, got)
                self._end("committed")
            await asyncio.sleep(rng.random() * 0.05)

    async def confused(self) -> None:
        """Takes another store for `a`: it gives money away there that `b` gets."""
        site = await self.deployment.site("confused")
        stores = {s.name: s for s in self.deployment.remotes()}
        stores["a"] = tx.RemoteStore("a", f"{IMPOSTOR}:{SITE_PORT}")
        before = self.world.host("confused").clock
        while not self.stopping:
            try:
                async with tx.Transaction(site, list(stores.values()), timeout=0.6) as t:
                    await t[stores["a"]].put(b"more", b"-7")
                    await t[stores["b"]].put(b"more", b"7")
            except WormError as e:
                self._end("refused" if "another database" in str(e) else "unavailable")
            try:
                await retire(site.client, "tx", site.host.resolver, stores, before=before() - 0.5)
            except WormError as e:
                self._end(type(e).__name__)
            await asyncio.sleep(0.5)

    def _end(self, how: str) -> None:
        self.ends[how] = self.ends.get(how, 0) + 1

    async def set_up(self) -> None:
        site = await self.deployment.site("bank")
        stores = {s.name: s for s in self.deployment.remotes()}
        async with tx.Transaction(site, list(stores.values()), timeout=5.0) as t:
            for store, key in ACCOUNTS:
                await t[stores[store]].put(key, b"%d" % START)


def run(
    seed: int,
    *,
    faults_s: float = FAULTS_S,
    peace_s: float = CONVERGE_S,
    two_of_a_name: bool = False,
    **knobs: int,
) -> Campaign:
    """A campaign under faults, then peace; what it claims is checked here.

    Args:
        two_of_a_name: whether there is another store called `a`, and somebody who uses it.
        knobs: values that are not drawn.
    """
    knobs = {**World.drawn_knobs(seed), **knobs}
    with World(seed, knobs=knobs, drift=LEASE_DRIFT) as world:
        campaign = Campaign(world)
        world.run(asyncio.sleep(1))  # every site serves
        world.run(world.spawn("bank", campaign.set_up).wait(), deadline_s=30)
        tellers = [f"t{i}" for i in range(3)]
        processes = {
            name: world.spawn(name, lambda name=name: campaign.teller(name)) for name in tellers
        }
        if two_of_a_name:
            campaign.deployment.add_store(IMPOSTOR, "a")
            world.spawn("confused", campaign.confused)
        plan = FaultPlan(every_s=(0.05, 0.5), lasting_s=(0.05, 1.0))
        faults = FaultSchedule(world, plan, [*SERVERS, *STORES, *tellers])
        faults.start()

        async def drive() -> None:
            await asyncio.sleep(faults_s)
            faults.stop()
            await asyncio.sleep(peace_s / 2)
            campaign.stopping = True
            await asyncio.sleep(peace_s / 2)

        world.run(drive(), deadline_s=600)
        for name in tellers:
            for process in world.host(name).processes:
                if not process.alive:
                    with contextlib.suppress(ProcessKilled):
                        world.run(process.wait())
        assert processes
        for store in STORES:
            assert not campaign.deployment.prepared(store), world.report()
        held = {
            (store, key): int(value)
            for store in STORES
            for key, value in campaign.deployment.committed(store).items()
        }
        assert sum(held.values()) == START * len(ACCOUNTS), held
        final = campaign.history.call("end", ("sum",))
        campaign.history.ret(final, tuple((account, held[account]) for account in ACCOUNTS))
        verdict = check(Accounts(), campaign.history.operations())
        assert verdict.outcome is not Outcome.VIOLATION, verdict.explanation
        campaign.verdict = verdict
        return campaign


@pytest.mark.parametrize("seed", range(4))
def test_transfers_under_faults_keep_the_money_and_are_strictly_serialisable(seed: int) -> None:
    campaign = run(seed, peace_s=24.0)
    assert campaign.ends["committed"] > 20, campaign.ends
    assert campaign.verdict.outcome is Outcome.OK


def test_another_store_of_that_name_takes_no_money_and_trims_no_votes() -> None:
    campaign = run(5, faults_s=4.0, peace_s=16.0, two_of_a_name=True)
    assert campaign.ends["refused"] > 0, campaign.ends
    assert campaign.ends["WrongManager"] > 0, campaign.ends
    assert campaign.ends["committed"] > 5, campaign.ends


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 300))
def test_transfers_under_faults_soak(seed: int) -> None:
    run(seed, faults_s=20.0, two_of_a_name=bool(seed % 2))
