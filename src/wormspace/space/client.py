"""A connection: the spaces behind it, its default deadline, its life."""

from __future__ import annotations

import asyncio
import math
import random
from types import TracebackType
from typing import Self

from wormspace.errors import UsageError
from wormspace.register.contract import Registers, ServerState
from wormspace.space.space import Space

DEFAULT_TIMEOUT_S = 5.0


class Client:
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
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._spaces: dict[str, Space] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def space(self, name: str) -> Space:
        """The space of that name; it needs no creation.

        Raises:
            BadAddress: the name is empty or longer than 255 bytes.
        """
        space = self._spaces.get(name)
        if space is None:
            space = self._spaces[name] = Space(self, name)
        return space

    async def spaces(self, *, timeout: float | None = None) -> list[str]:
        """The names of the spaces in which anything was ever captured or written, in order."""
        return await self.registers.spaces(self.deadline(timeout))

    async def servers(self, *, timeout: float | None = None) -> list[ServerState]:
        """Every server: whether it can be reached, and its figures."""
        return await self.registers.servers(self.deadline(timeout))

    async def close(self) -> None:
        """Give up what is under way (`Closed`) and disconnect; harmless the second time."""
        await self.registers.close()

    def deadline(self, timeout: float | None) -> float:
        """`timeout` seconds from now (default: the client's), on the running loop's clock.

        Raises:
            UsageError: it is no positive, finite number.
        """
        if timeout is None:
            timeout = self._timeout
        elif isinstance(timeout, bool) or not isinstance(timeout, int | float):
            kind = type(timeout).__name__
            raise UsageError(f"a timeout is a positive number of seconds, not {kind}")
        elif not 0 < timeout < math.inf:
            raise UsageError(f"a timeout is a positive number of seconds, not {timeout}")
        return self._loop.time() + timeout

    def nonce(self) -> bytes:
        """Sixteen bytes that nobody else has."""
        return self.rng.getrandbits(128).to_bytes(16, "big")
