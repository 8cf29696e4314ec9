"""How long to wait before a capture while others capture the same registers."""

from __future__ import annotations

import asyncio
import random

from wormspace.runtime.retrying import PAUSE_S

CONTENDED_S = 1.0
"""How long after the last lost race that is believed of the next captures."""


class Contention:
    """What this client knows of others that capture what it captures: it waits, they go first."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._pause_s = 0.0
        self._contended_until = 0.0

    async def pause(self, attempt: int, deadline: float) -> None:
        """Wait before a capture's attempt (from 0), if races were lost lately."""
        # The first ballot of a client is often too low, and the second tells of no contention.
        now = self._loop.time()
        if attempt != 1 and now < self._contended_until:
            pause = self._rng.uniform(0, self._pause_s)
            await asyncio.sleep(min(pause, deadline - now))

    def on_won(self) -> None:
        """A capture was granted."""
        self._pause_s /= 2

    def on_lost(self, attempt: int) -> None:
        """Somebody captured the same with a higher ballot."""
        if attempt:
            self._pause_s = min(PAUSE_S[1], max(PAUSE_S[0], 2 * self._pause_s))
            self._contended_until = self._loop.time() + CONTENDED_S
