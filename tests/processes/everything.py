"""Everything at once: the load, the faults and the books of one run on real servers.

Writers fill segment after segment in space after space, so many a second as they are told; clients
come, read and go; idle connections come in hundreds.  One server at a time is killed, stopped for
a moment, or finds its disk full or slow, or no memory left.  What was acknowledged is in the books,
and in the end all of it is read again, from servers that were all killed before.

What is measured is compared between the thirds of a run, in which the load is the same.  How long a
single write takes is measured in moments in which load and faults rest, and beside the same write
to a cluster that is as young as at the first moment: what else the machine does delays both alike.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import resource
import signal
import statistics
import time
from pathlib import Path

import wormspace
from cluster_fixture import ProcessCluster
from wormspace import RaceLost, Unavailable

REGISTERS = 100
"""Per segment."""

SEGMENTS = 10
"""Per space."""

PROBES = 20
"""Single writes in a moment of rest."""

WRITERS = 64
READERS = 32
WHOLE = b"\1" * REGISTERS
"""The books of a segment whose registers are all acknowledged: one object for all of them."""

STEADY = "s2"
"""The server that is never killed, so that it can be watched."""

DATA_BYTES = 512 << 20
"""What a server may have of private memory."""

LARGE = 4096
"""Bytes of a value in one of a hundred spaces."""

# Goes before the servers' own code: SIGUSR1 makes the disk slow, SIGUSR2 fast again.
SLOW_DISK = """
import signal, time
from wormspace.store.files import SystemFiles
slow = False
def turn(signum, frame):
    global slow
    slow = signum == signal.SIGUSR1
signal.signal(signal.SIGUSR1, turn)
signal.signal(signal.SIGUSR2, turn)
def slowed(call):
    def later(*args, **more):
        if slow:
            time.sleep(0.02)
        return call(*args, **more)
    return later
for name in ("write", "sync", "sync_data"):
    setattr(SystemFiles, name, slowed(getattr(SystemFiles, name)))
