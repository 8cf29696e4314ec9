"""`kill -9` of any minority of real servers under load: nothing acknowledged is ever lost.

A dozen kills here; about a thousand with `-m soak`.  `WORMSPACE_SEED` repeats the choices.
"""

import asyncio
import os
import random
import time

import pytest

import wormspace
from cluster_fixture import ProcessCluster
from inprocess import Raw
from recording import Recorder
from wormspace import Allocated, RaceLost, Unavailable, Written
from wormspace.paxos.messages import Read, Report

pytestmark = pytest.mark.processes

SIZE = 500


class Load:
    """Writers and readers on one client, and what was acknowledged to them.

    Attributes:
        acked: the value of every acknowledged write, by (space, segment, offset).
        violations: what a read showed that must not be.
    """

    def __init__(self, worm, seed):
        self.worm = worm
        self.rng = random.Random(seed)
        self.acked = {}
        self.attempted = {}
        self.violations = []
        self.over = False
        self.operations = 0

    async def write(self, writer):
        """Fill one segment after another, in order; on trouble, settle and go on."""
        space = self.worm.space(f"writer-{writer}")
        while not self.over:
            try:
                segment = await space.alloc(size=SIZE)
                token = (await segment.capture()).token
            except (Unavailable, RaceLost):
                continue
            for offset in range(SIZE):
                if self.over:
                    return
                at = (space.name, segment.number, offset)
                value = f"{at}".encode()
                self.attempted[at] = value
                while True:
                    try:
                        await segment.write(offset, value, token)
                    except Unavailable:
                        continue  # the same write again is safe
                    except RaceLost:
                        token = (await self.insist(segment.capture)).token
                        continue
                    break
                self.acked[at] = value
                self.operations += 1

    async def insist(self, call):
        while True:
            try:
                return await call()
            except Unavailable:
                pass

    async def read(self):
        """Read what was acknowledged, at random."""
        while not self.over:
            if not self.acked:
                await asyncio.sleep(0.01)
                continue
            at = self.rng.choice(list(self.acked))
            try:
                segment = await self.worm.space(at[0]).segment(at[1])
                value = await segment.read(at[2])
            except Unavailable:
                continue
            if value != self.acked[at]:
                self.violations.append((at, value, self.acked[at]))
            self.operations += 1


async def held_by(port, at_segments):
    """What one server holds of some segments, asked of it alone."""
    raw = await Raw.connect(port)
    rows = {}
    for space, number in at_segments:
        start = 0
        while start != -1:
            report = await raw.call(Read(space, number, [(start, SIZE)]))
            assert isinstance(report, Report)
            rows.update({(space, number, r.offset): r for r in report.rows})
            start = report.next
    await raw.close()
    return rows


async def check_everything(cluster, load):
    """No acknowledged write is lost, whoever is down; no two servers know two decided values."""
    segments = sorted({at[:2] for at in load.acked})
    holdings = [await held_by(s.port, segments) for s in cluster.config.server]
    majority = len(holdings) // 2 + 1
    for at, value in load.acked.items():
        rows = [held[at] for held in holdings if at in held]
        assert sum(r.value == value for r in rows) >= majority, f"{at} is not on a majority"
        assert {r.value for r in rows if r.decided} <= {value}, f"{at} shows two values"
    for rows in holdings:
        for at, row in rows.items():
            assert row.value == load.attempted[at], f"{at} holds what nobody wrote"
    for name in cluster.names:
        await asyncio.to_thread(cluster.kill, name)
        async with wormspace.connect(cluster.url, timeout=20) as worm:
            for space, number in segments:
                values = await (await worm.space(space).segment(number)).read_range()
                for offset, value in enumerate(values):
                    acked = load.acked.get((space, number, offset))
                    assert acked is None or value == acked, f"lost: {space}/{number}/{offset}"
        await asyncio.to_thread(cluster.start, name)


