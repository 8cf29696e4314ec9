"""A report marks a register as decided exactly where the marks say so."""

import random

from wormspace.paxos.acceptor import is_decided
from wormspace.paxos.ranges import Range
from wormspace.server.acceptors import _decided_from


def ballot(n: int) -> bytes:
    return n.to_bytes(8, "big") + bytes(8)


def test_what_holds_for_a_whole_span_holds_for_each_of_its_registers():
    rng = random.Random(1)
    whole = 0
    for _ in range(2000):
        known = []
        for _ in range(rng.randrange(4)):
            lo = rng.randrange(8)
            known.append(Range(lo, rng.randrange(lo + 1, 12), ballot(rng.randrange(1, 4))))
        start = rng.randrange(8)
        stop = rng.randrange(start + 1, 10)
        sure = _decided_from(tuple(known), start, stop)
        for offset in range(start, stop):
            for n in range(5):
                if ballot(n) >= sure:
                    whole += 1
                    assert is_decided(tuple(known), offset, ballot(n))
    assert whole > 1000
