"""Replicated state machines against single-register writes, in turn, several rounds in one run.

Three servers, three replicas in processes of their own, and the load in another one: a client that
is no replica.  Each window has an object and replicas of its own, as it has registers of its own:
what it measures does not depend on what was measured before.  Commands are `put`s of a key-value
store; beside them reads that are linearizable, a mix, a lone command at the leader itself, and the
time without service when the leader is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import uvloop

import wormspace
from wormspace.bench.load import Sample, closed_loop
from wormspace.bench.processes import ServersFailed, free_ports, make_cluster, running
from wormspace.errors import WormError
from wormspace.runtime.collector import collect_seldom
from wormspace.runtime.tasks import Tasks
from wormspace.server.config import ClusterConfig
from wormspace.smr import (
    KeyValue,
    Leaderless,
    Leadership,
    Remote,
    Replica,
    Rotating,
    Sticky,
    attach,
)

SEGMENT_SIZE = 1 << 22
KEYS = 10_000
KEYS_AT_ONCE = 1000
KILLS = 3
ROUNDS = 3
"""Each loop takes its turn so often: a shared machine's speed changes by the minute."""
ELECTION_S = 1.0
PROBE_S = 0.005
SETTLE_S = 4.0

LEADERSHIPS: dict[str, Leadership] = {
    "sticky": Sticky(ELECTION_S),
    "rotating": Rotating(ELECTION_S),
    "leaderless": Leaderless(),
}


class Options(msgspec.Struct, frozen=True):
    """What to measure.

    Attributes:
        windows: commands outstanding, one closed loop each.
        seconds: how long each loop counts, in `ROUNDS` parts, after warm-ups of a quarter of it.
        value_size: bytes per command and per register.
        leadership: one of `LEADERSHIPS`.
    """

    windows: tuple[int, ...] = (1, 256, 2000)
    seconds: float = 3.0
    value_size: int = 100
    durability: str = "sync"
    kills: int = KILLS
    leadership: str = "sticky"


class Result(msgspec.Struct, frozen=True):
    """What a run measured; outages in seconds, one per killed leader."""

    options: Options
    election_s: float
    samples: list[Sample]
    outages_s: list[float]


# ------------------------------------------------------------------ the replica process


async def _replica(url: str, of: str, name: str, port: int, leadership: Leadership) -> None:
    """A replica of `of` in its own process; also measures lone commands when told to by a line."""
    collect_seldom()
    async with wormspace.connect(url, timeout=30) as worm:
        kv = await worm.replicate(KeyValue, of, replica=name, port=port, leadership=leadership)
        print(json.dumps({"port": port}), flush=True)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            request = json.loads(line)
            if request["do"] == "status":
                print(json.dumps({"leads": kv.status().leads}), flush=True)
            else:
                print(json.dumps(await _lone(worm, kv, request)), flush=True)


async def _lone(worm: wormspace.Worm, kv: Replica[KeyValue], request: dict[str, float]) -> object:
    """One command at a time against one register write at a time, alternating, at the leader."""
    segment = await worm.space("lone").alloc(size=1 << 20)
    token = (await segment.capture()).token
    value = bytes(int(request["size"]))
    registers: list[float] = []
    commands: list[float] = []
    ends = time.perf_counter() + request["seconds"]
    for n in itertools.count():
        began = time.perf_counter()
        if began > ends:
            break
        await segment.write(n, value, token)
        between = time.perf_counter()
        await kv.put("lone", value)
        registers.append(between - began)
        commands.append(time.perf_counter() - between)
    return {"registers": sorted(registers), "commands": sorted(commands)}


class _Replica:
    """A replica's process."""

    def __init__(self, url: str, of: str, name: str, port: int, leadership: str, log: Path) -> None:
        self.of = of
        self.name = name
        self.port = port
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.smr", url, of, name, str(port), leadership],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                text=True,
            )

    def ask(self, **request: object) -> dict[str, list[float]]:
        """Send a request and wait for the answer."""
        if self.process.stdin is None:
            raise ServersFailed("no pipe")
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, list[float]]:
        """The next line it says.

        Raises:
            ServersFailed: it has ended.
        """
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise ServersFailed(f"replica {self.name} ended")
        answer: dict[str, list[float]] = json.loads(line)
        return answer


@contextmanager
def _replicas(url: str, of: str, base: Path, leadership: str) -> Iterator[list[_Replica]]:
    replicas = [
        _Replica(url, of, f"r{i + 1}", port, leadership, base / f"r{i + 1}.log")
        for i, port in enumerate(free_ports(3))
    ]
    try:
        for replica in replicas:
            replica.answer()
        yield replicas
    finally:
        for replica in replicas:
            replica.process.kill()
            replica.process.wait(timeout=20)


# ------------------------------------------------------------------ the run


def run(options: Options, progress: Callable[[str], None]) -> Result:
    """Start the processes, run the loops, stop them.  `progress` is told before each loop.

    Raises:
        ServersFailed: a server or replica ended by itself.
    """
    with tempfile.TemporaryDirectory(prefix="wormspace-bench-", dir=".") as d, ExitStack() as stack:
        base = Path(d)
        cluster = make_cluster(base, 3, 1, options.durability)
        servers = stack.enter_context(running(base, cluster, "wormspace.server"))
        collect_seldom()
        return uvloop.run(_Run(options, cluster, servers, base, progress).all())


