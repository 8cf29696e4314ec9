"""A link over a pipe that the test holds: when it writes, and what it says of its server."""

from __future__ import annotations

import asyncio
import random

import pytest

from held_pipe import Pipe
from wormspace.paxos.messages import Write
from wormspace.wire import codec
from wormspace.wire import connection as connection_module
from wormspace.wire import link as link_module
from wormspace.wire.connection import FLUSH_BYTES
from wormspace.wire.frames import MAX_FRAME_BYTES, FrameDecoder, frame
from wormspace.wire.link import QUIET_S, Outgoing, TcpLink
from wormspace.wire.membership import Membership
from wormspace.wire.messages import ONE_WAY, SpaceNames, Status, ToClient, ToServer, Welcome


class Heard:
    """Notes what a link tells its owner."""

    def __init__(self) -> None:
        self.told: list[tuple] = []

    def on_up(self, server):
        self.told.append(("up", server))

    def on_down(self, server):
        self.told.append(("down", server))

    def on_message(self, server, request_id, message):
        self.told.append((server, request_id, message))


WELCOME = Welcome(1, "c", "s1", 0, 1, 1, MAX_FRAME_BYTES, 1000)
DONE = ToClient(7, SpaceNames([]))


async def begun(monkeypatch) -> tuple[TcpLink, Pipe, Heard]:
    """A link that has greeted; connecting again is left to the test."""
    pipe, heard = Pipe(), Heard()

    async def dial(factory, host, port):
        factory().connection_made(pipe)

    monkeypatch.setattr(link_module, "dial", dial)
    monkeypatch.setattr(connection_module, "keep_alive", lambda transport: None)
    rng = random.Random(0)
    link = TcpLink("h", 1, Membership(0, 1, 1), cluster="c", client="x", rng=rng)
    link.start(heard, 4)
    await asyncio.sleep(0)
    assert len(pipe.writes) == 1, "the greeting"
    pipe.writes.clear()
    return link, pipe, heard


def test_a_request_to_several_servers_is_encoded_once():
    request = Outgoing(5, Status())
    assert request.frame is request.frame
    assert codec.decode_request(request.frame[4:]) == ToServer(5, Status())


def ids(writes: list[bytes]) -> list[list[int]]:
    """The requests in each write."""
    return [[codec.decode_request(body).id for body in FrameDecoder().feed(w)] for w in writes]


async def test_what_is_asked_in_one_turn_goes_out_as_one_write(monkeypatch):
    link, pipe, _ = await begun(monkeypatch)
    link.data_received(codec.encode(WELCOME))
    for turn in range(3):
        for i in range(turn + 1):
            link.post(Outgoing(10 * turn + i, Status()))
        assert len(pipe.writes) == turn
        await asyncio.sleep(0)
    assert ids(pipe.writes) == [[0], [10, 11], [20, 21, 22]]
    await link.close()


async def test_much_does_not_wait_for_the_end_of_the_turn_and_keeps_its_order(monkeypatch):
    link, pipe, _ = await begun(monkeypatch)
    link.data_received(codec.encode(WELCOME))
    link.post(Outgoing(1, Status()))
    link.post(Outgoing(2, Write("s", 0, bytes(16), [0], [bytes(FLUSH_BYTES)])))
    assert ids(pipe.writes) == [[1, 2]]
    link.post(Outgoing(3, Status()))
    await asyncio.sleep(0)
    assert ids(pipe.writes) == [[1, 2], [3]]
    link.post(Outgoing(4, Status()))
    await link.close()
    assert ids(pipe.writes) == [[1, 2], [3], [4]], "closing leaves nothing behind"


@pytest.mark.parametrize("more", [0, 1])
async def test_exactly_so_much_does_not_wait_and_a_byte_less_does(more, monkeypatch):
    link, pipe, _ = await begun(monkeypatch)
    link.data_received(codec.encode(WELCOME))
    first, second = Outgoing(1, Status()), Outgoing(2, Status())
    size = len(first.frame) + len(second.frame)
    monkeypatch.setattr(link, "flush_bytes", size + more)
    link.post(first)
    link.post(second)
    assert ids(pipe.writes) == ([] if more else [[1, 2]])
    await link.close()


async def test_half_a_message_of_the_last_connection_is_not_part_of_the_next_one(monkeypatch):
    link, _, heard = await begun(monkeypatch)
    link.data_received(codec.encode(WELCOME) + codec.encode(DONE)[:-1])
    link.connection_lost(None)
    link.connection_made(Pipe())
    link.data_received(codec.encode(WELCOME) + codec.encode(DONE))
    assert heard.told == [("up", 4), ("down", 4), ("up", 4), (4, 7, DONE.message)]
    await link.close()


async def test_a_link_says_what_its_server_accepts_while_it_is_up(monkeypatch):
    link, _, heard = await begun(monkeypatch)
    assert (link.up, link.max_value) == (False, MAX_FRAME_BYTES)
    link.data_received(codec.encode(WELCOME))
    assert (link.up, link.max_value, link.trouble) == (True, 1000, "")
    link.connection_lost(None)
    assert (link.up, link.max_value) == (False, MAX_FRAME_BYTES)
    assert link.trouble == "the server closed the connection"
    assert heard.told == [("up", 4), ("down", 4)]
    await link.close()


async def test_what_is_asked_before_the_greeting_or_after_the_end_is_dropped(monkeypatch):
    link, pipe, _ = await begun(monkeypatch)
    link.post(Outgoing(1, Status()))
    link.data_received(codec.encode(WELCOME))
    await asyncio.sleep(0)
    link.connection_lost(None)
    link.post(Outgoing(2, Status()))
    await asyncio.sleep(0)
    assert pipe.writes == []
    await link.close()


async def test_an_answer_that_comes_after_the_end_is_not_heard(monkeypatch):
    link, _, heard = await begun(monkeypatch)
    link.data_received(codec.encode(WELCOME) + codec.encode(DONE))
    assert heard.told == [("up", 4), (4, 7, DONE.message)]
    link.connection_lost(None)
    link.data_received(codec.encode(DONE))
    assert heard.told[2:] == [("down", 4)]
    await link.close()


async def test_a_server_that_sends_what_is_no_message_is_heard_no_longer(monkeypatch):
    link, pipe, heard = await begun(monkeypatch)
    link.data_received(codec.encode(WELCOME))
    link.data_received(frame(b"no message"))
    assert pipe.closed
    assert heard.told == [("up", 4)]
    link.connection_lost(None)
    assert link.trouble.startswith("sent what is no message: ")
    await link.close()


async def test_a_link_that_is_closed_runs_no_more(monkeypatch):
    link, pipe, _ = await begun(monkeypatch)
    await link.close()
    assert pipe.is_closing()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_server_is_quiet_that_owes_an_answer(monkeypatch):
    link, _, _ = await begun(monkeypatch)
    link.data_received(codec.encode(WELCOME))
    now = [0.0]
    monkeypatch.setattr(link._loop, "time", lambda: now[0])
    link.post(Outgoing(ONE_WAY, Status()))
    now[0] += 2 * QUIET_S
    assert not link.quiet, "nothing was asked"
    link.post(Outgoing(1, Status()))
    now[0] += QUIET_S / 2
    link.post(Outgoing(2, Status()))
    assert not link.quiet
    now[0] += QUIET_S
    assert link.quiet, "since the first question"
    link.data_received(codec.encode(DONE))
    assert not link.quiet
    monkeypatch.undo()
    await link.close()
