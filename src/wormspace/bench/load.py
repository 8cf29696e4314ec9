"""A closed loop: a window of workers, each with one operation outstanding, for a while.

Latencies are per operation, as its caller sees them.  CPU time is summed over the load and all
servers: where everything shares one machine, that is the figure that says what an operation costs.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

import msgspec

from wormspace.bench.processes import cpu_seconds
from wormspace.runtime.tasks import Tasks


class Sample(msgspec.Struct, frozen=True):
    """What one closed loop measured.

    Attributes:
        operations: how many were completed in `seconds`.
        p50_ms, p99_ms: latency of one operation.
        cpu_us: CPU microseconds per operation, over all processes.
    """

    name: str
    window: int
    operations: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_us: float

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds


async def closed_loop(
    name: str,
    operation: Callable[[int], Awaitable[object]],
    *,
    window: int,
    seconds: float,
    warm_up_s: float,
    pids: list[int],
    numbers: itertools.count[int],
) -> Sample:
    """Run `operation(n)`, n from `numbers`, with `window` of them outstanding."""
    latencies: list[float] = []
    clock = time.perf_counter
    counting = False
    running = True

    async def worker() -> None:
        while running:
            number = next(numbers)
            began = clock()
            await operation(number)
            if counting:
                latencies.append(clock() - began)

    tasks = Tasks("load")
    workers = [tasks.begin(worker()) for _ in range(window)]
    await asyncio.sleep(warm_up_s)
    cpu_before, began = cpu_seconds(pids) + time.process_time(), clock()
    counting = True
    await asyncio.sleep(seconds)
    counting = False
    elapsed, cpu = clock() - began, cpu_seconds(pids) + time.process_time() - cpu_before
    running = False
    await asyncio.gather(*workers)
    latencies.sort()
    count = len(latencies)
    return Sample(
        name,
        window,
        count,
        elapsed,
        latencies[count // 2] * 1e3 if count else 0.0,
        latencies[min(count - 1, count * 99 // 100)] * 1e3 if count else 0.0,
        cpu / max(count, 1) * 1e6,
    )
