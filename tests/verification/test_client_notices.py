"""A change of the client that lets one ballot stand for two values makes layer 4 fail."""

from __future__ import annotations

import pytest
from mistakes import some_for_soak
from verification.applications import PACKAGE
from verification.source import shipped

from verification import trials

pytestmark = pytest.mark.xdist_group("layer 4")

BROKEN = [
    ("client", "if writes.is_refused or not", "if not", "a forgotten doubt is written"),
    ("client", "            if known:\n", "            if taken or offset in "
     "writes.issued.decided:\n", "what another call wrote meanwhile is told to be gone"),
    ("client", "self._taken = max(self._taken, ballot)", "pass", "a ballot twice"),
    ("client", "if machine.phase == prepare.PROMISED and await", "if await",
     "a capture writes before it is promised"),
    ("memory", "(self._in_doubt if oldest.issued.doubt else self._decided)", "self._decided",
     "a doubt is forgotten as if it were decided"),
    ("operations", "for tally in (*lost, *still_open)}", "for tally in lost}",
     "what no quorum accepted is told to be written"),
    ("issued", "if digest is not None and digest != _digest(value):", "if False:",
     "another value than the one in doubt"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "old", "new", "what"), some_for_soak(BROKEN))
def test_layer_4_fails_when(module: str, old: str, new: str, what: str) -> None:
    name = f"registers.paxos.{module}"
    text = shipped(PACKAGE)[name]
    assert text.count(old) == 1, f"the source no longer says {old!r} once: choose another mutation"
    assert trials.killed_application(
        {f"registers.paxos.{module}": text.replace(old, new)}
    ).killed, what
