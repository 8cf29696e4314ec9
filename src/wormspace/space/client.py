"""A connection: the spaces behind it, its default deadline, its life."""

from __future__ import annotations

import random
from asyncio import get_running_loop

from wormspace.knobs import KNOBS
from wormspace.registers.interface import Registers, ServerState
from wormspace.runtime.batching import require_loop
from wormspace.runtime.closing import Closing
from wormspace.space.arguments import as_name, as_timeout
from wormspace.space.space import Space

DEFAULT_TIMEOUT_S = 5.0


class Client(Closing):
    """A connection to an address space; get it from `wormspace.connect`.

    Attributes:
        registers: the register implementation behind it.
        rng: where nonces and pauses come from.
    """

    def __init__(
        self, registers: Registers, rng: random.Random, timeout: float = DEFAULT_TIMEOUT_S
    ) -> None:
        self.registers = registers
        self.rng = rng
        self._timeout = as_timeout(timeout)
        self._loop = get_running_loop()
        self._spaces: dict[str, Space] = {}
        self._closed = False

    def space(self, name: str) -> Space:
        """The space of that name; it needs no creation.

        Raises:
            BadAddress: the name is empty, longer than 255 bytes, or no valid Unicode.
        """
        space = self._spaces.get(name) if isinstance(name, str) else None
        if space is None:
            space = Space(self, as_name(name))
            self._spaces[space.name] = space
            while len(self._spaces) > KNOBS.space_handles_kept:
                del self._spaces[next(iter(self._spaces))]
        return space

    async def spaces(self, *, timeout: float | None = None) -> list[str]:
        """The names of the spaces in which anything was ever captured or written, in order."""
        return await self.registers.spaces(self.deadline(timeout))

    async def servers(self, *, timeout: float | None = None) -> list[ServerState]:
        """Every server: whether it can be reached, and its metrics."""
        return await self.registers.servers(self.deadline(timeout))

    async def close(self) -> None:
        """Give up what is under way (`Closed`) and disconnect; harmless the second time."""
        self._closed = True
        await self.registers.close()

    def deadline(self, timeout: float | None) -> float:
        """`timeout` seconds from now (default: the client's), on the running loop's clock.

        Raises:
            UsageError: it is no positive number, or the caller runs on another event loop.
        """
        require_loop(self._loop)
        return self._loop.time() + (self._timeout if timeout is None else as_timeout(timeout))

    def nonce(self) -> bytes:
        """Sixteen bytes that nobody else has."""
        return self.rng.getrandbits(128).to_bytes(16, "big")
