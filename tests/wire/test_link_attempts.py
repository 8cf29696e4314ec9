"""When a link connects again, in virtual time, and what it says is the matter meanwhile."""

from __future__ import annotations

import asyncio
import errno
import itertools

import pytest

from held_pipe import Pipe
from wires import simulated
from wormspace.wire import codec
from wormspace.wire import link as link_module
from wormspace.wire.dial import CONNECT_S
from wormspace.wire.frames import frame
from wormspace.wire.link import CONNECT_PAUSE_S, REFUSED_RETRY_S, TcpLink
from wormspace.wire.membership import Membership
from wormspace.wire.messages import Hello, Refusal, Status, Welcome

WELCOME = codec.encode(Welcome(1, "c", "s1", 0, 1, 1, 1 << 20, 1000))
CLOSED = "the server closed the connection"


class Whole:
    """Draws the longest pause there may be."""

    def uniform(self, lo, hi):
        assert lo == 0.5 * hi
        return hi


class Owner:
    """Notes what its links tell it."""

    def __init__(self) -> None:
        self.told: list[tuple] = []

    def on_up(self, server):
        self.told.append(("up", server))

    def on_down(self, server):
        self.told.append(("down", server))

    def on_message(self, server, request_id, message):
        self.told.append((server, request_id, message))


class Network:
    """In place of `dial`: every attempt is noted, and ends as the test says.

    Attributes:
        ends: what the next attempts come to: an error, a silence, or a connection.
        tried: when, and where to.
        pipes: the connections.
    """

    def __init__(self, monkeypatch, *ends) -> None:
        self.ends = list(ends)
        self.tried: list[tuple[float, str, int]] = []
        self.pipes: list[Pipe] = []
        monkeypatch.setattr(link_module, "dial", self._dial)

    async def _dial(self, factory, host, port):
        self.tried.append((asyncio.get_running_loop().time(), host, port))
        end = self.ends.pop(0) if self.ends else "silence"
        if isinstance(end, Exception):
            raise end
        if end == "silence":
            await asyncio.sleep(CONNECT_S)
            raise OSError("connecting timed out")
        self.pipes.append(Pipe())
        factory().connection_made(self.pipes[-1])

    def pauses(self) -> list[float]:
        """Between attempts, and forget them but the last."""
        times = [t for t, *_ in self.tried]
        del self.tried[:-1]
        return [pytest.approx(b - a) for a, b in itertools.pairwise(times)]


def link_to(membership=None, cluster="", place=0, owner=None) -> tuple[TcpLink, Owner]:
    membership = membership or Membership(0, 1, 1)
    link = TcpLink("h", 7, membership, cluster=cluster, client="me", rng=Whole())
    owner = owner or Owner()
    link.start(owner, place)
    return link, owner


def test_pauses_grow_until_a_server_greets(monkeypatch) -> None:
    async def work():
        refused = OSError(errno.ECONNREFUSED, "as asyncio words it")
        net = Network(
            monkeypatch, refused, OSError("no such name"), OSError(-2, "a name"), "silence"
        )
        link, _ = link_to(cluster="c")
        assert (link.up, link.trouble, link.name) == (False, "not connected yet", "h:7")
        await asyncio.sleep(0.001)
        assert link.trouble == "Connection refused"
        await asyncio.sleep(CONNECT_PAUSE_S[0])
        assert link.trouble == "no such name"
        await asyncio.sleep(2 * CONNECT_PAUSE_S[0])
        assert link.trouble == "[Errno -2] a name"
        net.ends += [refused] * 3 + ["connection"]
        await asyncio.sleep(CONNECT_S + 1)
        expected = [CONNECT_PAUSE_S[0] * 2**n for n in range(4)]
        expected[3] += CONNECT_S
        assert net.pauses() == [
            *expected,
            CONNECT_PAUSE_S[1],
            CONNECT_PAUSE_S[1],
            CONNECT_PAUSE_S[1],
        ]
        assert net.tried[0][1:] == ("h", 7)
        assert link.trouble == "no greeting yet"
        [sent] = net.pipes[0].writes
        assert codec.decode_hello(sent[4:]) == Hello([1], "c", "me")
        net.ends += ["connection", "connection"]
        link.connection_lost(None)  # without a greeting: as busy as before
        await asyncio.sleep(CONNECT_PAUSE_S[1] + 0.001)
        link.data_received(WELCOME)
        assert (link.up, link.trouble, link._welcome.server) == (True, "", "s1")
        link.connection_lost(ConnectionResetError("reset"))
        assert (link.up, link.trouble, link._welcome) == (False, "reset", None)
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(1)
        assert net.tried[-1][0] - began == pytest.approx(CONNECT_PAUSE_S[0])
        assert len(net.tried) == 3
        await link.close()

    simulated(work)


def test_a_server_that_does_not_greet_is_hung_up_on(monkeypatch) -> None:
    async def work():
        net = Network(monkeypatch, "connection", "connection")
        link, owner = link_to()
        await asyncio.sleep(CONNECT_S - 0.01)
        assert net.pipes[0].done == []
        await asyncio.sleep(0.02)
        assert net.pipes[0].done == ["abort"]
        link.connection_lost(None)
        assert link.trouble == "the server did not greet in time"
        await asyncio.sleep(CONNECT_PAUSE_S[0] + 0.001)
        link.data_received(WELCOME)
        await asyncio.sleep(2 * CONNECT_S)
        assert (net.pipes[1].done, link.trouble, owner.told) == ([], "", [("up", 0)])
        await link.close()
        assert net.pipes[1].done == ["close"]
        link.connection_lost(None)
        await asyncio.sleep(100)
        assert len(net.tried) == 2

    simulated(work)


