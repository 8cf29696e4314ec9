"""Idle connections take a server's descriptors, and never those that its store needs."""

import asyncio
import contextlib
import resource
from pathlib import Path

import pytest

import wormspace
from cluster_fixture import ProcessCluster
from inprocess import Raw
from wormspace.errors import UsageError
from wormspace.server import descriptors
from wormspace.wire.messages import PROTOCOL_VERSIONS, Hello, Status

HARD = 256


def cpu_s(pid):
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def descriptors_of(pid):
    """How many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.processes
async def test_idle_connections_beyond_the_limit_are_refused_and_the_store_goes_on(tmp_path):
    """With fewer descriptors than connections; checkpoints go on, and nothing is lost."""
    cluster = await asyncio.to_thread(lambda: ProcessCluster(tmp_path / "c", (1,)))
    cluster.wrap = ["prlimit", f"--nofile=64:{HARD}"]
    await asyncio.to_thread(cluster.start)
    try:
        process = cluster.running["s1"]
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        assert (soft, hard) == (HARD, HARD)  # it took what it may
        port = cluster.config.server[0].port
        async with wormspace.connect(cluster.url, timeout=30) as worm:
            segment = await worm.space("s").alloc(size=4096)
            token = (await segment.capture()).token
            idle, refused = [], 0
            for _ in range(HARD + 100):
                raw = await Raw.connect(port, greet=False)
                idle.append(raw)
                raw.writer.write(b"")
            greeted = await asyncio.gather(*(greet(raw) for raw in idle))
            refused = sum(getattr(g, "code", None) == "busy" for g in greeted)
            served = sum(getattr(g, "version", None) == 1 for g in greeted)
            assert served == HARD - descriptors.RESERVE - descriptors.MAX_LEAVING - 1
            assert refused + served >= HARD  # some of the others were cut off without a word
            began = cpu_s(process.pid)
            await asyncio.sleep(1)
            assert cpu_s(process.pid) - began < 0.5  # it does not spin
            values = [bytes([i % 256]) * 60_000 for i in range(600)]  # two checkpoints' worth
            for at in range(0, 600, 50):
                await segment.write_range(at, values[at : at + 50], token)
            assert process.poll() is None
        cluster.kill("s1")
        await asyncio.to_thread(cluster.start)
        async with wormspace.connect(cluster.url, timeout=30) as worm:
            segment = await worm.space("s").segment(0)
            assert await segment.read_range(0, 600) == values
    finally:
        cluster.close()


async def greet(raw):
    try:
        raw.send(Hello(list(PROTOCOL_VERSIONS), "", "idle"))
        return await asyncio.wait_for(raw.greeting(), 20)
    except (ConnectionError, TimeoutError):
        return None


@pytest.mark.processes
async def test_a_server_that_is_out_of_descriptors_all_the_same_neither_ends_nor_spins(tmp_path):
    """Somebody lowers the limit of a running server below what it holds."""
    cluster = await asyncio.to_thread(lambda: ProcessCluster(tmp_path / "c", (1,)).start())
    try:
        process = cluster.running["s1"]
        port = cluster.config.server[0].port
        good = await Raw.connect(port)
        held = descriptors_of(process.pid)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (held + 3, held + 3))
        idle = []
        for _ in range(20):
            with contextlib.suppress(ConnectionError, TimeoutError):
                idle.append(await asyncio.wait_for(Raw.connect(port, greet=False), 1))
        began = cpu_s(process.pid)
        await asyncio.sleep(1)
        assert cpu_s(process.pid) - began < 0.5
        assert await good.call(Status())
        for raw in idle:
            await raw.close()
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (held + 3, held + 3))
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(ConnectionError, AssertionError, TimeoutError):
                    late = await asyncio.wait_for(Raw.connect(port), 2)
                    assert late.welcome is not None
                    break
    finally:
        cluster.close()


@pytest.mark.parametrize(
    ("wanted", "limit", "got"), [(4096, 1 << 20, 4096), (4096, 1024, 896), (10, 1024, 10)]
)
def test_connections_are_what_is_wanted_or_what_is_left(wanted, limit, got, caplog):
    assert descriptors.connections(wanted, limit) == got
    assert ("raise the limit" in caplog.text) == (got < wanted)


def test_a_server_that_could_hardly_serve_says_what_to_raise():
    least = descriptors.RESERVE + descriptors.MAX_LEAVING + descriptors.LEAST_CONNECTIONS
    assert descriptors.connections(4096, least) == descriptors.LEAST_CONNECTIONS
    with pytest.raises(UsageError, match="ulimit"):
        descriptors.connections(4096, least - 1)


EVERY, ENOUGH = resource.RLIM_INFINITY, descriptors.ENOUGH


@pytest.mark.parametrize(
    ("soft", "hard", "asked", "got"),
    [
        (1024, 4096, 4096, 4096),
        (4096, 4096, None, 4096),
        (1024, EVERY, ENOUGH, ENOUGH),
        (ENOUGH, EVERY, None, ENOUGH),
        (2 * ENOUGH, EVERY, None, 2 * ENOUGH),
        (EVERY, EVERY, None, ENOUGH),
    ],
)
def test_a_process_takes_as_many_descriptors_as_it_may(soft, hard, asked, got, monkeypatch, caplog):
    asks = []
    monkeypatch.setattr(descriptors.resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(descriptors.resource, "setrlimit", lambda *what: asks.append(what))
    wanted = [] if asked is None else [(resource.RLIMIT_NOFILE, (asked, hard))]
    assert (descriptors.raise_limit(), asks, caplog.text) == (got, wanted, "")

    def refuse(*what):
        raise ValueError("not permitted")

    monkeypatch.setattr(descriptors.resource, "setrlimit", refuse)
    assert descriptors.raise_limit() == (got if asked is None else soft)
    assert ("stays at 1024: not permitted" in caplog.text) == (asked is not None)
