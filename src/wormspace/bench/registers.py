"""Single-register writes and reads, on servers of their own on this machine.

Per window: writes, and reads of what was decided, one register a call: in the order in which they
were written, and at random over all of them.  One disk sync and one round trip over the same
transport are measured beside them: a lone write cannot cost less than these.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import uvloop

import wormspace
from wormspace.bench.load import Sample, closed_loop
from wormspace.bench.processes import make_cluster, running
from wormspace.runtime.collector import collect_seldom
from wormspace.space import Segment, Token

SEGMENT_SIZE = 1 << 24
SYNCS = 300
ROUND_TRIPS = 500


class Options(msgspec.Struct, frozen=True):
    """What to measure.

    Attributes:
        windows: operations outstanding, one closed loop each.
        seconds: how long each loop counts, after a warm-up of a quarter of it.
    """

    windows: tuple[int, ...] = (1, 32, 256, 1024)
    seconds: float = 3.0
    value_size: int = 100
    durability: str = "sync"
    servers: int = 3
    partitions: int = 1


class Result(msgspec.Struct, frozen=True):
    """What a run measured; the first two in milliseconds."""

    options: Options
    sync_ms: float
    round_trip_ms: float
    samples: list[Sample]


def run(options: Options, progress: Callable[[str], None]) -> Result:
    """Start the servers, run the loops, stop them.  `progress` is told before each loop.

    Raises:
        ServersFailed: a server ended by itself.
    """
    with tempfile.TemporaryDirectory(prefix="wormspace-bench-", dir=".") as d:
        base = Path(d)
        cluster = make_cluster(base, options.servers, options.partitions, options.durability)
        with running(base, cluster, "wormspace.server") as pids:
            one_sync_ms = sync_ms(base / "sync", options.value_size)
            collect_seldom()
            return uvloop.run(Loops(options, pids, progress).all(cluster.url, one_sync_ms))


def loops(options: Options) -> int:
    """How many times `run` tells its progress."""
    return 3 * len(options.windows) + 1


class Loops:
    """The loops of a run, on servers that are there."""

    def __init__(self, options: Options, pids: list[int], progress: Callable[[str], None]) -> None:
        self.options = options
        self._pids = pids
        self._progress = progress
        self._rng = random.Random(0)

    async def all(
        self, url: str, sync_ms: float, beside: Callable[[int], Awaitable[Sample]] | None = None
    ) -> Result:
        """Every window; before each `beside`, something to compare with in the same run."""
        samples: list[Sample] = []
        async with wormspace.connect(url, timeout=30) as worm:
            self._progress("round trips")
            round_trip_ms = await _round_trip_ms(worm)
            for window in self.options.windows:
                if beside is not None:
                    samples.append(await beside(window))
                samples += await self._product(worm, window)
        return Result(self.options, sync_ms, round_trip_ms, samples)

    async def _product(self, worm: wormspace.Worm, window: int) -> list[Sample]:
        """Writes to fresh captured segments, one per partition, then reads of what they wrote."""
        space = worm.space(f"bench-{window}")
        held: list[tuple[Segment, Token]] = []
        for _ in range(self.options.partitions):
            segment = await space.alloc(size=SEGMENT_SIZE)
            held.append((segment, (await segment.capture()).token))
        spread = len(held)
        positions = itertools.count()
        value = bytes(self.options.value_size)

        def write(n: int) -> Awaitable[object]:
            segment, token = held[n % spread]
            return segment.write(n // spread, value, token)

        wrote = await self._loop("write", write, window, positions)
        written = next(positions)

        def read(at: int) -> Awaitable[object]:
            return held[at % spread][0].read(at // spread)

        draw = self._rng.random
        await asyncio.sleep(0.1)  # the last decided marks arrive
        return [
            wrote,
            await self._loop("read", lambda n: read(n % written), window, itertools.count()),
            await self._loop(
                "read random",
                lambda _: read(int(draw() * written)),  # randrange costs as much as a read
                window,
                itertools.count(),
            ),
        ]

    async def _loop(
        self,
        name: str,
        operation: Callable[[int], Awaitable[object]],
        window: int,
        numbers: itertools.count[int],
    ) -> Sample:
        self._progress(f"{name}, window {window}")
        return await closed_loop(
            name,
            operation,
            window=window,
            seconds=self.options.seconds,
            warm_up_s=self.options.seconds / 4,
            pids=self._pids,
            numbers=numbers,
        )


def sync_ms(path: Path, size: int) -> float:
    """The median time of one fdatasync after writing a page, in milliseconds."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    times = []
    try:
        os.write(fd, bytes(4096 * 64))
        os.fsync(fd)
        for i in range(SYNCS):
            os.pwrite(fd, os.urandom(size), 4096 * (i % 64))
            began = time.perf_counter()
            os.fdatasync(fd)
            times.append(time.perf_counter() - began)
    finally:
        os.close(fd)
    return sorted(times)[SYNCS // 2] * 1e3


async def _round_trip_ms(worm: wormspace.Worm) -> float:
    """The median time of a request that a server answers from memory, in milliseconds."""
    segment = await worm.space("round-trip").alloc(size=1)
    captured = await segment.capture()
    await segment.write(0, b"", captured.token)
    await asyncio.sleep(0.1)
    times = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        await segment.read(0)
        times.append(time.perf_counter() - began)
    return sorted(times)[ROUND_TRIPS // 2] * 1e3
