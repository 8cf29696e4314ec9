"""A real server against bytes that are no messages: it serves the others, its state untouched."""

import asyncio
import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from test_message_codec import body, to_server

from inprocess import Raw, content, serving
from wormspace.paxos.ballot import ballot
from wormspace.paxos.messages import Capture, Decided, Read, Report, Trim, Write, Written
from wormspace.server.storage import AcceptorStore
from wormspace.store.memory_engine import MemoryEngine
from wormspace.wire import codec
from wormspace.wire.frames import HEADER_BYTES, frame
from wormspace.wire.messages import BAD_REQUEST, ONE_WAY, Failed, Listen, Spaces, Status, ToServer

B1 = ballot(1, b"proposer")
B2 = ballot(2, b"proposer")


async def furnish(server):
    """Give the server something to lose; returns a client that goes on being served."""
    good = await Raw.connect(server.port)
    await good.call(Capture("s", 0, 0, 8, B1))
    assert await good.call(Write("s", 0, B1, [0, 1], [b"kept", b"too"])) == Written([])
    await good.call(Trim("s", 5, 7))
    return good


async def check_untouched(server, good, before):
    """The server holds what it held, and answers."""
    assert content(server.engine) == before
    report = await asyncio.wait_for(good.call(Read("s", 0, [(0, 8)])), 5)
    assert isinstance(report, Report)
    assert [r.value for r in report.rows] == [b"kept", b"too"]
    assert not server.failed.done()


