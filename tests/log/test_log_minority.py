"""A batch that only a minority of servers accepted, and what becomes of it under a new
sequencer.
"""

import asyncio

from log_worlds import LogWorld

import wormspace


def read_after_a_takeover():
    """One sequencer's appender reaches one server of three, then another sequencer takes over.

    What the second one was told must be what the log holds when everybody is back.
    """
    cluster = LogWorld()
    network = cluster.world.network
    told = {}

    async def opened(worm, host):
        return await worm.log("orders", host=host, segment_size=8, patience_s=0.1)

    async def first(worm):
        log = await opened(worm, "a")
        told[await log.append(b"before")] = b"before"
        hand_out = log._sequencing.give_now
        given = []

        def noting(ask):
            given.append(hand_out(ask))
            network.cut(["a"], ["s1", "s2"])
            return given[-1]

        log._sequencing.give_now = noting
        try:
            await log.append_many([b"half 1", b"half 2", b"half 3"], timeout=1)
        except wormspace.Unavailable:
            pass
        assert given[0] is not None
        network.cut(["a"], ["s3", "b", "c"])

    async def second(worm):
        away = network.cut(["b"], ["s3"])
        log = await opened(worm, "b")
        write_all = log._appender._write_all

        async def die(drafts, given, left):
            log._appender._write_all = write_all
            raise wormspace.Unavailable("this appender died")

        log._appender._write_all = die
        try:
            await log.append(b"never written", timeout=60)
        except wormspace.Unavailable:
            pass
        for body in (b"after 1", b"after 2"):
            told[await log.append(body, timeout=60)] = body
        network.heal(away)

    async def third(worm):
        away = network.cut(["c"], ["s1"])
        log = await opened(worm, "c")
        await log.read_range(0)  # decides what is empty, by those who may have accepted it
        network.heal(away)
        log = await opened(worm, "c")
        return {entry.position: entry.body for entry in await log.read_range(0)}

    async def drive():
        await cluster.spawn("a", first).wait()
        await cluster.spawn("b", second).wait()
        return await cluster.spawn("c", third).wait()

    held = cluster.run(drive())
    assert len(told) == 3
    assert {position: held.get(position) for position in told} == told


def test_it_gets_no_position_that_was_given_to_another():
    read_after_a_takeover()


def append_while_another_takes_over():
    """One appender's entry reaches one server of three; another one takes over, and decides it.

    Somebody had captured its slot and gone away, so it is decided under another ballot.  The first
    one is refused when it is back, finds that its own entry is there, and is content.
    """
    cluster = LogWorld(timeout_s=60.0)
    network = cluster.world.network
    cuts, ranges = [], []

    async def opened(worm, host):
        return await worm.log("orders", host=host, segment_size=8, patience_s=0.1)

    async def first(worm):
        log = await opened(worm, "a")
        await log.append(b"before")
        hand_out = log._sequencing.give_now

        def cutting(ask):
            log._sequencing.give_now = hand_out
            cuts.append(network.cut(["a"], ["s1", "s2", "b"]))
            given = hand_out(ask)
            ranges.extend(given.ranges)
            return given

        log._sequencing.give_now = cutting
        return await log.append(b"half")

    async def second(worm):
        away = network.cut(["b"], ["s3"])
        log = await opened(worm, "b")
        await log._appender._segmented_log.segment(ranges[0].segment).capture(ranges[0].start)
        network.heal(away)
        away = network.cut(["b"], ["s1"])  # so that it meets what the third server has
        await log.append(b"after")
        network.heal(away)
        for cut in cuts:
            network.heal(cut)

    async def third(worm):
        log = await opened(worm, "c")
        return {entry.position: entry.body for entry in await log.read_range(0)}

    async def drive():
        appender = cluster.spawn("a", first)
        await asyncio.sleep(2)
        assert cuts
        await cluster.spawn("b", second).wait()
        return await appender.wait(), await cluster.spawn("c", third).wait()

    position, held = cluster.run(drive())
    assert held[position] == b"half"
    assert sorted(held.values()) == [b"after", b"before", b"half"]


def test_an_entry_that_another_sequencer_decided_is_there_once():
    append_while_another_takes_over()
