"""Who should wait for the disk?  `python benchmarks/stalled_disk.py [DIRECTORY]`.

Lone small commits one after the other, on the disk as it is, on one that stalls now and then for
50 ms, and on one that is slow (5 ms) for half of each second; by the thread always, in the loop
always, and as shipped: in the loop while the last writes were fast.  What others of the event loop
wait meanwhile is told by a task that wants to run every millisecond.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from wormspace.knobs import turned
from wormspace.runtime.disk import Buffer
from wormspace.server.storage import AcceptorStore
from wormspace.store.files import SystemFiles

SECONDS = 4.0
WAYS = {
    "thread": {"store_inline_bytes": 0},
    "loop": {"store_inline_after": 0},
    "as shipped": {},
}


class SlowDisk(SystemFiles):
    """A disk whose durable writes take longer at times."""

    def __init__(self, kind: str) -> None:
        self._how = kind
        self._began = time.monotonic()
        self._stalls = 0

    def write(self, fd: int, parts: Sequence[Buffer], at: int, flags: int = 0) -> int:
        if flags:
            at_s = time.monotonic() - self._began
            if self._how == "stalls" and at_s > 0.5 * (self._stalls + 1):
                self._stalls += 1
                time.sleep(0.050)
            elif self._how == "slow" and at_s % 1 > 0.5:
                time.sleep(0.005)
        return super().write(fd, parts, at, flags)


async def lags(into: list[float]) -> None:
    """How late this task is each time."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        into.append(time.perf_counter() - before - 0.001)


async def measure(path: Path, disk: str) -> str:
    """Commit for some seconds; a line of the table."""
    engine = AcceptorStore(path, files=SlowDisk(disk))
    late: list[float] = []
    times: list[float] = []
    watching = asyncio.create_task(lags(late))
    cpu, end, n = time.process_time(), time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        batch = engine.begin()
        batch.put("rows", b"%016d" % n, bytes(110))
        began = time.perf_counter()
        await engine.commit(batch)
        times.append(time.perf_counter() - began)
        n += 1
        await asyncio.sleep(0)
    cpu = time.process_time() - cpu
    watching.cancel()
    engine.close()
    times.sort()
    late.sort()
    over = sum(1 for lag in late if lag > 0.004) / SECONDS
    return (
        f"p50 {times[n // 2] * 1e3:.3f} ms, {cpu / n * 1e6:.0f} us CPU; the loop late by p99 "
        f"{late[len(late) * 99 // 100] * 1e3:.2f} ms, by 4 ms and more {over:.1f} times a second"
    )


def main(directory: str) -> None:
    """Print a line per disk and way."""
    for disk in ("as it is", "stalls", "slow"):
        for name, knobs in WAYS.items():
            with tempfile.TemporaryDirectory(dir=directory) as base, turned(**knobs):
                print(f"{disk:9} {name:11}", asyncio.run(measure(Path(base) / "s", disk)))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".")
