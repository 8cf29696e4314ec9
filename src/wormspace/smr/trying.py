"""One call that is tried, here and there, until it is done or its time is over."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from wormspace.errors import Trimmed, UsageError, WormError
from wormspace.malformed import MALFORMED
from wormspace.runtime.retrying import Backoff
from wormspace.smr.errors import NoLeader
from wormspace.smr.records import Reply
from wormspace.smr.submit import PacketTooLarge

ATTEMPT_S = 1.0
"""So long one replica is waited for before another one is asked."""

ASK_PAUSE_S = (0.005, 0.1)

A = TypeVar("A")


async def until_done(
    what: str,
    deadline: float,
    rng: random.Random,
    choose: Callable[[], A],
    attempt: Callable[[A, float], Awaitable[Reply]],
) -> Reply:
    """Ask one replica after the other for something, until it is done.

    Args:
        what: the object that is called, for the error's text.
        choose: who is asked next; it raises what makes more attempts pointless.
        attempt: asks that one, and waits for so many seconds.

    Raises:
        NoLeader: there is no time left; it says who was asked last, and what came of it.
        PacketTooLarge: nothing was done.
        Trimmed, UsageError: trying again does not help.
    """
    backoff = Backoff(rng, ASK_PAUSE_S, least=0.5, deadline=deadline)
    trouble = "nobody was asked in time"
    while True:
        asked = choose()
        left = backoff.left()
        if left <= 0:
            raise NoLeader(f"{what}: no answer in time ({trouble}); whether it was done is unknown")
        try:
            reply = await attempt(asked, min(left, ATTEMPT_S))
        except (Trimmed, UsageError):
            raise
        except (WormError, TimeoutError, *MALFORMED) as e:
            trouble = f"{asked}: {str(e) or type(e).__name__}"
        else:
            if reply.body is not None:
                return reply
            if reply.too_large:
                raise PacketTooLarge(reply.largest)
            trouble = f"{asked}: it does not lead"
        await backoff.pause()
