"""A change of the log or of a space's tail that breaks what they promise makes layer 4 fail."""

from __future__ import annotations

import pytest
from mistakes import some_for_soak
from verification.applications import PACKAGE
from verification.source import shipped

from verification import trials

# One process: which function is executed where is found out once.
pytestmark = pytest.mark.xdist_group("layer 4")

BROKEN = [
    ("log.sequencer", "sum(ask.counts)\n", "len(ask.counts)\n", "positions are given twice"),
    (
        "log.sequencer",
        "last[1].end if last else 0",
        "last[1].first if last else 0",
        "a successor begins too low",
    ),
    ("log.sequencer", "slot, fill=True", "slot", "a successor does not fill what it passes"),
    ("log.sequencer", " or self._turn.locked()", "", "slots and positions change their order"),
    (
        "log.reading",
        "if fill and None in values[last + 1 :]",
        "if False",
        "the last one may not be",
    ),
    ("log.reading", "below, width = start,", "below, width = start - 1,", "a slot is passed over"),
    ("log.reading", "if position < self.trim_point.at.position:", "if False:", "gone, told a hole"),
    ("log.reading", "seen.slots[i] + 1, seen.ends[i]", "seen.slots[i] + 2, 0", "begins above it"),
    ("log.reading", "if raw is None:\n                break", "if False: break", "open, passed"),
    ("log.reading", "batch.end > self.position:", "batch.end > self.position + 1:", "a lost entry"),
    ("log.appending", "if error is None:", "if True:", "what failed is acknowledged"),
    ("log.appending", "elif await self._segmented_log.settle(", "elif bool(", "what is lost, too"),
    ("log.appending", "for draft in lost for part", "for draft in drafts for part", "twice"),
    ("log.appending", "position += draft.count", "position += 1", "batches overlap"),
    ("log.appending", "position += stop - start", "position += 1", "a wrong position is told"),
    ("space.space", "low = probe + 1", "low = probe + step", "the tail is above what is there"),
    ("space.space", "low = middle + 1", "low = middle + 2", "the tail is one too high"),
]


@pytest.mark.parametrize(("module", "old", "new", "what"), some_for_soak(BROKEN))
def test_layer_4_fails_when(module: str, old: str, new: str, what: str) -> None:
    text = shipped(PACKAGE)[module]
    assert text.count(old) == 1, f"the source no longer says {old!r} once: choose another mutation"
    assert trials.killed_application({module: text.replace(old, new)}).killed, what
