"""No call takes longer than it may, whoever is silent, and each says what is true."""

import asyncio

import pytest
from log_worlds import LogWorld
from test_log_closing import PUBLIC_CALLS

import wormspace

LIMIT_S = 1.5
EPSILON_S = 0.1

WITHOUT_A_TIME_OUT = {"listen", "stand_by", "append_many of none"}


NEEDS_A_MAJORITY = {"append", "append_many", "tail", "trim", "commit", "append with a stream"}


def timed(log):
    """Each public call, with a time-out."""
    yield "append", log.append(b"x", timeout=LIMIT_S)
    yield "append with a stream", log.append(b"x", streams=["new"], timeout=LIMIT_S)
    yield "append_many", log.append_many([b"x"] * 50, timeout=LIMIT_S)
    yield "read", log.read(3, timeout=LIMIT_S)
    yield "read_range", log.read_range(0, timeout=LIMIT_S)
    yield "tail", log.tail(timeout=LIMIT_S)
    yield "first", log.first(timeout=LIMIT_S)
    yield "fill", log.fill(3, timeout=LIMIT_S)
    yield "read_stream", log.read_stream("s", timeout=LIMIT_S)
    yield "streams", log.streams(timeout=LIMIT_S)
    yield "trim", log.trim(3, timeout=LIMIT_S)
    yield "trim_older", log.trim_older(0, timeout=LIMIT_S)
    yield "trim_larger", log.trim_larger(0, timeout=LIMIT_S)
    yield "info", log.info(timeout=LIMIT_S)
    yield "load", log.cursor("c").load(timeout=LIMIT_S)
    yield "commit", log.cursor("c").commit(1, timeout=LIMIT_S)


def test_each_public_call_is_timed():
    class Any:
        def __getattr__(self, name):
            return lambda *_, **__: self

    named = {name for name, _ in timed(Any())} - {"append with a stream"}
    assert named == PUBLIC_CALLS.keys() - WITHOUT_A_TIME_OUT


async def write_some(log):
    for i in range(20):
        await log.append(b"%d" % i, streams=["s"])
    await log.cursor("c").commit(2)


async def how_long(call):
    """Seconds until it ended, and with what."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        result = await call
    except wormspace.WormError as e:
        result = e
    return loop.time() - began, result


@pytest.mark.parametrize("sequencer", ["auto", "none", "elsewhere"])
@pytest.mark.parametrize("silent", ["all servers", "two servers", "the sequencer"])
def test_calls_end_in_time_whoever_is_silent(silent, sequencer):
    cluster = LogWorld(3)
    names = {
        "all servers": cluster.servers,
        "two servers": cluster.servers[:2],
        "the sequencer": [],
    }
    late = []

    async def sequencing(worm):
        log = await worm.log("orders", segment_size=8, host="q", patience_s=0.05)
        await write_some(log)
        await log.stand_by()

    async def user(worm):
        await asyncio.sleep(3)
        first = await worm.log("orders", sequencer=sequencer, host="u")
        await write_some(first)
        cut = ["q"] if silent == "the sequencer" else names[silent]
        cluster.world.network.cut(["u"], cut)
        for other in (first, None):
            if other is None:  # one that has no place of its own to begin from
                took, result = await how_long(worm.log("orders", timeout=LIMIT_S))
                note("opening", took, result)
                continue
            for what, call in timed(other):
                note(what, *await how_long(call))

    def note(what, took, result):
        if took > LIMIT_S + EPSILON_S:
            late.append((what, took))
        if silent == "the sequencer":
            if isinstance(result, wormspace.Unavailable):
                assert "sequencer" in str(result), (what, result)
        elif what == "streams" and sequencer != "none":
            assert "s" in result, "the sequencer knows, and reaches the servers"
        elif silent == "all servers" or what in NEEDS_A_MAJORITY:
            assert isinstance(result, wormspace.Unavailable), (what, result)
            assert str(result), what

    async def drive():
        cluster.spawn("q", sequencing)
        await cluster.spawn("u", user).wait()

    cluster.run(drive())
    assert not late
