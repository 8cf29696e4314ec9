"""A change of the protocol core that breaks safety makes the proof fail."""

from __future__ import annotations

import pytest
from mistakes import some_for_soak
from verification.source import shipped

from verification import trials

# One process: which function is executed where is found out once.
pytestmark = pytest.mark.xdist_group("layer 1")

BROKEN = [
    ("acceptor", "if ballot > top:", "if ballot >= top:", "two captors under one ballot"),
    ("acceptor", "if ballot < promised:", "if False:", "a stolen capture still writes"),
    ("acceptor", "if promised < ballot:", "if False:", "accepting does not raise the promise"),
    ("acceptor", "if value == row.value:", "if True:", "a second value under one ballot"),
    ("acceptor", "ballot >= mark.ballot", "ballot <= mark.ballot", "older rows count as decided"),
    ("ranges", "if r.lo <= offset", "if r.lo < offset", "a range forgets its first register"),
    ("ranges", "offset < r.hi and r.ballot > top", "offset < r.hi", "the last one wins"),
    ("ranges", "r.lo < hi and lo < r.hi", "r.lo < lo and lo < r.hi", "inner ranges are overlooked"),
    ("ranges", "if new.hi < r.hi:", "if False:", "the right rest of a cut range is lost"),
    ("ranges", "r.ballot != grown.ballot or ", "", "a capture grows over its neighbours"),
    ("prepare", "b.ballot > a.ballot", "b.ballot < a.ballot", "the lowest report is completed"),
    ("prepare", "row.ballot > c.ballot and not", "False and not", "late rows count as promised"),
    ("prepare", "PROMISED if is_quorum(promised, c.servers) else c.phase", "PROMISED", "alone"),
    ("quorum", "servers // 2 + 1", "servers // 2", "two quorums without a common server"),
    ("accept", "answered & ~refused_by", "answered", "refusals count as votes"),
    ("reading", "row.ballot == known.row.ballot", "row.ballot != known.row.ballot", "mixed votes"),
]


@pytest.mark.soak  # `make prove` shows it in each run of CI
def test_the_proof_holds_for_what_ships() -> None:
    assert not trials.killed({}).killed


@pytest.mark.parametrize(("module", "old", "new", "what"), some_for_soak(BROKEN))
def test_the_proof_fails_when(module: str, old: str, new: str, what: str) -> None:
    text = shipped()[module]
    assert text.count(old) >= 1, f"the source no longer says {old!r}: choose another mutation"
    assert trials.killed({module: text.replace(old, new)}).killed, what
