"""One client's connection over a pipe that the test holds, to a node that only notes requests.

In virtual time: what is written in which turn, what is read and when no more, and the last word.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from nodes import B1

from held_pipe import Pipe
from wires import simulated
from wormspace.knobs import turned
from wormspace.paxos.messages import Read, Report, Write, Written
from wormspace.server import connection as connection_module
from wormspace.server.connection import REGISTER_BYTES, REQUEST_BYTES, Connection
from wormspace.server.counters import Counters
from wormspace.server.limits import Limits, ServerIdentity
from wormspace.server.listener import Server
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire import accepting, codec
from wormspace.wire.frames import HEADER_BYTES, FrameDecoder, frame
from wormspace.wire.messages import (
    BAD_REQUEST,
    ONE_WAY,
    TOO_MANY,
    Hello,
    Refusal,
    Status,
    ToClient,
    ToServer,
    Unlisten,
    Welcome,
)

WHO = ServerIdentity("ours", "s2", 1, 2, 3)


def heard(pipe: Pipe, first: Callable = codec.decode_reply) -> list[list[object]]:
    """What each write said, and forget it; the first frame of all is decoded by `first`."""
    said = []
    for data in pipe.writes:
        said.append([])
        for body in FrameDecoder().feed(data):
            said[-1].append(first(body))
            first = codec.decode_reply
    pipe.writes.clear()
    return said


class Desk:
    """In place of a node: notes what is handed in."""

    def __init__(self, engine, *, max_value, max_listeners, on_fatal) -> None:
        self.max_value, self.counters = max_value, Counters()
        self.backlog_bytes = 0
        self.on_drained: list[Callable[[], None]] = []
        self.taken: list[tuple[int, object, int]] = []
        self.forgotten: list[Connection] = []

    def submit(self, port, request_id, message, size=0):
        self.taken.append((request_id, message, size))

    def forget(self, port):
        self.forgotten.append(port)

    def drain(self, left: int = 0) -> None:
        """What waited is done."""
        self.backlog_bytes = left
        waiting, self.on_drained = self.on_drained, []
        for resume in waiting:
            resume()

    @property
    def ids(self) -> list[int]:
        return [i for i, *_ in self.taken]


def server(**limits) -> Server:
    return Server(WHO, MemoryEngine(), Limits(**limits), Desk)


def opened(at: Server, greet: bool = True) -> tuple[Connection, Pipe]:
    """A connection, greeted unless told otherwise."""
    connection, pipe = Connection(at), Pipe()
    connection.connection_made(pipe)
    if greet:
        connection.data_received(codec.encode(Hello([1], "", "me")))
        pipe.writes.clear()
    return connection, pipe


STATUS = Status()


def asks(*ids: int, message=STATUS) -> bytes:
    """Frames of requests."""
    return b"".join(codec.encode(ToServer(i, message)) for i in ids)


async def turn() -> None:
    await asyncio.sleep(0)


# ---------------------------------------------------------------- greeting


@pytest.mark.parametrize("size", [1, 5, 1000])
async def test_a_greeting_is_answered_once_and_what_follows_is_taken_in(size, monkeypatch) -> None:
    monkeypatch.setattr(connection_module, "PROTOCOL_VERSIONS", (1, 2, 3))
    at = server(max_frame=5 << 20, max_value=1000, max_unsent=4000)
    connection, pipe = opened(at, greet=False)
    assert pipe.high == 1000
    sent = codec.encode(Hello([7, 2, 1], "ours", "me")) + asks(1, 2)
    for i in range(0, len(sent), size):
        connection.data_received(sent[i : i + size])
    welcome = Welcome(2, "ours", "s2", 1, 2, 3, 5 << 20, 1000)
    assert heard(pipe, codec.decode_greeting) == [[welcome]]
    assert (connection.client, at.node.ids) == ("me", [1, 2])
    assert at.guests.served == {connection: None}
    assert (at.refused, at.malformed, at.guests.inflow.bytes) == (0, 0, 0)


@pytest.mark.parametrize(
    ("sent", "code", "text"),
    [
        (
            codec.encode(Hello([2, 3, 4, 5, 6, 7, 8, 9, 10, 11], "", "me")),
            "version",
            "this server speaks protocol version 1, the client 2, 3, 4, 5, 6, 7, 8, 9, 10",
        ),
        (
            codec.encode(Hello([], "", "me")),
            "version",
            "this server speaks protocol version 1, the client none",
        ),
        (
            codec.encode(Hello([1], "theirs", "me")),
            "cluster",
            "this is server 's2' of cluster 'ours', not of 'theirs'",
        ),
        (frame(b"\xc1"), "malformed", "MessagePack data is malformed"),
        (frame(bytes(4097)), "malformed", "a frame of 4097 bytes"),
        (b"", "greeting", "no greeting came in time"),
        (codec.encode(Hello([1], "", "me"))[:-1], "greeting", "no greeting came in time"),
    ],
)
def test_who_is_refused_hears_why_and_is_cut_off_if_he_stays(sent, code, text, caplog) -> None:
    async def work():
        at = server(greeting_timeout_s=3.0)
        connection, pipe = opened(at, greet=False)
        if sent:
            connection.data_received(sent + (asks(1) if code != "greeting" else b""))
        if code == "greeting":
            await asyncio.sleep(2.9)
            assert pipe.writes == []
            await asyncio.sleep(0.2)
        [[refusal]] = heard(pipe, codec.decode_greeting)
        assert isinstance(refusal, Refusal)
        assert refusal.code == code
        assert refusal.text.startswith(text)
        assert pipe.done == ["eof"]
        assert (at.refused, at.malformed) == (1, int(code == "malformed"))
        assert (at.guests.served, at.guests.leaving) == ({}, {connection: None})
        assert at.node.forgotten == [connection]
        connection.data_received(asks(2))
        connection.answer(3, Written([]))
        await asyncio.sleep(0.5)
        assert (pipe.writes, at.node.taken) == ([], [])
        connection._check_greeted()
        assert at.refused == 1
        await asyncio.sleep(accepting.LINGER_S)
        assert pipe.done == ["eof", "abort"]
        connection.connection_lost(None)
        assert at.guests.leaving == {}
        [said] = [r for r in caplog.records if r.message == "refused"]
        assert (said.code, said.peer) == (code, "('10.0.0.9', 777)")
        assert said.reason.startswith(text)
        at.complaints.close()

    simulated(work)


def test_who_greets_in_time_or_goes_is_not_refused() -> None:
    async def work():
        at = server(greeting_timeout_s=3.0)
        _, stays = opened(at)
        gone, _ = opened(at, greet=False)
        gone.connection_lost(None)
        assert len(at.guests.served) == 1
        await asyncio.sleep(10)
        assert (at.refused, stays.done) == (0, [])

    simulated(work)


async def test_connections_have_a_limit_and_so_have_those_that_linger(monkeypatch) -> None:
    monkeypatch.setattr(accepting, "MAX_LEAVING", 2)
    at = server(max_connections=2)
    for _ in range(2):
        opened(at)
    late = [opened(at, greet=False) for _ in range(3)]
    for _, pipe in late:
        [[refusal]] = heard(pipe, codec.decode_greeting)
        assert refusal == Refusal("busy", "the server has as many connections as it allows")
    assert [pipe.done for _, pipe in late] == [["eof"], ["eof"], ["close"]]
    assert (len(at.guests.served), len(at.guests.leaving), at.refused) == (2, 2, 3)
    at.complaints.close()


# ---------------------------------------------------------------- answers


async def test_answers_of_one_turn_are_one_write_and_many_bytes_go_at_once() -> None:
    at = server()
    size = len(codec.encode(ToClient(1, Written([]))))
    with turned(server_flush_bytes=3 * size):
        connection, pipe = opened(at)
        for count, at_once in ((1, []), (2, []), (3, [3]), (5, [3])):
            for i in range(1, count + 1):
                connection.answer(i, Written([]))
            assert [len(write) for write in heard(pipe)] == at_once
            assert connection._out_bytes == size * (count % 3)
            await turn()
            left = [ToClient(i, Written([])) for i in range(1, count + 1)][3 if at_once else 0 :]
            assert heard(pipe) == ([left] if left else [])
            await turn()
            assert pipe.writes == []
    connection.answer(ONE_WAY, Written([]))
    await turn()
    assert pipe.writes == []
    connection.answer(9, Written([]))
    connection.hang_up()
    assert (heard(pipe), pipe.done) == ([[ToClient(9, Written([]))]], ["close"])
    connection.answer(10, Written([]))
    await turn()
    assert pipe.writes == []  # it is closing
    connection.connection_lost(None)
    connection.answer(11, Written([]))
    connection.hang_up()
    assert pipe.done == ["close"]


async def test_a_client_is_congested_above_what_may_be_unsent() -> None:
    connection, pipe = opened(server(max_unsent=100))
    size = len(codec.encode(ToClient(1, Written([]))))
    connection.answer(1, Written([]))
    for unsent, congested in ((0, False), (100 - size, False), (101 - size, True), (500, True)):
        pipe.unsent = unsent
        assert connection.congested() == congested
    connection.connection_lost(None)
    pipe.unsent = 0
    assert connection.congested()


async def test_what_cannot_be_encoded_ends_its_connection() -> None:
    connection, pipe = opened(server())
    connection.answer(1, Report([("\ud800",)], -1))
    connection.answer(2, Written([]))
    assert pipe.done == ["abort"]


# ---------------------------------------------------------------- requests


async def test_a_request_is_handed_in_with_what_it_takes_in_memory() -> None:
    at = server()
    connection, pipe = opened(at)
    requests = [Read("s", 0, [(0, 1)]), Write("s", 0, B1, [1, 2, 3], [b"", b"a", b"b"])]
    for i, m in enumerate(requests, 1):
        sent = asks(i, message=m)
        connection.data_received(sent)
        size = len(sent) - HEADER_BYTES + REQUEST_BYTES
        if isinstance(m, Write):
            size += 3 * REGISTER_BYTES
        assert at.node.taken.pop() == (i, m, size)
    bad = codec._encoder.encode([7, ["trim", "s", -1, 5]])
    connection.data_received(asks(5) + frame(bad) + asks(6))
    assert at.node.ids == [5, 6]
    assert at.node.counters.bad_requests == 1
    await turn()
    [[answer]] = heard(pipe)
    assert (answer.id, answer.message.code) == (7, BAD_REQUEST)
    assert answer.message.text.startswith("Expected `int` >= 0")
    assert pipe.done == []


@pytest.mark.parametrize(
    ("bad", "text"),
    [(frame(b"\xc1"), "MessagePack data is malformed"), (b"\xff\xff\xff\xff", "a frame of 4294")],
)
async def test_what_is_no_message_ends_the_connection_after_those_before_it(
    bad, text, caplog
) -> None:
    at = server()
    connection, pipe = opened(at)
    connection.answer(1, Written([]))
    connection.data_received(asks(2))
    connection.data_received(bad + asks(3))
    assert at.node.ids == [2]
    [[before], [last]] = heard(pipe)
    assert before == ToClient(1, Written([]))
    assert (last.id, last.message.code) == (ONE_WAY, BAD_REQUEST)
    assert last.message.text.startswith(text)
    assert (pipe.done, at.malformed, at.refused) == (["eof"], 1, 0)
    [said] = caplog.records
    assert (said.message, said.code, said.client) == ("malformed", BAD_REQUEST, "me")
    assert said.reason.startswith(text)
    assert (at.guests.leaving, at.guests.inflow.bytes) == ({connection: None}, 0)
    at.complaints.close()


async def test_a_connection_that_is_read_from_no_more_is_until_it_goes(caplog) -> None:
    """Else what it has sent resets it, and it never sees the last word."""
    at = server()
    connection, pipe = opened(at)
    connection.pause_writing()
    assert not pipe.is_read
    pipe.has_eof = False
    connection.evict()
    [[last]] = heard(pipe)
    assert (last.id, last.message.code) == (ONE_WAY, TOO_MANY)
    assert [(r.message, r.code) for r in caplog.records] == [("evicted", TOO_MANY)]
    assert (pipe.is_read, pipe.done) == (True, [])
    connection.resume_writing()
    connection.read_or_pause()
    assert pipe.is_read
    assert at.guests.leaving == {connection: None}
    connection.connection_lost(None)
    connection.evict()
    connection.abort()
    assert (pipe.writes, pipe.done) == ([], [])
    at.complaints.close()


async def test_a_connection_has_so_many_requests_in_a_turn() -> None:
    at = server()
    connection, pipe = opened(at)
    with turned(server_turn_requests=3):
        connection.data_received(asks(1, 2, 3, 4, 5, 6, 7))
        assert (at.node.ids, pipe.is_read) == ([1, 2, 3], False)
        connection.pause_writing()
        connection.resume_writing()
        assert at.node.ids == [1, 2, 3]  # its turn is over all the same
        await turn()
        assert (at.node.ids, pipe.is_read) == ([1, 2, 3, 4, 5, 6], False)
        await turn()
        assert (at.node.ids, pipe.is_read) == ([1, 2, 3, 4, 5, 6, 7], True)
        connection.data_received(asks(8, 9, 10))
        assert (at.node.ids[7:], pipe.is_read) == ([8, 9, 10], True)
        connection.data_received(asks(11))
        assert at.node.ids[10:] == [11]


async def test_a_connection_waits_for_the_backlog_and_is_told_once() -> None:
    at = server(max_backlog=1000)
    connection, pipe = opened(at)
    at.node.backlog_bytes = 1000
    connection.data_received(asks(1))
    assert at.node.ids == [1]
    at.node.backlog_bytes = 1001
    sent = asks(2, 3)
    connection.data_received(sent)
    assert (at.node.ids, pipe.is_read) == ([1], False)
    assert at.guests.inflow.bytes == len(sent) - 2 * HEADER_BYTES
    connection.pause_writing()
    connection.resume_writing()
    assert len(at.node.on_drained) == 1
    at.node.drain(left=1001)
    assert (at.node.ids, len(at.node.on_drained)) == ([1], 1)
    at.node.drain()
    assert (at.node.ids, at.guests.inflow.bytes, pipe.is_read) == ([1, 2, 3], 0, True)


def test_half_a_message_above_the_limit_has_to_go_after_a_while() -> None:
    async def work():
        at = server(max_backlog=100, stall_timeout_s=7.0)
        connection, pipe = opened(at)
        connection.data_received(asks(1, message=Read("x" * 200, 0, [(0, 9)]))[:100])
        await asyncio.sleep(100)
        assert pipe.done == []
        connection.data_received(b"x")
        await asyncio.sleep(6.9)
        assert pipe.done == []
        await asyncio.sleep(0.2)
        assert pipe.done == ["eof"]
        at.complaints.close()

    simulated(work)


@pytest.mark.parametrize("seed", range(6))
async def test_a_connection_reads_and_holds_what_the_model_says(seed: int) -> None:
    """Whatever comes in which pieces, and whoever is slow."""
    rng = random.Random(seed)
    at = server(max_backlog=3000)
    peers = [opened(at) for _ in range(3)]
    rest = {connection: b"" for connection, _ in peers}
    sent = {connection: [] for connection, _ in peers}
    came = {connection: 0 for connection, _ in peers}
    slow = dict.fromkeys(rest, False)
    taken: dict[Connection, list[int]] = {connection: [] for connection, _ in peers}
    at.node.submit = lambda port, i, m, size: taken[port].append(i)
    for step in range(120):
        connection, pipe = rng.choice(peers)
        if rng.random() < 0.6:
            i = len(sent[connection]) + 1
            body = asks(i, message=rng.choice([Unlisten(5), Read("x" * 200, 0, [(0, 9)])]))
            sent[connection].append(body)
            rest[connection] += body
        if pipe.is_read and rest[connection]:
            size = rng.choice((1, 50, 1000))
            data, rest[connection] = rest[connection][:size], rest[connection][size:]
            came[connection] += len(data)
            connection.data_received(data)
        if rng.random() < 0.2:
            slow[connection] = not slow[connection] and step < 100
            (connection.pause_writing if slow[connection] else connection.resume_writing)()
        if rng.random() < 0.3:
            at.node.backlog_bytes = rng.choice((0, 3000, 3001))
        if rng.random() < 0.3:
            at.node.drain(rng.choice((0, 4000)))
        held = 0
        for one, its in peers:
            left, whole = came[one], []
            for i, body in enumerate(sent[one], 1):
                if left < len(body):
                    break
                left -= len(body)
                whole.append(i)
            assert taken[one] == whole[: len(taken[one])]
            waiting = whole[len(taken[one]) :]
            held += left + sum(len(sent[one][i - 1]) - HEADER_BYTES for i in waiting)
            if not slow[one] and not one._waiting:
                assert not waiting
            assert its.is_read == (not slow[one] and not waiting and at.guests.inflow.may_read(one))
        assert at.guests.inflow.bytes == held
    for one, _ in peers:
        one.connection_lost(None)
    assert (at.guests.inflow.bytes, at.guests.served) == (0, {})


async def test_a_server_that_stops_hangs_up_when_what_is_ready_was_sent() -> None:
    server = Server(WHO, MemoryEngine(), Limits())
    connection, pipe = Connection(server), Pipe()
    connection.connection_made(pipe)
    connection.send(b"ready")
    await server.stop()
    assert (pipe.writes, pipe.done) == ([b"ready"], ["close"])
