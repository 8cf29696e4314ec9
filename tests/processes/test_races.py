"""Many clients race for the same registers of a real cluster: one value each, and all agree."""

import asyncio
import random

import pytest

import wormspace
from cluster_fixture import ProcessCluster
from wormspace import RaceLost

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("races")]

DEADLINE_S = 20.0
SLACK_S = 3.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = ProcessCluster(tmp_path_factory.mktemp("races")).start()
    yield cluster
    cluster.close()


class Racer:
    """A client that notes how long its longest call took."""

    def __init__(self, name, worm):
        self.name = name
        self.worm = worm
        self.longest_s = 0.0
        self.rng = random.Random(name)

    async def timed(self, call):
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await call
        finally:
            self.longest_s = max(self.longest_s, loop.time() - began)

    async def decide(self, segment, offset):
        """Try to write the register until it is written; returns what it holds."""
        mine = f"{self.name}:{offset}".encode()
        while True:
            captured = await self.timed(segment.capture(offset))
            if captured.written:
                return captured.written[offset]
            try:
                await self.timed(segment.write(offset, mine, captured.token))
            except RaceLost:
                held = await self.timed(segment.read(offset))
                if held is not None:
                    return held
                await asyncio.sleep(self.rng.uniform(0, 0.1))
            else:
                return mine

    async def decide_all(self, segment):
        """The same, by batch captures of the whole segment."""
        mine = [f"{self.name}:{offset}".encode() for offset in range(segment.size)]
        while True:
            captured = await self.timed(segment.capture())
            free = [o for o in range(segment.size) if o not in captured.written]
            results = await asyncio.gather(
                *(self.timed(segment.write(o, mine[o], captured.token)) for o in free),
                return_exceptions=True,
            )
            for result in results:
                if result is not None and not isinstance(result, RaceLost):
                    raise result
            values = await self.timed(segment.read_range())
            if None not in values:
                return values
            await asyncio.sleep(self.rng.uniform(0, 0.2))


async def racers(stack, url, count):
    opened = []
    for i in range(count):
        worm = await wormspace.connect(url, timeout=DEADLINE_S)
        stack.append(worm)
        opened.append(Racer(f"c{i}", worm))
    return opened


@pytest.mark.parametrize("count", [2, 8, 64])
@pytest.mark.parametrize("how", ["one by one", "all at once"])
async def test_racing_clients_decide_one_value_each_and_all_agree(cluster, count, how):
    opened = []
    try:
        clients = await racers(opened, cluster.url, count)
        size = 4 if count == 64 else 16
        name = f"race-{count}-{how}"
        await clients[0].worm.space(name).alloc(size=size)
        segments = await asyncio.gather(*(c.worm.space(name).segment(0) for c in clients))
        if how == "one by one":
            believed = await asyncio.gather(
                *(
                    asyncio.gather(*(c.decide(s, offset) for offset in range(size)))
                    for c, s in zip(clients, segments, strict=True)
                )
            )
        else:
            believed = await asyncio.gather(
                *(c.decide_all(s) for c, s in zip(clients, segments, strict=True))
            )
        final = await segments[0].read_range()
        for offset, value in enumerate(final):
            racer, _, at = value.decode().partition(":")
            assert int(at) == offset
            assert racer in {c.name for c in clients}
        for values in believed:
            assert list(values) == final
        for segment in segments:
            assert await segment.read_range() == final
        assert max(c.longest_s for c in clients) < DEADLINE_S + SLACK_S
    finally:
        await asyncio.gather(*(worm.close() for worm in opened))


async def test_racing_allocators_share_out_the_numbers(cluster):
    opened = []
    try:
        clients = await racers(opened, cluster.url, 8)
        segments = await asyncio.gather(
            *(c.worm.space("alloc-race").alloc(c.name.encode(), size=1) for c in clients)
        )
        assert sorted(s.number for s in segments) == list(range(8))
        for c, s in zip(clients, segments, strict=True):
            assert await opened[0].space("alloc-race").check(s.number) == c.name.encode()
    finally:
        await asyncio.gather(*(worm.close() for worm in opened))
