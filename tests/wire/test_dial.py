"""Connecting by name: a name server that is silent holds nobody up."""

import asyncio
import subprocess
import sys
import threading

import pytest

import wormspace
from inprocess import serving
from wormspace.errors import Unavailable
from wormspace.wire import dial as dial_module
from wormspace.wire.dial import dial


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


async def test_servers_that_have_addresses_serve_while_a_name_is_looked_up(silent):
    with pytest.raises(Unavailable, match="silent:1"):
        await wormspace.connect("worm://silent:1", timeout=0.2)


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
