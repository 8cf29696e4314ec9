"""Single-register writes and reads against their floor, interleaved in one run.

Per window: the floor's writes, the product's writes, and reads of what was decided, one register a
call: in the order in which they were written, and at random over all of them.  One disk sync
and one round trip over the same transport are measured beside them: a lone write cannot cost less
than these.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
import uvloop

import wormspace
from wormspace.bench.floor import FloorClient
from wormspace.bench.load import Sample, closed_loop
from wormspace.bench.processes import make_cluster, running
from wormspace.runtime.collector import collect_seldom
from wormspace.server.config import ClusterConfig
from wormspace.space import Segment, Token
from wormspace.wire.link import Link, TcpLink
from wormspace.wire.membership import Membership

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

    def rate(self, name: str, window: int) -> float:
        """Operations per second of a loop; 0 if it was not run."""
        return next((s.rate for s in self.samples if (s.name, s.window) == (name, window)), 0.0)


def run(options: Options, progress: Callable[[str], None]) -> Result:
    """Start the processes, run the loops, stop them.  `progress` is told before each loop.

    Raises:
        ServersFailed: a server ended by itself.
    """
    with tempfile.TemporaryDirectory(prefix="wormspace-bench-", dir=".") as d, ExitStack() as stack:
        base = Path(d)
        clusters: dict[str, ClusterConfig] = {}
        pids: dict[str, list[int]] = {}
        for name, module, partitions in (
            ("floor", "wormspace.bench.floor", 1),
            ("product", "wormspace.server", options.partitions),
        ):
            (base / name).mkdir()
            clusters[name] = make_cluster(
                base / name, options.servers, partitions, options.durability
            )
            pids[name] = stack.enter_context(running(base / name, clusters[name], module))
        collect_seldom()
        one_sync_ms = sync_ms(base / "sync", options.value_size)
        return uvloop.run(_Run(options, clusters, pids, progress).all(one_sync_ms))


def loops(options: Options) -> int:
    """How many times `run` tells its progress."""
    return 4 * len(options.windows) + 1


class _Run:
    def __init__(
        self,
        options: Options,
        clusters: dict[str, ClusterConfig],
        pids: dict[str, list[int]],
        progress: Callable[[str], None],
    ) -> None:
        self._options = options
        self._clusters = clusters
        self._pids = pids
        self._progress = progress
        self._value = bytes(options.value_size)
        self._rng = random.Random(0)

    async def all(self, sync_ms: float) -> Result:
        samples: list[Sample] = []
        floor, links = await self._floor()
        async with wormspace.connect(self._clusters["product"].url, timeout=30) as worm:
            self._progress("round trips")
            round_trip_ms = await _round_trip_ms(worm)
            positions = itertools.count()
            for window in self._options.windows:
                samples.append(
                    await self._loop(
                        "floor", lambda n: floor.write(n, self._value), window, positions
                    )
                )
                samples += await self._product(worm, window)
        for link in links:
            await link.close()
        return Result(self._options, sync_ms, round_trip_ms, samples)

    async def _floor(self) -> tuple[FloorClient, list[Link]]:
        membership = Membership(0, 1, self._options.servers)
        links: list[Link] = [
            TcpLink(s.host, s.port, membership, cluster="", client="floor", rng=self._rng)
            for s in self._clusters["floor"].server
        ]
        client = FloorClient(links)
        async with asyncio.timeout(30):
            while not all(link.up for link in links):  # noqa: ASYNC110 - links have no event
                await asyncio.sleep(0.01)
        return client, links

    async def _product(self, worm: wormspace.Client, window: int) -> list[Sample]:
        """Writes to fresh captured segments, one per partition, then reads of what they wrote."""
        space = worm.space(f"bench-{window}")
        held: list[tuple[Segment, Token]] = []
        for _ in range(self._options.partitions):
            segment = await space.alloc(size=SEGMENT_SIZE)
            held.append((segment, (await segment.capture()).token))
        spread = len(held)
        positions = itertools.count()
        value = self._value

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
            seconds=self._options.seconds,
            warm_up_s=self._options.seconds / 4,
            pids=self._pids["floor" if name == "floor" else "product"],
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


async def _round_trip_ms(worm: wormspace.Client) -> float:
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
