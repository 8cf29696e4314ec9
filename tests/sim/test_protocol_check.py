"""Every message of a run is one that the proved protocol allows; a mistake in it is noticed."""

import logging

import pytest
from tests.mutating import Mutant

from wormspace.sim.campaign import Run, Shape
from wormspace.sim.mix import Mix
from wormspace.sim.network_options import Loss, NetworkOptions

SEEDS = 12

IN_DOUBT = Shape(
    duration_s=6.0,
    lossy=True,
    network=NetworkOptions(framed=True, loss=Loss(drop=0.08, duplicate=0.05, delay=0.2)),
    mix=Mix(size=4, calls={"write": 20, "reuse": 40}),
)
"""Many second values under one token, the first one being in doubt."""

REGISTERS = "wormspace.registers.paxos.client:PaxosRegisters"

BROKEN = {
    "ballots": Mutant(f"{REGISTERS}._next_ballot", "max(floor, self._seen)", "max(floor, UNSAFE)"),
    "one value": Mutant(
        f"{REGISTERS}._issue",
        "if writes.is_refused or not writes.issued.issue(offset, value):",
        "writes.issued.issue(offset, value)\nif writes.is_refused:",
    ),
    "one issuer": Mutant(
        f"{REGISTERS}.trim", "{TRIM: TRIM_VALUE}", "{TRIM: TRIM_VALUE + self._proposer}"
    ),
    "pages first: a write": Mutant(
        "wormspace.paxos.prepare:on_promise", "if p.next != COMPLETE:", "if False:", seed=1
    ),
    "pages first: a value": Mutant(
        "wormspace.paxos.prepare:better", "b.ballot > a.ballot", "b.ballot < a.ballot", seed=15
    ),
    "store: a capture": Mutant(
        "wormspace.server.acceptors:capturing",
        "tables.store_slice(batch, tables.PROMISES, prefix, old, new)",
        "pass",
    ),
    "store: what was accepted": Mutant(
        "wormspace.server.acceptors:write", "batch.put_many(tables.ROWS, items)", "pass"
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_it_notices_a_mistake_against(rule, caplog):
    caplog.set_level(logging.CRITICAL + 1)
    with BROKEN[rule].applied():
        for seed in BROKEN[rule].seeds(SEEDS):
            making = Run(seed, IN_DOUBT if rule == "one value" else Shape.draw(seed))
            with making.world as world:
                try:
                    world.run(making.drive(), deadline_s=100.0)
                except Exception:  # noqa: BLE001 - others may notice, too
                    pass
            first = making.protocol.first
            if first is not None and first.claim.startswith(rule):
                print(f"seed {seed}: {first.claim}")
                return
    pytest.fail(f"none of {SEEDS} runs showed it")
