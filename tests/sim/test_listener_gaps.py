"""What a listener is told although its connections come and go."""

import asyncio

import pytest

import wormspace
from wormspace.errors import Unavailable
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


def cut_off(world, client, *servers):
    """Cut a client off from some servers, at once and noticed by both sides."""
    cut = world.network.cut([client], servers)
    for server in servers:
        world.network.reset(client, server)
    return cut


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_decision_is_heard_of_although_each_server_accepted_it_while_its_stream_was_away(
    comes_back,
):
    heard = []
    hear = heard.append

    with World(1) as world:

        async def listen():
            async with wormspace.connect(URL, rng=world.random_for("ear")) as worm:
                async for event in worm.space("s").listen():
                    hear(event)

        async def write(only):
            """An unsafe write that reaches one server."""
            name = current().host
            async with wormspace.connect(URL, rng=world.random_for(name)) as worm:
                segment = await worm.space("s").segment(0)
                cut = cut_off(world, name, *(s for s in SERVERS if s != only))
                try:
                    await segment.unsafe_write(5, b"value", timeout=0.5)
                except Unavailable:
                    return
                finally:
                    world.network.heal(cut)
            raise AssertionError("one server is no majority")

        async def drive():
            for server in SERVERS:
                world.spawn(server, serve)
            world.spawn("ear", listen, may_fail=True)
            await world.spawn("c0", allocate).wait()
            await asyncio.sleep(1)
            for writer, server in (("c1", "s1"), ("c2", "s2")):
                cut = cut_off(world, "ear", server)
                world.network.slow(server, 50.0)
                await world.spawn(writer, lambda server=server: write(server)).wait()
                if server == "s1" or comes_back:
                    world.network.heal(cut)
                await asyncio.sleep(3)
                world.network.slow(server, 1.0)
            await asyncio.sleep(5)

        async def allocate():
            async with wormspace.connect(URL, rng=world.random_for("c0")) as worm:
                await worm.space("s").alloc(size=8)

        world.run(drive())

    written = [event for event in heard if isinstance(event, wormspace.Written)]
    assert written == [wormspace.Written(wormspace.Address(0, 5), b"value")]
