"""Sequencers killed, frozen and cut off, two of them at once, servers in trouble: the log holds.

Each run checks that acknowledged appends stay where they are, that no entry is there twice, that
appends and tails are linearizable, that subscribers got the log, each entry once, in order, that
positions read alone and streams read alone agree with the whole, and what may be trimmed meanwhile.
"""

import asyncio

import pytest
from log_worlds import Book, LogWorld, read_all

import wormspace
from wormspace.knobs import least
from wormspace.log import LogTrimmed, NotWritten
from wormspace.sim import FaultPlan, FaultSchedule, Loss, NetworkOptions, World
from wormspace.sim.world import LEASE_DRIFT, State

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
        fill_every_s=0.5,
        trim_every_s=None,
        options=None,
        knobs=None,
        timeout_s=10.0,
    ):
        knobs = World.drawn_knobs(seed) if knobs is None else knobs
        self.cluster = LogWorld(
            seed,
            network=network,
            knobs=knobs,
            timeout_s=timeout_s,
            drift=LEASE_DRIFT,
            real_store=World.draws_real_store(seed),
        )
        self.world = self.cluster.world
        self.book = Book()
        self.names = [f"c{i + 1}" for i in range(clients)]
        self.appenders = appenders
        self.entries = entries
        self.options = options or {}
        self.faults = faults
        self.kill_every_s = kill_every_s
        self.usurp_every_s = usurp_every_s
        self.fill_every_s = fill_every_s
        self.trim_every_s = trim_every_s
        self.reads_every_s = 0.2
        self.random = self.world.random_for("campaign")
        self.heard = []
        self.in_streams = {stream: [] for stream in "abc"}
        self.committed = dict.fromkeys(self.names, (0, 0))
        self.left = dict.fromkeys(self.names, appenders * entries)

    async def log_of(self, worm, host):
        options = {"segment_size": 32, "patience_s": 0.2, "host": host, **self.options}
        while True:
            try:
                return await worm.log("orders", **options)
            except wormspace.Unavailable:
                pass

    def client(self, name):
        async def live(worm):
            log = await self.log_of(worm, name)
            others = (
                self.listen(log),
                self.usurp(log),
                self.fill(log),
                self.trim(log, name),
                self.read_one(log),
                self.read_stream(log),
                self.move_cursor(log, name),
            )
            beside = [asyncio.create_task(other) for other in others]
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
            found = await log._sequencing._cell.get()
            if found is not None:
                try:
                    await log._sequencing._become(found[0])
                except wormspace.Unavailable:
                    pass

    async def fill(self, log):
        """Make holes of positions near the tail, whoever is about to write there."""
        while self.fill_every_s is not None:
            await asyncio.sleep(self.random.expovariate(1 / self.fill_every_s))
            try:
                await log.fill(max(0, await log.tail() - self.random.randint(1, 20)))
            except (wormspace.Unavailable, LogTrimmed, NotWritten):
                pass

    async def trim(self, log, name):
        """Trim to anywhere, in the middle of a batch as well; sometimes die in the midst of it."""
        while self.trim_every_s is not None:
            await asyncio.sleep(self.random.expovariate(1 / self.trim_every_s))
            if self.random.random() < 0.5:
                self.world.after(self.random.random() * 0.03, lambda: self.strike(name, 0.3))
            try:
                await log.trim(self.random.randint(await log.first(), await log.tail()))
            except wormspace.Unavailable:
                pass

    async def read_one(self, log):
        """What was acknowledged is where it was said to be, or trimmed."""
        while self.reads_every_s is not None:
            await asyncio.sleep(self.random.expovariate(1 / self.reads_every_s))
            known = self.book.acknowledged
            if not known:
                continue
            position = self.random.choice(list(known))
            try:
                entry = await log.read(position)
            except (wormspace.Unavailable, LogTrimmed):
                continue
            assert entry is not None, f"{position} was acknowledged, and is a hole"
            assert entry.body == known[position], f"{position} has another entry"

    async def read_stream(self, log):
        """All of a stream that was acknowledged before, but for what is trimmed."""
        while self.reads_every_s is not None:
            await asyncio.sleep(self.random.expovariate(1 / self.reads_every_s))
            stream = self.random.choice("abc")
            before = list(self.in_streams[stream])
            try:
                found = {entry.position for entry in await log.read_stream(stream)}
                first = await log.first()
            except (wormspace.Unavailable, LogTrimmed):
                continue
            lacking = [one for one in before if one >= first and one not in found]
            assert not lacking, f"stream {stream} lacks {lacking}, acknowledged before"

    async def move_cursor(self, log, name):
        """A cursor is where it was put, and never where it was before that."""
        while self.reads_every_s is not None:
            await asyncio.sleep(self.random.expovariate(1 / self.reads_every_s))
            done, tried = self.committed[name]
            try:
                found = await log.cursor(name).load()
                assert done <= found <= tried, f"the cursor is at {found}, not {done} to {tried}"
                self.committed[name] = (done, tried + 1)
                await log.cursor(name).commit(tried + 1)
                self.committed[name] = (tried + 1, tried + 1)
            except NotWritten:
                self.committed[name] = (done, tried)  # the log is not so long yet
            except wormspace.Unavailable:
                pass

    async def append(self, name, who, log):
        who = f"{who}@{self.world.now:.3f}"
        while self.left[name] > 0:
            self.left[name] -= 1
            at_once = [self.one(f"{who}/{i}", log) for i in range(self.random.choice((1, 1, 1, 4)))]
            await asyncio.gather(*at_once)
            if self.random.random() < 0.2:
                await self.book.tail(who, log)
            await asyncio.sleep(self.random.random() * 0.2)

    def one(self, who, log):
        """One call, of one entry or of many, which may name a stream."""
        count = 1 if self.random.random() < 0.8 else self.random.randint(2, 40)
        streams = [self.random.choice("abc")] if self.random.random() < 0.3 else []
        noted = self.in_streams[streams[0]] if streams else None
        return self.book.append(who, log, count, noted, streams=streams)

    async def listen(self, log):
        start = 0
        while True:
            heard = []
            self.heard.append(heard)
            try:
                async for entry in log.listen(start):
                    heard.append(entry)  # noqa: PERF401 - it must be there when this is killed
            except LogTrimmed as e:
                start = e.first

    def kill(self):
        if self.kill_every_s is None:
            return
        self.strike(self.random.choice(self.names), self.random.random())
        self.world.after(self.random.expovariate(1 / self.kill_every_s), self.kill)

    def strike(self, name, fate):
        """Kill, freeze or cut off a client."""
        process = self.world.host(name).processes[-1]
        if process.state is State.RUNNING and self.kill_every_s is not None:
            lasting_s = self.random.uniform(0.05, 1.5)
            if fate < 0.6:
                process.crash()
                self.world.after(lasting_s, process.restart)
            elif fate < 0.8:
                process.pause()
                self.world.after(lasting_s, process.resume)
            else:
                cut = self.world.network.cut([name], self.cluster.servers)
                self.world.after(lasting_s, lambda: self.world.network.heal(cut))

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
        self.kill_every_s = self.usurp_every_s = self.fill_every_s = self.trim_every_s = None
        self.reads_every_s = None
        self.world.network.loss = None
        await asyncio.sleep(5)
        await self.cluster.spawn("last", self.last_look).wait()

    async def last_look(self, worm):
        log = await self.log_of(worm, "last")
        assert await self.book.append("last", log), "appends go on when the faults are over"
        entries = await read_all(log)
        first = await log.first()
        if not first:
            self.book.check(entries)
        again = []
        async for entry in log.listen(first):
            again.append(entry)
            if len(again) == len(entries):
                break
        assert again == entries
        self.check_heard(entries)
        await self.check_parts(await self.log_of(worm, "last"), entries)

    def check_heard(self, entries):
        """What subscribers got, and what is there at the end, are the same log."""
        held = {entry.position: entry for entry in entries}
        for heard in self.heard:
            held.update({entry.position: entry for entry in heard})
        for position, body in self.book.acknowledged.items():
            if position in held:  # else it was trimmed, and nobody was quick enough
                assert held[position].body == body, f"{body} was at {position}, and moved"
        everything = [held[position] for position in sorted(held)]
        for heard in [*self.heard, entries]:
            if heard:
                at = everything.index(heard[0])
                part = everything[at : at + len(heard)]
                assert heard == part, "a subscriber missed something, or saw it twice"

    async def check_parts(self, log, entries):
        """Positions and streams, read by one who knows nothing yet, in any order."""
        held = {entry.position: entry for entry in entries}
        positions = list(range(await log.first(), await log.tail()))
        self.random.shuffle(positions)
        for position in positions[:200]:
            assert await log.read(position) == held.get(position)
        for stream in "abc":
            mine = [entry for entry in entries if stream in entry.streams]
            assert await log.read_stream(stream) == mine

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
    Campaign(seed, appenders=1, entries=8, options={"sequencer": "none"}).run()


def usurped(seed, **options):
    """Sequencers take over from each other all the time, and slots are filled in front of them."""
    options = {"entries": 12, "usurp_every_s": 0.05, "fill_every_s": 0.1} | options
    return Campaign(seed, faults=False, kill_every_s=None, **options)


@pytest.mark.parametrize("seed", range(400, 406))
def test_with_several_sequencers_at_once(seed):
    usurped(seed, entries=6).run()


@pytest.mark.parametrize("seed", range(500, 504))
def test_with_the_log_trimmed_meanwhile(seed):
    Campaign(seed, trim_every_s=0.5, options={"segment_size": 8}).run()


@pytest.mark.parametrize("seed", range(600, 602))
def test_with_everything_as_small_as_can_be(seed):
    knobs = {name: value for name, value in least().items() if name.startswith("log_")}
    options = {"segment_size": 4}
    Campaign(seed, entries=3, trim_every_s=0.4, options=options, knobs=knobs).run()


def test_appends_of_64_clients_at_once_are_linearizable():
    book = Campaign(7, clients=64, appenders=1, entries=2, faults=False, kill_every_s=None).run()
    assert len(book.acknowledged) >= 64 * 2
