"""What rolls over, rolls over: logs that are older than any of their parts is large."""

import asyncio
import random

import pytest

import wormspace
from wormspace.knobs import KNOBS, drawn, least, turned
from wormspace.log import LogTrimmed, NotWritten
from wormspace.log.marks import Mark
from wormspace.log.spaces import CURSOR
from wormspace.log.tape import Tape


async def test_a_cursor_is_loaded_after_each_of_a_thousand_commits():
    """The 257th setting of a mark once made whoever looked for its value look for ever."""
    async with wormspace.connect("memory:") as worm:
        log = await worm.log("orders")
        mine, others = log.cursor("billing"), (await worm.log("orders")).cursor("billing")
        async with asyncio.timeout(60):
            for position in range(1, 1001):
                await mine.commit(position)
                assert await mine.load() == await others.load() == position


async def test_a_log_is_opened_after_each_of_many_trims_and_takeovers():
    with turned(log_mark_size=3, log_mark_page=2):
        async with wormspace.connect("memory:") as worm:
            for turn in range(1, 60):
                async with asyncio.timeout(20), await worm.log("orders", segment_size=4) as log:
                    assert await log.append(b"x") == turn - 1
                    assert await log.trim(turn) == turn
                    assert (await log.first(), await log.tail()) == (turn, turn)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("page", [1, 2, 64])
async def test_a_mark_has_what_was_set_last_whoever_set_it(size, page):
    rng = random.Random(size * 100 + page)
    with turned(log_mark_page=page):
        async with wormspace.connect("memory:") as worm:
            marks = [Mark(Tape(worm.space("mark"), size, CURSOR), int) for _ in range(3)]
            number, value = -1, None
            for turn in range(120):
                mark = rng.choice(marks)
                if rng.random() < 0.5:
                    await mark.put(turn)
                    value = turn
                elif rng.random() < 0.7:
                    assert await mark.replace(number, turn) is not None
                    value = turn
                else:
                    assert await mark.replace(number - 1, turn) is None
                found = await rng.choice(marks).get()
                assert found is None if value is None else found[1] == value
                number = found[0] if found else number
            space = worm.space("mark")
            assert await space.tail() - await space.head() <= 2, "old values were not let go"


# ------------------------------------------------------------------ a long life


