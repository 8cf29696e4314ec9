"""Notice a peer that takes in nothing any more, before much is kept for it.

The process at the other end was stopped, or swapped out: its system still acknowledges, so the
connection stands, and what is written to it piles up here.
"""

from __future__ import annotations

import asyncio

UNSENT_BYTES = 16 << 20
"""What may wait for a peer that takes in nothing."""

STUCK_S = 0.5
"""How long a peer may take in nothing while more than that waits for it."""


class Progress:
    """What one connection has written, and how much of it was taken."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.limit = UNSENT_BYTES
        self._transport = transport
        self._loop = loop
        self._written = 0
        self._taken = -1
        self._since = 0.0

    def write(self, data: bytes) -> bool:
        """Write; False if the peer is stuck, and the connection was aborted."""
        transport = self._transport
        transport.write(data)
        self._written += len(data)
        unsent = transport.get_write_buffer_size()
        if unsent <= self.limit:
            return True
        now, taken = self._loop.time(), self._written - unsent
        if taken != self._taken:
            self._taken, self._since = taken, now
            return True
        if now - self._since <= STUCK_S:
            return True
        transport.abort()
        return False
