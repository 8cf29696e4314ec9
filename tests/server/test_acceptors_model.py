"""What a server's requests do to its tables, and answer, beside a dictionary of registers.

Whatever its sizes are: how many promises it goes through, and where it cuts its pages.
"""

from __future__ import annotations

import itertools
import random

import pytest

from wormspace.knobs import turned
from wormspace.paxos.ballot import UNSAFE, ballot
from wormspace.paxos.messages import (
    COMPLETE,
    Capture,
    Decided,
    Done,
    Promise,
    Read,
    RefusedWrite,
    Reject,
    Report,
    Row,
    SegmentTrimmed,
    Trim,
    Write,
    Written,
)
from wormspace.server import acceptors, tables
from wormspace.server.marks import Marks
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.messages import Tombstones, Trims

SPACES, SEGMENTS, REGISTERS = ("s", "t"), 4, 12
BALLOTS = [ballot(n, who * 8) for n in range(1, 7) for who in (b"a", b"b")]
ROW = acceptors.ROW_BYTES + len(UNSAFE)


class Model:
    """Two spaces of four segments, register by register.

    Attributes:
        promised, rows, marks: by (space, segment, offset).
        trimmed: (space, segment).
    """

    def __init__(self) -> None:
        self.promised: dict[tuple[str, int, int], bytes] = {}
        self.rows: dict[tuple[str, int, int], tuple[bytes, bytes]] = {}
        self.marks: dict[tuple[str, int, int], bytes] = {}
        self.trimmed: set[tuple[str, int]] = set()

    def capture(self, m: Capture, room: int):
        if (m.space, m.segment) in self.trimmed:
            return SegmentTrimmed()
        places = [(m.space, m.segment, n) for n in range(m.start, m.stop)]
        top = max(self.promised.get(p, UNSAFE) for p in places)
        if m.ballot <= top:
            return Reject(top)
        self.promised |= dict.fromkeys(places, m.ballot)
        return Promise(*self.page(m.space, m.segment, range(m.start, m.stop), room))

    def write(self, m: Write):
        """The answer, and the offsets that are news."""
        if (m.space, m.segment) in self.trimmed:
            return SegmentTrimmed(), []
        refused, news = [], []
        for offset, value in zip(m.offsets, m.values, strict=True):
            place = m.space, m.segment, offset
            promised, row = self.promised.get(place, UNSAFE), self.rows.get(place, (b"", b""))
            if m.ballot < promised:
                refused.append(RefusedWrite(offset, promised))
            elif m.ballot == row[0]:
                if value != row[1]:
                    refused.append(RefusedWrite(offset, m.ballot))
            else:
                self.promised[place], self.rows[place] = m.ballot, (m.ballot, value)
                news.append(offset)
        return Written(refused), news

    def learn(self, m: Decided) -> None:
        for lo, hi in m.spans:
            places = [(m.space, m.segment, n) for n in range(lo, hi)]
            self.marks |= dict.fromkeys(places, m.ballot)

    def page(self, space: str, segment: int, offsets, room: int):
        rows: list[Row] = []
        for offset in offsets:
            if (found := self.rows.get((space, segment, offset))) is None:
                continue
            if room <= 0:
                return rows, offset
            room -= len(found[1]) + ROW
            mark = self.marks.get((space, segment, offset))
            rows.append(Row(offset, *found, mark is not None and found[0] >= mark))
        return rows, COMPLETE

    def read(self, m: Read, room: int):
        if (m.space, m.segment) in self.trimmed:
            return SegmentTrimmed()
        offsets = list(itertools.chain(*(range(*span) for span in m.spans)))
        return Report(*self.page(m.space, m.segment, offsets, room))

    def trim(self, m: Trim) -> bool:
        """Whether that is news."""
        before = len(self.trimmed)
        self.trimmed |= {(m.space, n) for n in range(m.segment, m.stop)}
        return len(self.trimmed) > before


