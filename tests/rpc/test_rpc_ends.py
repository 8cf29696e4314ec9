"""How calls, callers and services end, over pipes and in virtual time: each with its own word."""

from __future__ import annotations

import asyncio

import pytest

from held_pipe import Pipe
from wires import simulated
from wormspace.errors import ValueTooLarge, WormError
from wormspace.rpc import Caller, Failure, NoAnswer, NoService, Service
from wormspace.rpc import caller as caller_module
from wormspace.rpc import service as service_module
from wormspace.rpc.messages import (
    REFUSED,
    VERSIONS,
    Answer,
    Greeting,
    Request,
    decode_answer,
    decode_request,
    encode,
)
from wormspace.rpc.service import GREETING_S
from wormspace.wire.accepting import GREETING_BYTES, LINGER_S
from wormspace.wire.frames import FrameDecoder, frame

GREETING = frame(encode(Greeting(list(VERSIONS))))
MOST = 100
"""The largest body, in tests that turn it down."""


class Network:
    """In place of `dial`: connections over pipes, made when the test says so.

    Attributes:
        tried: where to.
        pipes, connections: those that were made.
    """

    def __init__(self, monkeypatch) -> None:
        self.tried: list[tuple[str, int]] = []
        self.pipes: list[Pipe] = []
        self.connections: list = []
        self.open = asyncio.Event()
        self.error: OSError | None = None
        self.on_made = lambda connection: None
        monkeypatch.setattr(caller_module, "dial", self._dial)

    async def _dial(self, factory, host, port):
        self.tried.append((host, port))
        await self.open.wait()
        if self.error is not None:
            raise self.error
        connection = factory()
        self.pipes.append(Pipe())
        self.connections.append(connection)
        connection.connection_made(self.pipes[-1])
        self.on_made(connection)
        return self.pipes[-1], connection

    def requests(self, number: int = -1) -> list[Request]:
        """What was asked on a connection since its greeting."""
        bodies = FrameDecoder().feed(b"".join(self.pipes[number].writes))
        return [decode_request(body) for body in bodies[1:]]


def asking(caller: Caller, body: bytes = b"x", timeout: float = 60) -> asyncio.Task[bytes]:
    return asyncio.ensure_future(caller.call("echo", body, timeout))


async def turns(n: int = 8) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def word(task: asyncio.Task[bytes]) -> tuple[type, str]:
    """The error that a call ends with."""
    with pytest.raises(WormError) as told:
        await task
    return type(told.value), str(told.value)


# ---------------------------------------------------------------- the calling side


def test_calls_share_a_connection_and_the_next_one_is_made_when_it_is_lost(monkeypatch) -> None:
    async def work():
        net, caller = Network(monkeypatch), Caller("h", 5)
        first = [asking(caller, b"a"), asking(caller, b"b")]
        await turns()
        assert net.tried == [("h", 5)]
        net.open.set()
        await turns()
        first.append(asking(caller, b"c"))
        await turns()
        assert net.tried == [("h", 5)]
        assert net.requests() == [
            Request(n, "echo", b) for n, b in ((1, b"a"), (2, b"b"), (3, b"c"))
        ]
        [connection] = net.connections
        for answer in (
            Answer(2, b"B"),
            Answer(9, b"nobody's"),
            Answer(2, b"again"),
            Answer(1, b"A"),
        ):
            connection.data_received(frame(encode(answer)))
        assert [await task for task in first[:2]] == [b"A", b"B"]
        connection.connection_lost(ConnectionResetError("reset"))
        assert await word(first[2]) == (NoAnswer, "the connection was lost: reset")
        again = asking(caller)
        await turns()
        assert len(net.tried) == 2
        net.connections[1].data_received(frame(encode(Answer(1, b"Y"))))
        assert await again == b"Y"
        assert not net.connections[1]._waiting
        await caller.close()
        assert net.pipes[1].done == ["close"]
        net.connections[1].connection_lost(None)
        assert await word(asking(caller)) == (NoAnswer, "h:5: this caller is closed")

    simulated(work)


