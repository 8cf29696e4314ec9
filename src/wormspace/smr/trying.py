"""One call that is tried, here and there, until it is done or its time is over."""

from __future__ import annotations

import asyncio
import random

from wormspace.smr.errors import NoLeader

ATTEMPT_S = 1.0
"""So long one replica is waited for before another one is asked."""

PAUSE_MIN_S = 0.005
PAUSE_MAX_S = 0.1


class Trying:
    """The time of one call, its pauses, and what went wrong last.

    Args:
        what: the object that is called, for the error's text.
        deadline: of the loop's clock.
    """

    def __init__(self, what: str, deadline: float, rng: random.Random) -> None:
        self._what = what
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._deadline = deadline
        self._pause = PAUSE_MIN_S
        self._asked = ""
        self._trouble = "nobody was asked in time"

    def remaining(self) -> float:
        """Seconds left, more than none.

        Raises:
            NoLeader: none; it says who was asked last, and what came of it.
        """
        left = self._deadline - self._loop.time()
        if left > 0:
            return left
        who = f"{self._asked}: " if self._asked else ""
        raise NoLeader(
            f"{self._what}: no answer in time ({who}{self._trouble}); whether it was done is "
            "unknown"
        )

    def attempt_s(self) -> float:
        """How long the next attempt may take."""
        return min(self.remaining(), ATTEMPT_S)

    def failed(self, asked: object, trouble: object) -> None:
        """Somebody was asked, and this came of it."""
        self._asked, self._trouble = str(asked), str(trouble) or type(trouble).__name__

    async def pause(self) -> None:
        """Before the next attempt; longer each time."""
        left = max(0.0, self._deadline - self._loop.time())
        await asyncio.sleep(min(self._pause * self._rng.uniform(0.5, 1), left))
        self._pause = min(self._pause * 2, PAUSE_MAX_S)
