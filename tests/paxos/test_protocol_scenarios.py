"""The protocol as transcripts: scenarios/*.txt, each a story with the messages it takes.

`WORMSPACE_REWRITE=1 pytest tests/paxos/test_protocol_scenarios.py` writes what comes of them
today; the difference is then for a reader to judge.
"""

import os
from pathlib import Path

import pytest
from scenario_player import replay

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda p: p.stem)
def test_the_scenario_plays_as_it_is_written(path):
    text = path.read_text()
    played = replay(text)
    if os.environ.get("WORMSPACE_REWRITE"):
        path.write_text(played)
    assert played == path.read_text()


def test_there_are_scenarios():
    assert len(SCENARIOS) >= 8
