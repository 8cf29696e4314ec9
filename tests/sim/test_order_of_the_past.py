"""Listeners that begin in the midst of writing: past and present in the order of the writes."""

import logging

import pytest

from wormspace.sim.campaign import Result, Shape, run
from wormspace.sim.disk import DiskOptions
from wormspace.sim.faults import FaultPlan
from wormspace.sim.latency import skewed
from wormspace.sim.mix import Mix
from wormspace.sim.network_options import NetworkOptions

WEIGHTS = {"write": 20, "write_range": 10, "read": 4, "alloc": 1, "listen": 4}


def calm():
    """Servers are slow now and then, each at other times; nobody is ever gone."""
    return Shape(
        duration_s=2.0,
        calm=True,
        client_crash_every_s=1000.0,
        mix=Mix(calls=dict.fromkeys(Mix().calls, 0) | WEIGHTS, size=30),
        faults=FaultPlan(kinds=("slow disk",), every_s=(0.02, 0.3), lasting_s=(0.02, 0.3)),
        disk=DiskOptions(commit_s=skewed(0.0003, 0.005)),
        network=NetworkOptions(latency=skewed(0.0003, 0.003)),
    )


@pytest.mark.parametrize("seed", range(6))
def test_what_was_written_before_is_told_before(seed, caplog):
    caplog.set_level(logging.CRITICAL)
    report = run(seed, calm())
    assert report.result is Result.RIGHT, report.story
