"""An append is exactly two round trips, however many servers there are."""

import asyncio

import pytest
from log_worlds import LogWorld

from wormspace.sim import DiskOptions, NetworkOptions, World
from wormspace.sim.latency import constant

DELAY_S = 0.001


def counting():
    """A world in which a message takes a millisecond and all else nothing: time counts delays.

    Not a second, as in `World.counting_delays`: connections would be given up for dead.
    """
    latency = constant(DELAY_S)
    network = NetworkOptions(latency=latency, own_latency=latency)
    return World(0, network=network, disk=DiskOptions.instant(), executor_delay_s=0.0)


def delays(servers, use, *, appender="elsewhere", segment_size=None):
    """Message delays of `use(log)`, connections being warm.

    appender: "elsewhere" puts the sequencer into another process; "auto", into this one.
    """
    cluster = LogWorld(servers=servers, world=counting())

    async def sequence(worm):
        log = await worm.log("orders", host="a", segment_size=segment_size)
        await log.append(b"the first makes it the sequencer")
        await asyncio.Event().wait()

    async def measure(worm):
        log = await worm.log("orders", host="b", sequencer=appender, segment_size=segment_size)
        await log.append(b"the first makes the connections")
        await asyncio.sleep(1)
        loop = asyncio.get_running_loop()
        before = loop.time()
        await use(log)
        return round((loop.time() - before) / DELAY_S, 6)

    async def drive():
        if appender == "elsewhere":
            cluster.spawn("a", sequence)
            await asyncio.sleep(1)
        return await cluster.spawn("b", measure).wait()

    return cluster.run(drive())


@pytest.mark.parametrize("servers", [3, 5])
def test_an_append_is_exactly_two_round_trips(servers):
    assert delays(servers, lambda log: log.append(b"x")) == 4.0


@pytest.mark.parametrize("servers", [3, 5])
def test_many_appended_at_once_are_two_round_trips_as_well(servers):
    assert delays(servers, lambda log: log.append_many([b"x"] * 100)) == 4.0


def test_concurrent_appends_share_one_question():
    async def at_once(log):
        await asyncio.gather(*(log.append(b"x") for _ in range(50)))

    assert delays(3, at_once) == 4.0


def test_with_the_sequencer_in_the_same_process_it_is_one_round_trip():
    assert delays(3, lambda log: log.append(b"x"), appender="auto") == 2.0


def test_without_a_sequencer_a_lone_appender_pays_one_round_trip():
    assert delays(3, lambda log: log.append(b"x"), appender="none") == 2.0


def test_appends_with_streams_are_two_round_trips():
    assert delays(3, lambda log: log.append(b"x", streams=["a", "b"])) == 4.0


def test_segments_are_made_ready_ahead_of_need():
    async def many(log):
        loop = asyncio.get_running_loop()
        slowest = 0.0
        for _ in range(40):
            before = loop.time()
            await log.append(b"x")
            slowest = max(slowest, round((loop.time() - before) / DELAY_S, 6))
            await asyncio.sleep(0.04)
        assert slowest == 4.0, "an append waited for a new segment"

    delays(3, many, segment_size=8)
