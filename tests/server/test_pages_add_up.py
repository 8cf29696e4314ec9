"""However small a server's pages are, together they say what one page says."""

import random

import pytest

from wormspace.knobs import KNOBS, turned
from wormspace.paxos.ballot import ballot
from wormspace.paxos.messages import COMPLETE, Capture, Read, Reject, Trim, Write
from wormspace.server import acceptors, tables
from wormspace.server.marks import Marks
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire.messages import Trims

REGISTERS = 64
SEGMENTS = 60
SMALL = {
    "server_page_bytes": (1, 200),
    "server_page_spans": (1, 2),
    "server_page_promises": (2, 3),
    "server_page_names": (1, 2),
    "server_lookup": (1, 2),
    "server_few_ranges": (1, 2),
}


def drawn(rng):
    """A batch with what captures, writes and trims at random have left."""
    batch, marks = MemoryEngine().begin(), Marks()
    for number in range(1, 31):
        lo = rng.randrange(REGISTERS)
        hi = rng.randint(lo + 1, REGISTERS)
        high = ballot(number, b"somebody")
        if not isinstance(acceptors.capture(batch, marks, Capture("s", 0, lo, hi, high)), Reject):
            offsets = sorted(rng.sample(range(lo, hi), rng.randint(1, min(3, hi - lo))))
            values = [b"%d" % offset for offset in offsets]
            acceptors.write(batch, Write("s", 0, high, offsets, values))
        first = rng.randrange(1, SEGMENTS)
        acceptors.trim(batch, Trim("s", first, first + rng.randint(1, 2)))
        tables.intern_space(batch, f"space {number}")
    return batch


def spans_of(rng):
    """Some spans of registers, in order."""
    cuts = sorted(rng.sample(range(REGISTERS + 1), 2 * rng.randint(1, 5)))
    return list(zip(cuts[::2], cuts[1::2], strict=True))


def report(batch, spans):
    """Each row of the spans, and what is promised of each register, page by page; and the pages."""
    rows, promised, pages, start = [], {}, 0, 0
    while start != COMPLETE:
        left = [(max(lo, start), hi) for lo, hi in spans if hi > start]
        if not left:
            break
        page = acceptors.read(batch, Marks(), Read("s", 0, left, detail=True))
        end = REGISTERS if page.next == COMPLETE else page.next
        assert end > start, "a page that says nothing"
        rows += page.rows
        first, last = left[0][0], left[-1][1]
        assert all(p.lo < last and first < p.hi for p in page.promises), "of others it says nothing"
        for promise in page.promises:
            for offset in range(promise.lo, min(promise.hi, end)):
                if any(lo <= offset < hi for lo, hi in left):
                    promised[offset] = promise.ballot
        pages, start = pages + 1, page.next
    return rows, promised, pages


def tombstones(batch):
    """Each trimmed segment, page by page; and the pages."""
    gone, pages, first = set(), 0, 0
    while first < SEGMENTS:
        page = acceptors.tombstones(batch, Trims("s", first, SEGMENTS))
        end = SEGMENTS if page.next == COMPLETE else page.next
        assert end > first, "a page that says nothing"
        for lo, hi in page.spans:
            gone.update(range(lo, min(hi, end)))
        pages, first = pages + 1, end
    return gone, pages


def names(batch):
    """The names of the spaces, page by page; and the pages."""
    found, pages, after = [], 0, ""
    while page := tables.space_names(batch, after, KNOBS.server_page_names):
        found, pages, after = found + page, pages + 1, page[-1]
    return found, pages


@pytest.mark.parametrize("seed", range(20))
def test_small_pages_say_together_what_one_page_says(seed):
    rng = random.Random(seed)
    batch, spans = drawn(rng), spans_of(rng)
    whole = report(batch, spans), tombstones(batch), names(batch)
    assert [one[-1] for one in whole[:2]] == [1, 1]
    for few in (0, 1):
        with turned(**{name: values[few] for name, values in SMALL.items()}):
            parts = report(batch, spans), tombstones(batch), names(batch)
        for one, other in zip(whole, parts, strict=True):
            assert other[:-1] == one[:-1]
    assert sum(other[-1] for other in parts) > 3, "nothing came in pages"
