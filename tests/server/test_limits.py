"""Every limit of a server, one below, at it, and one above: the last is refused, others served."""

import asyncio
import contextlib

import pytest
from nodes import B1, B2

from inprocess import Raw, serving
from wormspace.knobs import turned
from wormspace.paxos.messages import (
    COMPLETE,
    MAX_ITEMS,
    MAX_SPANS,
    Capture,
    Decided,
    Promise,
    Read,
    Report,
    Write,
    Written,
)
from wormspace.server import connection
from wormspace.server.limits import Limits
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire import accepting, codec
from wormspace.wire.frames import HEADER_BYTES, frame
from wormspace.wire.messages import (
    BAD_REQUEST,
    ONE_WAY,
    PROTOCOL_VERSIONS,
    TOO_LARGE,
    TOO_MANY,
    Hello,
    Status,
    ToServer,
)


@pytest.mark.parametrize(("above", "answer"), [(-1, Written([])), (0, Written([])), (1, TOO_LARGE)])
async def test_max_value(above, answer):
    async with serving(limits=Limits(max_value=1000)) as server:
        raw = await Raw.connect(server.port)
        got = await raw.call(Write("s", 0, B1, [0], [bytes(1000 + above)]))
        assert got == answer or got.code == answer
        assert await raw.call(Write("s", 0, B1, [1], [b"v"])) == Written([])


@pytest.mark.parametrize("above", [-1, 0, 1])
async def test_max_frame(above):
    async with serving(limits=Limits(max_frame=5000)) as server:
        raw, other = await Raw.connect(server.port), await Raw.connect(server.port)
        empty = len(codec.encode(ToServer(1, Write("s", 0, B1, [0], [bytes(300)])))) - 300
        padding = 5000 + HEADER_BYTES - empty + above
        answer = raw.request(Write("s", 0, B1, [0], [bytes(padding)]))
        reply = await raw.reply()
        if above <= 0:
            assert (reply.id, reply.message) == (answer, Written([]))
        else:
            assert (reply.id, reply.message.code) == (ONE_WAY, BAD_REQUEST)
            assert await raw.reply() is None
        assert await other.call(Write("s", 0, B1, [1], [b"v"])) == Written([])


async def test_max_connections():
    async with serving(limits=Limits(max_connections=3)) as server:
        held = [await Raw.connect(server.port) for _ in range(3)]
        late = await Raw.connect(server.port, greet=False)
        refusal = await late.greeting()
        assert refusal.code == "busy"
        assert "as many connections" in refusal.text
        for raw in held:
            assert await raw.call(Status())
        await held.pop().close()
        async with asyncio.timeout(5):
            while len(server.guests.served) > 2:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert await (await Raw.connect(server.port)).call(Status())


async def test_those_who_are_told_to_go_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(accepting, "MAX_LEAVING", 5)
    async with serving(limits=Limits(max_connections=1)) as server:
        good = await Raw.connect(server.port)
        late = [await Raw.connect(server.port, greet=False) for _ in range(20)]
        await good.call(Status())
        assert len(server.guests.leaving) <= 5
        assert (await late[0].greeting()).code == "busy"
        assert server.metrics()["connections_refused"] == 20


@pytest.mark.parametrize("above", [-1, 0, 1])
async def test_registers_in_a_write(above):
    count = MAX_ITEMS + above
    async with serving() as server:
        raw = await Raw.connect(server.port)
        async with asyncio.timeout(30):
            got = await raw.call(Write("s", 0, B1, list(range(count)), [b""] * count))
        assert got == Written([]) if above <= 0 else got.code == BAD_REQUEST
        assert await raw.call(Status())


@pytest.mark.parametrize("above", [-1, 0, 1])
async def test_spans_in_a_message_of_decisions(above):
    count = MAX_ITEMS + above
    async with serving() as server:
        raw = await Raw.connect(server.port)
        await raw.call(Capture("s", 0, 0, 10, B1))
        message = Decided("s", 0, B1, [(2 * i, 2 * i + 1) for i in range(count)])
        raw.send(ToServer(ONE_WAY, message))
        metrics = (await raw.call(Status())).metrics
        assert metrics["marks_unsaved"] == (count if above <= 0 else 0)
        assert metrics["bad_requests"] == (above > 0)


@pytest.mark.parametrize("above", [-1, 0, 1])
async def test_spans_in_a_read(above):
    count = MAX_SPANS + above
    async with serving() as server:
        raw = await Raw.connect(server.port)
        got = await raw.call(Read("s", 0, [(2 * i, 2 * i + 1) for i in range(count)]))
        assert got == Report([], COMPLETE) if above <= 0 else got.code == BAD_REQUEST
        assert await raw.call(Status())