def test_a_failed_call_says_whose_fault_it_was(monkeypatch) -> None:
    async def work():
        net, caller = Network(monkeypatch), Caller("h", 5)
        net.open.set()
        tasks = [asking(caller) for _ in range(4)]
        await turns()
        for answer in (
            Answer(1, b"cannot", failed=True),
            Answer(2, b"no such service", failed=True, absent=True),
            Answer(3, b"not \xff text", failed=True),
            Answer(REFUSED, b"another version", failed=True),
        ):
            net.connections[0].data_received(frame(encode(answer)))
        assert not tasks[3].done()
        net.connections[0].connection_lost(None)
        assert [await word(task) for task in tasks] == [
            (Failure, "cannot"),
            (NoService, "no such service"),
            (Failure, "not \ufffd text"),
            (NoAnswer, "refused: another version"),
        ]
        last = asking(caller)
        await turns()
        net.connections[1].data_received(frame(encode(Answer(-1, b"to nobody", failed=True))))
        net.connections[1].connection_lost(None)
        assert await word(last) == (NoAnswer, "the connection was lost: closed")

    simulated(work)


def test_a_call_has_one_deadline_for_connecting_and_waiting(monkeypatch) -> None:
    async def work():
        net, caller = Network(monkeypatch), Caller("h", 5)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await word(asking(caller, timeout=2.5)) == (NoAnswer, "h:5: no answer within 2.5 s")
        assert loop.time() - began == pytest.approx(2.5)
        late = asking(caller, timeout=2.5)  # the attempt goes on
        await asyncio.sleep(1)
        net.open.set()
        assert await word(late) == (NoAnswer, "h:5: no answer within 2.5 s")
        assert loop.time() - began == pytest.approx(5)
        assert len(net.tried) == 1
        assert not net.connections[0]._waiting
        net.connections[0].data_received(frame(encode(Answer(1, b"too late"))))
        await caller.close()

    simulated(work)


def test_a_caller_that_is_closed_or_cannot_connect_says_so(monkeypatch) -> None:
    async def work():
        net, caller = Network(monkeypatch), Caller("h", 5)
        await Caller("h", 5).close()  # it never called anybody
        waiting = [asking(caller), asking(caller)]
        await turns()
        await caller.close()
        for task in waiting:
            assert await word(task) == (NoAnswer, "h:5: this caller was closed")
        net.error = OSError("nobody there")
        net.open.set()
        caller = Caller("h", 5)
        for _ in range(2):
            assert await word(asking(caller)) == (NoAnswer, "h:5: nobody there")
        assert len(net.tried) == 3
        net.error = None
        task = asking(caller)
        await turns()
        net.connections[0].data_received(frame(encode(Answer(1, b"Y"))))
        assert await task == b"Y"

    simulated(work)


@pytest.mark.parametrize("nonsense", [frame(b"\xc1"), b"\xff\xff\xff\xff"])
def test_a_caller_hangs_up_on_who_answers_nonsense(nonsense, monkeypatch) -> None:
    async def work():
        net, caller = Network(monkeypatch), Caller("h", 5)
        net.open.set()
        task = asking(caller)
        await turns()
        net.connections[0].data_received(nonsense)
        assert net.pipes[0].done == ["abort"]
        asking(caller).cancel()
        late = asking(caller)  # it is not lost yet
        await turns()
        assert [r.id for r in net.requests()] == [1]
        net.connections[0].connection_lost(None)
        said = await word(task)
        assert said == await word(late)
        assert (said[0], said[1].partition(": ")[0]) == (NoAnswer, "what came is no answer")

    simulated(work)


def test_a_connection_that_is_lost_at_once_does_not_cost_the_time_of_a_call(monkeypatch) -> None:
    """uvloop tells of a loss before whoever dialled goes on."""

    async def work():
        net, caller = Network(monkeypatch), Caller("h", 5)
        net.open.set()
        for why, said in (
            (Answer(REFUSED, b"no room", failed=True), "refused: no room"),
            (None, "the connection was lost: closed"),
        ):
            net.on_made = lambda connection, why=why: (
                connection.data_received(frame(encode(why))) if why else None,
                connection.connection_lost(None),
            )
            assert await word(asking(caller)) == (NoAnswer, said)
        assert asyncio.get_running_loop().time() == 0

    simulated(work)


