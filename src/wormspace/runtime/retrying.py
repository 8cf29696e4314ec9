"""Trying again: how long to wait before it, and until when."""

from __future__ import annotations

import asyncio
import math
import random

from wormspace.errors import Unavailable

RETRY_S = 0.05
"""How long until a call that somebody waits for is made again, when nobody could answer it."""

FOLLOW_RETRY_S = 0.1
"""How long until whoever follows something asks again, when nobody could answer."""

PAUSE_S = (0.002, 0.1)
"""How long a pause may be: the first one, and any."""


class Backoff:
    """The random pauses between attempts at one thing, so that rivals do not come back together.

    Args:
        longest: how many seconds a pause may take: the first one, and any; each doubles it.
        least: the part of that which a pause takes in any case.
        deadline: of the loop's clock; no pause outlasts it.

    Attributes:
        next_s: how long the next pause may be.
    """

    def __init__(
        self,
        rng: random.Random,
        longest: tuple[float, float] = PAUSE_S,
        *,
        least: float = 0.0,
        deadline: float = math.inf,
    ) -> None:
        self._rng, self._least, self._deadline = rng, least, deadline
        self.next_s, self._longest_s = longest

    def left(self) -> float:
        """Seconds until the deadline; below zero after it."""
        return self._deadline - asyncio.get_running_loop().time()

    async def pause(self) -> None:
        """Wait before the next attempt."""
        pause = self._rng.uniform(self._least * self.next_s, self.next_s)
        self.next_s = min(self._longest_s, 2 * self.next_s)
        await asyncio.sleep(min(pause, max(0.0, self.left())))


class Race(Backoff):
    """The pauses of a call, `what`, that others keep from getting through."""

    def __init__(self, rng: random.Random, what: str, deadline: float) -> None:
        super().__init__(rng, deadline=deadline)
        self._what, self._lost = what, 0

    async def pause(self) -> None:
        """A race was lost: wait before the next attempt.

        Raises:
            Unavailable: there is no time for another.
        """
        self._lost += 1
        if self.left() <= 0:
            raise Unavailable.contended(self._what, self._lost)
        await super().pause()
