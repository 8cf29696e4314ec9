"""Who waits for the disk: the event loop itself, or a thread.

A thread costs two hand-overs of the interpreter per commit: a third of a lone commit's time, and
nearly half of its CPU (docs/performance.md).  In the loop, a disk that stalls stops reads as well.
So a small record is written in the loop while the last writes were all fast, and one that is slow
sends those that follow to the thread, until enough of them in a row were fast again: a stall is met
in the loop once.
"""

from __future__ import annotations

from collections.abc import Callable

from wormspace.knobs import KNOBS
from wormspace.store.files import Files

FAST_S = 0.001


class Pace:
    """How fast the last writes were.

    Attributes:
        slow: how many were not fast.
    """

    def __init__(self, files: Files) -> None:
        self._now = files.now
        self._in_a_row = 0
        self.slow = 0

    def allows(self, size: int) -> bool:
        """Whether a record of that size may be written in the loop."""
        return size <= KNOBS.store_inline_bytes and self._in_a_row >= KNOBS.store_inline_after

    def timed(self, write: Callable[[], None]) -> Callable[[], None]:
        """`write`, timed."""

        def work() -> None:
            began = self._now()
            write()
            if self._now() - began <= FAST_S:
                self._in_a_row += 1
            else:
                self._in_a_row = 0
                self.slow += 1

        return work
