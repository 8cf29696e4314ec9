"""A peer that was stopped costs this process a bounded amount of memory."""

import asyncio

import pytest

import wormspace
from wormspace.paxos.messages import Write
from wormspace.rpc import Caller, NoAnswer
from wormspace.server.listener import ServerIdentity
from wormspace.wire import codec
from wormspace.wire.link import Outgoing
from wormspace.wire.messages import Welcome
from wormspace.wire.progress import UNSENT_BYTES


class Stopped(asyncio.Protocol):
    """Greets if it has a greeting, and reads nothing any more."""

    def __init__(self, greeting=b""):
        self._greeting = greeting

    def connection_made(self, transport):
        transport.write(self._greeting)
        transport.pause_reading()


@pytest.fixture
def stopped(runner):
    """Makes listeners that take in nothing; their ports."""
    servers = []

    async def make(greeting=b""):
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Stopped(greeting), "127.0.0.1", 0)
        servers.append(server)
        return server.sockets[0].getsockname()[1]

    yield make
    for server in servers:
        server.close()


async def test_a_client_keeps_little_for_a_server_that_takes_in_nothing(stopped):
    identity = ServerIdentity("c", "s1")
    limits = 16 << 20, 1 << 20
    welcome = Welcome(1, identity.cluster, identity.server, 0, 1, 1, *limits)
    port = await stopped(codec.encode(welcome))
    worm = await wormspace.connect(f"worm://127.0.0.1:{port}", timeout=1)
    (link,) = worm.registers._partitions[0].links
    first, most, sent = link._transport, 0, 0
    large = Outgoing(1, Write("s", 0, bytes(16), [0], [bytes(1 << 20)]))
    while link._transport is first:
        link.post(large)
        sent += 1
        assert sent < 1000, "it keeps whatever it is given"
        most = max(most, first.get_write_buffer_size())
        await asyncio.sleep(0.01)
    assert most < UNSENT_BYTES + (200 << 20)
    assert not link.up
    assert "takes in nothing" in link.trouble
    await worm.close()


async def test_a_caller_keeps_little_for_a_service_that_takes_in_nothing(stopped):
    caller = Caller("127.0.0.1", await stopped())
    lost = 0
    for _ in range(64):
        with pytest.raises(NoAnswer) as error:
            await caller.call("s", bytes(2 << 20), 0.05)
        lost += "lost" in str(error.value)
    assert lost, "it keeps the connection, and all that it was given"
    await caller.close()
