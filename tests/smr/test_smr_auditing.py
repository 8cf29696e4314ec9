"""Digests of the whole state, and what proposers claim theirs to be."""

import asyncio

import pytest
from digests import state_digest

from wormspace.knobs import turned
from wormspace.smr import StateMachine
from wormspace.smr.auditing import Audits
from wormspace.smr.engine import Engine
from wormspace.smr.records import NOOP, Mark
from wormspace.smr.snapshots import Audit
from wormspace.space import Address


class Notes(StateMachine):
    seen: list[int] = list(range(5000))  # noqa: RUF012


class Fake:
    """An audit whose digest is made up."""

    def __init__(self, offset, digest, error=None):
        self.position, self._digest, self.error, self.closed = Address(0, offset), digest, error, 0

    def steps(self):
        yield
        if self.error is not None:
            raise self.error

    def digest(self):
        return self._digest

    def close(self):
        self.closed += 1


async def test_a_state_is_hashed_while_others_run_and_is_as_it_was():
    engine = Engine(Notes())
    engine.apply(NOOP, 9)
    expected = state_digest(engine)
    audits, turns = Audits(lambda position: None), []
    taking = asyncio.ensure_future(audits.take(Audit(engine)))
    while not taking.done():
        turns.append(len(engine.machine._journal.images))
        await asyncio.sleep(0)
    assert len(turns) > 2
    assert await taking == Mark(Address(0, 1), expected)
    assert engine.machine._journal.images == []


@pytest.mark.parametrize("first", ["own", "claimed"])
async def test_what_differs_is_told_whichever_comes_first(first):
    told = []
    audits = Audits(told.append)
    for offset, digest in ((1, b"b"), (2, b"a"), (3, b"c"), (4, b"b")):
        claim = Mark(Address(0, offset), b"b")
        if first == "claimed":
            audits.claim(claim)
        audit = Fake(offset, digest)
        assert await audits.take(audit) == Mark(Address(0, offset), digest)
        assert audit.closed == 1
        if first == "own":
            audits.claim(claim)
    assert told == [Address(0, 2), Address(0, 3)]
    audits.claim(Mark(Address(0, 2), b"b"))
    audits.claim(Mark(Address(0, 9), b"x"))
    assert told == [Address(0, 2), Address(0, 3)], "each is compared once, and with its like"


async def test_an_audit_that_fails_is_closed_and_claims_nothing():
    told = []
    audits, audit = Audits(told.append), Fake(1, b"a", ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        await audits.take(audit)
    audits.claim(Mark(Address(0, 1), b"b"))
    assert (audit.closed, told) == (1, [])


async def test_so_many_are_kept_of_those_that_nobody_has_to_compare():
    with turned(smr_audits_kept=2):
        told = []
        audits = Audits(told.append)
        for offset in range(5):
            await audits.take(Fake(offset, b"own"))
        for offset in range(10, 15):
            audits.claim(Mark(Address(0, offset), b"claimed"))
        for offset in range(5):
            audits.claim(Mark(Address(0, offset), b"other"))
        assert told == [Address(0, 3), Address(0, 4)]
        told.clear()
        audits = Audits(told.append)
        for offset in range(10, 15):
            audits.claim(Mark(Address(0, offset), b"claimed"))
        for offset in range(10, 15):
            await audits.take(Fake(offset, b"other"))
        assert told == [Address(0, 13), Address(0, 14)]
