"""Connecting by name: a name server that is silent holds nobody up."""

import asyncio
import multiprocessing
import subprocess
import sys
import threading

import pytest

import wormspace
from inprocess import serving
from wormspace.errors import Unavailable
from wormspace.wire import dial as dial_module
from wormspace.wire.dial import dial


def in_child(work):
    """What `work` returns in a forked child; fails if it hangs."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=lambda: theirs.send(work()))
    process.start()
    assert ours.poll(30), "the child hangs"
    process.join(30)
    return ours.recv()


@pytest.fixture
def silent(monkeypatch):
    """Look-ups of `silent` hang until the test is over; how many there were."""
    over = threading.Event()
    asked = []
    real = dial_module.socket.getaddrinfo

    def getaddrinfo(host, *rest, **options):
        if host != "silent":
            return real(host, *rest, **options)
        asked.append(host)
        over.wait()
        raise OSError("given up")

    monkeypatch.setattr(dial_module.socket, "getaddrinfo", getaddrinfo)
    yield asked
    over.set()


async def test_a_name_is_looked_up_and_connected_to():
    async with serving() as server:
        transport, _ = await dial(asyncio.Protocol, "localhost", server.port)
        transport.close()


async def test_a_name_that_nobody_has_is_an_error_of_the_system():
    with pytest.raises(OSError):  # noqa: PT011 (the system's own words)
        await dial(asyncio.Protocol, "no-such-name.invalid", 1)
    with pytest.raises(OSError, match="no host name"):
        await dial(asyncio.Protocol, "a" * 300 + ".invalid", 1)


async def test_a_silent_name_server_has_one_thread_for_a_name_and_none_of_the_loops(silent):
    loop = asyncio.get_running_loop()
    waiting = [loop.create_task(dial(asyncio.Protocol, "silent", 1)) for _ in range(50)]
    await asyncio.sleep(0.05)
    assert silent == ["silent"]
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "served"), 10) == "served"
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_who_waits_no_longer_is_not_told(monkeypatch):
    loop, over, told = asyncio.get_running_loop(), threading.Event(), []
    loop.set_exception_handler(lambda _, context: told.append(context))

    def getaddrinfo(*_, **__):
        over.wait()
        raise OSError("given up")

    monkeypatch.setattr(dial_module.socket, "getaddrinfo", getaddrinfo)
    gone, waits = (loop.create_task(dial(asyncio.Protocol, "slow", 1)) for _ in range(2))
    await asyncio.sleep(0.01)
    gone.cancel()
    await asyncio.wait([gone])
    over.set()
    with pytest.raises(OSError, match="given up"):
        await waits
    assert told == []


async def test_servers_that_have_addresses_serve_while_a_name_is_looked_up(silent):
    with pytest.raises(Unavailable, match="silent:1"):
        await wormspace.connect("worm://silent:1", timeout=0.2)


@pytest.mark.parametrize("error", [RuntimeError("can't start"), MemoryError("can't start")])
async def test_a_look_up_that_cannot_begin_is_an_error_and_the_next_one_begins(error, monkeypatch):
    def start(thread):
        raise error

    async with serving() as server:
        with monkeypatch.context() as short:
            short.setattr(threading.Thread, "start", start)
            with pytest.raises(OSError, match="localhost cannot be looked up: can't start"):
                await dial(asyncio.Protocol, "localhost", server.port)
        transport, _ = await dial(asyncio.Protocol, "localhost", server.port)
        transport.close()


@pytest.mark.parametrize("error", [ValueError("embedded null character"), MemoryError()])
async def test_whatever_ends_a_look_up_it_is_told(error, monkeypatch):
    def getaddrinfo(*_, **__):
        raise error

    monkeypatch.setattr(dial_module.socket, "getaddrinfo", getaddrinfo)
    async with asyncio.timeout(10):
        with pytest.raises(OSError, match=r"no host name|MemoryError"):
            await dial(asyncio.Protocol, "odd", 1)
    assert not dial_module._waiting


async def test_names_are_looked_up_for_loops_of_the_system_and_left_to_all_others():
    assert dial_module._is_real(asyncio.get_running_loop())
    for module, is_real in (("uvloop", True), ("asyncio", False), ("wormspace.sim", False)):
        loop = type("Loop", (), {"__module__": module})()
        assert dial_module._is_real(loop) == is_real
    assert await dial_module._addresses(loop, "a name of a world") == ["a name of a world"]


async def test_the_last_address_has_all_the_time_there_is(monkeypatch):
    monkeypatch.setattr(dial_module, "ADDRESS_S", 0.001)
    loop = asyncio.get_running_loop()

    async def create_connection(factory, host, port):
        await asyncio.sleep(0.05)
        return host, port

    monkeypatch.setattr(loop, "create_connection", create_connection)
    for hosts in (["127.0.0.1"], ["192.0.2.1", "127.0.0.1"]):
        found = [(2, 1, 6, "", (host, 0)) for host in hosts]
        monkeypatch.setattr(dial_module.socket, "getaddrinfo", lambda *_, found=found, **__: found)
        assert await dial(asyncio.Protocol, "slow", 5) == ("127.0.0.1", 5)


def test_a_fork_waits_for_no_look_up_of_its_parent():
    lock, waiting = dial_module._lock, dict(dial_module._waiting)
    try:
        dial_module._waiting["name"] = []
        dial_module._forget_in_child()
        assert dial_module._waiting == {}
        assert dial_module._lock is not lock
    finally:
        dial_module._lock = lock
        dial_module._waiting.update(waiting)


async def test_an_address_that_is_silent_does_not_keep_the_next_one_from_its_turn(monkeypatch):
    monkeypatch.setattr(dial_module, "ADDRESS_S", 0.01)
    loop = asyncio.get_running_loop()
    real, asked = loop.create_connection, []

    async def create_connection(factory, host, port):
        asked.append(host)
        if host == "192.0.2.1":
            await asyncio.Event().wait()
        return await real(factory, host, port)

    def getaddrinfo(*_, **__):
        return [(2, 1, 6, "", (host, 0)) for host in ("192.0.2.1", "127.0.0.1")]

    monkeypatch.setattr(loop, "create_connection", create_connection)
    monkeypatch.setattr(dial_module.socket, "getaddrinfo", getaddrinfo)
    async with serving() as server, asyncio.timeout(10):
        transport, _ = await dial(asyncio.Protocol, "dual", server.port)
        transport.close()
    assert asked == ["192.0.2.1", "127.0.0.1"]


def test_a_fork_looks_up_what_its_parent_waits_for(silent):
    async def waiting(timeout):
        async with asyncio.timeout(timeout):
            await dial(asyncio.Protocol, "silent", 1)

    with pytest.raises(TimeoutError):
        asyncio.run(waiting(0.05))

    def look_up():
        dial_module.socket.getaddrinfo = answer
        try:
            asyncio.run(waiting(10))
        except ConnectionError:
            return "looked up"

    def answer(*_, **__):
        return [(2, 1, 6, "", ("127.0.0.1", 0))]

    assert in_child(look_up) == "looked up"


PROGRAM = """
import asyncio, socket, time
import wormspace
socket.getaddrinfo = lambda *a, **k: time.sleep(3600)
async def main():
    try:
        await wormspace.connect("worm://silent:1", timeout=0.2)
    except wormspace.Unavailable:
        print("unavailable")
asyncio.run(main())
"""


def test_a_program_ends_although_a_look_up_hangs():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "unavailable\n"
