"""The campaign of transfers finds what it is for: each mistake in shipped code is caught."""

import logging

import pytest
from tests.mutating import Mutant
from tests.tx.test_tx_campaign import CONVERGE_S, run

SEEDS = 10

MISTAKES = {
    "a vote that is missing counts as a yes": Mutant(
        "wormspace.tx.deciding:after", "return UNDECIDED", "return so_far"
    ),
    "one yes is enough": Mutant(
        "wormspace.tx.deciding:judge", "for manager in participants:", "for manager in votes:"
    ),
    "any database is the one that a name means": Mutant(
        "wormspace.tx.identity:Identities.check", "if found != meant:", "if False:"
    ),
    "votes are trimmed though a manager elsewhere has not acted": Mutant(
        "wormspace.tx.trimming:Finished._is_prepared_anywhere",
        "raw = await host.peers.call(address, ListPrepared(name), self._patience)",
        "continue",
    ),
}


SOON = ("a vote that is missing counts as a yes", "one yes is enough")
"""Those that the first runs show, soon after the faults."""


def campaign(seed: int, mistake: str) -> None:
    peace_s = 12.0 if mistake in SOON else CONVERGE_S
    two_of_a_name = "database" in mistake
    run(seed, faults_s=4.0, peace_s=peace_s, two_of_a_name=two_of_a_name, tx_segment_size=4)


def test_transfers_under_faults_pass_where_a_mistake_fails() -> None:
    campaign(0, SOON[0])


@pytest.mark.parametrize(
    "mistake",
    [pytest.param(one, marks=() if one in SOON else pytest.mark.soak) for one in MISTAKES],
)
def test_transfers_under_faults_show_that(mistake, caplog):
    caplog.set_level(logging.CRITICAL + 1)
    with MISTAKES[mistake].applied():
        for seed in range(SEEDS):
            try:
                campaign(seed, mistake)
            except Exception as e:  # noqa: BLE001 - unbroken, they pass: whatever it is, it is found
                print(f"seed {seed}: {str(e)[:100]!r}")
                return
    pytest.fail(f"none of {SEEDS} campaigns found it")
