"""Who may talk: refusals are clear, on the wire and in the client's error."""

import asyncio
import contextlib
import itertools
import socket

import pytest

import wormspace
from inprocess import IDENTITY, Raw, serving
from wormspace import BadUrl, Refused, Unavailable
from wormspace.server.limits import Limits, ServerIdentity
from wormspace.wire import link as link_module
from wormspace.wire.membership import Membership, OneCluster
from wormspace.wire.messages import Hello, Refusal, Status, ToServer, Welcome


def url(*servers, cluster=""):
    sets = ",".join(f"127.0.0.1:{s.port}" for s in servers)
    return f"worm://{sets}" + (f"?cluster={cluster}" if cluster else "")


async def test_a_greeting_is_answered_with_who_the_server_is_and_its_limits():
    limits = Limits(max_value=1000)
    identity = ServerIdentity("c", "s2", partition=1, partitions=2, replicas=3)
    async with serving(identity=identity, limits=limits) as server:
        raw = await Raw.connect(server.port)
        assert raw.welcome == Welcome(1, "c", "s2", 1, 2, 3, limits.max_frame, 1000)


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (Hello([99], "", "x"), "version"),
        (Hello([], "", "x"), "version"),
        (Hello([1], "another-cluster", "x"), "cluster"),
    ],
)
async def test_a_client_that_cannot_be_served_is_told_why(hello, code):
    async with serving() as server:
        raw = await Raw.connect(server.port, greet=False)
        raw.send(hello)
        refusal = await raw.greeting()
        assert isinstance(refusal, Refusal)
        assert refusal.code == code
        assert refusal.text
        assert await raw.body() is None
        assert server.metrics()["connections_refused"] == 1


async def test_a_client_of_several_versions_is_served_in_one_both_speak():
    async with serving() as server:
        raw = await Raw.connect(server.port, greet=False)
        raw.send(Hello([99, 1, 0], IDENTITY.cluster, "x"))
        assert (await raw.greeting()).version == 1


async def test_what_follows_a_refusal_in_the_same_breath_is_not_handled():
    async with serving() as server:
        raw = await Raw.connect(server.port, greet=False)
        raw.send(Hello([99], "", "x"), ToServer(1, Status()))
        assert isinstance(await raw.greeting(), Refusal)
        assert await raw.body() is None


async def test_a_client_that_does_not_greet_is_sent_away():
    async with serving(limits=Limits(greeting_timeout_s=0.05)) as server:
        raw = await Raw.connect(server.port, greet=False)
        async with asyncio.timeout(5):
            refusal = await raw.greeting()
            assert refusal.code == "greeting"
            assert await raw.body() is None


async def test_one_connection_too_many_is_refused_and_the_others_stay():
    async with serving(limits=Limits(max_connections=2)) as server:
        others = [await Raw.connect(server.port) for _ in range(2)]
        raw = await Raw.connect(server.port, greet=False)
        refusal = await raw.greeting()
        assert refusal.code == "busy"
        assert await raw.body() is None
        for other in others:
            assert await other.call(Status())
        await others.pop().close()
        async with asyncio.timeout(5):
            while not isinstance((await Raw.connect(server.port, greet=True)).welcome, Welcome):
                pass


# ---------------------------------------------------------------------------- the client's side


async def test_a_client_of_another_cluster_gets_refused_at_once():
    async with serving() as server:
        with pytest.raises(Refused, match="another") as refused:
            await wormspace.connect(url(server, cluster="another"), timeout=5)
        assert refused.value.code == "cluster"
        assert IDENTITY.cluster in str(refused.value)


async def test_a_client_from_the_future_gets_refused_at_once(monkeypatch):
    async with serving() as server:
        monkeypatch.setattr(link_module, "PROTOCOL_VERSIONS", (99,))
        with pytest.raises(Refused, match="version") as refused:
            await wormspace.connect(url(server), timeout=5)
        assert refused.value.code == "version"


async def test_a_client_of_a_busy_server_hears_that_it_is_busy():
    async with serving(limits=Limits(max_connections=1)) as server:
        occupant = await Raw.connect(server.port)
        with pytest.raises(Unavailable, match="as many connections as it allows"):
            await wormspace.connect(url(server), timeout=0.3)
        await occupant.close()


async def fake_server(answer):
    """Something that listens and answers whatever it is sent with `answer`."""

    async def serve(reader, writer):
        await reader.read(1 << 16)
        writer.write(answer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    server.port = server.sockets[0].getsockname()[1]
    return server


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((1 << 30).to_bytes(4, "big"), "1073741824"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no message"),
        (b"\x00\x00\x00\x01\xc1", "no message"),
    ],
)
async def test_a_server_that_is_none_is_named_with_what_it_said(answer, said):
    server = await fake_server(answer)
    async with server:
        with pytest.raises(Unavailable, match=said):
            await wormspace.connect(url(server), timeout=0.3)


