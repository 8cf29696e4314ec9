"""A takeover that takes longer than a call may take is not begun again: it goes on."""

import asyncio
import gc

import pytest
from log_worlds import LogWorld

import wormspace
from wormspace.knobs import turned
from wormspace.log.sequencer import Sequencer
from wormspace.log.sequencer_client import SequencerClient, _Here
from wormspace.sim import NetworkOptions, World
from wormspace.sim.latency import constant

DELAY_S = 0.4
PATIENCE_S = 1.0
"""A call's time-out: more than a round trip, and a third of what a takeover takes, or less."""

ATTEMPTS = 60

COUNT, REPLACED = 40, 5
"""Of so many appends of each of two processes; each doubles its patience twice, one is first."""


def slow_world(delay_s=DELAY_S):
    """Messages between hosts take long, those within a host hardly any time."""
    return World(0, network=NetworkOptions(latency=constant(delay_s)))


@pytest.fixture
def takeovers(monkeypatch):
    """How long each acquisition took, None where it was given up."""
    taken = []
    acquire = Sequencer._acquire

    async def counting(sequencer):
        loop = asyncio.get_running_loop()
        began, index = loop.time(), len(taken)
        taken.append(None)
        term = await acquire(sequencer)
        taken[index] = loop.time() - began
        return term

    monkeypatch.setattr(Sequencer, "_acquire", counting)
    return taken


async def leave_a_log(worm):
    """One that somebody else has appended to, and left gaps in."""
    log = await worm.log("orders", segment_size=8, host="q", sequencer="none")
    for i in range(12):
        await log.append(b"%d" % i, streams=["s"])
        if i % 3 == 0:
            log._sequencing._sequencer._term.take(1)


async def insist(call):
    """How many attempts it took."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await call()
        except wormspace.Unavailable:
            continue
        return attempt
    raise AssertionError(f"{ATTEMPTS} attempts, and nothing was done")


@pytest.mark.parametrize("streams", [(), ("s",)])
@pytest.mark.parametrize("sequencer", ["auto", "none"])
def test_the_next_attempt_gets_on_with_a_takeover(sequencer, streams, takeovers):
    cluster = LogWorld(world=slow_world(), timeout_s=20.0)

    async def use(worm):
        log = await worm.log("orders", sequencer=sequencer, host="u")
        await insist(lambda: log.append(b"x", streams=streams, timeout=PATIENCE_S))
        await log.close()

    async def drive():
        await cluster.spawn("q", leave_a_log).wait()
        takeovers.clear()
        await cluster.spawn("u", use).wait()

    cluster.run(drive())
    assert len(takeovers) == 1
    assert takeovers[0] > 3 * PATIENCE_S, "the test is of nothing else"


@pytest.mark.parametrize(
    "change",
    [
        lambda log: log.cursor("c").commit(3, timeout=PATIENCE_S),
        lambda log: log.trim(12, timeout=16 * PATIENCE_S),  # reading takes 13, setting it 12
    ],
    ids=["commit", "trim"],
)
def test_the_next_attempt_gets_on_with_a_change_of_a_mark(change):
    cluster = LogWorld(world=slow_world(), timeout_s=20.0)

    async def use(worm):
        log = await worm.log("orders", host="u")
        await log.tail()
        await insist(lambda: change(log))
        await log.close()

    async def drive():
        await cluster.spawn("q", leave_a_log).wait()
        await cluster.spawn("u", use).wait()

    cluster.run(drive())


def test_two_processes_do_not_replace_each_other_for_ever(monkeypatch):
    """Though a sequencer answers later, at first, than the other process waits for it."""
    cluster = LogWorld(world=slow_world(0.6), timeout_s=60.0)
    became, attempts, enough = [], [], asyncio.Event()
    turn_to = SequencerClient._turn_to

    async def noting(sequencing, to):
        if isinstance(to, _Here):
            became.append(to.number)
        await turn_to(sequencing, to)

    monkeypatch.setattr(SequencerClient, "_turn_to", noting)

    def user(name):
        async def use(worm):
            log = await worm.log("orders", host=name)
            while len(attempts) < 2 * COUNT:
                attempts.append(await insist(lambda: log.append(b"x", timeout=5.0)))
            enough.set()
            await asyncio.Event().wait()

        return use

    async def drive():
        await cluster.spawn("q", leave_a_log).wait()
        for name in ("u", "v"):
            cluster.spawn(name, user(name))
        await enough.wait()

    cluster.run(drive(), deadline_s=10_000)
    assert len(became) <= REPLACED, became
    assert sum(attempts) < 6 * COUNT, attempts


CHANGES = {
    "append": lambda log: log.append(b"x", streams=["s"]),
    "commit": lambda log: log.cursor("c").commit(3),
    "trim": lambda log: log.trim(12),
    "streams": lambda log: log.streams(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("waits", [True, False], ids=["under way", "cut off"])
def test_nothing_goes_on_when_the_log_is_closed(change, waits):
    """At whatever step of it; who waits is told that it was closed, two as well as one."""
    cluster = LogWorld(world=slow_world(), timeout_s=60.0)
    ends = set()

    async def close_after(worm, seconds):
        log = await worm.log("orders", host="u")
        await log.tail()
        before = asyncio.all_tasks()
        with turned(log_cursors=1):
            calls = [asyncio.ensure_future(change(log)) for _ in range(2)]
            await asyncio.sleep(seconds)
            if not waits:
                for call in calls:
                    call.cancel()
                await asyncio.wait(calls)
                log.cursor("another")
                gc.collect()
            await log.close()
            closed_at = asyncio.get_running_loop().time()
            for end in await asyncio.gather(*calls, return_exceptions=True):
                ends.add(type(end))
            assert asyncio.get_running_loop().time() == closed_at
        assert not {task for task in asyncio.all_tasks() - before if "space/log" in where(task)}

    async def use(worm):
        for step in range(1, 26, 3):
            await close_after(worm, step * DELAY_S)

    async def drive():
        await cluster.spawn("q", leave_a_log).wait()
        await cluster.spawn("u", use).wait()

    cluster.run(drive())
    told = wormspace.Closed if waits else asyncio.CancelledError
    assert ends - {int, dict, type(None)} == {told}


def where(task):
    return task.get_coro().cr_code.co_filename
