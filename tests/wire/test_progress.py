"""A peer that was stopped costs this process a bounded amount of memory."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wormspace
from wormspace.paxos.messages import Write
from wormspace.rpc import Caller, NoAnswer
from wormspace.server.limits import ServerIdentity
from wormspace.wire import codec
from wormspace.wire.link import Outgoing
from wormspace.wire.messages import Welcome
from wormspace.wire.progress import STUCK_S, UNSENT_BYTES, Progress


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


class Pipe:
    """A transport and its loop's clock: what waits, and what time it is."""

    def __init__(self):
        self.unsent, self.now, self.aborted = 0, 0.0, False

    def write(self, data):
        self.unsent += len(data)

    def get_write_buffer_size(self):
        return self.unsent

    def time(self):
        return self.now

    def abort(self):
        self.aborted = True


LARGE = bytes(UNSENT_BYTES // 4)
TURNS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, len(LARGE), 3 * len(LARGE)]),
        st.sampled_from([0.0, STUCK_S / 4, STUCK_S, 2 * STUCK_S]),
    ),
    max_size=25,
)


def test_a_peer_has_so_long_to_take_in_something():
    for unsent, takes, now_s, stands in (
        (UNSENT_BYTES, 0, 10 * STUCK_S, True),
        (UNSENT_BYTES + 1, 0, STUCK_S, True),
        (UNSENT_BYTES + 1, 0, 1.01 * STUCK_S, False),
        (UNSENT_BYTES + 2, 1, 1.01 * STUCK_S, True),
        (3 * UNSENT_BYTES, UNSENT_BYTES, 9 * STUCK_S, True),
    ):
        pipe = Pipe()
        progress = Progress(pipe, pipe)
        assert progress.write(bytes(unsent))
        pipe.unsent -= takes
        pipe.now = now_s
        assert progress.write(b"") == stands
        assert pipe.aborted != stands


@given(TURNS)
def test_only_a_peer_that_took_in_nothing_for_long_is_stuck(turns):
    """`since` is when it was first seen to have taken in what it has taken in by now."""
    pipe = Pipe()
    progress = Progress(pipe, pipe)
    taken, seen, since = 0, None, 0.0
    for takes, pause_s in turns:
        takes = min(takes, pipe.unsent)
        pipe.unsent -= takes
        pipe.now += pause_s
        taken += takes
        stands = progress.write(LARGE)
        stuck = False
        if pipe.unsent > UNSENT_BYTES:
            if taken != seen:
                seen, since = taken, pipe.now
            stuck = pipe.now - since > STUCK_S
        assert stands != stuck
        assert pipe.aborted == stuck
        if stuck:
            return


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