"""


def value_of(space: str, segment: int, offset: int) -> bytes:
    value = f"{space}/{segment}/{offset}".encode()
    return value.ljust(LARGE) if space.endswith("50") else value


def status_of(pid: int | str, field: str) -> int:
    """A number from /proc/PID/status, such as VmData in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def cpu_s(pid: int) -> float:
    """The CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Everything:
    """One run.

    Attributes:
        cluster: what lives through it all.
        young: one that gets single writes only, and no faults.
        segments_per_second: that the writers begin together; they catch up after an outage.
        pause_s: between two single writes, two clients, and two faults (about).
        go_on: load is begun while this is set.
        undisturbed: held by a fault, and by whoever wants none.
        filling: segments that are being filled.
        written: by space and segment, which registers were acknowledged, a byte for each.
        series: by what was measured, when and how much.
    """

    def __init__(
        self,
        cluster: ProcessCluster,
        young: ProcessCluster,
        seed: int,
        segments_per_second: float,
        pause_s: float,
    ) -> None:
        self.cluster = cluster
        self.young = young
        self.rng = random.Random(seed)
        self.segments_per_second = segments_per_second
        self.pause_s = pause_s
        self.over = False
        self.due = 0.0
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.undisturbed = asyncio.Lock()
        self.filling = 0
        self.written: dict[tuple[str, int], bytearray | bytes] = {}
        self.series: dict[str, list[tuple[float, float]]] = {}
        self.counts = dict.fromkeys(
            (
                *("kills", "pauses", "full disks", "slow disks", "short of memory"),
                *("ended for want of memory", "ended without a word", "clients"),
                *("idle connections", "spaces", "segments written"),
            ),
            0,
        )

    def measured(self, what: str, figure: float) -> None:
        self.series.setdefault(what, []).append((time.monotonic(), figure))

    # ------------------------------------------------------------ load

    async def write(self, worm: wormspace.Worm) -> None:
        """Fill ten segments of one new space after another."""
        while not self.over:
            name = f"space-{self.counts['spaces']}"
            self.counts["spaces"] += 1
            for _ in range(SEGMENTS):
                self.due += 1 / self.segments_per_second
                await asyncio.sleep(self.due - time.monotonic())
                await self.go_on.wait()
                self.filling += 1
                try:
                    await self.fill(worm.space(name))
                finally:
                    self.filling -= 1

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
                books[:] = WHOLE
        if all(books):
            self.written[space.name, segment.number] = WHOLE
            self.counts["segments written"] += 1

    async def insist(self, call):
        while True:
            try:
                return await call()
            except (Unavailable, RaceLost):
                if self.over:
                    raise

    async def probe(self, worm: wormspace.Worm, young: wormspace.Worm) -> None:
        """Now and then let everything rest, and write to both clusters in turn."""
        while not self.over:
            await asyncio.sleep(10 * self.pause_s)
            async with self.undisturbed:
                self.go_on.clear()
                while self.filling and not self.over:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                await self.insist(lambda: self.write_in_turn(worm, young))
                self.go_on.set()

    async def write_in_turn(self, worm: wormspace.Worm, young: wormspace.Worm) -> None:
        """Single writes, one after the other, each to both clusters."""
        segment = await worm.space("probe").alloc(size=PROBES)
        beside = await young.space("probe").alloc(size=PROBES)
        books = self.written["probe", segment.number] = bytearray(PROBES)
        token, token_beside = (await segment.capture()).token, (await beside.capture()).token
        for offset in range(PROBES):
            if self.over:
                return
            value = value_of("probe", segment.number, offset)
            began = time.monotonic()
            await segment.write(offset, value, token)
            books[offset] = 1
            between = time.monotonic()
            await beside.write(offset, value, token_beside)
            self.measured("write ms", 1000 * (between - began))
            self.measured("young cluster's write ms", 1000 * (time.monotonic() - between))

    async def come_and_go(self) -> None:
        """A client connects, reads something that was written, and leaves."""
        while not self.over:
            await self.go_on.wait()
            try:
                async with wormspace.connect(self.cluster.url) as worm:
                    self.counts["clients"] += 1
                    for at in self.rng.choices(list(self.written), k=3) if self.written else ():
                        await self.compare(worm, at)
            except Unavailable:
                pass
            await asyncio.sleep(self.pause_s)

    async def compare(self, worm: wormspace.Worm, at: tuple[str, int]) -> None:
        books = bytes(self.written[at])
        segment = await worm.space(at[0]).segment(at[1])
        values = await segment.read_range()
        for offset, value in enumerate(values):
            expected = value_of(*at, offset)
            assert value == expected or (value is None and not books[offset]), (at, offset, value)

    async def sit_idle(self, connections: int) -> None:
        """More connections than a server has descriptors for, which say nothing."""
        while not self.over:
            port = self.rng.choice(self.cluster.config.server).port
            idle = []
            for _ in range(connections):
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    continue
                idle.append(writer)
            self.counts["idle connections"] += len(idle)
            await asyncio.sleep(self.pause_s)
            for writer in idle:
                writer.close()
            await asyncio.sleep(10 * self.pause_s)

    # ------------------------------------------------------------ faults

    async def disturb(self) -> None:
        """One server at a time."""
        faults = [self.kill, self.pause, self.fill_disk, self.slow_disk, self.squeeze]
        while not self.over:
            for fault in self.rng.sample(faults, len(faults)):
                await asyncio.sleep(self.rng.uniform(0.5, 1.5) * self.pause_s)
                async with self.undisturbed:
                    if self.over:
                        return
                    await fault()

    def mortal(self) -> str:
        return self.rng.choice([n for n in self.cluster.names if n != STEADY])

    async def kill(self) -> None:
        name = self.mortal()
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

    async def slow_disk(self) -> None:
        process = self.cluster.running[self.rng.choice(self.cluster.names)]
        self.counts["slow disks"] += 1
        process.send_signal(signal.SIGUSR1)
        await asyncio.sleep(self.rng.uniform(0.2, 1.5))
        process.send_signal(signal.SIGUSR2)

    async def squeeze(self) -> None:
        """A server gets no more memory for a while, which may end it."""
        name = self.mortal()
        process = self.cluster.running[name]
        self.counts["short of memory"] += 1
        has = 1024 * status_of(process.pid, "VmData")
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (has, DATA_BYTES))
        await asyncio.sleep(self.rng.uniform(0.1, 0.8))
        if process.poll() is None:
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (DATA_BYTES, DATA_BYTES))
        await asyncio.sleep(1)  # it may just be ending
        if process.poll() is not None:
            await self.revive(name)

    async def revive(self, name: str) -> None:
        """Start a server again that ended for want of memory, as it must say."""
        said = self.cluster.log_of(name)
        self.counts["ended for want of memory"] += 1
        if "MemoryError" not in said and "Fatal Python error" not in said:
            print(f"{name}, {self.cluster.running[name].returncode}: {said[-1000:]}", flush=True)
            self.counts["ended without a word"] += 1
        (self.cluster.base / f"{name}.log").unlink()
        self.cluster.kill(name)
        await asyncio.to_thread(self.cluster.start, name)

    async def watch(self) -> None:
        """What the steady server and this process need, so often that thirds can be compared."""
        pid = self.cluster.running[STEADY].pid
        cpu, segments = cpu_s(pid), 0
        for turn in itertools.count(1):
            await asyncio.sleep(4 * self.pause_s)
            if self.over:
                return
            if turn % 12 == 0:
                print({what: count for what, count in self.counts.items() if count}, flush=True)
            self.measured("server's private MiB", status_of(pid, "RssAnon") / 1024)
            self.measured("client's private MiB", status_of("self", "RssAnon") / 1024)
            self.measured("server's descriptors", len(os.listdir(f"/proc/{pid}/fd")))
            before, cpu = cpu, cpu_s(pid)
            done, segments = (
                self.counts["segments written"] - segments,
                self.counts["segments written"],
            )
            if done:
                self.measured("server's CPU ms per segment", 1000 * (cpu - before) / done)

    # ------------------------------------------------------------ the run

    async def run(self, seconds: float, idle: int) -> dict[str, object]:
        began = self.due = time.monotonic()
        async with (
            wormspace.connect(self.cluster.url) as worm,
            wormspace.connect(self.young.url) as young,
        ):
            work = [self.write(worm) for _ in range(WRITERS)]
            work += [self.probe(worm, young), self.come_and_go(), self.sit_idle(idle)]
            work += [self.disturb(), self.watch()]
            tasks = [asyncio.ensure_future(w) for w in work]
            done, _ = await asyncio.wait(
                tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION
            )
            self.over = True
            self.go_on.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException) and not isinstance(
                    result, Unavailable | RaceLost
                ):
                    raise result
            assert not done, "a part of the load ended by itself"
        lasted = time.monotonic() - began
        self.cluster.kill(*self.cluster.names)
        began = time.monotonic()
        self.cluster.start()
        restarted = time.monotonic() - began
        began = time.monotonic()
        await self.read_all()
        return {
            **self.counts,
            "seconds": round(lasted),
            "registers acknowledged": sum(sum(books) for books in self.written.values()),
            "all servers start again in s": round(restarted, 2),
            "all was read again in s": round(time.monotonic() - began),
            "MiB on disk of each server": [self.size_of(name) for name in self.cluster.names],
            "medians of each third": {
                what: self.thirds(series) for what, series in self.series.items()
            },
        }

    async def read_all(self) -> None:
        """Every acknowledged register has its value, and every space is listed."""
        waiting = list(self.written)
        async with wormspace.connect(self.cluster.url, timeout=60) as worm:

            async def read() -> None:
                while waiting:
                    await self.compare(worm, waiting.pop())

            await asyncio.gather(*(read() for _ in range(READERS)))
            assert {space for space, _ in self.written} <= set(await worm.spaces())

    def size_of(self, name: str) -> int:
        """What is on the disk, in MiB: files have holes."""
        files = (p for p in (self.cluster.base / name).rglob("*") if p.is_file())
        return sum(512 * p.stat().st_blocks for p in files) >> 20

    @staticmethod
    def thirds(series: list[tuple[float, float]]) -> list[float]:
        """The median of each third of the run."""
        begin, end = series[0][0], series[-1][0]
        parts: list[list[float]] = [[], [], []]
        for at, number in series:
            parts[min(2, int(3 * (at - begin) / (end - begin + 1e-9)))].append(number)
        return [round(statistics.median(part), 2) if part else 0.0 for part in parts]
