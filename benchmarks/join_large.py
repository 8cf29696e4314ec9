"""How long event loops are held up while a replica joins an object with much plain state.

    python benchmarks/join_large.py --megabytes 1000

One process has the object and the replica that joins, so each pause is charged to both.  A pause is
how late a task is that wants to run every millisecond, and the CPU time that passed meanwhile: on a
machine that does other things, too, only the second one is the program's own.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable

import wormspace
from wormspace.smr import (
    Replica,
    StateMachine,
    Sticky,
    TrimWhenApplied,
    Tuning,
    command,
    query,
)

ROW_BYTES = 1000


class Plain(StateMachine):
    """Plain attributes only: a dictionary that is as large as it likes."""

    rows: dict[str, bytes] = {}  # noqa: RUF012

    @command
    def put(self, key: str, value: bytes) -> None:
        """Set a row."""
        self.rows[key] = value

    @query
    def size(self) -> int:
        """How many rows there are."""
        return len(self.rows)


class Pauses:
    """How late the loop was."""

    def __init__(self) -> None:
        self.late_ms: list[float] = []
        self.busy_ms: list[float] = []

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            at, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.001)
            self.late_ms.append((time.perf_counter() - at) * 1000 - 1)
            self.busy_ms.append((time.thread_time() - cpu) * 1000)

    def report(self) -> str:
        """Median, p99 and the longest."""
        lines = []
        for name, found in (("late", self.late_ms), ("busy", self.busy_ms)):
            found.sort()
            at = [found[len(found) // 2], found[len(found) * 99 // 100], found[-1]]
            lines.append(name + " " + " / ".join(f"{one:.1f}" for one in at) + " ms")
        return ", ".join(lines)


async def run(megabytes: int) -> None:
    """One join, while commands go on."""
    wormspace.collect_seldom()

    def joined(worm: wormspace.Worm) -> Awaitable[Replica[Plain]]:
        return worm.replicate(
            Plain,
            "plain",
            durability=TrimWhenApplied(1, every_s=0.05),
            tuning=Tuning(segment_size=64, audit_s=0),
            leadership=Sticky(5.0),
            timeout=600.0,
        )

    async with (
        wormspace.connect("memory:") as worm,
        await joined(worm) as first,
    ):
        for n in range(200):
            await first.put(str(n), b"")
        plain = first._core.learner.engine.machine
        assert isinstance(plain, Plain)
        rows = plain.rows
        for n in range(megabytes * 1_000_000 // ROW_BYTES):
            rows[f"{n:09}"] = n.to_bytes(ROW_BYTES, "big")
        pauses, done = Pauses(), 0

        async def load() -> None:
            nonlocal done
            while True:
                await first.put(f"{done * 7919 % len(rows):09}", b"changed")
                done += 1
                await asyncio.sleep(0.001)

        tasks = [asyncio.ensure_future(pauses.watch()), asyncio.ensure_future(load())]
        began, cpu = time.perf_counter(), time.process_time()
        async with await joined(worm) as second:
            assert await second.size() >= megabytes * 1_000_000 // ROW_BYTES
            took, cpu = time.perf_counter() - began, time.process_time() - cpu
            for task in tasks:
                task.cancel()
            print(f"{megabytes} MB joined in {took:.1f} s ({cpu:.1f} s of CPU), {done} commands;")
            print(f"event loop, median / p99 / longest: {pauses.report()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    asyncio.run(run(parser.parse_args().megabytes))
