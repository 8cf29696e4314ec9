"""Requests between application processes: answered, failed, or unknown; never hanging."""

from __future__ import annotations

import asyncio
import gc

import pytest

from wormspace.errors import ValueTooLarge, WormError
from wormspace.rpc import Caller, Failure, NoAnswer, Service
from wormspace.rpc import caller as caller_module
from wormspace.rpc import service as service_module
from wormspace.wire.frames import MAX_FRAME_BYTES


async def echo(body: bytes) -> bytes:
    return body


async def fail(body: bytes) -> bytes:
    raise WormError("cannot")


async def hang(body: bytes) -> bytes:
    await asyncio.Event().wait()
    return b""


async def started() -> tuple[Service, Caller]:
    service = Service({"echo": echo, "fail": fail, "hang": hang})
    port = await service.start("127.0.0.1", 0)
    return service, Caller("127.0.0.1", port)


def test_many_calls_at_once_get_their_own_answers() -> None:
    async def run() -> None:
        service, caller = await started()
        bodies = [str(i).encode() for i in range(500)]
        answers = await asyncio.gather(*(caller.call("echo", b, 5) for b in bodies))
        assert list(answers) == bodies
        await caller.close()
        await service.stop()

    asyncio.run(run())


def test_a_handlers_error_is_the_callers_failure() -> None:
    async def run() -> None:
        service, caller = await started()
        with pytest.raises(Failure, match="cannot"):
            await caller.call("fail", b"", 5)
        with pytest.raises(Failure, match="no service"):
            await caller.call("absent", b"", 5)
        await caller.close()
        await service.stop()

    asyncio.run(run())


def test_no_answer_in_time_is_said_and_the_connection_goes_on() -> None:
    async def run() -> None:
        service, caller = await started()
        with pytest.raises(NoAnswer, match="within"):
            await caller.call("hang", b"", 0.05)
        assert await caller.call("echo", b"still here", 5) == b"still here"
        await caller.close()
        await service.stop()

    asyncio.run(run())


def test_a_lost_connection_ends_calls_and_the_next_call_connects_again() -> None:
    async def run() -> None:
        service, caller = await started()
        waiting = asyncio.ensure_future(caller.call("hang", b"", 5))
        await asyncio.sleep(0.05)
        await service.stop()
        with pytest.raises(NoAnswer, match="lost"):
            await waiting
        with pytest.raises(NoAnswer):
            await caller.call("echo", b"", 0.5)
        await caller.close()

    asyncio.run(run())


def test_a_connection_that_fails_after_its_caller_gave_up_is_no_loose_end() -> None:
    async def run() -> list[str]:
        loose: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: loose.append(context["message"]))
        caller = Caller("127.0.0.1", 9)

        async def refuse(*_: object) -> None:
            await asyncio.sleep(0.05)
            raise ConnectionRefusedError

        loop.create_connection = refuse  # type: ignore[method-assign, assignment]
        with pytest.raises(NoAnswer, match="within"):
            await caller.call("echo", b"", 0.01)
        await asyncio.sleep(0.1)
        await caller.close()
        gc.collect()
        return loose

    assert asyncio.run(run()) == []


def test_what_is_no_request_costs_only_its_own_connection() -> None:
    async def run() -> None:
        service, caller = await started()
        port = int(str(caller).rpartition(":")[2])
        for body in (b"\xc1", b"\x93\x01\xa1\xff\xc4\x00", b""):  # no msgpack, no UTF-8, nothing
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(len(body).to_bytes(4, "big") + body)
            assert await reader.read() == b""
            writer.close()
        assert await caller.call("echo", b"still here", 5) == b"still here"
        await caller.close()
        await service.stop()

    asyncio.run(run())


def test_a_fault_of_a_handler_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(body: bytes) -> bytes:
        raise KeyError("a bug")

    async def run() -> None:
        service = Service({"broken": broken})
        caller = Caller("127.0.0.1", await service.start("127.0.0.1", 0))
        with pytest.raises(Failure, match="KeyError"):
            await caller.call("broken", b"", 5)
        await caller.close()
        await service.stop()

    asyncio.run(run())
    assert "service broken failed" in caplog.text


def test_what_is_too_large_for_one_message_fails_alone() -> None:
    async def large(body: bytes) -> bytes:
        return bytes(MAX_FRAME_BYTES)

    async def run() -> None:
        service = Service({"echo": echo, "large": large, "hang": hang})
        caller = Caller("127.0.0.1", await service.start("127.0.0.1", 0))
        other = asyncio.ensure_future(caller.call("hang", b"", 60))
        with pytest.raises(ValueTooLarge, match="one message holds"):
            await caller.call("echo", bytes(MAX_FRAME_BYTES), 5)
        with pytest.raises(Failure, match="too large for one message"):
            await caller.call("large", b"", 5)
        assert await caller.call("echo", b"still here", 5) == b"still here"
        assert not other.done()
        other.cancel()
        await caller.close()
        await service.stop()

    asyncio.run(run())


def test_so_many_requests_are_worked_on_and_the_others_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_module, "AT_ONCE", 3)
    running, most = 0, 0

    async def count(body: bytes) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return body

    async def run() -> None:
        service = Service({"count": count})
        caller = Caller("127.0.0.1", await service.start("127.0.0.1", 0))
        bodies = [b"%d" % i for i in range(100)]
        assert await asyncio.gather(*(caller.call("count", b, 5) for b in bodies)) == bodies
        await caller.close()
        await service.stop()

    asyncio.run(run())
    assert most == 3


def test_a_caller_of_another_version_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_module, "VERSIONS", (2, 3))

    async def run() -> None:
        service, caller = await started()
        with pytest.raises(NoAnswer, match="speaks version 1"):
            await caller.call("echo", b"", 5)
        await caller.close()
        await service.stop()

    asyncio.run(run())


def test_more_callers_than_a_service_takes_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "CONNECTIONS", 1)

    async def run() -> None:
        service, caller = await started()
        assert await caller.call("echo", b"in", 5) == b"in"
        other = Caller(*caller._address)
        with pytest.raises(NoAnswer, match="as many connections as it allows"):
            await other.call("echo", b"", 5)
        await other.close()
        await caller.close()
        await service.stop()

    asyncio.run(run())
