"""A listener that subscribes while a write is on its way to the disk hears of it."""

import asyncio

import wormspace
from wormspace.server.limits import Limits, ServerIdentity
from wormspace.server.listener import Server
from wormspace.sim import World
from wormspace.sim.world import current

SERVERS = ("s1", "s2", "s3")
URL = "worm://s1:7000,s2:7000,s3:7000"


async def serve():
    host = current().host
    engine = current().world.host(host).disk().open()
    server = Server(ServerIdentity("cl", host, replicas=3), engine, Limits())
    await server.start("0.0.0.0", 7000)
    await asyncio.Event().wait()


def heard_by_one_who_comes_while_the_disks_stall(act):
    """What the first listener of a space hears, when `act` is under way as it subscribes."""
    heard = []
    with World(1) as world:
        begun = asyncio.Event()

        async def listen():
            async with wormspace.connect(URL, rng=world.random_for("ear")) as worm:
                await begun.wait()
                async for event in worm.space("s").listen():
                    heard.append(event)  # noqa: PERF401 - it goes on for ever

        async def play():
            async with wormspace.connect(URL, rng=world.random_for("c0")) as worm:
                segment = await worm.space("s").alloc(size=8)
                captured = await segment.capture()
                await asyncio.sleep(1)
                for server in SERVERS:
                    world.host(server).disk().stall(True)
                acting = asyncio.ensure_future(act(worm, segment, captured.token))
                await asyncio.sleep(0.005)
                begun.set()
                await asyncio.sleep(0.010)
                for server in SERVERS:
                    world.host(server).disk().stall(False)
                await acting
            await asyncio.sleep(35)

        async def drive():
            for server in SERVERS:
                world.spawn(server, serve)
            world.spawn("ear", listen, may_fail=True)
            await world.spawn("c0", play).wait()

        world.run(drive())
    return heard


def test_the_first_listener_hears_of_a_write_that_commits_as_it_comes():
    async def write(worm, segment, token):
        await segment.write(5, b"value", token)

    heard = heard_by_one_who_comes_while_the_disks_stall(write)
    assert wormspace.Written(wormspace.Address(0, 5), b"value") in heard


def test_the_first_listener_hears_of_a_trim_that_commits_as_it_comes():
    async def trim(worm, segment, token):
        await worm.space("s").trim(0)

    heard = heard_by_one_who_comes_while_the_disks_stall(trim)
    assert [type(event).__name__ for event in heard][-1] == "SegmentsTrimmed"