async def torment(cluster, kills, at_once, url=None):
    """Kill and restart random minorities under load (at `url`), then check everything."""
    seed = int(os.environ.get("WORMSPACE_SEED", random.SystemRandom().getrandbits(32)))
    print(f"WORMSPACE_SEED={seed}")
    rng = random.Random(seed)
    ports = {s.name: s.port for s in cluster.config.server}
    async with wormspace.connect(url or cluster.url, timeout=5) as worm:
        load = Load(worm, seed)
        tasks = [asyncio.ensure_future(load.write(i)) for i in range(8)]
        tasks += [asyncio.ensure_future(load.read()) for _ in range(4)]
        killed, progress = 0, []
        while killed < kills:
            victims = rng.sample(cluster.names, rng.randint(1, at_once))
            await asyncio.sleep(rng.uniform(0, 0.05))
            before = load.operations
            await asyncio.to_thread(cluster.kill, *victims)
            killed += len(victims)
            await asyncio.sleep(rng.uniform(0, 0.1))
            await asyncio.to_thread(cluster.start, *victims)
            progress.append(load.operations - before)
            for victim in victims:  # it serves what it holds, at once, by itself
                raw = await Raw.connect(ports[victim])
                report = await asyncio.wait_for(raw.call(Read("writer-0", 0, [(0, SIZE)])), 5)
                assert isinstance(report, Report)
                await raw.close()
            for task in tasks:
                if task.done():
                    task.result()
        load.over = True
        await asyncio.gather(*tasks)
    assert load.violations == []
    assert sum(p > 0 for p in progress) > 0.9 * len(progress), "the rest did not go on"
    print(f"{killed} kills, {len(load.acked)} acknowledged writes")
    await check_everything(cluster, load)


@pytest.fixture
def cluster(request, tmp_path):
    cluster = ProcessCluster(tmp_path, (request.param,)).start()
    yield cluster
    cluster.close()


@pytest.mark.parametrize("cluster", [3], indirect=True)
async def test_killing_any_one_of_three_loses_nothing(cluster):
    await torment(cluster, kills=12, at_once=1)


@pytest.mark.parametrize("cluster", [5], indirect=True)
async def test_killing_any_two_of_five_loses_nothing(cluster):
    await torment(cluster, kills=8, at_once=2)


async def record(cluster, kills):
    """`torment` by way of proxies: every message that passes is held against the protocol."""
    async with Recorder([s.port for s in cluster.config.server]) as recorder:
        await torment(cluster, kills, at_once=1, url=recorder.url(cluster.config.cluster))
    recorder.check.check()
    assert recorder.check.messages > 500


@pytest.mark.parametrize("cluster", [3], indirect=True)
async def test_servers_that_are_killed_answer_as_the_protocol_says(cluster):
    await record(cluster, kills=3)


@pytest.mark.soak
@pytest.mark.parametrize("cluster", [3], indirect=True)
async def test_servers_that_are_killed_often_answer_as_the_protocol_says(cluster):
    await record(cluster, kills=100)


@pytest.mark.soak
@pytest.mark.parametrize("cluster", [3], indirect=True)
async def test_a_thousand_kills_lose_nothing(cluster):
    await torment(cluster, kills=1000, at_once=1)


@pytest.mark.soak
@pytest.mark.parametrize("cluster", [5], indirect=True)
async def test_five_hundred_kills_of_two_lose_nothing(cluster):
    await torment(cluster, kills=500, at_once=2)


