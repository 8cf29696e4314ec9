"""Hashes of the whole state, compared between replicas at agreed positions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wormspace.knobs import KNOBS
from wormspace.smr.records import Mark
from wormspace.smr.snapshots import Audit
from wormspace.space import Address


class Audits:
    """This replica's audits, and what proposers claim theirs came to.

    Args:
        on_differing: called with a position at which this replica's state is another one.
    """

    def __init__(self, on_differing: Callable[[Address], None]) -> None:
        self._on_differing = on_differing
        self._own: dict[Address, bytes] = {}
        self._claimed: dict[Address, bytes] = {}

    async def take(self, audit: Audit) -> Mark:
        """Hash a state piece by piece, while others run; its digest is compared, and returned."""
        try:
            for _ in audit.steps():
                await asyncio.sleep(0)
            mark = Mark(audit.position, audit.digest())
        finally:
            audit.close()
        self._own[mark.position] = mark.digest
        self._compare(mark.position)
        return mark

    def claim(self, mark: Mark) -> None:
        """A proposer says what its audit came to."""
        self._claimed[mark.position] = mark.digest
        self._compare(mark.position)

    def _compare(self, position: Address) -> None:
        if position in self._own and position in self._claimed:
            own, claimed = self._own.pop(position), self._claimed.pop(position)
            if own != claimed:
                self._on_differing(position)
        for held in (self._own, self._claimed):
            while len(held) > KNOBS.smr_audits_kept:
                del held[next(iter(held))]