# ---------------------------------------------------------------------------- the greeting


def greeting(size):
    """A greeting whose frame has a body of that size."""
    empty = len(codec.encode(Hello(list(PROTOCOL_VERSIONS), "", "c", bytes(300)))) - 300
    hello = Hello(list(PROTOCOL_VERSIONS), "", "c", bytes(size + HEADER_BYTES - empty))
    return codec.encode(hello)


@pytest.mark.parametrize("above", [-1, 0, 1])
async def test_the_size_of_a_greeting(above):
    async with serving() as server:
        raw = await Raw.connect(server.port, greet=False)
        sent = greeting(accepting.GREETING_BYTES + above)
        assert len(sent) == HEADER_BYTES + accepting.GREETING_BYTES + above
        raw.writer.write(sent)
        got = await raw.greeting()
        assert getattr(got, "code", "welcome") == ("malformed" if above > 0 else "welcome")


async def test_a_huge_greeting_is_refused_by_its_header_and_not_logged(caplog):
    async with serving() as server:
        raw = await Raw.connect(server.port, greet=False)
        raw.writer.write((5 << 20).to_bytes(4, "big") + b"x" * 300)
        refusal = await raw.greeting()
        assert refusal.code == "malformed"
        assert server.guests.inflow.bytes == 0
    raw = Hello(list(range(900)), "", "c")
    async with serving() as server:
        many = await Raw.connect(server.port, greet=False)
        many.send(raw)
        await many.greeting()
        odd = await Raw.connect(server.port)
        odd.writer.write(frame(b"\x92\x01\x91" + b"\xdb\0\1\0\0" + b"t" * 65536))
        answer = await odd.reply()
        assert answer.message.code == BAD_REQUEST
        assert len(answer.message.text) < 300
    told = [str(vars(record)) for record in caplog.records]
    assert told
    assert max(map(len, told)) < 3000


@pytest.mark.parametrize("chunk", [1, 3, 7])
async def test_a_greeting_may_come_in_pieces_and_with_requests_behind_it(chunk):
    async with serving() as server:
        raw = await Raw.connect(server.port, greet=False)
        sent = codec.encode(Hello(list(PROTOCOL_VERSIONS), "", "c"))
        sent += codec.encode(ToServer(1, Status())) + codec.encode(ToServer(2, Status()))
        for at in range(0, len(sent), chunk):
            raw.writer.write(sent[at : at + chunk])
            await asyncio.sleep(0)
        assert (await raw.greeting()).version == PROTOCOL_VERSIONS[-1]
        assert [(await raw.reply()).id for _ in range(2)] == [1, 2]


# ---------------------------------------------------------------------------- what is not whole yet


def half(size):
    """The beginning of a frame, all but its last byte; and that byte."""
    empty = len(codec.encode(ToServer(1, Write("s", 0, B1, [0], [bytes(300)])))) - 300
    whole = codec.encode(ToServer(1, Write("s", 0, B1, [0], [bytes(size - empty)])))
    return whole[:-1], whole[-1:]


async def test_half_messages_of_all_connections_have_one_limit():
    limits = Limits(max_backlog=2_000_000)
    async with serving(limits=limits) as server:
        good = await Raw.connect(server.port)
        greedy = [await Raw.connect(server.port) for _ in range(30)]
        begin, end = half(1_000_000)
        for raw in greedy:
            raw.writer.write(begin)
        for _ in range(300):
            await asyncio.sleep(0.001)
            assert server.guests.inflow.bytes <= limits.max_backlog + 30 * 300_000
        assert server.guests.inflow.bytes < 15_000_000
        async with asyncio.timeout(20):  # each gets its turn as it goes on, and so do others
            for raw in greedy:
                raw.writer.write(end)
            for raw in greedy:
                assert isinstance((await raw.reply()).message, Written)
            assert await good.call(Status())
        assert server.guests.inflow.bytes == 0


async def test_who_never_ends_its_message_makes_room_in_the_end():
    limits = Limits(max_backlog=2_000_000, stall_timeout_s=0.2)
    async with serving(limits=limits) as server:
        good = await Raw.connect(server.port)
        greedy = [await Raw.connect(server.port) for _ in range(8)]
        begin, _ = half(1_000_000)
        for raw in greedy:
            raw.writer.write(begin)
        async with asyncio.timeout(20):
            while server.guests.inflow.bytes < limits.max_backlog:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            assert await good.call(Write("s", 1, B1, [0], [bytes(1000)])) == Written([])
            while server.guests.inflow.bytes > limits.max_backlog:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        told = []
        for raw in greedy:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    told.append(await raw.reply())
        assert told
        assert {(t.id, t.message.code) for t in told if t} == {(ONE_WAY, TOO_MANY)}