class _Run:
    def __init__(
        self,
        options: Options,
        cluster: ClusterConfig,
        servers: list[int],
        base: Path,
        progress: Callable[[str], None],
    ) -> None:
        self._options = options
        self._cluster = cluster
        self._servers = servers
        self._replicas: list[_Replica] = []
        self._base = base
        self._progress = progress

    async def all(self) -> Result:
        options = self._options
        samples: list[Sample] = []
        async with wormspace.connect(self._cluster.url, timeout=30) as worm:
            for window in options.windows:
                async with self._replicated(f"window-{window}") as kv:
                    samples += await self._window(worm, kv, window)
        async with self._replicated("leader") as kv:
            samples += self._lone()
            outages = [await self._outage(kv) for _ in range(options.kills)]
        return Result(options, ELECTION_S, samples, outages)

    @asynccontextmanager
    async def _replicated(self, of: str) -> AsyncIterator[Remote[KeyValue]]:
        """A new object with `KEYS` keys, and its replicas."""
        with _replicas(self._cluster.url, of, self._base, self._options.leadership) as replicas:
            self._replicas = replicas
            addresses = [("127.0.0.1", replica.port) for replica in replicas]
            value = bytes(self._options.value_size)
            async with await attach(KeyValue, of, addresses) as kv:
                put: Callable[[str, bytes], Awaitable[int]] = getattr(kv, "put")  # noqa: B009
                await put("first", value)
                for n in range(0, KEYS, KEYS_AT_ONCE):
                    await asyncio.gather(*(put(f"k{i}", value) for i in range(n, n + KEYS_AT_ONCE)))
                yield kv

    async def _window(
        self, worm: wormspace.Worm, kv: Remote[KeyValue], window: int
    ) -> list[Sample]:
        value = bytes(self._options.value_size)
        segment = await worm.space(f"registers-{window}").alloc(size=SEGMENT_SIZE)
        token = (await segment.capture()).token
        put: Callable[[str, bytes], Awaitable[int]] = getattr(kv, "put")  # noqa: B009
        get: Callable[[str], Awaitable[bytes]] = getattr(kv, "get")  # noqa: B009
        keys = [f"k{i}" for i in range(KEYS)]

        def mixed(n: int) -> Awaitable[object]:
            return put(keys[n % KEYS], value) if n % 2 else get(keys[n % KEYS])

        loops: dict[str, Callable[[int], Awaitable[object]]] = {
            "register write": lambda n: segment.write(n, value, token),
            "command": lambda n: put(keys[n % KEYS], value),
            "linearizable read": lambda n: get(keys[n % KEYS]),
            "half reads": mixed,
        }
        numbers = {name: itertools.count() for name in loops}
        rounds: dict[str, list[Sample]] = {name: [] for name in loops}
        for _ in range(ROUNDS):
            for name, operation in loops.items():
                rounds[name].append(await self._loop(name, operation, window, numbers[name]))
        return [_merged(samples) for samples in rounds.values()]

    async def _loop(
        self,
        name: str,
        operation: Callable[[int], Awaitable[object]],
        window: int,
        numbers: itertools.count[int],
    ) -> Sample:
        self._progress(f"{name}, window {window}")
        pids = self._servers + [replica.process.pid for replica in self._replicas]
        return await closed_loop(
            name,
            operation,
            window=window,
            seconds=self._options.seconds / ROUNDS,
            warm_up_s=self._options.seconds / ROUNDS / 4,
            pids=pids,
            numbers=numbers,
        )

    def _lone(self) -> list[Sample]:
        """A lone command and a lone register write, alternating, in the leader's process."""
        self._progress("lone commands at the leader")
        seconds = self._options.seconds
        leader = self._leader()
        told = leader.ask(do="lone", size=self._options.value_size, seconds=seconds)
        return [
            Sample(
                name,
                1,
                len(told[key]),
                sum(told[key]),
                told[key][len(told[key]) // 2] * 1e3,
                told[key][len(told[key]) * 99 // 100] * 1e3,
                0.0,
            )
            for name, key in (("lone register write", "registers"), ("lone command", "commands"))
        ]

    def _leader(self) -> _Replica:
        for replica in self._replicas:
            if replica.ask(do="status")["leads"]:
                return replica
        raise ServersFailed("no replica leads")

    async def _outage(self, kv: Remote[KeyValue]) -> float:
        """Kill the leader; the longest time between two acknowledged commands around it."""
        self._progress("killing the leader")
        put: Callable[[str, bytes], Awaitable[int]] = getattr(kv, "put")  # noqa: B009
        done: list[float] = []
        running_ = True

        async def probe() -> None:
            while running_:
                try:
                    await put("probe", b"")
                except WormError:
                    continue
                done.append(time.perf_counter())
                await asyncio.sleep(PROBE_S)

        probing = Tasks("a probe").begin(probe())
        await asyncio.sleep(1)
        leader = self._leader()
        os.kill(leader.process.pid, signal.SIGKILL)
        leader.process.wait()
        await asyncio.sleep(SETTLE_S)
        running_ = False
        await probing
        at = self._replicas.index(leader)
        log = self._base / f"{leader.name}.log"
        strategy = self._options.leadership
        again = _Replica(self._cluster.url, leader.of, leader.name, leader.port, strategy, log)
        self._replicas[at] = again
        await asyncio.to_thread(again.answer)
        await asyncio.sleep(1)
        return max(b - a for a, b in itertools.pairwise(done))


def _merged(rounds: Sequence[Sample]) -> Sample:
    """Rounds of one loop as one sample: sums, and of the latencies the medians over the rounds."""
    operations = sum(one.operations for one in rounds)
    return Sample(
        rounds[0].name,
        rounds[0].window,
        operations,
        sum(one.seconds for one in rounds),
        statistics.median(one.p50_ms for one in rounds),
        statistics.median(one.p99_ms for one in rounds),
        sum(one.cpu_us * one.operations for one in rounds) / max(operations, 1),
    )


if __name__ == "__main__":
    _, url, of, name, port, strategy = sys.argv
    uvloop.run(_replica(url, of, name, int(port), LEADERSHIPS[strategy]))
