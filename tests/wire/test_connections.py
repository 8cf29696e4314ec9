"""What holds of one kind of connection holds of all four: two of clients, two of who answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from held_pipe import Pipe
from wires import simulated
from wormspace.rpc import Caller, NoAnswer, Service
from wormspace.rpc.caller import _Connection as Calling
from wormspace.rpc.service import _Connection as Answering
from wormspace.server.connection import Connection
from wormspace.server.limits import Limits, ServerIdentity
from wormspace.server.listener import Server
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire import accepting, dial
from wormspace.wire import connection as connection_module
from wormspace.wire.accepting import GREETING_BYTES, LINGER_S, AcceptedConnection
from wormspace.wire.connection import FramedConnection
from wormspace.wire.frames import MAX_FRAME_BYTES, frame
from wormspace.wire.link import TcpLink
from wormspace.wire.membership import Membership
from wormspace.wire.progress import STUCK_S, UNSENT_BYTES


def linking() -> FramedConnection:
    rng = random.Random(0)
    return TcpLink("h", 1, Membership(0, 1, 1), cluster="", client="me", rng=rng)


def answering() -> AcceptedConnection:
    return Answering(Service({}))


def serving() -> AcceptedConnection:
    return Connection(Server(ServerIdentity("c", "s"), MemoryEngine(), Limits()))


Make = Callable[[], FramedConnection]
KINDS = [linking, Calling, answering, serving]
ACCEPTED = [answering, serving]


def made(make: Make) -> tuple[FramedConnection, Pipe]:
    """A connection, of which the greeting is forgotten."""
    connection, pipe = make(), Pipe()
    connection.connection_made(pipe)
    pipe.writes.clear()
    return connection, pipe


@pytest.mark.parametrize("make", KINDS)
async def test_a_peer_that_died_silently_is_noticed(make: Make, monkeypatch) -> None:
    kept: list[object] = []
    monkeypatch.setattr(connection_module, "keep_alive", kept.append)
    _, pipe = made(make)
    assert kept == [pipe]


@pytest.mark.parametrize("make", KINDS)
async def test_a_turn_is_one_write_and_much_does_not_wait(make: Make) -> None:
    connection, pipe = made(make)
    for _ in range(2):
        for data in (b"a", b"b", b"c"):
            connection.send(data)
        assert (pipe.writes, connection.unsent) == ([], 3)
        await asyncio.sleep(0)
        assert (pipe.writes, connection.unsent) == ([b"abc"], 0)
        pipe.writes.clear()
    connection.send(b"a")
    connection.send(bytes(connection.flush_bytes - 2))
    assert pipe.writes == []
    connection.send(b"b")
    assert [len(data) for data in pipe.writes] == [connection.flush_bytes]
    connection.send(b"last")
    connection.hang_up()
    connection.send(b"more")
    await asyncio.sleep(0)
    assert (pipe.writes[1:], pipe.done) == ([b"last"], ["close"])


@pytest.mark.parametrize("make", KINDS)
async def test_what_is_said_to_a_peer_that_is_gone_is_lost_without_an_error(make: Make) -> None:
    connection, pipe = made(make)
    connection.connection_lost(None)
    connection.send(b"x")
    connection.hang_up()
    connection.abort()
    if isinstance(connection, AcceptedConnection):
        connection.evict()
    await asyncio.sleep(0)
    assert (pipe.writes, pipe.done, connection.unsent) == ([], [], 0)


@pytest.mark.parametrize("make", KINDS)
def test_a_peer_that_takes_in_nothing_is_hung_up_on(make: Make) -> None:
    async def work() -> None:
        connection, pipe = made(make)
        for unsent, ends in ((UNSENT_BYTES, []), (UNSENT_BYTES + 1, ["abort"])):
            pipe.unsent = unsent
            for _ in range(2):
                connection.send(b"x")
                await asyncio.sleep(1.1 * STUCK_S)
                pipe.unsent += 1  # it was written, and not taken
            pipe.unsent = unsent
            assert pipe.done[:1] == ends

    simulated(work)


@pytest.mark.parametrize("make", KINDS)
def test_who_takes_in_nothing_does_not_keep_a_connection_that_is_closed(make: Make) -> None:
    async def work() -> None:
        for unsent, ends in ((0, ["close"]), (1, ["close", "abort"])):
            connection, pipe = made(make)
            pipe.unsent = unsent
            connection.hang_up()
            assert pipe.done == ["close"]
            await asyncio.sleep(1.1 * LINGER_S)
            assert pipe.done == ends

    simulated(work)


@pytest.mark.parametrize("make", KINDS)
async def test_what_is_announced_too_large_is_not_waited_for(make: Make) -> None:
    connection, pipe = made(make)
    connection.data_received((MAX_FRAME_BYTES + 1).to_bytes(4, "big") + bytes(100))
    assert pipe.done in (["abort"], ["eof"])
    connection.data_received(bytes(100))
    assert connection._decoder.held <= 204


@pytest.mark.parametrize("make", ACCEPTED)
async def test_a_greeting_is_short(make: Make) -> None:
    for more in (0, 1):
        connection, pipe = made(make)
        connection.data_received((GREETING_BYTES + more).to_bytes(4, "big"))
        assert bool(pipe.done) == bool(more)


@pytest.mark.parametrize("make", ACCEPTED)
async def test_few_linger_of_those_that_are_told_to_go(make: Make, monkeypatch) -> None:
    monkeypatch.setattr(accepting, "MAX_LEAVING", 2)
    first = make()
    assert isinstance(first, AcceptedConnection)
    guests = first._guests
    pipes = []
    for _ in range(4):
        connection, pipe = make(), Pipe()
        connection._guests = guests
        connection.connection_made(pipe)
        connection.evict()
        pipes.append(pipe)
    assert [pipe.done for pipe in pipes] == [["eof"], ["eof"], ["close"], ["close"]]
    assert all(len(pipe.writes) == 1 for pipe in pipes)
    await asyncio.sleep(0.01)  # else each has a descriptor for as long as its peer reads nothing
    assert [pipe.done[1:] for pipe in pipes] == [[], [], ["abort"], ["abort"]]


@pytest.mark.parametrize("make", ACCEPTED)
def test_who_is_told_to_go_is_read_until_it_goes_and_cut_off_at_last(make: Make) -> None:
    """Else what it has sent resets the connection, and it never sees the last word."""

    async def work() -> None:
        connection, pipe = made(make)
        connection.pause_writing()
        assert not pipe.is_read
        connection.evict()
        assert (len(pipe.writes), pipe.is_read, pipe.done) == (1, True, ["eof"])
        connection.data_received(frame(b"whatever"))
        connection.evict()
        assert len(pipe.writes) == 1
        await asyncio.sleep(1.1 * LINGER_S)
        assert pipe.done == ["eof", "abort"]

    simulated(work)


@pytest.mark.parametrize("make", ACCEPTED)
def test_who_is_told_to_go_has_what_was_ready_first_and_may_be_encrypted(make: Make) -> None:
    """TLS cannot end one direction alone."""

    async def work() -> None:
        connection, pipe = made(make)
        pipe.has_eof = False
        connection.send(b"ready")
        connection.evict()
        assert (pipe.writes[0], len(pipe.writes), pipe.done) == (b"ready", 2, [])
        await asyncio.sleep(1.1 * LINGER_S)
        assert pipe.done == ["abort"]

    simulated(work)


def silent(loop, monkeypatch) -> list[object]:
    """Whoever connects waits for ever; who did."""
    tried: list[object] = []

    async def create_connection(factory, host, port):
        tried.append((host, port))
        await asyncio.Event().wait()

    monkeypatch.setattr(loop, "create_connection", create_connection)
    return tried


async def test_connecting_has_a_limit_and_a_caller_then_tries_again(monkeypatch) -> None:
    monkeypatch.setattr(dial, "CONNECT_S", 0.02)
    tried = silent(asyncio.get_running_loop(), monkeypatch)
    with pytest.raises(OSError, match="connecting timed out"):
        await dial.dial(asyncio.Protocol, "10.0.0.1", 7)
    caller = Caller("10.0.0.1", 7)
    for _ in range(2):
        with pytest.raises(NoAnswer, match=r"^10\.0\.0\.1:7: connecting timed out$"):
            await caller.call("s", b"", 30)
    assert tried == [("10.0.0.1", 7)] * 3
    await caller.close()
