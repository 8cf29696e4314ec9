"""Everything at once: what a deployment meets in a year, in an hour (or, here, in seconds).

Three real servers, with few descriptors and a bounded address space, on a disk that something else
keeps busy.  Many writers fill segment after segment in space after space; clients come and go;
idle connections come in hundreds; servers are killed, stopped for a moment, and find a full disk.
Afterwards every acknowledged write is there, memory has not grown and writes are as fast as they
were.  `WORMSPACE_SOAK_MINUTES` says how long the soak lasts (an hour); it prints its figures.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import wormspace
from cluster_fixture import ProcessCluster
from wormspace import RaceLost, Unavailable

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("everything")]

REGISTERS = 100
"""Per segment."""

SEGMENTS = 10
"""Per space."""

WRITERS = 12
DESCRIPTORS = 256
ADDRESS_SPACE = 8 << 30
IDLE = 300
STEADY = "s2"
"""The server that is never killed, so that its memory can be watched."""

BUSY_DISK = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
while True:
    os.pwrite(fd, bytes(4 << 20), 0)
    os.fsync(fd)
    time.sleep(0.2)
"""


def value_of(space: str, segment: int, offset: int) -> bytes:
    return f"{space}/{segment}/{offset}".encode()


def private_kib(pid: int) -> int:
    """The memory that a process has for itself."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


class Everything:
    """The load, the faults and the books of one run.

    Attributes:
        written: by space and segment, which registers were acknowledged, a byte for each.
        delays: when a single write was begun, and how many seconds it took.
    """

    def __init__(self, cluster: ProcessCluster, seed: int) -> None:
        self.cluster = cluster
        self.rng = random.Random(seed)
        self.over = False
        self.written: dict[tuple[str, int], bytearray] = {}
        self.delays: list[tuple[float, float]] = []
        self.memory: list[tuple[float, int]] = []
        self.counts = dict.fromkeys(
            ("kills", "pauses", "full disks", "clients", "idle connections", "spaces"), 0
        )

    # ------------------------------------------------------------ load

    async def write(self, worm: wormspace.Worm) -> None:
        """Fill ten segments of one new space after another."""
        while not self.over:
            name = f"space-{self.counts['spaces']}"
            self.counts["spaces"] += 1
            for _ in range(SEGMENTS):
                await self.fill(worm.space(name))

    async def fill(self, space: wormspace.Space) -> None:
        segment = await self.insist(lambda: space.alloc(size=REGISTERS))
        books = bytearray(REGISTERS)
        self.written[space.name, segment.number] = books
        values = [value_of(space.name, segment.number, i) for i in range(REGISTERS)]
        while not self.over and not all(books):
            token = (await self.insist(segment.capture)).token
            try:
                await segment.write_range(0, values, token)
            except wormspace.PartialWrite as e:
                for offset, result in enumerate(e.results):
                    books[offset] |= result is None
            except (Unavailable, RaceLost):
                pass
            else:
                books[:] = b"\1" * REGISTERS

    async def insist(self, call):
        while True:
            try:
                return await call()
            except (Unavailable, RaceLost):
                if self.over:
                    raise

    async def probe(self, worm: wormspace.Worm) -> None:
        """Write one register after the other, and see how long each takes."""
        space = worm.space("probe")
        while not self.over:
            segment = await self.insist(lambda: space.alloc(size=REGISTERS))
            books = self.written["probe", segment.number] = bytearray(REGISTERS)
            token = (await self.insist(segment.capture)).token
            for offset in range(REGISTERS):
                value = value_of("probe", segment.number, offset)
                began = time.monotonic()
                try:
                    await segment.write(offset, value, token)
                except (Unavailable, RaceLost):
                    break
                self.delays.append((began, time.monotonic() - began))
                books[offset] = 1
                if self.over:
                    return
                await asyncio.sleep(0.02)

    async def come_and_go(self) -> None:
        """A client connects, reads something that was written, and leaves."""
        while not self.over:
            try:
                async with wormspace.connect(self.cluster.url) as worm:
                    self.counts["clients"] += 1
                    for at in self.rng.choices(list(self.written), k=3) if self.written else ():
                        await self.compare(worm, at)
            except Unavailable:
                pass
            await asyncio.sleep(0.1)

    async def compare(self, worm: wormspace.Worm, at: tuple[str, int]) -> None:
        books = bytes(self.written[at])
        segment = await worm.space(at[0]).segment(at[1])
        values = await segment.read_range()
        for offset, value in enumerate(values):
            expected = value_of(*at, offset)
            assert value == expected or (value is None and not books[offset]), (at, offset, value)

    async def sit_idle(self) -> None:
        """More connections than a server has descriptors for, which say nothing."""
        while not self.over:
            port = self.rng.choice(self.cluster.config.server).port
            idle = []
            for _ in range(IDLE):
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    continue
                idle.append(writer)
            self.counts["idle connections"] += len(idle)
            await asyncio.sleep(1)
            for writer in idle:
                writer.close()
            await asyncio.sleep(1)

    # ------------------------------------------------------------ faults

    async def disturb(self) -> None:
        """One server at a time: killed and started again, stopped for a moment, its disk full."""
        faults = [self.kill, self.pause, self.fill_disk]
        while not self.over:
            await asyncio.sleep(self.rng.uniform(0.5, 2))
            if not self.over:
                await self.rng.choice(faults)()

    async def kill(self) -> None:
        name = self.rng.choice([n for n in self.cluster.names if n != STEADY])
        self.counts["kills"] += 1
        await asyncio.to_thread(self.cluster.kill, name)
        await asyncio.sleep(self.rng.uniform(0, 0.5))
        await asyncio.to_thread(self.cluster.start, name)

    async def pause(self) -> None:
        name = self.rng.choice(self.cluster.names)
        self.counts["pauses"] += 1
        self.cluster.pause(name)
        await asyncio.sleep(self.rng.uniform(0.1, 0.8))
        self.cluster.resume(name)

    async def fill_disk(self) -> None:
        """No file may grow, or be written, beyond its first block: the disk is full."""
        pid = self.cluster.running[self.rng.choice(self.cluster.names)].pid
        self.counts["full disks"] += 1
        unlimited = resource.RLIM_INFINITY
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, unlimited))
        await asyncio.sleep(self.rng.uniform(0.1, 0.8))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))

    async def watch(self) -> None:
        pid = self.cluster.running[STEADY].pid
        while not self.over:
            self.memory.append((time.monotonic(), private_kib(pid)))
            await asyncio.sleep(0.25)

    # ------------------------------------------------------------ the run

    async def run(self, seconds: float, check_at_most: int) -> dict[str, object]:
        began = time.monotonic()
        async with wormspace.connect(self.cluster.url) as worm:
            work = [self.write(worm) for _ in range(WRITERS)]
            work += [self.probe(worm), self.come_and_go(), self.sit_idle()]
            work += [self.disturb(), self.watch()]
            tasks = [asyncio.ensure_future(w) for w in work]
            done, _ = await asyncio.wait(
                tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION
            )
            for task in done:
                task.result()
            self.over = True
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException) and not isinstance(
                    result, Unavailable | RaceLost
                ):
                    raise result
        lasted = time.monotonic() - began
        everything = list(self.written)
        checked = everything
        if len(everything) > check_at_most:
            checked = self.rng.sample(everything, check_at_most)
        async with wormspace.connect(self.cluster.url, timeout=30) as worm:
            for at in checked:
                await self.compare(worm, at)
        return {
            **self.counts,
            "seconds": round(lasted),
            "segments": len(everything),
            "registers acknowledged": sum(sum(books) for books in self.written.values()),
            "segments read again": len(checked),
            "single writes": len(self.delays),
            **self.thirds("write ms, median", [(t, 1000 * d) for t, d in self.delays]),
            **self.thirds("server's private MiB, median", [(t, m / 1024) for t, m in self.memory]),
        }

    @staticmethod
    def thirds(what: str, series: list[tuple[float, float]]) -> dict[str, list[float]]:
        """The median of each third of the run."""
        begin, end = series[0][0], series[-1][0]
        parts: list[list[float]] = [[], [], []]
        for at, number in series:
            parts[min(2, int(3 * (at - begin) / (end - begin + 1e-9)))].append(number)
        return {what: [round(statistics.median(part), 2) if part else 0.0 for part in parts]}


def cluster_of(base: Path) -> ProcessCluster:
    cluster = ProcessCluster(base)
    cluster.wrap = ["prlimit", f"--nofile={DESCRIPTORS}", f"--as={ADDRESS_SPACE}"]
    return cluster.start()


def run(base: Path, seconds: float, seed: int, check_at_most: int) -> dict[str, object]:
    cluster = cluster_of(base)
    busy = subprocess.Popen([sys.executable, "-c", BUSY_DISK, str(base / "busy")])
    try:
        figures = asyncio.run(Everything(cluster, seed).run(seconds, check_at_most))
        for name in cluster.names:
            assert "Traceback" not in cluster.log_of(name), cluster.log_of(name)
    finally:
        busy.send_signal(signal.SIGKILL)
        busy.wait()
        cluster.close()
    print(json.dumps({"seed": seed, **figures}, indent=1))
    return figures


def seed_of_this_run() -> int:
    return int(os.environ.get("WORMSPACE_SEED", random.SystemRandom().getrandbits(32)))


def test_a_few_seconds_of_everything(tmp_path: Path) -> None:
    figures = run(tmp_path, 12, seed_of_this_run(), 10_000)
    assert figures["registers acknowledged"]
    assert figures["single writes"]


@pytest.mark.soak
def test_an_hour_of_everything(tmp_path: Path) -> None:
    minutes = float(os.environ.get("WORMSPACE_SOAK_MINUTES", "60"))
    figures = run(tmp_path, 60 * minutes, seed_of_this_run(), 20_000)
    first, _, last = figures["server's private MiB, median"]
    assert last < 2 * first + 64, "memory grows"
    first, _, last = figures["write ms, median"]
    assert last < 3 * first, "writes become slower"
