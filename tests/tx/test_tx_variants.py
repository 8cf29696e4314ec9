"""The six variants, where every message takes one unit of time and nothing else takes any."""

from __future__ import annotations

import asyncio

import pytest
from tests.tx.world import Deployment

from wormspace import tx
from wormspace.sim import DiskOptions, NetworkOptions, World
from wormspace.sim.latency import constant

WARM_UP = 3
UNIT_S = 0.001
"""One message delay: small beside every time-out, so that none ever strikes."""


def delays(variant: str) -> list[float]:
    """Message delays from the begin of a commit to the decision at each resource manager."""
    network = NetworkOptions(latency=constant(UNIT_S), own_latency=constant(UNIT_S))
    with World(0, network=network, disk=DiskOptions.instant(), executor_delay_s=0.0) as world:
        deployment = Deployment(world, ("a", "b", "c"), patience=1000.0)

        async def tm() -> None:
            site = await deployment.site("tm")
            await site.start("0.0.0.0", 7100, address="tm:7100")
            await asyncio.Event().wait()

        async def app() -> tuple[float, tx.TxId]:
            site = await deployment.site("app")
            stores = deployment.remotes()
            for _ in range(WARM_UP):  # connections stand, segments are captured, listeners listen
                began, txid = await once(site, stores)
                await asyncio.sleep(1)
            return began, txid

        async def once(site, stores) -> tuple[float, tx.TxId]:
            last = variant == "F2"
            tx_ = tx.Transaction(site, stores, variant=variant, timeout=30.0, tm="tm:7100")
            async with tx_:
                await asyncio.gather(*(tx_[s].put(b"k", b"v") for s in stores))
                # In F2 the critical path begins where the work ends: at the resource managers,
                # one delay after the last operation left.
                began = world.now + (UNIT_S if last else 0)
                if last:
                    await asyncio.gather(*(tx_[s].put(b"l", b"v", last=True) for s in stores))
            assert tx_.decision is not None
            assert tx_.decision.committed
            return began, tx_.id

        world.spawn("tm", tm)
        world.run(asyncio.sleep(2))
        began, txid = world.run(world.spawn("app", app).wait(), deadline_s=100)
        decided = [at for at, _, of, _ in deployment.decisions if of == txid]
        return [round((at - began) / UNIT_S, 6) for at in decided]


@pytest.mark.parametrize("variant", tx.VARIANTS)
def test_a_decision_takes_as_many_message_delays_as_the_variant_says(variant: str) -> None:
    assert delays(variant) == [tx.VARIANTS[variant].delays] * 3
