"""What takes longer than a call may take is not begun again by the next call: it goes on."""

import pytest
from world import URL

import wormspace
from wormspace.runtime.deadlines import within
from wormspace.server.limits import ServerIdentity
from wormspace.sim import NetworkOptions, World
from wormspace.sim.latency import constant
from wormspace.sim.serving import serving
from wormspace.tx.identity import Identities
from wormspace.tx.vote_store import VoteStore

DELAY_S = 0.4
PATIENCE_S = 1.0
ATTEMPTS = 12


@pytest.mark.parametrize("patience_s", [PATIENCE_S, 20.0])
def test_a_transaction_space_is_made_however_slow_the_servers(patience_s):
    world = World(0, network=NetworkOptions(latency=constant(DELAY_S)))

    async def work():
        client = await wormspace.connect(URL, timeout=20.0, rng=world.random_for("client"))
        vote_store = VoteStore(client, "bank", lambda *vote: None)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await vote_store.open(within(patience_s))
            except wormspace.Unavailable:
                continue
            return attempt
        raise AssertionError(f"{ATTEMPTS} attempts, and it is not open")

    async def drive():
        for name in ("s1", "s2", "s3"):
            world.spawn(name, serving(ServerIdentity("cl", name, 0, 1, 3)))
        return await world.spawn("client", work).wait()

    with world:
        attempts = world.run(drive(), deadline_s=600)
    assert attempts == 1 or patience_s == PATIENCE_S


def test_what_a_name_means_is_decided_however_slow_the_servers():
    world = World(0, network=NetworkOptions(latency=constant(DELAY_S)))

    class Bank:
        name = "bank"

        async def identity(self, timeout: float | None = None, *, meant: str = "") -> str:
            return "this-one"

    async def work():
        client = await wormspace.connect(URL, timeout=20.0, rng=world.random_for("client"))
        identities, bank = Identities(client, "transfers"), Bank()
        await identities.check(bank, within(60.0), decide=True)
        return identities.has(bank)

    async def drive():
        for name in ("s1", "s2", "s3"):
            world.spawn(name, serving(ServerIdentity("cl", name, 0, 1, 3)))
        return await world.spawn("client", work).wait()

    with world:
        assert world.run(drive(), deadline_s=600)
