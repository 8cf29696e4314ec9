"""The log against single-register writes, interleaved in one run.

Three servers, the sequencer and a subscriber in processes of their own, and the load in another.
Per window: writes of registers that one client captured; appends; entries appended a hundred at a
time; history read by range; and the chain, which is what an append would cost as N+1 round trips
one after another, as in CORFU: the sequencer, and then each replica in turn.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import uvloop

import wormspace
from benchmarks import floor
from benchmarks.floor import FloorClient
from wormspace.bench.load import Sample, closed_loop
from wormspace.bench.processes import ServersFailed, make_cluster, running
from wormspace.log import Log
from wormspace.runtime.collector import collect_seldom
from wormspace.runtime.tasks import Tasks
from wormspace.server.config import ClusterConfig

NAME = "bench"
SEGMENT_SIZE = 1 << 24
MANY = 100
RANGE = 1000
READERS = 2
BASE = "register write"


class Options(msgspec.Struct, frozen=True):
    """What to measure.

    Attributes:
        windows: appends outstanding, one closed loop each.
        seconds: how long each loop counts, after a warm-up of a quarter of it.
        value_size: bytes per entry and per register.
    """

    windows: tuple[int, ...] = (1, 32, 256, 1024)
    seconds: float = 3.0
    value_size: int = 100
    durability: str = "sync"
    servers: int = 3


class Result(msgspec.Struct, frozen=True):
    """What a run measured.

    Attributes:
        behind_s: by window, how long after the last append the subscriber had everything.
    """

    options: Options
    samples: list[Sample]
    behind_s: dict[int, float]


# ------------------------------------------------------------------ the other processes


async def _sequence(url: str) -> None:
    async with wormspace.connect(url, timeout=30) as worm:
        log = await worm.log(NAME)
        await log.append(b"the first makes this process the sequencer")
        print("ready", flush=True)
        await log.stand_by()


async def _subscribe(url: str) -> None:
    """Follow the log; for each position on standard input, say when it is reached."""
    async with wormspace.connect(url, timeout=30) as worm:
        log = await worm.log(NAME, sequencer="elsewhere")
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        reached = 0
        news = asyncio.Event()

        async def follow() -> None:
            nonlocal reached
            async for entry in log.listen():
                reached = entry.position + 1
                if not news.is_set():
                    news.set()

        following = Tasks("a reader").begin(follow())
        print("ready", flush=True)
        while line := await reader.readline():
            while reached < int(line):
                news.clear()
                await news.wait()
            print("reached", flush=True)
        following.cancel()


@contextmanager
def _process(role: str, url: str, base: Path) -> Iterator[subprocess.Popen[str]]:
    """One of the other processes, when it is ready."""
    with (base / f"{role}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.log", role, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        _expect(process, "ready")
        yield process
    finally:
        process.kill()
        process.communicate()


def _expect(process: subprocess.Popen[str], word: str) -> None:
    line = process.stdout.readline() if process.stdout else ""
    if line.strip() != word:
        raise ServersFailed(f"a process of the benchmark ended: {line!r}")


# ------------------------------------------------------------------ the run


def run(options: Options, progress: Callable[[str], None]) -> Result:
    """Start the processes, run the loops, stop them.  `progress` is told before each loop.

    Raises:
        ServersFailed: a process ended by itself.
    """
    with tempfile.TemporaryDirectory(prefix="wormspace-bench-", dir=".") as d, ExitStack() as stack:
        base = Path(d)
        clusters: list[ClusterConfig] = []
        pids: list[list[int]] = []
        for name, module in (("product", "wormspace.server"), ("floor", floor.MODULE)):
            (base / name).mkdir()
            cluster = make_cluster(base / name, options.servers, 1, options.durability)
            clusters.append(cluster)
            pids.append(stack.enter_context(running(base / name, cluster, module)))
        url = clusters[0].url
        others = [stack.enter_context(_process(r, url, base)) for r in ("sequencer", "subscriber")]
        pids[0] += [process.pid for process in others]
        bench = _Run(options, pids[0], pids[1], others[1], progress)
        collect_seldom()
        return uvloop.run(bench.all(url, clusters[1]))


class _Run:
    def __init__(
        self,
        options: Options,
        pids: list[int],
        floor_pids: list[int],
        subscriber: subprocess.Popen[str],
        progress: Callable[[str], None],
    ) -> None:
        self._options = options
        self._pids = pids
        self._floor_pids = floor_pids
        self._subscriber = subscriber
        self._progress = progress
        self._value = bytes(options.value_size)
        self._behind_s: dict[int, float] = {}

    async def all(self, url: str, of_floor: ClusterConfig) -> Result:
        samples: list[Sample] = []
        async with wormspace.connect(url, timeout=30) as worm:
            log = await worm.log(NAME, sequencer="elsewhere")
            async with floor.clients([[server] for server in of_floor.server]) as replicas:
                for window in self._options.windows:
                    samples.append(await self._registers(worm, window))
                    samples += await self._log(log, window)
                    samples.append(await self._chain(replicas, window))
        return Result(self._options, samples, self._behind_s)

    async def _registers(self, worm: wormspace.Worm, window: int) -> Sample:
        """What everything is compared with."""
        segment = await worm.space(f"registers-{window}").alloc(size=SEGMENT_SIZE)
        token = (await segment.capture()).token

        def write(n: int) -> Awaitable[object]:
            return segment.write(n, self._value, token)

        return await self._loop(BASE, write, window, window, 1)

    async def _log(self, log: Log, window: int) -> list[Sample]:
        def append(n: int) -> Awaitable[object]:
            return log.append(self._value)

        samples = [await self._loop("append", append, window, window, 1)]
        tail = await log.tail()
        began = time.perf_counter()
        await asyncio.to_thread(self._await_subscriber, tail)
        self._behind_s[window] = time.perf_counter() - began
        many = [self._value] * MANY

        def append_many(n: int) -> Awaitable[object]:
            return log.append_many(many)

        calls = -(-window // MANY)
        samples.append(await self._loop(f"append_many({MANY})", append_many, window, calls, MANY))
        tail = await log.tail()
        await asyncio.to_thread(self._await_subscriber, tail)
        draw = random.Random(0).randrange

        def read(n: int) -> Awaitable[object]:
            start = draw(tail - RANGE)
            return log.read_range(start, start + RANGE)

        samples.append(await self._loop("read_range", read, window, READERS, RANGE))
        return samples

    async def _chain(self, replicas: list[FloorClient], window: int) -> Sample:
        """One round trip to a sequencer, and one durable one to each replica, in turn."""

        async def append(n: int) -> None:
            await replicas[0].write(n, b"")
            for replica in replicas:
                await replica.write(n, self._value)

        return await self._loop("chain of N+1", append, window, window, 1, self._floor_pids)

    def _await_subscriber(self, tail: int) -> None:
        if self._subscriber.stdin is None:
            raise ServersFailed("no pipe")
        self._subscriber.stdin.write(f"{tail}\n")
        self._subscriber.stdin.flush()
        _expect(self._subscriber, "reached")

    async def _loop(
        self,
        name: str,
        operation: Callable[[int], Awaitable[object]],
        window: int,
        calls: int,
        entries: int,
        pids: list[int] | None = None,
    ) -> Sample:
        """`calls` of an operation in flight, each of which deals with so many entries."""
        self._progress(f"{name}, window {window}")
        sample = await closed_loop(
            name,
            operation,
            window=calls,
            seconds=self._options.seconds,
            warm_up_s=self._options.seconds / 4,
            pids=pids or self._pids,
            numbers=itertools.count(),
        )
        return msgspec.structs.replace(
            sample,
            window=window,
            operations=sample.operations * entries,
            cpu_us=sample.cpu_us / entries,
        )


if __name__ == "__main__":
    collect_seldom()
    uvloop.run({"sequencer": _sequence, "subscriber": _subscribe}[sys.argv[1]](sys.argv[2]))