@pytest.mark.parametrize("cluster", [3], indirect=True)
async def test_losing_the_majority_is_unavailable_and_its_return_brings_everything_back(cluster):
    async with wormspace.connect(cluster.url, timeout=10) as worm:
        segment = await worm.space("s").alloc(size=100)
        token = (await segment.capture()).token
        await segment.write_range(0, [b"%d" % i for i in range(50)], token)
        await asyncio.to_thread(cluster.kill, "s1", "s2")
        began = time.monotonic()
        for call in (
            segment.write(50, b"50", token, timeout=0.5),
            segment.capture(timeout=0.5),
            segment.read(99, timeout=0.5),
            worm.space("s").alloc(timeout=0.5),
        ):
            with pytest.raises(Unavailable) as unavailable:
                await call
            assert "servers answered in time, 2 must; without: " in str(unavailable.value)
        assert time.monotonic() - began < 5
        waiting = asyncio.ensure_future(segment.write(51, b"51", token, timeout=20))
        await asyncio.to_thread(cluster.start, "s1", "s2")
        try:
            await waiting
        except RaceLost:  # the capture that was unavailable has reached s3
            token = (await segment.capture()).token
            await segment.write(51, b"51", token)
        assert await segment.read_range(0, 50) == [b"%d" % i for i in range(50)]
        assert await segment.settle(50, b"none") in (b"none", b"50")
        assert await segment.read(51) == b"51"


@pytest.mark.parametrize("cluster", [3], indirect=True)
async def test_listen_hears_each_write_once_and_in_order_across_deaths(cluster):
    """One writer, one after another; every server dies and comes back in between."""
    count = 600
    seed = int(os.environ.get("WORMSPACE_SEED", random.SystemRandom().getrandbits(32)))
    print(f"WORMSPACE_SEED={seed}")
    rng = random.Random(seed)
    async with (
        wormspace.connect(cluster.url, timeout=20) as worm,
        wormspace.connect(cluster.url, timeout=20) as listener,
    ):
        segment = await worm.space("s").alloc(b"m", size=count)
        token = (await segment.capture()).token
        source = listener.space("s").listen()
        assert await anext(source) == Allocated(0, count, b"m")
        done = asyncio.Event()

        async def write():
            for i in range(count):
                while True:
                    try:
                        await segment.write(i, b"%d" % i, token)
                    except Unavailable:
                        continue
                    break
                await asyncio.sleep(0.002)
            done.set()

        async def hear():
            return [await anext(source) for _ in range(count)]

        writing, hearing = asyncio.ensure_future(write()), asyncio.ensure_future(hear())
        victims = cluster.names[:]
        rng.shuffle(victims)
        for victim in victims:
            await asyncio.to_thread(cluster.kill, victim)
            await asyncio.sleep(rng.uniform(0, 0.1))
            await asyncio.to_thread(cluster.start, victim)
            await asyncio.sleep(rng.uniform(0, 0.3))
        await writing
        async with asyncio.timeout(20):
            events = await hearing
        assert all(isinstance(e, Written) for e in events)
        assert [e.address.offset for e in events] == list(range(count))
        assert [e.value for e in events] == [b"%d" % i for i in range(count)]
        extra = asyncio.ensure_future(anext(source))
        await segment.trim()
        assert type(await asyncio.wait_for(extra, 10)).__name__ == "SegmentsTrimmed"
        await source.close()


@pytest.mark.parametrize("cluster", [3], indirect=True)
async def test_a_server_that_hangs_is_passed_over(cluster):
    """Stopped, not killed: its connections stay open and say nothing."""
    async with wormspace.connect(cluster.url, timeout=10) as worm:
        segment = await worm.space("s").alloc(size=100)
        token = (await segment.capture()).token
        await segment.write_range(0, [b"%d" % i for i in range(50)], token)
        for name in cluster.names:
            cluster.pause(name)
            began = time.monotonic()
            assert await segment.read_range(0, 50) == [b"%d" % i for i in range(50)]
            values = await asyncio.gather(*(segment.read(i) for i in range(50)))
            assert values == [b"%d" % i for i in range(50)]
            token = (await segment.capture()).token
            free = next(iter(token.free()))
            await segment.write(free, name.encode(), token)
            assert await segment.read(free) == name.encode()
            await worm.space("s").alloc(size=1)
            assert time.monotonic() - began < 9, "somebody waited for a deadline"
            cluster.resume(name)