async def test_nobody_there_is_unavailable_with_the_reason():
    async with serving() as server:
        port = server.port
    with pytest.raises(Unavailable, match=rf"(?i)127.0.0.1:{port}.*refused"):
        await wormspace.connect(f"worm://127.0.0.1:{port}", timeout=0.2)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "memory",
        "memory:path",
        "nope:x",
        "worm://",
        "worm:h:1",
        "worm://h",
        "worm://h:0",
        "worm://h:99999",
        "worm://h:x",
        "worm://h:1,",
        "worm://h:1?nope=1",
        "file:",
        "file:x?durability=none",
        "spec:?x=1",
    ],
)
async def test_a_url_that_makes_no_sense_is_refused_before_anything_happens(wrong):
    with pytest.raises(BadUrl):
        await wormspace.connect(wrong, timeout=0.2)


# ---------------------------------------------------------------------------- membership


async def trio(stack, sizes=(3, 3, 3), partitions=(0, 0, 0), of=1, clusters=("c", "c", "c")):
    """Three servers that introduce themselves as given."""
    return [
        await stack.enter_async_context(
            serving(
                identity=ServerIdentity(clusters[i], f"s{i}", partitions[i], of, sizes[i]),
            )
        )
        for i in range(3)
    ]


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.01)


async def stop(server):
    server.stopped = True
    await server.stop()


async def refusal_of(address):
    with pytest.raises(Refused) as refused:
        await wormspace.connect(address, timeout=2)
    assert refused.value.code == "membership"
    return str(refused.value)


@pytest.fixture
def stack(runner):
    """Servers that are stopped when the test is over."""
    stack = contextlib.AsyncExitStack()
    yield stack
    runner.run(stack.aclose())


async def test_a_url_that_names_all_servers_works(stack):
    servers = await trio(stack)
    async with wormspace.connect(url(*servers)) as worm:
        segment = await worm.space("s").alloc(size=1)
        await segment.unsafe_write(0, b"v")
        assert await segment.read(0) == b"v"


async def test_a_url_that_names_too_few_servers_is_refused(stack):
    """A majority of two of three servers' names would be no majority of the three."""
    servers = await trio(stack)
    assert "3 servers, but 2 were given" in await refusal_of(url(*servers[:2]))
    assert "3 servers, but 1 were given" in await refusal_of(url(servers[0]))


async def test_a_url_that_names_one_server_twice_is_refused(stack):
    """Three names of one server would make that one a majority all by itself."""
    first, *_ = await trio(stack)
    assert "name each server once" in await refusal_of(url(first, first, first))
    both = f"worm://127.0.0.1:{first.port},localhost:{first.port},127.0.0.1:{first.port}"
    assert "name each server once" in await refusal_of(both)


class Somewhere:
    """A link, as far as the membership sees it."""

    up = False

    def __init__(self, name):
        self.name = name

    def exchange_addresses(self, other):
        self.name, other.name = other.name, self.name


def test_only_a_server_of_this_very_set_is_counted():
    """Whatever else it says of itself is a reason, which names both."""
    clusters = ("", "c", "d")
    for told in itertools.product(range(3), range(1, 4), range(1, 4), clusters):
        for greeted in itertools.product(range(3), range(1, 4), range(1, 4), clusters[1:]):
            cluster = OneCluster()
            cluster.name = told[3]
            partition, partitions, replicas, name = greeted
            welcome = Welcome(1, name, "s1", partition, partitions, replicas, 1, 1)
            reason = Membership(*told[:3], cluster).check(welcome)
            is_same = told[:3] == greeted[:3] and told[3] in ("", name)
            assert (reason == "") == is_same, (told, greeted)
            assert cluster.name == (name if is_same else told[3])


def test_a_server_that_speaks_what_was_not_offered_is_not_counted():
    for version in (0, 2, 7):
        welcome = Welcome(version, "c", "s1", 0, 1, 1, 1, 1)
        reason = Membership(0, 1, 1).check(welcome)
        assert reason == f"it chose protocol version {version}; this client speaks 1"


def test_a_server_that_comes_back_is_counted_as_before():
    membership = Membership(0, 1, 3)
    membership.links = {place: Somewhere(f"h:{place}") for place in range(3)}
    for _ in range(2):
        for place in range(3):
            assert membership.admit(place, f"s{place}") is None
    assert "were met" in membership.admit(1, "s9")


