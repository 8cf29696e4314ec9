"""A segmented log in memory, laid out at random, and what a log that lies on it holds."""

import random
from types import SimpleNamespace

from wormspace.errors import Trimmed
from wormspace.log.records import HOLE, BatchRecord, Group, encode
from wormspace.log.trim_point import Place
from wormspace.sim import World

HOLE_HERE, NOTHING = "a hole", "nothing yet"


class Slots:
    """The slots of a log: batches of all sizes, holes, and slots that are empty.

    Attributes:
        values: what is in the slots that are written; batches: of them, those that hold entries.
        entries: by position.
        trimmed: so many segments.
        reads, filled: the slots [start, stop) of the calls so far.
        before: called before each read.
    """

    def __init__(self, seed, slots=40, size=8, largest=6, empty=0.15, holes=0.15):
        rng = self.rng = random.Random(seed)
        self.size, self.values, self.batches = size, {}, {}
        self.entries, self.trimmed = {}, 0
        self.reads, self.filled, self.before = [], [], None
        self.space = SimpleNamespace(name="orders", trim_prefix=self.trim)
        position = before = 0
        for slot in range(slots):
            fate, count = rng.random(), rng.choice((1, 1, rng.randrange(1, largest + 1)))
            batch = batch_of(position, count, before, slot, rng)
            if fate < holes:
                self.values[slot] = HOLE
            elif fate > holes + empty:
                self.put(slot, batch)
            if rng.random() < 0.7 or slot in self.batches:
                position, before = batch.end, before + batch.size
        self.stop = max(self.batches, default=-1) + 1

    def put(self, slot, batch):
        self.values[slot], self.batches[slot] = encode(batch), batch
        self.entries |= {entry.position: entry for entry in batch.entries()}

    @property
    def tail(self):
        """One past the last position."""
        return max((batch.end for batch in self.batches.values()), default=0)

    def held(self, position):
        """What is at a position: its entry, a hole, or nothing yet."""
        if position in self.entries:
            return self.entries[position]
        above = min(
            (s for s, batch in self.batches.items() if batch.first > position), default=None
        )
        if above is None:
            return NOTHING
        below = max((s for s, batch in self.batches.items() if batch.end <= position), default=-1)
        decided = all(slot in self.values for slot in range(below + 1, above))
        return HOLE_HERE if decided else NOTHING

    def between(self, start, stop):
        """The entries at these positions."""
        return [self.entries[at] for at in sorted(self.entries) if start <= at < stop]

    def looked_at(self):
        """How many slots were read since the last call."""
        count = sum(stop - start for start, stop in self.reads)
        self.reads.clear()
        return count

    # ------------------------------------------------------------ as a segmented log

    def _look(self, start, stop):
        assert 0 <= start < stop
        if self.before is not None:
            self.before(start, stop)
        self.reads.append((start, stop))
        if start < self.trimmed * self.size:
            raise Trimmed(f"slot {start} is gone")

    def segment(self, number):
        async def read(offset):
            assert 0 <= offset < self.size
            slot = number * self.size + offset
            self._look(slot, slot + 1)
            return self.values.get(slot)

        return SimpleNamespace(read=read)

    async def read(self, start, stop):
        self._look(start, stop)
        return [self.values.get(slot) for slot in range(start, stop)]

    async def end(self):
        there = [slot for slot in self.values if slot >= self.trimmed * self.size]
        return 1 + max(there, default=self.trimmed * self.size - 1)

    async def fill(self, start, stop):
        assert 0 <= start < stop
        self.filled.append((start, stop))
        if start < self.trimmed * self.size:
            raise Trimmed(f"slot {start} is gone")
        for slot in range(start, stop):
            self.values.setdefault(slot, HOLE)

    async def open_segment(self):
        return (await self.end()) // self.size

    async def trim(self, segments):
        self.trimmed = max(self.trimmed, segments)


class Start:
    """Where the log begins: `at` as it is known, and `true`, which `find` learns of."""

    def __init__(self, position=0, slot=0):
        self.at = self.true = Place(position, slot)
        self.finds = 0

    async def find(self):
        self.finds += 1
        self.at = self.true
        return self.at

    async def move(self, place):
        self.at = self.true = place


def batch_of(position, count, before=0, slot=0, rng=None, headers=False):
    """So many entries from a position on, of bodies and headers of random sizes."""
    rng = rng or random.Random(slot)
    bodies = [b"%d" % at * rng.randrange(1, 4) for at in range(position, position + count)]
    groups = () if rng.random() < 0.6 else (Group(count, {"k": "v" * rng.randrange(9)}, ()),)
    return BatchRecord(position, before, b"w", slot, 1000 * slot, bodies, groups, {})


def in_time(work, seed=0):
    """What the coroutine `work()` returns, in virtual time."""
    with World(seed, max_steps=100_000) as world:
        return world.run(work(), deadline_s=10_000)
