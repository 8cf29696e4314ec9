"""Sequencers killed, frozen and cut off, two of them at once, servers in trouble: the log holds.

Each run checks that acknowledged appends stay where they are, that no entry is there twice, that
appends and tails are linearizable, and that subscribers got the log, each entry once, in order.
"""

import asyncio

import pytest
from log_worlds import Book, LogWorld, read_all

import wormspace
from wormspace.sim import FaultPlan, FaultSchedule, Loss, NetworkOptions
from wormspace.sim.world import State

STRICT = NetworkOptions(framed=True, split=0.1)
LOSSY = NetworkOptions(framed=True, split=0.1, loss=Loss(0.01, 0.01, 0.03))


class Campaign:
    """Clients that append, subscribe and die, on servers that have troubles of their own."""

    def __init__(
        self,
        seed,
        *,
        clients=4,
        appenders=4,
        entries=8,
        network=STRICT,
        faults=True,
        kill_every_s=0.7,
        usurp_every_s=None,
        options=None,
    ):
        self.cluster = LogWorld(seed, network=network)
        self.world = self.cluster.world
        self.book = Book()
        self.names = [f"c{i + 1}" for i in range(clients)]
        self.appenders = appenders
        self.entries = entries
        self.options = options or {}
        self.faults = faults
        self.kill_every_s = kill_every_s
        self.usurp_every_s = usurp_every_s
        self.random = self.world.random_for("campaign")
        self.heard = []
        self.left = dict.fromkeys(self.names, appenders * entries)

    async def log_of(self, worm, host):
        options = {"segment_size": 32, "patience": 0.2, "host": host, **self.options}
        while True:
            try:
                return await worm.log("orders", **options)
            except wormspace.Unavailable:
                pass

    def client(self, name):
        async def live(worm):
            log = await self.log_of(worm, name)
            beside = [asyncio.create_task(self.listen(log)), asyncio.create_task(self.usurp(log))]
            async with asyncio.TaskGroup() as group:
                for i in range(self.appenders):
                    group.create_task(self.append(name, f"{name}.{i}", log))
            for task in beside:
                task.cancel()

        return live

    async def usurp(self, log):
        """Become the sequencer again and again, though the present one is well."""
        while self.usurp_every_s is not None:
            await asyncio.sleep(self.random.expovariate(1 / self.usurp_every_s))
            found = await log._desk._mark.get()
            if found is not None:
                try:
                    await log._desk._become(found[0])
                except wormspace.Unavailable:
                    pass

    async def append(self, name, who, log):
        who = f"{who}@{self.world.now:.3f}"
        while self.left[name] > 0:
            self.left[name] -= 1
            count = 1 if self.random.random() < 0.8 else self.random.randint(2, 12)
            await self.book.append(who, log, count)
            if self.random.random() < 0.2:
                await self.book.tail(who, log)
            await asyncio.sleep(self.random.random() * 0.2)

    async def listen(self, log):
        heard = []
        self.heard.append(heard)
        async for entry in log.subscribe(0):
            heard.append(entry)  # noqa: PERF401 - it must be there when the listener is killed

    def kill(self):
        if self.kill_every_s is None:
            return
        name = self.random.choice(self.names)
        process = self.world.host(name).processes[-1]
        if process.state is State.RUNNING:
            lasting_s = self.random.uniform(0.05, 1.5)
            fate = self.random.random()
            if fate < 0.6:
                process.crash()
                self.world.after(lasting_s, process.restart)
            elif fate < 0.8:
                process.pause()
                self.world.after(lasting_s, process.resume)
            else:
                cut = self.world.network.cut([name], self.cluster.servers)
                self.world.after(lasting_s, lambda: self.world.network.heal(cut))
        self.world.after(self.random.expovariate(1 / self.kill_every_s), self.kill)

    async def drive(self):
        for name in self.names:
            self.cluster.spawn(name, self.client(name))
        schedule = FaultSchedule(
            self.world, FaultPlan(every_s=(0.1, 1.0), max_hurt=1), self.cluster.servers, self.names
        )
        if self.faults:
            schedule.start()
        self.kill()
        while any(left > 0 for left in self.left.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        schedule.stop()
        self.kill_every_s = self.usurp_every_s = None
        self.world.network.loss = None
        await asyncio.sleep(5)
        await self.cluster.spawn("last", self.last_look).wait()

    async def last_look(self, worm):
        log = await self.log_of(worm, "last")
        assert await self.book.append("last", log), "appends go on when the faults are over"
        entries = await read_all(log)
        self.book.check(entries)
        again = []
        async for entry in log.subscribe(0):
            again.append(entry)
            if len(again) == len(entries):
                break
        assert again == entries
        for heard in self.heard:
            assert heard == entries[: len(heard)], "a subscriber missed something, or saw it twice"

    def run(self):
        self.cluster.run(self.drive())
        return self.book


@pytest.mark.parametrize("seed", range(12))
def test_with_processes_killed_frozen_and_cut_off(seed):
    book = Campaign(seed).run()
    assert len(book.acknowledged) > 50


@pytest.mark.parametrize("seed", range(100, 104))
def test_with_frames_lost_repeated_and_delayed(seed):
    Campaign(seed, network=LOSSY).run()


@pytest.mark.parametrize("seed", range(200, 204))
def test_with_positions_that_were_not_captured_ahead(seed):
    Campaign(seed, options={"capture_ahead": False}).run()


@pytest.mark.parametrize("seed", range(300, 304))
def test_without_a_sequencer(seed):
    Campaign(seed, appenders=1, entries=15, options={"sequencer": "none"}).run()


@pytest.mark.parametrize("seed", range(400, 404))
def test_with_several_sequencers_at_once(seed):
    Campaign(seed, entries=8, faults=False, kill_every_s=None, usurp_every_s=0.05).run()


def test_appends_of_64_clients_at_once_are_linearizable():
    book = Campaign(7, clients=64, appenders=1, entries=6, faults=False, kill_every_s=None).run()
    assert len(book.acknowledged) >= 64 * 6
