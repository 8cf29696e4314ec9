"""Pauses between the attempts of one call that others keep from getting through."""

from __future__ import annotations

import asyncio
import random

from wormspace.errors import Unavailable

PAUSE_MIN_S = 0.002
PAUSE_MAX_S = 0.1
"""How long a random pause after a lost race is, at first and at most."""


class Race:
    """One call's lost races: each pause may be twice as long, and none outlasts the deadline."""

    def __init__(self, rng: random.Random, what: str, deadline: float) -> None:
        self._rng = rng
        self._what = what
        self._deadline = deadline
        self._longest_s = PAUSE_MIN_S
        self._lost = 0

    async def pause(self) -> None:
        """A race was lost: wait before the next attempt.

        Raises:
            Unavailable: there is no time for another.
        """
        self._lost += 1
        left = self._deadline - asyncio.get_running_loop().time()
        if left <= 0:
            raise Unavailable.contended(self._what, self._lost)
        await asyncio.sleep(min(self._rng.uniform(0, self._longest_s), left))
        self._longest_s = min(PAUSE_MAX_S, 2 * self._longest_s)
