"""The shipped client and server under faults: every claim holds, in every run.

Seeds are a fixed set, the same everywhere, and a few fresh ones, which are printed: a failure says
its seed, and `wormspace sim --seed` replays it.
"""

import asyncio
import logging
import os
import random
import subprocess
import sys

import pytest
from click.testing import CliRunner

import wormspace
from wormspace.cli.sim import sim_command
from wormspace.errors import CaptureLost
from wormspace.server.limits import Limits, ServerIdentity
from wormspace.server.listener import Server
from wormspace.sim import World, campaign
from wormspace.sim.campaign import Report, Result, Shape, run
from wormspace.sim.faults import KINDS, FaultPlan
from wormspace.sim.records import Violation
from wormspace.sim.world import current

FIXED = range(12)
FRESH = [random.SystemRandom().getrandbits(32) for _ in range(3)]
SHORT = Shape(duration_s=1.0, clients=3, workers=2)


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.CRITICAL)


def assert_right(report):
    assert report.result is Result.RIGHT, report.story


@pytest.mark.parametrize("seed", FIXED)
def test_every_claim_holds(seed):
    assert_right(run(seed))


def test_every_claim_holds_for_fresh_seeds():
    print(f"fresh seeds: {FRESH}")
    for seed in FRESH:
        assert_right(run(seed))


@pytest.mark.soak
def test_every_claim_holds_for_many_fresh_seeds():
    first = random.SystemRandom().getrandbits(32)
    print(f"seeds from {first} on")
    for seed in range(first, first + 500):
        assert_right(run(seed))


def test_a_run_replays_byte_for_byte_whatever_the_interpreters_hash_seed():
    script = (
        "import logging; logging.disable(logging.CRITICAL)\n"
        "from wormspace.sim.campaign import run; print(run(3).digest)"
    )

    def elsewhere(hash_seed):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", script]
        return subprocess.run(command, env=environment, capture_output=True, check=True).stdout

    assert elsewhere("1").strip() == elsewhere("2").strip() == run(3).digest.encode()


def test_the_runs_are_not_tame():
    """Faults of every kind strike, calls of every kind end in every way, and most are answered."""
    faults, outcomes, operations = {}, {}, 0
    for seed in (1, 3, 4, 7, 8):
        report = run(seed)
        operations += report.operations
        for counts, more in ((faults, report.faults), (outcomes, report.outcomes)):
            for name, count in more.items():
                counts[name] = counts.get(name, 0) + count
    assert set(KINDS) <= set(faults)
    assert {"frames lost", "crash client", "pause client"} <= {n for n, c in faults.items() if c}
    expected = {"answered", "unavailable", "CaptureLost", "AlreadyWritten", "Trimmed"}
    assert expected <= set(outcomes)
    assert operations > 2000
    assert outcomes["answered"] > operations / 4


# ------------------------------------------------------------------ liveness


@pytest.mark.parametrize("seed", range(3))
def test_when_the_faults_are_over_everybody_gets_through(seed):
    shape = Shape(duration_s=3.0, faults=FaultPlan(every_s=(0.01, 0.1), lasting_s=(0.2, 3.0)))
    report = run(seed, shape)
    assert_right(report)
    assert report.virtual_s < shape.duration_s + campaign.RECOVERY_S + campaign.HEARING_S


@pytest.mark.parametrize("seed", range(5))
def test_duelling_proposers_converge(seed):
    """Five clients capture and write one register, over and over: each finds it written soon."""
    held = []

    async def serve():
        host = current().host
        engine = current().world.host(host).disk().open()
        server = Server(ServerIdentity("cl", host, replicas=3), engine, Limits())
        await server.start("0.0.0.0", 7000)
        await asyncio.Event().wait()

    async def duel(world):
        name = current().host
        url = "worm://s1:7000,s2:7000,s3:7000"
        async with wormspace.connect(url, rng=world.random_for(name)) as worm:
            space = worm.space("s")
            await space.alloc(size=1)
            segment = await space.segment(0)
            while True:
                captured = await segment.capture(0)
                if captured.written:
                    held.append(captured.written[0])
                    return
                try:
                    await segment.write(0, name.encode(), captured.token)
                except CaptureLost:
                    pass

    with World(seed) as world:
        for name in ("s1", "s2", "s3"):
            world.spawn(name, serve)
        duels = [world.spawn(f"c{i}", lambda: duel(world)) for i in range(5)]

        async def all_of_them():
            await asyncio.gather(*(one.wait() for one in duels))

        world.run(all_of_them(), deadline_s=10.0)
    assert len(held) == 5
    assert len(set(held)) == 1


# ------------------------------------------------------------------ what a failure looks like


def test_a_wrong_result_a_stall_and_a_crash_are_three_results(monkeypatch):
    def fail(error):
        def check(self):
            raise error

        monkeypatch.setattr(campaign.Run, "check", check)
        return run(1, SHORT)

    wrong = fail(Violation("a claim", "the evidence"))
    assert (wrong.result, wrong.claim) == (Result.WRONG, "a claim")
    assert "the evidence" in wrong.story
    assert "seed 1, " in wrong.story
    assert fail(campaign.Stalled("no progress")).result is Result.STUCK
    crash = fail(ZeroDivisionError("a bug"))
    assert crash.result is Result.CRASHED
    assert "ZeroDivisionError" in crash.story


def test_servers_that_never_answer_are_a_liveness_failure(monkeypatch):
    monkeypatch.setattr(
        campaign.FaultSchedule, "stop", lambda self: self._world.network.cut(["s1", "s2"])
    )
    report = run(1, SHORT)
    assert report.result is Result.STUCK, report.story


@pytest.mark.parametrize("result", list(Result))
def test_the_command_ends_with_a_code_of_its_own_for_each_result(monkeypatch, result):
    def one(seed):
        return Report(seed, result, claim="a claim", story="the story")

    monkeypatch.setattr("wormspace.cli.sim.run", one)
    ended = CliRunner().invoke(sim_command, ["--seeds", "2", "--first", "7"])
    assert ended.exit_code == result.value
    assert ("the story" in ended.output) == (result is not Result.RIGHT)
    assert ("--seed 7" in ended.output) == (result is not Result.RIGHT)


def test_the_command_replays_one_seed():
    ended = CliRunner().invoke(sim_command, ["--seed", "2"])
    assert ended.exit_code == 0, ended.output
    assert run(2).digest in ended.output
