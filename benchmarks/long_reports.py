"""Long reports: reading 256 MiB, capturing a written segment, single captures one after the other.

    python benchmarks/long_reports.py [REGISTERS] [SINGLES]

Three durable servers and the client on one machine.  Reading is compared with a bare stream over
the loopback of the same run: one process sends 256 MiB, this one receives them.  CPU is summed
over the client and the servers.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import uvloop

import wormspace
from wormspace.bench.processes import cpu_seconds, make_cluster, running
from wormspace.runtime.collector import collect_seldom

MIB = 1 << 20
LARGE = 256
ROUNDS = 3
AT_ONCE = 10_000


def send(port: int) -> None:
    """Send 256 MiB to whoever listens there."""
    with socket.create_connection(("127.0.0.1", port)) as s:
        for _ in range(LARGE):
            s.sendall(bytes(MIB))


async def loopback() -> float:
    """Seconds for 256 MiB from another process, through this event loop."""
    done = asyncio.get_running_loop().create_future()
    received = 0

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        began = time.perf_counter()
        while data := await reader.read(MIB):
            received += len(data)
        done.set_result(time.perf_counter() - began)

    server = await asyncio.start_server(take, "127.0.0.1", 0, limit=4 * MIB)
    port = server.sockets[0].getsockname()[1]
    sender = multiprocessing.get_context("spawn").Process(target=send, args=(port,))
    sender.start()
    seconds: float = await done
    server.close()
    sender.join()
    return seconds


async def measured(pids: list[int], what: str, work: Callable[[], Awaitable[object]]) -> float:
    """Run it, print its seconds and the CPU of all."""
    began, cpu = time.perf_counter(), time.process_time() + cpu_seconds(pids)
    await work()
    seconds = time.perf_counter() - began
    cpu = time.process_time() + cpu_seconds(pids) - cpu
    print(f"{what}: {seconds:.2f} s, CPU {cpu:.2f} s", flush=True)
    return seconds


async def large(worm: wormspace.Worm, pids: list[int]) -> None:
    """A range of 256 values of 1 MiB, beside the loopback."""
    segment = await worm.space("large").alloc(size=LARGE)
    token = (await segment.capture()).token
    for start in range(0, LARGE, 8):
        await segment.write_range(start, [bytes(MIB)] * 8, token)
    await asyncio.sleep(2)
    for _ in range(ROUNDS):
        bare = await loopback()
        ours = await measured(pids, "read_range of 256 MiB", segment.read_range)
        print(f"  loopback {bare:.2f} s; {bare / ours:.2f} of its rate")


async def many(worm: wormspace.Worm, pids: list[int], registers: int) -> None:
    """A segment of which every register is written and decided."""
    segment = await worm.space("many").alloc(size=registers)
    token = (await segment.capture()).token
    for start in range(0, registers, AT_ONCE):
        count = min(AT_ONCE, registers - start)
        await segment.write_range(start, [b"a value"] * count, token)
    await asyncio.sleep(3)
    for _ in range(ROUNDS):
        await measured(pids, f"capture of {registers} written registers", segment.capture)
    await measured(pids, "  read_range of them", segment.read_range)


async def single(worm: wormspace.Worm, pids: list[int], count: int) -> None:
    """Captures and writes of single registers: later ones cost what early ones do."""
    segment = await worm.space("single").alloc(size=count)

    async def one(offset: int) -> None:
        captured = await segment.capture(offset)
        await segment.write(offset, b"v", captured.token)

    async def tenth(first: int) -> None:
        for start in range(first, first + count // 10, 100):
            await asyncio.gather(*(one(offset) for offset in range(start, start + 100)))

    for first in range(0, count, count // 10):
        await measured(pids, f"captures and writes from {first} on", partial(tenth, first))


async def main(url: str, pids: list[int], registers: int, singles: int) -> None:
    """All of it."""
    collect_seldom()
    async with wormspace.connect(url, timeout=300) as worm:
        await large(worm, pids)
        await many(worm, pids, registers)
        await single(worm, pids, singles)


if __name__ == "__main__":
    registers, singles = (*map(int, sys.argv[1:]), *(1_000_000, 100_000)[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory(dir=".") as d:
        cluster = make_cluster(Path(d), 3, 1, "sync")
        with running(Path(d), cluster, "wormspace.server") as pids:
            uvloop.run(main(cluster.url, pids, registers, singles))
