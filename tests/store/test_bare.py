"""Spans of keys in which there is nothing, beside the set of keys that are in them."""

from __future__ import annotations

import itertools
import random

import pytest

from wormspace.store.bare import Bare


def words(most: int) -> list[bytes]:
    """All keys of two letters up to a length, in order; the first letter is the lowest byte."""
    return sorted(bytes(w) for n in range(1, most + 1) for w in itertools.product((0, 7), repeat=n))


KEYS, POINTS = words(2), words(4)


@pytest.mark.parametrize("seed", range(8))
def test_spans_are_the_set_of_their_keys_and_none_touches_another(seed: int) -> None:
    rng = random.Random(seed)
    bare, model = Bare(), set()
    for _ in range(40):
        if rng.random() < 0.6:
            lo, hi = sorted(rng.sample(KEYS, 2))
            bare.add(lo, hi)
            model |= {key for key in POINTS if lo <= key < hi}
        else:
            key = rng.choice(KEYS)
            bare.cut(key)
            model.discard(key)
        spans = list(bare._his.items())
        assert all(lo < hi for lo, hi in spans)
        assert all(hi < lo for (_, hi), (lo, _) in itertools.pairwise(spans))
        assert {key for key in POINTS if any(lo <= key < hi for lo, hi in spans)} == model
        for key in POINTS:
            around = [(lo, hi) for lo, hi in spans if lo <= key <= hi]
            assert bare.around(key) == (around or [(key, key)])[0]