async def test_who_goes_while_its_requests_wait_holds_nothing_any_more():
    """Else the server reads from nobody, once enough of them have gone."""

    class Held(MemoryEngine):
        """Commits when it is told to."""

        def __init__(self):
            super().__init__()
            self.go = asyncio.Event()

        async def commit(self, batch):
            await self.go.wait()
            await super().commit(batch)

    engine = Held()
    async with serving(engine, limits=Limits(max_backlog=10_000)) as server:
        for i in range(5):
            raw = await Raw.connect(server.port)
            raw.send(*(ToServer(n, Write("s", i, B1, [n], [bytes(3000)])) for n in range(1, 9)))
            async with asyncio.timeout(5):
                while not server.guests.inflow.bytes:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            for one in list(server.guests.served):
                one._transport.abort()  # as if an answer could not be sent
            async with asyncio.timeout(5):
                while server.guests.served:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            engine.go.set()
            await asyncio.sleep(0.01)
            assert server.guests.inflow.bytes == 0
            engine.go.clear()
        engine.go.set()
        async with asyncio.timeout(5):
            assert await (await Raw.connect(server.port)).call(Status())


# ---------------------------------------------------------------------------- answers


async def test_captures_of_much_do_not_fill_the_memory_with_answers():
    """40 KB of requests, for which 2 GB of rows could be reported."""
    limits = Limits(max_unsent=1 << 20)
    async with serving(limits=limits) as server:
        raw = await Raw.connect(server.port)
        for i in range(8):
            await raw.call(Write("s", 0, B1, [i], [bytes(1_000_000)]))
        raw.writer.transport.pause_reading()
        count = 1000
        for i in range(count):
            raw.request(Capture("s", 0, 0, 8, (2 + i).to_bytes(8, "big") + b"proposer"))
        await asyncio.sleep(0.3)
        held = sum(c.unsent for c in server.guests.served if c._transport)
        assert held < 12 << 20
        raw.writer.transport.resume_reading()
        async with asyncio.timeout(30):
            answers = [(await raw.reply()).message for _ in range(count)]
        assert all(isinstance(a, Promise) for a in answers)
        bare = [a for a in answers if not a.rows]
        assert bare
        assert {a.next for a in bare} == {0}
        report = await raw.call(Read("s", 0, [(bare[0].next, 8)]))
        assert report.rows[0].offset == 0


async def test_a_promise_without_room_says_whether_there_is_anything():
    with turned(server_batch_rows_bytes=1, server_page_bytes=1):
        async with serving() as server:
            raw = await Raw.connect(server.port)
            await raw.call(Write("s", 0, B1, [5, 6], [b"a", b"b"]))
            await raw.call(Write("t", 0, B1, [5], [b"a"]))
            messages = [
                Capture("s", 0, 0, 8, B2),
                Capture("t", 0, 0, 8, B2),
                Capture("u", 0, 0, 8, B2),
            ]
            raw.send(*(ToServer(i, m) for i, m in enumerate(messages, 90)))
            answers = {}
            for _ in range(3):
                reply = await raw.reply()
                answers[reply.id] = reply.message
            assert [len(answers[i].rows) for i in (90, 91, 92)] == [1, 0, 0]
            assert [answers[i].next for i in (90, 91, 92)] == [6, 5, -1]


@pytest.mark.parametrize("registers", [1, 1000])
async def test_a_backlog_is_measured_in_memory_not_in_bytes_of_the_wire(registers):
    """Requests of empty values are small on the wire, and take ten times as much here."""

    class Stuck(MemoryEngine):
        async def commit(self, batch):
            await asyncio.Event().wait()

    limit = 1_000_000
    async with serving(Stuck(), limits=Limits(max_backlog=limit)) as server:
        raw = await Raw.connect(server.port)
        offsets, values = list(range(registers)), [b""] * registers
        for _ in range(4_000_000 // (40 + 7 * registers)):
            raw.request(Write("s", 0, B1, offsets, values))
        await asyncio.sleep(0.5)
        held = len(server.node._queue)
        assert held <= 2 + limit / (
            connection.REQUEST_BYTES + connection.REGISTER_BYTES * registers
        )
        assert server.node.backlog_bytes <= limit + 200_000
        server.node._worker.cancel()