def test_a_caller_that_closes_does_not_wait_for_a_peer_that_takes_in_nothing(monkeypatch) -> None:
    async def work():
        net, caller = Network(monkeypatch), Caller("h", 5)
        net.open.set()
        tasks = [asking(caller), asking(caller)]
        await turns()
        net.pipes[0].unsent = 1000
        await caller.close()
        for task in tasks:
            assert await word(task) == (NoAnswer, "this caller was closed")
        assert net.pipes[0].done == ["close"]
        await asyncio.sleep(1.1 * LINGER_S)
        assert net.pipes[0].done == ["close", "abort"]

    simulated(work)


def test_a_body_has_half_a_message(monkeypatch) -> None:
    async def work():
        monkeypatch.setattr(caller_module, "MAX_FRAME_BYTES", 2 * MOST)
        net, caller = Network(monkeypatch), Caller("h", 5)
        net.open.set()
        sent = asking(caller, bytes(MOST))
        assert await word(asking(caller, bytes(MOST + 1))) == (
            ValueTooLarge,
            "a request of 101 bytes to 'echo'; one message holds 100",
        )
        await turns()
        assert [len(r.body) for r in net.requests()] == [MOST]
        sent.cancel()

    simulated(work)


# ---------------------------------------------------------------- the answering side


def opened(service: Service, greeting: bytes = GREETING):
    connection, pipe = service_module._Connection(service), Pipe()
    connection.connection_made(pipe)
    if greeting:
        connection.data_received(greeting)
    return connection, pipe


def answers(pipe: Pipe) -> list[Answer]:
    """What was answered, and forget it."""
    said = [decode_answer(body) for body in FrameDecoder().feed(b"".join(pipe.writes))]
    pipe.writes.clear()
    return said


def test_a_handler_answers_or_fails_in_words(monkeypatch, caplog) -> None:
    async def sized(body: bytes) -> bytes:
        return bytes(int(body))

    async def fail(body: bytes) -> bytes:
        raise WormError("cannot \ud800")

    async def broken(body: bytes) -> bytes:
        raise KeyError("a bug")

    async def dropped(body: bytes) -> bytes:
        raise asyncio.CancelledError  # of what it waited for

    async def work():
        monkeypatch.setattr(service_module, "MAX_FRAME_BYTES", 2 * MOST)
        service = Service({"sized": sized, "fail": fail, "broken": broken, "dropped": dropped})
        connection, pipe = opened(service)
        asked = [
            ("sized", b"100"),
            ("sized", b"101"),
            ("fail", b""),
            ("broken", b""),
            ("gone", b""),
            ("dropped", b""),
        ]
        for number, (name, body) in enumerate(asked, 1):
            connection.data_received(frame(encode(Request(number, name, body))))
        await turns()
        assert answers(pipe) == [
            Answer(1, bytes(MOST)),
            Answer(2, b"the answer has 101 bytes, too large for one message", True),
            Answer(3, b"cannot ?", True),
            Answer(4, b"the service failed: KeyError: 'a bug'", True),
            Answer(5, b"no service 'gone' here", True, True),
            Answer(6, b"the service gave up what it waited for", True),
        ]
        assert [r.getMessage() for r in caplog.records] == ["service broken failed"]
        assert (service.guests.inflow.bytes, connection._tasks) == (0, {})

    simulated(work)


def test_who_does_not_greet_in_time_is_cut_off(monkeypatch) -> None:
    async def work():
        service = Service({})
        silent, greeted, gone = opened(service, b""), opened(service), opened(service, b"")
        gone[0].connection_lost(None)
        await asyncio.sleep(GREETING_S - 0.1)
        assert silent[1].done == []
        await asyncio.sleep(0.2)
        assert [pipe.done for _, pipe in (silent, greeted, gone)] == [["eof"], [], []]
        [refusal] = answers(silent[1])
        assert refusal.body == b"no greeting came in time"
        await asyncio.sleep(LINGER_S)
        assert silent[1].done == ["eof", "abort"]

    simulated(work)


