"""Atomic commit beside what it is made of, in one run.

* the built-in store: transactions over two stores in this process (E3), beside single-register
  writes to the same three servers and one disk sync;
* two PostgreSQL databases: transactions beside bare two-phase commit, which is the same prepares
  and commits with nothing durable in between, and so cannot be recovered by anybody else.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import uvloop

import wormspace
from wormspace.bench.load import Sample, closed_loop
from wormspace.bench.processes import make_cluster, running
from wormspace.bench.registers import sync_ms
from wormspace.runtime.collector import collect_seldom
from wormspace.server.config import ClusterConfig
from wormspace.tx import Gid, KeyValueStore, LmdbStore, ResourceManager, Transaction, TxId
from wormspace.worm import Worm

SEGMENT_SIZE = 1 << 24
KEYS = 1 << 20
IDENTITY = "be9cbe9cbe9cbe9c"
"""Of bare branches, which no transaction space owns."""


class Options(msgspec.Struct, frozen=True):
    """What to measure.

    Attributes:
        windows: transactions outstanding, one closed loop each.
        seconds: how long each loop counts, after a warm-up of a quarter of it.
        postgres: connection strings of two databases, for the second comparison.
    """

    windows: tuple[int, ...] = (1, 32, 256)
    seconds: float = 3.0
    value_size: int = 100
    durability: str = "sync"
    postgres: tuple[str, ...] = ()


class Result(msgspec.Struct, frozen=True):
    """What a run measured."""

    options: Options
    sync_ms: float
    samples: list[Sample]

    def find(self, name: str, window: int) -> Sample | None:
        """A loop's sample, if it was run."""
        return next((s for s in self.samples if (s.name, s.window) == (name, window)), None)


def run(options: Options, progress: Callable[[str], None]) -> Result:
    """Start the servers, run the loops, stop them.  `progress` is told before each loop.

    Raises:
        ServersFailed: a server ended by itself.
    """
    with tempfile.TemporaryDirectory(prefix="wormspace-bench-", dir=".") as d:
        base = Path(d)
        cluster = make_cluster(base, 3, 1, options.durability)
        one_sync = sync_ms(base / "sync", options.value_size)
        with running(base, cluster, "wormspace.server") as pids:
            return uvloop.run(_Run(options, base, cluster, pids, progress).all(one_sync))


class _Run:
    def __init__(
        self,
        options: Options,
        base: Path,
        cluster: ClusterConfig,
        pids: list[int],
        progress: Callable[[str], None],
    ) -> None:
        self._options = options
        self._base = base
        self._cluster = cluster
        self._pids = pids
        self._progress = progress
        self._value = bytes(options.value_size)
        self._samples: list[Sample] = []

    async def all(self, one_sync: float) -> Result:
        async with wormspace.connect(self._cluster.url, timeout=30) as worm:
            stores = [
                await KeyValueStore.open(name, LmdbStore(self._base / name)) for name in ("a", "b")
            ]
            collect_seldom()
            for window in self._options.windows:
                await self._writes(worm, window)
                await self._store(worm, stores, window)
            if self._options.postgres:
                await self._postgres(worm)
            await worm.site().close()
            for store in stores:
                await store.close()
        return Result(self._options, one_sync, self._samples)

    async def _writes(self, worm: wormspace.Worm, window: int) -> None:
        segment = await worm.space(f"bench-{window}").alloc(size=SEGMENT_SIZE)
        token = (await segment.capture()).token
        await self._loop("write", lambda n: segment.write(n, self._value, token), window)

    async def _store(self, worm: Worm, stores: list[KeyValueStore], window: int) -> None:
        a, b = stores

        async def transaction(n: int) -> None:
            key = b"%d" % (n % KEYS)
            async with worm.transaction(stores) as tx:
                await tx[a].put(key, self._value)
                await tx[b].put(key, self._value)

        await self._loop("transaction", transaction, window)

    async def _postgres(self, worm: Worm) -> None:
        from wormspace.tx.postgres import Postgres

        pool = max(self._options.windows) + 4
        managers = [
            Postgres(f"pg{i}", url, pool=pool) for i, url in enumerate(self._options.postgres)
        ]
        for manager in managers:
            gid = Gid(IDENTITY, "bench", manager.name, TxId("setup", 0))
            branch = await manager.begin(gid)
            await branch.session.execute("DROP TABLE IF EXISTS wormspace_bench")
            await branch.session.execute("CREATE TABLE wormspace_bench (n bigint, v bytea)")
            await branch.prepare()
            await manager.commit(gid)
        for window in self._options.windows:
            await self._loop("bare 2PC", self._bare(managers, window), window)
            await self._loop("PostgreSQL transaction", self._over(worm, managers), window)
        for manager in managers:
            await manager.close()

    def _bare(
        self, managers: Sequence[ResourceManager], window: int
    ) -> Callable[[int], Awaitable[object]]:
        """Prepare both, then commit both."""

        async def transaction(n: int) -> None:
            gids = [
                Gid(IDENTITY, "bench", m.name, TxId(f"bare.{os.getpid()}.{window}", n))
                for m in managers
            ]
            branches = [await m.begin(g) for m, g in zip(managers, gids, strict=True)]
            for branch in branches:
                await self._insert(branch.session, n)
            await asyncio.gather(*(branch.prepare() for branch in branches))
            await asyncio.gather(*(m.commit(g) for m, g in zip(managers, gids, strict=True)))

        return transaction

    def _over(
        self, worm: Worm, managers: Sequence[ResourceManager]
    ) -> Callable[[int], Awaitable[object]]:
        async def transaction(n: int) -> None:
            tx: Transaction
            async with worm.transaction(managers) as tx:
                for manager in managers:
                    await self._insert(tx[manager], n)

        return transaction

    async def _insert(self, session: object, n: int) -> None:
        execute = session.execute  # type: ignore[attr-defined]
        await execute("INSERT INTO wormspace_bench VALUES (%s, %s)", (n, self._value))

    async def _loop(
        self, name: str, operation: Callable[[int], Awaitable[object]], window: int
    ) -> None:
        self._progress(f"{name}, window {window}")
        sample = await closed_loop(
            name,
            operation,
            window=window,
            seconds=self._options.seconds,
            warm_up_s=self._options.seconds / 4,
            pids=self._pids,
            numbers=itertools.count(),
        )
        self._samples.append(sample)
