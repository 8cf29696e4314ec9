"""Both ends of a connection over pipes that the test holds, beside a model of what they have.

After each turn of the loop a service's connection must hold, read and answer exactly what the model
says, in whatever order bytes come, handlers end, and its peer stops and goes on to read.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from held_pipe import Pipe
from wormspace.rpc import caller as caller_module
from wormspace.rpc import service as service_module
from wormspace.rpc.caller import Caller, NoAnswer
from wormspace.rpc.messages import (
    VERSIONS,
    Answer,
    Greeting,
    Request,
    decode_answer,
    decode_greeting,
    decode_request,
    encode,
)
from wormspace.rpc.service import REQUEST_BYTES, Service
from wormspace.wire import connection as connection_module
from wormspace.wire.connection import FLUSH_BYTES
from wormspace.wire.frames import FrameDecoder, frame
from wormspace.wire.inflow import Inflow

NAME = "echo"
GREETING = frame(encode(Greeting(list(VERSIONS))))


class Peer:
    """One caller's end, and what its service must have of it."""

    def __init__(self, service: Service, rng: random.Random) -> None:
        self.pipe = Pipe()
        self.connection = service_module._Connection(service)
        self.connection.connection_made(self.pipe)
        self.connection.data_received(GREETING)
        self.rng = rng
        self.slow = False
        self.sent: list[Request] = []
        self.unanswered: dict[int, int] = {}
        self.rest = b""
        self.answers = FrameDecoder()

    def ask(self) -> None:
        """One more request is on its way."""
        number = len(self.sent) + 1
        body = number.to_bytes(4, "big") + bytes(self.rng.choice((0, 10, 1000)))
        self.sent.append(Request(number, NAME, body))
        self.rest += frame(encode(self.sent[-1]))

    def deliver(self) -> None:
        """Some bytes of what is on its way arrive: parts of a request, or several."""
        if not self.rest or not self.pipe.is_read or self.pipe.closed:
            return
        size = self.rng.choice((1, 7, 1000, len(self.rest)))
        data, self.rest = self.rest[:size], self.rest[size:]
        self.connection.data_received(data)

    @property
    def arrived(self) -> tuple[int, int]:
        """How many requests are here whole, and how many bytes of the next one."""
        left = len(self.rest)
        for whole in range(len(self.sent), 0, -1):
            size = len(frame(encode(self.sent[whole - 1])))
            if left < size:
                return (whole, 0) if left == 0 else (whole - 1, size - left)
            left -= size
        return 0, 0

    def turn(self, slow: bool) -> None:
        """The peer stops to read its answers, or goes on."""
        if slow != self.slow:
            self.slow = slow
            (self.connection.pause_writing if slow else self.connection.resume_writing)()


class Desk:
    """The handler: requests of all peers that are worked on, ended in any order."""

    def __init__(self) -> None:
        self.open: list[tuple[bytes, asyncio.Future[bytes]]] = []
        self.most = 0

    async def __call__(self, body: bytes) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        entry = (body, future)
        self.open.append(entry)
        try:
            return await future
        finally:
            self.open.remove(entry)


def size_of(request: Request) -> int:
    return len(request.body) + len(NAME) + REQUEST_BYTES


@pytest.mark.parametrize("seed", range(12))
async def test_a_connection_has_what_the_model_says(seed, monkeypatch):
    at_once, limit = 3, 12_000
    monkeypatch.setattr(service_module, "AT_ONCE", at_once)
    rng, desk = random.Random(seed), Desk()
    service = Service({NAME: desk})
    guests = service.guests
    guests.inflow = Inflow(limit, 1e9, guests.served)
    peers = [Peer(service, rng) for _ in range(3)]
    answered: dict[Peer, list[Answer]] = {peer: [] for peer in peers}
    for step in range(150):
        peer = rng.choice(peers)
        if step < 100 and rng.random() < 0.5:
            peer.ask()
        peer.deliver()
        if rng.random() < 0.2:
            peer.turn(slow=step < 120 and rng.random() < 0.5)
        if desk.open and rng.random() < 0.5:
            body, future = rng.choice(desk.open)
            if not future.done():
                future.set_result(body)
        for _ in range(4):
            await asyncio.sleep(0)
        held = 0
        for each in peers:
            assert len(each.pipe.writes) <= 1, "one write for one turn"
            for data in each.pipe.writes:
                answered[each] += [decode_answer(b) for b in each.answers.feed(data)]
            each.pipe.writes.clear()
            whole, part = each.arrived
            waiting = whole - len(answered[each])
            done = {answer.id for answer in answered[each]}
            held += part + sum(size_of(r) for r in each.sent[:whole] if r.id not in done)
            worked_on = len(each.connection._tasks)
            assert worked_on <= at_once
            assert worked_on == min(waiting, at_once) or each.slow
            stays = waiting > worked_on
            assert each.pipe.is_read == (
                not each.slow and not stays and guests.inflow.may_read(each.connection)
            )
        assert guests.inflow.bytes == held
        assert (held > limit) == (sum(guests.inflow.may_read(p.connection) for p in peers) == 1)
    for peer in peers:
        whole, _ = peer.arrived
        assert [a.body for a in sorted(answered[peer], key=lambda a: a.id)] == [
            r.body for r in peer.sent if r.id in {a.id for a in answered[peer]}
        ]
        peer.connection.connection_lost(None)
    await asyncio.sleep(0)
    assert (guests.inflow.bytes, len(guests.served), desk.open) == (0, 0, [])


async def test_calls_of_one_turn_leave_as_one_write_and_large_ones_at_once(monkeypatch):
    pipe = Pipe()

    async def dial(factory, host, port):
        connection = factory()
        connection.connection_made(pipe)
        return pipe, connection

    kept: list[object] = []
    monkeypatch.setattr(caller_module, "dial", dial)
    monkeypatch.setattr(connection_module, "keep_alive", kept.append)
    caller = Caller("h", 1)

    def call(body: bytes) -> asyncio.Task[bytes]:
        return asyncio.ensure_future(caller.call(NAME, body, 60))

    tasks = [call(b"first")]
    await asyncio.sleep(0.01)
    greeting, *_ = FrameDecoder().feed(pipe.writes[0])
    assert decode_greeting(greeting) == Greeting(list(VERSIONS))
    pipe.writes.clear()
    large = [bytes(FLUSH_BYTES + more) for more in range(2)]
    for bodies in ([b"a"], [b"b", b"c", b"d"], [large[0]], [large[1]], [b"e", large[0]]):
        tasks += map(call, bodies)
        await asyncio.sleep(0)
        waited = len(bodies[-1]) < FLUSH_BYTES
        assert len(pipe.writes) == (0 if waited else 1)
        await asyncio.sleep(0)
        sent = [[decode_request(b).body for b in FrameDecoder().feed(w)] for w in pipe.writes]
        assert sent == [bodies]
        pipe.writes.clear()
    assert pipe.high is not None
    connection = caller._connection
    for number in range(1, len(tasks) + 1):
        connection.data_received(frame(encode(Answer(number, str(number).encode()))))
    assert await asyncio.gather(*tasks) == [str(n + 1).encode() for n in range(len(tasks))]
    lost = [call(b"x"), call(b"y")]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    connection.connection_lost(None)
    for task in lost:
        with pytest.raises(NoAnswer, match="the connection was lost: closed"):
            await task
    assert kept == [pipe], "a peer that dies silently is noticed"
    service_module._Connection(Service({})).connection_made(Pipe())
    assert len(kept) == 2, "on the answering side, too"
    await caller.close()
