"""How many connections to a database there are at a time."""

from __future__ import annotations

import asyncio

from wormspace.tx.errors import ManagerDown


class Places:
    """Places for so many connections of one purpose: each is taken before its connection is.

    Args:
        name: the participant's, for messages.
    """

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._free = asyncio.Semaphore(size)

    async def take(self, deadline: float) -> None:
        """Wait for a place.

        Raises:
            ManagerDown: there was none until the deadline.
        """
        try:
            async with asyncio.timeout_at(deadline):
                await self._free.acquire()
        except TimeoutError as e:
            raise ManagerDown(
                f"{self._name}: all {self._size} connections were in use until the time was "
                "over; end transactions sooner, or give a larger pool"
            ) from e

    def release(self) -> None:
        """A place is free again."""
        self._free.release()
