"""Sets of offsets, against Python's own."""

import itertools
import random

from wormspace.registers.spans import OffsetSet


def test_a_set_has_what_was_put_in_and_knows_what_is_missing():
    rng = random.Random(1)
    for _ in range(300):
        numbers, naive = OffsetSet(), set()
        size = rng.choice([5, 70, 3000, 5000])
        for _ in range(rng.choice([0, 1, 3, 30])):
            lo = rng.randrange(size)
            hi = min(size, lo + rng.choice([1, 1, 2, 30, 1500]))
            if hi == lo + 1:
                numbers.add(lo)
            else:
                numbers.add_span(lo, hi)
            naive |= set(range(lo, hi))
        lo = rng.randrange(size)
        hi = rng.randrange(lo, size + 1)
        missing = [offset for offset in range(lo, hi) if offset not in naive]
        assert all((offset in numbers) == (offset in naive) for offset in range(size))
        spans = numbers.missing(lo, hi, size)
        assert [offset for a, b in spans for offset in range(a, b)] == missing
        assert all(a < b for a, b in spans)
        assert all(one[1] < other[0] for one, other in itertools.pairwise(spans))
        most = rng.choice([1, 2, 3])
        few = numbers.missing(lo, hi, most)
        assert len(few) <= most
        covered = {offset for a, b in few for offset in range(a, b)}
        assert set(missing) <= covered <= set(range(lo, hi))
