"""What was written under a ballot, so that no second value ever is.

The rule "one value per ballot and register" is kept by three: an acceptor refuses a second value,
but only if it has seen the first; a token names what was written before it; and this is the
third, the client's memory of what it issued itself, for as long as it holds the token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from wormspace.addresses import Span
from wormspace.registers.spans import OffsetSet


class Issued:
    """What this client has written under one ballot in one segment.

    `open` are the writes that somebody waits for, with their values, and `doubt` those whose
    outcome is not known, with digests: only those very values may be sent again.  `decided` are the
    registers known to be decided: nothing more is sent.
    """

    __slots__ = ("decided", "doubt", "open")

    def __init__(self) -> None:
        self.open: dict[int, bytes] = {}
        self.doubt: dict[int, bytes] = {}
        self.decided = OffsetSet()

    def issue(self, offset: int, value: bytes) -> bool:
        """The value is about to be sent; false if another one was."""
        known = self.open.get(offset)
        if known is not None:
            return known == value
        if self.doubt:
            digest = self.doubt.get(offset)
            if digest is not None and digest != _digest(value):
                return False
            self.doubt.pop(offset, None)
        self.open[offset] = value
        return True

    def give_up(self, offset: int) -> None:
        """Nobody waits any more; the value may have been accepted somewhere."""
        value = self.open.pop(offset, None)
        if value is not None:
            self.doubt[offset] = _digest(value)

    def decide(self, spans: Iterable[Span]) -> None:
        """The registers are decided, with the values that were issued."""
        for lo, hi in spans:
            self.decided.add_span(lo, hi)
            for offset in range(lo, hi):
                self.open.pop(offset, None)


def _digest(value: bytes) -> bytes:
    """What is kept of a value that may be large."""
    return hashlib.blake2b(value, digest_size=16).digest()
