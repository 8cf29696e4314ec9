"""The campaigns of replicas find what they are for: each mistake in shipped code is caught."""

import logging

import pytest
from smr_worlds import run_faulty
from snapshot_worlds import run_on_snapshots
from tests.mutating import Mutant

from wormspace.smr import Sticky

SEEDS = 30

SESSIONS = "wormspace.smr.sessions:Sessions"
ENGINE = "wormspace.smr.engine:Engine"
WRITING = "wormspace.smr.term"
LEARNER = "wormspace.smr.learner:Learner"

ON_SNAPSHOTS = {
    "a snapshot keeps each client's newest outcome only": Mutant(
        f"{SESSIONS}.dump", "dict(s.outcomes)", "dict(sorted(s.outcomes.items())[-1:])"
    ),
    "a replica claims a snapshot of what came while it was saved": Mutant(
        "wormspace.smr.durability:save",
        "return snapshot.position",
        "return engine.position",
        seed=1,
    ),
    "a packet that was applied is applied again": Mutant(
        f"{ENGINE}._apply_packet", "if known is not None:", "if False:"
    ),
    "outcomes are forgotten one too early": Mutant(
        f"{SESSIONS}.keep",
        "for number in [n for n in session.outcomes if n < packet.low]:",
        "for number in [n for n in session.outcomes if n <= packet.low]:",
        seed=7,
    ),
    "a snapshot says nothing of sessions": Mutant(
        f"{SESSIONS}.add", "self._clients.update(clients)", "pass", seed=1
    ),
    "a snapshot is restored one register too far": Mutant(
        f"{LEARNER}.install",
        "self.engine = engine",
        "self.engine = engine\nengine.position = type(engine.position)("
        "engine.position.segment, engine.position.offset + 1)",
    ),
}

WHEN_LEADERS_FALL = {
    "a segment is left without a seal": Mutant(
        f"{WRITING}:close", "if sealed or end >= segment.size:", "if True:"
    ),
    "a leader answers a read by itself": Mutant(
        f"{WRITING}:Term._confirm", "if not await self._stands():", "if False:"
    ),
    "a client's second try is a new command": Mutant(
        f"{SESSIONS}.find", "session.outcomes.get(packet.number)", "None"
    ),
    "what was lost with a register is not proposed again, and yet answered": Mutant(
        f"{WRITING}:Term._insist",
        "except RaceLost:",
        "except RaceLost:\n    self._context.learner.learn(address, raw)",
    ),
}


def _found(mutant, run):
    with mutant.applied():
        for seed in mutant.seeds(SEEDS):
            try:
                run(seed)
            except Exception as e:  # noqa: BLE001 - unbroken, they pass: whatever it is, it is found
                print(f"seed {seed}: {str(e)[:100]!r}")
                return True
    return False


@pytest.mark.soak
@pytest.mark.parametrize("mistake", ON_SNAPSHOTS)
def test_replicas_that_live_by_snapshots_show_that(mistake, caplog):
    caplog.set_level(logging.CRITICAL + 1)
    assert _found(ON_SNAPSHOTS[mistake], run_on_snapshots)


@pytest.mark.soak
@pytest.mark.parametrize("mistake", WHEN_LEADERS_FALL)
def test_leaders_that_fall_show_that(mistake, caplog):
    caplog.set_level(logging.CRITICAL + 1)

    def run(seed):
        run_faulty(seed, options=lambda name: {"leadership": Sticky(0.15)}, duration_s=6.0, size=4)

    assert _found(WHEN_LEADERS_FALL[mistake], run)


@pytest.mark.parametrize("seed", range(3))
def test_replicas_that_live_by_snapshots_lose_nothing(seed):
    assert run_on_snapshots(seed).answered > 50


@pytest.mark.soak
def test_many_replicas_that_live_by_snapshots():
    for seed in range(1000, 1200):
        run_on_snapshots(seed)