MALFORMED = {
    "an oversized header": (1 << 30).to_bytes(4, "big"),
    "the largest header": b"\xff\xff\xff\xff",
    "an empty frame": frame(b""),
    "no msgpack": frame(b"\xc1"),
    "text": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a truncated message": frame(body(ToServer(1, Status()))[:-1]),
    "trailing bytes": frame(body(ToServer(1, Status())) + b"x"),
    "deep nesting": frame(b"\x91" * 100_000 + b"\xc0"),
    "a huge array header": frame(b"\x92\x01\xdd\xff\xff\xff\xff"),
    "a huge string header": frame(b"\x92\x01\xdb\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("what", MALFORMED)
@pytest.mark.parametrize("greeted", [True, False])
async def test_what_is_malformed_is_answered_and_closed_and_changes_nothing(what, greeted):
    async with serving() as server:
        good = await furnish(server)
        before = content(server.engine)
        bad = await Raw.connect(server.port, greet=greeted)
        bad.writer.write(MALFORMED[what])
        async with asyncio.timeout(5):
            if greeted:
                *_, last = await bad.rest()
                assert last.id == ONE_WAY
                assert isinstance(last.message, Failed)
                assert (last.message.code, bool(last.message.text)) == (BAD_REQUEST, True)
            else:
                refusal = await bad.greeting()
                assert refusal.code == "malformed"
                assert await bad.body() is None
        assert server.metrics()["malformed"] == 1
        assert server.metrics()["connections"] == 1
        await check_untouched(server, good, before)


NONSENSE = [
    Write("s", 0, B2, [], []),
    Write("s", 0, B2, [1], []),
    Write("s", 0, B2, [3, 3], [b"a", b"b"]),
    Write("s", 0, B2, [3], [bytes((1 << 20) + 1)]),
    Write("é" * 200, 0, B2, [3], [b"v"]),
    Capture("s", 0, 4, 4, B2),
    Capture("s", 0, 4, 3, B2),
    Capture("é" * 200, 0, 0, 1, B2),
    Trim("s", 3, 3),
    Trim("s", 3, 2),
    Read("s", 0, []),
    Read("s", 0, [(3, 3)]),
    Read("s", 0, [(4, 6), (1, 2)]),
    Read("\U0001f41b" * 255, 0, [(0, 1)]),
]


@pytest.fixture(params=["memory", "lmdb"])
def engine(request, tmp_path):
    return MemoryEngine() if request.param == "memory" else AcceptorStore(tmp_path / "store")


@pytest.mark.parametrize("message", NONSENSE, ids=lambda m: type(m).__name__)
async def test_a_request_that_makes_no_sense_gets_an_error_and_the_connection_lives(
    message, engine
):
    async with serving(engine) as server:
        good = await furnish(server)
        before = content(server.engine)
        bad = await Raw.connect(server.port)
        async with asyncio.timeout(5):
            answer = await bad.call(message)
            assert isinstance(answer, Failed) or answer == Report([], -1)
            assert await bad.call(Read("s", 0, [(0, 1)]))
        await check_untouched(server, good, before)


ODD = [
    Decided("s", 0, B1, [(4, 4)]),
    Decided("\U0001f41b" * 255, 0, B1, [(0, 4)]),
    Decided("s", 1 << 61, B1, [(0, 4)]),
    Spaces("\U0001f41b" * 1000),
    Listen("\U0001f41b" * 255, 0, 1),
]


@pytest.mark.parametrize("message", ODD, ids=lambda m: type(m).__name__)
async def test_names_longer_than_a_key_and_the_like_harm_nobody(message, engine):
    async with serving(engine) as server:
        good = await furnish(server)
        before = content(server.engine)
        bad = await Raw.connect(server.port)
        bad.request(message)
        bad.request(Status())
        async with asyncio.timeout(5):
            answers = [await bad.reply()]
            while answers[-1] is not None and answers[-1].id != 2:
                answers.append(await bad.reply())
            assert answers[-1] is not None, "the connection was closed"
        await check_untouched(server, good, before)


async def send_all(port, streams):
    """Each stream on a connection of its own, until the server has had enough of it."""
    for greeted, raw in streams:
        bad = await Raw.connect(port, greet=greeted)
        try:
            bad.writer.write(raw)
            bad.writer.write_eof()
            await asyncio.wait_for(bad.reader.read(), 5)
        except ConnectionError:
            pass
        finally:
            await bad.close()


def is_harmless(raw):
    """Whether no frame of the stream is a valid request that may change state."""
    at = 0
    while at + HEADER_BYTES <= len(raw):
        size = int.from_bytes(raw[at : at + HEADER_BYTES], "big")
        part = raw[at + HEADER_BYTES : at + HEADER_BYTES + size]
        if len(part) < size:
            return True
        try:
            message = codec.decode_request(part).message
        except codec.BadRequest:
            message = None  # answered for itself
        except codec.BadMessage:
            return True  # the server closes here
        if isinstance(message, Capture | Write | Trim | Decided):
            return False
        at += HEADER_BYTES + size
    return True


def mutate(rng, raw):
    """A valid stream with bytes flipped, cut, repeated or inserted."""
    out = bytearray(raw)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(out):
            out[at] = rng.randrange(256)
        elif kind == 1 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del out[at : at + rng.randint(1, 8)]
        elif kind == 3:
            out[at:at] = rng.randbytes(rng.randint(1, 8))
        else:
            out[at:at] = out[max(0, at - rng.randint(1, 16)) : at]
    return bytes(out)


SAMPLES = [
    Capture("s", 0, 0, 8, B2),
    Write("s", 0, B2, [0, 1, 2], [b"x", b"", b"y" * 40]),
    Read("s", 0, [(0, 3), (5, 8)]),
    Decided("s", 0, B2, [(0, 8)]),
    Trim("s", 0, 1),
    Listen("s", 0, 10, values=False),
    Status(),
    Spaces(""),
]


async def test_the_byte_fuzzer_finds_no_way_in():
    seed = int(os.environ.get("WORMSPACE_SEED", random.SystemRandom().getrandbits(32)))
    print(f"WORMSPACE_SEED={seed}")
    rng = random.Random(seed)
    async with serving() as server:
        good = await furnish(server)
        before = content(server.engine)
        streams = []
        while len(streams) < 400:
            sample = b"".join(
                codec.encode(ToServer(i + 1, m)) for i, m in enumerate(rng.sample(SAMPLES, 3))
            )
            raw = mutate(rng, sample) if rng.random() < 0.8 else rng.randbytes(rng.randint(1, 300))
            if is_harmless(raw):
                streams.append((rng.random() < 0.8, raw))
        await send_all(server.port, streams)
        await check_untouched(server, good, before)
        assert list(server.metrics())  # it still tells
        assert len(server.guests.served) <= 2


@given(message=to_server)
@settings(max_examples=60, deadline=None)
def test_any_well_formed_request_is_answered_or_ignored_and_the_server_lives(message):
    """Well-formed, but with any numbers: nothing in it may bring the server down."""

    async def run(store):
        async with serving(AcceptorStore(Path(store), durability="os")) as server:
            good = await furnish(server)
            odd = await Raw.connect(server.port)
            odd.send(message)
            odd.send(ToServer((1 << 63) - 1, Status()))
            async with asyncio.timeout(5):
                while True:
                    reply = await odd.reply()
                    assert reply is not None, "the connection was closed"
                    if reply.id == (1 << 63) - 1:
                        break
            assert isinstance(await good.call(Read("elsewhere", 0, [(0, 8)])), Report)
            assert not server.failed.done()

    with tempfile.TemporaryDirectory() as store:
        asyncio.run(run(store))
