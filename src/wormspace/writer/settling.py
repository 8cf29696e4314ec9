"""Deciding many registers at once, whoever was about to write them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wormspace.errors import RaceLost
from wormspace.runtime.deadlines import left
from wormspace.runtime.retrying import Race
from wormspace.space import Segment


async def settle_range(
    segment: Segment,
    start: int,
    stop: int,
    otherwise: Callable[[int], bytes],
    timeout: float | None = None,
) -> None:
    """Decide registers [start, stop), each as `Segment.settle` does.

    Args:
        otherwise: what to write into the register of an offset, if nothing is in it.

    Raises:
        Trimmed.
        Unavailable: not in time; some registers may have been decided all the same.
    """
    client = segment.space.client
    deadline = client.deadline(timeout)
    race = Race(client.rng, f"settling {segment.space.name}/{segment.number}", deadline)
    while True:
        token = (await segment.capture(start, stop, timeout=left(deadline))).token
        writes = (
            segment.write(offset, otherwise(offset), token, timeout=left(deadline))
            for offset in token.free()
        )
        results = await asyncio.gather(*writes, return_exceptions=True)
        failures = [result for result in results if result is not None]
        if not failures:
            return
        for failure in failures:
            if not isinstance(failure, RaceLost):
                raise failure
        await race.pause()  # for another who settles, or whoever was about to write
