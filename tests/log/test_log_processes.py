"""Real processes killed: sequencers and servers, while appends go on."""

import asyncio
import signal
import subprocess
import sys
import time

import pytest

import wormspace
from cluster_fixture import ProcessCluster

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("log-kills")]

PAUSE_S = 6.0


@pytest.fixture
def cluster(tmp_path):
    running = ProcessCluster(tmp_path)
    try:
        yield running.start()
    finally:
        running.close()


class Sequencers:
    """Processes of `wormspace log sequencer`."""

    def __init__(self, url):
        self.url = url
        self.running = []

    def start(self):
        process = subprocess.Popen(
            [sys.executable, "-m", "wormspace.cli", "--url", self.url, "log", "sequencer", "orders"]
        )
        self.running.append(process)
        return process

    def close(self):
        for process in self.running:
            process.kill()
            process.wait()


async def keep_appending(log, acknowledged, until):
    """Append until told to stop; returns the longest pause between two that succeeded."""
    number, last, longest = 0, time.monotonic(), 0.0
    while not until.is_set():
        number += 1
        body = f"{id(log)}:{number}".encode()
        try:
            position = await log.append(body)
        except wormspace.Unavailable:
            continue
        assert position not in acknowledged
        acknowledged[position] = body
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return longest


async def test_sequencers_and_servers_are_killed_and_nothing_is_lost(cluster):
    sequencers = Sequencers(cluster.url)
    try:
        first = sequencers.start()
        await asyncio.sleep(1.5)
        sequencers.start()
        async with await wormspace.connect(cluster.url) as worm:
            acknowledged, until = {}, asyncio.Event()
            logs = [
                await worm.log("orders", sequencer="elsewhere", patience_s=0.3) for _ in range(4)
            ]
            heard = []

            async def listen():
                async for entry in logs[0].listen(0):
                    heard.append(entry)  # noqa: PERF401

            listening = asyncio.create_task(listen())
            appending = [
                asyncio.create_task(keep_appending(log, acknowledged, until)) for log in logs
            ]
            await asyncio.sleep(2)
            first.kill()
            await asyncio.sleep(3)
            await asyncio.to_thread(cluster.kill, "s2")
            await asyncio.sleep(2)
            await asyncio.to_thread(cluster.start, "s2")
            sequencers.running[1].send_signal(signal.SIGSTOP)
            sequencers.start()
            await asyncio.sleep(4)
            sequencers.running[1].send_signal(signal.SIGCONT)
            await asyncio.sleep(1)
            until.set()
            pauses = await asyncio.gather(*appending)
            assert max(pauses) < PAUSE_S
            entries = await logs[1].read_range(0)
            held = {entry.position: entry.body for entry in entries}
            assert all(held[p] == body for p, body in acknowledged.items())
            assert len(set(held.values())) == len(held)
            async with asyncio.timeout(20):
                while len(heard) < len(entries):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert heard == entries
            listening.cancel()
    finally:
        sequencers.close()


@pytest.fixture
def owner(cluster):
    """A client process that has become the sequencer."""
    command = [sys.executable, "-c", OWNER, cluster.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


async def test_a_client_that_was_the_sequencer_is_succeeded_by_another(cluster, owner):
    async with await wormspace.connect(cluster.url) as worm:
        log = await worm.log("orders")
        assert await log.append(b"through the other process") == 1
        owner.kill()
        began = time.monotonic()
        assert await log.append(b"through this one") > 1
        assert time.monotonic() - began < PAUSE_S
        bodies = [entry.body for entry in await log.read_range(0)]
        assert bodies[-2:] == [b"through the other process", b"through this one"]


@pytest.fixture
def follower(cluster):
    """`wormspace log tail -f`, on a log that has three lines."""
    command = [sys.executable, "-m", "wormspace.cli", "--url", cluster.url, "log"]
    subprocess.run(
        [*command, "append", "orders"], input=b"1\n2\n3\n", check=True, stdout=subprocess.DEVNULL
    )
    with subprocess.Popen(
        [*command, "tail", "-f", "-n", "2", "orders"], stdout=subprocess.PIPE
    ) as process:
        yield process
        process.kill()


async def test_the_tail_is_followed_until_it_is_interrupted(cluster, follower):
    assert [follower.stdout.readline() for _ in range(2)] == [b"2\n", b"3\n"]
    async with await wormspace.connect(cluster.url) as worm:
        log = await worm.log("orders")
        await log.append_many([b"4", b"5"])
        heard = [await asyncio.to_thread(follower.stdout.readline) for _ in range(2)]
        assert heard == [b"4\n", b"5\n"]
    follower.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(follower.wait, 20) == 0


OWNER = """
import asyncio, sys, wormspace
async def main():
    async with wormspace.connect(sys.argv[1]) as worm:
        log = await worm.log("orders")
        await log.append(b"first")
        print("ready", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