def test_servers_that_changed_addresses_keep_their_places():
    """A place of a quorum's mask is one server for ever: else it could be counted twice."""
    membership = Membership(0, 1, 3)
    links = membership.links = {place: Somewhere(f"h:{place}") for place in range(3)}
    for place in range(2):
        assert membership.admit(place, f"s{place}") is None
    assert membership.admit(0, "s1") == ""  # s1 is where s0 was; s0 may be where s1 was
    assert [links[place].name for place in range(3)] == ["h:1", "h:0", "h:2"]
    assert membership.admit(1, "s1") is None
    links[1].up = True
    assert "name each server once" in membership.admit(2, "s1")
    assert membership.admit(0, "s2") == ""  # the third place was free, so it is that one's
    assert [links[place].name for place in range(3)] == ["h:2", "h:0", "h:1"]
    assert membership.admit(2, "s2") is None


async def test_a_client_goes_on_when_two_servers_have_changed_addresses(stack):
    servers = await trio(stack)
    async with wormspace.connect(url(*servers), timeout=10) as worm:
        segment = await worm.space("s").alloc(size=4)
        await segment.unsafe_write(0, b"before")
        one, two, _ = servers
        for server in (one, two):
            await stop(server)
        for name, port in (("s1", one.port), ("s0", two.port)):
            identity = ServerIdentity("c", name, 0, 1, 3)
            await stack.enter_async_context(serving(None, None, identity, port))
        await segment.unsafe_write(1, b"after", timeout=10)
        (partition,) = worm.registers._partitions
        await until(lambda: partition.up == 0b111)
        assert [link._welcome.server for link in partition.links] == ["s0", "s1", "s2"]
        assert partition.links[0].name == f"127.0.0.1:{two.port}"
        assert partition.links[1].name == f"127.0.0.1:{one.port}"


async def test_a_server_that_refused_is_asked_again(stack, monkeypatch):
    """It may have been upgraded, or given its right file, while the client lives on."""
    monkeypatch.setattr(link_module, "REFUSED_RETRY_S", 0.05)
    servers = await trio(stack, clusters=("c", "c", "another"))
    async with wormspace.connect(url(*servers), timeout=10) as worm:
        (partition,) = worm.registers._partitions
        await until(lambda: partition.links[2].refused is not None)
        await stop(servers[2])
        right = ServerIdentity("c", "s2", 0, 1, 3)
        await stack.enter_async_context(serving(None, None, right, servers[2].port))
        await until(lambda: partition.links[2].up)
        assert partition.links[2].refused is None


async def test_partitions_of_two_clusters_are_not_one():
    """Registers of a space would be spread over both, and half of them be gone another day."""
    cluster = OneCluster()
    one, other = (Membership(place, 2, 1, cluster) for place in range(2))
    assert one.check(Welcome(1, "c", "s0", 0, 2, 1, 1, 1)) == ""
    assert "cluster 'd'" in other.check(Welcome(1, "d", "s1", 1, 2, 1, 1, 1))
    assert other.check(Welcome(1, "c", "s1", 1, 2, 1, 1, 1)) == ""


async def test_partitions_in_the_wrong_order_are_refused(stack):
    servers = await trio(stack, sizes=(1, 1, 1), partitions=(0, 1, 2), of=3)
    right = "worm://" + "/".join(f"127.0.0.1:{s.port}" for s in servers)
    async with wormspace.connect(right):
        pass
    wrong = "worm://" + "/".join(f"127.0.0.1:{s.port}" for s in reversed(servers))
    assert "partition" in await refusal_of(wrong)
    flat = url(*servers)
    assert "partition" in await refusal_of(flat)


async def test_servers_of_two_clusters_make_no_majority(stack):
    servers = await trio(stack, clusters=("c", "d", "e"))
    assert "cluster" in await refusal_of(url(*servers))


async def test_a_client_in_the_middle_of_a_flood_still_hears_why_it_is_sent_away():
    """Closing on unread bytes would reset the connection, and the reason would be lost."""
    async with serving() as server:
        raw = await Raw.connect(server.port)
        raw.writer.write((1 << 30).to_bytes(4, "big"))
        flood = asyncio.ensure_future(pour(raw.writer))
        async with asyncio.timeout(5):
            *_, last = await raw.rest()
        assert "1073741824" in last.message.text
        flood.cancel()


async def pour(writer):
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()


async def test_both_ends_of_a_connection_notice_a_peer_that_died_silently(stack):
    servers = await trio(stack)
    async with wormspace.connect(url(*servers)) as worm:
        (partition,) = worm.registers._partitions
        ends = [link._transport for link in partition.links]
        ends += [c._transport for s in servers for c in s.guests.served]
        assert len(ends) >= 6
        for transport in ends:
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
