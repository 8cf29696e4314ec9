"""A transaction cancelled at each moment: what is said of it is true, and nothing is held."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.cancelling import HOST, cancel_everywhere

import wormspace
from wormspace import tx
from wormspace.store.memory_engine import MemoryEngine


class _Place:
    """Two stores, here or behind a site elsewhere, and a site that runs transactions."""

    def __init__(self, worm, site, stores, participants) -> None:
        self.worm = worm
        self.site = site
        self.stores = stores
        self.participants = participants
        self.wrote = b""
        self.said = ""
        self.last: tx.Transaction | None = None

    async def write(self, value: bytes, *, variant: str = "E3", last: bool = False) -> None:
        self.wrote, self.said = value, "rolled back"
        t = self.last = tx.Transaction(self.site, self.participants, variant=variant)
        try:
            async with t:
                for p in self.participants:
                    await t[p].get(b"k")
                    await t[p].put(b"k", value, **({"last": True} if last else {}))
        except tx.TooLate:
            self.said = "committed"
            raise
        self.said = "committed"


@contextlib.asynccontextmanager
async def place(*, remote: bool):
    async with wormspace.connect("memory:") as worm:
        stores = [await tx.KeyValueStore.open(name, MemoryEngine()) for name in ("a", "b")]
        there = tx.Site(worm, managers=stores, patience_s=1.0, idle_s=2.0)
        site = tx.Site(worm, patience_s=1.0) if remote else there
        participants = stores
        if remote:
            address = await there.start("0.0.0.0", 7100, address=f"{HOST}:7100")
            participants = [tx.RemoteStore(store.name, address) for store in stores]
        it = _Place(worm, site, stores, participants)
        await it.write(b"before")
        await asyncio.sleep(1)
        yield it
        for manager in participants if remote else ():
            await manager.close()
        for each in {site, there}:
            await each.close()
        for store in stores:
            await store.close()


async def check(it: _Place) -> None:
    """All or nothing, as the transaction says; and the next one gets its locks at once."""
    values = {store.value(b"k") for store in it.stores}
    assert values in ({b"before"}, {b"after"})
    assert (it.said == "committed") == (values == {it.wrote}), it.said
    assert it.last.decision is None or it.last.decision.committed == (it.said == "committed")
    assert not any([await store.prepared() for store in it.stores])
    for site in {it.site}:
        assert not site.host.in_flights.open
    await it.write(b"next")
    assert {store.value(b"k") for store in it.stores} == {b"next"}


@pytest.mark.parametrize("remote", [False, True], ids=["here", "elsewhere"])
def test_a_block_that_is_cancelled_says_what_is_true(remote: bool) -> None:
    raised_after: list[bool] = []

    async def act(it: _Place) -> None:
        await it.write(b"after")
        raised_after.append(True)
        await asyncio.sleep(0.001)  # where a cancellation strikes that came while it committed

    moments = cancel_everywhere(lambda: place(remote=remote), act, check)
    assert moments >= 4
    assert len(raised_after) > 2, "it was cancelled while it committed, too"


def test_a_block_that_lets_its_stores_vote_unasked_says_what_is_true() -> None:
    async def act(it: _Place) -> None:
        await it.write(b"after", variant="F2", last=True)
        await asyncio.sleep(0.001)

    assert cancel_everywhere(lambda: place(remote=True), _or_too_late(act), check) >= 4


def _or_too_late(act):
    """A cancellation may find that both have voted yes: then the block says that."""

    async def acts(it: _Place) -> None:
        late = None
        try:
            await act(it)
        except tx.TooLate as e:
            late = e
        if late is not None:
            assert late.decision.committed
            assert {store.value(b"k") for store in it.stores} == {b"after"}
            await asyncio.sleep(0.001)
            raise asyncio.CancelledError from late

    return acts


def test_a_time_limit_round_the_block_does_not_deny_a_commit() -> None:
    """`asyncio.timeout` that ends while votes are under way: no TimeoutError, for it committed."""

    async def act(it: _Place) -> None:
        ends = set()
        for n in range(1, 60):
            value = b"%d" % n
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(n * 5e-6):
                    await it.write(value)
            ends.add(it.said)
            assert asyncio.current_task().cancelling() == 0
            await asyncio.sleep(0.1)  # nothing of the time limit is left that would strike here
            for store in it.stores:
                assert (store.value(b"k") == value) == (it.said == "committed"), it.said
        assert ends == {"committed", "rolled back"}

    from wormspace.sim import World

    async def run() -> None:
        async with place(remote=True) as it:
            await act(it)

    with World(1) as world:
        world.run(world.spawn(HOST, run).wait())


def test_rolling_back_rolls_back_everywhere_though_it_is_cancelled() -> None:
    async def act(it: _Place) -> None:
        it.wrote, it.said = b"after", "rolled back"
        t = it.last = tx.Transaction(it.site, it.participants)
        with contextlib.suppress(ZeroDivisionError):
            async with t:
                for p in it.participants:
                    await t[p].put(b"k", b"after")
                raise ZeroDivisionError
        await asyncio.sleep(0.001)

    async def nothing(it: _Place) -> None:
        assert {store.value(b"k") for store in it.stores} == {b"before"}
        await check(it)

    cancel_everywhere(lambda: place(remote=False), act, nothing)


@pytest.mark.parametrize("call", ["recover", "settle", "retire", "look"])
def test_looking_after_transactions_can_be_cancelled_anywhere(call: str) -> None:
    from wormspace.tx.trimming import retire
    from wormspace.tx.viewing import look, look_at

    async def act(it: _Place) -> None:
        if call == "recover":
            await it.site.recover(0)
        elif call == "settle":
            await it.site.settle(it.last.id, ("a", "b"))
        elif call == "retire":
            await retire(it.worm, "tx", it.site.host.resolver, it.site.host.managers, before=0.0)
        else:
            await look(it.worm, "tx")
            await look_at(it.worm, "tx", it.last.id)

    cancel_everywhere(lambda: place(remote=False), act, check)
