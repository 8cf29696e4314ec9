"""A long life of a log: every call, in any order, by several handles that come and go; a model."""

from __future__ import annotations

import asyncio
import random

import pytest

import wormspace
from wormspace.log import Log, LogTrimmed, NotWritten


class Life:
    """A log that many handles use, and restart; what it must answer is kept beside it.

    Attributes:
        held: what is at each position; None if a hole is.
    """

    def __init__(self, worm, seed, name="life", segment_size=4, rivals=False):
        self.worm = worm
        self.rivals = rivals
        self.options = {"name": name, "segment_size": segment_size, "patience_s": 0.0}
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
        if self.rivals:  # each takes the right to append from the others
            return await Log.open(self.worm, sequencer="none", **self.options)
        return await self.worm.log(**self.options)

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
        try:
            position = await log.append(body, streams=streams)
        except wormspace.Unavailable as e:
            self.check_excused(e)
        else:
            self.note(position, body, streams)

    async def append_many(self, log):
        bodies = [b"%d.%d" % (self.turns, i) for i in range(self.rng.randint(1, 6))]
        streams = self.some_streams()
        try:
            positions = await log.append_many(bodies, streams=streams)
        except wormspace.Unavailable as e:
            self.check_excused(e)
            return
        for position, body in zip(positions, bodies, strict=True):
            self.note(position, body, streams)

    def check_excused(self, error):
        assert self.rivals, error
        assert "trimmed" in str(error), "who was deposed long ago has a register that is gone"

    def some_streams(self):
        return self.rng.sample(["a", "b", f"once-{self.turns}"], self.rng.choice([0, 0, 1, 2]))

    def expected(self, start, stop):
        wanted = range(max(start, self.first), stop)
        return {at: self.held[at] for at in wanted if at in self.held}

    async def read(self, log):
        position = self.rng.randint(0, self.tail + 2)
        if position < self.first:
            # A handle that does not know the trim point yet may have it until its segment is gone.
            try:
                entry = await log.read(position)
            except LogTrimmed as e:
                self.check_told(e.first)
            else:
                assert (entry.body if entry else None) == self.held.get(position)
        elif position >= self.tail:
            with pytest.raises(NotWritten):
                await log.read(position)
        else:
            entry = await log.read(position)
            assert (entry.body if entry else None) == self.held.get(position)

    def check_told(self, first):
        assert first == self.first, "who is told of a trim is told where the log begins now"

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
        self.hearing = log.listen(self.heard_upto)

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
