"""How much private memory a server needs for ten million registers, and how long it takes to start.

    python benchmarks/memory.py [REGISTERS]

One durable server process; 100-byte values.  Memory is what belongs to the process alone (anonymous
pages): the store's own pages are the file's, and the operating system's to drop.  The start is
timed from the start of the process to its greeting, on the empty store and on the full one.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import uvloop

import wormspace
from wormspace.bench.processes import make_cluster, running

VALUE = bytes(100)
SEGMENT = 1_000_000
AT_ONCE = 2048


def anonymous_mib(pid: int) -> float:
    """The process's own memory, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the system does not say what is private")


async def fill(url: str, registers: int) -> None:
    """Write that many registers, a million to a segment."""
    async with wormspace.connect(url, timeout=60) as worm:
        space = worm.space("memory")
        for _ in range(registers // SEGMENT):
            segment = await space.alloc(size=SEGMENT)
            token = (await segment.capture()).token
            for start in range(0, SEGMENT, AT_ONCE):
                count = min(AT_ONCE, SEGMENT - start)
                await segment.write_range(start, [VALUE] * count, token)


async def greeted(url: str) -> None:
    """Wait until the server greets, and reads back a register if there is one."""
    async with wormspace.connect(url, timeout=30) as worm:
        if await worm.space("memory").tail():
            segment = await worm.space("memory").segment(0)
            if await segment.read(SEGMENT // 2) != VALUE:
                raise RuntimeError("a register is not what was written")


def main(registers: int) -> None:
    """Fill, measure, restart, measure."""
    with tempfile.TemporaryDirectory(dir=".") as d:
        base = Path(d)
        cluster = make_cluster(base, 1, 1, "os")
        for what in ("empty", "full"):
            began = time.perf_counter()
            with running(base, cluster, "wormspace.server") as (pid,):
                asyncio.run(greeted(cluster.url))
                print(f"{what}: start {time.perf_counter() - began:.2f} s", end="")
                print(f", private memory {anonymous_mib(pid):.0f} MiB")
                if what == "empty":
                    uvloop.run(fill(cluster.url, registers))
                    print(f"{registers:,} registers: {anonymous_mib(pid):.0f} MiB private")
        size = sum(f.stat().st_size for f in (base / "s1").iterdir()) / 2**20
        print(f"store: {size:,.0f} MiB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