class Life:
    """A log that many handles use, and restart; what it must answer is kept beside it.

    Attributes:
        held: what is at each position; None if a hole is.
    """

    def __init__(self, worm, seed):
        self.worm = worm
        self.rng = random.Random(seed)
        self.logs = []
        self.held = {}
        self.first = 0
        self.streams = {}
        self.committed = {}
        self.hearing = None
        self.turns = 0

    async def live(self, turns):
        self.logs = [await self.open() for _ in range(2)]
        self.hear_from(0)
        calls = [
            *[self.append] * 6,
            *[self.append_many] * 3,
            *[self.trim] * 2,
            *[self.commit] * 2,
            *[self.restart, self.read, self.read_range, self.read_stream, self.fill],
            *[self.trim_larger, self.info, self.hear, self.load],
        ]
        for _ in range(turns):
            self.turns += 1
            await self.rng.choice(calls)(self.rng.choice(self.logs))
        for log in self.logs:
            await self.look_at_all(log)

    async def open(self):
        return await self.worm.log("life", segment_size=4, patience=0.0)

    async def restart(self, log):
        await log.close()
        self.logs[self.logs.index(log)] = await self.open()
        self.hear_from(self.rng.choice([self.first, max(self.held, default=self.first)]))

    @property
    def tail(self):
        return max(self.held, default=self.first - 1) + 1

    def note(self, position, body, streams):
        assert position >= self.tail, "positions rise"
        self.held[position] = body
        for stream in streams:
            self.streams.setdefault(stream, []).append(position)

    async def append(self, log):
        body, streams = b"%d" % self.turns, self.some_streams()
        self.note(await log.append(body, streams=streams), body, streams)

    async def append_many(self, log):
        bodies = [b"%d.%d" % (self.turns, i) for i in range(self.rng.randint(1, 6))]
        streams = self.some_streams()
        positions = await log.append_many(bodies, streams=streams)
        for position, body in zip(positions, bodies, strict=True):
            self.note(position, body, streams)

    def some_streams(self):
        return self.rng.sample(["a", "b", f"once-{self.turns}"], self.rng.choice([0, 0, 1, 2]))

    def expected(self, start, stop):
        wanted = range(max(start, self.first), stop)
        return {at: self.held[at] for at in wanted if at in self.held}

    async def read(self, log):
        position = self.rng.randint(0, self.tail + 2)
        if position < self.first:
            with pytest.raises(LogTrimmed) as trimmed:
                await log.read(position)
            assert trimmed.value.first == self.first
        elif position >= self.tail:
            with pytest.raises(NotWritten):
                await log.read(position)
        else:
            entry = await log.read(position)
            assert (entry.body if entry else None) == self.held.get(position)

    async def fill(self, log):
        if self.first < self.tail:
            position = self.rng.randrange(self.first, self.tail)
            entry = await log.fill(position)
            assert (entry.body if entry else None) == self.held.get(position)

    async def read_range(self, log):
        start = self.rng.randint(self.first, self.tail)
        stop = self.rng.randint(start, self.tail + 3)
        entries = await log.read_range(start, stop)
        assert {e.position: e.body for e in entries} == self.expected(start, stop)

    async def read_stream(self, log):
        names = list(self.streams) or ["none"]
        name = self.rng.choice([names[0], names[-1], self.rng.choice(names), "none"])
        wanted = [at for at in self.streams.get(name, []) if at >= self.first]
        assert [entry.position for entry in await log.read_stream(name)] == wanted

    async def trim(self, log):
        position = self.rng.randint(self.first, self.tail)
        self.first = await log.trim(position)
        assert self.first == position

    async def trim_larger(self, log):
        size = self.rng.choice([20, 100, 1000])
        self.first = await log.trim_larger(size)
        assert sum(map(len, self.expected(0, self.tail).values())) <= size

    async def info(self, log):
        info = await log.info()
        assert (info.first, info.tail) == (self.first, self.tail)

    async def commit(self, log):
        name, position = self.rng.choice("xyz"), self.rng.randint(0, self.tail)
        await log.cursor(name).commit(position)
        self.committed[name] = position

    async def load(self, log):
        name = self.rng.choice("xyz")
        assert await log.cursor(name).load() == self.committed.get(name, 0)

    def hear_from(self, position):
        if self.hearing is not None and self.rng.random() < 0.5:
            return
        log = self.rng.choice(self.logs)
        self.heard_upto = max(position, self.first)
        self.hearing = log.subscribe(self.heard_upto)

    async def hear(self, log):
        """The subscriber is given time for a few entries, now and then too little."""
        try:
            while wanted := self.expected(self.heard_upto, self.tail):
                limit = self.rng.choice([0.0, 5.0, 5.0])
                try:
                    entry = await asyncio.wait_for(anext(self.hearing), limit)
                except TimeoutError:
                    continue
                assert entry.position >= self.heard_upto
                if entry.position >= self.first:
                    assert (entry.position, entry.body) == next(iter(wanted.items()))
                self.heard_upto = entry.position + 1
        except (LogTrimmed, wormspace.Closed):
            self.hearing = None
            self.hear_from(self.first)

    async def look_at_all(self, log):
        assert (await log.first(), await log.tail()) == (self.first, self.tail)
        entries = await log.read_range(self.first)
        assert {e.position: e.body for e in entries} == self.expected(self.first, self.tail)
        for name in self.streams:
            wanted = [at for at in self.streams[name] if at >= self.first]
            assert [entry.position for entry in await log.read_stream(name)] == wanted
        for name, position in self.committed.items():
            assert await log.cursor(name).load() == position


def log_knobs(values):
    return {name: value for name, value in values.items() if name.startswith("log_")}


async def live(seed, turns, **knobs):
    with turned(**knobs):
        async with wormspace.connect("memory:", rng=random.Random(seed)) as worm:
            await Life(worm, seed).live(turns)


@pytest.mark.parametrize("seed", range(2))
async def test_a_long_life_with_everything_as_small_as_can_be(seed):
    await live(seed, 1200, **log_knobs(least()))


@pytest.mark.parametrize("seed", range(10, 14))
async def test_a_long_life_with_sizes_of_all_kinds(seed):
    await live(seed, 400, **log_knobs(drawn(random.Random(seed))))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 140))
async def test_many_long_lives(seed):
    knobs = least() if seed % 2 else drawn(random.Random(seed))
    await live(seed, 5000, **log_knobs(knobs))


async def test_sizes_are_those_with_which_the_log_was_made():
    """Two programs of different settings use one log."""
    async with wormspace.connect("memory:") as worm:
        with turned(log_mark_size=3, log_segment_size=8):
            first = await worm.log("orders")
            await first.cursor("c").commit(1)
        assert KNOBS.log_mark_size != 3
        second = await worm.log("orders")
        assert second.segment_size == 8
        for position in range(2, 40):
            log = (first, second)[position % 2]
            await log.cursor("c").commit(position)
            await log.trim(await log.append(b"x"))
            for other in (first, second):
                assert await other.cursor("c").load() == position
                assert await other.first() == position - 2