class Served:
    """The tables, and the model beside them; each call makes both do the same."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.model = rng, Model()
        self.batch, self.marks = MemoryEngine().begin(), Marks()
        for space in SPACES:
            tables.intern_space(self.batch, space)

    def place(self) -> tuple[str, int]:
        return self.rng.choice(SPACES), self.rng.choice((0, 0, 0, 1, 2, 3))

    def span(self) -> tuple[int, int]:
        lo = self.rng.randrange(REGISTERS)
        return lo, self.rng.randint(lo + 1, REGISTERS)

    def room(self) -> int:
        return self.rng.choice([0, 1, ROW, 2 * ROW + 1, 1 << 20])

    def capture(self) -> None:
        m = Capture(*self.place(), *self.span(), self.rng.choice([*BALLOTS, UNSAFE]))
        page, room = self.room(), self.rng.choice([self.room(), None])
        least = page if room is None else min(page, room)
        with turned(server_page_bytes=page):
            answer = acceptors.capture(self.batch, self.marks, m, room)
        assert answer == self.model.capture(m, least)

    def write(self) -> None:
        offsets = self.rng.sample(range(REGISTERS), self.rng.randint(1, 6))
        values = [self.rng.choice([b"", b"v", b"long value"]) for _ in offsets]
        m = Write(*self.place(), self.rng.choice([*BALLOTS, UNSAFE]), offsets, values)
        answer, news = acceptors.write(self.batch, m)
        wanted, fresh = self.model.write(m)
        assert answer == wanted
        by_offset = dict(zip(offsets, values, strict=True))
        told = Write(m.space, m.segment, m.ballot, fresh, [by_offset[n] for n in fresh])
        assert news == (told if fresh else None)

    def learn(self) -> None:
        """Registers of one half are decided under one ballot: marks agree, as they always do."""
        half = self.rng.randrange(2) * REGISTERS // 2
        lo = self.rng.randrange(half, half + REGISTERS // 2)
        span = lo, self.rng.randint(lo + 1, half + REGISTERS // 2)
        m = Decided(*self.place(), BALLOTS[4 if half else 7], [span])
        if (m.space, m.segment) not in self.model.trimmed:
            self.marks.learn(self.batch, m)
            self.model.learn(m)

    def save(self) -> None:
        with turned(server_supersede=self.rng.choice([1, 50])):
            self.marks.save(self.batch, self.rng.choice([1, 3]))

    def read(self) -> None:
        cuts = sorted(self.rng.sample(range(REGISTERS + 1), 2 * self.rng.randint(1, 4)))
        spans = list(zip(cuts[::2], cuts[1::2], strict=True))
        m, page = Read(*self.place(), spans), self.room()
        with turned(server_page_bytes=page):
            assert acceptors.read(self.batch, self.marks, m) == self.model.read(m, page)

    def trim(self) -> None:
        space, first = self.rng.choice(SPACES), self.rng.randrange(1, SEGMENTS)
        m = Trim(space, first, self.rng.randint(first + 1, SEGMENTS))
        assert acceptors.trim(self.batch, m) == (Done(), self.model.trim(m))
        gone = sorted(n for s, n in self.model.trimmed if s == space)
        spans: list[tuple[int, int]] = []
        for n in gone:
            if spans and spans[-1][1] == n:
                spans[-1] = spans[-1][0], n + 1
            else:
                spans.append((n, n + 1))
        for lo, hi in itertools.combinations(range(SEGMENTS + 1), 2):
            told = acceptors.tombstones(self.batch, Trims(space, lo, hi))
            assert told == Tombstones([s for s in spans if s[0] < hi and lo < s[1]], COMPLETE)

    def promises(self) -> None:
        """What is promised of each register, as those are told who ask for all."""
        space, segment = self.place()
        report = acceptors.read(
            self.batch, self.marks, Read(space, segment, [(0, REGISTERS)], detail=True)
        )
        if isinstance(report, SegmentTrimmed):
            return
        told = {n: r.ballot for r in report.promises for n in range(r.lo, r.hi)}
        known = {n: b for (s, i, n), b in self.model.promised.items() if (s, i) == (space, segment)}
        assert {n: told.get(n, UNSAFE) for n in range(REGISTERS)} == {
            n: known.get(n, UNSAFE) for n in range(REGISTERS)
        }

    def sweep(self) -> None:
        """Trimmed segments are deleted, and nothing else."""
        while acceptors.has_garbage(self.batch):
            acceptors.sweep(self.batch, 3)
        for table in (tables.ROWS, tables.PROMISES, tables.DECIDED):
            for key, _ in self.batch.scan(table, b"", b"\xff" * 20):
                space, segment = SPACES[key[3]], int.from_bytes(key[4:12], "big")
                assert (space, segment) not in self.model.trimmed
        stored = {key for key, _ in self.batch.scan(tables.ROWS, b"", b"\xff" * 20)}
        wanted = {
            tables.row_keys(tables.segment_key(bytes([0, 0, 0, SPACES.index(s)]), i), [n])[0]
            for s, i, n in self.model.rows
            if (s, i) not in self.model.trimmed
        }
        assert stored == wanted


@pytest.mark.parametrize("few", [1, 2, 50])
@pytest.mark.parametrize("seed", range(4))
def test_requests_do_what_the_model_does(seed: int, few: int) -> None:
    served = Served(random.Random(seed))
    calls = [
        *[served.capture] * 3, *[served.write] * 5, *[served.read] * 4,
        *[served.learn] * 3, served.save, served.promises,
    ]  # fmt: skip
    with turned(server_few_ranges=few):
        for step in range(150):
            served.rng.choice(calls)()
            if step % 50 == 49:
                served.trim()
                served.sweep()


def test_tombstones_come_in_pages_of_so_many() -> None:
    batch = MemoryEngine().begin()
    assert acceptors.tombstones(batch, Trims("s", 0, 9)) == Tombstones([], COMPLETE)
    for n in (1, 3, 5, 7):
        acceptors.trim(batch, Trim("s", n, n + 1))
    spans = [(n, n + 1) for n in (1, 3, 5, 7)]
    for most, first, page in (
        (4, 0, Tombstones(spans, COMPLETE)),
        (3, 0, Tombstones(spans[:3], 7)),
        (1, 0, Tombstones(spans[:1], 3)),
        (1, 2, Tombstones(spans[1:2], 5)),
        (1, 6, Tombstones(spans[3:], COMPLETE)),
    ):
        with turned(server_page_spans=most):
            assert acceptors.tombstones(batch, Trims("s", first, 9)) == page


@pytest.mark.parametrize(
    ("limit", "room", "swept"),
    [(1000, 1 << 20, [21, 1]), (4, 1 << 20, [4, 4, 4, 4, 4, 1, 1]), (1000, 250, [3, 3, 3, 12, 1])],
)
def test_what_is_swept_at_a_time_has_few_keys_and_bytes(limit, room, swept) -> None:
    batch = MemoryEngine().begin()
    space = tables.intern_space(batch, "s")
    for n in range(20):
        table, value = (tables.ROWS, bytes(100)) if n < 10 else (tables.DECIDED, bytes(1))
        batch.put(table, tables.segment_key(space, 2 + n % 2) + n.to_bytes(4, "big"), value)
    batch.put(tables.PROMISES, tables.segment_key(space, 4) + bytes(8), b"another segment's")
    assert acceptors.trim(batch, Trim("s", 2, 4)) == (Done(), True)
    batch.put(tables.GARBAGE, tables.segment_key(b"\0\0\0\7", 1), (2).to_bytes(8, "big"))
    found = []
    with turned(server_sweep_bytes=room):
        while acceptors.has_garbage(batch):
            found.append(acceptors.sweep(batch, limit))
    assert sum(found) == 22
    assert found == swept
    assert len(list(batch.scan(tables.PROMISES, b"", b"\xff" * 20))) == 1