@pytest.mark.parametrize(
    ("greeting", "said"),
    [
        (frame(encode(Greeting([2, 7]))), "this service speaks version 1 of the protocol"),
        (None, "the server has as many connections as it allows"),
    ],
)
def test_who_is_refused_hears_why_and_may_take_a_while_to_go(greeting, said, monkeypatch) -> None:
    async def work():
        service = Service({})
        if greeting is None:
            service.guests.most = 1
            opened(service)
        connection, pipe = opened(service, b"")
        if greeting is not None:
            connection.data_received(greeting + frame(encode(Request(1, "echo", b""))))
        [refusal] = answers(pipe)
        assert (refusal.id, refusal.failed, pipe.done) == (REFUSED, True, ["eof"])
        assert refusal.body.decode().startswith(said)
        connection.data_received(GREETING)
        await asyncio.sleep(LINGER_S - 0.1)
        assert (pipe.writes, pipe.done) == ([], ["eof"])
        await asyncio.sleep(0.2)
        assert pipe.done == ["eof", "abort"]
        assert not connection._tasks

    simulated(work)


@pytest.mark.parametrize(
    "wrong",
    [
        (4097).to_bytes(4, "big"),
        frame(b"\xc1"),
        GREETING + frame(b"\xc1"),
        GREETING + b"\xff\xff\xff\xff",
    ],
)
def test_what_is_no_message_ends_its_connection(wrong) -> None:
    async def work():
        connection, pipe = opened(Service({}), wrong)
        assert (pipe.done, pipe.writes) == (["abort"], [])
        connection.data_received(frame(encode(Request(1, "echo", b""))))
        await turns()
        assert pipe.writes == []

    simulated(work)


def test_a_greeting_may_be_as_long_as_allowed_and_come_in_pieces() -> None:
    async def work():
        versions = [2] * 4077
        whole = frame(encode(Greeting([*versions, 1])))
        assert len(whole) == 4 + GREETING_BYTES
        for size in (1, 5, len(whole)):
            connection, pipe = opened(Service({}), b"")
            sent = whole + frame(encode(Request(1, "echo", b"")))
            for at in range(0, len(sent), size):
                connection.data_received(sent[at : at + size])
            await turns()
            assert [(a.id, a.absent) for a in answers(pipe)] == [(1, True)]

    simulated(work)


def test_a_service_that_stops_says_what_is_ready_and_drops_the_rest() -> None:
    ended: list[str] = []

    async def hang(body: bytes) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")
        return body

    async def work():
        await Service({}).stop()  # it never began
        service = Service({"hang": hang})
        connection, pipe = opened(service)
        connection.data_received(
            frame(encode(Request(1, "hang", b""))) + frame(encode(Request(2, "none", b"")))
        )
        await turns(2)
        await service.stop()
        assert [a.id for a in answers(pipe)] == [2]
        assert pipe.done == ["close"]
        connection.evict()
        assert pipe.writes == []
        connection.connection_lost(None)
        await turns()
        assert (ended, service.guests.served, service.guests.inflow.bytes) == (["cancelled"], {}, 0)
        connection.hang_up()
        connection.evict()
        connection.read_or_pause()
        await asyncio.sleep(10)
        assert (pipe.writes, pipe.done) == ([], ["close"])
        _, late = opened(service)  # accepted when it stopped
        assert (late.writes, late.done) == ([], ["abort"])

    simulated(work)


def test_whoever_has_too_much_is_told_and_hung_up_on() -> None:
    async def work():
        service = Service({})
        connection, pipe = opened(service)
        connection.evict()
        [said] = answers(pipe)
        assert (said.id, said.failed, pipe.done) == (REFUSED, True, ["eof"])
        assert b"no room" in said.body

    simulated(work)
