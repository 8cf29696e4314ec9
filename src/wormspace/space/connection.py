"""What spaces, segments and listeners need of the connection that they belong to."""

from __future__ import annotations

from random import Random
from typing import Protocol

from wormspace.registers.interface import Registers


class Connection(Protocol):
    """An open connection; `wormspace.connect` makes it."""

    registers: Registers
    rng: Random

    def deadline(self, timeout: float | None) -> float:
        """`timeout` seconds from now (default: the connection's), on the loop's clock."""

    def nonce(self) -> bytes:
        """Sixteen bytes that nobody else has."""
