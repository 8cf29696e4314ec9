"""What callers can make a service hold: a short greeting, and so much of what has no answer."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from wormspace.rpc import Caller, NoAnswer, Service
from wormspace.rpc import service as service_module
from wormspace.wire.frames import frame

HELLO = frame(msgspec.msgpack.encode(["wormspace-rpc", [1]]))
LIMIT = 1 << 20


async def echo(body: bytes) -> bytes:
    return body


async def hang(body: bytes) -> bytes:
    await asyncio.Event().wait()
    return body


@pytest.mark.parametrize(
    "greeting",
    [
        pytest.param(b"\xff\xff\xff\xff", id="the largest header"),
        pytest.param((4097).to_bytes(4, "big"), id="one byte too many"),
        pytest.param(
            frame(msgspec.msgpack.encode(["wormspace-rpc", [7] * 100_000])), id="many versions"
        ),
    ],
)
def test_a_greeting_is_short(greeting: bytes) -> None:
    async def run() -> None:
        service = Service({"echo": echo})
        port = await service.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(greeting)
        try:
            assert await asyncio.wait_for(reader.read(), 3) == b""
        except ConnectionResetError:
            pass
        writer.close()
        await service.stop()

    asyncio.run(run())


def test_a_greeting_and_requests_may_come_byte_by_byte() -> None:
    async def run() -> None:
        service = Service({"echo": echo})
        port = await service.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in HELLO + frame(msgspec.msgpack.encode([1, "echo", b"x"])):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        size = int.from_bytes(await reader.readexactly(4), "big")
        assert msgspec.msgpack.decode(await reader.readexactly(size))[:2] == [1, b"x"]
        writer.close()
        await service.stop()

    asyncio.run(run())


@pytest.mark.parametrize("what", ["half a request", "small requests", "large requests"])
def test_what_callers_leave_lying_is_bounded_and_others_are_served(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(service_module, "HELD_BYTES", LIMIT)
    monkeypatch.setattr(service_module, "STALL_S", 0.05)
    stuff = {
        "half a request": (1 << 20).to_bytes(4, "big") + bytes(900_000),
        "small requests": frame(msgspec.msgpack.encode([1, "hang", b""])) * 4000,
        "large requests": frame(msgspec.msgpack.encode([1, "hang", bytes(100_000)])) * 9,
    }[what]

    async def run() -> None:
        service = Service({"echo": echo, "hang": hang})
        port = await service.start("127.0.0.1", 0)
        caller = Caller("127.0.0.1", port)
        assert await caller.call("echo", b"before", 5) == b"before"
        most = 0
        for _ in range(30):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HELLO + stuff)
            await asyncio.sleep(0.02)
            most = max(most, service.guests.inflow.bytes)
        assert most <= LIMIT + len(stuff) + 4096 * service_module.REQUEST_BYTES
        for _ in range(100):
            try:
                assert await caller.call("echo", b"after", 5) == b"after"
                break
            except NoAnswer:
                continue
        else:
            pytest.fail("nobody else is served")
        await caller.close()
        await service.stop()

    asyncio.run(run())


def test_what_was_answered_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "HELD_BYTES", 100_000)

    async def run() -> None:
        service = Service({"echo": echo})
        caller = Caller("127.0.0.1", await service.start("127.0.0.1", 0))
        for _ in range(5):
            bodies = [bytes([i]) * 10_000 for i in range(50)]
            assert await asyncio.gather(*(caller.call("echo", b, 9) for b in bodies)) == bodies
        await asyncio.sleep(0)
        assert service.guests.inflow.bytes == 0
        await caller.close()
        await service.stop()

    asyncio.run(run())