@pytest.mark.parametrize(
    ("greeting", "code", "trouble", "pause"),
    [
        (Refusal("version", "too old"), "version", "too old", REFUSED_RETRY_S),
        (
            Refusal("cluster", "not ours"),
            "cluster",
            "not ours",
            REFUSED_RETRY_S,
        ),
        (Refusal("busy", "too many"), None, "too many", CONNECT_PAUSE_S[0]),
        (
            Welcome(1, "c", "s1", 0, 1, 3, 1 << 20, 1000),
            "membership",
            "server h:7 cannot be used: its partition has 3 servers",
            REFUSED_RETRY_S,
        ),
    ],
)
def test_who_is_refused_asks_again_later_and_says_why(
    greeting, code, trouble, pause, monkeypatch
) -> None:
    async def work():
        net = Network(monkeypatch, "connection", "connection", "connection")
        link, owner = link_to()
        await asyncio.sleep(0)
        link.data_received(codec.encode(greeting))
        assert link.trouble.startswith(trouble)
        assert (link.refused.code if link.refused else None) == code
        if isinstance(greeting, Refusal) and code is not None:
            assert str(link.refused) == f"server h:7 refused: {greeting.text}"
        assert net.pipes[0].closed == (code is not None and code != "busy")
        link.connection_lost(None)
        assert link.trouble.startswith(trouble)
        await asyncio.sleep(pause - 0.001)
        assert len(net.tried) == 1
        await asyncio.sleep(0.002)
        assert len(net.tried) == 2
        assert (link.refused is None) == (code is None)
        link.data_received(WELCOME)
        assert (link.refused, link.trouble, owner.told) == (None, "", [("up", 0)])
        link.connection_lost(None)
        assert (link.trouble, owner.told) == (CLOSED, [("up", 0), ("down", 0)])
        await asyncio.sleep(CONNECT_PAUSE_S[0] + 0.001)
        assert len(net.tried) == 3
        await link.close()

    simulated(work)


def test_links_whose_servers_moved_exchange_their_addresses(monkeypatch) -> None:
    async def work():
        net = Network(monkeypatch, *["connection"] * 9)
        members = Membership(0, 1, 2)
        owner = Owner()
        links = [
            TcpLink(f"h{i}", i, members, cluster="", client="me", rng=Whole()) for i in range(2)
        ]
        for place, link in enumerate(links):
            link.start(owner, place)
        await asyncio.sleep(0)
        for place, name in enumerate(("s1", "s2")):
            links[place].data_received(codec.encode(Welcome(1, "c", name, 0, 1, 2, 99, 99)))
        assert owner.told == [("up", 0), ("up", 1)]
        for link in links:
            link.connection_lost(None)
        await asyncio.sleep(CONNECT_PAUSE_S[0] + 0.001)
        links[0].data_received(codec.encode(Welcome(1, "c", "s2", 0, 1, 2, 99, 99)))
        assert [link.name for link in links] == ["h1:1", "h0:0"]
        assert {link.trouble for link in links} == {"its address is another server's now"}
        assert [pipe.done for pipe in net.pipes] == [[], [], ["abort"], ["abort"]]
        assert [link.refused for link in links] == [None, None]
        for link in links:
            link.connection_lost(None)
        await asyncio.sleep(REFUSED_RETRY_S)
        assert [(host, port) for _, host, port in net.tried[4:]] == [("h1", 1), ("h0", 0)]
        with pytest.raises(TypeError, match="no address for 7"):
            links[0].exchange_addresses(7)
        for link in links:
            await link.close()

    simulated(work)


def test_a_server_that_takes_in_nothing_or_says_nonsense_is_told_of(monkeypatch) -> None:
    async def work():
        net = Network(monkeypatch, "connection", "connection")
        link, owner = link_to()
        await asyncio.sleep(0)
        link.data_received(WELCOME)
        monkeypatch.setattr(link._progress, "write", lambda data: False)
        link.post(link_module.Outgoing(1, Status()))
        await asyncio.sleep(0.001)
        assert (link.up, link.trouble) == (True, "")
        link.connection_lost(None)
        assert link.trouble == "it takes in nothing"
        await asyncio.sleep(CONNECT_PAUSE_S[0] + 0.001)
        for byte in WELCOME:  # as it comes
            link.data_received(bytes([byte]))
        link.data_received(frame(b"\xc1"))
        assert net.pipes[1].done == ["abort"]
        link.connection_lost(OSError("reset"))
        assert link.trouble == "reset"
        assert owner.told == [("up", 0), ("down", 0)] * 2
        await link.close()

    simulated(work)


def test_half_a_message_ends_with_its_connection(monkeypatch) -> None:
    async def work():
        Network(monkeypatch, "connection", "connection")
        link, owner = link_to()
        await asyncio.sleep(0)
        link.data_received(WELCOME + WELCOME[:7])
        link.connection_lost(None)
        await asyncio.sleep(CONNECT_PAUSE_S[0] + 0.001)
        link.data_received(WELCOME)
        assert owner.told == [("up", 0), ("down", 0), ("up", 0)]
        await link.close()

    simulated(work)


def test_partitions_are_told_as_people_count_them() -> None:
    met = Welcome(1, "c", "s1", 0, 2, 1, 99, 99)
    assert Membership(1, 3, 1).check(met) == (
        "it belongs to partition 1 of 2, but was given as partition 2 of 3"
    )
