"""Limits of the calls under way: each ends with its time, or with its log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from wormspace.errors import WormError


class Limits:
    """Of the calls under way on one log."""

    def __init__(self) -> None:
        # In the order of the calls, so that they end in that order, too.
        self._limits: dict[asyncio.Timeout, None] = {}

    @asynccontextmanager
    async def until(self, deadline: float, error: Callable[[], WormError]) -> AsyncIterator[None]:
        """Limit what is done here; when it is over, or `end` is called, this raises `error`."""
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                self._limits[limit] = None
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise error() from None
        finally:
            self._limits.pop(limit, None)

    def end(self) -> None:
        """End all that are under way."""
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(now)
